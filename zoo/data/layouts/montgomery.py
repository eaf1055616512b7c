"""Montgomery County: chest radiographs of a tuberculosis screening."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from zoo.data.layouts.lungs import case_of
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import images_in
from zoo.errors import DataError

LABELS = {"0": "normal", "1": "tuberculosis"}


def read(spec: str, root: Path) -> Dataset:
    """``montgomery:PATH``: the Montgomery County set, S. Jaeger et al. 2014, as unpacked (``MontgomerySet/``).

    ``PATH`` holds (itself, or in that folder) ``CXR_png/MCUCXR_0001_0.png`` ... and a mask of the same name for each
    lung in ``ManualMask/leftMask/`` and ``ManualMask/rightMask/``; the last digit of a name says whether there is
    tuberculosis. Masks are ``left_lung``, ``right_lung`` and ``mask``, both. Raises ``DataError`` for a missing mask.
    """
    root = root / "MontgomerySet" if (root / "MontgomerySet").is_dir() else root
    images = images_in(root / "CXR_png")
    if not images:
        raise DataError(f"data {spec!r}: there are no images in {root / 'CXR_png'}; unpack the set there")
    entries = []
    for path in images:
        masks = [root / "ManualMask" / side / path.name for side in ("leftMask", "rightMask")]
        if missing := [mask for mask in masks if not mask.is_file()]:
            raise DataError(f"data {spec!r}: {path.name} has no mask {missing[0]}")
        label = LABELS.get(path.stem[-1])
        if label is None:
            raise DataError(f"data {spec!r}: {path.name} doesn't end in 0 (normal) or 1 (tuberculosis)")
        made = partial(case_of, str(path), path.stem, (str(masks[0]), str(masks[1])), label)
        entries.append(Entry(path.stem, made, patient=path.stem.split("_")[1]))
    return Dataset(spec, entries, ["image", "mask", "label"])


layout = Layout("Montgomery County chest X-rays (CXR_png/, ManualMask/)", read, licence="free use, with citation")
