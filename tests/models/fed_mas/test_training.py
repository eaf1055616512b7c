"""The federation from data to weights, and what it refuses."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

import zoo
from tests.models.base import PluginTests
from zoo.data.sets import Dataset
from zoo.data.splits import TrainData
from zoo.errors import DataError, OptionError, WeightsError
from zoo.models.fed_mas.claim import contour_prior, draw, pixel_prior, with_rare_attribute
from zoo.models.fed_mas.client import FedMASRecipe
from zoo.models.fed_mas.data import labels_of, scores
from zoo.models.fed_mas.model import FedMASConfig
from zoo.models.fed_mas.prior import PriorConfig
from zoo.models.fed_mas.training import RELEASED, train, training
from zoo.training import Run


def fit(recipe: FedMASRecipe, data: TrainData, out: Path | None = None, resume: bool = False) -> torch.nn.Module:
    with Run(out, seed=3, device="cpu", progress=False, resume=resume) as run:
        return train(recipe, data, run)


class TestFedMAS(PluginTests):
    name = "fed-mas"
    facts: ClassVar = {
        "balanced accuracy, 160 other phantoms, all diagnoses equally often": "balanced_accuracy",
        "accuracy, 160 other phantoms": "accuracy",
        "AUROC (macro), 160 other phantoms": "auroc",
    }
    facts_on = ("phantom:skin-lesion?n=160&seed=20000&size=64", "all")

    @pytest.fixture(scope="class")
    @classmethod
    def tiny(cls, tiny: FedMASRecipe) -> FedMASRecipe:
        return tiny

    @pytest.fixture(scope="class")
    @classmethod
    def parts(cls, data: TrainData) -> TrainData:
        return data

    def test_training_leaves_scores_and_pictures(self, trained: Any) -> None:
        found = json.loads((trained.folder / "scores.json").read_text())["global"]
        assert {"balanced_accuracy", "head", "tail", "all", "attribute_average"} <= set(found)
        assert all(0 <= value <= 1 for value in found.values())
        for name in ("rescue_factors", "weights", "distances", "split"):
            assert min(PILImage.open(trained.folder / f"{name}.png").size) > 200
        assert not (trained.folder / "prior").exists()  # it's in the weights

    def test_only_the_model_and_numbers_leave_a_client(self, trained: Any) -> None:
        header = (trained.folder / "metrics" / "federated-clients.csv").read_text().splitlines()[0].split(",")
        assert "rescue-factor" in header
        assert "w-0" in header  # asked for by report_distances

    def test_weights_are_shares_of_the_rescue_factors(self, trained: Any) -> None:
        with open(trained.folder / "metrics" / "federated-clients.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["round"] == "1"]
        rescue = np.array([float(row["rescue-factor"]) for row in rows])
        np.testing.assert_allclose([float(row["weight"]) for row in rows], rescue / rescue.sum(), rtol=1e-6)  # Eq. 5


@pytest.mark.parametrize("method", ["fedavg", "moon", "ldam", "creff", "fedlc"])
def test_baselines_train_without_a_prior(method: str, tiny: FedMASRecipe, data: TrainData) -> None:
    model = fit(replace(tiny, method=method, rounds=2), data)  # type: ignore[arg-type]
    assert model.config.prior.kind == "none"  # type: ignore[union-attr]
    assert not any(name.startswith(("prior", "network.projector")) for name in model.state_dict())


def test_the_released_reading_trains_and_keeps_a_round(data: TrainData, tiny: FedMASRecipe, tmp_path: Path) -> None:
    recipe = training.configure("demo", {"recipe": "released"})
    assert (recipe.rf_norm, recipe.keep_optimizer, recipe.clip, recipe.keep) == ("shares", True, 5.0, "best")
    assert recipe.network.encoder == "small"  # what a preset says comes after its reading
    assert (recipe.live_prior, recipe.views, recipe.drop_last) == (True, "blurred", True)
    config = replace(tiny.network, **RELEASED["network"])
    released = {name: value for name, value in RELEASED.items() if name not in ("network", "batch_size")}
    with Run(tmp_path / "out", seed=0, device="cpu", progress=False) as run:
        model = training.run(replace(tiny, network=config, recipe="released", **released), data, run)
    assert isinstance(model.network.projector[1], torch.nn.BatchNorm1d)
    assert model.network.second is not None
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["round"] in (1, 2, 3)
    assert abs(sum(model.predict("phantom:skin-lesion?seed=3&size=40").probabilities.values()) - 1) < 1e-5


def test_classifier_retraining_keeps_the_federated_encoder(tiny: FedMASRecipe, data: TrainData) -> None:
    plain = fit(replace(tiny, method="bsm", rounds=1), data).state_dict()
    tuned = fit(replace(tiny, method="bsm", rounds=1, crt_rounds=1), data).state_dict()
    weights = [name for name in plain if name.startswith("network.encoder") and name.endswith("weight")]
    assert all(torch.allclose(plain[name], tuned[name], atol=1e-6) for name in weights)
    assert not torch.equal(plain["network.classifier.weight"], tuned["network.classifier.weight"])


def test_hospitals_also_score_their_own_models(tiny: FedMASRecipe, data: TrainData, tmp_path: Path) -> None:
    fit(replace(tiny, method="fedavg", partition="column:site", rounds=1), data, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["local"]["clients"] == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"partition": "hospital"}, "partition must be iid, dirichlet, column:NAME or file:PATH, not 'hospital'"),
        ({"aggregation": "mas", "method": "bsm"}, "aggregation=mas needs distillation"),
        ({"lambda_f": 0.0}, "lambda_f=0 leaves the projector untrained"),
        ({"network": FedMASConfig(prior=PriorConfig("none"))}, "distils a prior; set network.prior.kind"),
        ({"method": "creff", "loss": "ldam"}, "creff re-trains a linear classifier"),
        ({"clients": 1}, "at least two clients"),
        ({"clients": 500}, "too few for 500 clients"),
        ({"partition": "column:hospital"}, "states no hospital"),
        ({"attribute": "file:nowhere.csv"}, "there is no file nowhere.csv that states the attribute"),
    ],
)
def test_bad_input_is_one_sentence(changes: dict, sentence: str, tiny: FedMASRecipe, data: TrainData) -> None:
    with pytest.raises((OptionError, DataError), match=sentence) as refused:
        fit(replace(tiny, **{"method": "fed-mas", "prior_steps": 1, **changes}), data)
    assert "\n" not in str(refused.value)


def test_a_federation_that_can_not_be_is_refused_before_the_prior_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="at least two clients"):
        zoo.train(
            "fed-mas", "phantom:skin-lesion?n=12&size=32", out=tmp_path / "run", preset="demo",
            overrides={"clients": "1"}, device="cpu",
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_public_prior_needs_its_weights(tiny: FedMASRecipe, data: TrainData) -> None:
    recipe = replace(tiny, network=replace(tiny.network, prior=PriorConfig("moco")))
    with pytest.raises(WeightsError, match=r"^the prior moco needs its weights"):
        fit(recipe, data)


def test_a_case_without_label_is_named(data: TrainData) -> None:
    case = replace(data.train[0], label=None)
    entries = [replace(data.train.entries[0], case=case)]
    with pytest.raises(DataError, match=f"case {case.id} has no label"):
        labels_of(Dataset("x", entries), training.recipe().network.labels)
    with pytest.raises(DataError, match="which is none of A, B"):
        labels_of(data.train, ("A", "B"))


def test_presets_state_the_papers_clients() -> None:
    assert training.configure("paper").clients == 8
    assert len(training.configure("paper").network.labels) == 23
    assert training.configure("isic").clients == 4
    assert training.configure("isic").optimizer == "adam"


def test_all_is_the_mean_of_the_groups_and_balanced_accuracy_that_of_the_classes() -> None:
    y = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    config = FedMASConfig(("A", "B", "C", "D"), class_counts=(100, 20, 20, 2), head_above=50, tail_below=10)
    found = scores(np.array([0, 0, 1, 0, 2, 0, 0, 0]), y, config, attribute="aabbaabb")
    assert (found["head"], found["medium"], found["tail"]) == (1.0, 0.5, 0.0)
    assert found["all"] == pytest.approx(0.5)
    assert found["balanced_accuracy"] == pytest.approx(0.5)
    assert found["attribute_average"] == pytest.approx((0.75 + 0.25) / 2)


def test_the_claims_priors_differ_in_what_the_rare_attribute_does() -> None:
    digits = draw(0)
    x = digits.test_x[:50]

    def likeness(prior) -> float:  # type: ignore[no-untyped-def]
        a, b = (torch.from_numpy(prior(images)) for images in (x, with_rare_attribute(x)))
        return float(torch.cosine_similarity(a, b).mean())

    assert likeness(contour_prior(digits.public)) > 0.99
    assert likeness(pixel_prior(digits.public)) < 0.5


def test_the_claims_draw_has_a_long_tail_and_rare_clients() -> None:
    digits = draw(1)
    counts = np.sort(np.bincount(digits.y, minlength=10))
    assert counts[-1] == 90
    assert counts[0] <= 5
    assert len(digits.test_y) == 400
    assert len(digits.public) == 400
    assert 1 <= len(digits.rare) <= 3
    assert sum(len(part) for part in digits.partitions) >= len(digits.y) - 8
