"""The training on those who remain: a federation without the clients that leave, on every engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from zoo import config as configs
from zoo.data.splits import TrainData
from zoo.errors import OptionError
from zoo.federated.app import load_name
from zoo.federated.contributions import NEEDS
from zoo.federated.exchange import Context, State, Tensors, Update
from zoo.federated.federation import Aggregate, Build, Federation, check, construct, initial_models
from zoo.federated.history import CONTRIBUTIONS, History, HistoryPolicy
from zoo.federated.unlearning import Beginning, Settings, beginning, calibrated, distilled
from zoo.training import Run, checkpoint


@dataclass(frozen=True)
class Retraining:
    """What another process needs to come to the federation without the clients that leave: plain facts."""

    build: str
    recipe_type: str
    recipe: str  # as JSON
    leaving: tuple[int, ...]
    rounds: int
    before: int = 0
    lengths: str = ""  # folder of the contributions whose lengths new updates get
    interval: int = 1
    granularity: Literal["client", "layer"] = "client"


def remaining(recipe: Retraining, data: TrainData, seed: int) -> Federation:
    """The federation of those who remain, under the numbers 0, 1, ...; they're told their old ones."""
    original = configs.from_dict(load_name(recipe.recipe_type), json.loads(recipe.recipe))
    whole = load_name(recipe.build)(original, data, seed)
    kept = [client for client in range(whole.clients) if client not in recipe.leaving]
    scale = None
    if recipe.lengths:
        names = [name for name, p in whole.model().named_parameters() if p.is_floating_point()]
        scale = partial(_scaled, cache(partial(_lengths, recipe.lengths)), recipe.interval, names, recipe.granularity)
    return replace(
        whole,
        client=partial(_client, whole.client, kept),
        data=lambda place: whole.data(kept[place]),
        partitions=[whole.partitions[client] for client in kept],
        aggregate=partial(_aggregate, whole.aggregate, kept, scale),
        min_clients=min(whole.min_clients, len(kept)),
        names=[whole.names[client] for client in kept] if whole.names else (),
        held_out=[whole.held_out[client] for client in kept] if whole.held_out else (),
        aside=[whole.aside[client] for client in kept] if whole.aside else (),
        rounds=recipe.rounds,
        remaining=kept,
        before=recipe.before,
    )


def _client(client: Any, kept: Sequence[int], network: Any, data: Any, rng: Any, context: Context) -> Update:
    return client(network, data, rng, replace(context, client=kept[context.client]))


def _aggregate(
    aggregate: Aggregate,
    kept: Sequence[int],
    scale: Callable[..., None] | None,
    updates: Sequence[Update],
    state: State,
) -> State:
    renamed = [copy(update) for update in updates]
    for update in renamed:
        update.client = kept[update.client]
        if scale is not None and "network" in update.models:
            scale(update, state)
    after = aggregate(renamed, replace(state, failed=tuple(kept[client] for client in state.failed)))
    return replace(after, failed=state.failed)


def _lengths(folder: str) -> list[Tensor]:
    return checkpoint.load(folder)["norms"]


def _scaled(
    lengths: Callable[[], list[Tensor]], interval: int, names: Sequence[str], granularity: str, update: Update,
    state: State,
) -> None:  # fmt: skip
    stored = lengths()[state.round * interval][update.client]  # round 0 was taken as it was stored
    model = calibrated(update.models["network"], state.network, names, stored, granularity)
    update.models = {**update.models, "network": model}


