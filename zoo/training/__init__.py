"""Training: a plugin's recipe, the run around its procedure, and ``train`` that brings both together."""

from __future__ import annotations

from zoo.data.splits import TrainData
from zoo.training.recipe import Training, train
from zoo.training.run import Run
from zoo.training.stopping import EarlyStopping

__all__ = ["EarlyStopping", "Run", "TrainData", "Training", "train"]
