"""``zoo train``, ``zoo runs``, ``zoo evaluate``, ``zoo robustness``, ``zoo reproduce`` and ``zoo data check``."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli.output import print_json, print_table
from zoo.cli.usual import usual_weights
from zoo.errors import OptionError

data_app = typer.Typer(help="Look at data sets.", no_args_is_help=True)

Data = Annotated[
    str,
    typer.Option(
        "--data", metavar="SPEC", help="folder:PATH, pairs:PATH, csv:FILE, msd:PATH or phantom:NAME?n=..&seed=.."
    ),
]

Weights = Annotated[
    str | None,
    typer.Option(help="demo, a folder, a .safetensors file or hf://ORG/REPO."),
]
Part = Annotated[str, typer.Option(help="train, validation, test or all.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda[:n].")]
AllowSeen = Annotated[
    bool, typer.Option("--allow-seen", help="Measure also on cases that the weights were trained on.")
]
Given = Annotated[
    list[str] | None, typer.Option("--with", metavar="NAME=VALUE", help="An optional input of the model.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    app.command()(train)
    app.command()(unlearn)
    app.command()(runs)
    app.command()(evaluate)
    app.command()(robustness)
    app.command()(reproduce)
    data_app.command("check")(check)
    app.add_typer(data_app, name="data")


@data_app.callback()
def _data() -> None:
    """Look at data sets."""


def train(
    model: Annotated[str, typer.Argument(help="A model, as zoo list shows it.")],
    data: Data,
    preset: Annotated[str, typer.Option(help="A preset of the model's recipe.")] = "paper",
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the recipe.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/MODEL.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Default 0; the same seed gives the same weights, but no privacy guarantee."),
    ] = None,
    device: Device = "auto",
    engine: Annotated[
        str | None,
        typer.Option(help="Where a federated model's clients run: local (default), simulation or deployment."),
    ] = None,
    history: Annotated[
        str | None,
        typer.Option(
            metavar="METHODS", help="Of a federated model: keep what zoo unlearn needs for these, such as ifu, or all."
        ),
    ] = None,
    history_gb: Annotated[float, typer.Option(min=0.001, help="How much of the rounds is kept at most.")] = 2.0,
) -> None:
    """Train a model on your data by its paper's recipe."""
    from zoo.training import train as run_training

    kept = None
    if history is not None:
        from zoo.unlearning import policy

        kept = policy(history, history_gb)
    folder = run_training(
        model,
        data,
        preset=preset,
        overrides=assignments(given or []),
        out=out or Path("runs") / model,
        resume=resume,
        seed=seed,
        device=device,
        engine=engine,
        history=kept,
    )
    if os.environ.get("RANK", "0") == "0":  # once, also under `accelerate launch`
        from zoo.runs import after

        print(f"trained weights are in {folder}; next:")
        print("\n".join(f"  {line}" for line in after(model, data, folder).splitlines()))


def unlearn(
    run: Annotated[Path, typer.Argument(help="A finished run of a federated model, trained with --history.")],
    client: Annotated[list[str], typer.Option(help="Who leaves: a name or number; may be repeated.")],
    method: Annotated[
        list[str] | None, typer.Option(help="How; may be repeated, to compare; default ifu. See docs, Federated.")
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A setting, such as epsilon=1.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; default RUN/unlearned/CLIENT.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    least: Annotated[
        float | None, typer.Option(min=0, help="Score that RUN must have on who stays and on who leaves.")
    ] = None,
    noise_seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of IFU's noise, which then guarantees nothing.")
    ] = None,
    device: Device = "auto",
    engine: Annotated[str, typer.Option(help="Where the clients run: local, simulation or deployment.")] = "local",
    json: Json = False,
) -> None:
    """Forget clients of a federated training: weights without them, and what became of utility and memory."""
    from zoo.unlearning import unlearn as run_unlearning

    report = run_unlearning(
        run, client, method or ["ifu"], settings=assignments(given or []), out=out, resume=resume, least=least,
        noise_seed=noise_seed, device=device, engine=engine,
    )  # fmt: skip
    if json:
        print_json(report.to_dict())
        return
    print_table(report.columns, report.table(), title=f"{run} without {', '.join(report.clients)}")
    for note in report.notes:
        print(f"note: {note}")
    print(f"weights, unlearning.json and unlearning.png are in {report.folder}")


