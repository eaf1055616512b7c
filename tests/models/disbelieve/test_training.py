"""Audits end to end: training, resuming, the second entry point, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from tests.models.base import PluginTests
from zoo.data.case import Case
from zoo.data.layouts.ham10000 import FAVOURITES
from zoo.data.sets import Dataset, Entry, load_dataset
from zoo.data.splits import TrainData, divide
from zoo.errors import DataError, OptionError
from zoo.federated import favoured
from zoo.models.disbelieve import claim as claims
from zoo.models.disbelieve.attacks import RELEASED
from zoo.models.disbelieve.data import divide as divide_among
from zoo.models.disbelieve.data import load_images, measure, measured
from zoo.models.disbelieve.model import DisbelieveConfig, build_network
from zoo.models.disbelieve.training import DisbelieveRecipe, build, controlled_clients, initial_network, training
from zoo.training import Run

TINY = DisbelieveRecipe(
    network=DisbelieveConfig(image_size=16), aggregator=("dos", "krum"), rounds=2, samples=12, local_epochs=1,
    batch_size=6, lr=0.1, clients=5, attackers=2,
)  # fmt: skip
OVERRIDES = {
    "rounds": "2", "samples": "12", "local_epochs": "1", "batch_size": "6", "lr": "0.1", "network.image_size": "16",
    "clients": "5", "attackers": "2",
}  # fmt: skip


class TestDisbelieve(PluginTests):
    name = "disbelieve"
    recipe = TINY
    data = "phantom:skin-lesion?n=40&size=32"
    facts: ClassVar = {
        "balanced accuracy, 160 other phantoms, all diagnoses equally often": "balanced_accuracy",
        "AUROC (macro), 160 other phantoms": "auroc",
    }
    facts_on = ("phantom:skin-lesion?n=160&seed=20000&size=64", "all")

    def test_training_leaves_a_clean_model_with_poisoned_copies_beside_it(self, trained: Any) -> None:
        curves = trained.model.config.curves
        assert [(c.aggregator, c.attack, c.stored) for c in curves] == [
            ("dos", "none", False), ("dos", "disbelieve", True), ("krum", "none", False), ("krum", "disbelieve", True),
        ]  # fmt: skip
        assert all(len(curve.auc) == 3 for curve in curves)  # before training, and after each round
        prediction = trained.model.predict("phantom:skin-lesion?seed=3&size=32")
        assert set(prediction.attacked) == {"disbelieve-dos-poisoned", "disbelieve-krum-poisoned"}

    def test_training_writes_the_audit(self, trained: Any) -> None:
        audits = json.loads((trained.folder / "audit.json").read_text())
        assert [(a["aggregator"], a["attack"]) for a in audits] == [
            ("dos", "none"), ("dos", "disbelieve"), ("krum", "none"), ("krum", "disbelieve"),
        ]  # fmt: skip
        dos, krum = audits[1], audits[3]
        assert len(dos["controlled"]) == 2
        for record in dos["rounds"]:
            assert sum(record["weights"]) == pytest.approx(1)
            assert record["distance"] <= record["threshold"] * (1 + 1e-6)
        assert all(record["picked"] in range(5) for record in krum["rounds"])
        assert Image.open(trained.folder / "audit.png").width > 1000

    @pytest.mark.slow
    def test_flowers_simulation_engine_gives_the_same_audit(self, trained: Any, tmp_path: Path) -> None:
        out = zoo.train("disbelieve", self.data, out=tmp_path / "out", preset="demo", device="cpu", engine="simulation",
                        overrides={**OVERRIDES, "aggregator": "krum", "attack": "none"})  # fmt: skip
        (here,), there = (json.loads((f / "audit.json").read_text()) for f in (out, trained.folder))
        same = next(audit for audit in there if (audit["aggregator"], audit["attack"]) == ("krum", "none"))
        assert [record["picked"] for record in here["rounds"]] == [record["picked"] for record in same["rounds"]]
        np.testing.assert_allclose(here["auc"], same["auc"], atol=1e-6)


def fit(out: Path | None = None, **changes: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A tiny training with other fields: the model, and the audits that it leaves."""
    data = divide(load_dataset(TestDisbelieve.data), training.split, TINY)
    with Run(out, seed=0, device="cpu", progress=False) as run:
        model = training.run(replace(TINY, **changes), data, run)
    return model, json.loads((out / "audit.json").read_text()) if out else []


