"""Low-rank updates, the decoder by class, and what a user may ask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.data.phantoms.surgical_frame import surgical_frame
from zoo.errors import OptionError
from zoo.models.surgical_sam_lora.model import (
    Adapted,
    EncoderConfig,
    LowRank,
    SurgicalSam,
    SurgicalSamConfig,
    doubts_of,
    prompts_of,
)
from zoo.nn.promptable import (
    Box,
    DecoderConfig,
    Grid,
    Point,
    Prompt,
    decode,
    encode_prompts,
    find_everything,
    load_sam,
    mask_side,
)

TINY = EncoderConfig(2, 24)


@pytest.fixture(scope="module")
def case():
    return surgical_frame(0, size=80)


@pytest.fixture
def model(tiny_sam: str) -> SurgicalSam:
    torch.manual_seed(0)
    grid = Grid(points=4, quality=-1e9, stability=0.0, overlap=1.0)
    return SurgicalSam(SurgicalSamConfig(sam=tiny_sam, prompted=tiny_sam, grid=grid, encoder=TINY)).eval()


def moved(model: SurgicalSam) -> SurgicalSam:
    """With updates that do something."""
    assert model.updates is not None
    with torch.no_grad():
        for update in model.updates:
            update.up_q.weight.normal_(std=0.1)
            update.up_v.weight.normal_(std=0.1)
    return model


# ---- Sec. 6 ----


def test_updates_of_zero_leave_sam_as_it_is(model: SurgicalSam, tiny_sam: str) -> None:
    x = torch.randn(2, 3, 64, 64)
    plain = load_sam(tiny_sam, needed_by="a test").vision_encoder(x).last_hidden_state
    assert torch.equal(model.base.sam.vision_encoder(x).last_hidden_state, plain)
    assert not torch.allclose(moved(model).base.sam.vision_encoder(x).last_hidden_state, plain, atol=1e-4)


def test_an_update_is_w_a_w_b_on_queries_and_values_and_leaves_keys(model: SurgicalSam) -> None:
    update = LowRank(6, 2)
    torch.nn.init.normal_(update.up_q.weight)
    torch.nn.init.normal_(update.up_v.weight)
    x = torch.randn(5, 6)
    q, k, v = update(x).split(6, dim=1)
    torch.testing.assert_close(q, x @ update.down_q.weight.T @ update.up_q.weight.T)
    torch.testing.assert_close(v, x @ update.down_v.weight.T @ update.up_v.weight.T)
    assert not k.any()
    torch.testing.assert_close(x @ update.matrix().T, update(x))
    assert torch.linalg.matrix_rank(update.matrix()) == 4  # rank 2 each


def test_merged_equals_unmerged(model: SurgicalSam) -> None:
    x = torch.randn(2, 3, 64, 64)
    merged = moved(model).merged()
    assert not any(isinstance(part, Adapted) for part in merged.modules())
    apart = model.base.sam.vision_encoder(x).last_hidden_state
    torch.testing.assert_close(merged.vision_encoder(x).last_hidden_state, apart, rtol=1e-5, atol=1e-5)
    assert any(isinstance(part, Adapted) for part in model.base.sam.modules())  # the model itself stays as it was


def test_at_the_papers_size_it_trains_what_the_paper_says() -> None:
    """18.28 MB (Sec. 6) are decoder, updates and the prompt encoder, of which we keep what is ever read."""
    config = SurgicalSamConfig(classes=tuple("abcdefg"), encoder=EncoderConfig(), decoder=DecoderConfig())
    with torch.device("meta"):
        model = SurgicalSam(config)
    trained = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert trained == {"decoder": 4_619_624, "updates": 147_456}
    assert model.default is not None
    assert model.default.numel() == 256
    assert all(p.requires_grad for p in model.parameters())
    whole_prompt_encoder = 6_220
    assert 4 * (sum(trained.values()) + whole_prompt_encoder) / 2**20 == pytest.approx(18.28, abs=0.08)


@pytest.mark.parametrize("method", ["lora", "decoder-only", "u-net", "ternausnet"])
def test_every_method_has_a_logit_for_every_class_and_frames_do_not_mix(tiny_sam: str, method) -> None:
    config = SurgicalSamConfig(method, tiny_sam, 64, encoder=TINY, unet_features=(4,) * 6)
    model, x = SurgicalSam(config).eval(), torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        together, alone = model(x), model(x[1:2])
    assert together.shape[:2] == (3, 4)
    assert together.shape[2] == (64 if model.plain is not None else 32)  # SAM's are smaller
    assert (model.updates is not None) == (method == "lora")
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


# ---- what a user asks ----


def test_without_prompts_every_pixel_has_a_class(model: SurgicalSam, case) -> None:
    found = model.predict(case.image)
    assert found.mask.shape == case.image.shape[:2]
    assert found.labels == ("background", "grasper", "scissors", "hook")
    assert found.probability is not None
    np.testing.assert_allclose(found.probability.sum(0), 1, atol=1e-5)
    assert np.array_equal(found.probability.argmax(0), found.mask)
    assert found.to_dict()["mode"] == "auto"


def test_a_mask_has_the_class_of_its_prompt(model: SurgicalSam, case) -> None:
    boxes = ((5, 5, 40, 40), (30, 30, 75, 75))
    found = model.predict(case.image, box=boxes, label=("hook", "hook"))
    assert found.labels == ("background", "hook")
    numbered = model.predict(case.image, box=boxes)
    assert numbered.labels == ("background", "box 1", "box 2")
    assert np.array_equal(found.mask > 0, numbered.mask > 0)
    assert len(numbered.quality) == 2
    assert numbered.to_dict()["boxes"] == [list(box) for box in boxes]


def test_where_masks_overlap_the_higher_logit_wins(model: SurgicalSam, case) -> None:
    one, two = (5, 5, 70, 70), (10, 10, 60, 60)
    alone = [model.predict(case.image, box=[box]) for box in (one, two)]
    both = model.predict(case.image, box=[one, two])
    first, second = (found.probability for found in alone)
    assert first is not None
    assert second is not None
    clear = np.abs(first - second) > 1e-4
    expected = np.where(np.maximum(first, second) > 0.5, np.where(first > second, 1, 2), 0)
    assert np.array_equal(both.mask[clear], expected[clear])


def test_a_point_takes_the_mask_of_three_that_sam_expects_most_of(model: SurgicalSam, case) -> None:
    found = model.predict(case.image, point=(40, 40))
    base, image = model.prompted, model.prompted.embed(case.image)
    prompts = image.frame.tensors([Prompt(points=(Point(40.0, 40.0),))], mask_side(base.sam), "cpu")
    with torch.no_grad():
        low, quality = decode(base.sam, image.features, encode_prompts(base.sam, prompts), multimask=True)
        best = int(quality[0].argmax())
        expected = image.frame.logits(low[:, best : best + 1])[0, 0].sigmoid().numpy()
    np.testing.assert_allclose(found.probability, expected, atol=1e-5)
    assert found.quality == {"1: point 1": pytest.approx(float(quality[0, best]), abs=1e-5)}


def test_all_that_can_be_told_apart_has_a_number_each_small_masks_above(model: SurgicalSam, case) -> None:
    found = model.predict(case.image, mode="amg")
    masks = find_everything(model.prompted, case.image, model.config.grid)
    assert len(found.labels) == 1 + len(masks) > 2
    assert (found.mask[sorted(masks, key=lambda one: -one.area)[-1].full()] == len(masks)).all()
    assert found.legend() == []


def test_a_mask_beyond_its_box_is_said_and_a_box_over_the_edge_is_cut(model: SurgicalSam, case) -> None:
    prompts = (Prompt(Box(10, 10, 20, 20)), Prompt(Box(30, 30, 50, 50)), Prompt(Box(60, 60, 70, 70)))
    masks = torch.zeros(3, 80, 80, dtype=torch.bool)
    masks[0, 9:21, 9:21] = masks[1, :, 48:60] = True
    assert doubts_of(("a", "b", "c"), prompts, masks) == [
        "90% of the mask of b lies beyond its box, which may hold no instrument",
        "nothing was found for c",
    ]
    assert "cut to 30,30,80,80" in model.predict(case.image, box=[(30, 30, 83, 80)]).notes[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "box"}, "needs at least one box"),
        ({"mode": "auto", "box": [(1, 1, 9, 9)]}, "takes no prompts"),
        ({"mode": "point", "box": [(1, 1, 9, 9)]}, "takes no box"),
        ({"box": [(1, 1, 9, 9)], "point": [(3, 3)]}, "boxes or points"),
        ({"box": [(1, 1, 9, 9)], "label": ["hook", "hook"]}, "1 boxes or points and 2 labels"),
        ({"label": ["hook"]}, "a label needs its box"),
    ],
)
def test_prompts_that_do_not_go_together_are_refused(options, words: str) -> None:
    given = {"mode": None, "box": None, "point": None, "label": None, **options}
    with pytest.raises(OptionError, match=words):
        prompts_of(**given)
