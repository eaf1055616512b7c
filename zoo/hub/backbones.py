"""Public backbones that a plugin may start from, fetched as carefully as our own weights."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import MissingExtraError, WeightsError
from zoo.hub.client import Address, NotCached, Unreachable, download, explained, in_cache, listing_of, size_text
from zoo.hub.configs import foreign_config
from zoo.hub.snapshots import SAFE_NAME, has_hash, require_portable, stated_hash
from zoo.weights import TENSORS

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling
    from torch import nn
else:
    RepoSibling = Any

BACKBONE_FILES = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
)


def fetch_backbone(
    repo: str,
    *,
    needed_by: str,
    revision: str | None = None,
    files: tuple[str, ...] = BACKBONE_FILES,
    announce: Callable[[str], None] | None = None,
) -> Path:
    """Public weights that a plugin starts from, by their well-known Hub id; returns a folder for timm or transformers.

    Call it only when a user asked for these weights. What isn't in the cache is fetched, after its size has been
    announced (on stderr unless ``announce`` says otherwise). ``files``: names and patterns; safetensors must be among
    what they match. Raises ``WeightsError``; offline it says which repository is missing and the command that gets it.
    """
    where = Address(repo, revision)
    try:
        with explained(where):
            listing = listing_of(where)
    except Unreachable as why:
        try:
            folder = in_cache(where, list(files))
            if not any(folder.glob("*.safetensors")):
                raise NotCached
        except NotCached:
            command = f"hf download {repo} " + " ".join(files if "*" not in "".join(files) else files[:3])
            raise WeightsError(
                f"{needed_by} starts from {repo}, which is not in the cache, and the Hub can't be reached ({why}); "
                f"get it once with: {command}{f' --revision {revision}' if revision else ''}"
            ) from None
        return _intact(where, folder, [path.name for path in folder.iterdir()], {})
    safe = [name for name in listing if SAFE_NAME.fullmatch(name) and ".." not in name]
    names = [name for name in safe if any(fnmatchcase(name, pattern) for pattern in files)]
    if not any(name.endswith(".safetensors") for name in names):
        raise WeightsError(f"{needed_by} starts from {repo}, which holds no safetensors; choose another backbone")
    require_portable(where, names)
    try:
        folder = in_cache(where, [glob.escape(name) for name in names])
        complete = all((folder / name).is_file() for name in names)
    except NotCached:
        complete = False
    if not complete:
        total = sum(listing[name].size or 0 for name in names)
        say = announce or (lambda line: print(line, file=sys.stderr))
        say(f"{needed_by} starts from {repo}: fetching {size_text(total)} from the Hub")
    # Also when it's complete: the branch may have moved on, and the client then fetches only what changed.
    return _intact(where, download(where, names), names, listing)


def _intact(where: Address, folder: Path, names: list[str], listing: Mapping[str, RepoSibling]) -> Path:
    for name in names:
        stated = stated_hash(where, folder / name, name, folder, listing.get(name))
        if stated is None or not has_hash(folder / name, stated):
            raise WeightsError(f"{name} of {where} is damaged; remove it with zoo cache rm {where.repo} and try again")
    return folder


def timm_backbone(name: str, *, needed_by: str, **options: Any) -> nn.Module:
    """``timm.create_model(name, pretrained=True, **options)`` with the care of :func:`fetch_backbone`.

    Raises ``WeightsError``, ``MissingExtraError``.
    """
    try:
        import timm
    except ImportError:
        raise MissingExtraError(needed_by, "timm", "backbones") from None
    try:
        card = timm.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag
        card = None
    if card is None or not card.hf_hub_id:
        raise WeightsError(f"{needed_by} starts from {name}, which has no public weights in timm; choose another")
    folder = fetch_backbone(card.hf_hub_id, needed_by=needed_by, files=("config.json", TENSORS))
    # custom_load would read the file as the format of the original release
    from_file = {"file": str(folder / TENSORS), "custom_load": False}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=from_file, **options)


def transformers_backbone(model_class: Any, repo: str, *, needed_by: str, **options: Any) -> nn.Module:
    """``model_class.from_pretrained(repo, **options)`` with the care of :func:`fetch_backbone`: safetensors only.

    What its configuration names as code is dropped (:func:`foreign_config`). ``model_class`` may be an ``AutoModel``,
    which takes its kind from the configuration, of those that transformers itself has.
    """
    from transformers import AutoConfig

    folder = fetch_backbone(repo, needed_by=needed_by)
    options.setdefault("config", foreign_config(getattr(model_class, "config_class", None) or AutoConfig, folder))
    return model_class.from_pretrained(folder, use_safetensors=True, local_files_only=True, **options)
