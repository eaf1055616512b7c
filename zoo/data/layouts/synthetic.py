"""Synthetic sets that clients sent, as ``zoo distill`` writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zoo.data import synthetic
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.errors import DataError


def read(spec: str, root: Path) -> Dataset:
    """``synthetic:PATH``: a folder of messages, one ``.safetensors`` file for each client, or one such file.

    All are checked as strangers' files are. Every image is a case of the training part; ``client`` is the file's name.
    Raises ``DataError`` for a file that is no such message, and for sets of other classes or sizes than the first.
    """
    files = sorted(root.glob("*.safetensors")) if root.is_dir() else [root]
    if not files:
        raise DataError(f"data {spec!r}: there is no .safetensors file in {root}; put the clients' messages there")
    entries: list[Entry] = []
    first: synthetic.SyntheticSet | None = None
    for path in files:
        sent = synthetic.read(path)
        first = first or sent
        if (sent.labels, sent.images.shape[1:]) != (first.labels, first.images.shape[1:]):
            raise DataError(f"data {spec!r}: {path.name} has other classes or sizes than {files[0].name}")
        about = {"client": path.stem, "synthetic": True}
        for i, (image, y) in enumerate(zip(sent.images, sent.y.tolist(), strict=True)):
            pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
            name = f"{path.stem}/{i}"
            entries.append(Entry(name, Case(pixels, name, label=sent.labels[y], attributes=about), split="train"))
    return Dataset(spec, entries, ["image", "label", "client", "split"], whole=True)


layout = Layout("synthetic sets of clients (.safetensors, as zoo distill writes them)", read)
