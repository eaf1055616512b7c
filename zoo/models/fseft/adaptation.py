"""Few-shot adaptation to one organ, and the size constraint on the query (Sec. 3).

For each query X the head is trained by

    min  L_SEG(Y_k, Y'_k) + lam * L_TI(S, S'),      S' = sum of probabilities over the whole query,      (Eq. 2, 3)

where L_TI is 0 while S' lies within (1 - gamma) S and (1 + gamma) S. The size is that of the whole volume, whose
activations fit in no memory. But dL/dhead = dL/dS' * dS'/dhead: a first pass without gradients gives S' and dL/dS', a
second one adds up the gradients of the tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.data.scans import Kept, Scan, Size, draw_patches, largest, shifted
from zoo.models.fseft.network import REACH, Adapted, Block
from zoo.nn.losses import dice_losses
from zoo.nn.schedules import cosine
from zoo.nn.windows import sliding_window

Method = Literal["generalization", "linear-probe", "adapter", "adapter-ti", "ft-last", "ft"]
SizeError = Literal["prior", "larger", "voxels"]
LEAST_GAMMA = 0.15


def _share(default: float, low: float = 0.0, high: float = 1.0) -> Any:
    return field(default=default, metadata={"min": low, "max": high})


def _count(default: int, high: int = 1_000_000) -> Any:
    return field(default=default, metadata={"min": 1, "max": high})


@dataclass(frozen=True)
class Adaptation:
    """How a head is trained on a support set, and how its answers are read."""

    block: Block = "residual3"  # of the methods adapter and adapter-ti
    bias: float | None = _share(-4.0, -50.0, 50.0)  # of a new logit; None, and FT: torch's own. Not stated
    loss: Literal["dice+bce", "dice", "bce"] = "dice+bce"  # the text says both, in two places
    lr_adapter: float = _share(5e-3, 0.0, 10.0)  # the paper prints 0.5 (Sec. 4)
    lr_probe: float = _share(5e-2, 0.0, 10.0)
    lr_last: float = _share(1e-4, 0.0, 10.0)  # Sec. 4
    lr_ft: float = _share(1e-4, 0.0, 10.0)  # Sec. 4
    weight_decay: float = _share(1e-5)  # not stated
    epochs: int = _count(100, 10_000)  # Sec. 4
    volumes: int = _count(1, 1024)  # per step, Sec. 4
    patches: int = _count(6, 1024)  # of each volume, Sec. 4
    positive: float = _share(0.5)  # share of the patches about the organ; not stated
    shift: float = _share(0.1)  # of grey values, in one of five patches
    start: float = _share(0.5)  # share of the epochs before the constraint, Sec. 4
    lam: float = _share(1.0, 0.0, 1e6)  # Sec. 4
    gamma: float | None = _share(LEAST_GAMMA, 0.0, 10.0)  # only a sweep is stated; None: from how the support varies
    # of the size: relative to the prior, to the larger of both (released), or in voxels as printed
    error: SizeError = "prior"
    gate: bool = True  # only once the sizes of the support itself come out within gamma
    joint: bool = True  # one step with the support's loss; else a step of its own after each epoch (released)
    pooled: bool = False  # the query's features at half resolution (released)
    robust: bool = False  # prior of largest parts, without outliers from five volumes on (released)
    overlap: float = _share(0.5, 0.0, 0.9)  # of windows; not stated
    threshold: float = _share(0.5)  # of probabilities, Sec. 4

    def rate(self, method: Method) -> float:
        """The learning rate of a method."""
        rates = {"linear-probe": self.lr_probe, "ft-last": self.lr_last, "ft": self.lr_ft}
        return rates.get(method, self.lr_adapter)


# As the authors' code does it (official.md, 3 and 4).
RELEASED: dict[str, Any] = {
    **{"block": "resblock", "bias": None, "loss": "dice", "lr_adapter": 1e-2, "lr_probe": 1e-1, "lr_last": 1e-2},
    **{"lam": 0.1, "gamma": 0.3, "error": "larger", "gate": False, "joint": False, "pooled": True, "robust": True},
    **{"overlap": 0.25, "threshold": 0.6225},  # logits above 0.5
}


# ---- the size --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prior:
    """The size that the organ should have: voxels of the network's grid, and ml."""

    size: float
    voxel_ml: float
    gamma: float

    @property
    def ml(self) -> tuple[float, float, float]:
        """Lowest, mean and highest volume allowed."""
        mean = self.size * self.voxel_ml
        return (1 - self.gamma) * mean, mean, (1 + self.gamma) * mean


