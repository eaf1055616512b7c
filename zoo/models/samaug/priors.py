"""From the masks of a frozen SAM to two maps, and from these to the augmented image (Sec. 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from torch import Tensor

from zoo.data.features import FeatureCache, content_key, weights_key
from zoo.errors import OptionError
from zoo.figure.overlays import grown
from zoo.nn.promptable import AutoMask, Grid, Promptable, find_everything

Compose = Literal["sum", "max", "paint"]
Boundary = Literal["exterior", "thick"]


def rasterise(
    masks: Sequence[AutoMask],
    size: Sequence[int],
    compose: Compose = "sum",
    boundary: Boundary = "exterior",
    *,
    scored: bool = True,
) -> Float[np.ndarray, "2 h w"]:
    """The segmentation prior and the boundary prior of an image of ``size``.

    Segmentation: every mask is drawn with its stability. ``sum`` adds where masks overlap, as the authors' code does,
    so that nested masks exceed 1; ``max`` keeps the largest; ``paint`` the last. ``scored=False`` draws ones.
    Boundary: 1 on the boundary of any mask. ``exterior``: its own outermost pixels, holes ignored, as the paper says;
    ``thick``: two pixels wide, to both sides, around holes too, as the authors' code does.
    """
    out = np.zeros((2, *size), np.float32)
    segmentation, edges = out
    for mask in masks:
        x0, y0, x1, y1 = mask.box
        here, value = segmentation[y0:y1, x0:x1], mask.stability if scored else 1.0
        if compose == "sum":
            here += mask.inside * np.float32(value)
        elif compose == "max":
            np.maximum(here, mask.inside * np.float32(value), out=here)
        else:
            here[mask.inside] = value
        if boundary == "exterior":
            np.maximum(edges[y0:y1, x0:x1], exterior(mask.inside), out=edges[y0:y1, x0:x1])
        else:
            top, left = max(y0 - 1, 0), max(x0 - 1, 0)
            bottom, right = min(y1 + 1, size[0]), min(x1 + 1, size[1])
            padded = np.zeros((bottom - top, right - left), bool)
            padded[y0 - top : y1 - top, x0 - left : x1 - left] = mask.inside
            around = edges[top:bottom, left:right]
            np.maximum(around, grown(padded) & grown(~padded), out=around)
    return out


def exterior(inside: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels of a mask that have a neighbour (of four) outside of it; what lies in a hole is no outside."""
    filled = ndimage.binary_fill_holes(inside)
    core = filled.copy()
    core[[0, -1]] = False
    core[:, [0, -1]] = False
    core[1:] &= filled[:-1]
    core[:-1] &= filled[1:]
    core[:, 1:] &= filled[:, :-1]
    core[:, :-1] &= filled[:, 1:]
    return filled & ~core


def fuse(
    image: Float[Tensor, "b 3 h w"], priors: Float[Tensor, "b 2 h w"], grey: Bool[Tensor, " b"]
) -> Float[Tensor, "b 3 h w"]:
    """Aug(prior_seg, prior_boundary, x) (Sec. 3.2): priors are added to the second and third channel, unclipped.

    Of ``grey`` images they take the place of these channels.
    """
    rest = torch.where(grey.view(-1, 1, 1, 1), priors, image[:, 1:] + priors)
    return torch.cat([image[:, :1], rest], 1)


class PriorMaker:
    """The priors of images, made once for each and then kept: in memory, and in ``cache``'s folder, if it has one."""

    def __init__(
        self,
        base: Promptable | Callable[[], Promptable],
        grid: Grid,
        compose: Compose,
        boundary: Boundary,
        cache: FeatureCache | None = None,
        *,
        scored: bool = True,
    ) -> None:
        self._base = base
        self.grid, self.compose, self.boundary, self.scored = grid, compose, boundary, scored
        self.cache = FeatureCache(half=True) if cache is None else cache
        self._weights: str | None = None

    @property
    def base(self) -> Promptable:
        if not isinstance(self._base, Promptable):
            self._base = self._base()
        return self._base

    def __call__(self, rgb: UInt8[np.ndarray, "h w 3"]) -> tuple[Float[np.ndarray, "2 h w"], int]:
        """Segmentation and boundary prior at the size of the image, and how many masks they are made of."""
        if self._weights is None:
            self._weights = weights_key(self.base.sam)
        how = (self.grid.key(), self.compose, self.boundary, str(self.scored), str(self.base.size))
        key = content_key(rgb, self._weights, *how)
        made: list[tuple[Tensor, Tensor]] = []

        def make(part: int) -> Tensor:
            if not made:
                masks = find_everything(self.base, rgb, self.grid)
                maps = rasterise(masks, rgb.shape[:2], self.compose, self.boundary, scored=self.scored)
                made.append((torch.from_numpy(maps), torch.tensor([float(len(masks))])))
            return made[0][part]

        maps = self.cache.get(key, lambda: make(0))
        return maps.float().numpy(), int(self.cache.get(f"{key}-masks", lambda: make(1)))


def read_priors(path: str, size: Sequence[int]) -> Float[np.ndarray, "2 h w"]:
    """Priors that a prediction saved. Raises ``OptionError`` for another file, or one of an image of another size."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            found = tuple(file.get_slice("priors").get_shape())
            if found != (2, *size):
                raise OptionError(
                    f"{path} holds priors of {' x '.join(map(str, found[1:]))} px, but the image is "
                    f"{size[0]} x {size[1]}; give those of this image"
                )
            priors = file.get_tensor("priors").float()
    except (SafetensorError, OSError) as error:
        raise OptionError(f"{path} holds no priors; give the file NAME_priors.safetensors of a prediction") from error
    if not torch.isfinite(priors).all():
        raise OptionError(f"{path} holds priors that are no finite numbers; make them anew")
    return priors.numpy()
