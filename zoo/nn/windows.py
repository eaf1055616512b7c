"""Sliding-window inference on volumes and flat images whose memory doesn't grow with classes times their size.

Windows and their weights are MONAI's; what MONAI's inferer adds up for the whole volume is added up here for the slab
that windows still reach. A finished slab goes through ``finish`` and leaves only its result.

Beside the network, for a volume of Z x H x W voxels, k channels and a window of d planes, in bytes:

====================  =========================  ==============================================
the volume            4 Z H W (float32)          0.84 GB for 800 x 512 x 512
the slab              4 (k + 1) d H W            0.91 GB for 8 classes and windows of 96 planes
the result            2 k Z H W (half logits)    0.42 GB for one class, 3.36 GB for 8
or, with ``finish``   Z H W (uint8 labels)       0.21 GB
====================  =========================  ==============================================

``tiled`` is the same for flat images in bytes, such as regions of a slide; ``by_patches`` leaves out windows where
there is nothing to see, as on slides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Shaped, UInt8
from torch import Tensor

from zoo.data.images import to_tensor
from zoo.errors import MissingExtraError
from zoo.progress import Bar


@torch.no_grad()
def sliding_window(
    network: Callable[[Tensor], Tensor],
    volume: Shaped[Tensor, "c z *plane"],
    size: Sequence[int],
    *,
    finish: Callable[[Tensor], Tensor] = Tensor.half,
    overlap: float = 0.5,
    blend: Literal["gaussian", "constant"] = "gaussian",
    outside: float = 0.0,
    batch: int = 1,
    device: torch.device | str | None = None,
    sum_on: torch.device | str = "cpu",
    description: str = "windows",
    progress: bool = True,
) -> Shaped[Tensor, "*kept"]:
    """What ``network`` says about the whole volume, as the weighted mean over overlapping windows.

    Args:
        network: float32 ``[b c d h w]`` to ``[b k d h w]``; in eval mode, if it should be.
        volume: one volume ``[c z h w]`` of any type, or flat image ``[c h w]``; a window at a time becomes float32 on
            ``device``.
        size: of the window, ``(d, h, w)`` or ``(h, w)``. A volume shorter than it is continued by ``outside``.
        finish: from the mean logits ``[k slab h w]``, float32, to what is kept of them, spatial axes last. Half
            precision by default; ``lambda x: x.sigmoid().half()`` for probabilities,
            ``lambda x: x.argmax(0).to(torch.uint8)`` for labels. It sees every voxel once and must not mix slabs.
        overlap: of neighbouring windows, as a share of their length; at least 0, below 1.
        blend: ``gaussian`` trusts a window's middle most (sigma an eighth of its length), ``constant`` all of it alike.
        outside: value beyond the volume.
        batch: windows in one forward pass.
        device: where the network is; by default where the volume is.
        sum_on: where logits are added up and results are kept.
        description: of the progress bar, which counts windows.
        progress: whether there is a bar, on a terminal.

    Returns:
        ``[... z h w]`` or ``[... h w]``: what ``finish`` gave, slab after slab, for the volume's own voxels.

    Raises:
        ValueError: ``overlap`` or ``size`` make no windows, or the network's output isn't of the window's size.
        MissingExtraError: MONAI is not installed.
    """
    if not 0 <= overlap < 1 or len(size) != volume.ndim - 1 or min(size) < 1:
        raise ValueError(f"windows of {tuple(size)} with overlap {overlap} do not fit a volume {tuple(volume.shape)}")
    padded, own = _padded(volume, size, outside)
    windows, weight = _windows(padded.shape[1:], size, overlap, blend, sum_on)
    slab: _Slab | None = None
    with Bar(description, len(windows), enabled=progress) as bar:
        for start in range(0, len(windows), batch):
            chosen = windows[start : start + batch]
            views = [padded[(slice(None), *where)] for where in chosen]
            inputs = torch.stack(views).to(device or volume.device).to(torch.float32)
            outputs = network(inputs).to(sum_on, torch.float32)
            if outputs.shape[2:] != weight.shape:
                raise ValueError(f"the network gives {list(outputs.shape)} for a window of {list(weight.shape)}")
            for where, logits in zip(chosen, outputs, strict=True):
                slab = slab or _Slab(logits.shape[0], len(weight), padded.shape[1:], own, finish, sum_on)
                slab.add(where, logits, weight)
            bar.update(start + len(chosen))
    assert slab is not None
    return slab.result()


class _Slab:
    """Sums of weighted logits over the planes that the windows of the moment reach; it moves along the first axis."""

    def __init__(
        self,
        channels: int,
        planes: int,
        size: Sequence[int],
        own: tuple[slice, ...],
        finish: Callable[[Tensor], Tensor],
        device: torch.device | str,
    ) -> None:
        self.sums = torch.zeros(channels, planes, *size[1:], device=device)
        self.weights = torch.zeros(planes, *size[1:], device=device)
        self.first = 0  # the plane of the volume at which the slab begins
        self.own, self.finish = own, finish
        self.kept: Tensor | None = None

    def add(
        self, where: tuple[slice, ...], logits: Float32[Tensor, "k z h *line"], weight: Float32[Tensor, "z h *line"]
    ) -> None:
        if where[0].start > self.first:  # windows come in the order of the first axis: none reaches back
            self._move(where[0].start - self.first)
        self.sums[(slice(None), slice(None), *where[1:])].addcmul_(logits, weight)
        self.weights[(slice(None), *where[1:])] += weight

    def result(self) -> Tensor:
        self._keep(len(self.weights))
        assert self.kept is not None
        return self.kept

    def _move(self, by: int) -> None:
        self._keep(by)
        planes = len(self.weights)
        for tensor, axis in ((self.sums, 1), (self.weights, 0)):
            for start in range(0, planes - by, by):  # in steps that don't overlap themselves
                length = min(by, planes - by - start)
                tensor.narrow(axis, start, length).copy_(tensor.narrow(axis, start + by, length))
            tensor.narrow(axis, planes - by, by).zero_()
        self.first += by

    def _keep(self, planes: int) -> None:
        begin, end = max(self.first, self.own[0].start), min(self.first + planes, self.own[0].stop)
        if begin >= end:
            return
        here = slice(begin - self.first, end - self.first)
        means = self.sums[(slice(None), here, *self.own[1:])]
        means /= self.weights[(here, *self.own[1:])]
        part = self.finish(means)
        axis = part.ndim - len(self.own)
        if self.kept is None:
            shape = [*part.shape[:axis], *(one.stop - one.start for one in self.own)]
            self.kept = torch.empty(shape, dtype=part.dtype, device=part.device)
        self.kept.narrow(axis, begin - self.own[0].start, end - begin).copy_(part)


def tiled(
    network: Callable[[Float[Tensor, "b 3 t t"]], Float[Tensor, "b k t t"]],
    rgb: UInt8[np.ndarray, "h w 3"],
    tile: int,
    *,
    finish: Callable[[Tensor], Tensor] = Tensor.half,
    overlap: float = 0.5,
    batch: int = 1,
    device: torch.device | str = "cpu",
) -> Shaped[Tensor, "*kept"]:
    """What ``network`` says about tiles in [0, 1] that overlap and are blended, as of regions of any size; no bar.

    An image smaller than ``tile`` is continued by its border. ``finish`` and the result as in ``sliding_window``.
    """
    h, w = rgb.shape[:2]
    padded = np.pad(rgb, ((0, max(0, tile - h)), (0, max(0, tile - w)), (0, 0)), mode="edge")
    planes = torch.from_numpy(np.ascontiguousarray(padded)).permute(2, 0, 1)
    found = sliding_window(
        lambda x: network(x / 255), planes, (tile, tile), finish=finish, overlap=overlap, batch=batch,
        device=device, progress=False,
    )  # fmt: skip
    return found[..., :h, :w]


@torch.inference_mode()
def by_patches(
    network: Callable[[Float[Tensor, "b 3 p p"]], Float[Tensor, "b p p"]],
    rgb: UInt8[np.ndarray, "h w 3"],
    size: int,
    *,
    inside: Bool[np.ndarray, "h w"] | None = None,
    batch: int = 1,
    device: torch.device | str = "cpu",
) -> Float32[np.ndarray, "h w"]:
    """What ``network`` says about patches in [0, 1] that overlap by half, as of slides; 0 where none reaches.

    A patch counts most in its middle and next to nothing at its edge, where networks see least: patches laid side by
    side show in the result. Those that have nothing of ``inside`` in them are left out.
    """
    (h, w), step = rgb.shape[:2], max(1, size // 2)
    rows, columns = (range(0, max(1, -(-(side - size) // step) * step + 1), step) for side in (h, w))
    padded = np.pad(rgb, ((0, max(0, rows[-1] + size - h)), (0, max(0, columns[-1] + size - w)), (0, 0)), mode="edge")
    corners = [
        (top, left)
        for top in rows
        for left in columns
        if inside is None or inside[top : top + size, left : left + size].any()
    ]
    ramp = 1 - np.abs(2 * (np.arange(size, dtype=np.float32) + 0.5) / size - 1)
    weight = np.outer(ramp, ramp)
    out, weights = (np.zeros(padded.shape[:2], np.float32) for _ in range(2))
    for first in range(0, len(corners), batch):
        some = corners[first : first + batch]
        x = to_tensor([padded[top : top + size, left : left + size] for top, left in some], device)
        for (top, left), patch in zip(some, network(x).float().cpu().numpy(), strict=True):
            out[top : top + size, left : left + size] += weight * patch
            weights[top : top + size, left : left + size] += weight
    return (out / np.where(weights > 0, weights, 1))[:h, :w]


def _padded(
    volume: Shaped[Tensor, "c z *plane"], size: Sequence[int], outside: float
) -> tuple[Shaped[Tensor, "c z2 *padded"], tuple[slice, ...]]:
    """The volume, continued on both sides to at least ``size``, and where in it the volume lies."""
    missing = [max(0, m - n) for n, m in zip(volume.shape[1:], size, strict=True)]
    own = tuple(slice(gap // 2, gap // 2 + n) for gap, n in zip(missing, volume.shape[1:], strict=True))
    if not any(missing):
        return volume, own
    pads = [side for gap in reversed(missing) for side in (gap // 2, gap - gap // 2)]
    return F.pad(volume, pads, value=outside), own


def _windows(
    shape: Sequence[int], size: Sequence[int], overlap: float, blend: str, device: torch.device | str
) -> tuple[list[tuple[slice, ...]], Float32[Tensor, "*grid"]]:
    """Where the windows lie, sorted along the first axis, and the weight of each of their voxels."""
    try:
        from monai.data.utils import compute_importance_map, dense_patch_slices
    except ImportError:
        raise MissingExtraError("sliding-window inference", "monai", "volumes") from None
    steps = [n if n == m else max(1, int(m * (1 - overlap))) for n, m in zip(shape, size, strict=True)]
    weight = compute_importance_map(tuple(size), mode=blend, sigma_scale=0.125, device=device)
    windows = dense_patch_slices(tuple(shape), tuple(size), steps)
    return [tuple(slice(int(one.start), int(one.stop)) for one in where) for where in windows], weight
