"""Four cameras see one lesion unlike each other, and a case says which one it was."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.data.phantoms.skin_domains import CAMERAS, HAM, skin_domains
from zoo.errors import DataError


def test_one_lesion_by_every_camera():
    cases = {camera: skin_domains(3, size=48, camera=camera) for camera in CAMERAS}
    means = {camera: np.asarray(case.image).mean((0, 1)) for camera, case in cases.items()}
    assert len({case.label for case in cases.values()}) == 1
    assert all((case.masks["mask"] == cases["colour"].masks["mask"]).all() for case in cases.values())
    assert means["ultraviolet"].argmax() == 2
    assert np.ptp(means["infrared"]) < 2
    assert means["negative"] == pytest.approx(255 - means["colour"], abs=2)
    assert [case.attributes["camera"] for case in cases.values()] == list(CAMERAS)


def test_it_is_a_function_of_its_seed_and_draws_every_camera_and_diagnosis():
    assert (np.asarray(skin_domains(5, size=32).image) == np.asarray(skin_domains(5, size=32).image)).all()
    cases = [skin_domains(seed, size=32) for seed in range(40)]
    assert {case.attributes["camera"] for case in cases} == set(CAMERAS)
    assert {case.label for case in cases} == set(HAM.split(","))


@pytest.mark.parametrize("wrong", [{"camera": "x-ray"}, {"diagnosis": ""}, {"diagnosis": "NAEVUS"}, {"size": 8}])
def test_what_cannot_be_drawn_is_refused(wrong: dict[str, object]):
    with pytest.raises(DataError, match="skin"):
        skin_domains(0, **wrong)  # type: ignore[arg-type]
