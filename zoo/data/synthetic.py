"""A data set as a message: a few made images with their labels in one safetensors file.

Whoever reads one takes it as a stranger's: size, names, types, shapes, values and classes are checked, and nothing but
the header is looked at before its bounds are known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from zoo.errors import DataError
from zoo.storage import user_path, write_file
from zoo.text import printable, strict_json

FORMAT = "zoo-synthetic-set-1"
MOST_BYTES, MOST_HEADER, MOST_IMAGES, MOST_CLASSES, MOST_FACTS = 512 << 20, 1 << 20, 20_000, 1000, 64
SIDES = 4, 1024  # px
LARGEST = 100.0  # of a number in units of [0, 1]


@dataclass(frozen=True)
class SyntheticSet:
    """Images as bytes, or as float32 in units of [0, 1] that may lie outside of it, and the class of each.

    ``facts``: what its maker says of it, such as the method and the seed; nobody has checked that.
    """

    images: Shaped[Tensor, "n c s s"]
    y: Int[Tensor, " n"]
    labels: tuple[str, ...]
    facts: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def payload(self) -> int:
        """Bytes of images and labels, without what the file says about them."""
        return self.images.numel() * self.images.element_size() + self.y.numel()

    def write(self, path: str | Path) -> int:
        """Write one file, whole or not at all; its bytes. Raises ``DataError`` for a set that nobody would read."""
        from safetensors.torch import save

        if fault := faults(self.images, self.y, len(self.labels)):
            raise DataError(f"this synthetic set can't be sent: {fault}")
        # one entry: safetensors writes several in any order, and the same set shall be the same bytes
        about = {"about": json.dumps({"format": FORMAT, "labels": list(self.labels), "facts": dict(self.facts)})}
        data = save({"images": self.images.contiguous(), "labels": self.y.to(torch.int16)}, about)
        write_file(path, data)
        return len(data)


def faults(images: Tensor, y: Tensor, classes: int, size: Sequence[int] | None = None) -> str:
    """Why these can't be the images and labels of a set, or nothing. ``size``: (c, s, s), where it is known."""
    if images.ndim != 4 or y.ndim != 1 or len(images) != len(y):
        return f"its images of shape {tuple(images.shape)} and labels of shape {tuple(y.shape)} don't fit each other"
    if images.dtype not in (torch.uint8, torch.float32) or y.is_floating_point() or y.is_complex():
        return f"its images are {images.dtype} and its labels {y.dtype}"
    if not 1 <= len(images) <= MOST_IMAGES:
        return f"it has {len(images)} images, not 1 to {MOST_IMAGES}"
    channels, h, w = images.shape[1:]
    if channels not in (1, 3) or h != w or not SIDES[0] <= h <= SIDES[1]:
        return f"its images of {channels} x {h} x {w} are no squares of {SIDES[0]} to {SIDES[1]} px"
    if size is not None and tuple(images.shape[1:]) != tuple(size):
        return f"its images are of {tuple(images.shape[1:])}, not of {tuple(size)}"
    if images.is_floating_point() and not (torch.isfinite(images).all() and images.abs().max() <= LARGEST):
        return "some of its pixels are no finite numbers of a picture"
    if int(y.min()) < 0 or int(y.max()) >= classes:
        return f"a label of {int(y.min())} to {int(y.max())} is none of {classes} classes"
    return ""


def read(path: str | Path) -> SyntheticSet:
    """A file that ``SyntheticSet.write`` may have written. Raises ``DataError`` with what is wrong with it."""
    from safetensors import SafetensorError, safe_open

    file = user_path(path)
    shown = printable(str(file), 120)
    try:
        if (bytes_ := file.stat().st_size) > MOST_BYTES:
            raise ValueError(f"it has {bytes_:,} bytes, more than {MOST_BYTES:,}")
        with safe_open(file, framework="pt") as opened:
            labels, facts = _about(opened.metadata() or {})
            if sorted(opened.keys()) != ["images", "labels"]:
                raise ValueError("it doesn't hold images and labels, and nothing else")
            kinds = {name: opened.get_slice(name).get_dtype() for name in ("images", "labels")}
            if kinds["images"] not in ("U8", "F32") or kinds["labels"] != "I16":
                raise ValueError(f"its images are {kinds['images']} and its labels {kinds['labels']}")
            images, y = opened.get_tensor("images"), opened.get_tensor("labels").to(torch.int64)
        if fault := faults(images, y, len(labels)):
            raise ValueError(fault)
    except (OSError, ValueError, TypeError, RecursionError, SafetensorError) as error:
        why = printable(str(error).splitlines()[0] if str(error) else type(error).__name__, 200)
        raise DataError(f"{shown} is no synthetic set: {why}; ask its sender for another one") from error
    return SyntheticSet(images, y, labels, facts)


def _about(metadata: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The labels and the facts of a header. Raises ``ValueError``."""
    text = metadata.get("about", "null")
    about = strict_json(text) if len(text) <= MOST_HEADER else None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"its header doesn't say {FORMAT}")
    labels, facts = about.get("labels"), about.get("facts", {})
    if not isinstance(labels, list) or not 2 <= len(labels) <= MOST_CLASSES or len(set(map(str, labels))) < len(labels):
        raise ValueError("its header doesn't name two or more classes, each once")
    if not all(isinstance(name, str) and 0 < len(name) <= 100 and name.isprintable() for name in labels):
        raise ValueError("its header has names that no table can hold")
    if not isinstance(facts, dict) or len(facts) > MOST_FACTS:
        raise ValueError("its header states facts that nobody can read")
    return tuple(labels), {printable(str(k), 60): printable(str(v), 200) for k, v in facts.items()}
