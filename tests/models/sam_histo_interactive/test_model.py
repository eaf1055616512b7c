"""The refinement decoder, its rivals, and a user who clicks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zoo.data.phantoms.he_tile import he_tile
from zoo.errors import OptionError
from zoo.models.sam_histo_interactive.model import (
    ConvBlock,
    GlobalSelfAttention,
    RefineDecoder,
    SamHistoConfig,
    SamHistoInteractive,
    UpConvBlock,
    WideDecoder,
)
from zoo.nn.promptable import SMALL, DecoderConfig, Promptable, load_sam


@pytest.fixture(scope="module")
def model(tiny_sam: str) -> SamHistoInteractive:
    torch.manual_seed(0)
    return SamHistoInteractive(SamHistoConfig(sam=tiny_sam)).eval()


@pytest.fixture(scope="module")
def case():
    return he_tile(3, size=96)


# ---- the decoder ----


def test_parts_have_the_sizes_that_the_paper_implies() -> None:
    def count(module: torch.nn.Module) -> int:
        norms = {id(p) for m in module.modules() if isinstance(m, torch.nn.InstanceNorm2d) for p in m.parameters()}
        return sum(p.numel() for p in module.parameters() if id(p) not in norms)

    with torch.device("meta"):
        decoder = RefineDecoder(DecoderConfig(), 8)
    assert count(decoder.attention) == 263_680
    assert [count(block) for block in decoder.blocks] == [983_680, 246_080, 57_472]
    assert count(decoder.head) == 33


def test_shapes_are_those_of_figure_2c() -> None:
    with torch.device("meta"):
        decoder, x = RefineDecoder(DecoderConfig(), 8), torch.zeros(1, 256, 64, 64)
    shapes = []
    for block in decoder.blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(128, 128, 128), (64, 256, 256), (32, 256, 256)]


def test_a_block_is_two_convolutions_with_a_shortcut() -> None:
    torch.manual_seed(0)
    block, x = ConvBlock(8), torch.randn(2, 8, 5, 6)

    def normal(y: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(y, (2, 3), keepdim=True, correction=0)
        return (y - mean) / (variance + 1e-5).sqrt()

    inner = F.gelu(normal(block.conv1(x)))
    torch.testing.assert_close(block(x), F.gelu(normal(block.conv2(inner)) + block.shortcut(x)))
    assert UpConvBlock(8)(x).shape == (2, 4, 10, 12)


def test_attention_reads_the_whole_image_and_adds_to_it() -> None:
    torch.manual_seed(0)
    attention, x, position = GlobalSelfAttention(16, 4), torch.randn(1, 16, 6, 6), torch.randn(1, 16, 6, 6)
    changed = x.clone()
    changed[0, :, 5, 5] += 3 * torch.randn(16)
    difference = (attention(changed, position) - attention(x, position)).abs().amax(1)[0]
    assert difference[0, 0] > 1e-4  # far away too
    torch.nn.init.zeros_(attention.attention.out_proj.weight)
    torch.nn.init.zeros_(attention.attention.out_proj.bias)
    torch.testing.assert_close(attention(x, position), x)


def test_the_wide_control_is_as_large_as_the_decoder(tiny_sam: str) -> None:
    refine, wide = (SamHistoInteractive(SamHistoConfig(sam=tiny_sam, method=m)) for m in ("refine", "wide"))
    assert isinstance(wide.decoder, WideDecoder)
    sizes = [sum(p.numel() for p in one.parameters()) for one in (refine, wide)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.03)


def test_the_transformer_starts_from_sams(tiny_sam: str) -> None:
    sam = load_sam(tiny_sam, needed_by="a test")
    decoder = RefineDecoder(SMALL, 8)
    decoder.start_from(sam.mask_decoder)
    state = decoder.state_dict()
    for name, tensor in sam.mask_decoder.state_dict().items():
        if name.startswith(("transformer", "iou_token", "mask_tokens")):
            assert torch.equal(state[name], tensor)


# ---- a user who clicks ----


def test_clicks_are_answered_one_after_the_other(model: SamHistoInteractive, case) -> None:
    clicks = ((20, 30, 1), (70, 80, 0), (40, 12, 1))
    found = model.predict(case.image, click=clicks)
    session = model.session(case.image)
    for t, (x, y, label) in enumerate(clicks):
        assert np.array_equal(session.click(x, y, label), found.answers[t])
    assert np.array_equal(found.mask, session.mask)
    assert found.mask.shape == found.probability.shape == (96, 96)
    reordered = model.predict(case.image, click=(clicks[2], clicks[1], clicks[0]))
    assert not np.array_equal(reordered.probability, found.probability)


def test_the_answer_before_changes_the_next_one_and_a_mask_may_start_it(model: SamHistoInteractive, case) -> None:
    whole = model.predict(case.image, click=((20, 30, 1), (70, 80, 1)))
    alone = model.session(case.image)
    alone.click(20, 30)
    step = alone.steps[0]
    alone.steps[0] = type(step)(step.point, -10 * torch.ones_like(step.logits), 0.0)
    alone.click(70, 80)
    assert not np.allclose(alone.probability, whole.probability, atol=1e-4)
    half = np.zeros((96, 96), np.uint8)
    half[:, :48] = 1
    started, plain = (model.predict(case.image, click=((20, 30, 1),), previous=p) for p in (half, None))
    assert not np.allclose(started.probability, plain.probability, atol=1e-4)


def test_simulated_clicks_give_the_whole_trace(model: SamHistoInteractive, case, tmp_path: Path) -> None:
    truth = case.masks["tumour"]
    found = model.predict(case.image, simulate_gt=truth, most=5)
    assert found.trace is not None
    assert 1 <= len(found.clicks) <= 5
    assert found.clicks[0].inside
    assert truth[int(found.clicks[0].y), int(found.clicks[0].x)] == 1
    for answer, value in zip(found.answers, found.trace.iou, strict=True):
        assert value == pytest.approx((answer & (truth > 0)).sum() / (answer | (truth > 0)).sum())
    record = json.loads(json.dumps(found.to_dict()))
    assert len(record["clicks"]) == len(found.clicks)
    assert record["measurements"]["noc_90"] <= 5
    assert record["spc"] > 0
    assert [panel.title for panel in found.panels()][-1] == "IoU over clicks"
    assert {path.name for path in found.save(tmp_path, "r")} == {"r.png", "r.json", "r_mask.png"}


def test_given_clicks_are_measured_and_simulated_ones_follow(model: SamHistoInteractive, case) -> None:
    found = model.predict(case.image, click=((20, 30, 1),), simulate_gt=case.masks["tumour"], most=3)
    assert found.trace is not None
    assert (found.clicks[0].x, found.clicks[0].y) == (20, 30)
    assert len(found.trace.iou) == len(found.trace.seconds) == len(found.clicks) <= 3


def test_zero_shot_is_sam_and_its_first_click_chooses_among_three(tiny_sam: str, case) -> None:
    model = SamHistoInteractive(SamHistoConfig(sam=tiny_sam, method="zero-shot")).eval()
    model.decoder.load_state_dict(model.base.sam.mask_decoder.state_dict())
    from zoo.nn.promptable import Session

    session = Session(Promptable(model.base.sam), case.image)
    session.click(20, 30)
    session.click(70, 80, 0)
    found = model.predict(case.image, click=((20, 30, 1), (70, 80, 0)))
    assert np.allclose(found.probability, session.probability, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, r"needs click .* add --with click=x,y,label or --with simulate_gt=\.\.\."),
        ({"simulate_gt": np.zeros((96, 96), np.uint8)}, "nothing to click on"),
        ({"simulate_gt": np.ones((5, 6), np.uint8)}, "the mask is 6 x 5 px and the image 96 x 96"),
        ({"click": ((3, 3, 1),), "previous": np.ones((5, 6), np.uint8)}, "the mask is 6 x 5 px"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(model: SamHistoInteractive, case, given: dict, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        model.predict(case.image, **given)
