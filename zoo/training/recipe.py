"""From a plugin's recipe and a data set to a folder of weights."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo import config as configs
from zoo import registry
from zoo.data.case import Case
from zoo.data.seen import Seen
from zoo.data.sets import Dataset
from zoo.data.splits import Split, TrainData, divide, save_split
from zoo.data.synthetic import SyntheticSet
from zoo.errors import DataWarning, OptionError, ZooError
from zoo.model import Model
from zoo.plugin import Plugin
from zoo.progress import announce
from zoo.spec import is_kind
from zoo.storage import remove_folder, write_file
from zoo.training import page
from zoo.training.reference import refer
from zoo.training.run import Run

ENGINES = ("local", "simulation", "deployment")


@dataclass(frozen=True)
class Training:
    """How a plugin is trained: ``Plugin.training`` names an instance of this.

    ``recipe``: a frozen dataclass whose defaults are the paper's values. ``presets``: by name, the fields that differ.
    ``run``: the procedure, ``(recipe, data, run) -> model``. A recipe's field ``dtype`` (``float32`` or ``float16``),
    if it has one, is the precision the weights are stored in. ``split``: how the data are divided, in shares or folds.

    ``readings``: where the authors' code trains otherwise than the paper says, by the value of the recipe's field
    ``recipe``, the fields that differ from the defaults. A preset's own fields come after those of its reading. In
    both, a mapping changes some fields of a nested dataclass.

    ``score``: how ``zoo evaluate`` measures one case, ``(model, case, options) -> {name: number}``, or a list of such
    rows, one for each thing predicted; ``None`` for the usual measures of segmentation and classification. It asks the
    model itself, so that it can tell it what the case knows (the box around the mask), or ask several times.

    ``private``: the training images must leave no trace but the weights, so that what their kind is like is told from
    the validation images alone.

    ``federation``: of a federated training, the function ``(recipe, data, seed) -> zoo.federated.Federation`` that
    ``run`` hands to ``zoo.federated.federate``. ``distil``: where clients send data sets, one client's part,
    ``(recipe, cases, run) -> zoo.data.synthetic.SyntheticSet``, for ``zoo distill``.
    """

    recipe: type
    run: Callable[[Any, TrainData, Run], Any]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"paper": {}})
    readings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    split: Split = field(default_factory=Split)
    score: Callable[[Any, Case, Mapping[str, Any]], Mapping[str, Any] | Sequence[Mapping[str, Any]]] | None = None
    private: bool = False
    federation: Callable[[Any, TrainData, int], Any] | None = None
    distil: Callable[[Any, Dataset, Run], SyntheticSet] | None = None

    def configure(self, preset: str = "paper", overrides: Mapping[str, str] | None = None) -> Any:
        """The recipe of a preset with fields replaced by text values. Raises ``OptionError``."""
        if preset not in self.presets:
            raise OptionError(f"there is no preset {preset!r}; {configs.nearest(preset, self.presets)}")
        chosen, changes, overrides = self.recipe(), self.presets[preset], overrides or {}
        if self.readings:
            reading = overrides.get("recipe", changes.get("recipe", chosen.recipe))
            chosen = configs.changed(chosen, self.readings.get(reading, {}))
        chosen = configs.changed(chosen, changes)
        configs.validate(chosen)
        return configs.override(chosen, overrides)


def train(
    model: str | Plugin,
    data: str,
    *,
    out: str | Path,
    preset: str = "paper",
    overrides: Mapping[str, str] | None = None,
    resume: bool = False,
    seed: int | None = None,
    device: str = "auto",
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 300.0,
    mixed_precision: str | None = None,
    gradient_accumulation: int | None = None,
    engine: str | None = None,
    history: Any = None,
) -> Path:
    """Train ``model`` (a name or a plugin) on the data set ``data``; returns the folder ``out`` with its weights.

    ``out`` then holds ``config.json`` and ``model.safetensors`` (what ``zoo.load(..., weights=out)`` takes),
    ``run.json``, ``split.json``, ``metrics/``, and for a reader ``README.md`` and ``curves.png``. A run that was killed
    goes on with ``resume=True``; resuming a finished one does nothing. ``seed``: None is 0; a training with a privacy
    guarantee then draws noise that nobody can draw again, and with a seed it guarantees nothing. ``engine`` (``local``,
    ``simulation`` or ``deployment``) is where the clients of a federated model run, and
    ``history`` (a ``zoo.federated.HistoryPolicy``) what its server keeps so that a client can be forgotten later. See
    ``Run`` for the rest.

    Raises ``OptionError`` for a wrong option or a folder that holds another run, ``DataError`` for unusable data,
    ``PluginError`` for a model without training.
    """
    from zoo.data.check import patient_doubt, require
    from zoo.data.sets import load_dataset

    plugin, training = registry.part(model, "training")
    if engine is not None:
        if training.federation is None:
            raise OptionError(f"{plugin.name} isn't a federated model, so engine {engine} means nothing; leave it out")
        if engine not in ENGINES:
            raise OptionError(f"engine must be {', '.join(ENGINES[:-1])} or {ENGINES[-1]}, not {engine!r}")
    if history is not None and training.federation is None:
        raise OptionError(f"{plugin.name} isn't a federated model, so it has no history of clients; leave it out")
    recipe = training.configure(preset, overrides)
    dataset = load_dataset(data, plugin=plugin)
    require(dataset, plugin)
    if doubt := patient_doubt(dataset):
        warnings.warn(f"{data}: {doubt}", DataWarning, stacklevel=2)
    parts = divide(dataset, training.split, recipe, seed or 0)
    out = Path(out)
    identity = {
        "model": plugin.name,
        "recipe": configs.to_dict(recipe),
        "data": data,
        "cases": digest(parts),
        "precision": mixed_precision,
        "accumulation": gradient_accumulation,
        **({} if history is None else {"history": sorted(history.schemes)}),
    }
    with Run(
        out,
        seed=seed,
        device=device,
        resume=resume,
        identity=identity,
        checkpoint_every=checkpoint_every,
        checkpoint_seconds=checkpoint_seconds,
        mixed_precision=mixed_precision,
        gradient_accumulation=gradient_accumulation,
        engine=engine or "local",
        source={
            "data": data,
            "phantom": plugin.phantom,
            "split": asdict(training.split),
            "cases": identity["cases"],
        },
        history=history,
    ) as run:
        record = json.loads((out / "run.json").read_text(encoding="utf-8"))
        if not record.get("finished"):
            if run.is_main:
                save_split(parts, out / "split.json", run.seed)
                announce(page.plan(plugin, data, parts, out, preset))
            try:
                network = training.run(recipe, parts, run)
            except ZooError:
                if run.is_main and not (out / "metrics").exists():  # refused before its first step
                    _forget(out)
                raise
            if run.is_main:
                store(network, parts, training, out, recipe, data)
                page.write(out, plugin, parts, record["identity"], preset, overrides or {})
                write_file(out / "run.json", json.dumps({**record, "finished": True}, indent=2) + "\n")
                remove_folder(run.checkpoints)  # the weights are safe; what led to them may go
            run.accelerator.wait_for_everyone()
    return out


def store(network: Model, parts: TrainData, training: Training, out: Path, recipe: Any, data: str) -> None:
    """What a training on ``parts`` made, with what its images are like and which they were, into ``out``."""
    network.seen = Seen.of(parts)
    refer(network, parts, training)
    _save(network, out, recipe, data)
    _answer(network, out)


def _forget(out: Path) -> None:
    """Leave no trace of a run that made no step, so that its folder can be used again."""
    for name in ("run.json", "split.json"):
        (out / name).unlink(missing_ok=True)
    with suppress(OSError):  # it holds other things
        out.rmdir()


def _save(network: Model, out: Path, recipe: Any, data: str) -> None:
    import torch

    from zoo.weights import save

    dtype = getattr(recipe, "dtype", "float32")
    save(
        network,
        out,
        dtype=None if dtype == "float32" else getattr(torch, dtype),
        trained_on=data,
        disclaimer="trained on phantoms; not for clinical use" if is_kind(data, "phantom") else None,
    )


def _answer(network: Model, out: Path) -> None:
    """What the weights, as they are stored, say of one phantom; a training isn't lost because it can't be asked."""
    from zoo import answers

    try:
        answers.write_beside(type(network), out)
    except ZooError as error:
        warnings.warn(f"{out} has no stored answer: {error}", DataWarning, stacklevel=2)


def digest(parts: TrainData) -> str:
    """A short name for which cases are in which part."""
    return hashlib.sha256(json.dumps(parts.to_dict()).encode()).hexdigest()[:16]
