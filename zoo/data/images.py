"""From cases to what a network takes: class numbers, squares, one size, bytes in memory, numbers in [0, 1].

A view is what a network sees of a picture, as bytes ``[s s c]``; ``ImageSet`` holds the views of a data set with their
labels, ``Views`` those of sets that may not fit into memory. Features of a frozen network: ``zoo.data.features``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image as PILImage
from torch import Tensor

from zoo import media
from zoo.data.case import Case
from zoo.data.views import kept
from zoo.errors import DataError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]
IN_MEMORY = 2 << 30  # bytes of views


# ---- labels ----------------------------------------------------------------------------------------------------------


def place_of(text: Any, names: Sequence[str]) -> int | None:
    """Which of ``names`` is meant, as a number from 0: by name, else by number; None for neither."""
    text = str(text)
    if text in names:
        return list(names).index(text)
    return int(text) if text.isdecimal() and int(text) < len(names) else None


def label_index(label: str | int | None, labels: Sequence[str], where: str, remedy: str = "") -> int:
    """The class of a label, by its name or its number from 0.

    ``where`` has the label, such as ``case 17``; ``remedy``: how to name other labels. Raises ``DataError`` for a label
    that is none of ``labels``, and for None.
    """
    place = None if label is None else place_of(label, labels)
    if place is None:
        hint = f"; {remedy}" if remedy else ""
        raise DataError(f"{where} has the label {label!r}, which is none of {', '.join(labels)}{hint}")
    return place


def label_vector(
    label: str | int | None, labels: Sequence[str], where: str, remedy: str = "", *, nothing: Sequence[str] = ()
) -> list[float]:
    """0 or 1 for each of ``labels``: ``label`` names those that hold, joined by ``|``; an empty text is none of them.

    ``nothing``: further words for none. Raises ``DataError`` as :func:`label_index`.
    """
    names = [name.strip() for name in str(label).split("|")]
    names = [name for name in names if name and name not in nothing]
    if label is None or any(name not in labels for name in names):
        hint = f"; {remedy}" if remedy else ""
        raise DataError(f"{where} has the label {label!r}, which is none of {', '.join(labels)}{hint}")
    return [float(name in names) for name in labels]


# ---- pictures --------------------------------------------------------------------------------------------------------


def rgb_bytes(picture: media.Image) -> UInt8[np.ndarray, "h w 3"]:
    """The picture's colours in bytes; grey ones have three equal channels."""
    return np.round(picture.rgb() * 255).astype(np.uint8)


def square(array: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "s s *c"]:
    """The largest centred square."""
    top, left, side = square_of(array.shape)
    return array[top : top + side, left : left + side]


def square_of(size: Sequence[int]) -> tuple[int, int, int]:
    """Top, left and side of the largest centred square of an image of ``size`` (height, width, ...)."""
    h, w = size[:2]
    side = min(h, w)
    return (h - side) // 2, (w - side) // 2, side


@dataclass(frozen=True)
class Window:
    """The square of an image that a network sees, in px."""

    top: int
    left: int
    side: int

    def cut(self, array: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "s s *c"]:
        return array[self.top : self.top + self.side, self.left : self.left + self.side]


