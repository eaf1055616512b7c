"""The ordered stack of sections that a user has: what its layers are, each read when asked for, and as small.

A folder, a list of files or arrays, a multi-page TIFF, whole slides, a volume, or an array: ``open_stack`` takes them
all, and ``open_masks`` takes a mask for each layer in any of these forms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, UInt8

from zoo import media
from zoo.errors import MediaError, OptionError
from zoo.media.geometry import axial_affine
from zoo.media.inputs import natural_key
from zoo.media.slides import open_slide

Spacing = tuple[float, float, float | None]
SIZES_APART = 2.0  # layers whose sides differ by more were not scanned at one magnification


@dataclass(frozen=True)
class Section:
    """One layer before it is read. ``size``: height and width in pixels, as scanned."""

    name: str
    size: tuple[int, int]
    load: Callable[[int], UInt8[np.ndarray, "h w *c"]]  # at 1 / factor of its size


@dataclass(frozen=True)
class Stack:
    """The layers from bottom to top.

    ``spacing``: pixel width, pixel height and distance of layers, in ``unit``, where the files say so. ``affine``: from
    column, row and layer to mm of the patient, RAS+, for a CT or MR volume that states it.
    """

    sections: tuple[Section, ...]
    source: str
    spacing: Spacing | None = None
    unit: str = "px"
    scanned: bool = False  # a CT or MR volume: its slices lie where they were
    notes: tuple[str, ...] = ()
    affine: Float[np.ndarray, "4 4"] | None = None


def open_stack(given: Any, needed_by: str) -> Stack:
    """The stack in a folder, a list of images, a multi-page TIFF, a volume, or an array ``[z h w]`` or ``[z h w 3]``.

    Raises ``MediaError`` when an image can't be used or the layers can't belong to one stack.
    """
    if isinstance(given, Stack):
        return given
    listed = isinstance(given, (list, tuple))
    items = media.members(given)
    parts = [_open_one(item) for item in items]
    if len(parts) > 1 and any(len(part.sections) > 1 for part in parts):
        longest = max(parts, key=lambda part: len(part.sections))
        raise MediaError(
            f"{needed_by} takes one stack but {longest.source} is a stack of {len(longest.sections)} layers among "
            f"{len(parts)} inputs; give it alone, or single images only"
        )
    sections = tuple(section for part in parts for section in part.sections)
    names = [section.name for section in sections]
    notes: list[str] = [note for part in parts for note in part.notes]
    if len(parts) > 1:
        files = [Path(item).name for item in items if isinstance(item, str)]
        notes += _order_notes(files, listed)
    _check_sizes(sections, notes)
    if len(set(names)) < len(names):
        sections = tuple(Section(f"{s.name} ({i})", s.size, s.load) for i, s in enumerate(sections, start=1))
    folder = given if isinstance(given, (str, Path)) else None
    source = str(folder).rstrip("/") if folder is not None else parts[0].source
    scanned, spacing = (parts[0].scanned, parts[0].spacing) if len({p.spacing for p in parts}) == 1 else (False, None)
    affine = parts[0].affine if len(parts) == 1 else None
    return Stack(sections, source, spacing, parts[0].unit if spacing else "px", scanned, tuple(notes), affine)


def _order_notes(files: Sequence[str], listed: bool) -> list[str]:
    if len(files) < 2:
        return []
    natural = sorted(files, key=natural_key)
    if listed and list(files) != natural:
        return ["layers are stacked in the order given, which is not the natural order of their names"]
    if not all(re.search(r"\d", name) for name in files):
        return ["file names without numbers: layers are stacked in alphabetical order; check that this is their order"]
    if not listed and natural != sorted(files):
        return ["layers are stacked by the numbers in their names (2 before 10)"]
    return []


def _check_sizes(sections: Sequence[Section], notes: list[str]) -> None:
    heights, widths = zip(*(section.size for section in sections), strict=True)
    usual = (float(np.median(heights)), float(np.median(widths)))
    odd = [s for s in sections if s.size != sections[0].size]
    for section in sections:
        ratios = [side / most for side, most in zip(section.size, usual, strict=True)]
        if max(ratios) > SIZES_APART or min(ratios) < 1 / SIZES_APART:
            raise MediaError(
                f"layer {section.name} is {section.size[0]} x {section.size[1]} px but the stack is about "
                f"{usual[0]:.0f} x {usual[1]:.0f}; scan or export all layers at one magnification"
            )
    if odd:
        one = odd[0]
        notes.append(
            f"{len(odd)} of {len(sections)} layers differ in size from the first, such as {one.name} "
            f"({one.size[0]} x {one.size[1]} px); pixels are taken to be equally large in all"
        )


def _open_one(item: Any) -> Stack:
    """The layers of one file, folder of a DICOM series, array or tensor."""
    if isinstance(item, str) and not item.startswith(("sample:", "phantom:")) and Path(item).is_file():
        slide = open_slide(Path(item))
        if slide is not None:
            um = slide.spacing_um
            section = Section(Path(item).name, slide.size, slide.reduced)
            return Stack((section,), item, None if um is None else (um[1], um[0], None), "px" if um is None else "µm")
    image = _read(item)
    if image.channels not in (1, 3, 4):
        raise MediaError(
            f"{image.source} has {image.channels} channels, which is neither grey, RGB nor RGBA; "
            "select the channels you mean before passing it on"
        )
    name = Path(image.source).name if not image.source.startswith(("sample:", "phantom:")) else image.source
    scanned = image.format in ("dicom", "nifti", "nrrd", "metaimage") and image.ndim_spatial == 3
    pixels = to_uint8(image)
    unit, spacing = "px", cast("Spacing | None", None)
    if image.ndim_spatial == 2:
        if image.spacing is not None:
            unit, spacing = "mm", (image.spacing[1], image.spacing[0], None)
        return Stack((_in_memory(name, pixels),), image.source, spacing, unit)
    if scanned:
        pixels = image.axial(pixels) if pixels.ndim == 3 else pixels
    if image.spacing is not None:
        between = _between(image)
        in_plane = (image.axial_spacing() if scanned else None) or image.spacing[1:]
        unit, spacing = "mm", (in_plane[1], in_plane[0], between)
    what = "page" if image.format == "tiff" else "slice" if scanned else "layer"
    single = len(pixels) == 1
    layers = [_in_memory(name if single else f"{what} {z + 1}", plane) for z, plane in enumerate(pixels)]
    affine = None if not scanned or image.affine is None else axial_affine(image.affine, image.size)
    return Stack(tuple(layers), image.source, spacing, unit, scanned, affine=affine)


def _between(image: media.Image) -> float:
    """Distance of the slices of ``image.axial``: the spacing that is not in their plane."""
    assert image.spacing is not None
    in_plane = list(image.axial_spacing() or image.spacing[1:])
    rest = list(image.spacing)
    for value in in_plane:
        rest.remove(value)
    return rest[0]


def _read(item: Any) -> media.Image:
    if isinstance(item, np.ndarray) and item.ndim == 3 and item.shape[-1] > 4:
        return media.read(item, mode="volume")
    if type(item).__module__.startswith("torch") and getattr(item, "ndim", 0) == 4 and item.shape[1] in (1, 3, 4):
        return _read(np.moveaxis(item.detach().cpu().numpy(), 1, -1).squeeze(-1 if item.shape[1] == 1 else ()))
    return media.read(item)


def to_uint8(image: media.Image) -> UInt8[np.ndarray, "*shape"]:
    """All pixels with 8 bits, RGBA without its alpha: ``[(z) h w]`` or ``[(z) h w 3]``."""
    pixels = image.array
    if pixels.dtype != np.uint8 or image.meta.get("window") is not None:
        pixels = np.round(image.unit() * 255).astype(np.uint8)
    if image.array.ndim > image.ndim_spatial:
        pixels = pixels[..., 0] if image.channels == 1 else pixels[..., :3]
    return pixels


def _in_memory(name: str, pixels: UInt8[np.ndarray, "h w *c"]) -> Section:
    def load(factor: int) -> np.ndarray:
        if factor == 1:
            return pixels
        h, w = (-(-side // factor) * factor for side in pixels.shape[:2])
        padding = [(0, h - pixels.shape[0]), (0, w - pixels.shape[1])] + [(0, 0)] * (pixels.ndim - 2)
        cells = np.pad(pixels, padding, mode="edge").reshape(
            h // factor, factor, w // factor, factor, *pixels.shape[2:]
        )
        return np.round(cells.mean((1, 3), dtype=np.float32)).astype(np.uint8)

    return Section(name, (pixels.shape[0], pixels.shape[1]), load)


def open_masks(given: Any, stack: Stack) -> tuple[Section, ...]:
    """A mask for each layer of the stack, matched by file name where they agree, else by place.

    Raises ``OptionError`` when number or sizes don't fit the stack.
    """
    try:
        masks = open_stack(given, "masks")
    except MediaError as error:
        raise OptionError(f"option masks can't be used: {error}") from error
    found = {Path(mask.name).stem: mask for mask in masks.sections}
    names = [Path(section.name).stem for section in stack.sections]
    if len(masks.sections) != len(names):
        raise OptionError(
            f"option masks has {len(masks.sections)} masks but {stack.source} has {len(names)} layers; "
            "give one mask for each layer, in the same order"
        )
    in_order = tuple(found[name] for name in names) if found.keys() == set(names) else masks.sections
    for section, mask in zip(stack.sections, in_order, strict=True):
        if mask.size != section.size:
            raise OptionError(
                f"mask {mask.name} is {mask.size[0]} x {mask.size[1]} px but layer {section.name} is "
                f"{section.size[0]} x {section.size[1]}; give masks of the layers' size"
            )
    return in_order


def positive(pixels: UInt8[np.ndarray, "h w *c"]) -> Bool[np.ndarray, "h w"]:
    """A mask's positive pixels: above 0 where it holds labels, above the middle where it is black and white."""
    if pixels.ndim == 3:
        pixels = pixels.max(-1)
    return pixels > (127 if pixels.max(initial=0) == 255 else 0)


def is_mask(pixels: UInt8[np.ndarray, "h w *c"]) -> bool:
    """Whether a section is a mask itself: grey, of at most two values, the lower one 0."""
    if pixels.ndim == 3:
        return False
    values = np.unique(pixels)
    return len(values) <= 2 and values[0] == 0 and (len(values) == 1 or values[1] in (1, 255))
