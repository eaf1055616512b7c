"""Priors against cases drawn by hand and scikit-image; the fusion; what is kept of SAM's work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from skimage.segmentation import find_boundaries

from zoo.data.features import FeatureCache
from zoo.errors import OptionError
from zoo.models.samaug.priors import PriorMaker, exterior, fuse, rasterise, read_priors
from zoo.nn.promptable import AutoMask, Grid, Promptable, load_sam


def kept(full: np.ndarray, stability: float) -> AutoMask:
    rows, columns = np.flatnonzero(full.any(1)), np.flatnonzero(full.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return AutoMask(box, full[box[1] : box[3], box[0] : box[2]], full.shape, 0.9, stability)


def masks(seed: int) -> tuple[list[np.ndarray], list[AutoMask]]:
    rng = np.random.default_rng(seed)
    full = [np.kron(rng.random((5, 6)) < 0.4, np.ones((3, 3))) > 0 for _ in range(4)]
    full = [one for one in full if one.any()]
    return full, [kept(one, float(rng.uniform(0.5, 1))) for one in full]


@given(seed=st.integers(0, 200))
def test_masks_are_drawn_with_their_stability_by_each_rule(seed: int) -> None:
    full, some = masks(seed)
    stack = np.stack([one * mask.stability for one, mask in zip(full, some, strict=True)])
    np.testing.assert_allclose(rasterise(some, (15, 18), "sum")[0], stack.sum(0), rtol=1e-6)
    np.testing.assert_allclose(rasterise(some, (15, 18), "max")[0], stack.max(0), rtol=1e-6)
    painted = np.zeros((15, 18))
    for one, mask in zip(full, some, strict=True):
        painted[one] = mask.stability
    np.testing.assert_allclose(rasterise(some, (15, 18), "paint")[0], painted, rtol=1e-6)
    np.testing.assert_array_equal(rasterise(some, (15, 18), scored=False)[0], np.sum(full, 0))


@given(seed=st.integers(0, 200))
def test_thick_boundaries_are_those_of_scikit_image(seed: int) -> None:
    full, some = masks(seed)
    expected = np.any([find_boundaries(one, mode="thick") for one in full], axis=0)
    np.testing.assert_array_equal(rasterise(some, (15, 18), boundary="thick")[1], expected)


def test_the_exterior_boundary_ignores_holes_and_counts_the_edge_of_the_image() -> None:
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    expected = np.ones((5, 5), bool)
    expected[1:4, 1:4] = False
    np.testing.assert_array_equal(exterior(ring), expected)
    canvas = np.zeros((8, 8), bool)
    canvas[1:6, 2:7] = ring
    drawn = rasterise([kept(canvas, 1.0)], (8, 8))[1]
    assert drawn.sum() == 16
    assert drawn[1:6, 2:7][0].all()


def test_without_masks_the_augmented_image_is_the_image() -> None:
    image = torch.rand(2, 3, 6, 6)
    priors = torch.from_numpy(rasterise([], (6, 6)))[None].expand(2, -1, -1, -1)
    torch.testing.assert_close(fuse(image, priors, torch.tensor([False, False])), image)


def test_priors_are_added_unclipped_and_take_two_channels_of_grey_images() -> None:
    image, priors = torch.rand(1, 3, 4, 4), 3 * torch.rand(1, 2, 4, 4)
    found = fuse(image, priors, torch.tensor([False]))
    torch.testing.assert_close(found[:, 0], image[:, 0])
    torch.testing.assert_close(found[:, 1:], image[:, 1:] + priors)
    grey = image[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(fuse(grey, priors, torch.tensor([True])), torch.cat([grey[:, :1], priors], 1))


def test_priors_are_kept_by_content_and_by_how_they_were_made(tiny_sam: str, tmp_path: Path) -> None:
    calls = []
    base = Promptable(load_sam(tiny_sam, needed_by="the tests"))
    base.sam.vision_encoder.register_forward_hook(lambda *_: calls.append(1))
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)

    def made(**how: object) -> tuple[np.ndarray, int]:
        base.cache.clear()
        grid = Grid(points=3, quality=-1e9, stability=0.0)
        return PriorMaker(base, grid, "sum", "exterior", FeatureCache(tmp_path, half=True), **how)(image)

    (first, count), (again, same) = made(), made()
    np.testing.assert_array_equal(first, again)
    assert (len(calls), first.shape, count) == (1, (2, 40, 50), same)
    made(scored=False)
    assert len(calls) == 2


def test_given_priors_must_be_of_the_image(tmp_path: Path) -> None:
    path = tmp_path / "priors.safetensors"
    save_file({"priors": torch.ones(2, 4, 5)}, path)
    assert read_priors(str(path), (4, 5)).sum() == 40
    with pytest.raises(OptionError, match="4 x 5 px, but the image is 5 x 4"):
        read_priors(str(path), (5, 4))
    save_file({"priors": torch.full((2, 4, 5), torch.nan)}, path)
    with pytest.raises(OptionError, match="no finite numbers"):
        read_priors(str(path), (4, 5))
    save_file({"other": torch.ones(2, 4, 5)}, path)
    with pytest.raises(OptionError, match="holds no priors"):
        read_priors(str(path), (4, 5))
