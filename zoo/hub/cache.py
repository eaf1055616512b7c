"""The Hub's cache on this machine: which weights lie there, how large they are, and how to remove them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import WeightsError
from zoo.hub.client import address
from zoo.weights import CONFIG, MAX_CONFIG_BYTES

if TYPE_CHECKING:
    from huggingface_hub import HFCacheInfo
else:
    HFCacheInfo = Any


@dataclass(frozen=True)
class Cached:
    """One revision of a repository in the cache."""

    repo: str
    revision: str  # commit hash
    refs: tuple[str, ...]  # branches and tags that point to it
    size: int  # bytes; files that revisions share count for each
    model: str | None  # the zoo's name for it, or None for what other programs keep here
    folder: Path


def cached(*, everything: bool = False) -> list[Cached]:
    """Revisions in the cache: the zoo's, or ``everything`` that any program keeps there. Raises ``WeightsError``."""
    found = []
    scan = _scan()
    for repo in scan.repos if scan else ():
        if repo.repo_type != "model":
            continue
        for revision in repo.revisions:
            model = _model(revision.snapshot_path)
            if model or everything:
                found.append(
                    Cached(
                        repo.repo_id,
                        revision.commit_hash,
                        tuple(sorted(revision.refs)),
                        revision.size_on_disk,
                        model,
                        revision.snapshot_path,
                    )
                )
    return sorted(found, key=lambda item: (item.repo, item.revision))


def remove(repo: str, *, dry_run: bool = False) -> tuple[list[Cached], int]:
    """Remove ``ORG/REPO[@REVISION]`` from the cache; returns what went and the bytes that it freed.

    Raises ``WeightsError`` when it isn't there or can't be removed.
    """
    where = address(repo)
    chosen = [
        item
        for item in cached(everything=True)
        if item.repo == where.repo
        and (where.revision is None or where.revision in item.refs or item.revision.startswith(where.revision))
    ]
    scan = _scan()
    if not chosen or scan is None:
        raise WeightsError(f"{where} is not in the cache; zoo cache list --all shows what is")
    strategy = scan.delete_revisions(*(item.revision for item in chosen))
    if not dry_run:
        strategy.execute()
        if left := [item.folder for item in chosen if item.folder.exists()]:
            raise WeightsError(f"can't remove {left[0]}; check its permissions")
    return chosen, strategy.expected_freed_size


def _scan() -> HFCacheInfo | None:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        return scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return None
    except (OSError, ValueError) as error:
        where = constants.HF_HUB_CACHE
        raise WeightsError(f"the cache {where} can't be read: {error}; set HF_HOME to another folder") from error


def _model(folder: Path) -> str | None:
    path = folder / CONFIG
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            return None
        record: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("library_name") != "medimg-zoo":
        return None
    return ascii(record.get("model"))[1:-1][:60]