def runs(
    folder: Annotated[Path, typer.Argument(help="A run, or a folder of runs.")] = Path("runs"), json: Json = False
) -> None:
    """List the runs of zoo train with their scores, newest first."""
    from zoo.runs import runs as found

    some = found(folder)
    if json:
        print_json([{**asdict(one), "folder": str(one.folder)} for one in some])
        return
    rows = [[str(one.folder), one.model, one.data, one.state, one.scores] for one in some]
    print_table(["run", "model", "data", "state", "scores"], rows)
    unfinished = next((one for one in some if one.state != "finished"), None)
    if unfinished is not None:
        print(f"\nto go on with {unfinished.folder}, repeat its command with --resume")


def assignments(given: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for assignment in given:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise OptionError(f"--set {assignment} has no value; write --set {assignment}=VALUE")
        pairs[name.strip()] = value.strip()
    return pairs


def _options(model: str, given: list[str] | None) -> dict[str, Any]:
    """Options for every case, checked; those that the evaluation itself gives, such as a box, needn't be there."""
    from zoo import options, registry

    plugin = registry.find(model).plugin
    assert plugin is not None
    return options.parse(plugin, given or [], whole=False)


def evaluate(
    model: Annotated[str, typer.Argument(help="A model, as zoo list shows it.")],
    data: Data,
    weights: Weights = None,
    split: Part = "test",
    out: Annotated[Path | None, typer.Option(help="Folder for the table, per-case CSV and figure.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and of the bootstrap.")] = 0,
    device: Device = "auto",
    allow_seen: AllowSeen = False,
    given: Given = None,
    json: Json = False,
) -> None:
    """Measure a model on your data with its paper's metrics and 95 % bootstrap intervals."""
    from zoo.evaluation import evaluate as run_evaluation

    folder = out or Path("evaluations") / model
    result = run_evaluation(
        model, data, weights=usual_weights(model, weights), split=split, out=folder, seed=seed, device=device,
        allow_seen=allow_seen, options=_options(model, given),
    )  # fmt: skip
    if json:
        print_json(result.to_dict())
        return
    rows = [[m.name, f"{m.mean:.4f}", f"{m.low:.4f} to {m.high:.4f}", str(m.cases)] for m in result.metrics]
    print_table(["metric", "mean", "95 % interval", "cases"], rows, title=f"{model} on {data} ({split})")
    for note in result.notes:
        print(f"note: {note}")
    for failure in result.failures:
        print(f"failed: {failure}")
    print(f"weights: {result.weights} ({result.disclaimer})\nper-case table and figure are in {folder}")


def robustness(
    model: Annotated[str, typer.Argument(help="A model, as zoo list shows it.")],
    data: Data,
    corruption: Annotated[
        list[str] | None, typer.Option(help="One of the 18 corruptions; may be repeated; default all of them.")
    ] = None,
    severity: Annotated[
        list[int] | None, typer.Option(min=1, max=5, help="1 to 5; may be repeated; default all.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="The metric of table and figure; default the first.")] = None,
    weights: Weights = None,
    split: Part = "test",
    out: Annotated[Path | None, typer.Option(help="Folder for table, figure and examples.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and of the corruptions.")] = 0,
    device: Device = "auto",
    allow_seen: AllowSeen = False,
    given: Given = None,
    json: Json = False,
) -> None:
    """Measure a model on corrupted images: 18 kinds of noise, blur, weather and bad files, in 5 severities."""
    from zoo.data.corruptions import KINDS, SEVERITIES
    from zoo.robustness import robustness as run_robustness

    folder = out or Path("robustness") / model
    result = run_robustness(
        model, data, corruptions=corruption or KINDS, severities=severity or SEVERITIES, metric=metric,
        weights=usual_weights(model, weights), split=split, out=folder, resume=resume, seed=seed, device=device,
        allow_seen=allow_seen, options=_options(model, given),
    )  # fmt: skip
    if json:
        print_json(result.to_dict())
        return
    print_table(
        ["corruption", "clean", *map(str, result.severities)], result.rows(),
        title=f"{result.metric} of {model} on {data} ({split}, n = {result.cases})",
    )  # fmt: skip
    for note in (*result.notes, *(f"failed: {failure}" for failure in result.failures)):
        print(f"note: {note}")
    print(f"weights: {result.weights} ({result.disclaimer})\ntable, figure and examples are in {folder}")


def reproduce(
    model: Annotated[str | None, typer.Argument(help="A model, as zoo list shows it.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every model that has a claim.")] = False,
    seeds: Annotated[int | None, typer.Option(min=2, help="Number of seeds; default as the claim says.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke run: shows that it works, proves nothing.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Seeds that run at the same time.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the JSON and the plots.")] = Path("results/claims"),
    record: Annotated[
        bool, typer.Option("--record", help="Also write claim.json beside the claim; needs a checkout.")
    ] = False,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm",
            help="Run the first seed of a record again: does this code give its numbers?",
        ),
    ] = False,
    beside: Annotated[
        Path | None,
        typer.Option(
            help="With --confirm, on a processor unlike the record's: the folder of a run by the record's own code."
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the table of all claims to this page.")] = None,
    json: Json = False,
) -> None:
    """Re-test the paper's headline: method against baselines over several seeds, with a verdict."""
    from zoo import claims, registry
    from zoo.storage import user_path

    if model is None and not every and report is None:
        raise OptionError("name a model, or say --all for every model that has a claim")
    out, report = user_path(out, OptionError), report and user_path(report, OptionError)  # before the hours it takes
    if report is not None and model is None and not (seeds or quick):
        # --all --report only regenerates the page from the results that exist
        page = claims.report(out, report)
        print(f"{page} tells what {out} holds")
        return
    if beside is not None and not confirm:
        raise OptionError("--beside goes with --confirm")
    names = [model] if model else [n for n in registry.list_models() if registry.info(n).claim]
    if confirm:
        if seeds or quick or record:
            raise OptionError("--confirm runs the first seed of the record; leave out --seeds, --quick and --record")
        for name in names:
            if model is None and claims.is_current(name):
                print(f"{name}: the record is by this code")
                continue
            result = claims.confirm(name, beside)
            print(f"{name}: seed {result.claim.seeds[0]} gives the recorded numbers, and the record now says so")
        return
    for name in names:
        result = claims.reproduce(name, seeds=seeds, quick=quick, jobs=jobs, out=out, record=record)
        if json:
            print_json(result.to_dict())
        else:
            claims.print_result(result)
    if report is not None:
        print(f"{claims.report(out, report)} tells what {out} holds")


def check(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A data set, as for zoo train --data.")],
    model: Annotated[str | None, typer.Option(help="Check against this model's labels and inputs.")] = None,
    json: Json = False,
) -> None:
    """Check a whole data set before training on it; exit code 2 when it has errors."""
    from zoo import registry
    from zoo.data.check import check as check_data

    report = check_data(spec, plugin=registry.info(model) if model else None)
    if json:
        print_json(report.to_dict())
    else:
        print_table(["check", "result", "detail"], report.rows(), title=f"{spec}: {report.cases} cases")
        if report.ok:
            name = model or "MODEL"
            print(f"\nto train on it: zoo train {name} --data {shlex.quote(spec)} --out {Path('runs') / name}")
            if model is None:
                print("zoo list shows the models; with --model the set is checked against one")
    if not report.ok:
        raise typer.Exit(2)
