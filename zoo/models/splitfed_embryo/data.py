"""The recipe; the clients' images, who holds which, and the batches of a round; Jaccard of each component."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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
from zoo.federated.link import Kind, Link, Lost
from zoo.federated.rules import Rule
from zoo.metrics.pixels import counts
from zoo.models.splitfed_embryo.network import SplitFedConfig, SplitUNet
from zoo.seeds import derive_seed, seed_torch

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


# ---- the recipe, and what both sides derive from it ------------------------------------------------------------------

SHARES = (240.0, 120.0, 85.0, 179.0, 87.0)  # Sec. 3.1: images of the five clients


@dataclass(frozen=True)
class SplitFedRecipe:
    """The paper's training; comments name the section, or say that the paper leaves a value open."""

    recipe: Literal["paper", "released"] = "paper"  # whose values the other fields have
    network: SplitFedConfig = field(default_factory=SplitFedConfig)
    wire: Literal["joined", "messages"] = "joined"
    """``joined``: a client trains front-end, its copy of the server's part and back-end in one process, with a link
    between them; ``messages``: features and gradients are messages between client and server. The same numbers."""
    clients: int = field(default=5, metadata={"min": 2, "max": 1000})  # Sec. 3.1
    partition: str = "shares"
    """``shares``, ``iid``, ``column:NAME`` (a client for each value), ``file:PATH`` (a table of cases and clients)."""
    shares: tuple[float, ...] = field(default=SHARES, metadata={"min": 1e-6, "max": 1e9})
    validation: float = field(default=0.15, metadata={"min": 0.0, "max": 0.9})  # of each client's cases; Sec. 3.1
    packet_loss: float = field(default=0.5, metadata={"min": 0.0, "max": 0.99})  # P_L; .1 to .9 in Sec. 3.3
    lossy_clients: int = field(default=5, metadata={"min": 0, "max": 1000})  # the first m; Sec. 3.3
    link: Kind = "rows"  # of training; ``dropout`` is the paper's control (Sec. 4)
    lost: Lost = "both"  # features, gradients or both lose packets
    leak: bool = False
    """Gradients that lost nothing are added on server and front-end, as in the same authors' later code."""
    aggregation: Rule = "fedavg"  # Sec. 2
    literal_ncl: bool = False  # layers count in proportion to their divergence, as the text has it
    mix_steps: int = field(default=5, metadata={"min": 1, "max": 1000})  # of Auto-FedAvg in each round; open
    mix_lr: float = field(default=0.01, metadata={"min": 0.0, "max": 100.0})  # open
    rounds: int = field(default=15, metadata={"min": 1, "max": 100_000})  # Sec. 3.1
    local_epochs: int = field(default=12, metadata={"min": 1, "max": 100_000})  # Sec. 3.1
    batch_size: int = field(default=1, metadata={"min": 1, "max": 4096})  # open; 1 in the same authors' later code
    lr: float = field(default=1e-4, metadata={"min": 0.0, "max": 10.0})  # of Adam, new in each round; Sec. 3.1
    dice: Literal["soft", "released"] = "soft"
    """``soft``: 1 is added above and below; ``released``: nothing is, and a class that a batch lacks is no loss."""
    flips: bool = True  # Sec. 3.1
    shuffled: bool = True
    keep_epoch: Literal["last", "best"] = "last"
    """What a client sends: its last local epoch, or that of the lowest local validation loss."""
    lossy_test: bool = True  # the test part is measured over a lossy link too
    server_device: str = "cpu"  # of the server's part, with ``wire=messages``
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


@dataclass(frozen=True)
class Setting:
    """A recipe and a seed."""

    recipe: SplitFedRecipe
    seed: int

    @property
    def config(self) -> SplitFedConfig:
        return self.recipe.network

    @property
    def server_device(self) -> str:
        return self.recipe.server_device

    def schedule(self, cases: int, client: int, round_: int) -> Schedule:
        r = self.recipe
        return Schedule(cases, r.batch_size, r.local_epochs, self.seed, client, round_, r.shuffled, r.flips)

    def link(self, client: int, round_: int) -> Link:
        r = self.recipe
        rate = r.packet_loss if client < r.lossy_clients else 0.0
        return Link(rate, self.seed, client, round_, r.link, r.lost)

    def initial(self) -> SplitUNet:
        """The same numbers whatever was drawn before, on either side, and under both cuts."""
        with torch.random.fork_rng(devices=[]):
            seed_torch(derive_seed(self.seed, "network"))
            return SplitUNet(self.config)


def refuse(recipe: SplitFedRecipe) -> None:
    """Raises ``OptionError`` for what can't be, before anything is read."""
    if recipe.wire == "messages":
        for name, why in (("auto", "mixes whole networks"), ("ncl-v2", "runs the mean of whole networks")):
            if recipe.aggregation == name:
                raise OptionError(
                    f"aggregation={name} {why} on the clients' data, which wire=messages doesn't; set wire=joined"
                )
        if recipe.leak:
            raise OptionError("leak=true adds gradients that never crossed the link; set wire=joined")
        if recipe.keep_epoch == "best":
            raise OptionError("keep_epoch=best validates after each local epoch; set wire=joined or keep_epoch=last")
    if recipe.leak and recipe.link == "dropout":
        raise OptionError("link=dropout loses no gradients that could leak; set leak=false")
    if recipe.keep_epoch == "best" and recipe.validation == 0 and recipe.partition != "column:client":
        raise OptionError("keep_epoch=best needs validation cases; set validation above 0")
