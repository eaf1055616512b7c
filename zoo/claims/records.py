"""Where the record of a claim lies: ``claim.json`` beside the module of the claim, in the plugin's own package."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.claims.result import ClaimResult
from zoo.errors import DataError
from zoo.plugin import Plugin

RECORD = "claim.json"


def load_result(path: str | Path) -> ClaimResult:
    """A result from its JSON. Raises ``DataError`` if the file is no such thing."""
    try:
        return ClaimResult.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no result of a claim ({error!r}); remove it and reproduce again") from error


def record_path(plugin: Plugin) -> Path | None:
    """Where the record lies, or would; ``None`` for a plugin without a claim. The claim itself isn't imported."""
    try:
        spec = find_spec(plugin.claim.partition(":")[0]) if plugin.claim else None
    except ImportError:  # its package is gone; who resolves the claim says so
        return None
    return Path(spec.origin).with_name(RECORD) if spec and spec.origin else None


def record_of(plugin: Plugin) -> dict[str, Any] | None:
    """The record as it stands in the file, with the verdicts of its time; ``None`` where there is none."""
    path = record_path(plugin)
    if path is None or not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record["verdict"], str) and record.get("model", plugin.name) == plugin.name:
            return record
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DataError(f"{path} is no record of the claim of {plugin.name}; run: zoo reproduce {plugin.name} --record")
