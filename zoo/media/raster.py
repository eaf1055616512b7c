"""PNG, JPEG, TIFF, BMP, GIF, WebP and PPM: Pillow, and tifffile for the 16-bit colour TIFFs that Pillow can't keep.

The result is what a viewer shows: EXIF orientation applied, palettes looked up, CMYK and YCbCr as RGB, 1-bit as 0 and
255. Transparent parts are laid on black and the alpha channel is gone, so that colours hidden under it never reach a
model. 16-bit grey stays uint16; 16-bit colour stays uint16 in TIFF and is read at 8 bits in PNG (Pillow's limit).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as PILImage

from zoo.errors import MediaError, MissingExtraError
from zoo.media.checksums import check_png, check_tiff
from zoo.media.files import brief, quiet, refusal, silent_stderr, user_path
from zoo.media.image import Image
from zoo.media.limits import check_size
from zoo.media.slides import Slide, scanned

# The format's own class, not PIL.Image.open: that one applies Pillow's global pixel limit, with a warning.
_OPENERS: dict[str, type[ImageFile.ImageFile]] = {
    "png": PngImagePlugin.PngImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "ppm": PpmImagePlugin.PpmImageFile,
}
_ASSOCIATED, _UNASSOCIATED = 1, 2  # alpha, laid on black already or not (tag ExtraSamples)
_SEPARATED = 5  # CMYK
_MAX_RATIO = 4096  # more than any TIFF compression of 16-bit colour reaches
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION, _PLANAR, _SOFTWARE = 258, 262, 274, 284, 305


def read_raster(path: Path, kind: str) -> Image:
    """Reads one file: ``[h w]`` or ``[h w 3]``; a TIFF whose pages are equally large is a volume ``[z h w]``.

    Raises ``MediaError`` for absurd sizes (before decoding), damaged files and modes without a picture.
    """
    try:
        with quiet(), silent_stderr() if kind == "tiff" else nullcontext():
            if kind == "tiff" and (slide := scanned(path)) is not None:  # its tiles and pixel size as the scanner meant
                return _read_slide(path, slide)
            return _read_with_pillow(path, kind)
    except (MediaError, MissingExtraError, MemoryError):
        raise
    except Exception as error:
        if "imagecodecs" in str(error) and "JP" in str(error) and "2000" in str(error):  # tifffile; slides have it
            raise MissingExtraError(f"reading {path} (JPEG 2000)", "openslide-python", "pathology") from error
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ... for damaged data.
        raise refusal(
            path, f"its {kind.upper()} data is truncated or damaged ({brief(error)})", "copy or export it again"
        ) from error


def from_pillow(picture: PILImage.Image) -> Image:
    """A Pillow image by the same rules as a file."""
    check_size("the Pillow image", (picture.height, picture.width))
    array = _upright(_pixels(picture), picture)
    return Image(array, "array", (picture.format or "array").lower(), meta={"mode": picture.mode}, ndim_spatial=2)


def palette_indices(x: Any) -> np.ndarray | None:
    """The indices of a picture with a palette in colour, by path or of Pillow; None for a palette of greys."""
    with nullcontext(x) if isinstance(x, PILImage.Image) else PILImage.open(user_path(x)) as picture:
        colours = np.reshape(picture.getpalette("RGB") or [], (-1, 3))
        if picture.mode != "P" or not np.ptp(colours, axis=-1).any():
            return None
        return _upright(np.array(picture), picture)


def _read_with_pillow(path: Path, kind: str) -> Image:
    with open(path, "rb") as file:
        try:
            # Without its file name, Pillow doesn't map the file into memory: a road on which it gets the sides of
            # uncompressed TIFFs with orientations 5 to 8 wrong.
            picture = _OPENERS[kind](file)
        except SyntaxError:
            if kind == "tiff":  # a layout that Pillow doesn't know, such as 16-bit planar RGB
                return _read_with_tifffile(path)
            raise
        check_size(str(path), (picture.height, picture.width))
        meta: dict[str, Any] = {"mode": picture.mode}
        if kind == "png":
            meta["bit_depth"] = _png_bit_depth(file)
            check_png(path, file)
        if kind == "tiff":
            bits = picture.tag_v2.get(_BITS_PER_SAMPLE, (1,))  # type: ignore[attr-defined]
            bits = tuple(bits) if isinstance(bits, tuple) else (bits,)
            meta["bit_depth"] = int(max(bits))
            check_tiff(path, file, picture.tag_v2, _bytes_of(picture, bits))  # type: ignore[attr-defined]
            planar = picture.tag_v2.get(_PLANAR) == 2  # type: ignore[attr-defined]
            if (len(bits) > 1 and max(bits) > 8) or (planar and picture.mode == "LA"):  # neither by Pillow
                return _read_with_tifffile(path)
            return _read_pages(path, file, picture, meta)
        if kind in ("gif", "webp") and (count := getattr(picture, "n_frames", 1)) > 1:
            raise refusal(path, f"it is an animation of {count} pictures", "save the one you mean")
        array = _pixels(picture)
        if kind == "ppm" and array.dtype == np.int32:  # Pillow stretches more than 8 bits to 16
            array = array.astype(np.uint16)
        return Image(_upright(array, picture), str(path), kind, meta=meta, ndim_spatial=2)


def _read_slide(path: Path, slide: Slide) -> Image:
    """The finest level of a slide that is small enough to be read whole."""
    check_size(str(path), slide.size)
    spacing = None if slide.spacing_um is None else tuple(um / 1000 for um in slide.spacing_um)
    meta = {"mode": "RGB", "bit_depth": 8}
    return Image(slide.reduced(1), str(path), "tiff", spacing=spacing, meta=meta, ndim_spatial=2)


def _png_bit_depth(file: Any) -> int:
    """Bits per sample of a PNG, from its IHDR chunk; the file position is kept."""
    position = file.tell()
    file.seek(24)
    depth = file.read(1)[0]
    file.seek(position)
    return int(depth)


def _bytes_of(picture: PILImage.Image, bits: Sequence[int]) -> int:
    return picture.width * picture.height * sum(bits) // 8


def _read_pages(path: Path, file: Any, picture: ImageFile.ImageFile, meta: dict[str, Any]) -> Image:
    """All pages of a TIFF when they are equally large, else the first (the others are previews or pyramid levels)."""
    count = getattr(picture, "n_frames", 1)
    first = _page(picture)
    if count == 1:
        return Image(first, str(path), "tiff", meta=meta, ndim_spatial=2)
    check_size(str(path), (count, *first.shape[:2]))
    pages = [first]
    for index in range(1, count):
        picture.seek(index)
        if _stored_size(picture) != first.shape[:2]:
            return Image(first, str(path), "tiff", meta={**meta, "pages": count, "page": 0}, ndim_spatial=2)
        check_tiff(path, file, picture.tag_v2, 8 * first.nbytes)  # type: ignore[attr-defined]
        pages.append(_page(picture))
    if len({page.shape for page in pages}) > 1:
        raise refusal(path, "its pages mix grey and colour", "save each page as a file of its own")
    return Image(np.stack(pages), str(path), "tiff", meta={**meta, "pages": count}, ndim_spatial=3)


def _stored_size(picture: PILImage.Image) -> tuple[int, int]:
    """Height and width of the page once it is turned upright."""
    turned = picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (picture.width, picture.height) if turned else (picture.height, picture.width)


def _page(picture: ImageFile.ImageFile) -> np.ndarray:
    """One TIFF page; loading it applies the orientation."""
    array = _pixels(picture)
    tags = picture.tag_v2  # type: ignore[attr-defined]
    # tifffile marks booleans WhiteIsZero but stores them as they are: its ones are True.
    if picture.mode == "1" and tags.get(_PHOTOMETRIC) == 0 and str(tags.get(_SOFTWARE)).startswith("tifffile"):
        return np.uint8(255) - array
    # Pillow inverts WhiteIsZero for up to 8 bits only.
    white_is_zero = tags.get(_PHOTOMETRIC) == 0
    return np.uint16(65535) - array if white_is_zero and array.dtype == np.uint16 else array


def _pixels(picture: PILImage.Image) -> np.ndarray:
    """``[h w]`` uint8, uint16, int32 or float32, or ``[h w 3]`` uint8."""
    picture.load()
    if picture.mode.startswith("I;16"):
        return np.asarray(picture).astype(np.uint16)
    if picture.mode in ("I", "F"):
        return np.array(picture)
    is_grey = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        black = PILImage.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = PILImage.alpha_composite(black, picture.convert("RGBA"))
    return np.array(picture.convert("L" if is_grey else "RGB"))


def _upright(array: np.ndarray, picture: PILImage.Image) -> np.ndarray:
    orientation = 1
    with suppress(Exception):  # damaged EXIF data is no reason to refuse a sound picture
        orientation = int(picture.getexif().get(_ORIENTATION, 1))
    return turn_upright(array, orientation)


def turn_upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation (1 to 8) to ``[h w ...]``; other values are taken as 1."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def _read_with_tifffile(path: Path) -> Image:
    try:
        import tifffile
    except ImportError:
        raise MissingExtraError(f"reading {path} (16-bit colour TIFF)", "tifffile", "imaging") from None
    with tifffile.TiffFile(path) as file:
        pages = [page for page in file.pages if page.shape == file.pages[0].shape]
        page = file.pages[0].aspage()
        shape = (page.imagelength, page.imagewidth)
        whole = len(pages) == len(file.pages) and len(pages) > 1
        check_size(str(path), (len(pages), *shape) if whole else shape)
        if page.samplesperpixel > 4 or page.nbytes > path.stat().st_size * _MAX_RATIO:
            raise refusal(path, "its TIFF header is damaged", "copy or export it again")
        if not set(page.axes) <= set("YXS"):
            raise refusal(path, f"its pages have the axes {page.axes}", "save it as a 2-D or multi-page TIFF")
        extra = [int(one) for one in page.extrasamples]
        if page.samplesperpixel == 4 and (int(page.photometric) == _SEPARATED or len(extra) > 1):
            raise refusal(path, "its 4 channels are not red, green, blue and alpha", "save the one you mean, or RGB")
        stack = []
        for item in pages if whole else pages[:1]:
            array = item.asarray()
            if page.axes == "SYX":
                array = np.moveaxis(array, 0, -1)
            tag = item.aspage().tags.get(_ORIENTATION)
            stack.append(turn_upright(_without_alpha(array, extra), int(tag.value) if tag else 1))
        meta = {"mode": str(page.axes), "bit_depth": int(page.bitspersample)}
        if not whole:
            return Image(stack[0], str(path), "tiff", meta=meta, ndim_spatial=2)
        return Image(np.stack(stack), str(path), "tiff", meta={**meta, "pages": len(pages)}, ndim_spatial=3)


def _without_alpha(array: np.ndarray, extra: Sequence[int]) -> np.ndarray:
    """Lays 16-bit RGBA or grey+alpha on black. A further channel that isn't marked alpha stays beside grey."""
    if array.ndim == 2 or array.shape[-1] not in (2, 4) or array.dtype.kind != "u":
        return array
    if list(extra) != [_UNASSOCIATED]:
        is_extra = list(extra) == [_ASSOCIATED] or (list(extra) == [0] and array.shape[-1] == 4)
        colours = array[..., :-1] if is_extra else array
        return colours[..., 0] if colours.shape[-1] == 1 else colours
    alpha = array[..., -1:].astype(np.float64) / np.iinfo(array.dtype).max
    colours = np.round(array[..., :-1] * alpha).astype(array.dtype)
    return colours[..., 0] if colours.shape[-1] == 1 else colours
