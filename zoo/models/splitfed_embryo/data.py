"""The clients' images in memory, who holds which, the batches of a round, and Jaccard of each component."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from zoo import media
from zoo.data.augment import flipped
from zoo.data.case import Case
from zoo.data.images import read_views, resize, rgb_bytes
from zoo.data.sets import Dataset, read_mask
from zoo.errors import DataError, OptionError
from zoo.federated import by_attribute, divided, iid
from zoo.metrics.pixels import counts
from zoo.models.splitfed_embryo.network import SplitFedConfig
from zoo.seeds import derive_seed

NAME = "splitfed-embryo"


@dataclass(frozen=True)
class Shard:
    """Images and the class of each of their pixels, at the network's size."""

    views: UInt8[Tensor, "n 3 s s"]
    y: UInt8[Tensor, "n s s"]

    def __len__(self) -> int:
        return len(self.y)

    def at(
        self, places: Sequence[int] | Int[np.ndarray, " m"]
    ) -> tuple[Float[Tensor, "m 3 s s"], Int[Tensor, "m s s"]]:
        """Images in [0, 1] and their classes."""
        index = torch.as_tensor(np.asarray(places), dtype=torch.int64)
        return self.views[index].float() / 255, self.y[index].long()


def view(picture: media.Image, config: SplitFedConfig) -> UInt8[np.ndarray, "s s 3"]:
    """The whole picture at the network's size; grey ones have three equal channels."""
    return resize(rgb_bytes(picture), config.image_size, "bilinear")


def nearest(mask: Shaped[np.ndarray, "h w"], size: int | Sequence[int]) -> Shaped[np.ndarray, "H W"]:
    """Labels at another size."""
    return resize(mask.astype(np.uint8), size, "nearest")


def load(cases: Dataset, config: SplitFedConfig) -> Shard:
    """Read and scale all cases. Raises ``DataError`` for a case without mask, or whose mask has another size."""
    size = config.image_size
    some = list(cases)
    masks = [nearest(classes_of(case, config.labels), size) for case in some]
    views = read_views(some, lambda picture: view(picture, config), NAME, str(size))
    if not some:
        return Shard(torch.zeros(0, 3, size, size, dtype=torch.uint8), torch.zeros(0, size, size, dtype=torch.uint8))
    stacked = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).contiguous()
    return Shard(stacked, torch.from_numpy(np.stack(masks)))


def classes_of(case: Case, labels: Sequence[str]) -> UInt8[np.ndarray, "h w"]:
    """The class of every pixel. Raises ``DataError`` for classes that aren't named and for a mask of another size."""
    found = read_mask(case)
    height, width = found.shape[-2:]
    if found.ndim != 2 or (found.size and found.max() >= len(labels)):
        raise DataError(
            f"case {case.id} has a mask of {found.ndim} dimensions and values up to {found.max()}; expected is one of "
            f"2 dimensions with {', '.join(f'{k} {name}' for k, name in enumerate(labels))}"
        )
    size = np.shape(case.image)[:2] if isinstance(case.image, np.ndarray) else media.read(case.image).size
    if tuple(size) != (height, width):
        raise DataError(f"image and mask of case {case.id} differ in size: {tuple(size)} and {(height, width)}")
    return found.astype(np.uint8)


def divide(how: str, cases: Dataset, shares: Sequence[float], clients: int, seed: int) -> list[Int[np.ndarray, " m"]]:
    """Who holds which case: ``shares`` (a random part in proportion for each client), ``iid``, ``column:NAME``,
    ``file:PATH``. Raises ``OptionError`` and ``DataError``."""
    if how == "iid":
        return iid(len(cases), clients, seed)
    if how != "shares":
        if how == "column:client":
            return by_attribute(cases, "client")
        return divided(how, cases, [], clients, 1.0, seed)
    if len(shares) != clients:
        raise OptionError(f"shares has {len(shares)} numbers for {clients} clients; give one each, or partition=iid")
    if len(cases) < 2 * clients:
        raise DataError(f"{len(cases)} cases are too few for {clients} clients, of which each needs two; use fewer")
    order = np.random.default_rng(derive_seed(seed, "shares")).permutation(len(cases))
    ends = np.round(np.cumsum(np.asarray(shares) / sum(shares)) * len(cases)).astype(int)
    sizes = np.maximum(np.diff(ends, prepend=0), 2)
    while sizes.sum() > len(cases):  # of few cases the largest client gives way
        sizes[sizes.argmax()] -= 1
    return [np.sort(part) for part in np.split(order, np.cumsum(sizes)[:-1])]


