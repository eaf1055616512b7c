"""CEmb-SAM's block and its predictions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from PIL import ImageDraw
from torch import nn

from zoo.data.phantoms.ultrasound import ultrasound
from zoo.errors import OptionError, WeightsError
from zoo.metrics import dice
from zoo.models.cemb_sam.block import ConditionEmbedding, conditional_instance_norm
from zoo.models.cemb_sam.condition import ConditionHead, around_box, as_shares
from zoo.models.cemb_sam.model import CEmbSam, CEmbSamConfig
from zoo.nn.promptable import Box, Point, Prompt, box_around, near_box


@pytest.fixture
def model(tiny_sam: str) -> CEmbSam:
    torch.manual_seed(0)
    return CEmbSam(CEmbSamConfig(sam=tiny_sam)).eval()


@pytest.fixture(scope="module")
def case():
    return ultrasound(0, size=96, group="benign")


@pytest.fixture(scope="module")
def box(case) -> tuple[float, float, float, float]:
    found = box_around(case.masks["mask"] > 0)
    return (found.x0, found.y0, found.x1, found.y1)


# ---- the block ----


def test_scale_one_and_shift_zero_is_instance_normalisation() -> None:
    x = torch.randn(3, 5, 7, 6, dtype=torch.float64) * 4 + 2
    found = conditional_instance_norm(x, torch.ones(3, 5), torch.zeros(3, 5))
    torch.testing.assert_close(found, F.instance_norm(x, eps=1e-10), rtol=1e-4, atol=1e-5)


@settings(max_examples=10)
@given(m=st.integers(1, 5), c=st.sampled_from([4, 8]), seed=st.integers(0, 99))
def test_the_block_is_the_formula_written_out(m: int, c: int, seed: int) -> None:
    torch.manual_seed(seed)
    block = ConditionEmbedding(c, m, gamma_offset=0.0).double()
    x = torch.randn(2, c, 5, 4, dtype=torch.float64)
    condition = torch.randint(m, (2,))
    one_hot = F.one_hot(condition, m).double()
    z = x
    for layer in block.layers:
        w_gamma, w_beta = layer.w_gamma.weight.T, layer.w_beta.weight.T  # C x m
        gamma = F.relu(one_hot @ w_gamma.T @ layer.w1.weight.T) @ layer.w2.weight.T
        beta = F.relu(one_hot @ w_beta.T @ layer.w1.weight.T) @ layer.w2.weight.T
        f = F.conv2d(z, layer.convolution.weight, padding=1)
        flat = f.flatten(2)
        mean, deviation = flat.mean(-1), flat.std(-1, correction=0)
        normal = (f - mean[..., None, None]) / (deviation + 1e-5)[..., None, None]
        z = F.relu(gamma[..., None, None] * normal + beta[..., None, None])
    torch.testing.assert_close(block(x, condition), z)


def test_the_condition_changes_what_comes_out_and_samples_do_not_mix() -> None:
    torch.manual_seed(0)
    block = ConditionEmbedding(8, 3)
    x = torch.randn(1, 8, 6, 6).expand(3, -1, -1, -1)
    z = block(x, torch.tensor([0, 1, 2]))
    assert not torch.allclose(z[0], z[1])
    other = torch.cat([x[:1], torch.randn(2, 8, 6, 6)])
    torch.testing.assert_close(block(other, torch.tensor([0, 1, 2]))[0], z[0])
    assert (z >= 0).all()  # literal: no residual path


def test_sizes_are_those_of_the_paper() -> None:
    for m in (3, 7):
        with torch.device("meta"):
            block = ConditionEmbedding(256, m)
        assert sum(p.numel() for p in block.parameters()) == 1_179_648 + 262_144 + 1024 * m


def test_the_released_block_is_its_formula_and_has_its_size() -> None:
    torch.manual_seed(0)
    block = ConditionEmbedding(8, 3, reading="released").double()
    for layer in block.layers:
        nn.init.normal_(layer.normal.weight)
        nn.init.normal_(layer.normal.bias)
    x, condition = torch.randn(2, 8, 5, 4, dtype=torch.float64), torch.tensor([2, 0])
    z = x
    for layer in block.layers:
        both = F.relu(layer.embedding.weight[condition] @ layer.w1.weight.T + layer.w1.bias) @ layer.w2.weight.T
        both = both + layer.w2.bias
        f = F.conv2d(z, layer.convolution.weight, padding=1)
        mean, variance = f.mean((2, 3), keepdim=True), f.var((2, 3), keepdim=True, correction=0)
        normal = (
            layer.normal.weight[:, None, None] * (f - mean) / (variance + 1e-5).sqrt()
            + layer.normal.bias[:, None, None]
        )
        z = F.relu(both[:, :8, None, None] * normal + both[:, 8:, None, None])
    torch.testing.assert_close(block(x, condition), z)
    for m in (3, 7):
        with torch.device("meta"):
            block = ConditionEmbedding(256, m, reading="released")
        assert sum(p.numel() for p in block.parameters()) == 2_230_272 + 4 * 256 + 1024 * m


def test_one_condition_works_and_residual_adds_the_input() -> None:
    torch.manual_seed(0)
    plain = ConditionEmbedding(8, 1)
    residual = ConditionEmbedding(8, 1, residual=True)
    residual.load_state_dict(plain.state_dict())
    x, condition = torch.randn(2, 8, 4, 4), torch.zeros(2, dtype=torch.long)
    torch.testing.assert_close(residual(x, condition), x + plain(x, condition))


# ---- what is stored, what is frozen ----


def test_only_block_and_decoder_are_parameters(model: CEmbSam) -> None:
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"block", "decoder"}
    assert not any(p.requires_grad for p in model.base.sam.parameters())


def test_a_decoder_for_another_sam_is_refused(model: CEmbSam, case, box) -> None:
    config = model.config
    other = CEmbSam(replace(config, decoder=replace(config.decoder, mlp=32)))
    with pytest.raises(OptionError, match="other sizes than that of"):
        other.predict(case.image, box=(box,))


def test_a_missing_sam_is_named(case, box) -> None:
    model = CEmbSam(CEmbSamConfig(sam="no such folder"))
    with pytest.raises(WeightsError, match="no such folder"):
        model.predict(case.image, box=(box,))


# ---- predict ----


def test_a_prediction_has_the_size_of_the_image(model: CEmbSam, box) -> None:
    image = ultrasound(1, size=96).image[:80]  # 80 high, 96 wide
    result = model.predict(image, box=((10, 10, 40, 60),), condition="malignant")
    assert result.mask.shape == result.probability.shape == (80, 96)
    assert result.mask.dtype == np.uint8
    assert result.condition == "malignant"
    assert not result.inferred
    assert set(result.quality) == {"malignant"}


def sure_of(model: CEmbSam, name: str | None) -> CEmbSam:
    """The model with a head that says ``name`` whatever it sees; nothing in particular without a name."""
    model.head = ConditionHead(model.config.decoder.channels, 3)
    with torch.no_grad():
        model.head.network[-1].weight.zero_()
        model.head.network[-1].bias.copy_(torch.tensor([9.0 * (name == one) for one in model.config.conditions]))
        model.head.possible[2] = 0
    return model


def test_a_condition_that_is_sure_is_used_and_said(model: CEmbSam, case, box) -> None:
    result = sure_of(model, "malignant").predict(case.image, box=(box,))
    assert result.inferred
    assert result.condition == "malignant"
    assert any(note.startswith("condition inferred: malignant (100 %)") for note in result.notes)
    assert np.array_equal(model.predict(case.image, box=(box,), condition="malignant").mask, result.mask)
    assert result.to_dict()["condition_inferred"] is True


def test_a_condition_that_is_not_sure_is_not_known_and_the_mask_is_the_weighted_mean(model, case, box) -> None:
    result = sure_of(model, None).predict(case.image, box=(box,))
    each = [model.predict(case.image, box=(box,), condition=c).probability for c in ("benign", "malignant")]
    np.testing.assert_allclose(result.probability, (each[0] + each[1]) / 2, atol=1e-6)
    record = result.to_dict()
    assert record["condition"] is None
    assert record["condition_inferred"] is False
    assert record["condition_probabilities"] == {"benign": 0.5, "malignant": 0.5, "normal": 0.0}
    assert set(record["agreement_of_conditions"]) == {"benign / malignant"}
    assert any("condition not known (benign 50 %, malignant 50 %)" in note for note in result.notes)
    assert "condition not known" in result.summary()


def test_weights_without_a_head_take_all_conditions_alike(model: CEmbSam, case, box) -> None:
    result = model.predict(case.image, box=(box,))
    assert result.condition == ""
    assert set(result.quality) == {"benign", "malignant", "normal"}


def test_a_condition_without_objects_is_never_inferred() -> None:
    torch.manual_seed(0)
    head = ConditionHead(4, 3)
    head.possible[1] = 0
    assert head(torch.randn(20, 19)).exp()[:, 1].max() < 1e-6


def test_the_head_sees_the_box_and_the_ring_around_it() -> None:
    features = torch.zeros(1, 1, 8, 8)
    features[..., 2:6, 2:6] = 3.0
    inside, spread, around, _, shape, extent, height = around_box(features, as_shares([(20, 20, 60, 60)], (80, 80)))[0]
    assert float(inside) == pytest.approx(3)
    assert float(spread) < 1e-3
    assert float(around) == 0
    assert (float(shape), float(extent), float(height)) == pytest.approx((0, np.log(0.5), 0.5), abs=1e-6)
    half = around_box(features, as_shares([(0, 20, 40, 60)], (80, 80)))[0]  # half of it on the object
    assert float(half[0]) == pytest.approx(1.5)


def test_a_mask_stays_near_its_box_and_what_was_cut_off_is_said(model: CEmbSam, case) -> None:
    with torch.no_grad():  # says "object" everywhere
        model.decoder.output_hypernetworks_mlps[0].proj_out.weight.zero_()
        model.decoder.output_hypernetworks_mlps[0].proj_out.bias.zero_()
    result = model.predict(case.image, box=((20, 30, 60, 70),), condition="benign", threshold=0.5)
    rows, columns = np.nonzero(result.mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (26, 73, 16, 63)
    assert any("of the mask lay farther than a tenth beyond the box" in note for note in result.notes)
    assert not near_box((96, 96), Prompt(Box(20, 30, 60, 70)))[50, 80]
    assert near_box((96, 96), Prompt(Box(20, 30, 60, 70), (Point(80, 50),)))[50, 80]


def test_sams_own_mask_counts_by_its_share(model: CEmbSam, case, box) -> None:
    sam = CEmbSam(replace(model.config, method="zero-shot")).eval()
    sam.decoder.load_state_dict(model.base.sam.mask_decoder.state_dict())
    masks = []
    for share in (0.0, 0.5, 1.0):
        model.config = replace(model.config, sam_share=share)
        masks.append(model.predict(case.image, box=(box,), condition="benign").probability)
    np.testing.assert_allclose(masks[2], sam.predict(case.image, box=(box,)).probability, atol=1e-5)
    assert np.abs(masks[0] - masks[2]).max() > 0.01
    assert (masks[1] > np.minimum(masks[0], masks[2]) - 1e-5).all()
    assert (masks[1] < np.maximum(masks[0], masks[2]) + 1e-5).all()


def test_an_empty_mask_is_said(model: CEmbSam, case) -> None:
    result = model.predict(case.image, box=((20, 30, 60, 70), (5, 5, 20, 20)), condition="benign", threshold=1.0)
    assert not result.mask.any()
    assert sum("reaches the threshold of 1 (at most" in note for note in result.notes) == 2


def test_a_condition_may_be_a_number(model: CEmbSam, case, box) -> None:
    named, numbered = (model.predict(case.image, box=(box,), condition=c) for c in ("normal", "2"))
    assert np.array_equal(named.probability, numbered.probability)


def test_several_boxes_are_several_objects_from_one_pass_of_the_encoder(model: CEmbSam, case, box) -> None:
    calls = []
    model.base.sam.vision_encoder.register_forward_hook(lambda *_: calls.append(1))
    other = (5.0, 5.0, 40.0, 30.0)
    both = model.predict(case.image, box=(box, other))
    assert len(calls) == 1
    assert both.objects.shape == (2, 96, 96)
    assert np.array_equal(both.mask, both.objects.max(0))
    first = model.predict(case.image, box=(box,))
    np.testing.assert_allclose(both.objects[0], first.mask)
    assert model.predict(case.image, box=box).objects.shape[0] == 1  # one box needs no second bracket


def test_results_are_written_with_one_number_for_each_box(model: CEmbSam, case, box, tmp_path: Path) -> None:
    result = model.predict(case.image, box=(box, (5, 5, 40, 30)))
    written = {path.name for path in result.save(tmp_path, "r")}
    assert written == {"r.png", "r.json", "r_mask.png", "r_objects.png"}
    assert json.loads((tmp_path / "r.json").read_text())["boxes"][1] == [5, 5, 40, 30]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "cemb-sam needs box"),
        ({"box": ((60, 0, 150, 20),)}, "reaches out of the image, which is 96 px wide"),
        ({"box": ((30, 0, 10, 20),)}, "empty or inverted"),
        ({"box": ((0, 0, 9, 9),), "point": ((96, 3),)}, "point 96,3 is not on the image"),
        ({"box": ((0, 0, 9, 9), (3, 3, 9, 9)), "point": ((6, 3),)}, "2 boxes were given"),
        ({"box": ((0, 0, 9, 9),), "mask": np.ones((5, 5), np.uint8)}, "the mask is 5 x 5 px and the image 96 x 96"),
        ({"box": ((0, 0, 9, 9),), "mask": np.zeros((96, 96), np.uint8)}, "the mask is empty"),
        ({"box": ((0, 0, 9, 9),), "condition": "cyst"}, r"no condition 'cyst'; choose one of benign \(0\)"),
        ({"box": ((0, 0, 9, 9),), "condition": "3"}, "no condition '3'"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(model: CEmbSam, case, given: dict, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        model.predict(case.image, **given)


def test_a_box_a_pixel_over_the_edge_is_cut_there_with_a_note(model: CEmbSam, case) -> None:
    over, at = (model.predict(case.image, box=((0, 0, x, 20),), condition="benign") for x in (97, 96))
    assert np.array_equal(over.probability, at.probability)
    assert any("reached over the edge and was cut to 0,0,96,20" in note for note in over.notes)


def test_the_figure_shows_every_condition_when_it_was_inferred(model: CEmbSam, case, box) -> None:
    inferred, stated = (model.predict(case.image, box=(box,), condition=c) for c in (None, "benign"))
    assert len(inferred.panels()) == 4  # no head: all conditions are tried
    assert len(stated.panels()) == 3
    assert inferred.figure().width > stated.figure().width


@pytest.mark.parametrize("method", ["decoder-only", "zero-shot"])
def test_arms_without_the_block_say_that_a_condition_was_not_used(tiny_sam: str, case, box, method: str) -> None:
    model = CEmbSam(CEmbSamConfig(sam=tiny_sam, method=method)).eval()
    result = model.predict(case.image, box=(box,), condition="benign")
    assert result.to_dict()["condition"] is None
    assert "benign was not used" in result.notes[0]


def test_the_u_net_needs_no_sam(case, box) -> None:
    model = CEmbSam(CEmbSamConfig(method="u-net", sam="nowhere", unet_features=(4, 4, 8, 8, 8, 4))).eval()
    result = model.predict(case.image, box=(box,))
    assert result.mask.shape == (96, 96)
    assert not result.quality


# ---- the demo weights, on what they were not trained for ----

# Outlines of the two lymph nodes on sample:ultrasound, drawn by hand, in quarter pixels of it
NODES = (
    ((140, 420), (175, 370), (230, 340), (320, 330), (420, 338), (540, 350), (620, 365), (625, 440), (590, 470),
     (555, 500), (530, 530), (470, 552), (380, 552), (290, 535), (220, 505), (170, 475)),
    ((632, 365), (700, 380), (740, 390), (770, 345), (820, 322), (900, 325), (970, 340), (1020, 370), (1045, 400),
     (1030, 450), (980, 490), (900, 515), (820, 530), (740, 535), (670, 520), (635, 490)),
)  # fmt: skip


def drawn(outline: tuple[tuple[int, int], ...]) -> np.ndarray:
    canvas = PILImage.new("L", (320, 240))
    ImageDraw.Draw(canvas).polygon([(x / 3.97, y / 3.97) for x, y in outline], fill=1)
    return np.asarray(canvas) > 0


def around(mask: np.ndarray, by: int) -> tuple[float, float, float, float]:
    found = box_around(mask)
    height, width = mask.shape
    return max(found.x0 - by, 0), max(found.y0 - by, 0), min(found.x1 + by, width), min(found.y1 + by, height)


@pytest.mark.parametrize("looks", [2, 8])
def test_the_demo_finds_a_dark_disc_in_gamma_speckle(demo, looks: int) -> None:
    y, x = np.mgrid[:256, :256]
    scores = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        disc = np.hypot(x - rng.uniform(80, 176), y - rng.uniform(80, 176)) < rng.uniform(25, 55)
        image = np.where(disc, 0.25, 0.9) * rng.gamma(looks, 1 / looks, disc.shape)
        image = (255 * np.clip(image / np.percentile(image, 99), 0, 1)).astype(np.uint8)
        scores.append(dice(demo("cemb-sam").predict(image, box=(around(disc, 4),)).mask > 0, disc))
    assert min(scores) > 0.7, scores
    assert np.mean(scores) > 0.85, scores


def test_the_demo_does_not_fall_below_the_small_sam_on_a_real_image(demo) -> None:
    model = demo("cemb-sam")
    sam = CEmbSam(replace(model.config, method="zero-shot", infers=False)).eval()
    sam.decoder.load_state_dict(sam.base.sam.mask_decoder.state_dict())
    masks = [drawn(outline) for outline in NODES]
    for by in (0, 4):
        own, other = (
            [dice(each.predict("sample:ultrasound", box=(around(m, by),)).mask > 0, m) for m in masks]
            for each in (model, sam)
        )
        assert np.mean(own) > np.mean(other), (own, other)


@pytest.mark.slow
@pytest.mark.parametrize("style", ["breast", "any"])
def test_the_demo_does_not_fall_below_the_small_sam_on_phantoms(demo, style: str) -> None:
    model = demo("cemb-sam")
    sam = CEmbSam(replace(model.config, method="zero-shot", infers=False)).eval()
    sam.decoder.load_state_dict(sam.base.sam.mask_decoder.state_dict())
    scores = []
    for seed in range(81_000, 81_024):
        case = ultrasound(seed, style=style, group=("benign", "malignant")[seed % 2])
        mask = case.masks["mask"] > 0
        for by in (0, 4):
            box = (around(mask, by),)
            scores.append([dice(each.predict(case.image, box=box).mask > 0, mask) for each in (model, sam)])
    own, other = np.mean(scores, axis=0)
    assert own > other


def test_the_demo_never_calls_a_boxed_lesion_normal(demo) -> None:
    for seed in range(6):
        case = ultrasound(40_000 + seed, size=128, style="both", group=("benign", "malignant")[seed % 2])
        result = demo("cemb-sam").predict(case.image, box=(around(case.masks["mask"] > 0, 2),))
        assert result.condition in ("benign", "malignant", "")
        assert result.known["normal"] < 1e-6
