"""``zoo new``, ``zoo check``, ``zoo test``, ``zoo install`` and ``zoo uninstall``."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.output import print_json, print_table, warn
from zoo.cli.usual import usual_weights
from zoo.errors import OptionError, PluginError
from zoo.foreign import points
from zoo.plugin import ENTRY_POINT_GROUP


def register(app: typer.Typer) -> None:
    app.command()(new)
    app.command()(check)
    app.command("test")(ask_again)
    app.command()(install)
    app.command()(uninstall)


def new(
    name: Annotated[str, typer.Argument(help="Name of the model, such as spot-finder.")],
    task: Annotated[
        str,
        typer.Option(
            help="segmentation, classification, volume-segmentation, detection, measurement, multi-task, report, "
            "reconstruction or embedding."
        ),
    ] = "segmentation",
    backbone: Annotated[
        str | None,
        typer.Option(help="timm:NAME or hf:ORG/NAME, a pretrained network that the model stands on."),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where the package's folder is made.")] = Path("."),
) -> None:
    """Write a package with a plugin that predicts, trains and passes zoo check."""
    from zoo import scaffold

    created = scaffold.new(name, task, folder, backbone=backbone)
    for line in created.warnings:
        warn(f"note: {line}")
    for path in created.files:
        print(created.folder / path)
    print(f"\nthe package {name} is in {created.folder}; next:")
    print(f"  zoo install --editable {shlex.quote(str(created.folder))}")
    print(f'  zoo predict {name} "phantom:{name}?seed=3"')
    print(f"  zoo check {name}")


def check(
    model: Annotated[str, typer.Argument(help="A model, as zoo list shows it.")],
    only: Annotated[list[str] | None, typer.Option(metavar="CHECK", help="Only this check; may be repeated.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that a plugin keeps the promises of all plugins; exit code 1 when it doesn't."""
    from zoo.conformance.report import Examination
    from zoo.conformance.rules import RULES
    from zoo.progress import Bar

    examination = Examination(model)
    results = []
    with Bar(f"checking {examination.entry.name}", len(only or RULES), enabled=not json) as bar:
        for result in examination.each(only or ()):
            results.append(result)
            bar.update(len(results))
    report = examination.report(results)
    if json:
        print_json(report.to_dict())
    else:
        rows = [[r.check, r.status, f"{r.seconds:.1f} s", r.detail] for r in report.results]
        title = f"{report.model} of {report.distribution} {report.version}\n"
        print_table(["check", "result", "time", "found"], rows, title=title)
        failed, skipped = (sum(r.status == status for r in report.results) for status in ("failed", "skipped"))
        passed = len(report.results) - failed - skipped
        print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
    if not report.ok:
        raise typer.Exit(1)


def ask_again(
    model: Annotated[str | None, typer.Argument(help="A model, as zoo list shows it.")] = None,
    every: Annotated[bool, typer.Option("--all", help="The demo weights of every model.")] = False,
    weights: Annotated[
        str | None, typer.Option(help="demo, a folder, a .safetensors file, or hf://ORG/REPO[@REVISION].")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:n].")] = "auto",
    write: Annotated[bool, typer.Option("--write", help="Store the answer that the weights give now.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask weights again what they were asked when they were made; exit code 1 when they answer otherwise."""
    from zoo import answers, registry

    if (model is None) == (not every) or (every and weights):
        raise OptionError("name one model, or say --all for the demo weights of every model")
    weights = usual_weights(model, weights) if model else None
    names = [model] if model else [name for name in registry.list_models() if registry.info(name).weights]
    if write:
        for name in names:
            print(answers.write(name, weights=weights, device="cpu" if device == "auto" else device))
        return
    tested = [answers.ask_again(name, weights=weights, device=device) for name in names]
    if json:
        print_json([one.to_dict() for one in tested] if every else tested[0].to_dict())
    else:
        for one in tested:
            print(f"{one.model}: {'' if one.differences else 'gives '}{one.sentence()} ({one.input}, {one.device})")
    if not all(one.ok for one in tested):
        raise typer.Exit(1)


def install(
    specs: Annotated[
        list[str] | None,
        typer.Argument(metavar="SPEC...", help="What pip takes: a name, a folder, a wheel, git+https."),
    ] = None,
    editable: Annotated[
        list[Path] | None, typer.Option("--editable", "-e", metavar="FOLDER", help="Install a folder to work on it.")
    ] = None,
    upgrade: Annotated[bool, typer.Option("--upgrade", "-U", help="Take the newest version.")] = False,
) -> None:
    """Install plugins with pip, into the Python that zoo runs in."""
    given = [part for folder in editable or [] for part in ("--editable", str(folder))] + list(specs or [])
    if not given:
        raise OptionError("name what to install: zoo install SPEC, or zoo install --editable FOLDER")
    before = _models()
    code = _pip("install", *(["--upgrade"] if upgrade else []), *given)
    if code:
        raise typer.Exit(code)
    names = sorted(_models() - before)
    print(f"new in zoo list: {', '.join(names)}" if names else "zoo list shows no new model")


def uninstall(
    name: Annotated[str, typer.Argument(help="A model, as zoo list shows it, or its distribution.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Uninstall the distribution that a plugin came with, with pip."""
    owner = _owner(name)
    if not yes and not sys.stdin.isatty():
        raise OptionError(f"uninstalling {owner} needs a yes; repeat the command with --yes")
    if code := _pip("uninstall", *(["--yes"] if yes else []), owner):
        raise typer.Exit(code)


def _pip(command: str, *arguments: str) -> int:
    """Print what will be run, and run it; pip's exit code. Raises ``PluginError`` in a Python without pip."""
    if find_spec("pip") is None:
        # uv leaves pip out of the environments that it makes, and reaches into them from outside.
        words = [*(word for word in arguments if word != "--yes")]
        other = shlex.join(["uv", "pip", command, "--python", sys.executable, *words])
        remedy = other if shutil.which("uv") else f"{shlex.quote(sys.executable)} -m ensurepip"
        raise PluginError(f"{sys.executable} has no pip; run: {remedy}")
    line = [sys.executable, "-m", "pip", command, *arguments]
    print(f"running: {shlex.join(line)}", flush=True)
    return subprocess.run(line, check=False, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}).returncode


def _models() -> set[str]:
    """The models of all distributions as they are on disk now; none is imported."""
    return {point.name for point in points(ENTRY_POINT_GROUP)}


def _owner(name: str) -> str:
    """The distribution of a model, broken ones included, or the distribution that is called so."""
    from zoo import registry
    from zoo.extras import DISTRIBUTION

    model = name.rpartition(":")[2].replace("_", "-").lower()
    claimed = [entry.distribution for entry in registry.entries() if entry.name == model]
    if ":" in name or len(claimed) > 1:
        owner = registry.find(name).distribution
    elif claimed:
        owner = claimed[0]
    else:
        owners = {entry.distribution for entry in registry.entries()}
        try:
            owner = distribution(name).name
        except (PackageNotFoundError, ValueError):
            owner = registry.find(name).distribution  # raises, with the nearest names
        if owner not in owners:
            raise PluginError(f"{owner} brings no model; uninstall it with pip")
    if owner == DISTRIBUTION:
        raise PluginError(f"{name} is part of {DISTRIBUTION} itself; to remove all of it: pip uninstall {DISTRIBUTION}")
    return owner
