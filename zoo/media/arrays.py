"""Arrays and tensors as images."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.errors import MediaError
from zoo.media.image import Image

_MAX_CHANNELS = 4


def from_numpy(array: np.ndarray, mode: str = "auto") -> Image:
    """``[h w]`` or ``[h w c]``, c at most 4 (any c with ``mode="image"``); ``[z h w]`` with ``mode="volume"``.

    ``[z h w c]``, c of 3 or 4, is a volume in colour: a stack of photographs.

    Booleans become 0 and 255, float16 and float64 become float32. Raises ``MediaError`` for empty arrays, other
    shapes, and types that are not real numbers.
    """
    if array.size == 0:
        raise MediaError(f"can't read an array of shape {list(array.shape)}: it is empty; give at least one pixel")
    if array.dtype.kind not in "buif":
        raise MediaError(f"can't read an array of type {array.dtype}: pixels must be real numbers; convert it first")
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what overflows is refused as infinite
            array = array.astype(np.float32, copy=False)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 4 and mode == "auto" and array.shape[-1] in (3, _MAX_CHANNELS):
        return Image(array, ndim_spatial=3)
    if mode == "volume":
        if array.ndim != 3:
            raise MediaError(f"can't read an array of shape {list(array.shape)} as a volume: give it as [z h w]")
        return Image(array, ndim_spatial=3)
    is_plane = array.ndim == 2 or (array.ndim == 3 and (mode == "image" or array.shape[-1] <= _MAX_CHANNELS))
    if not is_plane:
        raise MediaError(
            f"can't read an array of shape {list(array.shape)} as an image: give it as [h w] or [h w c] with at most "
            f"{_MAX_CHANNELS} channels, or pass mode='volume' for [z h w]"
        )
    return Image(array, ndim_spatial=2)


def from_tensor(tensor: Any, mode: str = "auto") -> Image:
    """A torch tensor ``[h w]``, ``[c h w]`` or ``[1 c h w]``; with ``mode="volume"`` ``[z h w]`` behind axes of 1."""
    shape = list(tensor.shape)
    if tensor.is_complex():
        raise MediaError(f"can't read a tensor of type {tensor.dtype}: pixels must be real numbers; convert it first")
    tensor = tensor.detach().cpu()
    array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    spatial = 3 if mode == "volume" else 2
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if mode == "volume":
        if array.ndim != spatial:
            raise MediaError(f"can't read a tensor of shape {shape} as a volume: give it as [z h w]")
        return from_numpy(array, mode)
    if array.ndim == 2:
        return from_numpy(array, mode)
    if array.ndim != 3 or (mode == "auto" and array.shape[0] > _MAX_CHANNELS):
        raise MediaError(
            f"can't read a tensor of shape {shape} as an image: give it as [h w], [c h w] or [1 c h w] with at most "
            f"{_MAX_CHANNELS} channels, or pass mode='volume' for [z h w]"
        )
    return from_numpy(array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1), mode)
