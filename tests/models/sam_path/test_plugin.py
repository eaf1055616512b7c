"""SAM-Path as a plugin: what all plugins have in common, and what its training keeps and measures."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.base import PluginTests, Trained
from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData
from zoo.models.sam_path.training import TISSUE, SamPathRecipe, score

DATA = TrainData(*(load_dataset(f"phantom:he-tile?n={n}&size=64&seed={s}") for n, s in ((3, 0), (1, 10), (1, 20))))


class TestSamPath(PluginTests):
    name = "sam-path"
    evaluated_on = "phantom:he-tile?n=2&seed=77000&size=128"
    facts = {"pixel accuracy in %, 12 other phantoms, pooled": "pooled_pixel_accuracy"}
    facts_on = ("phantom:he-tile?n=12&seed=20000", "all")

    @pytest.fixture(scope="class")
    @classmethod
    def tiny(cls, tiny_sam: str) -> SamPathRecipe:
        return SamPathRecipe(
            labels=TISSUE, sam=tiny_sam, pathology="small", pathology_width=8, pretraining=2, tile=64, mpp=None,
            augment="turns", lr=1e-2, batch_size=2, steps=6, warmup=2, decays=(4, 0),
        )  # fmt: skip

    @pytest.fixture(scope="class")
    @classmethod
    def parts(cls) -> TrainData:
        return DATA

    def test_features_are_kept_for_each_orientation_that_was_seen(self, trained: Trained) -> None:
        assert 3 <= len(list((trained.folder / "embeddings").glob("*.safetensors"))) <= 12

    def test_a_case_is_measured_by_exact_names_and_counts(self, trained: Trained) -> None:
        row = score(trained.model, DATA.test[0], {})
        assert {"pixel_accuracy", "macro_dice", "dice_tumour", "iou_nucleus", "recall_stroma"} <= set(row)
        assert np.sum(row["counts"]) == 64 * 64
        assert row["labels"] == list(TISSUE)
