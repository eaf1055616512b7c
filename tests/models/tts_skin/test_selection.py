"""Eq. 1 and what follows from it, copies whose points move with them, and what the paper compares with."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo.models.tts_skin.data import noise_crop
from zoo.models.tts_skin.replicas import follow, hue_shifted, replicas, training_views
from zoo.models.tts_skin.selection import as_mask, at_points, best_channels, channel_scores, kept_count


def grid(pixels: list[tuple[int, int]], size: int) -> torch.Tensor:
    return (torch.tensor(pixels, dtype=torch.float32) + 0.5)[None] / size * 2 - 1


# ---- selection -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lookup", "mode"), [("bilinear", "bilinear"), ("cell", "nearest")])
def test_a_map_is_read_as_if_it_had_been_upsampled(lookup: str, mode: str):
    torch.manual_seed(0)
    maps = torch.randn(1, 5, 7, 7)
    pixels = [(0, 0), (223, 223), (100, 31), (31, 32), (32, 190), (5, 219)]
    large = F.interpolate(maps, size=(224, 224), mode=mode, **({"align_corners": False} if mode == "bilinear" else {}))
    expected = torch.stack([large[0, :, y, x] for x, y in pixels], 1)
    assert torch.allclose(at_points(maps, grid(pixels, 224), lookup)[0], expected, atol=1e-5)


def test_scores_are_those_of_equation_1_by_hand():
    maps = torch.zeros(1, 2, 2, 2)
    maps[0, 0, 0, 0], maps[0, 1, 1, 1] = 3.0, 5.0  # one channel fires top left, one bottom right
    plus, minus = grid([(0, 0), (0, 0)], 2), grid([(1, 1), (1, 1)], 2)
    scores = channel_scores(maps, plus, minus, 0.4, "cell")
    assert scores[0].tolist() == pytest.approx([0.4 * 6, -0.6 * 10])
    fewer = channel_scores(maps, plus, minus[:, :1], 0.4, "cell")  # unequal numbers count by their means
    assert fewer[0].tolist() == pytest.approx([0.4 * 3, -0.6 * 5])
    alone = channel_scores(maps, plus, minus[:, :0], 0.4, "cell")
    assert alone[0].argsort(descending=True).tolist() == [0, 1]
    hidden = (torch.tensor([[True, False]]), torch.tensor([[False, True]]))
    assert channel_scores(maps, plus, minus, 0.4, "cell", hidden)[0].tolist() == pytest.approx([1.2, -3])


def test_205_of_2048_channels_stay_and_of_equal_ones_the_first():
    assert (kept_count(2048, 0.1), kept_count(128, 0.1), kept_count(3, 0.1), kept_count(7, 1.0)) == (205, 13, 1, 7)
    kept = best_channels(torch.zeros(2, 2048), 0.1)
    assert kept[:, :205].all()
    assert not kept[:, 205:].any()
    assert as_mask(kept, rescale=True).sum(1).tolist() == pytest.approx([2048, 2048])


def test_exchanged_points_at_one_half_reverse_the_ranking():
    torch.manual_seed(1)
    maps, plus, minus = torch.randn(2, 9, 4, 4), torch.rand(2, 3, 2) * 2 - 1, torch.rand(2, 3, 2) * 2 - 1
    one, other = channel_scores(maps, plus, minus, 0.5), channel_scores(maps, minus, plus, 0.5)
    assert torch.equal(one.argsort(1), other.argsort(1).flip(1))


def test_a_mirrored_image_with_mirrored_points_keeps_the_same_channels():
    torch.manual_seed(2)
    maps, plus, minus = torch.randn(1, 40, 6, 6), torch.rand(1, 4, 2) * 2 - 1, torch.rand(1, 4, 2) * 2 - 1
    mirror = torch.tensor([-1.0, 1.0])
    a = best_channels(channel_scores(maps, plus, minus, 0.4), 0.2)
    b = best_channels(channel_scores(maps.flip(3), plus * mirror, minus * mirror, 0.4), 0.2)
    assert torch.equal(a, b)


# ---- copies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["whole", "crops"])
def test_points_lie_on_the_same_spots_in_every_copy(how: str):
    size, spots = 64, [(12, 40), (50, 22)]
    view = torch.full((3, size, size), 0.2)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for px, py in spots:
        view += 0.7 * torch.exp(-((x - px) ** 2 + (y - py) ** 2) / 8.0)
    plus, minus = (grid([spot], size)[0].numpy() for spot in spots)
    made = replicas(view, plus, minus, 24, how, np.random.default_rng(0))
    assert torch.allclose(made.x[0], view, atol=1e-6)
    found = 0
    for points, there in zip((made.positive, made.negative), made.there, strict=True):
        bright = at_points(made.x, points)[:, 0, 0]
        assert (bright[there[:, 0]] > 0.75).all()
        found += int(there.sum())
    assert found == 50 if how == "whole" else 40 < found <= 50


def test_no_copy_loses_a_whole_sign_where_a_try_or_the_whole_image_keeps_it():
    corner = np.array([[-0.99, -0.99]])
    made = replicas(torch.rand(3, 8, 8), corner, -corner, 40, "crops", np.random.default_rng(0))
    assert made.there[0].any(1).all()
    assert made.there[1].any(1).all()


def test_following_is_the_way_back():
    matrix = np.array([[[0.5, 0.2, 0.1], [-0.1, -0.8, 0.0]]])
    points = np.random.default_rng(0).uniform(-1, 1, (5, 2))
    back = follow(points, matrix)[0]
    assert np.allclose(back @ matrix[0, :, :2].T + matrix[0, :, 2], points)


def test_hue_moves_as_colorsys_moves_it():
    x, turn = torch.rand(1, 3, 4, 4, dtype=torch.float64), 0.07
    found = hue_shifted(x, torch.tensor([turn, 0.0], dtype=torch.float64))
    assert torch.allclose(found[1], x[0])
    for i, j in np.ndindex(4, 4):
        h, s, v = colorsys.rgb_to_hsv(*x[0, :, i, j].tolist())
        assert found[0, :, i, j].tolist() == pytest.approx(colorsys.hsv_to_rgb((h + turn) % 1, s, v))
    assert training_views(x.float(), np.random.default_rng(0)).shape == x.shape


# ---- what it is compared with --------------------------------------------------------------------------------------


def test_noise_crop_keeps_the_lesion_and_has_one_noise_for_all():
    rng = np.random.default_rng(0)
    mask = np.zeros((16, 16), bool)
    mask[4:9, 5:12] = True
    one, other = (noise_crop(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), mask) for _ in range(2))
    assert np.array_equal(one[~mask], other[~mask])
    assert not np.array_equal(one[mask], other[mask])
