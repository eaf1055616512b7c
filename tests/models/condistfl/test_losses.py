"""The losses: merged backgrounds, conditional probabilities, what is masked, and where the released code differs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo.models.condistfl import CLASSES
from zoo.models.condistfl.losses import (
    Losses,
    condist_loss,
    conditional_probabilities,
    foreground_filter,
    local_labels,
    marginal_loss,
    merged_logits,
    organ_groups,
    soft_dice_loss,
)

CLIENTS = {"liver": (1, 2), "spleen": (3,), "pancreas": (4, 5), "kidney": (6, 7)}
AS_RELEASED = Losses(temperature=2.0, cross_entropy="probabilities", smooth=0.0, conditional="divided")
clients = st.sampled_from(list(CLIENTS.values()))
seeds = st.integers(0, 2**16)


def drawn(seed: int, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of student and teacher, and labels of all classes."""
    chance = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(2, 8, 4, 3, 2, generator=chance) for _ in range(2))
    return student, teacher, torch.randint(0, 8, (2, 4, 3, 2), generator=chance)


@pytest.mark.parametrize(
    ("organ", "groups"),
    [
        ("liver", [[0], [3], [4, 5], [6, 7]]),
        ("spleen", [[0], [1, 2], [4, 5], [6, 7]]),
        ("pancreas", [[0], [1, 2], [3], [6, 7]]),
        ("kidney", [[0], [1, 2], [3], [4, 5]]),
    ],
)
def test_the_groups_are_the_organs_that_a_client_has_not_annotated(organ: str, groups: list[list[int]]) -> None:
    assert organ_groups(CLASSES, CLIENTS[organ]) == groups


@settings(deadline=None)
@given(seeds, clients)
def test_merged_logits_have_the_merged_probabilities(seed: int, foreground: tuple[int, ...]) -> None:
    logits, _, _ = drawn(seed)
    p = logits.softmax(1)
    others = [k for k in range(8) if k not in foreground]
    expected = torch.cat([p[:, others].sum(1, keepdim=True), p[:, list(foreground)]], 1)  # Eq. 1
    torch.testing.assert_close(merged_logits(logits, foreground).softmax(1), expected, rtol=1e-4, atol=1e-6)


def test_what_is_not_annotated_is_background() -> None:
    y = torch.arange(8)[None]
    assert local_labels(y, (4, 5)).tolist() == [[0, 0, 0, 0, 1, 2, 0, 0]]


@settings(deadline=None)
@given(seeds, clients)
def test_conditional_probabilities_are_those_of_the_formula_and_sum_to_one(
    seed: int, foreground: tuple[int, ...]
) -> None:
    logits, _, _ = drawn(seed)
    groups, how = organ_groups(CLASSES, foreground), Losses()
    found = conditional_probabilities(logits, foreground, groups, how)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 4, 3, 2))
    p = (logits.double() / how.temperature).softmax(1)
    rest = 1 - p[:, list(foreground)].sum(1)
    for place, group in enumerate(groups):  # Eq. 6
        expected = p[:, group].sum(1) / rest
        clear = rest > 1e-6
        torch.testing.assert_close(found[:, place].double()[clear], expected[clear], rtol=1e-3, atol=1e-5)


def test_divided_as_released_differs_where_the_foreground_has_nearly_all() -> None:
    logits = torch.zeros(1, 8, 1, 1, 1)
    groups = organ_groups(CLASSES, (3,))
    exact, divided = (conditional_probabilities(logits, (3,), groups, Losses(conditional=how)) for how in
                      ("exact", "divided"))  # fmt: skip
    torch.testing.assert_close(exact, divided, rtol=1e-4, atol=1e-5)
    logits[:, 3] = 20.0
    sure = conditional_probabilities(logits, (3,), groups, Losses(conditional="divided"))
    assert sure.sum() < 1e-3
    assert conditional_probabilities(logits, (3,), groups, Losses()).sum() == pytest.approx(1)


@settings(deadline=None)
@given(seeds, clients)
def test_distillation_reaches_neither_foreground_nor_teacher_nor_what_is_filtered(
    seed: int, foreground: tuple[int, ...]
) -> None:
    student, teacher, y = drawn(seed)
    groups = organ_groups(CLASSES, foreground)
    student.requires_grad_()
    teacher.requires_grad_()
    condist_loss(student, teacher, y, foreground, groups).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert not student.grad[:, list(foreground)].any()
    kept = foreground_filter(teacher, y, foreground)
    assert not (student.grad * ~kept).any()
    expected = ~torch.isin(y, torch.tensor(foreground)) & ~torch.isin(teacher.argmax(1), torch.tensor(foreground))
    assert torch.equal(kept[:, 0], expected)


@pytest.mark.parametrize(("foreground", "expected"), [((1, 2), 0.5514), ((3,), 0.3133)])
def test_cross_entropy_of_probabilities_costs_something_even_where_all_is_right(
    foreground: tuple[int, ...], expected: float
) -> None:
    y = torch.tensor([[0, *foreground]])
    right = 50.0 * torch.nn.functional.one_hot(y, 8).movedim(-1, 1).float()
    entropy = float(marginal_loss(right, y, foreground, AS_RELEASED))
    assert entropy == pytest.approx(expected, abs=2e-4)  # known of the released code
    assert float(marginal_loss(right, y, foreground)) == pytest.approx(0, abs=1e-4)


def test_an_empty_class_costs_nothing_as_printed_and_one_as_released() -> None:
    nothing = torch.zeros(1, 1, 5)
    assert float(soft_dice_loss(nothing, nothing)) == pytest.approx(0)
    assert float(soft_dice_loss(nothing, nothing, smooth=0.0)) == 1


def test_plain_dice_of_equal_soft_maps_is_not_zero_and_squared_is() -> None:
    p = torch.full((1, 1, 100), 0.25)
    assert float(soft_dice_loss(p, p, smooth=0.0)) == pytest.approx(0.75, abs=1e-5)
    assert float(soft_dice_loss(p, p, squared=True)) == pytest.approx(0, abs=1e-5)


def test_with_all_classes_as_foreground_the_marginal_loss_is_the_ordinary_one() -> None:
    logits, _, y = drawn(3)
    entropy = torch.nn.functional.cross_entropy(logits, y)
    one_hot = torch.nn.functional.one_hot(y, 8).movedim(-1, 1).float()
    expected = entropy + soft_dice_loss(logits.softmax(1), one_hot)
    torch.testing.assert_close(marginal_loss(logits, y, tuple(range(1, 8))), expected)


@pytest.mark.parametrize("how", [Losses(), Losses(squared=True), AS_RELEASED])
def test_a_student_is_drawn_to_its_teacher(how: Any) -> None:
    student, teacher, y = drawn(5, 1.0)
    y[:] = 0
    groups = organ_groups(CLASSES, (3,))
    student.requires_grad_()
    before = condist_loss(student, teacher, y, (3,), groups, how)
    (slope,) = torch.autograd.grad(before, student)
    after = condist_loss(student.detach() - 0.1 * slope / slope.norm(), teacher, y, (3,), groups, how)
    assert float(after) < float(before.detach())
    assert math.isfinite(float(after))
