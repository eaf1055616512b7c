"""Losses against small computations by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from zoo.nn.losses import (
    balanced_weights,
    class_counts,
    contrastive_loss,
    dice_bce,
    dice_ce,
    dice_losses,
    low_cross_entropy,
    normalised_focal_loss,
    partial_dice,
    project_on_simplex,
    root_weights,
    supervised_contrastive_loss,
    weighted_cross_entropy,
)


def test_dice_ce_of_a_perfect_and_of_an_undecided_answer() -> None:
    y = torch.tensor([[[0, 1], [1, 1]]])
    sure = 40.0 * torch.stack([1 - y, y], 1).float()
    assert dice_ce(sure, y).item() == pytest.approx(0, abs=1e-6)
    undecided = torch.zeros(1, 2, 2, 2)
    assert dice_ce(undecided, y).item() == pytest.approx(math.log(2) + 1 - (2 * 1.5 + 1) / (2 + 3 + 1))


def test_dice_ce_counts_the_pixels_of_the_batch_together() -> None:
    y = torch.zeros(2, 2, 2, dtype=torch.int64)
    y[0] = 1  # the other image holds nothing
    sure = 40.0 * torch.stack([1 - y, y], 1).float()
    assert dice_ce(sure, y).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("squared", [False, True])
def test_dice_of_objects_by_hand(squared: bool) -> None:
    pytest.importorskip("monai")
    p = torch.tensor([[0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    truth = torch.tensor([[0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    logits = torch.logit(p)[:, None, None]
    below = [0.04 + 0.64 + 1, 0.5 + 2] if squared else [1 + 1, 1 + 2]
    expected = [1 - (2 * 0.8 + 1) / (below[0] + 1), 1 - (2 * 1 + 1) / (below[1] + 1)]
    assert dice_losses(logits, truth[:, None, None], squared=squared)[:, 0].tolist() == pytest.approx(expected)
    entropy = F.binary_cross_entropy(p, truth).item()
    total = dice_bce(logits, truth[:, None, None], squared=squared).item()
    assert total == pytest.approx(entropy + np.mean(expected))


def test_weights_of_rare_classes() -> None:
    counts = class_counts(torch.tensor([0, 0, 0, 0, 1]), 3)
    assert counts.tolist() == [4, 1, 0]
    assert balanced_weights(counts[:2]).tolist() == [5 / 8, 5 / 2]
    assert balanced_weights(counts).tolist() == pytest.approx([5 / 12, 5 / 3, 1])
    root = root_weights(counts)
    assert root[1] / root[0] == pytest.approx(2)
    assert root[2] == 0
    assert root[:2].mean() == pytest.approx(1)


@given(values=st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=8), total=st.floats(0.5, 8))
def test_the_projection_lies_on_the_simplex_and_no_vertex_is_nearer(values: list[float], total: float) -> None:
    v = torch.tensor(values, dtype=torch.float64)
    found = project_on_simplex(v, total)
    assert found.min() >= 0
    assert found.sum().item() == pytest.approx(total)
    for vertex in total * torch.eye(len(v), dtype=torch.float64):  # the obtuse-angle test of a projection
        assert ((v - found) * (vertex - found)).sum() <= 1e-9


def test_low_weighs_hard_samples_more_and_all_alike_for_a_large_rho() -> None:
    logits, y = torch.tensor([[3.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 0])
    plain = F.cross_entropy(logits, y)
    assert low_cross_entropy(logits, y, 1e6).item() == pytest.approx(plain.item(), rel=1e-4)
    assert low_cross_entropy(logits, y, 0.1) > plain


def test_contrast_of_two_views_by_hand() -> None:
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])  # each pair alike, pairs at right angles
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert contrastive_loss(z, 0.5).item() == pytest.approx(expected)
    assert contrastive_loss(z[[0, 1, 3, 2]], 0.5) > expected


def test_contrast_of_labels_by_hand_is_lower_when_labels_cluster():
    y = torch.tensor([0.0, 0, 0, 1, 1])
    near = torch.tensor([[1.0, 0], [1, 0.1], [1, -0.1], [0, 1], [0.1, 1]])
    mixed = near[[0, 3, 1, 2, 4]]
    assert supervised_contrastive_loss(near, y) < supervised_contrastive_loss(mixed, y)
    by_hand = 0.0
    unit = F.normalize(near, dim=1).double()
    for i in range(5):
        rest = [j for j in range(5) if j != i]
        scores = {j: float(unit[i] @ unit[j]) / 0.1 for j in rest}
        log_total = math.log(sum(math.exp(s) for s in scores.values()))
        same = [j for j in rest if y[j] == y[i]]
        by_hand -= sum(scores[j] - log_total for j in same) / len(same) / 5
    assert float(supervised_contrastive_loss(near, y)) == pytest.approx(by_hand, rel=1e-4)
    assert float(supervised_contrastive_loss(near[:2], torch.tensor([0.0, 1.0]))) == 0.0


def test_low_of_the_batchs_mean_stays_near_the_unweighted_loss():
    torch.manual_seed(0)
    logits, y = torch.randn(100, 5), torch.randint(5, (100,))
    counts = class_counts(y, 5)
    plain = float(weighted_cross_entropy("none", counts)(logits, y))
    assert float(weighted_cross_entropy("low", counts, 0.01)(logits, y)) == pytest.approx(plain, rel=0.01)
    assert float(weighted_cross_entropy("low-by-sample", counts, 0.01)(logits, y)) > 1.2 * plain
    by_class = torch.nn.functional.cross_entropy(logits, y, root_weights(counts))
    assert torch.equal(weighted_cross_entropy("sqrt", counts)(logits, y), by_class)


def test_normalised_focal_loss_weighs_every_sample_alike_and_without_focus_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 1, 5, 5, dtype=torch.float64), (torch.rand(3, 1, 5, 5) > 0.5).double()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1)
    torch.testing.assert_close(normalised_focal_loss(logits, target, gamma=0.0), 0.5 * entropy.mean())
    p_t = torch.where(target > 0, logits.sigmoid(), 1 - logits.sigmoid()).flatten(1)
    weight = (1 - p_t) ** 2
    by_hand = (0.5 * weight / weight.mean(1, keepdim=True) * -p_t.log()).mean()
    torch.testing.assert_close(normalised_focal_loss(logits, target), by_hand)
    sure = torch.where(target > 0, 40.0, -40.0).requires_grad_()
    normalised_focal_loss(sure, target).backward()
    assert torch.isfinite(sure.grad).all()


def test_only_annotated_classes_teach_by_partial_labels() -> None:
    logits, y = torch.randn(2, 3, 4, 4, 4), (torch.rand(2, 3, 4, 4, 4) > 0.5).float()
    known = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    logits.requires_grad_()
    loss = partial_dice(logits, y, known)
    other = y.clone()
    other[0, 1:], other[1, 2] = 1 - other[0, 1:], 0
    torch.testing.assert_close(partial_dice(logits, other, known), loss)
    loss.backward()
    assert not logits.grad[0, 1:].any()
    assert logits.grad[1, 1].any()
