"""Ultrasound of peripheral nerves."""

from __future__ import annotations

from pathlib import Path

from zoo.data.layouts.sub_groups import read_groups
from zoo.data.sets import Dataset, Layout

GROUPS = ("FH", "FN", "FN+1", "FN+2", "FN+3", "FN+4", "ulnar")


def read(spec: str, root: Path) -> Dataset:
    """``nerve:PATH``: peripheral nerves, one folder for each place: ``FH``, ``FN``, ``FN+1`` to ``FN+4``, ``ulnar``.

    Files as in ``busi``. Folders that aren't there are left out; at least two must be.
    """
    return read_groups(spec, root, GROUPS, least=2)


layout = Layout(
    "Peripheral nerve ultrasound (FH/, FN/, FN+1/ to FN+4/, ulnar/, masks beside the images)",
    read,
    licence="as its owner grants it",
)
