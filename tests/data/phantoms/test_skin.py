"""The skin-lesion phantom: a pure function of its seed whose masks and labels mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from zoo.data.dermoscopy import DIAGNOSES
from zoo.data.phantoms import make
from zoo.data.phantoms.skin import ARTIFACTS, DEVICES, ISIC2019_COUNTS, MALIGNANT, skin_lesion
from zoo.errors import DataError

seeds = st.integers(0, 10_000)
few = settings(max_examples=8, deadline=None)


def test_the_same_seed_gives_the_same_lesion_and_another_seed_another():
    a, b, c = (skin_lesion(seed, size=96) for seed in (3, 3, 4))
    assert np.array_equal(a.image, b.image)
    assert all(np.array_equal(a.masks[name], b.masks[name]) for name in a.masks)
    assert (a.label, a.attributes) == (b.label, b.attributes)
    assert not np.array_equal(a.image, c.image)


@few
@given(seed=seeds, size=st.integers(32, 150))
def test_image_and_masks_have_the_stated_types(seed: int, size: int):
    case = skin_lesion(seed, size=size)
    assert case.image.shape == (size, size, 3)
    assert case.image.dtype == np.uint8
    assert case.label in DIAGNOSES
    assert case.attributes["malignant"] == (case.label in MALIGNANT)
    assert set(case.masks) == {"mask", "artifact"}
    for name, largest in (("mask", 1), ("artifact", len(ARTIFACTS))):
        assert case.masks[name].shape == (size, size)
        assert case.masks[name].dtype == np.uint8
        assert case.masks[name].max() <= largest
    assert 0.04 < case.masks["mask"].mean() < 0.7


@pytest.mark.parametrize("diagnosis", DIAGNOSES)
def test_a_lesion_differs_from_the_skin_around_it(diagnosis: str):
    differences = []
    for seed in range(5):
        case = skin_lesion(seed, size=96, diagnosis=diagnosis, device="polarised", artifacts="none")
        assert case.label == diagnosis
        assert case.attributes["structures"]
        inside = ndimage.binary_erosion(case.masks["mask"] > 0, iterations=2)
        outside = ~ndimage.binary_dilation(case.masks["mask"] > 0, iterations=8)
        image = case.image.astype(float)
        differences.append(np.abs(image[inside].mean(0) - image[outside].mean(0)).max())
    assert np.mean(differences) > 12


def test_healthy_skin_has_no_lesion():
    case = skin_lesion(7, size=96, diagnosis="none")
    assert case.label == "none"
    assert not case.masks["mask"].any()
    assert case.attributes["structures"] == []
    assert not case.attributes["malignant"]


@pytest.mark.parametrize("name", ARTIFACTS)
def test_an_artifact_is_drawn_where_its_mask_says(name: str):
    options = {"size": 128, "diagnosis": "NV", "device": "polarised"}
    value = ARTIFACTS.index(name) + 1
    covered = 0
    for seed in range(4):
        clean, marked = skin_lesion(seed, artifacts="none", **options), skin_lesion(seed, artifacts=name, **options)
        where = marked.masks["artifact"] == value
        assert set(np.unique(marked.masks["artifact"])) <= {0, value}
        assert not clean.masks["artifact"].any()
        if not where.any():
            continue
        covered += 1
        assert marked.attributes["artifacts"] == [name]
        change = np.abs(clean.image.astype(float) - marked.image).max(-1)
        far = ~ndimage.binary_dilation(where, iterations=14)
        assert np.median(change[where]) > 3 * np.median(change[far]) + 3
    assert covered >= 3


def test_an_artifact_leaves_the_lesion_as_it_is():
    plain, hairy = (skin_lesion(5, size=96, artifacts=names) for names in ("none", "hair,ink"))
    assert np.array_equal(plain.masks["mask"], hairy.masks["mask"])
    assert plain.label == hairy.label


def test_devices_differ_in_colour():
    def colour(device: str) -> np.ndarray:
        cases = (skin_lesion(seed, size=48, device=device, artifacts="none") for seed in range(8))
        mean = np.mean([case.image.reshape(-1, 3).mean(0) for case in cases], 0)
        return mean / mean.sum()

    assert colour("handheld")[0] > colour("cool")[0] + 0.03
    assert {skin_lesion(0, size=32, device=name).attributes["device"] for name in DEVICES} == set(DEVICES)


def test_a_patient_keeps_their_skin():
    mine = [skin_lesion(seed, size=32, patient=4).attributes for seed in range(4)]
    for name in ("patient", "tone", "age", "sex"):
        assert len({attributes[name] for attributes in mine}) == 1
    assert skin_lesion(0, size=32, patient=5).attributes["tone"] != mine[0]["tone"]


def test_dark_skin_is_darker():
    light, dark = (skin_lesion(1, size=64, diagnosis="none", artifacts="none", tone=tone) for tone in (0.0, 1.0))
    assert dark.image.mean() < 0.75 * light.image.mean()


def test_prevalence_follows_isic_2019():
    labels = [skin_lesion(seed, size=32, prevalence="isic2019", artifacts="none").label for seed in range(120)]
    share = ISIC2019_COUNTS[DIAGNOSES.index("NV")] / sum(ISIC2019_COUNTS)
    assert labels.count("NV") / len(labels) == pytest.approx(share, abs=0.15)


@pytest.mark.parametrize(
    "options", [{"size": 16}, {"size": 4000}, {"diagnosis": "flu"}, {"device": "phone"}, {"artifacts": "hair,mud"},
                {"tone": 2.0}, {"prevalence": "rare"}],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict):
    with pytest.raises(DataError, match="skin-lesion phantom"):
        skin_lesion(0, **options)


def test_a_specification_reaches_every_option():
    case = make("phantom:skin-lesion?seed=2&size=64&diagnosis=BCC&artifacts=hair,ruler&tone=0.1&patient=9")
    assert (case.id, case.label, case.image.shape) == ("skin-lesion-2", "BCC", (64, 64, 3))
    assert case.attributes["patient"] == "phantom-9"
