"""The clients' images in memory, who draws which of them, and how a global model is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.data.images import ImageSet, label_index, label_vector, read_views
from zoo.data.sets import Dataset
from zoo.data.splits import TrainData
from zoo.errors import DataError
from zoo.federated import dirichlet, drawn, iid
from zoo.metrics import classification_scores, label_auroc
from zoo.models.disbelieve import plugin
from zoo.models.disbelieve.attacks import Data, Targets
from zoo.models.disbelieve.model import DisbelieveConfig, to_network, view

CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NOTHING = ("none", "No Finding")  # what a case without any of several labels may be called
RENAME = "name the labels with --set network.labels=..."

_loaded: dict[Any, ImageSet] = {}  # the latest two parts of a data set: many federations of one audit read them


def load_images(dataset: Dataset, config: DisbelieveConfig) -> ImageSet:
    """Read and scale all cases. Raises ``DataError`` for a label that the configuration doesn't name."""
    key = (dataset.spec, tuple(dataset.ids), config.labels, config.image_size, config.channels, config.multi_label)
    if key not in _loaded:
        read: Any = partial(label_vector, nothing=NOTHING) if config.multi_label else label_index
        cases = list(dataset)
        targets = [read(case.label, config.labels, f"case {case.id}", RENAME) for case in cases]
        what = f"{config.image_size} {config.channels}"
        views = read_views(cases, lambda picture: view(picture, config), plugin.name, what)
        while len(_loaded) > 1:
            _loaded.pop(next(iter(_loaded)))
        empty = (config.channels, config.image_size, config.image_size)
        _loaded[key] = ImageSet.of(views, targets, empty=empty, channels_last=True)
    return _loaded[key]


def of_client(images: ImageSet, rows: Sequence[int] | np.ndarray, config: DisbelieveConfig) -> Data:
    """Some images as the network takes them, and their targets."""
    x, y = images.batch(rows)
    return to_network(x, config), y


def divide(
    classes: Int[np.ndarray, " n"], clients: int, alpha: float | None, samples: int | None, seed: int
) -> list[Int[np.ndarray, " m"]]:
    """Each client's training cases. Raises ``DataError`` when a client would have none."""
    if samples is not None:
        return drawn(classes, clients, samples, alpha, seed)
    if len(classes) < clients:
        raise DataError(
            f"{len(classes)} training cases can't be divided among {clients} clients, some would hold none; "
            "use fewer clients, or let them draw with replacement with --set samples=..."
        )
    return iid(len(classes), clients, seed) if alpha is None else dirichlet(classes, clients, alpha, seed)


def measured(config: DisbelieveConfig, images: ImageSet) -> DisbelieveConfig:
    """The configuration with mean and standard deviation of the training images, where it states none."""
    if config.mean:
        return config
    if not len(images):
        raise DataError("the training set is empty")
    mean, std = images.statistics()
    return replace(config, mean=tuple(round(v, 4) for v in mean), std=tuple(round(max(v, 1e-3), 4) for v in std))


def watched(data: TrainData, images: ImageSet, config: DisbelieveConfig) -> Data:
    """The cases on which every round's global model is measured: the validation part, if it can tell classes apart."""
    for part in (load_images(data.validation, config), images):
        if len(part) and bool((part.y.amin(0) < part.y.amax(0)).any()):
            return of_client(part, np.arange(len(part)), config)
    raise DataError("all training cases have one label, so no AUC can be measured; at least two are needed")


class Measured(NamedTuple):
    """What a global model is worth: AUC is macro, one class against the rest."""

    auc: float
    accuracy: float
    hard_auc: float  # of the called class alone, as in the released code: that of a model of one answer is 0.5
    diverged: bool = False  # whether any number isn't finite


@torch.no_grad()
def measure(network: nn.Module, x: Float[Tensor, "n ..."], y: Targets) -> Measured:
    """Where any logit isn't finite the model counts as chance. Raises ``DataError`` when the cases are of one class."""
    network.eval()
    logits = torch.cat([network(part) for part in x.split(256)]).double().cpu()
    if not torch.isfinite(logits).all():
        return Measured(0.5, 0.5 if y.is_floating_point() else 1 / logits.shape[1], 0.5, True)
    if y.is_floating_point():
        truth, called = y.cpu() > 0.5, logits > 0
        auc, of_called = (label_auroc(score.double().numpy(), truth.int().numpy()) for score in (logits, called))
        return Measured(auc, float((called == truth).double().mean()), of_called)
    scores = classification_scores(logits.softmax(1).numpy(), y.cpu().numpy())
    if math.isnan(scores["auroc"]):
        raise DataError("the cases to measure AUC on are all of one class; at least two are needed")
    hard = classification_scores(F.one_hot(logits.argmax(1), logits.shape[1]).double().numpy(), y.cpu().numpy())
    return Measured(scores["auroc"], scores["accuracy"], hard["auroc"])
