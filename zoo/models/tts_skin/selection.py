"""Which channels stay: what a map shows at points, the score of Eq. 1, its best tenth (Sec. 3), and the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from zoo.models.tts_skin.replicas import Replicas
from zoo.nn.last_map import Apart

TOGETHER = 64  # copies that go through the network at a time
Lookup = Literal["bilinear", "cell"]


def at_points(
    maps: Float[Tensor, "b c h w"], points: Float[Tensor, "b p 2"], lookup: Lookup = "bilinear"
) -> Float[Tensor, "b c p"]:
    """f(x)_c[k]: the map, upsampled to the image's size, at points (x, y) from -1 to 1 between the image's edges.

    ``bilinear`` is what ``interpolate(mode="bilinear")`` gives there, of which only the four cells around each point
    are looked at; ``cell`` is the cell that the point falls in, as the authors' code upsamples (nearest).
    """
    if lookup == "cell":  # the border belongs to the last cell; grid_sample rounds half to even
        h, w = maps.shape[2:]
        size = points.new_tensor([w, h])
        cell = ((points + 1) / 2 * size).floor().clamp(min=0).minimum(size - 1).long()
        place = (cell[..., 1] * w + cell[..., 0])[:, None].expand(-1, maps.shape[1], -1)
        return maps.flatten(2).gather(2, place)
    found = F.grid_sample(maps, points[:, None].to(maps), padding_mode="border", align_corners=False)
    return found[:, :, 0]


def channel_scores(
    maps: Float[Tensor, "b c h w"],
    positive: Float[Tensor, "b p 2"],
    negative: Float[Tensor, "b n 2"],
    alpha: float,
    lookup: Lookup = "bilinear",
    there: tuple[Bool[Tensor, "b p"], Bool[Tensor, "b n"]] | None = None,
) -> Float[Tensor, "b c"]:
    """S_c = alpha S_p - (1 - alpha) S_n (Eq. 1), with sums over the points of each sign.

    With as many positive as negative points the sums are the paper's. With unequal numbers both are divided by their
    own, which ranks channels as the sums would do if there were as many. Without negative points their sum is 0, as in
    the authors' code. ``there``: which points an augmented image still shows; all by default.
    """
    sums, counts = [], []
    for points, shown in zip((positive, negative), there or (None, None), strict=True):
        values = at_points(maps, points, lookup)
        weight = torch.ones(points.shape[:2], device=maps.device) if shown is None else shown.to(maps.device).float()
        sums.append((values * weight[:, None]).sum(-1))
        counts.append(weight.sum(1, keepdim=True))
    unequal = (counts[0] != counts[1]).to(maps.dtype)
    s_p, s_n = (s / (n.clamp(min=1) * unequal + (1 - unequal)) for s, n in zip(sums, counts, strict=True))
    return alpha * s_p - (1 - alpha) * s_n


def kept_count(channels: int, keep: float) -> int:
    """lambda of all channels, at least one: 205 of 2,048 at 10 %."""
    return max(1, round(keep * channels))


def best_channels(scores: Float[Tensor, "b c"], keep: float) -> Bool[Tensor, "b c"]:
    """T: the channels of the highest scores. Of equal ones the first stay: many are 0 after a ReLU."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    chosen = order[:, : kept_count(scores.shape[1], keep)]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, chosen, True)


def random_channels(shape: tuple[int, int], keep: float, rng: np.random.Generator) -> Bool[Tensor, "b c"]:
    """As many, drawn for each image anew: the control."""
    return best_channels(torch.from_numpy(rng.random(shape)), keep)


def as_mask(kept: Bool[Tensor, "*b c"], rescale: bool = False) -> Float[Tensor, "*b c"]:
    """M of Sec. 3: 1 for what stays. ``rescale``: 1 / share instead, so that the sum over channels keeps its size."""
    mask = kept.float()
    return mask / mask.mean(-1, keepdim=True) if rescale else mask


@dataclass(frozen=True)
class Selection:
    """What a classifier says of copies of an image, the first being the image, with all channels and with some."""

    plain: Float[Tensor, "r k"]  # logits
    chosen: Float[Tensor, "r k"]
    scores: Float[Tensor, "r c"]
    kept: Bool[Tensor, "r c"]
    maps: Float[Tensor, "c h w"]  # of the image as it is


# ---- selecting -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def select(
    classifier: Apart, copies: Replicas, alpha: float, keep: float, lookup: Lookup = "bilinear", rescale: bool = False
) -> Selection:
    """Answers by all channels and by the best of each copy, from one pass of the trunk."""
    parts: list[tuple[Tensor, ...]] = []
    first: Tensor | None = None
    for start in range(0, len(copies.x), TOGETHER):
        some = slice(start, start + TOGETHER)
        seen: dict[str, Tensor] = {}

        def choose(maps: Tensor, some: slice = some, seen: dict[str, Tensor] = seen) -> Tensor:
            there = (copies.there[0][some], copies.there[1][some])
            seen["scores"] = channel_scores(maps, copies.positive[some], copies.negative[some], alpha, lookup, there)
            seen["kept"] = best_channels(seen["scores"], keep)
            return torch.stack([torch.ones_like(seen["scores"]), as_mask(seen["kept"], rescale)])

        maps, logits = classifier(copies.x[some], choose)
        first = maps[0] if first is None else first
        parts.append((logits[0], logits[1], seen["scores"], seen["kept"]))
    assert first is not None
    return Selection(*(torch.cat(one) for one in zip(*parts, strict=True)), maps=first)  # type: ignore[misc]


def counted(x: Float[Tensor, "r ..."]) -> slice:
    """The copies that answers are averaged over: all but the image as it is, or this where there is no other."""
    return slice(min(1, len(x) - 1), None)


def averaged(logits: Float[Tensor, "r k"]) -> Float[np.ndarray, " k"]:
    """Mean probabilities."""
    return logits.double().softmax(1).mean(0).cpu().numpy()


@torch.no_grad()
def by_all_channels(classifier: Apart, x: Float[Tensor, "r 3 s s"]) -> Float[Tensor, "r k"]:
    """Logits as the classifier gives them."""
    return torch.cat([classifier(part, every)[1][0] for part in x.split(TOGETHER)])


@torch.no_grad()
def by_random_channels(
    classifier: Apart, x: Float[Tensor, "r 3 s s"], keep: float, rng: np.random.Generator
) -> Float[Tensor, "r k"]:
    """Logits by as many channels, drawn once for all copies of an image."""
    seed = int(rng.integers(2**32))

    def choose(maps: Tensor) -> Tensor:
        drawn = random_channels((1, maps.shape[1]), keep, np.random.default_rng(seed))
        return as_mask(drawn).to(maps).expand(len(maps), -1)[None]

    return torch.cat([classifier(part, choose)[1][0] for part in x.split(TOGETHER)])


def every(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "1 b c"]:
    """The mask of all channels."""
    return torch.ones_like(maps[None, :, :, 0, 0])
