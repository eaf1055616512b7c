"""SAMAug as a plugin: what all plugins have in common, and what its trained model does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.models.base import PluginTests, Trained
from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData
from zoo.models.samaug.model import Samaug
from zoo.models.samaug.training import POLYP, RELEASED_POLYP, SamaugRecipe, score, train
from zoo.nn.promptable import Grid
from zoo.training.run import Run

SMALL = {"features": (4, 4, 8, 8, 8, 4), "sam": "demo", "grid": Grid(points=3, quality=0.2, stability=0.2), "size": 32}
TINY = SamaugRecipe(**SMALL, inputs="both", batch_size=2, steps=6, lr=1e-2)
DATA = TrainData(*(load_dataset(f"phantom:he-tile?n={n}&size=48&seed={s}") for n, s in ((3, 0), (1, 10), (1, 20))))


def fit(recipe: SamaugRecipe) -> Samaug:
    with Run(seed=0, device="cpu", progress=False) as one:
        return train(recipe, DATA, one)


class TestSamaug(PluginTests):
    name = "samaug"
    recipe = TINY
    evaluated_on = "phantom:he-tile?n=2&seed=77000&size=128"
    facts = {"AJI in %, 6 other phantoms": "aji", "pixel F1 in %, 6 other phantoms": "pixel_f1"}
    facts_on = ("phantom:he-tile?n=6&seed=20000", "all")

    @pytest.fixture(scope="class")
    @classmethod
    def parts(cls) -> TrainData:
        return DATA

    def test_priors_lie_beside_the_run_one_for_each_training_image(self, trained: Trained) -> None:
        stored = [path.name for path in (trained.folder / "priors").glob("*.safetensors")]
        maps = [name for name in stored if not name.endswith("-masks.safetensors")]
        assert 3 <= len(maps) <= 4  # predictions of other tests may add theirs
        assert len(stored) == 2 * len(maps)

    def test_strategies_answer_from_what_they_say(self, trained: Trained) -> None:
        case = DATA.test[0]
        aug, mean = (trained.model.predict(case.image, strategy=s) for s in ("aug", "mean"))
        chosen = trained.model.predict(case.image)
        assert aug.chosen == "aug"
        assert mean.chosen == "mean"
        assert chosen.chosen == min(chosen.entropy, key=chosen.entropy.get)  # both inputs were trained on: Eq. 6
        assert not np.array_equal(aug.probability, mean.probability)
        assert {"raw", "aug"} == set(chosen.entropy)

    def test_saved_priors_give_the_same_prediction_without_sam(self, trained: Trained, tmp_path) -> None:
        case = DATA.test[0]
        first = trained.model.predict(case.image)
        first.save(tmp_path, "r")
        again = trained.model.predict(case.image, priors=str(tmp_path / "r_priors.safetensors"))
        np.testing.assert_allclose(again.probability, first.probability, atol=2e-3)  # stored in half precision
        assert again.sam_masks is None

    @pytest.mark.parametrize("network", ["p-net", "attention-u-net"])
    def test_the_other_networks_and_the_baseline_train_too(self, network) -> None:
        model = fit(replace(TINY, network=network, inputs="raw", steps=2))
        found = model.predict(DATA.test[0].image, strategy="mean")
        assert found.chosen == "raw"
        assert "strategy mean was not used" in found.notes[0]
        assert set(score(model, DATA.test[0], {})) == {"pixel_f1", "aji", "object_f1", "object_dice"}

    @pytest.mark.parametrize("how", [POLYP, RELEASED_POLYP])
    def test_polyps_are_trained_by_both_recipes(self, how) -> None:
        changes = SMALL | {"backbone": "pvt_v2_b0", "pretrained": False, "epochs": 0, "steps": 1, "batch_size": 2}
        model = fit(SamaugRecipe(**how | changes))
        found = model.predict(DATA.test[0].image)
        assert found.instances is None
        assert set(score(model, DATA.test[0], {})) == {"dice", "soft_dice"}
        assert model.config.fuse_first is (how is POLYP)

    def test_grey_images_and_small_ones_are_taken(self, trained: Trained) -> None:
        grey = DATA.test[0].image[:20, :30, 0]
        found = trained.model.predict(grey)
        assert found.mask.shape == (20, 30)
        np.testing.assert_array_equal(found.augmented[..., 0], grey)
