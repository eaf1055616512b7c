"""Weights on the Hugging Face Hub: :func:`push`, :func:`pull`, and public backbones that a plugin may start from.

``huggingface_hub`` does all the talking, so ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what
they mean everywhere. This room adds what a model zoo must not leave to chance: only named files are fetched, every
byte is compared with the hash that the Hub states before it is used, and every refusal is one sentence.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from zoo import weights as weight_files
from zoo.errors import MissingExtraError, OptionError, WeightsError, ZooError
from zoo.plugin import Plugin
from zoo.storage import replacing
from zoo.weights import CONFIG, INDEX, SHARD, TENSORS, Located, shown

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling
    from torch import nn

    from zoo.model import Model

README = "README.md"
PICTURES = ("gallery", "figures")
RETRIES, FIRST_WAIT, LONGEST_WAIT = 4, 1.0, 60.0  # seconds
TIMEOUT = 30.0  # seconds
RETRY_STATUS = (408, 429, 500, 502, 503, 504)

_ADDRESS = re.compile(r"(?:hf://)?(?P<repo>[\w\-][\w.\-]*/[\w\-][\w.\-]*)(?:@(?P<revision>[\w.\-/]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SAFE_NAME = re.compile(r"[\w.\- +()]+(/[\w.\- +()]+)*")
_PICTURE = re.compile(r".+\.(png|jpe?g|svg|gif|webp|json)", re.IGNORECASE)
T = TypeVar("T")


@dataclass(frozen=True)
class Address:
    """``hf://ORG/REPO[@REVISION]``; a revision is a branch, a tag or a commit hash."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Fetched:
    """A snapshot in the cache whose files have the hashes that the Hub states."""

    folder: Path
    revision: str  # commit hash
    files: dict[str, int] = field(default_factory=dict)  # size in bytes, by name
    model: str = ""  # as config.json names it; known after a pull


@dataclass(frozen=True)
class Pushed:
    """What a push published, or would publish: ``revision`` and ``url`` are ``None`` after a dry run."""

    repo: str
    files: dict[str, int]
    revision: str | None = None
    url: str | None = None
    pull_request: str | None = None


def address(text: str) -> Address:
    """Read ``hf://ORG/REPO[@REVISION]``; the ``hf://`` may be left out. Raises ``WeightsError``."""
    match = _ADDRESS.fullmatch(text)
    if not match or ".." in text or "--" in match["repo"]:
        raise WeightsError(f"{text} is not a Hub address; write hf://ORG/REPO or hf://ORG/REPO@REVISION")
    return Address(match["repo"], match["revision"])


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
    target = Path(out).expanduser()
    try:
        for name in fetched.files:
            with replacing(target / name) as draft:
                shutil.copyfile(fetched.folder / name, draft)
    except OSError as error:
        raise WeightsError(f"can't write to {target}: {_reason(error)}; choose another folder with --out") from error
    return replace(fetched, folder=target)


def fetch(where: Address, *, everything: bool = False) -> Fetched:
    """The snapshot of a repository, from the cache or the Hub, complete and with every hash checked.

    Only ``config.json`` and safetensors are fetched; with ``everything`` also the model card and its pictures. A
    revision that is a commit hash and lies in the cache is used without any request. Raises ``WeightsError``.
    """
    if where.revision and _COMMIT.fullmatch(where.revision):
        try:
            return _verified(where, _cached(where, everything), {})
        except _NotCached:
            pass
    try:
        with _explained(where):
            listing = _list(where)
    except _Unreachable as why:
        try:
            return _verified(where, _cached(where, everything), {})
        except _NotCached:
            raise WeightsError(
                f"{where} is not in the cache and the Hub can't be reached ({why}); "
                f"go online and run: zoo pull {str(where).removeprefix('hf://')}"
            ) from None
    names = _chosen(where, listing, everything)
    return _verified(where, _download(where, names), {name: listing[name] for name in names})


class _NotCached(Exception):
    pass


