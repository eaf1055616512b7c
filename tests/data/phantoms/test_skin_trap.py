"""The trap phantom: its artifact follows the diagnosis as often as asked, and nothing else of the lesion changes."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.data.phantoms import make
from zoo.data.phantoms.skin import skin_lesion
from zoo.data.phantoms.skin_trap import skin_trap
from zoo.errors import DataError


def test_a_full_bias_lays_the_ruler_on_malignant_lesions_alone_and_none_does_the_opposite():
    for bias, on_malignant in ((1.0, True), (0.0, False)):
        cases = [skin_trap(seed, size=32, bias=bias) for seed in range(12)]
        assert {case.label for case in cases} == {"MEL", "NV"}
        for case in cases:
            assert (case.attributes["artifacts"] == ["ruler"]) == (case.attributes["malignant"] == on_malignant)


def test_the_share_of_pictures_that_follow_is_the_bias():
    cases = [skin_trap(seed, size=32, bias=0.8) for seed in range(150)]
    follow = np.mean([bool(c.attributes["artifacts"]) == c.attributes["malignant"] for c in cases])
    assert 0.7 < follow < 0.9


def test_the_lesion_is_that_of_skin_lesion():
    trapped = skin_trap(3, size=48, bias=1.0, others="hair")
    artifacts = ",".join(["hair", *(["ruler"] if trapped.label == "MEL" else [])])
    plain = skin_lesion(3, size=48, diagnosis=trapped.label, artifacts=artifacts)
    assert np.array_equal(trapped.image, plain.image)
    assert np.array_equal(trapped.masks["mask"], plain.masks["mask"])


def test_traps_may_be_several_and_diagnoses_one():
    case = skin_trap(1, size=48, bias=1.0, trap="ink,corner", diagnosis="SCC")
    assert case.label == "SCC"
    assert set(case.attributes["artifacts"]) == {"ink", "corner"}


@pytest.mark.parametrize("options", ["bias=1.5", "trap=none", "trap=cat", "diagnosis=cold", "diagnosis=", "size=8"])
def test_what_cannot_be_drawn_is_refused(options: str):
    with pytest.raises(DataError):
        make(f"phantom:skin-trap?{options}")
