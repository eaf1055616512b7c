"""``zoo unlearn RUN --client C``: any federated training without some of its clients, by one method or several.

Every method trains by the plugin's own procedure, as ``zoo train`` did, but that ``zoo.federated`` leaves the clients
out and begins where the method says. What remains is measured beside the whole model: utility on the data of those who
stay, and the score on the training data of those who left, which should be what training from scratch leaves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo import config as configs
from zoo import registry
from zoo.data.sets import Dataset, load_dataset
from zoo.data.splits import TrainData, divide, save_split
from zoo.errors import DataError, OptionError
from zoo.evaluation import rows_of
from zoo.federated.contributions import NEEDS, require_schemes
from zoo.federated.federation import Federation, construct
from zoo.federated.figures import forgetting
from zoo.federated.history import HistoryPolicy
from zoo.federated.retraining import Request, require_rest, stored
from zoo.federated.unlearning import METHODS, Settings
from zoo.inference import load
from zoo.model import Model
from zoo.plugin import Plugin
from zoo.runs import read_logs
from zoo.storage import remove_folder, write_file
from zoo.text import finite, listed
from zoo.training import Run, Training
from zoo.training.recipe import ENGINES, digest, store

WINDOW = 5  # rounds over which a curve is averaged before it is compared with SCRATCH's end


@dataclass(frozen=True)
class Forgotten:
    """What one method left. ``utility``: of those who stay; ``residual``: on the training data of those who left.

    ``measure``: what both are. ``curve``: round, utility and residual wherever the federation measured its clients.
    ``reached``: the first round whose utility, averaged over five of them, is that of SCRATCH at its end; of SCRATCH
    itself by the same rule.
    """

    method: str
    utility: float
    residual: float
    rounds: int = 0
    reached: int | None = None
    curve: tuple[tuple[int, float, float], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    measure: str = ""


@dataclass(frozen=True)
class Report:
    """Several methods beside the whole model, ``full``, which comes first."""

    folder: Path
    clients: tuple[str, ...]
    results: tuple[Forgotten, ...]
    notes: tuple[str, ...] = ()

    columns = ("method", "utility", "residual", "rounds", "as useful as scratch after")

    def table(self) -> list[list[str]]:
        return [
            [r.method, f"{r.utility:.4f}", f"{r.residual:.4f}", str(r.rounds or ""),
             "" if r.reached is None else str(r.reached)]
            for r in self.results
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        results = [{**asdict(one), "curve": [list(point) for point in one.curve]} for one in self.results]
        return {"clients": list(self.clients), "results": results, "notes": list(self.notes)}

    def save(self) -> None:
        """``unlearning.json`` and ``unlearning.png``."""
        plain = json.dumps(finite(self.to_dict()), indent=1, allow_nan=False) + "\n"
        write_file(self.folder / "unlearning.json", plain)
        write_file(self.folder / "unlearning.png", forgetting(self.results, ", ".join(self.clients)))


def policy(methods: str, gigabytes: float = 2.0) -> HistoryPolicy:
    """What the server keeps for ``methods``: names with commas between them, or ``all``. Raises ``OptionError``."""
    names = (
        tuple(NEEDS) if methods == "all" else tuple(part.strip().replace("sifu", "ifu") for part in methods.split(","))
    )
    require_schemes(names)
    return HistoryPolicy(dtype="float32", schemes=names, max_bytes=int(gigabytes * 2**30))


def unlearn(
    run: str | Path,
    clients: Sequence[str | int],
    methods: Sequence[str] = ("ifu",),
    *,
    settings: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    least: float | None = None,
    noise_seed: int | None = None,
    device: str = "auto",
    engine: str = "local",
) -> Report:
    """Forget ``clients`` of the finished federated training in the folder ``run``, by each of ``methods``.

    ``out``/METHOD then holds weights as ``zoo train`` leaves them. ``settings``: fields of
    ``zoo.federated.Settings`` as text; the others are those of the recipe's ``forgetting``, if it has one. ``least``:
    the score that the whole model must have on the data of those who stay and of those who leave, before anything is
    compared; by default what the federation states.

    Raises ``OptionError`` for a run that isn't federated, unfinished, or kept no history, ``DataError`` where the whole
    model hasn't learned what is to be forgotten.
    """
    source = _Source.read(Path(run))
    for method in methods:
        if method not in METHODS:
            raise OptionError(f"there is no way to forget a client called {method!r}; known are {', '.join(METHODS)}")
    if engine not in ENGINES:
        raise OptionError(f"engine must be {', '.join(ENGINES[:-1])} or {ENGINES[-1]}, not {engine!r}")
    chosen = configs.override(getattr(source.recipe, "forgetting", Settings()), settings or {})
    leaving = tuple(sorted({source.number(client) for client in clients}))
    if already := [source.name(client) for client in leaving if client in source.gone]:
        raise OptionError(f"{already[0]} isn't in {run} any more")
    require_rest(source.whole, [*leaving, *source.gone])
    for stage in source.stages:
        stored(stage)
    names = tuple(source.name(client) for client in leaving)
    folder = Path(out) if out is not None else source.folder / "unlearned" / "-".join(names)
    full = _measured("full", load(source.plugin.name, weights=str(source.folder), device=device), source, leaving)
    least = source.whole.learned if least is None else least
    if least and not min(full.utility, full.residual) >= least:
        raise DataError(
            f"{run} has a {full.measure} of {full.utility:.3f} on who stays and {full.residual:.3f} on "
            f"{listed(names, 'and')}, and needs {least:g} on both before forgetting means anything; train it for "
            "longer, or set --least"
        )
    results = [full]
    for method in methods:
        results.append(source.forget(method, leaving, chosen, folder / method, resume, noise_seed, device, engine))
    report = Report(folder, names, tuple(compared(results)), tuple(_notes(results, source, leaving, least)))
    report.save()
    return report


@dataclass(frozen=True)
class _Source:
    """A finished federated run, and what is needed to train it again."""

    folder: Path
    plugin: Plugin
    training: Training
    recipe: Any
    identity: Mapping[str, Any]
    parts: TrainData
    whole: Federation
    gone: tuple[int, ...]

    @classmethod
    def read(cls, folder: Path) -> _Source:
        try:
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            identity = record["identity"]
            model, data, seed = str(identity["model"]), str(identity["data"]), int(identity.get("seed") or 0)
        except (OSError, ValueError, KeyError, TypeError):
            raise OptionError(f"{folder} is no run of zoo train; name the folder of its --out") from None
        plugin, training = registry.part(model, "training")
        if training.federation is None:
            raise OptionError(f"{folder} is a run of {model}, which isn't federated, so no client can leave it")
        if not record.get("finished"):
            raise OptionError(f"{folder} isn't finished; go on with zoo train --resume first")
        if not identity.get("history"):
            command = f"zoo train {model} --data {data} --history ifu --out {folder}-2"
            raise OptionError(f"{folder} kept no history to forget a client by; train it so: {command}")
        recipe = configs.from_dict(training.recipe, identity["recipe"])
        parts = divide(load_dataset(data, plugin=plugin), training.split, recipe, seed)
        if digest(parts) != identity["cases"]:
            raise DataError(f"{data} holds other cases than when {folder} was trained")
        whole = construct(training.federation, recipe, parts, seed)
        return cls(folder, plugin, training, recipe, identity, parts, whole, tuple(identity.get("without", ())))

    @property
    def seed(self) -> int:
        return int(self.identity.get("seed") or 0)

    @property
    def stages(self) -> list[Path]:
        return sorted(path for path in (self.folder / "history").glob("*") if path.is_dir())

    def name(self, client: int) -> str:
        return str(self.whole.names[client]) if self.whole.names else f"client-{client}"

    def number(self, client: str | int) -> int:
        names = [self.name(place) for place in range(self.whole.clients)]
        text = str(client)
        if text in names:
            return names.index(text)
        if text.isdecimal() and int(text) < self.whole.clients:
            return int(text)
        raise OptionError(f"there is no client {text!r} in {self.folder}; there are {', '.join(names)}")

    def forget(
        self, method: str, leaving: tuple[int, ...], settings: Settings, out: Path, resume: bool, noise: int | None,
        device: str, engine: str,
    ) -> Forgotten:  # fmt: skip
        """One method's training, into ``out``."""
        scheme = "ifu" if method == "sifu" else method
        kept = {"history": self.identity["history"]} if scheme in ("scratch", "ifu") else {}
        identity = {
            **{name: self.identity[name] for name in ("model", "recipe", "data", "cases")}, **kept, "method": method,
            "without": sorted({*leaving, *self.gone}), "settings": configs.to_dict(settings), "of": str(self.folder),
        }  # fmt: skip
        source = {"data": self.identity["data"], "phantom": self.plugin.phantom, "cases": self.identity["cases"],
                  "split": asdict(self.training.split)}  # fmt: skip
        request = Request(self.folder, leaving, scheme, settings, noise, self.gone)
        with Run(
            out, seed=self.seed, device=device, resume=resume, identity=identity, engine=engine, source=source,
            forget=request,
        ) as run:  # fmt: skip
            record = json.loads((out / "run.json").read_text(encoding="utf-8"))
            if not record.get("finished"):
                rest = self.rest(leaving)
                save_split(rest, out / "split.json", self.seed)
                network = self.training.run(self.recipe, self.parts, run)
                store(network, rest, self.training, out, self.recipe, self.identity["data"])
                facts = next(iter(request.facts.values()), {})
                write_file(out / "run.json", json.dumps({**record, "finished": True, "facts": facts}, indent=2) + "\n")
                remove_folder(run.checkpoints)
        facts = json.loads((out / "run.json").read_text(encoding="utf-8")).get("facts", {})
        weights = load(self.plugin.name, weights=str(out), device=device)
        found = _measured(method, weights, self, leaving)
        curve = self.curve(out, leaving)
        return replace(found, rounds=int(facts.get("rounds", 0)), curve=curve, facts=facts)

    def rest(self, leaving: Sequence[int]) -> TrainData:
        """The cases that a training without ``leaving`` may see: none that only they hold."""
        stay = self.staying(leaving)
        held = self.held(stay) | {int(place) for client in stay for place in self.aside(client)}
        return TrainData(self.parts.train.subset(sorted(held)), self.parts.validation, self.parts.test)

    def staying(self, leaving: Sequence[int]) -> list[int]:
        return [client for client in range(self.whole.clients) if client not in {*leaving, *self.gone}]

    def aside(self, client: int) -> Sequence[int] | np.ndarray:
        return self.whole.aside[client] if self.whole.aside else ()

    def held(self, clients: Sequence[int]) -> set[int]:
        """Places of the training cases that some client of these holds."""
        return {int(place) for client in clients for place in self.whole.partitions[client]}

    def curve(self, out: Path, leaving: Sequence[int]) -> tuple[tuple[int, float, float], ...]:
        """Of ``global/test-NAME`` and ``global/train-NAME`` in the run's table, where the federation measures them."""
        logs = read_logs(out / "metrics")
        tables = [rows for name, rows in logs.items() if not name.endswith(("-clients", "-communication"))]
        stay = [self.name(client) for client in self.staying(leaving)]
        points = []
        for row in tables[0] if tables else []:
            tested = [row[key] for name in stay if (key := f"global/test-{name}") in row]
            trained = [row[key] for c in leaving if (key := f"global/train-{self.name(c)}") in row]
            if tested and trained:
                points.append((int(row["step"]) + 1, float(np.mean(tested)), float(np.mean(trained))))
        return tuple(points)