class _Unreachable(Exception):
    """No answer from the Hub; the message says why."""


def _list(where: Address) -> dict[str, RepoSibling]:
    """The files of a repository with sizes and hashes. Raises ``_Unreachable``."""
    from huggingface_hub import HfApi

    try:
        info = _patiently(
            lambda: HfApi().model_info(where.repo, revision=where.revision, files_metadata=True, timeout=TIMEOUT)
        )
    except Exception as error:
        if why := _why_unreachable(error):
            raise _Unreachable(why) from error
        raise
    return {sibling.rfilename: sibling for sibling in info.siblings or []}


def _download(where: Address, names: Iterable[str]) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [glob.escape(name) for name in names]
    with _explained(where):
        return Path(_patiently(lambda: snapshot_download(where.repo, revision=where.revision, allow_patterns=patterns)))


def _in_cache(where: Address, patterns: list[str]) -> Path:
    """The snapshot of a revision in the cache. Raises ``_NotCached``."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(where.repo, revision=where.revision, allow_patterns=patterns, local_files_only=True)
    except (LocalEntryNotFoundError, NotADirectoryError) as error:
        raise _NotCached from error
    return Path(folder)


def _cached(where: Address, everything: bool) -> Path:
    wanted = [CONFIG, TENSORS, INDEX, "model-*-of-*.safetensors"]
    if everything:
        wanted += [README, *(f"{top}/*" for top in PICTURES)]
    folder = _in_cache(where, wanted)
    shards = [path.name for path in folder.iterdir() if SHARD.fullmatch(path.name)]
    sharded = (folder / INDEX).is_file() and {int(name[15:20]) for name in shards} == {len(shards)}
    if not (folder / CONFIG).is_file() or not ((folder / TENSORS).is_file() or sharded):
        raise _NotCached
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
    if everything:
        pictures = [name for name in listing if name.split("/")[0] in PICTURES and "/" in name]
        names += [README] if README in listing else []
        names += sorted(name for name in pictures if _SAFE_NAME.fullmatch(name) and _PICTURE.fullmatch(name))
    return [CONFIG, *names]


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
        stated = _stated_hash(where, path, name, folder, listing.get(name))
        if stated is None or not _has_hash(path, stated):
            what = "can't be verified" if stated is None else "is damaged: its content is not what the Hub states"
            raise WeightsError(
                f"{name} of {where} {what}, and was not loaded; remove it with zoo cache rm {where.repo} "
                f"and pull it again"
            )
        files[name] = path.stat().st_size
    return Fetched(folder, folder.name, files)


def _wanted(name: str) -> bool:
    top = name.split("/")[0]
    return name in (CONFIG, TENSORS, INDEX, README) or bool(SHARD.fullmatch(name)) or (top in PICTURES and "/" in name)


def _stated_hash(where: Address, path: Path, name: str, folder: Path, listed: RepoSibling | None) -> str | None:
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


def _has_hash(path: Path, stated: str) -> bool:
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


def push(
    what: str | os.PathLike[str] | Model,
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    pull_request: bool = False,
    message: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Publish a model with its model card: a folder of weights, a loaded model, or a name (its demo weights).

    Everything is checked first, so that nothing is published that would not load. ``revision`` names a branch, made if
    missing; ``pull_request`` opens one instead of committing. An interrupted push is repeated by the same call: files
    that arrived are not sent again. ``dry_run`` sends nothing and returns what would be sent.

    Raises ``WeightsError`` naming what is wrong with the weights, the repository or the token, ``OptionError`` for
    options that don't go together.
    """
    where = address(repo)
    if where.revision:
        raise OptionError(f"{repo} names a revision; push to a branch with --revision {where.revision}")
    if pull_request and revision:
        raise OptionError("--pr proposes a change to main and --revision names another branch; pass one of them")
    with tempfile.TemporaryDirectory(prefix="zoo-push-") as scratch:
        files = _publication(what, where, Path(scratch))
        sizes = {name: path.stat().st_size for name, path in files.items()}
        if dry_run:
            return Pushed(where.repo, sizes)
        with _explained(where, doing="pushed to"):
            commit = _publish(where, files, private, revision, pull_request, message)
    return Pushed(where.repo, sizes, commit.oid, commit.commit_url, commit.pr_url)


