"""NRRD (``.nrrd``, ``.nhdr``) and MetaImage (``.mha``, ``.mhd``) by SimpleITK, once their text header is found sane.

A file's voxel ``data[i, j, k]`` is ``array[k, j, i]``, as of NIfTI; nothing is flipped or resampled, and
``Image.affine`` is the file's own, in RAS. Hence ``write_mask`` gives back the input's grid.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo.errors import MissingExtraError
from zoo.media import limits
from zoo.media.files import brief, refusal, silent_stderr
from zoo.media.geometry import is_map, orientation_code
from zoo.media.image import Image

FORMATS = {"nrrd": ("NrrdImageIO", ".nrrd"), "metaimage": ("MetaImageIO", ".mha")}
"""SimpleITK's reader, and the suffix with which masks are written."""
MAX_HEADER_BYTES = 2**20
_DEFLATE_MAX_RATIO = 1032  # no deflate stream expands more than this
_DAMAGED = "copy or export it again"
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Header(NamedTuple):
    """What the text says: length of the axes, fastest first, how many of them lie in space, bytes in all."""

    sizes: tuple[int, ...]
    spatial: tuple[int, ...]  # which of them
    bytes: int
    packed: bool
    data: Path  # the file that holds the voxels
    start: int  # where in it they begin
    measured: bool  # whether it states a spacing


def read_itk(path: Path, kind: str) -> Image:
    """A volume ``[z h w]``, or ``[h w]`` for a file of two dimensions; integers stay, floats become float32.

    Raises ``MediaError`` for several frames or values per voxel, absurd sizes, files shorter than their header says,
    voxels in another folder, packing other than gzip, and damaged data.
    """
    header = _nrrd(path) if kind == "nrrd" else _metaimage(path)
    sizes = [header.sizes[axis] for axis in header.spatial]
    limits.check_size(str(path), sizes[::-1])
    frames = math.prod(header.sizes) // math.prod(sizes)
    if frames != 1:
        raise refusal(path, f"it holds {frames} volumes or values per voxel", "extract one of them")
    on_disk = header.data.stat().st_size - header.start
    if header.bytes > on_disk * (_DEFLATE_MAX_RATIO if header.packed else 1):
        raise refusal(path, f"its header declares {header.bytes:,} bytes of voxels but the file is shorter", _DAMAGED)
    sitk = _library(f"reading {path}")
    try:
        reader = sitk.ImageFileReader()
        reader.SetImageIO(FORMATS[kind][0])
        reader.SetFileName(str(path))
        with silent_stderr():
            image = reader.Execute()
    except MemoryError:
        raise
    except Exception as error:  # whatever ITK says of a damaged file
        reason = brief(ValueError(str(error).rpartition("):")[2] or str(error)))
        raise refusal(path, f"its data is truncated or damaged ({reason})", _DAMAGED) from error
    array = sitk.GetArrayFromImage(image).reshape(sizes[::-1])
    if array.dtype.kind not in "iuf":
        raise refusal(path, f"its voxels are {array.dtype}", "save it as real grey values")
    array = array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
    return _image(path, kind, array, image, header.measured)


def _image(path: Path, kind: str, array: np.ndarray, image: Any, measured: bool) -> Image:
    meta: dict[str, Any] = {"dtype": str(array.dtype)}
    spacing = tuple(float(mm) for mm in image.GetSpacing()[: array.ndim][::-1]) if measured else None
    if array.ndim == 2:
        return Image(array, str(path), kind, spacing, None, meta, ndim_spatial=2)
    axes = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(axes, axes)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    affine = _LPS_TO_RAS @ affine
    if not is_map(affine):
        raise refusal(path, "its directions are not a valid map to millimetres", "repair its header")
    if not measured:
        return Image(array, str(path), kind, None, None, meta, ndim_spatial=3)
    meta["orientation"] = orientation_code(affine)
    return Image(array, str(path), kind, spacing, affine, meta, ndim_spatial=3)


