"""Human embryos at the blastocyst stage with their components, as the Simon Fraser University sets lie on disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from zoo import media
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import by_stem
from zoo.errors import DataError

LABELS = ("background", "ZP", "TE", "BL", "ICM")
GREYS = {0: 0, 64: 1, 105: 1, 128: 2, 192: 3, 226: 3, 255: 4}  # grey value of a mask: class
COMPONENTS = LABELS[1:]


def read(spec: str, root: Path) -> Dataset:
    """``blastocyst:PATH``: embryos with zona pellucida (1), trophectoderm (2), blastocoel (3), inner cell mass (4).

    ``PATH`` holds one of

    * ``images/`` and ``masks/`` with files of the same names; a mask's grey values 0, 64 or 105, 128, 192 or 226, and
      255 are the classes 0 to 4;
    * ``images/`` and ``masks/`` with a folder for each component, ``ZP/``, ``TE/``, ``BL/``, ``ICM/``, and a black and
      white mask for each image in it (that of the background may lie beside them, and is not read);
    * ``client1/``, ``client2/``, .. each with ``train_imgs``, ``train_masks``, ``val_imgs`` and ``val_masks``, beside
      ``test_imgs`` and ``test_masks``, as split between clients: they are then in the column ``client``, and what a
      client validates on has ``part=validation``.

    Raises ``DataError`` for folders or masks that are missing, and for grey values that are no class.
    """
    clients = sorted(path for path in root.glob("client*") if path.is_dir())
    if not clients:
        return Dataset(spec, _entries(spec, root / "images", root / "masks", "", {}), ["image", "mask"], LABELS)
    entries: list[Entry] = []
    for folder in clients:
        facts = {"client": folder.name}
        for part, name in (("train", "training"), ("val", "validation")):
            places = (folder / f"{part}_imgs", folder / f"{part}_masks")
            entries += _entries(spec, *places, f"{folder.name}/{part}/", {**facts, "part": name}, "train")
    if (root / "test_imgs").is_dir():
        entries += _entries(spec, root / "test_imgs", root / "test_masks", "test/", {}, "test")
    return Dataset(spec, entries, ["image", "mask", "client", "part", "split"], LABELS)


def _entries(
    spec: str, images: Path, masks: Path, prefix: str, facts: dict[str, str], split: str | None = None
) -> list[Entry]:
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(f"data {spec!r}: there is no folder {folder}; unpack the set there")
    parts = {name: by_stem(masks / name) for name in COMPONENTS if (masks / name).is_dir()}
    if parts and len(parts) < len(COMPONENTS):
        lacking = next(name for name in COMPONENTS if name not in parts)
        raise DataError(f"data {spec!r}: {masks} has masks of {', '.join(parts)} and no folder {lacking}")
    whole = {} if parts else by_stem(masks)
    entries = []
    for stem, image in by_stem(images).items():
        found = {name: files.get(stem) for name, files in parts.items()} or {"": whole.get(stem)}
        for name, path in found.items():
            if path is None:
                raise DataError(f"data {spec!r}: {image} has no mask of its name in {masks / name}")
        make = partial(_case, str(image), {name: str(path) for name, path in found.items()}, prefix + stem, facts)
        entries.append(Entry(prefix + stem, make, split=split))
    return entries


def _case(image: str, masks: dict[str, str], name: str, facts: dict[str, str]) -> Case:
    if "" in masks:
        mask = of_greys(media.read(masks[""]).require_2d("a mask").array, name)
    else:
        layers = [media.read_labels(masks[one]).require_2d().array > 0 for one in COMPONENTS]
        if len({layer.shape for layer in layers}) > 1:
            raise DataError(f"the masks of {name} differ in size: {', '.join(str(one.shape) for one in layers)}")
        mask = np.zeros(layers[0].shape, np.uint8)
        for k, layer in enumerate(layers, start=1):  # the inner cell mass lies over the others
            mask[layer] = k
    return Case(image, name, masks={"mask": mask}, attributes=dict(facts))


def of_greys(grey: np.ndarray, name: str) -> np.ndarray:
    """Grey values as classes 0 to 4; a mask that has the classes themselves stays. Raises ``DataError`` for others."""
    if grey.ndim == 3:  # saved in colour, all channels alike
        grey = grey[..., 0]
    values = np.unique(grey)
    if values.max(initial=0) < len(LABELS):
        return grey.astype(np.uint8)
    unknown = [value for value in values.tolist() if value not in GREYS]
    if unknown:
        raise DataError(f"the mask of {name} has the grey value {unknown[0]}; known are {', '.join(map(str, GREYS))}")
    table = np.zeros(256, np.uint8)
    table[list(GREYS)] = list(GREYS.values())
    return table[grey.astype(np.int64)]


layout = Layout(
    "Blastocysts of human embryos (images/ and masks/, or client1/ ... and test_imgs/)",
    read,
    licence="on request from its authors, by their terms",
)
