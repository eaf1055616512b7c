"""Scores and selection: Eq. 3, 4, 7 and 8, LaBo's own discriminability, and the greedy choice."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.models.cbvc.selection import (
    Candidates,
    Objective,
    Spread,
    class_means,
    discriminability,
    greedy,
    mutual_information,
    select,
    standardised,
    union,
    visual_activation,
)


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_visual_activation_is_the_deviation_of_the_similarities():
    texts, images = some(9, 16), some(200, 16, seed=1) + 3
    spread = Spread(16)
    for part in images.split(33):
        spread.update(part)
    similarity = images.double() @ texts.double().T
    direct = (similarity - similarity.mean(0)).square().mean(0).sqrt()
    assert visual_activation(texts, spread) == pytest.approx(direct.numpy(), abs=1e-6)
    with pytest.raises(ValueError, match="1 images have no deviation"):
        visual_activation(texts, Spread(16).update(images[:1]))


def test_a_phrase_that_no_image_answers_has_no_visual_activation():
    images = torch.cat([some(50, 4), torch.zeros(50, 1)], 1)
    found = visual_activation(torch.eye(5), Spread(5).update(images))
    assert float(found[4]) == 0.0
    assert float(found[:4].min()) > 0.5


def test_discriminability_is_the_negative_entropy_of_plain_shares():
    means = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    texts = torch.tensor([[1.0, 1.0], [3.0, 1.0], [1.0, -1.0]])
    p = torch.tensor([[0.5, 0.5], [0.75, 0.25]], dtype=torch.float64)
    expected = (p * p.log()).sum(1)
    found = discriminability(texts, means)
    assert found[:2] == pytest.approx(expected.numpy())
    assert float(found[2]) == pytest.approx(0.0, abs=1e-4)  # a negative similarity is cut: one class alone


def test_classes_without_an_image_don_t_count():
    x, y = some(6, 5).abs(), torch.tensor([0, 0, 0, 2, 2, 2])
    assert class_means(x, y, 4).shape == (2, 5)
    assert class_means(x, y, 4)[1] == pytest.approx(x[3:].double().mean(0).numpy())


def test_mutual_information_is_that_of_phrase_and_class():
    """Against the definition on the joint table: sum over c of the terms is I(C; Y)."""
    texts, means = some(12, 6).abs(), some(3, 6, seed=1).abs().double()
    joint = (texts.double() @ means.T).numpy()
    joint = joint / joint.sum(0) / 3  # p(c, y), every class as likely
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    terms = (joint * np.log(joint / outer)).sum(1)
    assert mutual_information(texts, means) == pytest.approx(terms)


def value(phi: Tensor, modular: Tensor, beta: float, places: list[int]) -> float:
    """Eq. 8, written out."""
    return float(modular[places].sum()) + beta * sum(float(phi[i, places].max()) for i in range(len(phi)))


def test_greedy_takes_what_raises_the_objective_most():
    phi = (lambda t: (t @ t.T + 1) / 2)(F.normalize(some(10, 4), dim=1)).double()
    modular = some(10, seed=3).double()
    chosen: list[int] = []
    for place in greedy(phi, modular, 0.7, 6):
        rest = [i for i in range(10) if i not in chosen]
        assert place == max(rest, key=lambda i: value(phi, modular, 0.7, [*chosen, i]))
        chosen.append(place)
    assert len(set(chosen)) == 6


def test_greedy_keeps_its_guarantee_and_a_constant_changes_nothing():
    phi = (lambda t: (t @ t.T + 1) / 2)(F.normalize(some(9, 3), dim=1)).double()
    modular = some(9, seed=5).abs().double()
    best = max(value(phi, modular, 1.0, list(places)) for places in combinations(range(9), 4))
    assert value(phi, modular, 1.0, greedy(phi, modular, 1.0, 4)) >= (1 - 1 / np.e) * best
    assert greedy(phi, modular, 1.0, 4) == greedy(phi, modular - 7.0, 1.0, 4)


def candidates() -> Candidates:
    texts = F.normalize(some(20, 8), dim=1)
    origin = torch.zeros(2, 20, dtype=torch.bool)
    origin[0, :12], origin[1, 8:] = True, True
    means = F.normalize(some(2, 8, seed=2).abs(), dim=1).double()
    phrases = tuple(f"phrase {i}" for i in range(20))
    visual = visual_activation(texts, Spread(8).update(some(60, 8, seed=4)))
    return Candidates(phrases, origin, texts, discriminability(texts, means), visual)


def test_without_gamma_visual_scores_don_t_matter_and_with_gamma_alone_nothing_else_does():
    known = candidates()
    blind = Candidates(known.phrases, known.origin, known.texts, known.discriminability, known.visual.flip(0))
    assert select(known, Objective(gamma=0), 4) == select(blind, Objective(gamma=0), 4)
    alone = select(known, Objective(alpha=0, beta=0), 4)
    for own, places in zip(known.origin, alone, strict=True):
        scores = torch.where(own, known.visual, -1.0)
        assert places == torch.argsort(scores, descending=True)[:4].tolist()


def test_the_released_objective_is_1e7_mutual_information_and_the_sum_of_cosines():
    known = candidates()
    chosen = select(known, Objective(alpha=1e-6, beta=3.0, gamma=0.0, terms="released"), 5)
    for own, places in zip(known.origin, chosen, strict=True):
        members = torch.nonzero(own).flatten()
        texts = F.normalize(known.texts[members].double(), dim=1)  # to the last bit: there are ties
        order = greedy(texts @ texts.T, 10.0 * known.discriminability[members], 3.0, 5)
        assert places == members[order].tolist()


def test_each_class_chooses_among_its_own_and_all_where_it_has_few():
    known = candidates()
    chosen = select(known, Objective(), 50)
    assert [sorted(places) for places in chosen] == [list(range(12)), list(range(8, 20))]
    assert sorted(union(chosen)) == list(range(20))


def test_equal_values_are_standardised_to_zeros():
    assert standardised(torch.full((4,), 3.0)).tolist() == [0, 0, 0, 0]