def write_itk(path: Path, mask: np.ndarray, affine: np.ndarray | None, kind: str) -> None:
    """Labels ``[z h w]`` with the affine, RAS, of their image; packed."""
    sitk = _library(f"writing {path}")
    image = sitk.GetImageFromArray(mask)
    if affine is not None:
        lps = _LPS_TO_RAS @ affine
        lengths = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(lengths.tolist())
        image.SetDirection((lps[:3, :3] / lengths).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
    writer = sitk.ImageFileWriter()
    writer.SetImageIO(FORMATS[kind][0])
    writer.SetFileName(str(path))
    writer.UseCompressionOn()
    try:
        writer.Execute(image)
    except RuntimeError as error:
        raise OSError(brief(error)) from error


def _library(needed_by: str) -> Any:
    try:
        import SimpleITK
    except ImportError:
        raise MissingExtraError(needed_by, "SimpleITK", "imaging") from None
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


# ---- headers -----------------------------------------------------------------------------------------------------


def _nrrd(path: Path) -> Header:
    text, start = _head(path, re.compile(rb"\r?\n\r?\n"))
    fields: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        name, colon, value = line.partition(":")
        if line.startswith("#") or not colon or value.startswith("="):
            continue
        name = re.sub(r"\s", "", name.lower())
        if name in fields:
            raise refusal(path, f"its header states {name!r} twice", _DAMAGED)
        fields[name] = value.strip()
    sizes = _numbers(path, fields, "sizes", fields.get("dimension", ""))
    if fields.get("encoding", "").lower() not in ("raw", "gzip", "gz"):
        raise refusal(path, f"it is packed as {fields.get('encoding', 'nothing')!r:.40}", "save it as raw or gzip")
    directions = re.findall(r"none|\([^)]*\)", fields.get("spacedirections", ""), re.IGNORECASE)
    if len(directions) == len(sizes):
        spatial = tuple(axis for axis, text in enumerate(directions) if text.lower() != "none")
    else:
        kinds = fields.get("kinds", "").lower().split()
        inner = [axis for axis in range(len(sizes)) if len(kinds) != len(sizes) or kinds[axis] in ("domain", "space")]
        spatial = tuple(inner[:3])
    measured = bool(directions) or bool(re.search(r"\d", fields.get("spacings", "")))
    data, begin = _where(path, fields.get("datafile"), start)
    packed = fields["encoding"].lower() != "raw"
    return _header(path, sizes, spatial, fields.get("type", ""), packed, data, begin, measured)


def _metaimage(path: Path) -> Header:
    text, start = _head(path, re.compile(rb"ElementDataFile\s*=[^\n]*\n", re.IGNORECASE))
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if (name := name.strip().lower()) in fields:
            raise refusal(path, f"its header states {name!r} twice", _DAMAGED)
        fields[name] = value.strip()
    sizes = _numbers(path, fields, "dimsize", fields.get("ndims", ""))
    values = fields.get("elementnumberofchannels", "1")
    if fields.get("binarydata", "true").lower() != "true":
        raise refusal(path, "its voxels are text", "save it as binary data")
    data, begin = _where(path, None if fields["elementdatafile"] == "LOCAL" else fields["elementdatafile"], start)
    measured = "elementspacing" in fields or "elementsize" in fields
    packed = fields.get("compresseddata", "false").lower() == "true"
    if values != "1":
        sizes = (*sizes, int(values) if values.isdecimal() else 0)
    spatial = tuple(range(min(3, int(fields["ndims"]))))
    return _header(path, sizes, spatial, fields.get("elementtype", ""), packed, data, begin, measured)


def _header(
    path: Path, sizes: tuple[int, ...], spatial: tuple[int, ...], stored: str, packed: bool, data: Path, start: int,
    measured: bool,
) -> Header:  # fmt: skip
    stored = stored.lower().replace("_", " ")
    wide = next((n for n, words in {8: ("64", "double", "long long", "longlong"), 1: ("char", "int8"),
                                    2: ("short", "16"), 4: ("int", "long", "float")}.items()
                 if any(word in stored for word in words)), 0)  # fmt: skip
    if not wide:
        raise refusal(path, f"its voxels are {stored!r:.40}", "save it as real grey values")
    if len(spatial) not in (2, 3) or min(sizes) < 1:
        raise refusal(path, f"its header declares a size of {' x '.join(map(str, sizes))}", _DAMAGED)
    return Header(sizes, spatial, wide * math.prod(sizes), packed, data, start, measured)


def _head(path: Path, end: re.Pattern[bytes]) -> tuple[str, int]:
    """The header's text, and where the voxels begin behind it."""
    with open(path, "rb") as file:
        first = file.read(MAX_HEADER_BYTES)
    found = end.search(first)
    if found is None and (path.suffix.lower() != ".nhdr" or len(first) == MAX_HEADER_BYTES):
        raise refusal(path, "its header has no end", _DAMAGED)
    stop = len(first) if found is None else found.end()
    return first[:stop].decode("latin-1"), stop


def _numbers(path: Path, fields: dict[str, str], name: str, count: str) -> tuple[int, ...]:
    texts = fields.get(name, "").split()
    if not all(text.isdecimal() and len(text) < 12 for text in texts) or not 2 <= len(texts) <= 5:
        raise refusal(path, f"its header states the {name} {fields.get(name, '')!r:.40}", _DAMAGED)
    if str(len(texts)) != count.strip():
        raise refusal(path, f"its header declares {count!r:.20} dimensions and {len(texts)} {name}", _DAMAGED)
    return tuple(map(int, texts))


def _where(path: Path, named: str | None, start: int) -> tuple[Path, int]:
    """The file of the voxels: this one, or a plain name beside it, so that no header reaches into other folders."""
    if named is None:
        return path, start
    if named != Path(named).name or named.upper().startswith("LIST") or "%" in named or named in ("", ".", ".."):
        raise refusal(path, f"its voxels are said to lie in {named!r:.60}", "put one file of voxels beside its header")
    if not (data := path.parent / named).is_file():
        raise refusal(path, f"its voxels in {named!r:.60} are missing", "keep both files together")
    return data, 0
