"""Everybody divides a data set alike: training, evaluation, a deployment's processes, zoo check."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from zoo import evaluation, registry
from zoo.conformance import checks, rules
from zoo.data.sets import load_dataset
from zoo.data.splits import Split, TrainData
from zoo.plugin import Input, Output, Paper, Plugin
from zoo.training import Training, train
from zoo.training.recipe import digest

PHANTOM = "phantom:skin-lesion?size=64"
DATA = f"phantom:skin-lesion?size=64&n={rules.TRAINING_CASES}&seed=0"


class Seen(Exception):
    """The end of a training that was only to show its data."""


@dataclass(frozen=True)
class Recipe:
    folds: int = 3
    fold: int = 2


def stop(recipe: Recipe, data: TrainData, *_: Any) -> Any:
    raise Seen(json.dumps(data.to_dict()))


training = Training(
    Recipe, stop, presets={"paper": {}, "demo": {}}, split=Split((0.6, 0.2, 0.2), folds=True), federation=stop
)
plugin = Plugin(
    name="folded", title="Folded", summary="Has folds.", paper=Paper("Toy", ("A. Nobody",), "nowhere"),
    task="segmentation", modality="any", inputs=(Input("image", "image", "a picture", required=True),),
    outputs=(Output("mask", "nothing"),), labels=("dark", "bright"), model=f"{__name__}:plugin",
    training=f"{__name__}:training", phantom=PHANTOM,
)  # fmt: skip


@pytest.mark.wrong_types
def test_folds_are_equal_in_training_evaluation_deployment_and_conformance(tmp_path):
    with pytest.raises(Seen) as seen:
        train(plugin, DATA, out=tmp_path / "run", device="cpu")
    parts = json.loads(str(seen.value))
    assert {part: len(ids) for part, ids in parts.items()} == {"train": 3, "validation": 1, "test": 2}

    dataset = load_dataset(DATA)
    network: Any = SimpleNamespace(seen=None, provenance=SimpleNamespace(trained_on="other data", weights="none"))
    for name, ids in parts.items():
        assert evaluation._part(dataset, name, None, 0, network, plugin, False)[0].ids == ids

    from zoo.federated.app import rebuild

    facts = {
        "model": None, "data": DATA, "phantom": None, "split": asdict(training.split), "seed": 0, "recipe": {},
        "cases": digest(TrainData(*(dataset.subset(dataset.ids.index(i) for i in parts[p]) for p in parts))),
        "recipe_type": f"{__name__}:Recipe", "build": f"{__name__}:stop",
    }  # fmt: skip
    with pytest.raises(Seen) as seen:
        rebuild(json.dumps(facts))
    assert json.loads(str(seen.value)) == parts

    with pytest.raises(Seen) as seen:
        checks.training(checks.Subject(registry.Entry("folded", "", "", plugin)))
    assert json.loads(str(seen.value)) == parts
