"""Images in memory, who holds which, and the synthetic sets that arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from zoo.data.case import Case
from zoo.data.dermoscopy import melanoma_class
from zoo.data.images import ImageSet, read_views
from zoo.data.sets import Dataset
from zoo.errors import DataError
from zoo.federated import divided
from zoo.metrics import auroc
from zoo.models.gdd_fl import plugin
from zoo.models.gdd_fl.model import GDDConfig, to_network, view
from zoo.seeds import derive_seed

RENAME = "choose other classes with --set network.labels=A,B,..."


def class_of(case: Case, labels: Sequence[str]) -> int | None:
    """Its class; None for a carcinoma where the classes are benign and melanoma. Raises ``DataError``."""
    if case.label is None:
        raise DataError(f"case {case.id} has no label; every client trains on labelled cases")
    return melanoma_class(case.label, labels, f"case {case.id}", RENAME)


def classes_of(cases: Sequence[Case], labels: Sequence[str]) -> Int[np.ndarray, " n"]:
    """The class of every case, -1 for those left out."""
    return np.array([-1 if (k := class_of(case, labels)) is None else k for case in cases], dtype=np.int64)


def load_images(cases: Dataset, config: GDDConfig) -> ImageSet:
    """All cases that have a class, as the network sees them, in bytes."""
    some = list(cases)
    classes = [class_of(case, config.labels) for case in some]
    kept = [(case, k) for case, k in zip(some, classes, strict=True) if k is not None]
    size = config.image_size
    views = read_views([case for case, _ in kept], lambda picture: view(picture, config), plugin.name, str(size))
    return ImageSet.of(views, [k for _, k in kept], empty=(3, size, size))


def partitioned(
    how: str, cases: Dataset, y: Int[np.ndarray, " n"], clients: int, alpha: float, seed: int
) -> list[Int[np.ndarray, " m"]]:
    """Each client's indices into ``cases``, without those left out (-1 in ``y``).

    ``stratified``: at random, with as many images of each class at every client as can be (Sec. 3.1, IID); all else is
    ``zoo.federated.divided``'s: ``dirichlet`` (Sec. 3.1, non-IID), ``iid``, ``column:NAME``, ``file:PATH``.
    """
    kept = np.flatnonzero(y >= 0)
    if how == "stratified":
        if len(kept) < clients:
            raise DataError(f"{len(kept)} cases are too few for {clients} clients; use fewer clients")
        rng = np.random.default_rng(derive_seed(seed, "stratified"))
        order = np.concatenate([rng.permutation(kept[y[kept] == k]) for k in np.unique(y[kept])])
        return [np.sort(order[client::clients]) for client in range(clients)]
    parts = divided(how, cases.subset(kept), y[kept].tolist(), clients, alpha, seed)
    return [kept[part] for part in parts]


@dataclass(frozen=True)
class Pool:
    """What the server trains on: the synthetic sets of clients, or real images.

    ``images``: bytes, or floats in units of [0, 1]. ``clients``: whose each image is.
    """

    images: Shaped[Tensor, "n 3 s s"]
    y: Int[Tensor, " n"]
    clients: tuple[int, ...] = ()

    @classmethod
    def of(cls, sets: Sequence[tuple[int, Tensor, Tensor]]) -> Pool:
        """From (client, images, classes); bytes become floats where another client sent floats."""
        mixed = len({images.dtype for _, images, _ in sets}) > 1
        parts = [in_units(images) if mixed else images for _, images, _ in sets]
        clients = [client for client, images, _ in sets for _ in range(len(images))]
        return cls(torch.cat(parts), torch.cat([y.to(torch.int64) for _, _, y in sets]), tuple(clients))

    def batch(self, index: Int[np.ndarray, " b"], device: torch.device) -> tuple[Tensor, Tensor]:
        """Normalised images and their classes; a batch may mix clients (Sec. 2.3)."""
        places = torch.from_numpy(index)
        return to_network(in_units(self.images[places].to(device))), self.y[places].to(device)

    def shown(self) -> dict[tuple[int, int], UInt8[Tensor, "3 s s"]]:
        """For each client and class its first image, in bytes."""
        found: dict[tuple[int, int], Tensor] = {}
        for i, (client, k) in enumerate(zip(self.clients, self.y.tolist(), strict=True)):
            if (client, k) not in found:
                found[client, k] = (in_units(self.images[i]).clamp(0, 1) * 255).round().to(torch.uint8)
        return found


def in_units(images: Tensor) -> Tensor:
    """Bytes as floats in [0, 1]; floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def received(cases: Sequence[Case], config: GDDConfig) -> Pool:
    """The pool of a folder of messages. Raises ``DataError`` for images of another size than the network's."""
    sets = []
    for number, name in enumerate(sorted({str(case.attributes["client"]) for case in cases})):
        mine = [case for case in cases if case.attributes["client"] == name]
        images = torch.stack([torch.from_numpy(np.array(case.image)).permute(2, 0, 1) for case in mine])
        if images.shape[1:] != (3, config.image_size, config.image_size):
            side = images.shape[-1]
            raise DataError(f"{name} sent images of {side} px; train on them with --set network.image_size={side}")
        sets.append((number, images, torch.from_numpy(classes_of(mine, config.labels))))
    return Pool.of(sets)