def cell_edges(cell: int, side: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a cell of a map of ``side`` x ``side``, as shares of the square."""
    row, column = divmod(cell, side)
    return column / side, row / side, (column + 1) / side, (row + 1) / side


def resize(
    array: Shaped[np.ndarray, "h w *c"], size: int | Sequence[int], resample: Resample = "bicubic"
) -> Shaped[np.ndarray, "H W *c"]:
    """The image at another size (height and width, or the side of a square), all channels alike.

    Reducing takes the support of the larger pixel. Bytes stay bytes, masks (bool) stay masks, anything else becomes
    float32, where bicubic and Lanczos may overshoot. An image of that size already is returned as it is.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if array.shape[:2] == (height, width):
        return array
    if array.dtype == bool:
        return resize(array.astype(np.uint8), (height, width), resample) > 0
    if array.ndim == 3 and not (array.dtype == np.uint8 and array.shape[2] == 3):
        return np.stack([resize(channel, (height, width), resample) for channel in np.moveaxis(array, 2, 0)], axis=-1)
    exact = np.ascontiguousarray(array, dtype=np.uint8 if array.dtype == np.uint8 else np.float32)
    how = PILImage.Resampling[resample.upper()]
    return np.asarray(PILImage.fromarray(exact).resize((width, height), how))


def centre_crop(rgb: UInt8[np.ndarray, "h w 3"], size: int, share: float = 224 / 256) -> UInt8[np.ndarray, "s s 3"]:
    """The centred square of ``size`` px that is ``share`` of the short side, as ImageNet classifiers are tested."""
    h, w = rgb.shape[:2]
    scale = round(size / share) / min(h, w)
    scaled = resize(rgb, (max(size, round(h * scale)), max(size, round(w * scale))))
    top, left = (scaled.shape[0] - size) // 2, (scaled.shape[1] - size) // 2
    return scaled[top : top + size, left : left + size]


def pad_to(
    array: Shaped[np.ndarray, "*shape"],
    size: int,
    axes: tuple[int, int] = (0, 1),
    mode: Literal["constant", "edge"] = "constant",
) -> Shaped[np.ndarray, "*padded"]:
    """At least ``size`` along both axes, filled below and to the right with 0, or with the border (``edge``)."""
    width = [(0, 0)] * array.ndim
    for axis in axes:
        width[axis] = (0, max(0, size - array.shape[axis]))
    return np.pad(array, width, mode=mode) if any(after for _, after in width) else array


# ---- tensors ---------------------------------------------------------------------------------------------------------


def to_tensor(
    views: UInt8[np.ndarray, "b h w c"] | Sequence[UInt8[np.ndarray, "h w c"]], device: torch.device | str = "cpu"
) -> Float[Tensor, "b c h w"]:
    """Bytes as numbers in [0, 1], one after the other in memory as they came (channels last)."""
    stacked = views if isinstance(views, np.ndarray) else np.stack(list(views))
    return torch.from_numpy(np.ascontiguousarray(stacked)).to(device).permute(0, 3, 1, 2).float() / 255


def normalise(
    x: Float[Tensor, "b c h w"], mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Float[Tensor, "b c h w"]:
    """``(x - mean) / std`` by channel; one number serves all channels."""
    return (x - x.new_tensor(mean).view(-1, 1, 1)) / x.new_tensor(std).view(-1, 1, 1)


# ---- sets in memory --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageSet:
    """Labelled images as bytes, in memory."""

    views: UInt8[Tensor, "n c s s"]
    y: Int[Tensor, " n"] | Float[Tensor, "n k"]  # a class, or 0 and 1 for each of several labels
    ids: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        views: Iterable[UInt8[np.ndarray, "s s c"]],
        y: Sequence[int] | Sequence[Sequence[float]],
        ids: Iterable[str] = (),
        *,
        empty: tuple[int, int, int],
        channels_last: bool = False,
    ) -> ImageSet:
        """From views and labels. ``empty``: (c, s, s) of a set without images.

        ``channels_last``: how batches lie in memory, on which the last bit of a convolution may hang.
        """
        arrays = list(views)
        stacked = np.stack(arrays) if arrays else np.zeros((0, *empty[1:], empty[0]), np.uint8)
        tensor = torch.from_numpy(stacked).permute(0, 3, 1, 2)
        several = bool(len(y)) and np.ndim(y[0]) > 0
        labels = torch.tensor(y, dtype=torch.float32 if several else torch.int64)
        return cls(tensor if channels_last else tensor.contiguous(), labels, tuple(ids))

    def __len__(self) -> int:
        return len(self.y)

    def batch(
        self, index: Sequence[int] | np.ndarray | Tensor, device: torch.device | str = "cpu"
    ) -> tuple[Float[Tensor, "b c s s"], Shaped[Tensor, "b ..."]]:
        """Images in [0, 1], not yet normalised, and their labels."""
        place = torch.as_tensor(np.asarray(index), dtype=torch.int64)
        last = not self.views.is_contiguous() and self.views.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        views = self.views[place].contiguous(memory_format=layout)
        return views.to(device).float() / 255, self.y[place].to(device)

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of every channel, of [0, 1]."""
        values = self.views.permute(0, 2, 3, 1).float().flatten(0, 2) / 255
        return values.mean(0).tolist(), values.std(0, correction=0).tolist()


def over_images(
    net: torch.nn.Module,
    function: Callable[[Float[Tensor, "b 3 s s"]], Tensor],
    images: ImageSet,
    device: torch.device,
    places: Int[Tensor, " m"] | None = None,
) -> Tensor:
    """``function`` of all images (or of those at ``places``), 64 at a time and in eval mode, normalised; on the CPU."""
    training = net.training
    net.eval()
    some = torch.arange(len(images)) if places is None else places
    with torch.no_grad():
        parts = [function(normalise(images.batch(index, device)[0])).cpu() for index in some.split(64)]
    net.train(training)
    return torch.cat(parts)


def read_views(
    cases: Iterable[Case], view: Callable[[media.Image], UInt8[np.ndarray, "s s c"]], needed_by: str, what: str
) -> list[UInt8[np.ndarray, "s s c"]]:
    """``view`` of every case's 2-D image, kept on disk as ``what``. Raises ``MediaError`` for a volume."""

    def one(image: Any) -> UInt8[np.ndarray, "s s c"]:
        made = kept(image, f"{needed_by} {what}", lambda: {"view": view(media.read(image).require_2d(needed_by))})
        return made["view"]

    return [one(case.image) for case in cases]


class Views:
    """Views of images, made at once where they fit into ``memory`` bytes, otherwise whenever they're asked for.

    ``view`` reads one image and may run in several threads, for decoding lets go of the interpreter's lock. ``what``
    names it: views of files are kept on disk (``zoo.data.views``), so that no file is decoded twice.
    """

    def __init__(
        self,
        images: Sequence[Any],
        view: Callable[[Any], UInt8[np.ndarray, "s s c"]],
        size: int,
        what: str,
        memory: int = IN_MEMORY,
    ) -> None:
        self.images = images
        self._view = lambda image: kept(image, what, lambda: {"view": view(image)})["view"]
        self._kept: UInt8[np.ndarray, "n s s c"] | None = None
        if 0 < len(images) * size <= memory:
            self._kept = self._make(range(len(images)))

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Sequence[int] | np.ndarray) -> UInt8[np.ndarray, "b s s c"]:
        return self._make(index) if self._kept is None else self._kept[np.asarray(index)]

    def _make(self, index: Iterable[SupportsIndex]) -> UInt8[np.ndarray, "b s s c"]:
        with ThreadPoolExecutor(8) as pool:
            return np.stack(list(pool.map(self._view, [self.images[int(i)] for i in index])))
