"""Random changes of images: what they keep, and that the generator decides everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.augment import (
    Crops,
    big_aug,
    blurred,
    blurred_views,
    cropped_views,
    flipped,
    random_square,
    random_turn,
    recoloured,
    turned,
    turned_views,
    warped,
)

seeds = st.integers(0, 1000)


def batch(b: int = 3, c: int = 3, side: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((b, c, side, side), np.float32))


def test_a_quarter_turn_goes_against_the_clock_before_the_mirror() -> None:
    array = np.array([[1, 2], [3, 4]])
    assert turned(array, 1, False).tolist() == [[2, 4], [1, 3]]
    assert turned(array, 1, True).tolist() == [[4, 2], [3, 1]]
    planes = np.stack([array, -array])
    assert turned(planes, 1, True, (1, 2))[1].tolist() == [[-4, -2], [-3, -1]]


@given(seed=seeds, h=st.integers(1, 20), w=st.integers(1, 20), size=st.integers(1, 12))
def test_a_random_square_cuts_all_planes_alike(seed: int, h: int, w: int, size: int) -> None:
    plane = np.arange(1, h * w + 1).reshape(h, w)
    found = random_square(np.stack([plane, 3 * plane]), size, np.random.default_rng(seed))
    assert found.shape == (2, size, size)
    assert np.array_equal(found[1], 3 * found[0])
    assert (found[0] > 0).sum() == min(h, size) * min(w, size)


def test_all_eight_orientations_come_up() -> None:
    rng = np.random.default_rng(0)
    assert {random_turn(rng) for _ in range(100)} == {(k, m) for k in range(4) for m in (False, True)}


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0])
def test_a_photographs_blur_has_the_spread_that_is_left_of_it(sigma: float) -> None:
    side, wide = 256, 512
    x = torch.zeros(40, 3, side, side)
    x[..., 127:129, 127:129] = 1  # the centre, which turns leave where it is
    found = blurred_views(x, np.random.default_rng(0), sigma=(sigma, sigma), wide=wide)[:, 0].sum(0).double()
    offsets = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    variances = [float((found.sum(axis) * offsets**2).sum() / found.sum()) for axis in (0, 1)]  # of columns, of rows
    taps = [np.exp(-(np.arange(-r, r + 1) ** 2) / (2 * sigma**2)) for r in (2, 4)]
    kept = [
        float((w * np.arange(-r, r + 1) ** 2).sum() / w.sum()) * (side / wide) ** 2
        for w, r in zip(taps, (2, 4), strict=True)
    ]
    bare = blurred_views(x, np.random.default_rng(0), sigma=(1e-3, 1e-3), wide=wide)[:, 0].sum(0).double()
    start = float((bare.sum(0) * offsets**2).sum() / bare.sum())  # of the square itself, and of looking between pixels
    assert [v - start for v in variances] == pytest.approx(kept, abs=0.05)


def test_what_a_turn_leaves_open_is_black() -> None:
    found = blurred_views(torch.ones(20, 3, 64, 64), np.random.default_rng(0))
    assert found.min() == 0
    assert torch.allclose(found[..., 16:48, 16:48], torch.ones(()), atol=1e-5)
    assert (found[:, 0] < 0.5).float().mean((1, 2)).max() < 0.1  # no more than ten degrees


@given(seed=seeds, transpose=st.booleans())
def test_flips_only_move_pixels(seed: int, transpose: bool) -> None:
    x = torch.arange(5 * 3 * 4 * 4, dtype=torch.uint8).view(5, 3, 4, 4)
    found = flipped(x, np.random.default_rng(seed), transpose=transpose)
    assert found.dtype == torch.uint8
    assert torch.equal(found.flatten(2).sort(-1).values, x.flatten(2).sort(-1).values)
    assert torch.equal(found[:, 1].long() - found[:, 0], torch.full((5, 4, 4), 16))  # channels move together


def test_flips_with_the_diagonal_reach_all_eight_orientations_in_any_layout() -> None:
    x = torch.tensor([[1, 2], [3, 4]]).expand(200, 2, 2)
    rows = flipped(x, np.random.default_rng(0), (1, 2), transpose=True).flatten(1)
    assert len({tuple(row) for row in rows.tolist()}) == 8
    assert len({tuple(row) for row in flipped(x, np.random.default_rng(0), (1, 2)).flatten(1).tolist()}) == 4


def test_the_identity_warps_nothing_and_a_mirror_mirrors() -> None:
    x = batch()
    identity = np.tile(np.array([[1.0, 0, 0], [0, 1, 0]]), (3, 1, 1))
    assert torch.allclose(warped(x, identity), x, atol=1e-5)
    assert torch.allclose(warped(x, identity * [[[-1], [1]]]), x.flip(3), atol=1e-5)


def test_contrast_moves_away_from_the_mean_before_or_after_the_gain() -> None:
    x = torch.tensor([0.4, 0.6]).view(1, 1, 1, 2)
    two, half = np.array([[2.0]]), np.array([[0.5]])
    assert torch.allclose(recoloured(x, [half], two), torch.tensor([[[[0.15, 0.35]]]]))
    assert torch.allclose(recoloured(x, [half], two, contrast_first=True), torch.tensor([[[[0.15, 0.35]]]]))
    assert torch.allclose(recoloured(x, [two], half), torch.tensor([[[[0.9, 1.0]]]]))  # 1.1 is cut off
    assert torch.allclose(recoloured(x, [two], half, contrast_first=True), torch.tensor([[[[0.9, 1.0]]]]))
    tint = np.array([[1.0, 0.0]])
    both = x.expand(1, 2, 1, 2)
    assert torch.allclose(recoloured(both, [tint], half)[0, :, 0, 0], torch.tensor([0.325, 0.125]))
    assert torch.allclose(recoloured(both, [tint], half, contrast_first=True)[0, :, 0, 0], torch.tensor([0.45, 0.0]))


@given(sigma=st.floats(0.2, 2))
def test_a_blur_keeps_constants_and_means_of_symmetric_images(sigma: float) -> None:
    assert torch.allclose(blurred(torch.full((1, 2, 9, 9), 0.3), sigma), torch.tensor(0.3), atol=1e-6)
    spot = torch.zeros(1, 1, 9, 9)
    spot[0, 0, 4, 4] = 1
    found = blurred(spot, sigma)
    assert torch.allclose(found, found.flip(2, 3), atol=1e-6)
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
    assert found[0, 0, 4, 4] < 1


RECIPES = {
    "cropped": cropped_views,
    "turned": turned_views,
    "big_aug": lambda x, rng: big_aug(x[:, :1], rng),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@settings(max_examples=15)
@given(seed=seeds)
def test_recipes_stay_in_range_and_follow_the_generator(recipe, seed: int) -> None:
    x = batch(seed=seed)
    first, again, other = (recipe(x, np.random.default_rng(s)) for s in (seed, seed, seed + 1))
    assert first.shape[0] == 3
    assert first.shape[2:] == x.shape[2:]
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_crops_without_change_leave_at_most_mirrored_images() -> None:
    x = torch.full((4, 3, 8, 8), 0.5)
    x[:, 0] = 0.25
    found = cropped_views(x, np.random.default_rng(0), Crops((1.0, 1.0), 0.0, 0.0))
    assert torch.allclose(found, x, atol=1e-6)
