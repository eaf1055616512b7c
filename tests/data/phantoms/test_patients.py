"""The patients phantom: a pure function of its seed; ducklings look like naevi, only not like the patient's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.dermoscopy import SITES
from zoo.data.phantoms import make
from zoo.data.phantoms.patients import patients
from zoo.errors import DataError


def darkness(case, which: np.ndarray) -> np.ndarray:
    """Mean brightness of chosen lesions, each over its own mask."""
    return np.array(
        [one.image[one.masks["mask"] > 0].mean() for one, chosen in zip(case.images, which, strict=True) if chosen]
    )


def of_lesions(case, name: str) -> np.ndarray:
    return np.array([one.label if name == "label" else one.attributes[name] for one in case.images])


def test_the_same_seed_gives_the_same_patient_and_another_seed_another():
    a, b, c = (patients(seed, size=32) for seed in (3, 3, 4))
    pictures = [np.stack([one.image for one in case.images]) for case in (a, b, c)]
    assert np.array_equal(pictures[0], pictures[1])
    assert a.attributes == b.attributes
    assert [one.attributes for one in a.images] == [one.attributes for one in b.images]
    assert pictures[0].shape != pictures[2].shape or not np.array_equal(pictures[0], pictures[2])


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), size=st.integers(32, 64), lesions=st.integers(1, 6))
def test_images_masks_and_facts_belong_together(seed: int, size: int, lesions: int):
    case = patients(seed, size=size, lesions=lesions, risk=0.5)
    assert len(case.images) == lesions
    for one in case.images:
        mask = one.masks["mask"]
        assert one.image.shape == (size, size, 3)
        assert mask.shape == (size, size)
        assert one.image.dtype == mask.dtype == np.uint8
        assert one.attributes["site"] in SITES
        assert one.label == "melanoma" or not one.attributes["duckling"]
    assert case.label == ("melanoma" if "melanoma" in of_lesions(case, "label") else "benign")


def test_the_number_of_lesions_varies_around_ten():
    counts = [len(patients(seed, size=32, artifacts="none").images) for seed in range(40)]
    assert 2 <= min(counts) < 5 < 15 < max(counts) <= 30
    assert 6 < np.mean(counts) < 14


def test_a_duckling_differs_from_the_patients_naevi_and_naevi_from_each_other_little():
    within, apart = [], []
    for seed in range(12):
        case = patients(seed, size=32, lesions=12, risk=0.5, risk_by_age=False, outliers=1.0, device="polarised",
                        artifacts="none")  # fmt: skip
        duckling = of_lesions(case, "duckling")
        if 2 <= duckling.sum() <= 10:
            usual, odd = darkness(case, ~duckling), darkness(case, duckling)
            within.append(usual.std())
            apart.append(abs(usual.mean() - odd.mean()))
    assert len(apart) >= 8
    assert np.median(apart) > 1.2 * np.median(within)


def test_over_all_patients_ducklings_are_as_dark_as_naevi():
    """So that an image by itself doesn't tell: the two distributions agree."""
    usual, odd = [], []
    for seed in range(60):
        case = patients(seed, size=32, lesions=6, risk=0.5, risk_by_age=False, outliers=1.0, device="polarised",
                        artifacts="none")  # fmt: skip
        duckling = of_lesions(case, "duckling")
        usual += darkness(case, ~duckling).tolist()
        odd += darkness(case, duckling).tolist()
    gap = abs(np.mean(usual) - np.mean(odd)) / np.std(usual)
    assert gap < 3 * np.sqrt(1 / 60 + 1 / 60)  # lesions of a patient aren't independent: count patients


@pytest.mark.parametrize("outliers", [0.0, 1.0])
def test_the_share_of_outliers_is_controlled(outliers: float):
    case = patients(1, size=32, lesions=20, risk=1.0, risk_by_age=False, outliers=outliers, artifacts="none")
    assert set(of_lesions(case, "label")) == {"melanoma"}
    assert set(of_lesions(case, "duckling")) == {bool(outliers)}


@pytest.mark.parametrize("options", ["size=8", "lesions=0", "outliers=1.5", "risk=-1", "device=phone", "artifacts=dog"])
def test_what_can_not_be_drawn_is_refused(options: str):
    with pytest.raises(DataError, match=f"can't draw this {options.partition('=')[0]}; choose it from"):
        make(f"phantom:patients?{options}")
