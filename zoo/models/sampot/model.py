"""The score of a mask, and how a click climbs it through SAM's frozen decoder and prompt encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo import media
from zoo.errors import OptionError
from zoo.model import Model
from zoo.models.sampot import plugin
from zoo.models.sampot.result import EvolvedSegmentation, Path
from zoo.nn.promptable import Frame, OnSam, Tensors, decode, encode_prompts, mask_side
from zoo.nn.promptable.prompts import Point

FRAME = 1024.0  # px; the step size is stated for SAM's own square
CLIPPED = (0.5, 99.5)  # percentiles of the grey levels that become black and white; not stated
SPREAD = 0.125  # of the square's side: deviation of a random move, and half of it between several starts; ours
AT_ONCE = 64  # clicks in one pass of the decoder


@dataclass(frozen=True)
class SampotConfig:
    """The score, and which SAM it is for."""

    sam: str = "demo"  # a Hub id, a folder, or the SAM that comes with the zoo
    # of SAM's input, px; None for its own
    image_size: int | None = field(default=None, metadata={"min": 16, "max": 4096})
    widths: tuple[int, ...] = field(default=(16, 32, 64, 128), metadata={"min": 1, "max": 4096})  # not stated
    slope: float = field(
        default=5.0, metadata={"min": 0.1, "max": 100.0}
    )  # of the sigmoid before the score; not stated
    target: str = "mask"  # which mask of a data set the score is about


class Regressor(nn.Module):
    """O(X, Y): the Dice that a mask Y of image X is guessed to have, without the truth (Sec. 2.2).

    Five convolutions with batch normalisation and leaky ReLU between them and a sigmoid at the end; widths, strides and
    the mean over all places before the sigmoid are ours.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((2, *widths), widths, strict=False):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.LeakyReLU(0.01)]
        self.net = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, grey: Float[Tensor, "n 1 m m"], mask: Float[Tensor, "n 1 m m"]) -> Float[Tensor, " n"]:
        return self.net(torch.cat([grey, mask], 1)).mean((1, 2, 3)).sigmoid()


class Scene(NamedTuple):
    """One image, or one for each of ``n`` clicks, after SAM's encoder and as the regressor sees it: in SAM's square."""

    features: Float[Tensor, "#n c g g"]
    grey: Float[Tensor, "#n 1 m m"]  # in [0, 1], 0 beside the image
    valid: Float[Tensor, "#n 1 m m"]  # 1 on the image
    frame: Frame


Score: TypeAlias = Callable[[Scene, Float[Tensor, "n 1 m m"], Float[Tensor, " n"]], Float[Tensor, " n"]]
"""What is climbed, from the logits of the masks and the IoU that SAM expects of them."""


