"""Configurations of other people's checkpoints, without what could name code."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from zoo.errors import WeightsError
from zoo.storage import write_file

NAMES_CODE = frozenset({"attn_implementation", "experts_implementation", "auto_map", "custom_pipelines"})
"""Keys besides those that begin with an underscore: transformers fetches and runs what some of them name."""


LABELS = frozenset({"id2label", "label2id"})  # whose keys are a data set's own words


def foreign_config(config_class: Any, folder: str | Path) -> Any:
    """``config_class.from_pretrained(folder)`` of a ``config.json`` from which everything that names code is dropped.

    ``_attn_implementation: "org/kernel"`` lets transformers fetch a kernel from the Hub and run it, in some versions
    before anybody looked at the weights. No checkpoint needs such a key: they are transformers' notes to itself.

    Raises ``WeightsError`` for a file that can't be read or is no table, and whatever transformers raises.
    """
    path = Path(folder) / "config.json"
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} can't be read as JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(stated, dict):
        raise WeightsError(f"{path} is no table of settings")
    with tempfile.TemporaryDirectory(prefix="zoo-config-") as clean:
        write_file(Path(clean) / "config.json", json.dumps(without_code(stated)).encode())
        return config_class.from_pretrained(clean, local_files_only=True)


def without_code(value: Any) -> Any:
    """Plain data without the keys, at any depth, that could name code."""
    if isinstance(value, list):
        return [without_code(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {key: one for key, one in value.items() if not _names_code(key)}
    return {key: one if key in LABELS else without_code(one) for key, one in kept.items()}


def _names_code(key: str) -> bool:
    return key.startswith("_") or key in NAMES_CODE
