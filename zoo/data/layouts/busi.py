"""BUSI: Breast Ultrasound Images."""

from __future__ import annotations

from pathlib import Path

from zoo.data.layouts.sub_groups import read_groups
from zoo.data.sets import Dataset, Layout

GROUPS = ("benign", "malignant", "normal")


def read(spec: str, root: Path) -> Dataset:
    """``busi:PATH``: Breast Ultrasound Images, Al-Dhabyani et al. 2020, as unpacked (``Dataset_BUSI_with_GT/``).

    ``PATH`` holds (itself, or in that folder) ``benign/``, ``malignant/`` and ``normal/``, each with ``NAME.png``,
    ``NAME_mask.png`` and for further lesions ``NAME_mask_1.png``, ...; the masks of an image are united. The folder is
    label and sub-group. Raises ``DataError`` for folders or masks that are missing.
    """
    inner = root / "Dataset_BUSI_with_GT"
    return read_groups(spec, inner if inner.is_dir() else root, GROUPS)


layout = Layout(
    "BUSI: Breast Ultrasound Images (benign/, malignant/, normal/, masks beside the images)", read, licence="CC BY 4.0"
)