def prior_of(supports: Sequence[Scan], organ: str, how: Adaptation, ml: float | None = None) -> Prior:
    """The mean size in the support masks (Sec. 3.3), or ``ml`` where a user knows better."""
    voxel_ml = supports[0].grid.voxel_ml
    if how.robust:
        sizes = np.array([float(largest(scan.y[organ]).sum()) for scan in supports])
        near = np.abs(sizes - np.median(sizes)) < sizes.std()
        kept = sizes[near] if len(sizes) >= 5 and near.any() else sizes
    else:
        kept = np.array([float(scan.size(organ)) for scan in supports])
    size = float(kept.mean()) if ml is None else ml / voxel_ml
    spread = float(kept.std() / max(kept.mean(), 1e-9))
    return Prior(size, voxel_ml, max(LEAST_GAMMA, spread) if how.gamma is None else how.gamma)


def size_loss(size: Float[Tensor, ""], prior: float, gamma: float, error: SizeError = "prior") -> Float[Tensor, ""]:
    """L_TI of a predicted size, both in voxels (Eq. 3): 0 within the band of ``gamma`` about the prior.

    ``voxels``: as printed. ``prior``: divided by the prior, so that it has the scale of L_SEG. ``larger``: the
    difference to the prior by the larger of both, which is a constant to the gradient, less gamma (the authors' code).
    """
    if error == "larger":
        relative = (prior - size) / max(float(size.detach()), prior)
        return F.relu(relative.abs() - gamma)
    outside = F.relu((1 - gamma) * prior - size) + F.relu(size - (1 + gamma) * prior)
    return outside if error == "voxels" else outside / prior