@dataclass
class Request:
    """Whom a run shall forget and how, as ``Run.forget``. ``facts``, by stage, is what came of it.

    ``source``: the folder of the run with ``leaving`` in it. ``gone``: who had left it before. ``noise``: a seed for
    IFU's noise, which then guarantees nothing. ``history``: what that run kept, where it isn't in its folder.
    """

    source: Path
    leaving: tuple[int, ...]
    method: str
    settings: Settings = field(default_factory=Settings)
    noise: int | None = None
    gone: tuple[int, ...] = ()
    history: History | None = None
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def begin(
        self, build: Build, recipe: Any, data: TrainData, run: Run, stage: str, models: Mapping[str, Tensors] | None
    ) -> tuple[Build, Retraining, Mapping[str, Tensors]]:
        """What ``federate`` trains instead: without the clients, from where the method begins.

        A stage that begins at given models, as those that follow the first do, only trains without the clients.
        """
        if "<" in build.__qualname__:
            raise OptionError(f"{build.__qualname__} can't be imported, so nobody can be left out of it")
        whole = construct(build, recipe, data, run.seed)
        check(whole, data.train)
        without = tuple(sorted({*self.leaving, *self.gone}))
        require_rest(whole, without)
        facts = Retraining(
            f"{build.__module__}:{build.__qualname__}", f"{type(recipe).__module__}:{type(recipe).__qualname__}",
            json.dumps(configs.to_dict(recipe)), without, self.settings.rounds or whole.rounds,
            granularity=self.settings.granularity, interval=self.settings.interval,
        )  # fmt: skip
        if models is not None:
            run.history = None
            return remaining, facts, models
        history = self.history or stored((self.source / "history" / stage).resolve())
        first = initial_models(whole, run.seed, stage)
        begin = beginning(
            self.method, whole, history, first["network"], self.leaving, self.settings, run.seed, self.noise, run.device
        )
        if self.method == "ukd" and self.settings.distil:
            run.stage(f"{stage}-distillation")
            old = history.last()[1]
            begin.network = distilled(whole, begin.network, old, without, self.settings, run)
            begin.facts |= {"distillation_steps": self.settings.distil}
        self.facts[stage] = {"rounds": begin.rounds, **begin.facts}
        run.history = self._lineage(run, stage, history, begin) if self.method in ("scratch", "ifu") else None
        facts = replace(
            facts, rounds=begin.rounds, before=begin.before if run.history is not None else 0,
            lengths=str((history.folder / CONTRIBUTIONS).resolve()) if self.method == "federaser" else "",
        )  # fmt: skip
        return remaining, facts, {**first, "network": begin.network}

    def _lineage(self, run: Run, stage: str, history: History, begin: Beginning) -> HistoryPolicy | None:
        """Let the new run's history begin with the rounds that led to its first model, so that others may leave."""
        if run.out is None:
            return None
        known = history.contributions()
        policy = replace(history.policy, schemes=known.schemes if not begin.before else ("ifu",))
        target = run.out / "history" / stage
        if begin.before and not (target / CONTRIBUTIONS).is_dir():
            for round_ in history.rounds:
                if round_ <= begin.before:
                    checkpoint.save(target / f"{round_:06d}", {"global": history.network(round_), "clients": {}})
            checkpoint.save(target / CONTRIBUTIONS, known.until(begin.before).state_dict())
        return policy


def stored(folder: Path) -> History:
    """The history of a finished stage. Raises ``OptionError`` with how to train where there is none."""
    if not (folder / CONTRIBUTIONS).is_dir():
        raise OptionError(
            f"{folder.parent.parent} kept no history to forget a client by; train it again with --history ifu (or "
            f"another of {', '.join(NEEDS)}, or all)"
        )
    return History(HistoryPolicy(dtype="float32", max_bytes=2**32), folder)


def require_rest(whole: Federation, leaving: Sequence[int]) -> None:
    """Raises ``OptionError`` for clients that aren't there, or too few that remain."""
    for client in leaving:
        if not 0 <= client < whole.clients:
            raise OptionError(f"there is no client {client}; this run has {whole.clients}, 0 to {whole.clients - 1}")
    if whole.clients - len(set(leaving)) < 2:
        raise OptionError("fewer than two clients would remain, which is no federation any more; train on one's data")
