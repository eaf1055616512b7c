"""The clients' images in memory, who draws which of them, and how a global model is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo import media
from zoo.data.case import Case
from zoo.data.sets import Dataset
from zoo.data.splits import TrainData
from zoo.errors import DataError
from zoo.federated import dirichlet, iid
from zoo.metrics import classification_scores
from zoo.models.disbelieve import plugin
from zoo.models.disbelieve.attacks import Data, Targets
from zoo.models.disbelieve.model import DisbelieveConfig, normalise, prepare
from zoo.seeds import derive_seed

CHEXPERT_LABELS = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Images:
    """Labelled images as the network takes them, before normalisation."""

    views: Tensor  # uint8 [n s s c]
    y: Tensor  # int64 [n], or float32 [n c] where a case may have several labels

    def data(self, rows: Sequence[int] | np.ndarray, config: DisbelieveConfig) -> Data:
        place = torch.as_tensor(np.asarray(rows), dtype=torch.int64)
        return normalise(self.views[place], config), self.y[place]

    @property
    def classes(self) -> Int[np.ndarray, " n"]:
        """One number for each case to divide by: the class, or the first label that it has."""
        return (self.y.argmax(1) if self.y.is_floating_point() else self.y).numpy()


_loaded: dict[Any, Images] = {}  # the latest two parts of a data set: many federations of one audit read them


def load_images(dataset: Dataset, config: DisbelieveConfig) -> Images:
    """Read and scale all cases. Raises ``DataError`` for a label that the configuration doesn't name."""
    key = (dataset.spec, tuple(dataset.ids), config.labels, config.image_size, config.channels, config.multi_label)
    if key not in _loaded:
        views, targets = [], []
        for case in dataset:
            views.append(prepare(media.read(case.image).require_2d(plugin.name), config))
            targets.append(target_of(case, config))
        size = (0, config.image_size, config.image_size, config.channels)
        stacked = torch.from_numpy(np.stack(views)) if views else torch.zeros(size, dtype=torch.uint8)
        y = torch.tensor(targets, dtype=torch.float32 if config.multi_label else torch.int64)
        while len(_loaded) > 1:
            _loaded.pop(next(iter(_loaded)))
        _loaded[key] = Images(stacked, y)
    return _loaded[key]


def target_of(case: Case, config: DisbelieveConfig) -> int | list[float]:
    """The place of a case's label among those of the network; with several labels, 0 or 1 for each.

    Several are joined by ``|``, and an empty text means none of them. Raises ``DataError`` for an unknown one.
    """
    labels = list(config.labels)
    text = "" if case.label is None else str(case.label)
    names = [name.strip() for name in text.split("|") if name.strip()] if config.multi_label else [text]
    if not config.multi_label and text.isdigit() and text not in labels and int(text) < len(labels):
        return int(text)
    if case.label is None or any(name not in labels for name in names if name not in NOTHING):
        raise DataError(
            f"case {case.id} has the label {case.label!r}, which is none of {', '.join(labels)}; "
            "name the labels with --set network.labels=..."
        )
    return [float(label in names) for label in labels] if config.multi_label else labels.index(text)


NOTHING = ("none", "No Finding")  # what a case without any of several labels may be called


def divide(
    classes: Int[np.ndarray, " n"], clients: int, alpha: float | None, samples: int | None, seed: int
) -> list[Int[np.ndarray, " m"]]:
    """Each client's training cases. Raises ``DataError`` when a client would have none."""
    if samples is not None:
        rng = np.random.default_rng(derive_seed(seed, "partition"))
        return [draw_client(classes, samples, alpha, rng) for _ in range(clients)]
    if len(classes) < clients:
        raise DataError(
            f"{len(classes)} training cases can't be divided among {clients} clients, some would hold none; "
            "use fewer clients, or let them draw with replacement with --set samples=..."
        )
    if alpha is None:
        return [np.asarray(part) for part in iid(len(classes), clients, seed)]
    return [np.asarray(part) for part in dirichlet(classes, clients, alpha, seed)]


def draw_client(
    classes: Int[np.ndarray, " n"], count: int, alpha: float | None, rng: np.random.Generator
) -> Int[np.ndarray, " m"]:
    """So many cases with replacement, their mix of classes drawn from a Dirichlet distribution (or all alike)."""
    present = np.unique(classes)
    shares = rng.dirichlet(np.full(len(present), alpha)) if alpha is not None else np.full(len(present), 1.0)
    counts = rng.multinomial(count, shares / shares.sum())
    return np.concatenate([rng.choice(np.flatnonzero(classes == c), k) for c, k in zip(present, counts, strict=True)])


def measured(config: DisbelieveConfig, images: Images) -> DisbelieveConfig:
    """The configuration with mean and standard deviation of the training images, where it states none."""
    if config.mean:
        return config
    if not len(images.views):
        raise DataError("the training set is empty")
    values = images.views.float().flatten(0, 2) / 255
    mean, std = values.mean(0), values.std(0, correction=0).clamp_min(1e-3)
    return replace(config, mean=tuple(round(v, 4) for v in mean.tolist()),
                   std=tuple(round(v, 4) for v in std.tolist()))  # fmt: skip


def watch(data: TrainData, images: Images, config: DisbelieveConfig) -> Data:
    """The cases on which every round's global model is measured: the validation part, if it can tell classes apart."""
    part = load_images(data.validation, config)
    for images_of in (part, images):
        y = images_of.y
        told = bool((y.min(0).values < y.max(0).values).any()) if len(y) and y.is_floating_point() else None
        if told or (told is None and len(y.unique()) > 1):
            return images_of.data(np.arange(len(y)), config)
    raise DataError("all training cases have one label, so no AUC can be measured; at least two are needed")


# ---- measuring ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def measure(network: nn.Module, x: Float[Tensor, "n ..."], y: Targets) -> tuple[float, float, bool]:
    """AUC (macro, one against rest), accuracy, and whether any number isn't finite: that model counts as chance.

    Raises ``DataError`` when the cases are of one class.
    """
    network.eval()
    logits = torch.cat([network(part) for part in x.split(256)]).double().cpu()
    if not torch.isfinite(logits).all():
        return 0.5, (0.5 if y.is_floating_point() else 1 / logits.shape[1]), True
    if y.is_floating_point():
        return label_auc(logits, y), float(((logits > 0) == (y > 0.5)).double().mean()), False
    scores = classification_scores(logits.softmax(1).numpy(), y.cpu().numpy())
    if math.isnan(scores["auroc"]):
        raise DataError("the cases to measure AUC on are all of one class; at least two are needed")
    return scores["auroc"], scores["accuracy"], False


def label_auc(logits: Float[Tensor, "n c"], y: Float[Tensor, "n c"]) -> float:
    """Mean AUC over the labels that some cases have and others lack. Raises ``DataError`` when there is none."""
    from torchmetrics.functional.classification import binary_auroc

    truth = y.cpu() > 0.5
    known = [c for c in range(truth.shape[1]) if 0 < int(truth[:, c].sum()) < len(truth)]
    if not known:
        raise DataError("no label tells the cases to measure AUC on apart; some must have it and others lack it")
    return float(np.mean([float(binary_auroc(logits[:, c], truth[:, c].long())) for c in known]))
