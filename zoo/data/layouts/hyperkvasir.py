"""HyperKvasir, labelled images."""

from __future__ import annotations

from pathlib import Path

from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, Layout
from zoo.data.tables import files_like, is_image_name
from zoo.errors import DataError

HYPERKVASIR_CLASSES = (
    "barretts", "barretts-short-segment", "bbps-0-1", "bbps-2-3", "cecum", "dyed-lifted-polyps",
    "dyed-resection-margins", "esophagitis-a", "esophagitis-b-d", "hemorrhoids", "ileum", "impacted-stool", "polyps",
    "pylorus", "retroflex-rectum", "retroflex-stomach", "ulcerative-colitis-grade-0-1", "ulcerative-colitis-grade-1",
    "ulcerative-colitis-grade-1-2", "ulcerative-colitis-grade-2", "ulcerative-colitis-grade-2-3",
    "ulcerative-colitis-grade-3", "z-line",
)  # fmt: skip
"""The 23 findings of HyperKvasir's labelled images, as their folders are called."""


def read(spec: str, root: Path) -> Dataset:
    """``hyperkvasir:PATH``: the labelled images of HyperKvasir as they are unpacked.

    ``PATH`` is, or holds, ``labeled-images/`` with one folder per finding below ``lower-gi-tract/`` and
    ``upper-gi-tract/``. The set doesn't say which images are of one patient. ``tract`` and ``category`` (such as
    ``anatomical-landmarks``) become attributes.

    Raises ``DataError`` where no folder bears the name of a finding.
    """
    folder = root / "labeled-images" if (root / "labeled-images").is_dir() else root
    entries = []
    for path in files_like(folder, "*/*/*/*"):
        tract, category, finding, name = path.relative_to(folder).parts
        if finding not in HYPERKVASIR_CLASSES or not is_image_name(name):
            continue
        identity = f"{finding}/{path.stem}"
        attributes = {"tract": tract, "category": category}
        entries.append(Entry(identity, Case(str(path), identity, label=finding, attributes=attributes)))
    if not entries:
        raise DataError(
            f"data {spec!r}: {folder} holds no images in TRACT/CATEGORY/FINDING/ with a finding such as polyps or "
            "z-line; unpack HyperKvasir's labelled images there"
        )
    return Dataset(spec, entries, ["image", "label"])


layout = Layout(
    "HyperKvasir, labelled images (labeled-images/TRACT/CATEGORY/FINDING/*.jpg)",
    read,
    licence="CC BY 4.0",
)