def _publication(what: Any, where: Address, scratch: Path) -> dict[str, Path]:
    """The files of a repository by their names there; all of them checked."""
    from zoo import registry
    from zoo.card import check_card, model_card

    demo = False
    if not isinstance(what, (str, os.PathLike)):
        folder, model_class, spec = weight_files.save(what, scratch / "model"), type(what), where.repo
    elif Path(what).is_dir():
        folder, spec = Path(what), str(what)
        located = Located(folder, spec, weight_files.only_safetensors(folder, spec))
        name = weight_files.read_any_record(located).get("model")
        if not isinstance(name, str):
            raise WeightsError(f"{CONFIG} in {spec} names no model; push a folder that zoo train wrote")
        model_class = registry.resolve(registry.find(name), "model")
    elif Path(what).exists():
        raise WeightsError(f"{what} is a file; push the folder that holds {CONFIG} and {TENSORS}")
    else:
        entry = registry.find(str(what))
        assert entry.plugin is not None
        demo, spec, model_class = True, "demo", registry.resolve(entry, "model")
        folder = weight_files.locate("demo", entry.plugin).folder
    plugin: Plugin = model_class.plugin
    located = Located(folder, spec, weight_files.only_safetensors(folder, spec))
    record = weight_files.check(model_class, located)

    files = {CONFIG: folder / CONFIG, located.tensors.name: located.tensors}
    files |= {stored.file.name: stored.file for stored in weight_files.read_headers(located).values()}
    readme = folder / README
    if not readme.is_file() or _is_template(readme):
        readme = scratch / README
        text = model_card(plugin, record, folder, where.repo, demo=demo)
        readme.write_text(text, encoding="utf-8")
    check_card(readme.read_text(encoding="utf-8", errors="replace"), str(readme))
    files[README] = readme
    root = folder.resolve()
    for top in PICTURES:
        for path in sorted((folder / top).rglob("*")):
            name = path.relative_to(folder).as_posix()
            inside = path.is_file() and path.resolve().is_relative_to(root)  # a link could publish any file
            if inside and _SAFE_NAME.fullmatch(name) and _PICTURE.fullmatch(name):
                files[name] = path
    return files


def _is_template(readme: Path) -> bool:
    """Whether it is the card that ``save_pretrained`` leaves, which says nothing about the model."""
    return "PytorchModelHubMixin" in readme.read_text(encoding="utf-8", errors="replace")