def test_the_released_reading_trains_at_the_papers_scale_and_small() -> None:
    recipe = training.configure("paper", {"recipe": "released"})
    assert (recipe.search, recipe.probe, recipe.landing, recipe.lie) == ("divisor", "batch", "beyond", "table")
    assert (recipe.trim, recipe.ascent_batch, recipe.ascent_lr, recipe.rounds) == (0.1, 100, 0.1, 120)
    released = {"recipe": "released", **RELEASED, "trim": 0.1}
    for share in ("params", "grads"):
        model, _ = fit(**released, share=share, server_lr=0.01, aggregator=("trimmed-mean",))
        assert [c.attack for c in model.config.curves] == ["none", "disbelieve"]
    network = build_network(training.configure("breakhis-released").network)
    assert [type(part).__name__ for part in list(network)[-7:]] == ["Dropout", "Linear", "ReLU"] * 2 + ["Linear"]


def test_hard_labels_give_a_model_of_one_answer_half() -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([1 + x[:, 0], torch.zeros(len(x))], 1)

    found = measure(Constant(), torch.tensor([[0.3], [0.2], [0.1], [0.4]]), torch.tensor([0, 0, 1, 0]))
    assert (found.auc, found.hard_auc, found.accuracy) == (1.0, 0.5, 0.75)


def test_without_an_attack_there_is_nothing_poisoned() -> None:
    model, _ = fit(attack="none", aggregator=("fedavg",))
    assert len(model.config.curves) == 1
    assert not model.poisoned


