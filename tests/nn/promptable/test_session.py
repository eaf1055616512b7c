"""Encode once, answer often."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.errors import OptionError
from zoo.nn.promptable import Promptable, Session, inside_of
from zoo.nn.promptable.prompts import Prompt


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_the_encoder_runs_once_for_all_clicks(sam, image: np.ndarray) -> None:
    calls = []
    sam.vision_encoder.register_forward_hook(lambda *_: calls.append(1))
    session = Session(Promptable(sam), image)
    for x in (3, 20, 50):
        assert session.click(x, 10).shape == (40, 60)
    session.click(8, 30, 0)
    assert len(calls) == 1
    assert [point.inside for point in session.clicks] == [True, True, True, False]
    assert session.probability.shape == (40, 60)
    assert all(step.seconds > 0 for step in session.steps)


def test_every_answer_goes_back_as_the_mask_prompt_of_the_next_click(sam, image: np.ndarray) -> None:
    seen = []

    def answer(embedded, prompts):
        seen.append(prompts)
        return torch.full((1, 1, 32, 32), float(len(seen)))

    session = Session(Promptable(sam), image, answer)
    session.click(3, 4)
    session.click(5, 6, 0)
    assert seen[0].masks is None
    assert seen[1].masks.unique().tolist() == [1.0]
    assert seen[1].labels.tolist() == [[[1, 0]]]
    places = session.embedded.frame.into(torch.tensor([[[[3.0, 4.0], [5.0, 6.0]]]]))
    torch.testing.assert_close(seen[1].points, places)


def test_what_is_fed_back_matters_to_sams_own_decoder(sam, image: np.ndarray) -> None:
    one, other = Session(Promptable(sam), image), Session(Promptable(sam), image)
    one.click(20, 20)
    other.click(20, 20)
    other.steps[0] = type(other.steps[0])(other.steps[0].point, -20 * other.steps[0].logits, 0.0)
    one.click(30, 20)
    other.click(30, 20)
    assert not torch.allclose(one.steps[1].logits, other.steps[1].logits, atol=1e-3)


def test_a_click_that_is_taken_back_leaves_no_trace(sam, image: np.ndarray) -> None:
    session = Session(Promptable(sam), image)
    first = session.click(20, 20)
    session.click(50, 30, 0)
    session.undo()
    assert np.array_equal(session.mask, first)
    again = session.click(50, 30, 0)
    fresh = Session(Promptable(sam), image)
    fresh.click(20, 20)
    assert np.array_equal(fresh.click(50, 30, 0), again)
    for _ in range(2):
        session.undo()
    assert not session.mask.any()
    with pytest.raises(OptionError, match="no click to take back"):
        session.undo()
    with pytest.raises(OptionError, match="before the first click"):
        _ = session.probability


def test_a_session_may_start_from_a_mask(sam, image: np.ndarray) -> None:
    before = np.zeros((40, 60), bool)
    before[10:30, 10:40] = True
    given = []

    def answer(embedded, prompts):
        given.append(prompts.masks)
        return torch.zeros(1, 1, 32, 32)

    Session(Promptable(sam), image, answer, previous=before).click(20, 20)
    frame = Promptable(sam).frame(40, 60)
    from zoo.nn.promptable import Mask

    torch.testing.assert_close(given[0], frame.tensors([Prompt(mask=Mask(before))], 32).masks)


def test_the_first_click_takes_the_best_of_three_masks(sam, image: np.ndarray) -> None:
    promptable = Promptable(sam)
    session = Session(promptable, image)
    session.click(20, 20)
    from zoo.nn.promptable import Point, decode, encode_prompts

    embedded = promptable.embed(image)
    prompts = encode_prompts(sam, embedded.frame.tensors([Prompt(points=(Point(20, 20),))], 32))
    logits, quality = decode(sam, embedded.features, prompts, multimask=True)
    torch.testing.assert_close(session.steps[0].logits[0, 0], logits[0, quality[0].argmax()])


@pytest.mark.parametrize(("click", "sentence"), [((60, 3, 1), "not on the image"), ((3, 3, 2), "1 inside the object")])
def test_wrong_clicks_are_refused(sam, image: np.ndarray, click: tuple, sentence: str) -> None:
    session = Session(Promptable(sam), image)
    with pytest.raises(OptionError, match=sentence):
        session.click(*click)
    assert session.clicks == ()


def test_labels_of_both_conventions_are_understood() -> None:
    assert [inside_of(label) for label in (1, 0, -1, True, False)] == [True, False, False, True, False]