def _publish(
    where: Address,
    files: Mapping[str, Path],
    private: bool | None,
    revision: str | None,
    pull_request: bool,
    message: str | None,
) -> Any:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import get_token

    if get_token() is None:
        raise WeightsError(f"pushing to {where} needs a token; set HF_TOKEN or run: hf auth login")
    api = HfApi(library_name="zoo")
    if not pull_request:
        _patiently(lambda: api.create_repo(where.repo, private=private or None, exist_ok=True))
        if revision and revision != "main":
            _patiently(lambda: api.create_branch(where.repo, branch=revision, exist_ok=True))
    info = _patiently(lambda: api.model_info(where.repo, revision=revision, timeout=30))
    if private and info.private is False:
        raise WeightsError(f"{where} exists and is public, so nothing was pushed; push to a new repository")
    present = [sibling.rfilename for sibling in info.siblings or []]
    # Tensors of an earlier push in the other layout would be ambiguous beside the new ones.
    stale = [n for n in present if n not in files and (n in (TENSORS, INDEX) or SHARD.fullmatch(n))]

    def commit() -> Any:
        operations = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        return api.create_commit(
            where.repo,
            operations=[*operations, *(CommitOperationDelete(name) for name in stale)],
            commit_message=message or "Publish with zoo push",
            revision=revision,
            create_pr=pull_request,
        )

    # Files that arrived are not sent again and an empty commit is skipped, so a commit may be repeated; a pull request
    # would be opened twice.
    return commit() if pull_request else _patiently(commit)


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
        with _explained(where):
            listing = _list(where)
    except _Unreachable as why:
        try:
            folder = _in_cache(where, list(files))
            if not any(folder.glob("*.safetensors")):
                raise _NotCached
        except _NotCached:
            command = f"hf download {repo} " + " ".join(files if "*" not in "".join(files) else files[:3])
            raise WeightsError(
                f"{needed_by} starts from {repo}, which is not in the cache, and the Hub can't be reached ({why}); "
                f"get it once with: {command}{f' --revision {revision}' if revision else ''}"
            ) from None
        return _intact(where, folder, [path.name for path in folder.iterdir()], {})
    safe = [name for name in listing if _SAFE_NAME.fullmatch(name) and ".." not in name]
    names = [name for name in safe if any(fnmatchcase(name, pattern) for pattern in files)]
    if not any(name.endswith(".safetensors") for name in names):
        raise WeightsError(f"{needed_by} starts from {repo}, which holds no safetensors; choose another backbone")
    try:
        folder = _in_cache(where, [glob.escape(name) for name in names])
        complete = all((folder / name).is_file() for name in names)
    except _NotCached:
        complete = False
    if not complete:
        total = sum(listing[name].size or 0 for name in names)
        say = announce or (lambda line: print(line, file=sys.stderr))
        say(f"{needed_by} starts from {repo}: fetching {size_text(total)} from the Hub")
    # Also when it's complete: the branch may have moved on, and the client then fetches only what changed.
    return _intact(where, _download(where, names), names, listing)


def _intact(where: Address, folder: Path, names: list[str], listing: Mapping[str, RepoSibling]) -> Path:
    for name in names:
        stated = _stated_hash(where, folder / name, name, folder, listing.get(name))
        if stated is None or not _has_hash(folder / name, stated):
            raise WeightsError(f"{name} of {where} is damaged; remove it with zoo cache rm {where.repo} and try again")
    return folder


def timm_backbone(name: str, *, needed_by: str, **options: Any) -> nn.Module:
    """``timm.create_model(name, pretrained=True, **options)`` with the care of :func:`fetch_backbone`.

    Raises ``WeightsError``, ``MissingExtraError``.
    """
    try:
        import timm
    except ImportError:
        raise MissingExtraError(needed_by, "timm", "sam") from None
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
    """``model_class.from_pretrained(repo, **options)`` with the care of :func:`fetch_backbone`: safetensors only."""
    folder = fetch_backbone(repo, needed_by=needed_by)
    return model_class.from_pretrained(folder, use_safetensors=True, local_files_only=True, **options)


