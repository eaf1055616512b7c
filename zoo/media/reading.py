"""``read``: one door for everything a user has."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image as PILImage

from zoo import samples
from zoo.errors import MediaError, OptionError
from zoo.media import arrays, raster
from zoo.media.files import refusal, user_path
from zoo.media.image import SCANNED, Image
from zoo.media.sniff import identify
from zoo.spec import Spec, is_kind

Mode = Literal["auto", "image", "volume"]

SOURCES = {"phantom": "zoo.data.phantoms:image"}
"""Names that no file has, and the function that makes an image of one: as text, for it lives on a floor above."""


_listeners: list[dict[str, tuple[str, ...]]] = []


@contextmanager
def listening() -> Iterator[dict[str, tuple[str, ...]]]:
    """The notes of the images that are read meanwhile, by any thread: source -> notes."""
    heard: dict[str, tuple[str, ...]] = {}
    _listeners.append(heard)
    try:
        yield heard
    finally:
        _listeners[:] = [one for one in _listeners if one is not heard]


def read(x: Any, *, mode: Mode = "auto") -> Image:
    """Reads an image or a volume.

    Args:
        x: a path to a PNG, JPEG, TIFF, BMP, DICOM, NIfTI, NRRD or MetaImage file or to the folder of a DICOM series;
            ``"sample:NAME"`` (:mod:`zoo.samples`); ``"phantom:NAME?seed=N"`` (``zoo.data.phantoms``); a Pillow image;
            a NumPy array ``[h w]`` or ``[h w c]`` (with ``mode="volume"``: ``[z h w]``); a torch tensor ``[h w]``,
            ``[c h w]`` or ``[1 c h w]`` (with ``mode="volume"``: ``[z h w]`` and leading axes of length 1); or an
            :class:`Image`.
        mode: ``image`` and ``volume`` refuse the other kind; ``auto`` takes what comes.

    Raises:
        MediaError: one sentence naming the source, the reason and a remedy.
        MissingExtraError: the library for this format is not installed.
    """
    if mode not in ("auto", "image", "volume"):
        raise OptionError(f"mode must be 'auto', 'image' or 'volume', not {mode!r}")
    image = _read(x, mode)
    if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
        count = int(np.count_nonzero(~np.isfinite(image.array)))
        raise refusal(
            image.source, f"{count:,} of its values are NaN or infinite", "replace them, e.g. with numpy.nan_to_num"
        )
    image = _with_range(image)
    for heard in _listeners:
        heard.update({image.source: image.notes} if image.notes else {})
    if mode == "image":
        return image.require_2d()
    return image.require_3d("mode='volume'") if mode == "volume" else image


def _with_range(image: Image) -> Image:
    """Says what white is where 8-bit values came in wider integers, and that finer ones use little of their range."""
    array = image.array
    if array.dtype.kind not in "iu" or array.dtype == np.uint8 or image.format in ("dicom", *SCANNED):
        return image
    low, high = int(array.min()), int(array.max())
    if "notes" in image.meta or low < 0 or not 0 < high < 4096 or (high > 255 and array.dtype != np.uint16):
        return image
    if high > 255:
        text = (
            f"its 16-bit values reach only to {high:,} of 65,535, so that it looks dark; scale them if they shouldn't"
        )
        return replace(image, meta={**image.meta, "notes": [text]})
    text = f"its {array.dtype} values reach only to {high}: 255 was taken for white"
    return replace(image, meta={**image.meta, "white": 255, "notes": [text]})


def _read(x: Any, mode: Mode) -> Image:
    if isinstance(x, Image):
        return x
    if isinstance(x, (str, os.PathLike)):
        return _read_named(os.fspath(x))
    if isinstance(x, np.ndarray):
        return arrays.from_numpy(x, mode)
    if isinstance(x, PILImage.Image):
        return raster.from_pillow(x)
    # A tensor can only exist where torch is already imported.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return arrays.from_tensor(x, mode)
    raise MediaError(f"can't read a {type(x).__name__}: give a path, a NumPy array, a torch tensor or a Pillow image")


def _read_named(name: str) -> Image:
    if not name.strip():
        raise MediaError("can't read a file without a name: the path is empty; name a file")
    if is_kind(name, "sample"):
        return replace(_read_path(samples.path(name)), source=name)
    if is_kind(name, *SOURCES):
        module, _, function = SOURCES[Spec.parse(name).kind].partition(":")
        return getattr(import_module(module), function)(name)
    return _read_path(user_path(name))


def _read_path(path: Path) -> Image:
    if str(path).startswith(("http:/", "https:/")):
        raise refusal(path, "it is a web address", "download the file and give its path")
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
        raise refusal(path, "the folder can't be opened", "check its permissions")
    try:
        return _read_folder(path) if path.is_dir() else _read_file(path)
    except MemoryError:
        raise refusal(path, "it needs more memory than there is", "downsample or crop it") from None


def _read_folder(path: Path) -> Image:
    from zoo.media.series import read_series

    return read_series(path)


def _read_file(path: Path) -> Image:
    kind = identify(path)
    if kind == "dicom":
        from zoo.media.dicom import read_dicom

        return read_dicom(path)
    if kind == "nifti":
        from zoo.media.nifti import read_nifti

        return read_nifti(path)
    if kind in ("nrrd", "metaimage"):
        from zoo.media.itk import read_itk

        return read_itk(path, kind)
    return raster.read_raster(path, kind)
