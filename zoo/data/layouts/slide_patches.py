"""Patches of annotated slides: where the region covers part of them, cut out by OpenSlide when they're needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from zoo.data.case import Case
from zoo.data.sets import Entry
from zoo.errors import DataError, MissingExtraError

SIDE = 400  # px of a patch; S. Kim et al. 2023, Sec. 3.1
SHARE = (0.2, 0.8)  # of the patch that is in the region; likewise
CELLS = 16  # a side, in which the region is looked for
MICRONS = 10.0  # one px at 1x: 40x is 0.25 um

Ring = Float[np.ndarray, "n 2"]  # x and y of a polygon's corners, px of the finest level


def open_slide(path: Path) -> tuple[tuple[int, int], float]:
    """Width and height of the finest level, and its magnification by the spacing that the slide states.

    Raises ``DataError`` for no slide or one without a spacing, ``MissingExtraError`` without OpenSlide.
    """
    try:
        import openslide
    except ImportError as error:
        raise MissingExtraError(f"reading {path}", "openslide-python", "pathology") from error
    try:
        with openslide.OpenSlide(str(path)) as slide:
            spacing = slide.properties.get("openslide.mpp-x")
            if spacing is None:
                raise DataError(f"{path} states no spacing, so its magnification is unknown; export it with one")
            return slide.dimensions, MICRONS / float(spacing)
    except (openslide.OpenSlideError, OSError) as error:
        raise DataError(f"{path} is no slide that OpenSlide reads ({error}); copy it again") from error


def reach_of(path: Path, magnification: float) -> int:
    """Side of a patch in px of the finest level. Raises ``DataError`` where the slide is coarser than that."""
    factor = round(open_slide(path)[1] / magnification)
    if factor < 1:
        raise DataError(f"{path} was scanned below {magnification:g}x; leave it out")
    return SIDE * factor


def patches(
    cover: Float[np.ndarray, "h w"], slide: Path, name: str, reach: int, mask: object, split: str | None
) -> Iterator[Entry]:
    """An entry for every patch of a grid that the region covers between the two ``SHARE``.

    ``cover``: share of each cell that is in the region, ``CELLS`` a patch. ``mask``: ``(left, top) -> [SIDE SIDE]``.
    """
    rows, columns = cover.shape[0] // CELLS, cover.shape[1] // CELLS
    whole = cover[: rows * CELLS, : columns * CELLS].reshape(rows, CELLS, columns, CELLS).mean((1, 3))
    for row, column in np.argwhere((whole >= SHARE[0]) & (whole <= SHARE[1])):
        left, top = int(column) * reach, int(row) * reach
        identity = f"{name}/{left}-{top}"
        made = partial(_case, str(slide), identity, left, top, reach, mask)
        yield Entry(identity, made, patient=name, split=split)


def _case(slide: str, identity: str, left: int, top: int, reach: int, mask: object) -> Case:
    region = mask(left, top).astype(np.uint8)  # type: ignore[operator]
    return Case(cut(slide, left, top, reach), identity, masks={"mask": region, "tumour": region})


def cut(path: str, left: int, top: int, reach: int) -> UInt8[np.ndarray, "s s 3"]:
    """The square of ``reach`` px of the finest level at ``SIDE`` px; what was not scanned is white."""
    import openslide

    with openslide.OpenSlide(path) as slide:
        level = slide.get_best_level_for_downsample(reach / SIDE * 1.001)
        side = max(1, round(reach / slide.level_downsamples[level]))
        tile = slide.read_region((left, top), level, (side, side))
    white = Image.new("RGB", tile.size, "white")
    white.paste(tile.convert("RGB"), mask=tile.getchannel("A"))
    return np.asarray(white.resize((SIDE, SIDE), Image.Resampling.BOX if side > SIDE else Image.Resampling.BILINEAR))


def rasterised(
    inside: Sequence[Ring], outside: Sequence[Ring], left: float, top: float, scale: float, size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """Polygons on a canvas of ``size`` (height, width) whose px are ``scale`` of the finest level; holes taken out."""
    from skimage.draw import polygon

    canvas = np.zeros(size, bool)
    for rings, ink in ((inside, True), (outside, False)):
        for ring in rings:
            x, y = ((ring - (left, top)) / scale - 0.5).T  # a pixel counts whose middle is inside
            canvas[polygon(y, x, size)] = ink
    return canvas


@lru_cache(maxsize=2)
def reduced_mask(path: str, factor: int) -> Bool[np.ndarray, "h w"]:
    """A mask of a slide's size at 1/``factor``; a pixel counts where half of it is marked. The latest two are kept."""
    from zoo import media
    from zoo.media.slides import open_slide as large

    slide = large(Path(path))
    if slide is not None:
        found = slide.reduced(factor)
        found = found[..., 0] if found.ndim == 3 else found
        return found > int(found.max()) / 2 if found.any() else np.zeros(found.shape, bool)
    small = media.read_labels(path).array > 0
    rows, columns = (-(-side // factor) for side in small.shape)
    padded = np.zeros((rows * factor, columns * factor), np.float32)
    padded[: small.shape[0], : small.shape[1]] = small
    return padded.reshape(rows, factor, columns, factor).mean((1, 3)) >= 0.5
