"""Public sets of raw MR data: fastMRI's single-coil files and the single-channel track of Calgary-Campinas."""

from __future__ import annotations

from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.errors import DataError

FASTMRI = {"train": "train", "val": "validation", "test": "test"}
CC359 = {"train": "train", "val": "validation", "test": "test"}


def read_fastmri(spec: str, root: Path) -> Dataset:
    """``fastmri:PATH``: fastMRI, Zbontar et al. 2018, single coil, as unpacked.

    ``PATH`` holds ``singlecoil_train/``, ``singlecoil_val/``, ``singlecoil_test/`` or ``singlecoil_challenge/``, each
    with ``fileNNNNNNN.h5``, one a volume: its data set ``kspace`` is complex ``[z h w]``, frequency 0 in the middle.
    Files of the test parts have lines left out and are read only where there are no others. A folder of files by
    itself will do, too. Raises ``DataError`` where there is none.
    """
    return _volumes(spec, root, "singlecoil_", (".h5",), FASTMRI, "fastmri", "centre")


def read_cc359(spec: str, root: Path) -> Dataset:
    """``cc359:PATH``: Calgary-Campinas, Souza et al. 2018, single-channel track of the challenge, as unpacked.

    ``PATH`` holds (in any folder) ``Train/`` and ``Val/`` with ``NAME.npy``, one a subject: real and imaginary parts
    ``[z 256 256 2]``, with frequency 0 in a corner. A folder of such files by itself will do, too. Raises ``DataError``
    where there is none.
    """
    return _volumes(spec, root, "", (".npy",), CC359, "cc359", "corner")


def _volumes(
    spec: str, root: Path, prefix: str, suffixes: tuple[str, ...], parts: dict[str, str], site: str, convention: str
) -> Dataset:
    entries = []
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    for path in files:
        folder = path.parent.name.lower().removeprefix(prefix)
        split = parts.get(folder, "test" if folder == "challenge" else None)
        name = f"{split}/{path.stem}" if split else path.stem
        case = Case(str(path), name, attributes={"site": site, "convention": convention})
        entries.append(Entry(name, case, patient=path.stem, split=split))
    if not entries:
        raise DataError(f"data {spec!r}: {root} holds no {' or '.join(suffixes)} file; unpack the set there")
    # the test parts come with lines left out
    entries = [entry for entry in entries if entry.split in ("train", "validation")] or entries
    return Dataset(spec, entries, ["image", "site"])


fastmri = Layout("fastMRI, single coil (singlecoil_train/, singlecoil_val/ of .h5)", read_fastmri, "research use only")
cc359 = Layout("Calgary-Campinas, single channel (Train/, Val/ of .npy)", read_cc359, "research use only")
