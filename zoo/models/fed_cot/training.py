"""The federation of a data set: whose scans are labelled, how the whole is trained, and how it is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from zoo import media
from zoo.data.case import Case
from zoo.data.sets import Dataset
from zoo.data.splits import PARTS, Split, TrainData
from zoo.data.volumes import voxels
from zoo.errors import DataError, OptionError
from zoo.federated import Federation, State, by_attribute, divided
from zoo.metrics import segmentation_scores
from zoo.models.fed_cot import plugin
from zoo.models.fed_cot.client import CoTRecipe, federation
from zoo.models.fed_cot.data import Brains, lesions_of
from zoo.models.fed_cot.model import FedCoT
from zoo.models.fed_cot.network import CICEK
from zoo.models.fed_cot.result import rounds_figure
from zoo.seeds import derive_seed
from zoo.storage import write_file
from zoo.training import Run, Training


def sites_of(recipe: CoTRecipe, data: Dataset, seed: int) -> tuple[list[str], list[np.ndarray]]:
    """Who takes part, by name, and their cases. Raises ``OptionError`` for a site that isn't there."""
    kind, _, column = recipe.partition.partition(":")
    if kind != "column":
        if recipe.sites:
            raise OptionError("sites are values of a column; set partition=column:NAME")
        parts = divided(recipe.partition, data, [0] * len(data), recipe.clients, 1.0, seed)
        return [f"client {number}" for number in range(len(parts))], parts
    parts = by_attribute(data, column)
    names = [str(data[int(places[0])].attributes[column]) for places in parts]
    if unknown := [name for name in recipe.sites if name not in names]:
        raise OptionError(f"there is no {column} {unknown[0]!r}; there are {', '.join(names)}")
    chosen = [place for place, name in enumerate(names) if not recipe.sites or name in recipe.sites]
    return [names[place] for place in chosen], [parts[place] for place in chosen]


def known_and_unknown(cases: Sequence[Case], share: float, who: str, seed: int) -> tuple[list[Case], list[Case]]:
    """A client's labelled and unlabelled cases (L_k and U_k); at least one is labelled.

    Raises ``DataError`` where nobody has a mask.
    """
    known, unknown = [case for case in cases if "mask" in case.masks], [c for c in cases if "mask" not in c.masks]
    if not known:
        raise DataError(f"no training case of {who} has a mask; a client needs one or more, or leave it out by sites")
    if not unknown and share < 1:
        order = np.random.default_rng(derive_seed(seed, "labelled", who)).permutation(len(known))
        count = max(1, round(share * len(known)))
        mine = set(order[:count].tolist())
        known, unknown = ([case for i, case in enumerate(cases) if (i in mine) is yes] for yes in (True, False))
    return known, unknown


def build(recipe: CoTRecipe, data: TrainData, seed: int) -> Federation:
    """The clinics of a recipe, the same in every process."""
    config = recipe.network
    if config.flat:
        raise OptionError("network.flat is for images, and the data are volumes; set it to false")
    names, partitions = sites_of(recipe, data.train, seed)

    owned = []
    for name, places in zip(names, partitions, strict=True):
        known, unknown = known_and_unknown([data.train[int(place)] for place in places], recipe.labelled, name, seed)
        if recipe.method != "fl" and not unknown:
            raise OptionError(f"every training case of {name} is labelled; set labelled below 1, or method=fl")
        owned.append((known, unknown))

    @cache
    def shard(number: int) -> Brains:
        return Brains.of(*owned[number], config.spacing, config.patch, recipe.centred, recipe.augment)

    judged = data.validation if len(data.validation) else data.test

    def evaluate(state: State) -> dict[str, float]:
        """Mean Dice of the validation cases, else the test's, whose weights it doesn't choose; by site as well."""
        model = assembled(recipe, state).eval()
        rows = [(case, row) for case in judged if "mask" in case.masks for row in score(model, case, {})]
        return by_site([(str(case.attributes.get("site", "")), row["dice"]) for case, row in rows])

    return federation(recipe, partitions, shard, evaluate)


def by_site(scores: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Subject-wise Dice over all subjects, and over those of each site (Tables 1 and 2)."""
    known = [(site, value) for site, value in scores if value == value]
    sites = sorted({site for site, _ in known if site})
    means = {f"dice-{site}": float(np.mean([v for other, v in known if other == site])) for site in sites}
    return ({"dice": float(np.mean([value for _, value in known]))} if known else {}) | means


def assembled(recipe: CoTRecipe, state: State) -> FedCoT:
    """The model of a state: the student, and the sync-teacher if there is one."""
    model = FedCoT(replace(recipe.network, sync=recipe.syncs))
    model.network.load_state_dict(state.network)
    if model.sync is not None:
        model.sync.load_state_dict(state.models["sync"])
    return model


def train(recipe: CoTRecipe, data: TrainData, run: Run) -> FedCoT:
    """All rounds on the run's engine; Dice over the rounds as a picture."""
    from zoo.federated import federate  # needs Flower

    data = TrainData(*(getattr(data, part).in_memory() for part in PARTS))
    outcome = federate(build, recipe, data, run)
    measured = sum("global/dice" in row for row in outcome.rows)
    if run.out is not None and run.is_main and measured > 1:
        write_file(run.out / "rounds.png", rounds_figure(outcome.rows, recipe.method))
    return assembled(recipe, outcome.state).to(run.device).eval()


def score(model: FedCoT, case: Case, options: Mapping[str, Any]) -> list[dict[str, float]]:
    """Dice and what else is counted, on the grid of the file. Raises ``DataError`` for a case without a mask."""
    if "mask" not in case.masks:
        raise DataError(f"case {case.id} has no mask to be measured by")
    found = model.predict(case.image, **options)
    native = voxels(media.read(case.image).require_3d(plugin.name), plugin.name)[1]
    truth = lesions_of(case, native).astype(np.uint8)
    return [segmentation_scores(found.mask, truth, plugin.labels)]


SMALL: dict[str, Any] = {
    "widths": (8, 16, 32), "last": 8, "groups": 4, "bias": -2.0, "patch": (16, 16, 16), "spacing": (4.0, 4.0, 4.0),
}  # fmt: skip
training = Training(
    recipe=CoTRecipe,
    run=train,
    federation=build,
    presets={
        "paper": {},
        "cicek": {"network": CICEK},
        "demo": {
            "network": SMALL, "rounds": 12, "iters": 30, "batch_l": 4, "batch_u": 4, "lr": 5e-3, "alpha1": (0.95, 0.95),
            "ramp_iters": 180, "boxes": (1, 3), "edges": (3, 6), "centred": 0.75, "measure_every": 6,
            "dtype": "float16",
        },
        # A handful of cases leaves a client without any to spare.
        "check": {
            "method": "fl", "network": SMALL, "partition": "iid", "clients": 2, "rounds": 8, "iters": 6, "batch_l": 2,
            "lr": 5e-3, "measure_every": 8,
        },
    },
    split=Split((0.5, 0.0, 0.5)),  # Sec. 4.1
    score=score,
)  # fmt: skip