def test_gradients_can_be_shared(tmp_path: Path) -> None:
    _, audits = fit(tmp_path / "out", share="grads", aggregator=("krum",), server_lr=0.01)
    record = audits[1]["rounds"][0]
    assert record["threshold"] <= record["spread"][2]  # the smallest distance of two controlled clients


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"attackers": "3"}, OptionError, "3 attackers of 5 clients are a majority or half"),
        ({"attackers": "1"}, OptionError, "at least 2 attackers, not 1"),
        ({"clients": "1", "attackers": "0", "attack": "none"}, OptionError, "at least 2 clients, not 1"),
        ({"samples": "none", "clients": "60"}, DataError, "can't be divided among 60 clients"),
        ({"network.labels": "MEL,NV"}, DataError, "which is none of MEL, NV; name the labels"),
        ({"aggregator": "dos,dos"}, OptionError, "each once"),
    ],
)
def test_what_can_not_be_audited_is_refused_in_one_sentence(
    tmp_path: Path, fields: dict[str, str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        zoo.train("disbelieve", TestDisbelieve.data, out=tmp_path / "out", preset="demo", device="cpu",
                  overrides={**OVERRIDES, **fields})  # fmt: skip
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_simulate_audits_a_data_set_of_the_user() -> None:
    model = zoo.load("disbelieve", weights="none", device="cpu")
    model.config = DisbelieveConfig(image_size=16)
    audit = model.simulate(TestDisbelieve.data, 5, 2, attack="min-max", aggregator="krum", rounds=2, samples=10)
    assert audit.attack == "min-max"
    assert len(audit.auc) == 3
    assert audit.figure().width > 1000
    released = model.simulate(TestDisbelieve.data, 10, 3, attack="lie", rounds=1, samples=10, recipe="released")
    assert released.rounds[0].distance > 0  # by the table: the formula has no reading of its own
    with pytest.raises(OptionError, match="no z for 2 attackers of 5"):
        model.simulate(TestDisbelieve.data, 5, 2, attack="lie", rounds=1, samples=10, recipe="released")
    with pytest.raises(OptionError, match="majority or half"):
        model.simulate(TestDisbelieve.data, 4, 2)


def test_craft_keeps_to_the_bound_of_each_mode() -> None:
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 3)
    updates = torch.randn(3, 15)
    data = (torch.randn(20, 4), torch.randint(0, 3, (20,)))
    model = zoo.load("disbelieve", weights="none", device="cpu")
    squares = torch.pdist(updates).square()
    for mode, bound in (("params", squares.max()), ("grads", squares.min())):
        vector = model.craft(updates, network, data, mode)
        assert vector.shape == (15,)
        if mode == "params" or float(updates.mean(0).square().sum()) <= bound:
            assert float((vector - updates.mean(0)).square().sum()) <= bound * (1 + 1e-4)


# ---- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_dividing_gives_every_case_once(alpha: float | None) -> None:
    parts = divide_among(np.arange(80) % 3, 4, alpha, None, 0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(80))
    assert all(len(part) for part in parts)


def test_the_released_partition_gives_a_class_to_its_favourites() -> None:
    labels = [name for name, n in {"NV": 370, "MEL": 74, "DF": 37}.items() for _ in range(n)]
    parts = favoured(labels, 10, FAVOURITES, 0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    held = {name: [sum(labels[i] == name for i in part) for part in parts] for name in ("NV", "MEL", "DF")}
    assert held["NV"] == [100 if client in (3, 4, 5) else 10 for client in range(10)]
    assert held["MEL"] == [20 if client in (6, 8, 9) else 2 for client in range(10)]
    assert held["DF"] == [10 if client in (0, 4, 5) else 1 for client in range(10)]
    with pytest.raises(DataError, match="knows no label 'SCC'"):
        favoured([*labels, "SCC"], 10, FAVOURITES, 0)
    with pytest.raises(OptionError, match="for 10 clients, and there are 4"):
        favoured(labels, 4, FAVOURITES, 0)
    recipe = training.configure("ham10000-released")
    assert (recipe.partition, recipe.recipe, recipe.landing) == ("ham10000", "released", "beyond")
    grey = np.full((16, 16, 3), 9, np.uint8)
    cases = Dataset("grey", [Entry(str(i), Case(grey, str(i), label=name)) for i, name in enumerate(labels)])
    small = replace(TINY, partition="ham10000", clients=10, samples=None, attack="none")
    made = build(small, TrainData(cases, cases, cases), 0).partitions
    assert [len(part) for part in made] == [len(part) for part in parts]


def test_dos_by_sums_can_be_audited() -> None:
    model, _ = fit(attack="none", aggregator=("dos-sum",))
    assert [curve.aggregator for curve in model.config.curves] == ["dos-sum"]


def test_a_photograph_is_decoded_once_for_all_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_VIEWS", str(tmp_path / "views"))
    rng = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(rng.integers(0, 256, (400, 400, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    entries = [Entry(str(i), Case(str(tmp_path / f"{i}.png"), str(i), label="NV")) for i in range(2)]
    first = load_images(Dataset("first", entries, ["image", "label"]), DisbelieveConfig(image_size=16))
    monkeypatch.setattr("zoo.media.read", lambda *_: pytest.fail("decoded again"))
    again = load_images(Dataset("second", entries, ["image", "label"]), DisbelieveConfig(image_size=16))
    assert torch.equal(first.views, again.views)


def test_the_attackers_are_the_same_in_every_run_of_a_seed() -> None:
    recipe = DisbelieveRecipe()
    assert controlled_clients(recipe, 3) == controlled_clients(recipe, 3)
    assert len(set(controlled_clients(recipe, 3))) == 4
    assert len({controlled_clients(recipe, seed) for seed in range(10)}) > 5


def test_the_initial_network_depends_on_the_seed_alone() -> None:
    config = DisbelieveConfig(image_size=16)
    before = torch.random.get_rng_state()
    first, again = initial_network(config, 1), initial_network(config, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(initial_network(config, 2).parameters()))


def test_labels_are_read_as_names_numbers_or_several() -> None:
    def targets(*labels: str | int | None, **fields: bool) -> list:
        config = DisbelieveConfig(labels=("a", "b", "c"), architecture="mlp", image_size=4, **fields)
        pixels = np.zeros((4, 4, 3), np.uint8)
        entries = [Entry(f"x{i}", Case(pixels, f"x{i}", label=label)) for i, label in enumerate(labels)]
        return load_images(Dataset(f"test:{labels}", entries), config).y.tolist()

    assert targets("b", 2, "0") == [1, 2, 0]
    assert targets("a|c", "No Finding", multi_label=True) == [[1, 0, 1], [0, 0, 0]]
    for wrong in (None, "d", "a|d"):
        with pytest.raises(DataError, match=r"case x0 has the label .* none of a, b, c; name the labels"):
            targets(wrong, multi_label=True)
    with pytest.raises(DataError, match="case x0 has the label 'd', which is none of a, b, c; name the labels"):
        targets("d")


def test_mean_and_deviation_are_those_of_the_training_images() -> None:
    data = claims.divided_digits(0)
    images = load_images(data.train, claims.PARAMETERS.network)
    config = measured(replace(claims.PARAMETERS.network, mean=(), std=()), images)
    assert config.mean[0] == pytest.approx(float(images.views.float().mean() / 255), abs=1e-3)
    assert len(data.train) == 1400
    assert len(data.test) == 397
    assert not set(data.train.ids) & set(data.test.ids)


def test_the_attack_breaks_krum_in_a_short_run_on_digits() -> None:
    recipe, data = replace(claims.PARAMETERS, rounds=8), claims.divided_digits(50)
    scores = {}
    for attack in ("none", "disbelieve"):
        with Run(None, seed=50, device="cpu", progress=False) as run:
            scores[attack] = claims.federation_of(recipe, data, run, "krum", attack).score
    assert scores["disbelieve"] < scores["none"] - 0.1
