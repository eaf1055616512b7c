"""Data sets: what a specification names, split by patient and checked before training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.data.case import Case

if TYPE_CHECKING:
    from zoo.data.sets import Dataset, load_dataset

__all__ = ["Case", "Dataset", "load_dataset"]


def __getattr__(name: str) -> Any:
    """``Dataset`` and ``load_dataset`` when they are asked for: what reads images is no part of listing names."""
    if name in ("Dataset", "load_dataset"):
        from zoo.data import sets

        return getattr(sets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