class Query:
    """The frozen features of a whole volume, in tiles that a head can be run on with gradients.

    As printed: blended features of sliding windows, in tiles with as much around them as the head sees, so that tiles
    add up to what the head makes of the whole volume. ``pooled``: every window's own, at half resolution.
    """

    def __init__(self, network: Adapted, scan: Scan, patch: Size, how: Adaptation) -> None:
        self.scan = scan
        self._tiles: list[tuple[tuple[Tensor, ...], tuple[slice, ...]]] = []
        self._voxels = 1
        device = next(network.parameters()).device
        if network.head.joins or how.pooled:
            self._own_windows(network, patch, how.pooled, device)
            return
        blended = sliding_window(
            network.backbone, scan.x, patch, overlap=how.overlap, device=device, description="query", progress=False
        )
        reach, shape = REACH.get(network.head.kind, 0), blended.shape[1:]
        for corner in product(*(range(0, n, side) for n, side in zip(shape, patch, strict=True))):
            ends = [min(a + side, n) for a, side, n in zip(corner, patch, shape, strict=True)]
            low = [max(0, a - reach) for a in corner]
            high = [min(n, b + reach) for b, n in zip(ends, shape, strict=True)]
            tile = blended[(slice(None), *map(slice, low, high))][None]
            inner = tuple(slice(a - least, b - least) for a, b, least in zip(corner, ends, low, strict=True))
            self._tiles.append(((tile,), inner))

    @property
    def bytes(self) -> int:
        """What its features take in memory."""
        return sum(one.numel() * one.element_size() for features, _ in self._tiles for one in features)

    def _own_windows(self, network: Adapted, patch: Size, pooled: bool, device: torch.device) -> None:
        shape = self.scan.x.shape[1:]
        pads = [side for n, m in zip(reversed(shape), reversed(patch), strict=True) for side in (0, -n % m)]
        padded = F.pad(self.scan.x, pads)
        for corner in product(*(range(0, n, side) for n, side in zip(padded.shape[1:], patch, strict=True))):
            where = [slice(a, a + side) for a, side in zip(corner, patch, strict=True)]
            with torch.no_grad():
                found = network.features(padded[(slice(None), *where)][None].to(device))
            inner = tuple(slice(0, min(side, n - a)) for a, side, n in zip(corner, patch, shape, strict=True))
            if pooled:
                factor = tuple(2 if side > 1 else 1 for side in patch)
                self._voxels = math.prod(factor)
                found = tuple(F.avg_pool3d(one, factor) for one in found)
                inner = (slice(None),) * 3
            self._tiles.append((tuple(one.half().cpu() for one in found), inner))

    def _of(self, network: Adapted, place: int) -> Float[Tensor, ""]:
        features, inner = self._tiles[place]
        device = next(network.parameters()).device
        logits = network.head(*(one.to(device, torch.float32) for one in features))[0, 0]
        return self._voxels * logits[inner].sigmoid().sum()

    @torch.no_grad()
    def size(self, network: Adapted) -> float:
        """Sum of probabilities, in voxels; batch normalisation by running statistics, as at test time."""
        with _reading(network):
            return float(sum(self._of(network, place) for place in range(len(self._tiles))))

    def constrain(self, network: Adapted, prior: Prior, how: Adaptation, backward: Callable[[Tensor], Any]) -> float:
        """Adds the gradient of lam * L_TI to the head's; returns the loss."""
        size = torch.tensor(self.size(network), requires_grad=True)
        loss = how.lam * size_loss(size, prior.size, prior.gamma, how.error)
        (slope,) = torch.autograd.grad(loss, size)
        if float(slope):
            with _reading(network):
                for place in range(len(self._tiles)):
                    backward(float(slope) * self._of(network, place))
        return float(loss.detach())


@contextmanager
def _reading(network: Adapted) -> Iterator[None]:
    """The head in eval mode for as long as it lasts."""
    mode = network.head.training
    network.head.eval()
    yield
    network.head.train(mode)


def probabilities(network: nn.Module, scan: Scan, patch: Size, overlap: float, *, progress: bool = False) -> Tensor:
    """Of one organ in every voxel of the network's grid, float16 ``[x y z]``."""
    device = next(network.parameters()).device
    found = sliding_window(
        network, scan.x, patch, finish=lambda logits: logits.sigmoid().half(), overlap=overlap, device=device,
        progress=progress,
    )  # fmt: skip
    return found[0]


# ---- the training of one head ----------------------------------------------------------------------------------------


def segmentation_loss(logits: Tensor, y: Tensor, kind: str) -> Float[Tensor, ""]:
    """L_SEG of patches ``[n 1 x y z]``: soft Dice of each patch, binary cross-entropy, or both."""
    losses = []
    if kind != "bce":
        losses.append(dice_losses(logits, y).mean())
    if kind != "dice":
        losses.append(F.binary_cross_entropy_with_logits(logits, y))
    return sum(losses[1:], losses[0])