def held_out(cases: Dataset, places: Int[np.ndarray, " m"], share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A client's training and validation cases: as the set states it (``part``), else a random ``share``."""
    stated = np.array([cases[int(place)].attributes.get("part") == "validation" for place in places])
    if stated.any() and not stated.all():
        return places[~stated], places[stated]
    order = np.random.default_rng(derive_seed(seed, "held-out", int(places[0]))).permutation(places)
    count = max(1, round(share * len(places))) if share > 0 and len(places) > 1 else 0
    return np.sort(order[count:]), np.sort(order[:count])


# ---- the batches of a round ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """Which images a client takes in each step of a round, and how they are mirrored: the same in every process."""

    cases: int
    batch_size: int
    epochs: int
    seed: int
    client: int
    round: int
    shuffled: bool = True
    flips: bool = True

    @property
    def per_epoch(self) -> int:
        return math.ceil(self.cases / self.batch_size)

    @property
    def steps(self) -> int:
        return self.epochs * self.per_epoch

    def batch(self, shard: Shard, step: int) -> tuple[Float[Tensor, "b 3 s s"], Int[Tensor, "b s s"]]:
        epoch, place = divmod(step, self.per_epoch)
        order = np.arange(self.cases)
        if self.shuffled:
            order = self._rng("order", epoch).permutation(self.cases)
        x, y = shard.at(order[place * self.batch_size : (place + 1) * self.batch_size])
        if not self.flips:
            return x, y
        # one draw for both
        both = flipped(torch.cat([x, y[:, None].float()], 1), self._rng("flips", step))
        return both[:, :3].contiguous(), both[:, 3].long()

    def _rng(self, *key: int | str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, "batches", self.client, self.round, *key))


# ---- measures --------------------------------------------------------------------------------------------------------


def jaccard(table: Int[np.ndarray, "k k"]) -> Float[np.ndarray, " k"]:
    """Of each class, from counts [truth, found]; NaN where a class is neither there nor found."""
    right = np.diag(table).astype(float)
    union = table.sum(0) + table.sum(1) - right
    return np.divide(right, union, out=np.full(len(table), np.nan), where=union > 0)


def mean_of(values: Sequence[float] | Float[np.ndarray, " n"]) -> float:
    """Without NaN; NaN of nothing."""
    known = [float(value) for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class Measured:
    """Jaccard of each component, and the mean without background (MJI): over images first, then over classes."""

    tables: Int[np.ndarray, "n k k"]

    @property
    def per_class(self) -> list[float]:
        """Mean over the images that have the class, or that it was found in."""
        rows = [jaccard(table) for table in self.tables]
        return [mean_of([row[k] for row in rows]) for k in range(1, self.tables.shape[1])]

    @property
    def mji(self) -> float:
        return mean_of(self.per_class)

    @property
    def pooled(self) -> list[float]:
        """Of all images' pixels, for each class."""
        return [float(value) for value in jaccard(self.tables.sum(0))[1:]]

    def to_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        names = labels[1:]
        return {
            "MJI": self.mji,
            "MJI_pooled": mean_of(self.pooled),
            **{f"jaccard_{name}": value for name, value in zip(names, self.per_class, strict=True)},
            **{f"pooled_jaccard_{name}": value for name, value in zip(names, self.pooled, strict=True)},
        }


@torch.no_grad()
def measure(logits_of: Callable[[Tensor, int], Tensor], shard: Shard, classes: int, batch_size: int = 16) -> Measured:
    """``logits_of(images, which batch)`` against the truth."""
    tables = []
    for number, start in enumerate(range(0, len(shard), batch_size)):
        x, y = shard.at(np.arange(start, min(start + batch_size, len(shard))))
        found = logits_of(x, number).argmax(1).cpu().numpy()
        tables += [counts(one, truth, classes) for one, truth in zip(found, y.numpy(), strict=True)]
    return Measured(np.stack(tables) if tables else np.zeros((0, classes, classes), np.int64))
