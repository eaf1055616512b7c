"""Publishing on the Hugging Face Hub: :func:`push`, and the model card that goes with the weights."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from zoo import answers, domain, loading, registry
from zoo import weights as weight_files
from zoo.data import seen
from zoo.errors import DataWarning, OptionError, WeightsError, ZooError
from zoo.hub import client
from zoo.hub.client import Address, address, explained, patiently
from zoo.hub.snapshots import PICTURE, PICTURES, README, SAFE_NAME
from zoo.plugin import Plugin
from zoo.publish.card import check_card, model_card
from zoo.spec import is_kind
from zoo.training.page import MARK
from zoo.weights import ANSWER, CONFIG, DOMAIN, INDEX, SEEN, SHARD, TENSORS, Located

__all__ = ["Pushed", "check_card", "model_card", "push"]


@dataclass(frozen=True)
class Pushed:
    """What a push published, or would publish: ``revision`` and ``url`` are ``None`` after a dry run."""

    repo: str
    files: dict[str, int]
    revision: str | None = None
    url: str | None = None
    pull_request: str | None = None


def push(
    what: str | os.PathLike[str] | nn.Module,
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    pull_request: bool = False,
    message: str | None = None,
    dry_run: bool = False,
    pictures: bool = False,
) -> Pushed:
    """Publish a model with its model card: a folder of weights, a loaded model, or a name (its demo weights).

    Everything is checked first, so that nothing is published that would not load. ``revision`` names a branch, made if
    missing; ``pull_request`` opens one instead of committing. An interrupted push is repeated by the same call: files
    that arrived are not sent again. ``dry_run`` sends nothing and returns what would be sent. ``pictures``: publish
    weights that carry small pictures of the images they were trained on; phantoms need no asking.

    Raises ``WeightsError`` naming what is wrong with the weights, the repository or the token, ``OptionError`` for
    options that don't go together.
    """
    where = address(repo)
    if where.revision:
        raise OptionError(f"{repo} names a revision; push to a branch with --revision {where.revision}")
    if pull_request and revision:
        raise OptionError("--pr proposes a change to main and --revision names another branch; pass one of them")
    with tempfile.TemporaryDirectory(prefix="zoo-push-") as scratch:
        files = _publication(what, where, Path(scratch), pictures)
        sizes = {name: path.stat().st_size for name, path in files.items()}
        if dry_run:
            return Pushed(where.repo, sizes)
        with explained(where, doing="pushed to"):
            commit = _publish(where, files, private, revision, pull_request, message)
    return Pushed(where.repo, sizes, commit.oid, commit.commit_url, commit.pr_url)


def _publication(what: Any, where: Address, scratch: Path, pictures: bool) -> dict[str, Path]:
    """The files of a repository by their names there; all of them checked."""
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
        folder = loading.locate("demo", entry.plugin).folder
    plugin: Plugin = model_class.plugin
    located = Located(folder, spec, weight_files.only_safetensors(folder, spec))
    record = loading.check(model_class, located)
    if not pictures and _carries_pictures(record):
        raise WeightsError(
            f"{spec} carries small pictures of the images that it was trained on; say --with-pictures if they may be "
            "published, or train with --set thumbnails=0"
        )

    files = {CONFIG: folder / CONFIG, located.tensors.name: located.tensors}
    files |= {stored.file.name: stored.file for stored in weight_files.read_headers(located).values()}
    if (cases := seen.read(folder / SEEN)) is not None:
        files[SEEN] = scratch / SEEN  # without the hashes of patients: who guesses a name could find it among them
        files[SEEN].write_text(replace(cases, patients=frozenset()).to_json(), encoding="utf-8")
    if domain.read(folder / DOMAIN) is not None:  # means and spreads of many images, of which none can be made again
        files[DOMAIN] = folder / DOMAIN
    if (answer := _answer(model_class, folder, scratch)) is not None:
        files[ANSWER] = answer
    readme = folder / README
    if not readme.is_file() or _is_template(readme):
        readme = scratch / README
        text = model_card(plugin, record, folder, where.repo, demo=demo, answered=ANSWER in files)
        readme.write_text(text, encoding="utf-8")
    check_card(readme.read_text(encoding="utf-8", errors="replace"), str(readme))
    files[README] = readme
    root = folder.resolve()
    for top in PICTURES:
        for path in sorted((folder / top).rglob("*")):
            name = path.relative_to(folder).as_posix()
            inside = path.is_file() and path.resolve().is_relative_to(root)  # a link could publish any file
            if inside and SAFE_NAME.fullmatch(name) and PICTURE.fullmatch(name):
                files[name] = path
    return files


def _answer(model_class: Any, folder: Path, scratch: Path) -> Path | None:
    """The stored answer to publish: the folder's own, if these weights still give it, else one that is made here.

    None for a model that can't be asked by itself. Raises ``WeightsError`` for an answer that isn't theirs.
    """
    plugin: Plugin = model_class.plugin
    located = loading.locate(str(folder), plugin)
    stored, spec = answers.read(located), answers.question(plugin)
    if stored is None and spec is None:
        return None
    model = loading.load_into(model_class, str(folder), "cpu")
    if stored is not None:
        tested = answers.compare(model, located)
        if not tested.ok:
            raise WeightsError(
                f"{folder} {tested.sentence()}; if it should, store it anew: zoo test {plugin.name} --weights {folder} "
                "--write"
            )
        return folder / ANSWER
    assert spec is not None
    try:
        (scratch / ANSWER).write_text(answers.ask(model, located, spec).to_json(), encoding="utf-8")
    except ZooError as error:
        warnings.warn(f"{folder} goes without a stored answer: {error}", DataWarning, stacklevel=2)
        return None
    return scratch / ANSWER


def _carries_pictures(record: Mapping[str, Any]) -> bool:
    """Whether a gallery of real training images lies in the weights (``zoo.nn.gallery``)."""
    gallery = record.get("config", {}).get("gallery")
    held = gallery.get("jpeg_bytes", 0) if isinstance(gallery, Mapping) else 0
    return bool(held) and not is_kind(str(record.get("trained_on", "")), "phantom")


def _is_template(readme: Path) -> bool:
    """Whether it is the card that ``save_pretrained`` leaves, which says nothing about the model, or a run's page."""
    text = readme.read_text(encoding="utf-8", errors="replace")
    return "PytorchModelHubMixin" in text or text.startswith(MARK)


def _publish(
    where: Address,
    files: Mapping[str, Path],
    private: bool | None,
    revision: str | None,
    pull_request: bool,
    message: str | None,
) -> Any:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.utils import get_token

    if get_token() is None:
        raise WeightsError(f"pushing to {where} needs a token; set HF_TOKEN or run: hf auth login")
    api = client.api()
    if not pull_request:
        patiently(lambda: api.create_repo(where.repo, private=private or None, exist_ok=True))
        if revision and revision != "main":
            patiently(lambda: api.create_branch(where.repo, branch=revision, exist_ok=True))
    info = patiently(lambda: api.model_info(where.repo, revision=revision, timeout=30))
    if private and info.private is False:
        raise WeightsError(f"{where} exists and is public, so nothing was pushed; push to a new repository")
    present = [sibling.rfilename for sibling in info.siblings or []]
    # Tensors of an earlier push in the other layout would be ambiguous beside the new ones.
    stale = [
        n for n in present if n not in files and (n in (TENSORS, INDEX, SEEN, DOMAIN, ANSWER) or SHARD.fullmatch(n))
    ]

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
    return commit() if pull_request else patiently(commit)