class Fit:
    """The training of a head on a support set, step by step. Everything random comes from what ``step`` is given."""

    def __init__(
        self, network: Adapted, supports: Sequence[Scan], organ: str, method: Method, how: Adaptation, patch: Size
    ) -> None:
        self.network, self.supports, self.organ, self.method, self.how = network, supports, organ, method, how
        self.patch = patch
        self.prior = prior_of(supports, organ, how)
        trained = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=how.rate(method), weight_decay=how.weight_decay)
        self.batch = min(how.volumes, len(supports))
        self.per_epoch = math.ceil(len(supports) / self.batch)
        self.steps = how.epochs * self.per_epoch
        self.opened = not how.gate
        self._seen: Kept[Query] = Kept(self._support, lambda query: query.bytes, memory=2**32)

    def constrained(self, step: int) -> bool:
        """Whether the size constraint may act at a step (Sec. 4: in the last half of the epochs)."""
        return self.method == "adapter-ti" and step // self.per_epoch >= self.how.start * self.how.epochs

    def patches(self, index: Sequence[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        how = self.how
        drawn = [
            draw_patches(self.supports[i], [self.organ], self.patch, how.patches, how.positive, rng) for i in index
        ]
        x, y = (torch.cat(part).to(next(self.network.parameters()).device) for part in zip(*drawn, strict=True))
        return shifted(x, how.shift, 0.2, rng), y

    def step(
        self, step: int, index: Sequence[int], rng: np.random.Generator, query: Query | None = None, *,
        network: nn.Module | None = None, backward: Callable[[Tensor], Any] = torch.Tensor.backward,
    ) -> dict[str, float]:  # fmt: skip
        """One step on patches of the volumes at ``index``; ``network``: the same, as a training wrapped it."""
        epoch, last = step // self.per_epoch, step % self.per_epoch == self.per_epoch - 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.how.rate(self.method) * cosine(epoch, self.how.epochs)
        held = query if query is not None and self.constrained(step) and self._open(step) else None
        x, y = self.patches(index, rng)
        self.network.train()
        loss = segmentation_loss((network or self.network)(x), y, self.how.loss)
        self.optimizer.zero_grad()
        found = {}
        if held is not None and self.how.joint:
            found["size_loss"] = held.constrain(self.network, self.prior, self.how, torch.Tensor.backward)
        backward(loss)
        self.optimizer.step()
        if held is not None and not self.how.joint and last:
            self.optimizer.zero_grad()
            found["size_loss"] = held.constrain(self.network, self.prior, self.how, torch.Tensor.backward)
            if found["size_loss"]:
                self.optimizer.step()
        return {"loss": float(loss.detach()), **found}

    def _open(self, step: int) -> bool:
        """The gate: sums of faint probabilities can pass an organ's size and mean nothing, on the support as here."""
        if not self.opened and step % self.per_epoch == 0:
            self.opened = abs(self.support_ratio() - 1) <= self.prior.gamma
        return self.opened

    def support_ratio(self) -> float:
        """Sum of probabilities over true size, of all support volumes together."""
        soft = sum(self._seen[place].size(self.network) for place in range(len(self.supports)))
        return soft / max(sum(scan.size(self.organ) for scan in self.supports), 1)

    def _support(self, place: int) -> Query:
        return Query(self.network, self.supports[place], self.patch, replace(self.how, overlap=0.0, pooled=False))

    @torch.no_grad()
    def calibrate(self, rng: np.random.Generator) -> None:
        """Running statistics of batch normalisation over patches of the support, with the final weights."""
        norms = [module for module in self.network.head.modules() if isinstance(module, nn.BatchNorm3d)]
        if not norms:
            return
        self.network.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean
        for place in range(len(self.supports)):
            self.network(self.patches([place], rng)[0])
        for norm in norms:
            norm.momentum = 0.1

    def state(self) -> dict[str, Any]:
        """What the rest of the training goes on from; for several queries after one beginning."""
        head = {name: tensor.clone() for name, tensor in self.network.head.state_dict().items()}
        moments = {
            key: {n: v.clone() if isinstance(v, Tensor) else v for n, v in values.items()}
            for key, values in self.optimizer.state_dict()["state"].items()
        }
        return {"head": head, "moments": moments, "opened": self.opened}

    def restore(self, state: dict[str, Any]) -> None:
        self.network.head.load_state_dict(state["head"])
        moments = {key: {n: v.clone() if isinstance(v, Tensor) else v for n, v in values.items()}
                   for key, values in state["moments"].items()}  # fmt: skip
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.opened = state["opened"]
