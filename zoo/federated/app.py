"""The apps in a process of their own: what a simulation's workers and a deployment's processes load.

They come to the same federation from plain facts: which function builds it, with which recipe, on which data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from zoo.federated import flower

# isort: split
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from zoo import config as configs
from zoo import registry
from zoo.errors import DataError, OptionError, ZooError
from zoo.federated.client import Clients
from zoo.federated.federation import Federation, construct, initial_models
from zoo.federated.history import HistoryPolicy
from zoo.federated.server import serve
from zoo.plugin import Plugin
from zoo.storage import write_file
from zoo.training import Run

FAILURE = "failure.txt"


def facts_of(build: Callable[..., Federation], recipe: Any, run: Run, stage: str) -> dict[str, Any]:
    """What another process needs. Raises ``OptionError`` if it couldn't come to the same data or function."""
    if run.source is None or run.out is None:
        raise OptionError(f"engine {run.engine} starts other processes, which need a data specification; use zoo train")
    if "<" in build.__qualname__:
        raise OptionError(f"engine {run.engine} starts other processes, which can't import {build.__qualname__}")
    kind, _, place = str(run.source["data"]).partition(":")
    record = json.loads((run.out / "run.json").read_text(encoding="utf-8"))
    return {
        **run.source,
        "model": record["identity"].get("model"),
        "data": f"{kind}:{place}" if kind == "phantom" else f"{kind}:{Path(place).resolve()}",
        "build": f"{build.__module__}:{build.__qualname__}",
        "recipe_type": f"{type(recipe).__module__}:{type(recipe).__qualname__}",
        "recipe": configs.to_dict(recipe),
        "seed": run.seed,
        "history": None if run.history is None else asdict(run.history),
        "device": str(run.device),
        "stage": stage,
        "out": str(run.out.resolve()),
    }


def client_app(facts: Mapping[str, Any]) -> Clients:
    """The clients' side."""
    text = json.dumps(facts)
    states = Path(facts["out"]) / "clients" / facts["stage"]
    return Clients(lambda: rebuild(text), facts["seed"], facts["device"], states)


def server_app(facts: Mapping[str, Any]) -> ServerApp:
    """The server's side; it leaves its result among the run's checkpoints, or the reason why there is none."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        from zoo.training import Run, checkpoint

        out, stage = Path(facts["out"]), facts["stage"]
        try:
            record = json.loads((out / "run.json").read_text(encoding="utf-8"))
            identity = {name: value for name, value in record["identity"].items() if name != "seed"}
            with Run(out, seed=facts["seed"], device=facts["device"], resume=True, identity=identity) as run:
                run.stage(stage)
                federation = rebuild(json.dumps(facts))
                if facts.get("start"):
                    start: Mapping[str, Any] = checkpoint.load(facts["start"])
                else:
                    start = initial_models(federation, run.seed, stage)
                serve(federation, grid, run, stage, start)
        except Exception as error:
            said = str(error) if isinstance(error, ZooError) else f"the server stopped: {type(error).__name__}: {error}"
            write_file(out / "app" / FAILURE, said)
            raise

    return app


@lru_cache(maxsize=1)
def rebuild(facts: str) -> Federation:
    """The federation of these facts (JSON), built once per process. Raises ``DataError`` if the data differ here."""
    from zoo.data.sets import load_dataset
    from zoo.data.splits import Split, divide
    from zoo.training.recipe import digest

    known = json.loads(facts)
    dataset = load_dataset(known["data"], plugin=_card(known["model"]))
    recipe = configs.from_dict(load_name(known["recipe_type"]), known["recipe"])
    parts = divide(dataset, Split(tuple(known["split"]["fractions"]), known["split"]["folds"]), recipe, known["seed"])
    if digest(parts) != known["cases"]:
        raise DataError(f"{known['data']} holds other cases here than where the training was started")
    with flower.quiet():
        federation = construct(load_name(known["build"]), recipe, parts, known["seed"])
    if known.get("history"):
        policy = {**known["history"], "schemes": tuple(known["history"]["schemes"])}
        federation = replace(federation, history=HistoryPolicy(**policy))
    return federation


def _card(name: str | None) -> Plugin | None:
    """The card that the training was started with, which knows its phantom and its named inputs."""
    return next((entry.plugin for entry in registry.entries() if entry.name == name), None)


def load_name(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
