"""Federated learning on Flower: a paper brings a ``Strategy`` and a ``ClientApp``, this package runs them.

``federate`` runs the same two apps on one of three engines: ``local`` (one process, sequential and deterministic),
``simulation`` (Flower's, on Ray) and ``deployment`` (a SuperLink and one SuperNode per client). Nothing here imports
Flower until it's used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Federation": "federation",
    "Outcome": "federation",
    "LocalGrid": "grid",
    "federate": "engines",
    "client_id": "client",
    "client_of": "client",
    "client_device": "client",
    "client_generator": "client",
    "reply": "client",
    "server_round": "client",
    "History": "history",
    "HistoryPolicy": "history",
    "aggregator": "aggregators",
    "require_tolerated": "aggregators",
    "tolerated": "aggregators",
    "by_attribute": "partition",
    "by_file": "partition",
    "dirichlet": "partition",
    "iid": "partition",
    "labels_of": "partition",
    "split_figure": "partition",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
