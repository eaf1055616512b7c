"""``zoo push``, ``zoo pull``, ``zoo convert`` and ``zoo cache``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.output import print_json, print_table
from zoo.errors import OptionError

cache_app = typer.Typer(help="Look at and clear the weights that were pulled.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.command()(push)
    app.command()(pull)
    app.command()(convert)
    app.command()(search)
    cache_app.command("list")(list_)
    cache_app.command()(size)
    cache_app.command()(rm)
    app.add_typer(cache_app, name="cache")


@cache_app.callback()
def _cache() -> None:
    """Look at and clear the weights that were pulled."""


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Everything = Annotated[bool, typer.Option("--all", help="Also what other programs keep in the Hub's cache.")]


def push(
    what: Annotated[
        str, typer.Argument(metavar="MODEL_OR_DIR", help="A folder of weights, or a model (its demo weights).")
    ],
    repo: Annotated[str, typer.Argument(metavar="ORG/REPO", help="A repository on the Hub; made if missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Push to this branch, made if missing")] = None,
    pull_request: Annotated[bool, typer.Option("--pr", help="Open a pull request instead of committing.")] = False,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list files and sizes; send nothing.")] = False,
    with_pictures: Annotated[
        bool, typer.Option("--with-pictures", help="Publish also small pictures of training images, if there are any.")
    ] = False,
    json: Json = False,
) -> None:
    """Publish weights with a model card on the Hugging Face Hub."""
    from zoo import publish

    result = publish.push(
        what,
        repo,
        private=private,
        revision=revision,
        pull_request=pull_request,
        message=message,
        dry_run=dry_run,
        pictures=with_pictures,
    )
    if json:
        print_json({"repo": result.repo, "revision": result.revision, "url": result.url,
                    "pull_request": result.pull_request, "files": result.files, "dry_run": dry_run})  # fmt: skip
        return
    _print_files(result.files)
    if dry_run:
        print(f"nothing was sent to {result.repo} (--dry-run)")
    elif result.pull_request:
        print(f"opened {result.pull_request}")
    else:
        print(f"pushed hf://{result.repo}@{result.revision}")


def pull(
    repo: Annotated[str, typer.Argument(metavar="ORG/REPO[@REV]", help="A repository on the Hub.")],
    out: Annotated[Path | None, typer.Option(help="Also write the files to this folder.")] = None,
    json: Json = False,
) -> None:
    """Bring weights from the Hugging Face Hub to this machine, to be used offline."""
    from zoo import hub

    result = hub.pull(repo, out)
    if json:
        about = {"model": result.model, "folder": str(result.folder), "revision": result.revision}
        print_json({**about, "files": result.files})
        return
    _print_files(result.files)
    spec = out or f"hf://{repo.removeprefix('hf://')}"
    print(f"revision {result.revision} is in {result.folder}\ntry: zoo predict {result.model} INPUT --weights {spec}")


def convert(
    model: Annotated[str, typer.Argument(help="A model, as zoo list shows it.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The authors' weights, as .safetensors.")],
    out: Annotated[Path, typer.Option(help="Folder for the weights; made if missing.")],
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="The licence of these weights was read and is kept.")
    ] = False,
    json: Json = False,
) -> None:
    """Make weights that a paper's authors released loadable, by their own names of tensors."""
    from zoo import convert

    folder = convert.convert(model, file, out, accept_licence=accept_licence)
    if json:
        print_json({"model": model, "folder": str(folder)})
    else:
        print(f"wrote {folder}\ntry: zoo predict {model} INPUT --weights {folder}")


def search(
    words: Annotated[list[str] | None, typer.Argument(metavar="[WORDS]...", help="In the name or the tags.")] = None,
    json: Json = False,
) -> None:
    """Find weights and plugins for the zoo on the Hugging Face Hub."""
    from zoo.hub.search import search as find

    found = find(words or ())
    if json:
        print_json([{**asdict(one), "command": one.command} for one in found])
    elif found:
        rows = [[one.repo, one.kind, one.model or "-", str(one.downloads), one.changed or "-"] for one in found]
        print_table(["repository", "what", "model", "downloads", "changed"], rows)
        print(f"\ntry: {found[0].command}")
    else:
        print(f"the Hub has nothing for medimg-zoo{f' with {chr(32).join(words)}' if words else ''}; try fewer words")


def _print_files(files: dict[str, int]) -> None:
    from zoo.hub import size_text

    rows = [[name, size_text(size)] for name, size in files.items()]
    print_table(["file", "size"], [*rows, ["total", size_text(sum(files.values()))]])


def list_(everything: Everything = False, json: Json = False) -> None:
    """List the weights in the cache."""
    from zoo.hub import size_text
    from zoo.hub.cache import cached

    items = cached(everything=everything)
    if json:
        print_json(
            [
                {"repo": item.repo, "revision": item.revision, "refs": list(item.refs), "model": item.model,
                 "size": item.size, "folder": str(item.folder)}
                for item in items
            ]
        )  # fmt: skip
    elif items:
        rows = [
            [item.repo, ", ".join(item.refs) or "-", item.revision[:12], item.model or "-", size_text(item.size)]
            for item in items
        ]
        print_table(["repository", "refs", "revision", "model", "size"], rows)
    else:
        print("the cache holds no weights; zoo pull ORG/REPO brings some")


def size(everything: Everything = False, json: Json = False) -> None:
    """Print how much room the weights in the cache take, and where it is."""
    from huggingface_hub import constants

    from zoo.hub import size_text
    from zoo.hub.cache import cached

    items = cached(everything=everything)
    total = sum(item.size for item in items)
    if json:
        print_json({"folder": constants.HF_HUB_CACHE, "size": total, "revisions": len(items)})
    else:
        print(f"{size_text(total)} in {len(items)} revisions in {constants.HF_HUB_CACHE}")


def rm(
    repo: Annotated[str, typer.Argument(metavar="ORG/REPO[@REV]", help="What zoo cache list shows.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Remove weights from the cache."""
    from zoo.hub import size_text
    from zoo.hub.cache import remove

    chosen, freed = remove(repo, dry_run=True)
    if not yes:
        if not sys.stdin.isatty():
            raise OptionError(f"removing {repo} needs a yes; repeat the command with --yes")
        typer.confirm(f"remove {len(chosen)} revisions of {chosen[0].repo} ({size_text(freed)})?", abort=True)
    remove(repo)
    print(f"removed {len(chosen)} revisions of {chosen[0].repo}, {size_text(freed)}")
