"""``zoo predict``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo import options, registry
from zoo.cli.output import print_json_line, print_table, refuse, warn
from zoo.cli.start import starting
from zoo.cli.usual import usual_weights
from zoo.errors import OptionError, ZooError
from zoo.plugin import Form, Plugin

if TYPE_CHECKING:
    from zoo.cluster import Told
    from zoo.model import Model

ENGINES = ("local", "ray")


def register(app: typer.Typer) -> None:
    app.command()(predict)


def predict(
    model: Annotated[str, typer.Argument(help="A model, as zoo list shows it.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files, folders, globs, sample:NAME, phantom:NAME, or a CSV table with a column for each named input.",
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(help="demo, a folder, a .safetensors file, or hf://ORG/REPO@REVISION."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:n].")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the results; made if missing.")] = Path("predictions"),
    given: Annotated[
        list[str] | None, typer.Option("--with", metavar="NAME=VALUE", help="An optional input of the model.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    figure: Annotated[bool, typer.Option(" /--no-figure", help="Write no figure.")] = True,
    form: Annotated[
        Form,
        typer.Option(
            "--format", help="Of mask or report; auto: the input's own, for DICOM an object that refers to it."
        ),
    ] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs per forward pass.")] = 1,
    engine: Annotated[str, typer.Option(help="local, or ray for a batch on a cluster.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="With ray: a cluster's address, or auto; else one of this machine is started.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With ray: how many; by default one for each GPU or 4 cores.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a batch that stopped: repeat only what failed or is missing.")
    ] = False,
) -> None:
    """Predict on images: a table on stdout, and JSON, figure, masks and predictions.csv in a folder."""
    entry = registry.find(model)
    plugin = entry.plugin
    assert plugin is not None
    chosen = options.parse(plugin, given or [], whole=not options.carry(plugin, inputs))
    _check_engine(engine, address, workers)
    found, missing = _expand(inputs, together=plugin.primary_input.kind == "images", anywhere=engine == "ray")
    if any(_is_table(one) for one in found):
        found, torn = _unfolded(plugin, found, chosen)
        missing |= torn
    names = [_name(one) for one in found]
    stems = _stems(names)
    files = _files(found)
    _check_out(out, stems, files)

    with starting():
        from zoo import cluster, inference, results

        if engine == "ray":
            stems = cluster.distinct_files(stems)
        weights = usual_weights(model, weights)
        loaded = inference.load(model, weights=weights, device="cpu" if engine == "ray" else device)
    settings = results.settings_of(loaded.provenance, options.record(options.complete(plugin, chosen, whole=False)))
    sources = _distinct(map(_told_as, found))
    table, done = results.begin(out, settings, [*sources, *missing], resume=resume)
    todo = [place for place, source in enumerate(sources) if source not in done]
    here = (Path(os.path.realpath(name)) for name in files)
    taken = {
        path.name.casefold() for path in here if str(path.parent) == os.path.realpath(out)
    }  # inputs, and what is written
    taken |= {name.casefold() for row in done.values() for name in results.files_of(row)}
    for source, failure in missing.items():
        table.append(results.failure(source, failure, settings))
        if json:
            print_json_line({"source": source, "error": str(failure)})

    rows: list[list[str]] = []
    failed = len(missing)
    inputs_by_place = {place: found[place] for place in todo}
    if engine == "ray":
        job = cluster.Job(
            model, weights, device, chosen, settings, figure, form, frozenset(taken), batch_size, cores=1
        )  # fmt: skip
        outcomes = cluster.predict_each(
            job, inputs_by_place, dict(enumerate(sources)), dict(enumerate(stems)), out, address=address,
            workers=workers,
        )  # fmt: skip
    else:
        outcomes = _here(
            loaded, inputs_by_place, sources, stems, out, figure, form, taken, settings, batch_size, chosen
        )
    with _progress(len(todo), visible=len(todo) > 1 and not json) as advance:
        for place, told in outcomes:
            source = sources[place]
            if isinstance(told, ZooError):
                failed += 1
                if len(stems) == 1 and failed == 1:
                    raise told
                table.append(results.failure(source, told, settings))
                if json:
                    print_json_line({"source": source, "error": str(told)})
                refuse(told)
            else:
                table.append(told.row)
                if json:
                    print_json_line({**told.record, "files": [str(path) for path in told.written]})
                rows.append([source, told.summary, " ".join(path.name for path in told.written)])
                for note in told.notes:
                    warn(f"note: {Path(source).name}: {note}")
            advance()
    if engine == "ray":
        cluster.write_parquet(out, table)
    if not json and rows:
        print_table(["input", loaded.plugin.name, f"written to {out}"], rows)
        print(f"weights: {loaded.provenance.weights} ({loaded.provenance.disclaimer})")
    if done:
        warn(f"note: {len(done)} of {len(stems)} inputs were done before; their results are in {out}")
    if failed:
        warn(f"zoo: {failed} of {len(stems) + len(missing)} inputs failed; results of the others are in {out}")
        raise typer.Exit(2)


def _expand(inputs: Sequence[str], together: bool, anywhere: bool = False) -> tuple[list[Any], dict[str, ZooError]]:
    """All inputs there are, and the arguments that named nothing with their errors; raises when none named anything.

    ``together``: several images are one input, see :func:`zoo.media.group`; then an argument that names nothing is an
    error, for a set or stack that lacks an image is another one.
    """
    from zoo import media

    if together:
        return media.group(inputs), {}
    found: dict[str, str] = {}  # what is named twice comes once
    errors: dict[str, ZooError] = {}
    for argument in inputs:
        try:
            for one in _expanded(argument, anywhere):
                found.setdefault(os.path.abspath(one) if os.path.exists(one) else one, one)
        except ZooError as error:
            errors[argument] = error
    _told(errors, nothing=not found)
    return list(found.values()), errors


def _unfolded(plugin: Plugin, found: Sequence[Any], chosen: Iterable[str]) -> tuple[list[Any], dict[str, ZooError]]:
    """The inputs with tables replaced by their lines or patients, and the tables that can't be used; raises when none
    can."""
    from zoo import inputs

    unfolded: list[Any] = []
    errors: dict[str, ZooError] = {}
    for one in found:
        try:
            unfolded += inputs.unfold(plugin, [one], chosen)
        except ZooError as error:
            errors[_name(one)] = error
    _told(errors, nothing=not unfolded)
    return unfolded, errors


def _told(errors: dict[str, ZooError], nothing: bool) -> None:
    """Say what is wrong with some inputs, or raise it where there are no others."""
    for failure in errors.values():
        if nothing:
            raise failure
        refuse(failure)


def _expanded(argument: str, anywhere: bool) -> list[str]:
    from zoo import cluster, media

    if not cluster.is_url(argument):
        return media.expand([argument])
    if not anywhere:
        raise OptionError(f"can't read {argument} from here; add --engine ray, or fetch it first")
    return cluster.expand(argument)


def _is_table(one: Any) -> bool:
    return any(options.is_table(name) for name in (one if isinstance(one, list) else [one]))


def _told_as(one: Any) -> str:
    """What stands for an input in the table."""
    from zoo import inputs

    return f"{one[0]} and {len(one) - 1} more" if isinstance(one, list) else inputs.told(one)


def _files(found: Iterable[Any]) -> list[str]:
    """All files that are inputs, named ones too."""
    from zoo import inputs

    return [path for one in found for path in inputs.files_of(one)]


def _name(one: Any) -> str:
    """What stands for an input where one name is wanted: itself, or the first of several images."""
    return one[0] if isinstance(one, list) else str(one)


def _distinct(sources: Iterable[str]) -> list[str]:
    """What stands for each input in the table: patients of two tables may have one name."""
    found: list[str] = []
    counts: dict[str, int] = {}
    for source in sources:
        counts[source] = counts.get(source, 0) + 1
        found.append(source if counts[source] == 1 else f"{source} ({counts[source]})")
    return found


def _here(
    model: Model, inputs: dict[int, Any], sources: Sequence[str], stems: Sequence[str], out: Path, figure: bool,
    form: Form, taken: set[str], settings: dict[str, Any], batch_size: int, chosen: dict[str, Any],
) -> Iterator[tuple[int, Told | ZooError]]:  # fmt: skip
    """What comes of each input on this machine, by its place; its files are in ``out`` by then."""
    from zoo import inference, results
    from zoo.cluster import Told

    outcomes = inference.predict_each(model, list(inputs.values()), batch_size=batch_size, **chosen)
    for place, (_, outcome) in zip(inputs, outcomes, strict=True):
        if not isinstance(outcome, ZooError):
            try:
                written = outcome.save(out, stems[place], figure=figure, taken=taken, format=form)
                taken.update(path.name.casefold() for path in written)
                row = results.row(outcome, input=sources[place], files=written, settings=settings)
                yield place, Told(row, outcome.to_dict(), outcome.summary(), outcome.notes, tuple(written))
                continue
            except ZooError as error:
                outcome = error
            except Exception as error:  # a picture or a record that can't be made spares the others too
                outcome = inference.unexpected(sources[place], error)
        yield place, outcome


def _check_engine(engine: str, address: str | None, workers: int | None) -> None:
    if engine not in ENGINES:
        raise OptionError(f"there is no engine {engine!r}; choose local or ray")
    if engine == "local" and (address is not None or workers is not None):
        raise OptionError("--address and --workers are of a cluster; add --engine ray")


def _stems(found: Sequence[str]) -> list[str]:
    """File stems of the results, made distinct where two inputs share a name."""
    from zoo.media import stem_of
    from zoo.text import Distinct

    names, stems = Distinct(), []
    for source in found:
        stem = _short(stem_of(source))
        if stem in names and (parent := Path(source).parent.name):
            stem = _short(f"{parent}_{stem}")
        stems.append(names.take(stem))
    return stems


def _short(stem: str) -> str:
    """A stem that leaves room for endings within the 255 bytes of a file's name."""
    return os.fsdecode(os.fsencode(stem)[:160].decode(errors="ignore").encode())


