"""Data sets: what a specification names, split by patient and checked before training."""

from __future__ import annotations

from zoo.data.case import Case
from zoo.data.sets import Dataset, load_dataset

__all__ = ["Case", "Dataset", "load_dataset"]
