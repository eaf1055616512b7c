"""Whole slides and other large TIFFs, reduced while they are read: memory is bounded by a tile, not by the slide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.errors import MediaError, MissingExtraError
from zoo.media.files import brief, quiet, refusal

BLOCK = 2048  # pixels; side of what is decoded at a time where the file leaves the choice
LARGE = 2**25
"""From this many pixels on (5,800 x 5,800) an image counts as a slide."""


@dataclass(frozen=True)
class Slide:
    """A file that is too large to be read whole. ``size``: height and width of its finest level, in pixels."""

    path: Path
    size: tuple[int, int]
    spacing_um: tuple[float, float] | None = None  # of the finest level, row and column
    library: str = "tifffile"

    def reduction(self, max_side: int) -> int:
        """The least whole number by which the slide must be reduced so that no side is longer than ``max_side``."""
        return max(1, -(-max(self.size) // max_side))

    def reduced(self, factor: int) -> np.ndarray:
        """The slide at 1/``factor`` of its size: ``[h w 3]`` or ``[h w]`` uint8, each pixel the mean of what it covers.

        The coarsest stored level that is still as fine is read, tile by tile. The last row and column may cover less.
        Raises ``MediaError`` for damaged data, ``MissingExtraError`` when the compression needs a library.
        """
        try:
            with quiet():
                blocks = _openslide_blocks if self.library == "openslide" else _tifffile_blocks
                return _mean_of_blocks(blocks(self.path, factor), self.size, factor)
        except (MediaError, MissingExtraError, MemoryError):
            raise
        except Exception as error:
            # tifffile and OpenSlide pass on what their decoders raise.
            if "imagecodecs" in str(error):
                raise MissingExtraError(f"reading {self.path}", "openslide-python", "pathology") from error
            raise refusal(
                self.path, f"its tiles are truncated or damaged ({brief(error)})", "copy or export it again"
            ) from error


def open_slide(path: Path) -> Slide | None:
    """The slide in a file; ``None`` for no slide that OpenSlide or tifffile knows.

    A scanner's own format is a slide at any size. A TIFF that any program may have written is one if it's large.
    """
    slide, maker = _by_openslide(path)
    if slide is not None:
        return slide if maker != "generic-tiff" or slide.size[0] * slide.size[1] >= LARGE else None
    try:
        import tifffile

        with quiet(), tifffile.TiffFile(path) as file:
            page = file.pages[0].aspage()
            same = sum(other.shape == page.shape for other in file.pages)
            if same > 1 or page.imagelength * page.imagewidth < LARGE or page.axes not in ("YX", "YXS"):
                return None
            return Slide(path, (page.imagelength, page.imagewidth), _tiff_spacing(page))
    except ImportError:
        return None
    except Exception:
        return None  # no TIFF


def scanned(path: Path) -> Slide | None:
    """The slide in a file of a scanner's own format, by OpenSlide; ``None`` for other files, and without OpenSlide."""
    slide, maker = _by_openslide(path)
    return slide if maker != "generic-tiff" else None


def _by_openslide(path: Path) -> tuple[Slide | None, str | None]:
    """The slide, and who made it as OpenSlide names them."""
    try:
        import openslide
    except ImportError:
        return None, None
    maker = openslide.OpenSlide.detect_format(str(path))
    if not maker:
        return None, None
    try:
        with openslide.OpenSlide(str(path)) as slide:
            width, height = slide.dimensions
            y, x = (slide.properties.get(f"openslide.mpp-{axis}") for axis in "yx")
    except openslide.OpenSlideError as error:
        raise refusal(path, f"it is a damaged slide ({brief(error)})", "copy or export it again") from error
    spacing = None if y is None or x is None else (float(y), float(x))
    return Slide(path, (height, width), spacing, "openslide"), maker


def _tiff_spacing(page: object) -> tuple[float, float] | None:
    tags = page.tags  # type: ignore[attr-defined]
    per_um = {2: 25_400.0, 3: 10_000.0}.get(int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 0)
    if per_um is None or "XResolution" not in tags or "YResolution" not in tags:
        return None
    values = [tags[name].value for name in ("YResolution", "XResolution")]
    if any(not over or not under for over, under in values):
        return None
    y, x = (per_um * under / over for over, under in values)
    return (y, x) if max(y, x) < 100 else None  # 72 or 96 dots per inch say nothing about a slide


Block = tuple[int, int, np.ndarray, float]  # row and column in the level, pixels, pixels of the finest level per pixel


def _mean_of_blocks(blocks: Iterator[Block], size: tuple[int, int], factor: int) -> np.ndarray:
    """Add the blocks up on a grid of cells of ``factor`` x ``factor`` finest pixels, and divide by how many came."""
    h, w = (-(-side // factor) for side in size)
    total: np.ndarray | None = None
    count = np.zeros((h, w), np.float32)
    for top, left, pixels, scale in blocks:
        if total is None:
            total = np.zeros((h, w, *pixels.shape[2:]), np.float32)
        rows, columns = (
            np.minimum(((np.arange(n) + start + 0.5) * scale / factor).astype(int), most - 1)
            for n, start, most in ((pixels.shape[0], top, h), (pixels.shape[1], left, w))
        )
        row_edges, column_edges = (np.flatnonzero(np.diff(cells, prepend=-1)) for cells in (rows, columns))
        sums = np.add.reduceat(pixels, row_edges, axis=0, dtype=np.uint32)
        sums = np.add.reduceat(sums, column_edges, axis=1)
        heights, widths = np.diff(row_edges, append=len(rows)), np.diff(column_edges, append=len(columns))
        where = np.ix_(rows[row_edges], columns[column_edges])
        total[where] += sums
        count[where] += np.outer(heights, widths)
    assert total is not None
    shape = (h, w) + (1,) * (total.ndim - 2)
    return np.round(total / np.maximum(count, 1).reshape(shape)).astype(np.uint8)


def _openslide_blocks(path: Path, factor: int) -> Iterator[Block]:
    import openslide

    with openslide.OpenSlide(str(path)) as slide:
        level = slide.get_best_level_for_downsample(factor)
        scale = slide.level_downsamples[level]
        width, height = slide.level_dimensions[level]
        for top in range(0, height, BLOCK):
            for left in range(0, width, BLOCK):
                box = (min(BLOCK, width - left), min(BLOCK, height - top))
                tile = np.asarray(slide.read_region((round(left * scale), round(top * scale)), level, box))
                rgb, alpha = tile[..., :3], tile[..., 3:]
                yield top, left, np.where(alpha > 0, rgb, np.uint8(255)), scale  # what was not scanned is glass


def _tifffile_blocks(path: Path, factor: int) -> Iterator[Block]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        levels = [series.keyframe for series in file.series[0].levels] if file.series else [file.pages[0].aspage()]
        whole = levels[0].imagewidth
        page = [level for level in levels if whole / level.imagewidth <= factor * 1.001][-1]
        scale = whole / page.imagewidth
        if page.dtype != np.uint8:
            raise refusal(path, f"its pixels are {page.dtype}", "save it with 8 bits per channel")
        for segment, index, _ in page.segments(maxworkers=1):
            if segment is None:
                continue
            top, left = index[-3], index[-2]
            pixels = segment[0]  # [h w c]; tiles at the edge reach beyond the page
            pixels = pixels[: page.imagelength - top, : page.imagewidth - left, :3]
            yield top, left, pixels[..., 0] if pixels.shape[-1] == 1 else pixels, scale
