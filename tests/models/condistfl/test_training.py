"""The network, who has annotated what, the rounds of clients and server, the weights, and predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models.base import PluginTests
from tests.models.engines import assert_alike_on_every_engine
from zoo import media
from zoo.data.case import Case
from zoo.data.scans import View
from zoo.data.sets import load_dataset, read_mask
from zoo.data.splits import TrainData, divide
from zoo.errors import DataError, MediaError, OptionError
from zoo.federated import Context, State, Update, federate
from zoo.models.condistfl import CLASSES
from zoo.models.condistfl.data import Volumes, annotated, augmented
from zoo.models.condistfl.model import PAPER, CondistConfig, CondistFL, Network, largest_parts, merged
from zoo.models.condistfl.result import surfaces
from zoo.models.condistfl.training import (
    CondistRecipe,
    FedOpt,
    build,
    client,
    mean_of_tasks,
    numbers_of,
    score,
    shares_of,
    training,
)
from zoo.training import Run

DATA = "phantom:abdominal-ct?n=6&size=32&slices=16"
CASE = "phantom:abdominal-ct?size=32&slices=16&seed=9"
NETWORK = CondistConfig(
    ("liver", "liver tumour", "spleen"), (4, 6, 8), deep_heads=1, patch=(16, 16, 16), view=View((12.0, 12.0, 12.0),
    (-54.0, 258.0)),
)  # fmt: skip
TINY = CondistRecipe(
    network=NETWORK, clients=("liver+liver tumour", "spleen"), rounds=6, local_steps=1, batch_size=2, momentum=0.9,
    augment="none",
)  # fmt: skip


class TestCondistFL(PluginTests):
    name = "condistfl"
    recipe = TINY
    data = DATA
    evaluated_on = "phantom:abdominal-ct?n=2&size=48&slices=32&seed=77000"


# ---- the network -----------------------------------------------------------------------------------------------------


def test_the_network_has_the_released_layout_and_each_parameter_one_name() -> None:
    with torch.device("meta"):
        network = Network(PAPER)
    assert sum(p.numel() for p in network.parameters()) == 31_166_016
    names = list(network.state_dict())
    assert len(names) == len(list(network.parameters())) == 79
    assert not any("skip_layers" in name for name in names)
    assert {name.partition(".")[0] for name in names} == {
        "input_block", "downsamples", "bottleneck", "upsamples", "output_block", "deep_supervision_heads",
    }  # fmt: skip


def test_deep_heads_answer_in_training_alone() -> None:
    network, x = Network(NETWORK), torch.rand(1, 1, 16, 16, 16)
    assert [tuple(one.shape) for one in network(x)] == [(1, 4, 16, 16, 16)] * 2
    assert len(network.eval()(x)) == 1


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"classes": ("liver",)}, "two or more"),
        ({"filters": (4, 8)}, "three levels"),
        ({"deep_heads": 5}, "room for 4"),
        ({"patch": (224, 224)}, "3 sides"),
        ({"patch": (224, 224, 60)}, "multiples"),
    ],
)
def test_what_cannot_be_built_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(PAPER, **wrong)


def test_a_tumour_counts_as_its_organ_where_they_are_merged() -> None:
    mask, names = merged(np.arange(8).reshape(2, 2, 2), CLASSES)
    assert names == ("background", "liver", "spleen", "pancreas", "kidney")
    assert mask.ravel().tolist() == [0, 1, 1, 2, 3, 3, 4, 4]
    kept, same = merged(np.arange(3), ("liver", "spleen"))  # the union of organ and tumour
    assert kept.tolist() == [0, 1, 2]
    assert same == ("background", "liver", "spleen")


def test_of_each_organ_the_largest_part_is_kept_and_two_kidneys() -> None:
    mask = np.zeros((3, 3, 20), np.uint8)
    mask[1, 1, 0:3], mask[1, 1, 3], mask[1, 1, 6] = 1, 2, 2  # a liver with its tumour, and a speck
    mask[1, 1, 8:10], mask[1, 1, 12:14], mask[1, 1, 16] = 6, 6, 6
    mask[1, 1, 18] = 3
    kept = largest_parts(mask, ("background", *CLASSES))
    assert kept[1, 1].tolist() == [1, 1, 1, 2, 0, 0, 0, 0, 6, 6, 0, 0, 6, 6, 0, 0, 0, 0, 3, 0]


# ---- who has annotated what ------------------------------------------------------------------------------------------


def test_classes_are_told_by_the_values_of_the_mask_sides_and_tumours_included() -> None:
    (case,) = load_dataset(CASE + "&n=1")
    names = case.attributes["labels"]
    whole = annotated(case, ("kidney", "liver"))
    assert {names[value - 1] for value in whole[2]} == {"liver", "liver tumour"}
    assert [names[value - 1] for value in annotated(case, CLASSES)[1]] == ["liver"]
    sides = replace(case, attributes={"labels": ("right kidney", "spleen", "left kidney"), "labelled": [1, 3]})
    assert annotated(sides, CLASSES) == {6: (1, 3)}
    partial = replace(case, attributes={**case.attributes, "labelled": [1 + names.index("spleen")]})
    assert set(annotated(partial, CLASSES)) == {3}


def test_clients_are_as_the_data_say_or_as_the_recipe_does(tmp_path: Path) -> None:
    cases = load_dataset(DATA)
    partitions, foregrounds, _ = shares_of(TINY, cases, 0)
    assert foregrounds == [(1, 2), (3,)]
    assert sorted(int(i) for one in partitions for i in one) == list(range(6))
    (tmp_path / "client.csv").write_text(
        "path,classes\n"
        "phantom:abdominal-ct?n=2&size=32&slices=16&labels=spleen,spleen\n"
        "phantom:abdominal-ct?n=3&size=32&slices=16&labels=liver,liver; liver tumour\n"
    )
    partitions, foregrounds, made = shares_of(TINY, load_dataset(f"clients:{tmp_path / 'client.csv'}"), 0)
    assert foregrounds == [(3,), (1, 2)]
    assert [len(one) for one in partitions] == [2, 3]
    assert [made[int(i)].attributes["client"] for i in partitions[1]] == [1, 1, 1]


def test_a_client_of_no_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="none of liver, liver tumour, spleen"):
        numbers_of("heart", NETWORK.classes)
    scanned = load_dataset("phantom:abdominal-ct?n=12&size=32&slices=16")
    with pytest.raises(OptionError, match="makes 4 clients and 2 are named"):
        shares_of(replace(TINY, partition="column:scanner"), scanned, 0)
    (tmp_path / "client.csv").write_text("path,classes\nphantom:abdominal-ct?n=2&size=32&slices=16,aorta\n")
    with pytest.raises(DataError, match="client 0 has annotated none of liver, liver tumour, spleen"):
        shares_of(TINY, load_dataset(f"clients:{tmp_path / 'client.csv'}"), 0)


def test_a_clients_patches_know_its_own_classes_alone() -> None:
    cases = list(load_dataset(DATA))
    shard = Volumes.of(cases, NETWORK.classes, (1, 2), NETWORK.view, NETWORK.patch)
    x, y = shard.batch(5, np.random.default_rng(0))
    assert x.shape == (5, 1, 16, 16, 16)
    assert set(y.unique().tolist()) <= {0, 1, 2}
    assert 1 in y.unique()
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1


def test_augmented_patches_keep_their_shape_and_their_labels() -> None:
    x, y = torch.rand(6, 1, 16, 16, 16), torch.randint(0, 3, (6, 16, 16, 16))
    rng = np.random.default_rng(1)
    seen, told = augmented(x, y, rng)
    assert seen.shape == x.shape
    assert told.dtype == torch.long
    assert set(told.unique().tolist()) <= {0, 1, 2}
    assert not torch.equal(seen, x)


# ---- rounds ----------------------------------------------------------------------------------------------------------


def test_the_weight_grows_linearly_and_the_rate_falls_in_a_cosine_over_all_steps() -> None:
    recipe = CondistRecipe()
    assert [recipe.weight(r) for r in (1, 60)] == pytest.approx([0.01, 1.0])
    assert recipe.weight(31) - recipe.weight(30) == pytest.approx(0.99 / 59)
    assert replace(recipe, method="fedopt").weight(60) == 0
    assert recipe.rate(0) == pytest.approx(1e-2)
    assert recipe.rate(60_000) == pytest.approx(5e-3, rel=1e-3)
    assert recipe.rate(120_000) == pytest.approx(1e-7)


def update(value: float) -> Update:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, value)
    told = Update({"network": network}, num_examples=1)
    told.weight = 0.5
    return told


def test_the_server_has_momentum_and_without_it_takes_the_mean() -> None:
    start = State(models={"network": {"weight": torch.full((1, 1), 10.0)}}, round=1)
    told = [update(6.0), update(8.0)]
    assert float(FedOpt(0.0)(told, start).network["weight"]) == 7.0  # FedAvg
    first = FedOpt(0.6)(told, start)
    assert float(first.network["weight"]) == 7.0  # v = 3
    second = FedOpt(0.6)([update(6.0), update(6.0)], replace(first, round=2))
    assert float(second.network["weight"]) == pytest.approx(7.0 - (0.6 * 3 + 1))
    same = FedOpt(0.0)([update(10.0), update(10.0)], start)
    assert float(same.network["weight"]) == 10.0


def shards() -> tuple[Volumes, Context]:
    shard = Volumes.of(list(load_dataset(DATA))[:2], NETWORK.classes, (3,), NETWORK.view, NETWORK.patch)
    return shard, Context(0, 3, "train", torch.device("cpu"), {}, {})


def test_without_weight_a_client_of_condistfl_is_one_of_fedavg() -> None:
    ends = []
    for method, weights in (("condistfl", {"weight_start": 0.0, "weight_end": 0.0}), ("fedavg", {})):
        torch.manual_seed(0)
        network = Network(NETWORK)
        shard, context = shards()
        recipe = replace(TINY, method=method, **weights)  # type: ignore[arg-type]
        client(network, shard, np.random.default_rng(0), context, recipe)
        ends.append(network.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_teacher_and_the_momentum_change_a_client() -> None:
    torch.manual_seed(0)
    network, (shard, context) = Network(NETWORK), shards()
    told = client(network, shard, np.random.default_rng(0), context, TINY)
    assert told.num_examples == 2
    kept = context.kept["momentum"]
    assert set(kept) == {name for name, _ in network.named_parameters()}
    before = {name: value.clone() for name, value in kept.items()}
    client(network, shard, np.random.default_rng(0), context, TINY)
    assert any(not torch.equal(before[name], context.kept["momentum"][name]) for name in before)
    forgetful = Context(0, 3, "train", torch.device("cpu"), {}, {})
    client(network, shard, np.random.default_rng(0), forgetful, replace(TINY, client_state="reset"))
    assert "momentum" not in forgetful.kept


def test_the_best_round_needs_cases_to_judge_by() -> None:
    data = divide(load_dataset(DATA), training.split, TINY)
    with pytest.raises(OptionError, match="keep=last"):
        build(replace(TINY, keep="best"), TrainData(data.train, data.validation[:0], data.test), 0)


def test_rounds_are_judged_by_the_mean_of_the_tasks() -> None:
    rows = [{"dice": 0.9, "liver dice": 0.9}] * 3 + [{"dice": 0.45, "liver dice": 0.9, "spleen dice": 0.0}]
    assert mean_of_tasks(rows) == pytest.approx(0.45)  # not weighed by how many cases have a class
    assert np.isnan(mean_of_tasks([]))


def test_a_client_that_sends_nan_is_left_out_of_mean_and_momentum() -> None:
    recipe = replace(TINY, clients=("liver+liver tumour", "spleen", "spleen"), rounds=2)
    parts = divide(load_dataset(DATA), training.split, recipe)

    def spoiled(network: Network, data: Any, rng: np.random.Generator, context: Context) -> Update:
        told = client(network, data, rng, context, recipe)
        if context.client == 1:
            next(iter(told.models["network"].values())).fill_(float("nan"))
        return told

    with Run(None, device="cpu", progress=False) as run:
        outcome = federate(lambda *given: replace(build(*given), client=spoiled), recipe, parts, run)
    assert [row["status"] for row in outcome.clients if row["client"] == 1] != ["ok", "ok"]
    velocity = outcome.state.own["velocity"]
    assert all(bool(torch.isfinite(value).all()) for value in (*velocity.values(), *outcome.state_dict().values()))


@pytest.mark.slow
def test_three_engines_give_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(TINY, rounds=2)
    parts = divide(load_dataset(DATA), training.split, recipe)
    assert_alike_on_every_engine(build, recipe, parts, "condistfl", DATA, training.split, tmp_path, monkeypatch)


# ---- predictions -----------------------------------------------------------------------------------------------------


def test_labels_lie_on_the_grid_of_the_file_and_volumes_are_in_ml() -> None:
    model = CondistFL(NETWORK).eval()
    found = model.predict(CASE)
    image = media.read(CASE)
    assert found.mask.shape == image.array.shape
    assert found.labels == ("background", *NETWORK.classes)
    assert image.spacing is not None
    voxel = float(np.prod(image.spacing)) / 1000
    assert found.sizes()["liver"] == pytest.approx(float((found.mask == 1).sum()) * voxel, rel=1e-4)
    organs = model.predict(CASE, merge_tumors=True)
    assert organs.labels == ("background", "liver", "spleen")
    assert np.array_equal(organs.mask, np.array([0, 1, 1, 2])[found.mask])


def test_other_modalities_are_refused_and_other_units_noted() -> None:
    model = CondistFL(NETWORK).eval()
    image = media.read(CASE)
    with pytest.raises(MediaError, match="takes CT"):
        model.predict(replace(image, meta={**image.meta, "modality": "MR"}))
    shifted = replace(image, array=image.array.astype(np.float32) + 900)
    assert any("no Hounsfield units" in note for note in model.predict(shifted).notes)


def test_dice_is_of_the_classes_that_somebody_looked_for_and_that_are_there() -> None:
    (case,) = load_dataset(CASE + "&n=1")
    truth, names = read_mask(case), case.attributes["labels"]
    model = CondistFL(NETWORK).eval()
    (row,) = score(model, case, {})
    assert set(row) <= {"dice", "liver dice", "liver tumour dice", "spleen dice"}
    spleen = 1 + names.index("spleen")
    alone: Case = replace(case, attributes={**case.attributes, "labelled": [spleen]})
    (only,) = score(model, alone, {})
    assert set(only) == {"dice", "spleen dice"}
    found = model.predict(case.image).mask == 3
    there = truth == spleen
    assert only["dice"] == pytest.approx(2 * (found & there).sum() / (found.sum() + there.sum()))


def test_surfaces_show_each_label_and_nothing_of_an_empty_mask() -> None:
    mask = np.zeros((20, 24, 24), np.int64)
    assert surfaces(mask, (2.0, 1.0, 1.0)) is None
    mask[5:14, 4:16, 4:16], mask[8:11, 9:12, 9:12] = 1, 2  # the tumour lies inside
    whole, seen = (surfaces(mask, (2.0, 1.0, 1.0), through, side=120) for through in ((), (2,)))
    assert whole is not None
    assert seen is not None
    assert whole.size == seen.size == (120, 120)
    changed = (np.asarray(whole) != np.asarray(seen)).any(-1)
    assert 0 < changed.sum() < 0.2 * changed.size
