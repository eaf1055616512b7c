"""Ensembles and distances by hand, decisions, culpability, domains of a set, and the rivals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models.base import PluginTests, Trained
from tests.models.continual_gen.conftest import TINY, Stream, domain
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.errors import OptionError
from zoo.models.continual_gen.culpability import chosen, culpability
from zoo.models.continual_gen.data import Labels, domains_of, pooled, shift_of, stream
from zoo.models.continual_gen.ensembles import Ensemble, EnsembleConfig, combined, ess
from zoo.models.continual_gen.training import compare, learn_in_turn, training
from zoo.training import Run

PLAIN = EnsembleConfig(groups=(1,), dimensions=2, shrinkage=1e-3)


CHECK = training.configure("check")
SMALLEST = replace(CHECK.network, image_size=16, small_channels=(10, 20), small_strides=(2, 2))


class TestContinualGen(PluginTests):
    name = "continual-gen"
    recipe = replace(CHECK, epochs=3, retrain_epochs=2, network=SMALLEST)
    data = "phantom:skin-lesion?n=40&size=32"

    def test_a_run_leaves_the_record_and_the_picture_of_the_stream(self, trained: Trained):
        record = json.loads((trained.folder / "stream.json").read_text())
        assert record["domains"] == ["1"]
        assert record["decisions"][0]["action"] == "new"
        assert (trained.folder / "stream.png").stat().st_size > 5000


# ---- ensembles -----------------------------------------------------------------------------------------------------


def features(n: int = 400, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    z = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) * torch.tensor([3.0, 2.0, 1.0, 0.5])
    return z + shift


def test_one_cluster_is_the_plain_gaussian_distance():
    z = features()
    made = Ensemble.of(PLAIN, z, torch.zeros(len(z), dtype=torch.long))
    x = made.project(z).double().numpy()
    inverse = np.linalg.inv(np.cov(x.T, bias=True))
    x = x - x.mean(0)
    assert made.distance(z).numpy() == pytest.approx(np.sqrt(np.einsum("ni,ij,nj->n", x, inverse, x)), rel=5e-3)


def test_ess_grows_with_the_shift_and_a_held_out_half_is_below_both_thresholds():
    config, y = EnsembleConfig(dimensions=4), torch.arange(200) % 3
    z, held_out = features(200), features(200, seed=1)
    stored = Ensemble.of(config, z, y)
    stored.set_thresholds(z, Ensemble.of(config, held_out, y, stored))
    apart = [ess(Ensemble.of(config, features(200, shift, 2), y, stored), stored) for shift in (0.0, 2.0, 5.0, 20.0)]
    assert apart == sorted(apart)
    for threshold in ("selfess", "member"):
        assert apart[0] < stored.gamma(threshold) < apart[-1]
    assert stored.gamma("selfess") == max(2 * float(stored.selfess), config.floor)


def test_the_order_of_the_images_decides_nothing():
    config, y = EnsembleConfig(groups=(0, 1), dimensions=4), torch.arange(60) % 3
    z, order = features(60), torch.randperm(60)
    stored = Ensemble.of(config, z, y)
    a, b = (ess(Ensemble.of(config, features(60, 1.0, 3)[i], y[i], stored), stored) for i in (torch.arange(60), order))
    assert a == pytest.approx(b, rel=1e-5)


def test_both_ways_of_counting_scores():
    """Two clusters at distance 4 along an axis, of standard deviation 1 and 2 there: 4 one way, 2 the other."""
    z = torch.tensor([[-1.0, 0], [1, 0], [0, 1], [0, -1], [0, 0]]) * np.sqrt(2.5)
    near = Ensemble.of(PLAIN, z, torch.zeros(5, dtype=torch.long))
    far = Ensemble.of(PLAIN, z * 2 + torch.tensor([4.0, 0]), torch.zeros(5, dtype=torch.long), near)
    assert ess(far, near) == pytest.approx((4 + 2) / 2, rel=1e-3)
    near.config = replace(PLAIN, pairs="all")
    assert ess(far, near) == pytest.approx(4, rel=1e-3)


def test_no_cluster_has_fewer_than_five_and_every_image_is_in_one_of_each_mixture():
    """Images whose cluster was left out would be far from their own domain."""
    y = torch.tensor([0] * 20 + [1] * 4)
    made = Ensemble.of(EnsembleConfig(groups=(0, 1, 20, 50), dimensions=4), features(24), y)
    assert made.count.min() >= 5
    assert [int(made.count[made.group == place].sum()) for place in range(4)] == [20, 24, 24, 24]
    assert made.distance(features(24)).mean() < 2 * np.sqrt(4)


@pytest.mark.parametrize(
    ("rule", "q", "wanted"),
    [("average", 20, 5.5), ("top", 20, 1.5), ("top", 40, 2.5), ("bottom", 20, 9.5), ("trimmed", 20, 5.5)],
)
def test_rules_of_table_3(rule: str, q: float, wanted: float):
    scores = torch.arange(1.0, 11)[torch.randperm(10)][None]
    assert float(combined(scores, EnsembleConfig(rule=rule, q=q))) == wanted


# ---- decisions and pruning -----------------------------------------------------------------------------------------


def test_a_near_copy_is_nearer_than_any_other_domain(learned: Stream):
    distances, gammas = compare(learned.model, domain("brown, near copy", seed=1))
    assert int(np.argmin(distances)) == 0
    assert distances[0] < gammas[0]


def test_culprits_are_the_units_that_work_when_the_network_errs():
    y, correct = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([True, False, True, False, True, True])
    a = torch.tensor([[0.0, 2, 0], [2, 0, 0], [0, 2, 0], [2, 0, 0], [9, 9, 0], [1, 1, 0]])
    score = culpability(a, y, correct)
    assert score.tolist() == pytest.approx(
        [4, -4, 0], abs=1e-4
    )  # a difference of 2 at a deviation of 1, in two classes
    assert chosen(score, a, 2).tolist() == [0, 1]  # the third does nothing at all
    assert chosen(score, a, 1).tolist() == [1]
    assert culpability(a, y, torch.ones(6, dtype=torch.bool)).argmin() in (0, 1)


def test_rivals_are_one_network_with_every_unit():
    domains, short = [domain(name, 32) for name in ("brown", "inverted")], replace(TINY, epochs=1, ewc_images=4)
    for method in ("seqt", "ewc", "lwf", "joint"):
        with Run(seed=0, device="cpu", progress=False) as run:
            model, matrix = learn_in_turn(replace(short, method=method), domains, run)
        assert (len(model.subnetworks), model.room) == (1, 0)
        assert np.shape(matrix) == ((1, 2) if method == "joint" else (2, 2))
    assert len(pooled(domains).train) == 64


# ---- data ----------------------------------------------------------------------------------------------------------


def test_domains_come_in_the_order_that_is_asked_for():
    cases = [
        Case(np.full((20, 20, 3), 9 * i, np.uint8), str(i), label="NV", attributes={"device": "ab"[i % 2]})
        for i in range(12)
    ]
    entries = [Entry(case.id, replace(case, attributes={**case.attributes, "lesion_id": "HAM_1"})) for case in cases]
    whole = Dataset("made up", entries)
    data, labels = TrainData(whole, whole, whole), Labels(("MEL", "NV"), {})
    assert [one.name for one in stream(data, "device", (), labels, 8)] == ["a", "b"]
    made = stream(data, "device", ("b", "a"), labels, 8)
    assert [one.name for one in made] == ["b", "a"]
    assert len(made[0].train) == 6
    assert [one.name for one in stream(data, "set", (), labels, 8)] == ["1"]
    assert domains_of(whole, "source") == ["HAM"] * 12
    with pytest.raises(OptionError, match="'c', which the training part lacks"):
        stream(data, "device", ("c",), labels, 8)
    with pytest.raises(Exception, match="doesn't state the attribute 'clinic'"):
        stream(data, "clinic", (), labels, 8)


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        ({"localization": "face", "age": "25.0"}, "head-neck"),
        ({"anatom_site_general": "head/neck", "age_approx": 70}, "head-neck"),
        ({"localization": "back", "age": "30.0"}, "young"),
        ({"localization": "back", "age": "unknown"}, "default"),
        ({}, "default"),
    ],
)
def test_shifts_of_dermoscopic_sets(attributes: dict[str, object], wanted: str):
    assert shift_of(attributes) == wanted
