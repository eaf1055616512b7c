"""The federation in one process and over messages, on every engine, and what is predicted over a lossy link."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.base import PluginTests
from tests.models.engines import assert_alike_on_every_engine
from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData
from zoo.data.splits import divide as split_data
from zoo.errors import DataError, OptionError
from zoo.federated import Aggregation, State, Update, federate
from zoo.metrics.pixels import counts
from zoo.models.splitfed_embryo.data import Measured, Schedule, Setting, SplitFedRecipe, divide, held_out, load
from zoo.models.splitfed_embryo.network import SplitFedConfig
from zoo.models.splitfed_embryo.sides import SplitServer
from zoo.models.splitfed_embryo.training import build, train, training, whole
from zoo.training import Run

TINY = SplitFedRecipe(
    network=SplitFedConfig(widths=(4, 6), bottleneck=8, image_size=32), clients=2, shares=(3.0, 2.0), lossy_clients=1,
    rounds=1, local_epochs=2, batch_size=4, lr=3e-3,
)  # fmt: skip
DATA = "phantom:embryo?n=14&size=32"


@pytest.fixture(scope="module")
def data() -> TrainData:
    parts = split_data(load_dataset(DATA), training.split, TINY)
    return TrainData(parts.train.in_memory(), parts.validation, parts.test.in_memory())


def fit(recipe: SplitFedRecipe, data: TrainData) -> dict[str, torch.Tensor]:
    with Run(None, seed=3, device="cpu", progress=False) as run:
        return train(recipe, data, run).state_dict()


class TestSplitFedEmbryo(PluginTests):
    name = "splitfed-embryo"
    recipe = replace(TINY, rounds=6, local_epochs=1)
    data = DATA
    facts: ClassVar = {
        "MJI in %, 40 other phantoms, nothing lost": "MJI",
        "Jaccard in %, inner cell mass, 40 other phantoms": "jaccard_ICM",
    }
    facts_on = ("phantom:embryo?n=40&seed=20000&size=64", "all")

    def test_a_training_leaves_scores_of_both_passes_and_pictures(self, trained: Any) -> None:
        found = json.loads((trained.folder / "scores.json").read_text())
        assert set(found) == {"lossless", "packet_loss=0.5", "MJI over packet loss of the test pass"}
        assert {"MJI", "MJI_pooled", "jaccard_ICM", "pooled_jaccard_ZP"} <= set(found["lossless"])
        curves = found["MJI over packet loss of the test pass"]
        assert curves["deep"][0] == curves["shallow"][0]  # nothing lost: one network
        for name in ("loss", "packet_loss"):
            assert min(Image.open(trained.folder / f"{name}.png").size) > 200


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("split", ["deep", "shallow"])
def test_over_messages_and_in_one_process_the_same_bits_come_out(split: Any, data: TrainData) -> None:
    recipe = replace(TINY, network=replace(TINY.network, split=split), aggregation="ncl-v4")
    assert same(fit(recipe, data), fit(replace(recipe, wire="messages"), data))


def test_without_loss_both_cuts_train_the_same_bits_and_with_it_not(data: TrainData) -> None:
    shallow = replace(TINY.network, split="shallow")
    for rate in (0.0, 0.5):
        one = replace(TINY, packet_loss=rate)
        assert same(fit(one, data), fit(replace(one, network=shallow), data)) == (rate == 0)


@pytest.mark.slow
@pytest.mark.parametrize("wire", ["joined", "messages"])
def test_three_engines_give_the_same_weights(wire: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(TINY, wire=wire, local_epochs=1)
    parts = split_data(load_dataset(DATA), training.split, recipe)
    about = (recipe, parts, "splitfed-embryo", DATA, training.split)
    assert_alike_on_every_engine(build, *about, tmp_path, monkeypatch, lambda found: whole(found.state))


def test_only_features_and_gradients_cross_the_link_between_the_rounds_ends(data: TrainData) -> None:
    with Run(None, seed=3, device="cpu", progress=False) as run:
        outcome = federate(build, replace(TINY, wire="messages", local_epochs=1, batch_size=8), data, run)
    names = [row["phase"] for row in outcome.ledger if row["client"] == 0]
    assert names == ["up-0", "down-0", "train"]
    assert not any(name.startswith("enc1") for name in outcome.state.network)  # the middle never leaves the server
    assert any(name.startswith("enc1") for name in outcome.state.own["server"])
    up, down, last = (row for row in outcome.ledger if row["client"] == 0)
    cases = outcome.clients[0]["num-examples"]
    features = 4 * min(cases, 8) * 4 * 16 * 16
    assert features < up["up"] < features + 1000  # 4 maps of 16 x 16
    assert up["down"] > down["down"] - 4 * min(cases, 8) * 6 * 16 * 16  # weights once, then features
    assert last["down"] < features + 1000


def test_a_client_that_sends_another_shape_is_out_for_the_round() -> None:
    recipe = replace(TINY, wire="messages", batch_size=2)
    setting = Setting(recipe, 0)
    names = [name for name, _ in setting.initial().named_parameters()]
    server = SplitServer(setting, Aggregation("fedavg", names))

    def sent(client: int, shape: tuple[int, ...]) -> Update:
        update = Update({"features": {"z": torch.zeros(shape)}}, num_examples=2)
        update.client = client
        return update

    state = State({"network": {}}, round=1, exchange="up-0")
    after = server([sent(0, (2, 4, 16, 16)), sent(1, (2, 4, 16, 99)), sent(2, (9, 4, 16, 16))], state)
    assert set(after.addressed) == {0}
    with pytest.raises(DataError, match="0 clients came to the end"):
        server([], replace(after, exchange="train"))


@pytest.mark.parametrize("rule", ["naive", "auto", "ncl-v2"])
def test_every_rule_trains_and_gives_weights_of_its_own(rule: Any, data: TrainData) -> None:
    one = replace(TINY, local_epochs=1)
    assert not same(fit(replace(one, aggregation=rule, mix_steps=2), data), fit(one, data))


def test_the_released_reading_trains_with_its_leak(data: TrainData) -> None:
    recipe = training.configure("check", {"recipe": "released"})
    assert (recipe.link, recipe.flips, recipe.keep_epoch, recipe.dice) == ("fixed", False, "best", "released")
    assert not recipe.lossy_test
    few = replace(recipe, rounds=1)
    assert not same(fit(few, data), fit(replace(few, leak=True, packet_loss=0.5), data))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"wire": "messages", "aggregation": "auto"}, "aggregation=auto mixes whole networks"),
        ({"wire": "messages", "leak": True}, "leak=true adds gradients that never crossed"),
        ({"wire": "messages", "keep_epoch": "best"}, "keep_epoch=best validates after each local epoch"),
        ({"leak": True, "link": "dropout"}, "link=dropout loses no gradients"),
        ({"keep_epoch": "best", "validation": 0.0}, "needs validation cases"),
        ({"clients": 3}, "shares has 2 numbers for 3 clients"),
        ({"partition": "column:hospital"}, "states no hospital"),
        ({"clients": 8, "shares": (1.0,) * 8}, "too few for 8 clients"),
    ],
)
def test_bad_input_is_one_sentence(changes: dict, sentence: str, data: TrainData) -> None:
    with pytest.raises((OptionError, DataError), match=sentence) as refused:
        fit(replace(TINY, **changes), data)
    assert "\n" not in str(refused.value)


def test_clients_get_their_shares_and_hold_out_their_own(data: TrainData) -> None:
    cases = load_dataset("phantom:embryo?n=100&size=32")
    parts = divide("shares", cases, (240, 120, 85, 179, 87), 5, 0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    assert [len(part) for part in parts] == pytest.approx([33.8, 16.9, 12, 25.2, 12.2], abs=1)
    kept, out = held_out(cases, parts[0], 0.15, 0)
    assert len(out) == 5
    assert not set(kept) & set(out)


def test_a_batch_is_the_same_whenever_it_is_asked_for_and_masks_turn_with_their_images(data: TrainData) -> None:
    shard = load(data.train, TINY.network)
    schedule = Schedule(len(shard), 4, 2, 0, 1, 1)
    x, y = schedule.batch(shard, 4)
    again = schedule.batch(shard, 4)
    assert torch.equal(x, again[0])
    assert torch.equal(y, again[1])
    assert not torch.equal(x, Schedule(len(shard), 4, 2, 0, 1, 2).batch(shard, 4)[0])
    shell = shard.views[:, 0].float()[shard.y == 1].mean() / 255
    assert float(x[:, 0][y == 1].mean()) == pytest.approx(float(shell), abs=0.08)
    plain = Schedule(len(shard), 4, 1, 0, 0, 1, shuffled=False, flips=False).batch(shard, 0)
    assert torch.equal(plain[1], shard.y[:4].long())


def test_mji_is_over_images_first_and_a_class_that_is_nowhere_does_not_count() -> None:
    truth = np.array([[0, 1, 1, 2], [0, 3, 3, 4]], np.uint8)
    found = np.array([[0, 1, 0, 2], [0, 3, 3, 3]], np.uint8)
    measured = Measured(np.stack([counts(f[None], t[None], 5) for f, t in zip(found, truth, strict=True)]))
    assert measured.per_class == pytest.approx([1 / 2, 1, 2 / 3, 0])
    assert measured.mji == pytest.approx((1 / 2 + 1 + 2 / 3 + 0) / 4)
    assert measured.pooled == pytest.approx([1 / 2, 1, 2 / 3, 0])


def test_a_lossy_link_is_shown_and_a_reference_measured(demo: Any, tmp_path: Path) -> None:
    case = load_dataset("phantom:embryo?n=1&seed=600&size=80")[0]
    model = demo("splitfed-embryo")
    clean = model.predict(case.image, reference=case.masks["mask"])
    assert clean.measurements["MJI"] > 0.5
    assert clean.crossing is None
    lossy = model.predict(case.image, packet_loss=0.5, link_tensors=True)
    assert [len(lossy.panels()), len(lossy.link_panels())] == [3, 4]
    assert lossy.to_dict()["rows_lost"] == pytest.approx(0.5, abs=0.1)
    assert np.array_equal(lossy.clean, clean.mask)
    assert not np.array_equal(lossy.mask, model.predict(case.image, packet_loss=0.5, seed=1).mask)
    lossy.save(tmp_path, "one")
    with np.load(tmp_path / "one_link.npz") as stored:
        up, there = stored["up_sent"], stored["up_arrived"]
    gone = (there == 0).all(2)
    assert np.array_equal(there[~gone], up[~gone])
    shallow = model.predict(case.image, split="shallow")
    assert np.array_equal(shallow.mask, clean.mask)
    assert shallow.to_dict()["split"] == "shallow"
    with pytest.raises(OptionError, match="give one of its size"):
        model.predict(case.image, reference=np.zeros((4, 4), np.uint8))