def _check_out(out: Path, stems: Sequence[str], found: Sequence[str]) -> None:
    """Refuse, before any work, a folder that can't be written or where a result would overwrite an input."""
    existing = out
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise OptionError(f"--out {out} can't be a folder because {existing} is a file; choose another")
    if not os.access(existing, os.W_OK):
        raise OptionError(f"--out {out} can't be written to; choose another folder or change its permissions")
    inputs = {os.path.realpath(source) for source in found if os.path.exists(source)}
    from zoo.results import FILE

    for stem in stems:
        masks = (f"{stem}_mask{ending}" for ending in (".png", ".nii.gz", ".nii", ".nrrd", ".mha"))
        for name in (FILE, f"{stem}.png", f"{stem}.json", *masks):
            if os.path.realpath(out / name) in inputs:
                raise OptionError(f"writing {out / name} would overwrite an input; choose another folder with --out")


class _progress:
    """A bar on stderr for several inputs; silent when stderr is not a terminal."""

    def __init__(self, total: int, visible: bool) -> None:
        self.total, self.visible = total, visible and sys.stderr.isatty()
        self.bar: Any = None

    def __enter__(self) -> Any:
        if not self.visible:
            return lambda: None
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(console=Console(stderr=True))
        self.bar.start()
        task = self.bar.add_task("predicting", total=self.total)
        return lambda: self.bar.advance(task)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
