"""Snapshots of repositories: only named files, and every byte compared with the hash that the Hub states."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from zoo import weights as weight_files
from zoo.errors import WeightsError
from zoo.hub.client import Address, NotCached, Unreachable, address, download, explained, in_cache, listing_of, reason
from zoo.hub.guard import COMMIT, unportable
from zoo.storage import replacing, user_path
from zoo.weights import ANSWER, CONFIG, DOMAIN, INDEX, SEEN, SHARD, TENSORS, Located, shown

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling
else:
    RepoSibling = Any

README = "README.md"
PICTURES = ("gallery", "figures")

SAFE_NAME = re.compile(r"[\w.\- +()]+(/[\w.\- +()]+)*")
PICTURE = re.compile(r".+\.(png|jpe?g|svg|gif|webp|json)", re.IGNORECASE)


@dataclass(frozen=True)
class Fetched:
    """A snapshot in the cache whose files have the hashes that the Hub states."""

    folder: Path
    revision: str  # commit hash
    files: dict[str, int] = field(default_factory=dict)  # size in bytes, by name
    model: str = ""  # as config.json names it; known after a pull


def pull(repo: str, out: str | os.PathLike[str] | None = None) -> Fetched:
    """Bring ``ORG/REPO[@REVISION]`` to this machine: into the cache, and as plain files into ``out`` if given.

    Afterwards ``hf://ORG/REPO[@REVISION]`` works offline. Raises ``WeightsError`` naming what is missing, refused or
    damaged.
    """
    where = address(repo)
    fetched = fetch(where, everything=True)
    located = Located(fetched.folder, str(where), weight_files.only_safetensors(fetched.folder, str(where)))
    model = weight_files.read_any_record(located).get("model")
    if not isinstance(model, str):
        raise WeightsError(f"{CONFIG} of {where} names no model; it was not published with zoo push")
    weight_files.read_headers(located)
    fetched = replace(fetched, model=shown(model)[1:-1])
    if out is None:
        return fetched
    target = user_path(out, WeightsError)
    try:
        for name in fetched.files:
            with replacing(target / name) as draft:
                shutil.copyfile(fetched.folder / name, draft)
    except OSError as error:
        raise WeightsError(f"can't write to {target}: {reason(error)}; choose another folder with --out") from error
    return replace(fetched, folder=target)


def fetch(where: Address, *, everything: bool = False) -> Fetched:
    """The snapshot of a repository, from the cache or the Hub, complete and with every hash checked.

    Only ``config.json`` and safetensors are fetched; with ``everything`` also the model card and its pictures. A
    revision that is a commit hash and lies in the cache is used without any request. Raises ``WeightsError``.
    """
    if where.revision and COMMIT.fullmatch(where.revision):
        try:
            return _verified(where, _cached(where, everything), {})
        except NotCached:
            pass
    try:
        with explained(where):
            listing = listing_of(where)
    except Unreachable as why:
        try:
            return _verified(where, _cached(where, everything), {})
        except NotCached:
            raise WeightsError(
                f"{where} is not in the cache and the Hub can't be reached ({why}); "
                f"go online and run: zoo pull {str(where).removeprefix('hf://')}"
            ) from None
    names = _chosen(where, listing, everything)
    return _verified(where, download(where, names), {name: listing[name] for name in names})


def _cached(where: Address, everything: bool) -> Path:
    wanted = [CONFIG, SEEN, DOMAIN, ANSWER, TENSORS, INDEX, "model-*-of-*.safetensors"]
    if everything:
        wanted += [README, *(f"{top}/*" for top in PICTURES)]
    folder = in_cache(where, wanted)
    shards = [path.name for path in folder.iterdir() if SHARD.fullmatch(path.name)]
    sharded = (folder / INDEX).is_file() and {int(name[15:20]) for name in shards} == {len(shards)}
    if not (folder / CONFIG).is_file() or not ((folder / TENSORS).is_file() or sharded):
        raise NotCached
    return folder


def _chosen(where: Address, listing: Mapping[str, RepoSibling], everything: bool) -> list[str]:
    """The files to fetch. Raises ``WeightsError`` for a repository that is unsafe or isn't a model of a zoo."""
    for name in listing:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or not name.isprintable():
            raise WeightsError(
                f"{where} holds a file called {shown(name)}, which leads out of its folder; "
                f"nothing of it was fetched, don't use this repository"
            )
    shards = sorted(name for name in listing if SHARD.fullmatch(name))
    if TENSORS in listing:
        names = [TENSORS]
    elif INDEX in listing and shards:
        names = [INDEX, *shards]
    else:
        pickles = sorted(name for name in listing if any(PurePosixPath(name).match(p) for p in weight_files.PICKLES))
        if pickles:
            raise WeightsError(weight_files.only_pickle(str(where), pickles[0]))
        raise WeightsError(f"{where} holds no {TENSORS}; check the name and the revision")
    if CONFIG not in listing:
        raise WeightsError(f"{where} holds no {CONFIG}; it was not published with zoo push")
    if (listing[CONFIG].size or 0) > weight_files.MAX_CONFIG_BYTES:
        raise WeightsError(f"{CONFIG} of {where} is larger than 4 MiB; it was not published with zoo push")
    names += [name for name in (SEEN, DOMAIN, ANSWER) if name in listing]
    if everything:
        pictures = [name for name in listing if name.split("/")[0] in PICTURES and "/" in name]
        names += [README] if README in listing else []
        names += sorted(name for name in pictures if SAFE_NAME.fullmatch(name) and PICTURE.fullmatch(name))
    require_portable(where, [CONFIG, *names])
    return [CONFIG, *names]


