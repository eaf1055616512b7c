"""Masks without prompts: the same as transformers finds, kept within their boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SamImageProcessor, pipeline

from zoo.data.phantoms.he_tile import he_tile
from zoo.nn.promptable import Grid, Promptable, decode, encode_prompts, find_everything, load_sam, mask_side
from zoo.nn.promptable.frame import Tensors
from zoo.nn.promptable.grid import answer_clicks, draw

ALL = Grid(points=6, quality=-1e9, stability=0.0, overlap=1.0)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_clicks_are_answered_and_drawn_as_by_sams_own_decoder(sam, image: np.ndarray) -> None:
    features = Promptable(sam).embed(image).features
    points = torch.rand(5, 2) * 64
    with torch.no_grad():
        prompts = encode_prompts(sam, Tensors(points=points[None, :, None], labels=torch.ones(1, 5, 1)))
        expected = decode(sam, features, prompts, multimask=True)
        answers = answer_clicks(sam, features, points)
        chosen = torch.rand(5, 3) < 0.5
        chosen[2] = False  # a click that nothing is drawn of
        drawn = draw(sam, answers, chosen)
    torch.testing.assert_close(answers.quality, expected.quality, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(drawn, expected.logits[chosen], rtol=1e-3, atol=1e-3)


def test_the_masks_are_those_of_transformers_pipeline() -> None:
    sam, grid = load_sam(needed_by="the tests"), Grid(points=8, quality=0.2, stability=0.5, overlap=0.6)
    image, side = he_tile(3, size=256).image, mask_side(sam)
    processor = SamImageProcessor(
        size={"longest_edge": 256}, pad_size={"height": 256, "width": 256},
        mask_size={"longest_edge": side}, mask_pad_size={"height": side, "width": side},
    )  # fmt: skip
    theirs = pipeline("mask-generation", model=sam, image_processor=processor, device="cpu")(
        Image.fromarray(image), points_per_crop=grid.points, pred_iou_thresh=grid.quality,
        stability_score_thresh=grid.stability, crops_nms_thresh=grid.overlap,
    )  # fmt: skip
    found = find_everything(Promptable(sam), image, grid, batch=7)
    assert len(found) == len(theirs["masks"]) > 5
    np.testing.assert_allclose([one.quality for one in found], theirs["scores"], atol=1e-4)
    same = [np.mean(one.full() == np.asarray(mask)) for one, mask in zip(found, theirs["masks"], strict=True)]
    assert min(same) > 0.9999


def test_a_mask_is_kept_within_its_box_and_knows_how_stable_it_is(sam, image: np.ndarray) -> None:
    found = find_everything(Promptable(sam), image[:40], ALL)
    assert found
    for one in found:
        x0, y0, x1, y1 = one.box
        assert one.full().shape == (40, 64)
        assert one.area == one.full().sum() == one.full()[y0:y1, x0:x1].sum()
        assert one.inside.any(0)[[0, -1]].all()
        assert one.inside.any(1)[[0, -1]].all()
        assert 0 <= one.stability <= 1
    assert [one.quality for one in found] == sorted((one.quality for one in found), reverse=True)


def test_where_nothing_is_good_enough_there_are_no_masks(sam, image: np.ndarray) -> None:
    assert find_everything(Promptable(sam), image, Grid(points=2, quality=1.0)) == []