class Sampot(OnSam, Model[EvolvedSegmentation]):
    """What is trained: the regressor. SAM stays frozen and is not part of the weights."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = SampotConfig

    def __init__(self, config: SampotConfig | None = None) -> None:
        super().__init__(config)
        self.regressor = Regressor(self.config.widths)

    # ---- a click, its mask, its score ----------------------------------------------------------------------------

    def scene(self, grey: Float[np.ndarray, "h w"]) -> Scene:
        """An image in [0, 1]: encoded once, or taken from the cache."""
        bytes_ = np.repeat(np.round(grey * 255).astype(np.uint8)[..., None], 3, axis=2)
        embedded = self.base.embed(bytes_)
        side, frame = mask_side(self.base.sam), embedded.frame
        seen = torch.from_numpy(np.ascontiguousarray(grey, np.float32))[None].to(self.device)
        valid = (frame.low(torch.ones_like(seen), side) > 0.5).float()
        return Scene(embedded.features, frame.low(seen, side) * valid, valid, frame)

    def masks(self, scene: Scene, points: Float[Tensor, "n 2"]) -> tuple[Float[Tensor, "n 1 m m"], Float[Tensor, " n"]]:
        """Logits and the IoU that SAM expects, of one click each, px of SAM's square. Gradients reach ``points``."""
        labels = torch.ones(1, len(points), 1, dtype=torch.long, device=points.device)
        prompts = encode_prompts(self.base.sam, Tensors(points=points[None, :, None], labels=labels))
        logits, quality = decode(self.base.sam, scene.features, prompts)
        return logits, quality[:, 0]

    def forward(
        self, scene: Scene, logits: Float[Tensor, "n 1 m m"], quality: Float[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """The regressor's score of masks that a steep sigmoid makes almost binary (Sec. 2.3)."""
        soft = torch.sigmoid(self.config.slope * logits) * scene.valid
        return self.regressor(scene.grey.expand_as(soft), soft)

    @torch.no_grad()
    def scored(self, scene: Scene, points: Float[Tensor, "n 2"], score: Score | None = None) -> Float[Tensor, " n"]:
        """The score at each click, some of them at a time; ``scene`` of one image."""
        found = []
        for some in points.split(AT_ONCE):
            found.append((score or self)(scene, *self.masks(scene, some)))
        return torch.cat(found)

    # ---- how it moves --------------------------------------------------------------------------------------------

    def evolve(
        self, scene: Scene, starts: Float[Tensor, "n 2"], *, steps: int, step_size: float, score: Score | None = None
    ) -> Path:
        """Adam on the coordinates of the clicks, up the score (Eq. 1). ``step_size``: px of a square of 1024.

        Weights stay as they are: gradients are taken with respect to the clicks alone.
        """
        points = starts.detach().clone().requires_grad_()
        # a steep sigmoid leaves gradients of 1e-8, which Adam's own epsilon would stop
        adam = torch.optim.Adam([points], lr=step_size * self.base.size / FRAME, weight_decay=0.0, eps=1e-12)
        limit = self._limit(scene, points)
        found: list[tuple[Tensor, ...]] = []
        for step in range(steps + 1):
            with torch.enable_grad():
                logits, quality = self.masks(scene, points)
                value = (score or self)(scene, logits, quality)
                if step < steps:
                    (slope,) = torch.autograd.grad(value.sum(), points)
            found.append((points.detach().clone(), value.detach(), quality.detach(), logits.detach()[:, 0]))
            if step < steps:
                points.grad = -slope
                adam.step()
                with torch.no_grad():
                    points.copy_(points.clamp(min=0.0).minimum(limit))
        return Path(*map(torch.stack, zip(*found, strict=True)))

    @torch.no_grad()
    def wander(
        self, scene: Scene, starts: Float[Tensor, "n 2"], *, steps: int, rng: np.random.Generator,
        score: Score | None = None,
    ) -> Path:  # fmt: skip
        """Random local search with as many scored clicks: each is drawn around the best one so far."""
        best, best_score = starts.clone(), torch.full((len(starts),), -torch.inf, device=starts.device)
        points, limit = starts, self._limit(scene, starts)
        found: list[tuple[Tensor, ...]] = []
        for step in range(steps + 1):
            if step > 0:
                moves = torch.from_numpy(rng.normal(0, SPREAD * self.base.size, (len(starts), 2)).astype(np.float32))
                points = (best + moves.to(starts.device)).clamp(min=0.0).minimum(limit)
            logits, quality = self.masks(scene, points)
            value = (score or self)(scene, logits, quality)
            better = value > best_score
            best, best_score = torch.where(better[:, None], points, best), torch.where(better, value, best_score)
            found.append((points, value, quality, logits[:, 0]))
        return Path(*map(torch.stack, zip(*found, strict=True)))

    def _limit(self, scene: Scene, like: Tensor) -> Float[Tensor, 2]:
        height, width = scene.frame.inner
        return like.new_tensor([width - 1.0, height - 1.0])

    # ---- predict -------------------------------------------------------------------------------------------------

    def _predict(
        self, images: Sequence[media.Image], *, point: Sequence[float] | None, steps: int, step_size: float,
        search: str, multistart: int, safeguard: str, grid: int, gt: Any,
    ) -> list[EvolvedSegmentation]:  # fmt: skip
        """Evolve the click, or the best of a grid of clicks where none is given."""
        truth = None if gt is None else media.read_labels(gt).require_2d(plugin.name).array > 0
        found = []
        for image in images:
            if truth is not None and truth.shape != image.size:
                sizes = (" x ".join(map(str, reversed(size))) for size in (truth.shape, image.size))
                raise OptionError("the mask gt is {} px and the image {}; give one of the image's size".format(*sizes))
            if point is not None:
                Point(float(point[0]), float(point[1])).check(*image.size)
            # gradients are needed, and what is made in inference mode has none
            with torch.inference_mode(False), torch.no_grad():
                scene = self.scene(grey_of(image))
                scores = self.scored(scene, grid_of(scene.frame, grid).to(self.device))
                start = self._start(scene, point, scores, grid)
                starts = self._spread(scene, start, multistart)
                if search == "gradient":
                    path = self.evolve(scene, starts, steps=steps, step_size=step_size)
                else:
                    path = self.wander(scene, starts, steps=steps, rng=np.random.default_rng(0))
                found.append(
                    EvolvedSegmentation.of(
                        image, scene.frame, path, scores.reshape(grid, grid).cpu().numpy(), truth,
                        safeguard=safeguard == "overlap", automatic=point is None, drawn=search == "random",
                    )
                )  # fmt: skip
        return found

    def _start(self, scene: Scene, point: Sequence[float] | None, scores: Tensor, grid: int) -> Float[Tensor, "1 2"]:
        if point is None:
            return grid_of(scene.frame, grid)[int(scores.argmax())][None].to(self.device)
        return scene.frame.into(torch.tensor([[float(c) for c in point]], device=self.device))

    def _spread(self, scene: Scene, start: Float[Tensor, "1 2"], count: int) -> Float[Tensor, "n 2"]:
        """The start itself and others around it, the same for every image."""
        moves = np.random.default_rng(1).normal(0, SPREAD / 2 * self.base.size, (count, 2)).astype(np.float32)
        moves[0] = 0
        around = start + torch.from_numpy(moves).to(start.device)
        return around.clamp(min=0.0).minimum(self._limit(scene, around))


def grey_of(picture: media.Image) -> Float[np.ndarray, "h w"]:
    """In [0, 1], with the darkest and the brightest half percent clipped (not stated)."""
    grey = picture.grey().astype(np.float32)
    low, high = np.percentile(grey, CLIPPED)
    return np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1).astype(np.float32)


def grid_of(frame: Frame, side: int) -> Float[Tensor, "n 2"]:
    """``side`` x ``side`` clicks in the middle of equal cells of the image, row by row, px of SAM's square."""
    height, width = frame.inner
    y, x = ((torch.arange(side) + 0.5) / side * length for length in (height, width))
    return torch.stack([x.repeat(side), y.repeat_interleave(side)], 1)
