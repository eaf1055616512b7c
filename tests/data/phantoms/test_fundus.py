"""The fundus phantom: a pure function of its seed whose masks mean what they say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from zoo.data.phantoms import PHANTOMS, make, parse_spec, summary
from zoo.data.phantoms.fundus import DISEASES, STYLES, fundus
from zoo.data.phantoms.vessels import Branch, draw, grow_tree
from zoo.errors import DataError

seeds = st.integers(0, 10_000)
few = settings(max_examples=6)


def test_the_same_seed_gives_the_same_eye_and_another_seed_another():
    a, b, c = (fundus(seed, size=192) for seed in (3, 3, 4))
    assert np.array_equal(a.image, b.image)
    assert all(np.array_equal(a.masks[name], b.masks[name]) for name in a.masks)
    assert not np.array_equal(a.image, c.image)


@few
@given(seed=seeds)
def test_image_and_masks_have_the_stated_types(seed: int):
    case = fundus(seed, size=160)
    assert case.image.shape == (160, 160, 3)
    assert case.image.dtype == np.uint8
    assert set(case.masks) == {"mask", "artery", "vein", "disc", "fov"}
    for mask in case.masks.values():
        assert mask.shape == (160, 160)
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}


@few
@given(seed=seeds)
def test_vessels_are_arteries_and_veins_inside_the_field_of_view(seed: int):
    masks = {name: mask > 0 for name, mask in fundus(seed, size=320).masks.items()}
    assert np.array_equal(masks["mask"], masks["artery"] | masks["vein"])
    for name in ("mask", "disc"):
        assert not (masks[name] & ~masks["fov"]).any()
    assert 0.03 < masks["mask"].sum() / masks["fov"].sum() < 0.35
    assert masks["fov"].mean() > 0.3


@few
@given(seed=seeds)
def test_vessels_spring_from_the_optic_disc(seed: int):
    masks = fundus(seed, size=448).masks
    regions, _ = ndimage.label(masks["mask"], np.ones((3, 3)))
    at_disc = np.unique(regions[(masks["disc"] > 0) & (regions > 0)])
    assert len(at_disc) > 0
    # The rest left the field of view and came back into it.
    assert np.isin(regions, at_disc).sum() > 0.6 * masks["mask"].sum()


@few
@given(seed=seeds)
def test_calibre_runs_from_one_pixel_to_a_wide_vein(seed: int):
    mask = fundus(seed, size=576).masks["mask"] > 0
    radius = ndimage.distance_transform_edt(mask)
    ridge = radius[(radius == ndimage.maximum_filter(radius, 3)) & mask]
    assert np.percentile(ridge, 10) <= 2.0
    assert 2.5 < np.percentile(radius[mask], 99) < 20


@few
@given(seed=seeds)
def test_blood_is_darker_than_its_surroundings_in_green(seed: int):
    case = fundus(seed, size=448, disease="healthy")
    disc = case.masks["disc"] > 0
    vessel = ndimage.binary_erosion(case.masks["vein"] > 0) & ~disc
    around = ndimage.binary_dilation(case.masks["mask"] > 0, iterations=5) & (case.masks["mask"] == 0) & ~disc
    around &= ndimage.binary_erosion(case.masks["fov"] > 0, iterations=6)
    green = case.image[..., 1].astype(float)
    share = ndimage.gaussian_filter(around.astype(float), 6)  # light is uneven: what lies beside a vessel counts
    beside = ndimage.gaussian_filter(green * around, 6) / np.maximum(share, 1e-9)
    vessel &= share > 0.01
    assert green[vessel].mean() < beside[vessel].mean()


def test_surround_is_dark():
    for seed in range(4):
        case = fundus(seed, size=256)
        outside = ~ndimage.binary_dilation(case.masks["fov"] > 0, iterations=6)
        assert case.image[outside].mean() < 20


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("disease", DISEASES)
def test_every_camera_and_disease_can_be_asked_for(style: str, disease: str):
    case = fundus(1, size=128, style=style, disease=disease)
    assert (case.attributes["style"], case.attributes["disease"]) == (style, disease)


@pytest.mark.parametrize("options", [{"size": 64}, {"size": 5000}, {"style": "polaroid"}, {"disease": "flu"}])
def test_options_out_of_range_are_refused(options: dict):
    with pytest.raises(DataError, match="fundus phantom"):
        fundus(0, **options)


def test_trees_branch_and_taper():
    tree = grow_tree(np.random.default_rng(0), radius=0.05, tortuosity=1.0, density=1.0, reach=8.0)
    assert {0, 1, 2} <= {branch.order for branch in tree}
    for branch in tree:
        assert len(branch.points) == len(branch.radii)
        assert branch.radii[-1] < branch.radii[0]
        assert branch.radii.max() <= 0.06


def test_a_straight_vessel_is_drawn_with_its_width():
    tube = Branch(np.array([0.0, 1.0]) + 0j, np.array([0.1, 0.1]), 0)
    drawing = draw([tube], (64, 128), (14 + 32.25j, 100 + 0j, False))  # radius 10 px, centre line at y = 32.25
    column = drawing.inside[:, 64]
    assert column.max() == pytest.approx(9.75, abs=0.3)
    assert (column > 0).sum() == 20
    assert drawing.depth[:, 64].max() == pytest.approx(20, rel=0.01)  # the diameter
    assert drawing.depth[44, 64] == 0


def test_mirroring_swaps_left_and_right():
    tube = Branch(np.array([0.0, 0.5]) + 0j, np.array([0.05, 0.05]), 0)
    right = draw([tube], (65, 65), (32 + 32j, 40 + 0j, False)).inside
    left = draw([tube], (65, 65), (32 + 32j, 40 + 0j, True)).inside
    assert np.allclose(right, left[:, ::-1])


def test_specifications_are_parsed_by_signature():
    spec = parse_spec("phantom:fundus?n=40&seed=7&style=film&size=256")
    assert (spec.name, spec.n, spec.seed, spec.options) == ("fundus", 40, 7, {"style": "film", "size": 256})
    assert make("phantom:fundus?seed=5&size=128").id == "fundus-5"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("phantom:fundos", "did you mean 'fundus'"),
        ("phantom:fundus?stile=film", "did you mean 'style'"),
        ("phantom:fundus?size=big", "size must be"),
        ("phantom:fundus?seed=-1", "seed must be at least 0"),
        ("phantom:fundus?n=3", "where one is needed"),
    ],
)
def test_wrong_specifications_say_what_is_wrong(spec: str, message: str):
    with pytest.raises(DataError, match=message):
        make(spec)


def test_every_phantom_says_what_it_draws_without_torch():
    assert all(len(summary(name)) > 20 and "broken" not in summary(name) for name in PHANTOMS)
    code = "import sys, zoo.data.phantoms as p; [p.summary(n) for n in p.PHANTOMS]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
