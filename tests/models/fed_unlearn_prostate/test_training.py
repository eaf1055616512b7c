"""The centres, the loss, schemes side by side, and zoo unlearn on this and on other federated plugins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.models.base import PluginTests, Trained
from zoo import media
from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData, divide
from zoo.errors import DataError, DataWarning, OptionError
from zoo.federated import Settings
from zoo.models.fed_unlearn_prostate.claim import RECIPE, centres
from zoo.models.fed_unlearn_prostate.model import FedUnlearnProstate, ProstateConfig, UNet, entering
from zoo.models.fed_unlearn_prostate.training import (
    ProstateRecipe,
    answers_apart,
    build,
    dice_loss,
    load_site,
    score,
    site_dice,
    train,
    training,
)
from zoo.training import Run
from zoo.training.recipe import train as train_by_name
from zoo.unlearning import Forgotten, compared, policy, rounds_to, unlearn

DATA = "phantom:prostate-mr?n=24&size=32&slices=8"
FEW = "phantom:prostate-mr?n=12&size=32&slices=8"
TINY = ProstateRecipe(
    network=ProstateConfig(channels=(4, 6), units=1, dropout=0.1, size=(16, 16, 8)), lr=5e-3, rounds=3, local_steps=1,
    batch_size=2, leaver="b", schemes=("scratch", "ukd", "ifu"), learned=0.0, measure_every=2, control=0.1,
    forgetting=Settings(distil=2),
)  # fmt: skip


class TestFedUnlearnProstate(PluginTests):
    name = "fed-unlearn-prostate"
    recipe = TINY
    data = DATA
    evaluated_on = "phantom:prostate-mr?n=2&size=32&slices=8&seed=77000"

    def test_the_weights_of_all_schemes_lie_side_by_side(self, trained: Trained, tmp_path: Path) -> None:
        model = trained.model
        assert model.config.sets == ("full", "scratch", "ukd", "ifu")
        case = load_dataset("phantom:prostate-mr?n=1&size=40&slices=10&seed=5")[0]
        found = model.predict(case.image, compare="all", reference=media.Image(case.masks["gland"], ndim_spatial=3))
        assert found.scheme == "ifu"
        assert set(found.masks) == {"full", "scratch", "ukd"}
        assert found.mask.shape == found.probability.shape == case.image.array.shape
        assert {f"dice {name}" for name in model.config.sets} <= found.measurements.keys()
        assert [panel.title for panel in found.panels()][1].endswith("at 1/2 of the gland")
        written = found.save(tmp_path, "r")
        record = json.loads(next(path for path in written if path.suffix == ".json").read_text())
        assert record["scheme"] == "ifu"
        assert record["compared_ml"].keys() == {"full", "scratch", "ukd"}
        alone = model.predict(case.image, scheme="full")
        assert np.array_equal(alone.mask, found.masks["full"])
        with pytest.raises(OptionError, match="no set 'pga'; they have full, scratch, ukd and ifu"):
            model.predict(case.image, scheme="pga")
        with pytest.raises(OptionError, match="give its own mask"):
            model.predict(case.image, reference=media.Image(np.ones((3, 4, 5), np.uint8), ndim_spatial=3))


def test_the_released_network_has_its_parameters_and_no_buffers() -> None:
    network = UNet(ProstateConfig())
    assert sum(p.numel() for p in network.parameters()) == 7_163_974
    assert not list(network.buffers())
    p = UNet(TINY.network).eval()(torch.randn(1, 1, 16, 16, 8))
    torch.testing.assert_close(p.sum(1), torch.ones(1, 16, 16, 8))


def test_the_loss_is_one_minus_dice_and_monais() -> None:
    monai = pytest.importorskip("monai.losses")
    p = torch.zeros(1, 2, 2, 2, 1)
    p[0, 1] = torch.tensor([[1.0, 0.5], [0.0, 0.0]])[..., None]
    y = torch.tensor([[1.0, 1.0], [1.0, 0.0]])[None, None, ..., None]
    assert float(dice_loss(p, y)) == pytest.approx(1 - 3 / 4.5, abs=1e-5)
    rand = torch.rand(3, 2, 4, 4, 4).softmax(1)
    truth = (torch.rand(3, 1, 4, 4, 4) > 0.6).float()
    theirs = monai.DiceLoss(include_background=False, to_onehot_y=True)(rand, truth)
    torch.testing.assert_close(dice_loss(rand, truth), theirs, rtol=1e-5, atol=1e-6)


def test_a_volume_is_cropped_about_its_centre_and_its_padding_counts_in_the_normalisation() -> None:
    array = np.arange(1, 2 * 4 * 6 + 1, dtype=np.float32).reshape(2, 4, 6)
    image = media.Image(array, spacing=(3.0, 1.0, 1.0), ndim_spatial=3)
    x, grid, native = entering(image, replace(TINY.network, size=(4, 4, 4)))
    assert x.shape == (4, 4, 4)
    assert x.mean() == pytest.approx(0, abs=1e-6)
    assert x.std() == pytest.approx(1, abs=1e-5)
    assert len(set(x[:, :, 0].ravel().tolist())) == 1  # a slice of padding
    assert grid.spacing == native.spacing
    resized = entering(image, replace(TINY.network, size=(4, 4, 4), fit="resize"))[1]
    assert resized.spacing == pytest.approx((1.5, 1.0, 1.5))


def test_every_centre_counts_the_same_and_is_measured_by_name() -> None:
    data = centres(1, 3, {"C1": 4, "C2": 3, "C3": 5, "C4": 6})
    federation = build(replace(RECIPE, rounds=1), data, 0)
    assert federation.names == ["C1", "C2", "C3", "C4"]
    assert federation.weights == "uniform"
    assert [len(places) for places in federation.held_out] == [3, 3, 3, 3]
    assert [len(places) for places in federation.aside] == [1, 1, 1, 1]
    site = load_site(data.train.subset([0, 1]), RECIPE.network)
    assert site.x.shape == site.y.shape == (2, 1, 32, 32, 1)
    assert float(site.y.mean()) == pytest.approx(np.mean([data.train[i].masks["gland"].mean() for i in (0, 1)]))
    assert 0 <= site_dice(UNet(RECIPE.network), site) <= 1


def test_centres_without_a_test_case_are_named_and_trained_all_the_same() -> None:
    data = centres(1, 2, dict.fromkeys(("C1", "C2", "C3", "C4"), 3))
    some = TrainData(data.train, data.validation, data.test.subset([0, 1]))
    with (
        Run(None, seed=0, device="cpu", progress=False) as run,
        pytest.warns(DataWarning, match="no test case of C2, C3 and C4"),
    ):
        model = train(replace(RECIPE, rounds=1), some, run)
    assert model.config.sets == ("full",)


def test_the_server_distils_on_cases_that_nobody_trains_on_and_that_the_leaver_did_not_bring() -> None:
    data = centres(1, 2, {"C1": 5, "C2": 4, "C3": 20, "C4": 3})
    federation = build(replace(RECIPE, control=0.2), data, 0)
    assert [len(places) for places in federation.aside] == [1, 1, 4, 1]
    everything = np.concatenate([*federation.partitions, *federation.aside])
    assert sorted(everything) == list(range(len(data.train)))
    seen: list[torch.Tensor] = []

    class Watched(UNet):
        def forward(self, x: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
            seen.append(x)
            return super().forward(x, temperature)

    student, teacher = UNet(RECIPE.network), Watched(RECIPE.network)
    federation.distil(student, teacher, np.random.default_rng(0), (1,), 3.0)
    theirs = load_site(data.train.subset(federation.aside[1]), RECIPE.network).x
    assert len(seen[0]) == 6
    assert not any(torch.equal(one, theirs[0]) for one in seen[0])
    assert build(replace(RECIPE, control=0.0), data, 0).distil is None


def test_distillation_is_the_binary_cross_entropy_of_flattened_probabilities() -> None:
    networks = [UNet(RECIPE.network).eval() for _ in range(2)]
    x = torch.randn(2, 1, 32, 32, 1)
    margins = [(z := one.unet(x[..., 0]))[:, 1] - z[:, 0] for one in networks]
    expected = F.binary_cross_entropy_with_logits(margins[0] / 3, (margins[1] / 3).sigmoid())
    torch.testing.assert_close(answers_apart(*networks, x, 3.0), expected)


def test_nothing_is_compared_before_all_centres_are_learned() -> None:
    data = centres(1, 2, dict.fromkeys(("C1", "C2", "C3", "C4"), 4))
    recipe = replace(RECIPE, rounds=1, schemes=("scratch",), learned=0.99)
    with (
        Run(None, seed=0, device="cpu", progress=False) as run,
        pytest.raises(DataError, match="nothing to forget yet"),
    ):
        train(recipe, data, run)


def test_readings_differ_in_optimiser_and_in_how_a_volume_enters() -> None:
    released, paper = training.configure("paper"), training.configure("paper", {"recipe": "paper"})
    assert (released.optimizer, released.network.fit, released.rounds) == ("adamw", "crop", 500)
    assert (paper.optimizer, paper.network.fit) == ("sgd", "resize")


def test_rounds_are_counted_by_one_rule_for_all_and_for_scratch_too() -> None:
    curve = tuple((2 * i + 1, u, 0.0) for i, u in enumerate((0.1, 0.5, 0.9, 0.9, 0.9, 0.9, 0.9)))
    assert rounds_to(curve, 0.9, window=1) == 5
    assert rounds_to(curve, 0.82, window=5) == 11
    assert rounds_to(curve, 0.95) is None
    scratch, ifu = Forgotten("scratch", 0.9, 0.5, curve=curve), Forgotten("ifu", 0.9, 0.5, curve=curve[3:])
    assert [one.reached for one in compared([scratch, ifu])] == [13, 7]


def test_zoo_unlearn_leaves_weights_a_report_and_a_run_that_others_may_leave(tmp_path: Path) -> None:
    folder = train_by_name(
        "fed-unlearn-prostate", FEW, out=tmp_path / "run", preset="demo", seed=0, device="cpu", history=policy("all"),
        overrides={"network.channels": "4,6", "network.size": "16,16,8", "rounds": "2", "local_steps": "1",
                   "schemes": "", "learned": "0", "measure_every": "1", "batch_size": "2"},
    )  # fmt: skip
    methods = ["scratch", "pga", "ifu"]
    report = unlearn(folder, ["b"], methods, settings={"rounds": "2", "ascent": "2"}, device="cpu", noise_seed=1)
    assert [one.method for one in report.results] == ["full", *methods]
    assert all(len(one.curve) == 2 for one in report.results[1:])
    assert {path.name for path in report.folder.iterdir()} == {*methods, "unlearning.json", "unlearning.png"}
    assert report.notes[0] == "utility and residual are: dice"
    assert "--least" in report.notes[1]
    split = (report.folder / "ifu" / "split.json").read_text()
    parts = divide(load_dataset(FEW), training.split, None, 0)
    theirs = [case.id for case in parts.train if case.attributes["centre"] == "b"]
    assert theirs
    assert not any(f'"{name}"' in split for name in theirs)
    again = unlearn(report.folder / "ifu", ["c"], ["sifu"], settings={"rounds": "1"}, device="cpu", noise_seed=1)
    assert again.clients == ("c",)
    with pytest.raises(OptionError, match=r"isn't in .* any more"):
        unlearn(report.folder / "ifu", ["b"], ["sifu"], device="cpu")
    with pytest.raises(OptionError, match="there are a, b, c, d"):
        unlearn(folder, ["e"], device="cpu")
    with pytest.raises(DataError, match="before forgetting means anything"):
        unlearn(folder, ["b"], device="cpu", least=0.99, out=tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_run_without_history_is_told_how_to_train(tmp_path: Path) -> None:
    identity = {"model": "fed-unlearn-prostate", "data": DATA, "seed": 0, "recipe": {}, "cases": ""}
    (tmp_path / "run.json").write_text(json.dumps({"identity": identity, "finished": True}))
    with pytest.raises(OptionError, match=r"zoo train fed-unlearn-prostate --data .* --history ifu"):
        unlearn(tmp_path, ["b"])
    with pytest.raises(OptionError, match="no run of zoo train"):
        unlearn(tmp_path / "nowhere", ["b"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "measure", "overrides"),
    [
        ("disbelieve", "skin-lesion?n=80", "called right", {"samples": "none", "attack": "none", "attackers": "0"}),
        ("fed-mas", "skin-lesion?n=80", "called right", {
            "rounds": "2", "prior_steps": "2", "prior_data": "phantom:skin-lesion?n=8&seed=500000&size=64"}),
        ("splitfed-embryo", "embryo?n=40", "MJI", {"clients": "3", "shares": "1,1,1"}),
    ],
)  # fmt: skip
def test_zoo_unlearn_is_for_any_federated_plugin(
    model: str, data: str, measure: str, overrides: dict[str, str], tmp_path: Path
) -> None:
    preset = "demo" if model == "fed-mas" else "check"
    folder = train_by_name(
        model, f"phantom:{data}&size=32", out=tmp_path / "run", preset=preset, overrides=overrides, seed=0,
        device="cpu", history=policy("all"),
    )  # fmt: skip
    report = unlearn(folder, [1], ["scratch", "federaser", "ifu"], device="cpu", settings={"rounds": "2"})
    assert [one.method for one in report.results] == ["full", "scratch", "federaser", "ifu"]
    assert report.notes[0].endswith(measure)
    with pytest.raises(OptionError, match="states no objective"):
        unlearn(folder, [1], ["pga"], device="cpu")


def test_a_case_is_scored_on_its_own_grid() -> None:
    model = FedUnlearnProstate(TINY.network).eval()
    case = load_dataset("phantom:prostate-mr?n=1&size=40&slices=10&seed=5")[0]
    assert 0 <= score(model, case, {})["dice"] <= 1
