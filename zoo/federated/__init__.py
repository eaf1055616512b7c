"""Federated learning: a paper says what a client does and what the server makes of it, in plain torch.

``client(network, data, rng, context) -> Update`` and ``aggregate(updates, state) -> State`` are all there is to write;
``federate`` runs them on one of three engines: ``local`` (one process, sequential and deterministic), ``simulation``
(Flower's, on Ray) and ``deployment`` (a SuperLink and one SuperNode per client). Nothing here imports torch or Flower
until it's used, and nothing outside this package imports Flower.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Best": "exchange",
    "Context": "exchange",
    "State": "exchange",
    "Update": "exchange",
    "average": "exchange",
    "weighted_mean": "exchange",
    "Federation": "federation",
    "Outcome": "federation",
    "check": "federation",
    "construct": "federation",
    "federate": "engines",
    "History": "history",
    "HistoryPolicy": "history",
    "Request": "retraining",
    "Settings": "unlearning",
    "Link": "link",
    "Aggregation": "rules",
    "arrived": "link",
    "lossy": "link",
    "by_attribute": "partition",
    "by_file": "partition",
    "dirichlet": "partition",
    "divided": "partition",
    "drawn": "partition",
    "favoured": "partition",
    "iid": "partition",
    "labels_of": "partition",
    "split_figure": "partition",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