def compared(results: Sequence[Forgotten]) -> list[Forgotten]:
    """With the rounds after which each is as useful as SCRATCH at its end, where SCRATCH is among them."""
    scratch = next((one for one in results if one.method == "scratch" and one.curve), None)
    if scratch is None:
        return list(results)
    target = _smooth([utility for _, utility, _ in scratch.curve])[-1]
    return [replace(one, reached=rounds_to(one.curve, target)) for one in results]


def rounds_to(curve: Sequence[tuple[int, float, float]], target: float, window: int = WINDOW) -> int | None:
    """The first round whose utility, averaged over so many measurements up to it, is ``target`` or more."""
    smooth = _smooth([utility for _, utility, _ in curve], window)
    return next((round_ for (round_, _, _), value in zip(curve, smooth, strict=True) if value >= target), None)


def _smooth(values: Sequence[float], window: int = WINDOW) -> list[float]:
    return [float(np.mean(values[max(0, place - window + 1) : place + 1])) for place in range(len(values))]


def _measured(method: str, network: Model, source: _Source, leaving: Sequence[int]) -> Forgotten:
    whole, stay = source.whole, source.staying(leaving)
    measures: dict[str, None] = {}
    network.eval()

    def score(cases: Dataset) -> float:
        if not len(cases):
            return math.nan
        rows, failures = rows_of(network, cases, {}, progress=False)
        if not rows:
            raise DataError(f"none of {len(cases)} cases could be measured; the first: {failures[0]}")
        found = [_score(row) for row in rows]
        measures.update(dict.fromkeys(name for name, _ in found))
        return float(np.mean([value for _, value in found]))

    if whole.held_out:
        parts = [source.parts.test.subset(whole.held_out[client]) for client in stay]
        parts = [part for part in parts if len(part)]
    else:
        parts = [source.parts.test] if len(source.parts.test) else []
    if not parts:
        raise DataError("none of who stays has a test case, so no utility can be told; train it on more cases")
    utility = float(np.mean([score(part) for part in parts]))
    alone = sorted(source.held(leaving) - source.held(stay))
    residual = score(source.parts.train.subset(alone))
    return Forgotten(method, utility, residual, measure=listed(list(measures), "and"))


def _score(row: Mapping[str, Any]) -> tuple[str, float]:
    """Of a case: whether its class was called, its Dice, or else the first number there is; with its name."""
    if "truth" in row and "predicted" in row:
        return "share of cases called right", float(row["truth"] == row["predicted"])
    numbers = {name: value for name, value in row.items() if isinstance(value, float)}
    name = "dice" if "dice" in numbers else next(iter(numbers), "number")
    return name, numbers.get(name, math.nan)


def _notes(results: Sequence[Forgotten], source: _Source, leaving: Sequence[int], least: float) -> list[str]:
    notes = [f"utility and residual are: {results[0].measure}"]
    if not least:
        notes.append(
            "nobody checked that the whole model had learned what was forgotten; --least says what it must reach"
        )
    notes += [f"{one.method}: {one.facts['guarantee']}" for one in results if "guarantee" in one.facts]
    mine = source.held(leaving)
    if shared := len(mine & source.held(source.staying(leaving))):
        notes.append(f"{shared} of the {len(mine)} cases are held by others, too, and are left out of the residual")
    if all(one.method != "scratch" for one in results):
        notes.append("without scratch among the methods, nothing says which residual means that all is forgotten")
    return notes
