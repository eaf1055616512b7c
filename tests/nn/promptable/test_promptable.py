"""Embed once, ask often; and the joints at which papers add their ideas."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from zoo.errors import OptionError
from zoo.nn.promptable import (
    Box,
    Mask,
    Point,
    Prompt,
    Promptable,
    add_mask_tokens,
    all_masks,
    before_neck,
    decode,
    encode_prompts,
    mask_side,
    two_way,
)
from zoo.nn.promptable.frame import Tensors


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_an_image_is_encoded_once_for_all_questions(sam, image: np.ndarray) -> None:
    calls = []
    sam.vision_encoder.register_forward_hook(lambda *_: calls.append(1))
    promptable = Promptable(sam)
    for _ in range(3):
        answer = promptable.ask(promptable.embed(image), [Prompt(Box(0, 0, 20, 20)), Prompt(Box(10, 5, 60, 40))])
    assert len(calls) == 1
    assert answer.logits.shape == (2, 1, 32, 32)
    assert answer.quality.shape == (2, 1)
    promptable.embed(image + 1)
    assert len(calls) == 2


def test_other_weights_give_other_features(sam, image: np.ndarray) -> None:
    one = Promptable(sam)
    first = one.embed(image).features
    changed = copy.deepcopy(sam)
    with torch.no_grad():
        changed.vision_encoder.neck.conv1.weight.mul_(0.5)
    assert not torch.equal(Promptable(changed, cache=one.cache).embed(image).features, first)


def test_it_answers_as_transformers_does(sam, image: np.ndarray) -> None:
    promptable = Promptable(sam)
    embedded = promptable.embed(image)
    prompt = Prompt(Box(3, 4, 30, 33), (Point(10, 11), Point(40, 35, inside=False)))
    found = promptable.ask(embedded, [prompt])
    scale = 64 / 60
    expected = sam(
        pixel_values=embedded.frame.pixels(torch.from_numpy(image)),
        input_boxes=torch.tensor([[[3.0, 4, 30, 33]]]) * scale,
        input_points=torch.tensor([[[[10.0, 11], [40, 35]]]]) * scale,
        input_labels=torch.tensor([[[1, 0]]]),
        multimask_output=False,
    )
    torch.testing.assert_close(found.logits, expected.pred_masks[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.quality, expected.iou_scores[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["box", "points", "mask", "all"])
def test_objects_asked_together_answer_as_one_by_one(sam, image: np.ndarray, kind: str) -> None:
    inside = np.zeros((3, 40, 60), bool)
    inside[0, 5:20, 5:30], inside[1, 20:30, 30:50], inside[2, 0:40, 0:10] = True, True, True
    box = kind in ("box", "all")
    prompts = [
        Prompt(
            Box(5 + 10 * i, 5 * i, 20 + 15 * i, 30) if box else None,
            (Point(3 + i, 4),) * (1 + i) if kind in ("points", "all") else (),
            Mask(inside[i]) if kind in ("mask", "all") else None,
        )
        for i in range(3)
    ]
    promptable = Promptable(sam)
    embedded = promptable.embed(image)
    together = promptable.ask(embedded, prompts).logits
    for i, prompt in enumerate(prompts):
        alone = promptable.ask(embedded, [prompt]).logits
        if kind == "points" or (kind == "all" and i < 2):
            continue  # a missing point is a token that says nothing, which still takes part in attention
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_a_prompt_off_the_image_is_refused(sam, image: np.ndarray) -> None:
    promptable = Promptable(sam)
    with pytest.raises(OptionError, match="60 px wide and 40 px high"):
        promptable.ask(promptable.embed(image), [Prompt(Box(0, 0, 61, 10))])


def test_gradients_reach_the_place_of_a_click(sam, image: np.ndarray) -> None:
    embedded = Promptable(sam).embed(image)
    xy = torch.tensor([[[[20.0, 15.0]]]], requires_grad=True)
    given = Tensors(points=embedded.frame.into(xy), labels=torch.ones(1, 1, 1, dtype=torch.long))
    decode(sam, embedded.features, encode_prompts(sam, given)).logits.mean().backward()
    assert xy.grad is not None
    assert xy.grad.abs().min() > 0
    step = 1e-2
    with torch.no_grad():

        def value(x: float) -> float:
            moved = Tensors(points=embedded.frame.into(torch.tensor([[[[x, 15.0]]]])), labels=given.labels)
            return float(decode(sam, embedded.features, encode_prompts(sam, moved)).logits.double().mean())

        slope = (value(20 + step) - value(20 - step)) / (2 * step)
    assert float(xy.grad[0, 0, 0, 0]) == pytest.approx(slope, rel=0.1, abs=1e-4)


def test_a_plugin_may_put_features_and_decoder_of_its_own(sam, image: np.ndarray) -> None:
    embedded = Promptable(sam).embed(image)
    prompts = encode_prompts(sam, embedded.frame.tensors([Prompt(Box(0, 0, 9, 9))] * 2, mask_side(sam)))
    plain = decode(sam, embedded.features, prompts)
    other = copy.deepcopy(sam.mask_decoder)
    torch.testing.assert_close(decode(sam, embedded.features, prompts, decoder=other).logits, plain.logits)
    assert not torch.allclose(decode(sam, embedded.features.roll(3, -1), prompts).logits, plain.logits, atol=1e-3)
    each = torch.cat([embedded.features, embedded.features.roll(3, -1)])  # one image per object
    torch.testing.assert_close(decode(sam, each, prompts).logits[:1], plain.logits[:1], rtol=1e-3, atol=1e-3)


def test_more_mask_tokens_keep_the_old_ones(sam, image: np.ndarray) -> None:
    embedded = Promptable(sam).embed(image)
    prompts = encode_prompts(sam, embedded.frame.tensors([Prompt(Box(0, 0, 9, 9))], mask_side(sam)))
    torch.manual_seed(0)
    add_mask_tokens(sam.mask_decoder, 8)
    found = decode(sam, embedded.features, prompts, multimask=True)
    assert found.logits.shape == (1, 7, 32, 32)
    assert found.quality.shape == (1, 7)
    assert sum(p.numel() for p in sam.mask_decoder.mask_tokens.parameters()) == 8 * 64


def test_all_masks_are_those_that_the_decoder_gives_in_two_calls(sam, image: np.ndarray) -> None:
    first = Promptable(sam).embed(image)
    each = torch.cat([first.features, first.features.roll(3, -1)])
    prompts = encode_prompts(sam, first.frame.tensors([Prompt(Box(0, 0, 9, 9))] * 2, mask_side(sam)))
    for features in (first.features, each):  # of one image for both objects, and of one each
        found = all_masks(sam, features, prompts)
        for one, part in ((False, slice(0, 1)), (True, slice(1, 4))):
            plain = decode(sam, features, prompts, multimask=one)
            torch.testing.assert_close(found.logits[:, part], plain.logits, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found.quality[:, part], plain.quality, rtol=1e-4, atol=1e-4)


def test_the_two_way_transformer_is_the_decoders(sam, image: np.ndarray) -> None:
    embedded = Promptable(sam).embed(image)
    prompts = encode_prompts(sam, embedded.frame.tensors([Prompt(Box(0, 0, 9, 9)), Prompt(Box(9, 9, 30, 30))], 32))
    seen: list[torch.Tensor] = []
    sam.mask_decoder.upscale_conv1.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    decode(sam, embedded.features, prompts)
    tokens, read = two_way(sam, embedded.features, prompts)
    assert tokens.shape == (2, 1 + 4 + 2, 64)
    torch.testing.assert_close(read, seen[0], rtol=1e-4, atol=1e-4)


def test_features_before_the_neck_lead_to_those_after_it(sam) -> None:
    pixels = torch.randn(1, 3, 64, 64)
    features = before_neck(sam, pixels)
    assert features.shape == (1, 24, 8, 8)
    after = sam.vision_encoder.neck(features.permute(0, 2, 3, 1))
    torch.testing.assert_close(after, sam.get_image_embeddings(pixels))
