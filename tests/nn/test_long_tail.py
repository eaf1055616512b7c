"""Losses for long-tailed and divided data."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.nn.long_tail import (
    balanced_softmax_loss,
    effective_number_weights,
    frequency_groups,
    ldam_loss,
    ldam_margins,
    logit_calibrated_loss,
    model_contrastive_loss,
    proximal_term,
)

# HyperKvasir's images per finding
HYPERKVASIR = (41, 53, 646, 1148, 1009, 1002, 989, 403, 260, 6, 9, 131, 1028, 999, 391, 764, 35, 201, 11, 443, 28, 133,
               932)  # fmt: skip


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(0))


Y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 0, 1, 1, 2])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=4, max_size=4), st.integers(2, 50))
def test_balanced_softmax_only_cares_about_the_ratio_of_counts(counts: list[int], factor: int) -> None:
    logits, n = torch.linspace(-1, 1, 48).view(12, 4), torch.tensor(counts, dtype=torch.float64)
    torch.testing.assert_close(
        balanced_softmax_loss(logits.double(), Y, n), balanced_softmax_loss(logits.double(), Y, factor * n)
    )


def test_balanced_softmax_is_the_posterior_of_reweighted_classes(logits: torch.Tensor) -> None:
    counts = torch.tensor([5.0, 4.0, 3.0, 7.0])
    shares = counts * logits.exp()
    expected = -(shares[torch.arange(12), Y] / shares.sum(1)).log().mean()
    torch.testing.assert_close(balanced_softmax_loss(logits, Y, counts), expected)


def test_balanced_softmax_stays_finite_for_absent_classes(logits: torch.Tensor) -> None:
    x = logits.clone().requires_grad_(True)
    loss = balanced_softmax_loss(x, Y, torch.tensor([5.0, 4.0, 3.0, 0.0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert x.grad is not None
    assert x.grad[:, 3].abs().max() < 1e-6  # hardly pushed away


def test_rarest_class_has_the_largest_margin() -> None:
    margins = ldam_margins(torch.tensor([16.0, 1.0, 0.0, 81.0]))
    assert margins.tolist() == pytest.approx([0.25, 0.5, 0.0, 0.5 / 3])


def test_ldam_is_cross_entropy_after_the_margin(logits: torch.Tensor) -> None:
    counts, moved = torch.tensor([16.0, 1.0, 81.0, 1.0]), logits.clone()
    for row, label in enumerate(Y):
        moved[row, label] -= 30 * (0.25, 0.5, 0.5 / 3, 0.5)[label]
    torch.testing.assert_close(ldam_loss(logits, Y, counts), F.cross_entropy(moved, Y))


def test_effective_numbers_weigh_rare_classes_more() -> None:
    weight = effective_number_weights(torch.tensor([1000.0, 100.0, 10.0, 0.0]))
    assert weight[0] < weight[1] < weight[2]
    assert weight[3] == 0
    assert weight[:3].mean() == pytest.approx(1.0)


def test_calibration_leaves_absent_classes_out(logits: torch.Tensor) -> None:
    x = logits.clone().requires_grad_(True)
    loss = logit_calibrated_loss(x, Y, torch.tensor([4.0, 4.0, 4.0, 0.0]))
    torch.testing.assert_close(loss, F.cross_entropy(logits[:, :3], Y))  # equal counts shift all logits alike
    loss.backward()
    assert x.grad is not None
    assert bool((x.grad[:, 3] == 0).all())


def test_proximal_term_pulls_back_to_the_start() -> None:
    start, now = [torch.ones(3), torch.zeros(2)], [torch.full((3,), 3.0, requires_grad=True), torch.zeros(2)]
    term = proximal_term(now, start)
    assert term.item() == pytest.approx(6.0)
    term.backward()
    assert now[0].grad is not None
    assert now[0].grad.tolist() == [2, 2, 2]


def test_model_contrast_is_the_published_fraction() -> None:
    z, received, previous = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1)).unbind(0)
    a, b = (torch.cosine_similarity(z, other) / 0.5 for other in (received, previous))
    torch.testing.assert_close(
        model_contrastive_loss(z, received, previous), -(a.exp() / (a.exp() + b.exp())).log().mean()
    )
    assert float(model_contrastive_loss(z, z, z)) == pytest.approx(math.log(2))


def test_groups_of_hyperkvasir_follow_the_training_folds_counts() -> None:
    head, medium, tail = frequency_groups([round(0.8 * n) for n in HYPERKVASIR], 700, 70)
    assert (int(head.sum()), int(medium.sum()), int(tail.sum())) == (7, 9, 7)
    assert bool(medium[15])  # retroflex-stomach, 764 in all