def size_text(size: float) -> str:
    """A size in bytes for people: ``46.8 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _patiently(call: Callable[[], T]) -> T:
    """Repeat a call that the Hub refused for the moment (429, 5xx); ``Retry-After`` is obeyed up to a minute."""
    wait = FIRST_WAIT
    for attempt in range(RETRIES + 1):
        try:
            return call()
        except Exception as error:
            response = _response(error)
            if attempt == RETRIES or response is None or response.status_code not in RETRY_STATUS:
                raise
            asked = response.headers.get("Retry-After", "")
            time.sleep(min(max(wait, float(asked) if asked.isdigit() else 0.0), LONGEST_WAIT))
            wait *= 2
    raise AssertionError("unreachable")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it; the client wraps some answers of the Hub in others."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _response(error: BaseException) -> Any:
    """The refusing answer behind an error, or ``None``."""
    from huggingface_hub.errors import HfHubHTTPError

    return next((e.response for e in _chain(error) if isinstance(e, HfHubHTTPError)), None)


def _why_unreachable(error: BaseException) -> str | None:
    """Why there is no usable answer from the Hub, or ``None`` if there is one."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    response = _response(error)
    if response is not None:
        return f"it answers {response.status_code}" if response.status_code in RETRY_STATUS else None
    for link in _chain(error):
        if isinstance(link, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set"
        # The client's HTTP library was renamed between its releases, so its errors are known by their base's name.
        if any(base.__name__ == "TransportError" for base in type(link).__mro__):
            return "no connection"
    return None


@contextmanager
def _explained(where: Address, doing: str = "read") -> Iterator[None]:
    """Turn what the client raises into one sentence, and keep its log and bars off a stderr that nobody watches."""
    with _quiet():
        try:
            yield
        except (ZooError, _Unreachable, _NotCached):
            raise
        except Exception as error:
            sentence = _sentence(error, where, doing)
            if sentence is None:
                raise
            secret = _token()
            told = secret is not None and any(secret in str(link) for link in _chain(error))
            raise WeightsError(sentence) from (None if told else error)


def _sentence(error: Exception, where: Address, doing: str) -> str | None:
    from huggingface_hub import errors

    write = doing != "read"
    access = "write to" if write else "read"
    response = _response(error)
    links = list(_chain(error))

    def caused_by(kind: type[BaseException]) -> bool:
        return any(isinstance(link, kind) for link in links)

    if why := _why_unreachable(error):
        return f"{where} can't be {doing}: the Hub can't be reached ({why}); check the connection and try again"
    if response is not None:
        status = response.status_code
        if caused_by(errors.GatedRepoError):
            return f"{where} is gated; ask for access on its page and set HF_TOKEN to your token"
        if caused_by(errors.RevisionNotFoundError):
            return f"{where.repo} has no revision {where.revision or 'main'}; leave it out or choose another"
        if caused_by(errors.EntryNotFoundError):
            return f"{where} lacks a file that it lists; try again, or choose another revision"
        if status == 401 and _token() is not None:
            return f"the Hub does not accept the token for {where}; set HF_TOKEN to a valid one or run: hf auth login"
        if status == 403:
            return f"the token may not {access} {where}; set HF_TOKEN to one that may, or ask its owner for access"
        if status in (401, 404):
            return f"{where} does not exist or is private; check the name, or set HF_TOKEN to one that may {access} it"
        if status in (409, 412):
            return f"{where} was changed by someone else at the same time; try again"
        return f"{where} can't be {doing}: the Hub answers {status}{_said(response)}; check the name and try again"
    if isinstance(error, errors.HFValidationError):
        return f"{where} is not a Hub address; write hf://ORG/REPO or hf://ORG/REPO@REVISION"
    if isinstance(error, OSError):
        if error.errno is None:
            return f"{where} arrived incomplete; try again"
        from huggingface_hub import constants

        return (
            f"can't write {where} to the cache {constants.HF_HUB_CACHE}: {_reason(error)}; "
            f"mend that folder or set HF_HOME to another"
        )
    if isinstance(error, (ValueError, KeyError, TypeError, AssertionError)):
        return f"{where} can't be {doing}: the answer is not a Hub's; check HF_ENDPOINT, or try again"
    return None


def _said(response: Any) -> str:
    """What the Hub said in a header, without anything secret in it."""
    text = response.headers.get("X-Error-Message", "")
    secret = _token()
    if not text or (secret and secret in text):
        return ""
    return f" ({shown(text)})"


def _token() -> str | None:
    return os.environ.get("HF_TOKEN") or _stored_token()


def _stored_token() -> str | None:
    from huggingface_hub import constants

    try:
        return Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of the client would precede our one sentence; bars belong on a terminal only."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger = logging.getLogger("huggingface_hub")
    level, hide = logger.level, not sys.stderr.isatty() and not are_progress_bars_disabled()
    if not os.environ.get("HF_HUB_VERBOSITY") and not os.environ.get("HF_DEBUG"):
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if hide:
            disable_progress_bars()
        try:
            yield
        finally:
            logger.setLevel(level)
            if hide:
                enable_progress_bars()
