"""A folder that holds a DICOM series: one volume."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import MediaError
from zoo.media import limits
from zoo.media.dicom import (
    Source,
    check_pixels,
    decode,
    facts,
    finish,
    load,
    parsing,
    plane_of,
    stack_geometry,
    thickness,
)
from zoo.media.files import printable, refusal
from zoo.media.header import note, notes
from zoo.media.image import Image
from zoo.media.sniff import identify, is_litter


def read_series(folder: Path) -> Image:
    """The one series of a folder as ``[z h w]``, slices sorted along their normal.

    Raises ``MediaError`` when the folder has no series or several, or when slices are missing, doubled or damaged.
    """
    files = find_series(folder)
    if not files:
        raise refusal(folder, "it is a folder without a DICOM series", "give its image files one by one")
    headers = [load(path, header_only=True) for path in files]
    first = headers[0]
    with parsing(folder):  # before any pixel is read: many small files may unpack to much
        if max(int(header.get("NumberOfFrames") or 1) for header in headers) > 1:
            raise refusal(folder, "its series consists of multi-frame files", "give its files one by one")
        limits.check_size(str(folder), (len(files), int(first.Rows), int(first.Columns)))
        meta = {**facts(first), "slices": len(files)}
        planes = [plane_of(header) for header in headers]
        affine, spacing, order = stack_geometry(str(folder), planes, thickness(first))
    slices = []
    for i in range(len(files)) if order is None else order:
        dataset = load(files[i])  # one at a time: what stands beside the pixels goes again
        check_pixels(files[i], dataset)
        slices.append(decode(files[i], dataset))
        for text in notes(dataset):
            note(first, text)
    if len({(a.shape, a.dtype) for a in slices}) > 1:
        raise refusal(folder, "its slices mix grey and colour or several pixel types", "keep one kind of slice only")
    origin = Source(tuple(headers[i] for i in (range(len(files)) if order is None else order)))
    return finish(np.stack(slices), str(folder), first, meta, spacing, affine, 3, origin)


def find_series(folder: Path) -> list[Path]:
    """The files of the folder's series, or none: at least two parallel slices of one SeriesInstanceUID with positions.

    A lone file of another series (a scout image) doesn't count. Raises ``MediaError`` when there are several series,
    ``MissingExtraError`` when there are DICOM files but no pydicom.
    """
    groups: dict[tuple[Any, ...], list[Path]] = defaultdict(list)
    names: dict[tuple[Any, ...], str] = {}
    for path in dicom_files(folder):
        try:
            dataset = load(path, header_only=True)
            with parsing(path):
                position, orientation, _ = plane_of(dataset)
                if position is None or orientation is None or not dataset.get("Rows"):
                    continue
                stated = (str(dataset.get("SeriesInstanceUID")), dataset.Rows, dataset.Columns)
                # The first slice that lies alike gives the direction: rounding would part neighbours at its steps.
                near = (k for k in groups if k[:3] == stated and np.allclose(k[3], orientation, rtol=0, atol=5e-3))
                key = next(near, (*stated, orientation))
                name = dataset.get("SeriesDescription") or dataset.get("SeriesNumber") or "unnamed"
                names[key] = printable(str(name), 64)
        except MediaError:
            continue  # not a slice; a damaged file that is one shows as a gap
        groups[key].append(path)
    stacks = {key: files for key, files in groups.items() if len(files) > 1}
    if len(stacks) > 1:
        listed = ", ".join(f"{names[key]} ({len(files)} slices)" for key, files in stacks.items())
        raise refusal(folder, f"it holds {len(stacks)} DICOM series: {listed}", "move each to a folder of its own")
    return next(iter(stacks.values()), [])


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder, by content, without a DICOMDIR index; sorted by name."""
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if is_litter(entry.name) or entry.name.upper().startswith("DICOMDIR") or not path.is_file():
            continue  # Path.is_file is False, too, for a link that leads in a circle
        try:
            if identify(path) == "dicom":
                found.append(path)
        except MediaError:
            continue
    return found
