"""Eighteen corruptions in five severities."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.data.corruptions import GROUPS, KINDS, SEVERITIES, corrupt
from zoo.data.phantoms.surgical_frame import surgical_frame
from zoo.errors import OptionError


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return surgical_frame(3, size=96).image[:80]  # not square


def change(image: np.ndarray, kind: str, severity: int) -> float:
    return float(np.abs(corrupt(image, kind, severity).astype(float) - image).mean())


def test_there_are_eighteen_in_four_groups() -> None:
    assert len(KINDS) == len(set(KINDS)) == 18
    assert [len(kinds) for kinds in GROUPS.values()] == [4, 5, 5, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_keeps_shape_and_type_and_depends_on_its_seed_alone(kind: str, image: np.ndarray) -> None:
    before = image.copy()
    for severity in SEVERITIES:
        one, again = corrupt(image, kind, severity, seed=5), corrupt(image, kind, severity, seed=5)
        assert one.shape == image.shape
        assert one.dtype == np.uint8
        assert np.array_equal(one, again)
        assert not np.array_equal(one, image)
    assert np.array_equal(image, before)
    random = kind not in ("defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast", "pixelate", "jpeg",
                          "saturate")  # fmt: skip
    assert np.array_equal(corrupt(image, kind, 3, seed=6), corrupt(image, kind, 3, seed=5)) != random


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("frost", "fog", "spatter", "saturate")])
def test_severity_5_changes_more_than_severity_1(kind: str, image: np.ndarray) -> None:
    assert change(image, kind, 5) > 1.2 * change(image, kind, 1)


def test_noise_has_the_published_strength() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    for severity, sigma in zip(SEVERITIES[:3], (0.08, 0.12, 0.18), strict=True):
        assert (corrupt(grey, "gaussian_noise", severity) / 255).std() == pytest.approx(sigma, rel=0.03)
    struck = (corrupt(grey, "impulse_noise", 4) != 128).mean()
    assert struck == pytest.approx(0.17, abs=0.01)
    shot = corrupt(grey, "shot_noise", 2) / 255  # Poisson: variance = mean / photons
    assert shot.var() == pytest.approx((128 / 255) / 25, rel=0.05)


def test_contrast_and_brightness_are_the_formula(image: np.ndarray) -> None:
    mean = image.astype(float).mean((0, 1))
    expected = np.floor(np.clip((image - mean) * 0.2 + mean, 0, 255))
    assert np.abs(corrupt(image, "contrast", 3) - expected).max() <= 1
    grey = np.full((40, 40, 3), 51, np.uint8)  # value 0.2
    assert np.abs(corrupt(grey, "brightness", 2).astype(int) - 102).max() <= 1


@pytest.mark.parametrize("kind", ["defocus_blur", "motion_blur", "zoom_blur", "gaussian_blur", "glass_blur"])
def test_blur_leaves_a_flat_image_alone(kind: str) -> None:
    flat = np.full((64, 64, 3), 77, np.uint8)
    assert np.abs(corrupt(flat, kind, 4).astype(int) - 77).max() <= 1


def test_glass_blur_only_moves_light() -> None:
    square = np.zeros((64, 64, 3), np.uint8)
    square[20:44, 20:44] = 255
    assert corrupt(square, "glass_blur", 5).mean() == pytest.approx(square.mean(), rel=0.02)


@pytest.mark.parametrize(
    ("kind", "severity", "side", "words"),
    [
        ("gaussian_nois", 1, 64, "did you mean 'gaussian_noise'"),
        ("fog", 0, 64, "1 to 5"),
        ("fog", 1, 16, "at least 32"),
    ],
)
def test_what_cannot_be_is_refused(kind: str, severity: int, side: int, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        corrupt(np.zeros((side, side, 3), np.uint8), kind, severity)
