"""The five polyp sets as PraNet's authors share them."""

from __future__ import annotations

from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import by_stem
from zoo.errors import DataError

TESTS = ("CVC-300", "CVC-ClinicDB", "Kvasir", "CVC-ColonDB", "ETIS-LaribPolypDB")


def read(spec: str, root: Path) -> Dataset:
    """``polyp:PATH``: Kvasir, CVC-ClinicDB, CVC-300, CVC-ColonDB and ETIS-LaribPolypDB, divided as by Fan et al. 2020.

    ``PATH`` holds ``TrainDataset/`` and ``TestDataset/SET/``, each with ``images/`` and ``masks/`` (``image`` and
    ``mask`` in older copies, ``images_og`` in SAMAug's). The attribute ``set`` names the test set.

    Raises ``DataError`` for a folder that is missing and an image without its mask.
    """
    entries = []
    for folder, name, split in [(root / "TrainDataset", "train", "train")] + [
        (root / "TestDataset" / name, name, "test") for name in TESTS
    ]:
        images, masks = (
            by_stem(_one_of(spec, folder, "images", "image", "images_og")),
            by_stem(_one_of(spec, folder, "masks", "mask")),
        )
        for stem, path in images.items():
            if stem not in masks:
                raise DataError(f"data {spec!r}: {path} has no mask of its name")
            identity = f"{name}/{stem}"
            attributes = {} if split == "train" else {"set": name}
            case = Case(str(path), identity, masks={"mask": str(masks[stem])}, attributes=attributes)
            entries.append(Entry(identity, case, split=split))
    return Dataset(spec, entries, ["image", "mask", "split", "set"])


def _one_of(spec: str, folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise DataError(f"data {spec!r}: there is no folder {folder / names[0]}; unpack the set there")


layout = Layout(
    "Polyp: five sets (TrainDataset/, TestDataset/SET/ with images/ and masks/)",
    read,
    licence="research use; each set has terms of its own",
)