@torch.no_grad()
def margins(network: Any, images: ImageSet, device: torch.device) -> Float[np.ndarray, "n k"]:
    """Logits of all images, in eval mode."""
    network.eval()
    parts = [
        network(to_network(images.batch(i, device)[0])).double().cpu() for i in torch.arange(len(images)).split(128)
    ]
    return torch.cat(parts).numpy() if parts else np.zeros((0, 2))


def auc(network: Any, images: ImageSet, device: torch.device) -> float:
    """Of the second class against the first, or macro of several; NaN without images of two classes."""
    y = images.y.numpy()
    if len(np.unique(y)) < 2:
        return float("nan")
    logits = margins(network, images, device)
    if logits.shape[1] == 2:
        return auroc(logits[:, 1] - logits[:, 0], y)
    present = [k for k in range(logits.shape[1]) if 0 < (y == k).sum() < len(y)]
    p = torch.from_numpy(logits).softmax(1).numpy()
    return float(np.mean([auroc(p[:, k], (y == k).astype(np.int64)) for k in present]))


def calibration(logits: Float[np.ndarray, "n k"], y: Int[np.ndarray, " n"]) -> tuple[float, ...]:
    """Slope and offset of the difference of two logits, for probabilities; none without ten images of either class."""
    if logits.shape[1] != 2 or np.bincount(y, minlength=2).min() < 10:
        return ()
    return tuple(round(value, 6) for value in platt(logits[:, 1] - logits[:, 0], y))


def platt(z: Float[np.ndarray, " n"], y: Int[np.ndarray, " n"]) -> tuple[float, float]:
    """Slope and offset for which ``sigmoid(slope z + offset)`` is the probability of class 1; both classes are there.

    A slope below 0, of scores that rank the wrong way round, becomes 0: the share of the class is then all that is
    said. Source: J. Platt, Probabilistic Outputs for Support Vector Machines, 1999, with his targets.
    """
    counts = np.bincount(y, minlength=2)
    target = np.where(y == 1, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))
    scale = max(float(z.std()), 1e-6)
    x = np.stack([(z - z.mean()) / scale, np.ones_like(z)], 1)
    w = np.zeros(2)
    for _ in range(50):  # Newton's steps, none above 1
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2)
        w = w - np.clip(np.linalg.solve(hessian, x.T @ (p - target)), -1, 1)
    if w[0] <= 0:
        return 0.0, float(np.log(target.mean() / (1 - target.mean())))
    return float(w[0] / scale), float(w[1] - w[0] * z.mean() / scale)