def require_portable(where: Address, names: Iterable[str]) -> None:
    """Refuse files that one system can hold and another can't. Raises ``WeightsError``."""
    if found := unportable(names):
        name, why = found
        raise WeightsError(f"{where} holds a file called {shown(name)}, which {why}; nothing of it was fetched")


def _verified(where: Address, folder: Path, listing: Mapping[str, RepoSibling]) -> Fetched:
    """Compare every file with the hash that the Hub states. Raises ``WeightsError`` naming the file that differs.

    The client compares sizes only, and a disk may lose what it was given; so this is done on every load.
    """
    files: dict[str, int] = {}
    names = list(listing) or sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() or path.is_symlink()
    )
    for name in names:
        if not _wanted(name):
            continue
        path = folder / name
        if not path.is_file():
            raise WeightsError(f"{where} in the cache lacks {name}; run: zoo pull {where.repo}")
        stated = stated_hash(where, path, name, folder, listing.get(name))
        if stated is None or not has_hash(path, stated):
            what = "can't be verified" if stated is None else "is damaged: its content is not what the Hub states"
            raise WeightsError(
                f"{name} of {where} {what}, and was not loaded; remove it with zoo cache rm {where.repo} "
                f"and pull it again"
            )
        files[name] = path.stat().st_size
    return Fetched(folder, folder.name, files)


def _wanted(name: str) -> bool:
    top = name.split("/")[0]
    return (
        name in (CONFIG, SEEN, DOMAIN, ANSWER, TENSORS, INDEX, README)
        or bool(SHARD.fullmatch(name))
        or (top in PICTURES and "/" in name)
    )


def stated_hash(where: Address, path: Path, name: str, folder: Path, listed: RepoSibling | None) -> str | None:
    """SHA-256 for large files, git's SHA-1 for small ones: from the listing, or from the cache when offline."""
    if listed is not None and (stated := listed.lfs.sha256 if listed.lfs else listed.blob_id):
        return stated
    if path.is_symlink():  # the cache names each blob by its hash
        blob = Path(os.readlink(path)).name
        if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob):
            return blob
    try:  # a cache without symbolic links, as on Windows
        from huggingface_hub import get_cached_repo_tree

        tree = get_cached_repo_tree(where.repo, revision=folder.name)
        return next((entry.blob_id for entry in tree if entry.path == name), None)
    except Exception:  # an older client has no such listing; then the file counts as unverified
        return None


def has_hash(path: Path, stated: str) -> bool:
    size = path.stat().st_size
    sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            (sha256 if len(stated) == 64 else blob).update(chunk)
            if len(stated) == 40:
                sha256.update(chunk)
    if len(stated) == 64:
        return sha256.hexdigest() == stated
    # git's hash of a large file is that of the pointer which stands for it
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256.hexdigest()}\nsize {size}\n".encode()
    return stated in (blob.hexdigest(), hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest())
