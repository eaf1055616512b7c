"""The bottleneck (Eq. 5 and 6), and what it says of an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zoo
from zoo.errors import OptionError, WeightsError
from zoo.models.cbvc.baselines import both_accuracies, linear_probe
from zoo.models.cbvc.model import Cbvc, CbvcConfig


@pytest.fixture
def model() -> Cbvc:
    torch.manual_seed(0)
    made = Cbvc(CbvcConfig(labels=("a", "b", "c"), concepts=tuple("pqrs"), width=6))
    with torch.no_grad():
        made.weight.normal_()
    return made


def test_weights_are_shares_of_the_concepts_of_each_class(model: Cbvc):
    assert model.mixing.sum(1).tolist() == pytest.approx([1, 1, 1])


def test_influences_add_up_to_the_logit_and_logits_are_a_hundredfold(model: Cbvc):
    x = torch.randn(5, 6)
    similarity = F.normalize(x, dim=1) @ model.embeddings.T
    assert torch.allclose(model(x), 100 * similarity @ model.weight.softmax(1).T, atol=1e-4)
    assert torch.allclose(100 * model.influence(x).sum(2), model(x), atol=1e-4)


def test_features_keep_their_length_where_the_reading_says_so(model: Cbvc):
    x = torch.randn(2, 6)
    raw = Cbvc(CbvcConfig(labels=("a", "b", "c"), concepts=tuple("pqrs"), width=6, normalised=False))
    raw.load_state_dict(model.state_dict())
    assert torch.allclose(raw(3 * x), 3 * raw(x), atol=1e-4)
    assert torch.allclose(model(3 * x), model(x), atol=1e-4)


def test_concepts_are_named_by_influence_and_beside_them_those_of_the_class_asked_for(predicted, demo):
    found = predicted("cbvc")
    config = demo("cbvc").config
    label, other = found.concepts
    assert label == found.most_probable
    assert other == sorted(found.probabilities, key=lambda name: -found.probabilities[name])[1]
    place = config.labels.index(label)
    strongest = np.argsort(-found.influence[place], kind="stable")[:5]
    assert [one.concept for one in found.concepts[label]] == [config.concepts[i] for i in strongest]
    mean = found.influence.mean(0)
    assert found.concepts[label][0].above_mean == pytest.approx(
        float(found.influence[place, strongest[0]] - mean[strongest[0]]), abs=1e-6
    )
    asked = demo("cbvc").predict("phantom:skin-lesion", explain_class="DF", top_k=2)
    assert {name: len(some) for name, some in asked.concepts.items()} == {label: 2, "DF": 2}
    with pytest.raises(OptionError, match="explain_class must be one of"):
        demo("cbvc").predict("phantom:skin-lesion", explain_class="nothing")


def test_an_unlike_image_gets_no_concepts(demo):
    found = demo("cbvc").predict("phantom:chest-xray")
    assert found.unlike
    assert found.to_dict()["concepts"] == {}


def test_weights_of_another_clip_are_refused(model: Cbvc):
    with pytest.raises(WeightsError, match="features of 64 numbers and the concepts of these weights 6"):
        model.predict("phantom:skin-lesion")


def test_untrained_weights_say_so():
    torch.manual_seed(0)
    assert any("not trained" in note for note in Cbvc().predict("phantom:skin-lesion").notes)


@pytest.mark.parametrize("changes", [{"labels": ("a",)}, {"concepts": ("p", "p")}, {"most_frequent": "X"}])
def test_configurations_that_can_t_be_are_refused(changes):
    with pytest.raises(ValueError, match="must be"):
        CbvcConfig(**changes)


def test_a_constant_answer_is_accurate_and_not_balanced():
    truth = np.array([0] * 8 + [1, 2])
    found = both_accuracies(np.zeros(10, int), truth)
    assert found == {"accuracy": 0.8, "balanced accuracy": pytest.approx(1 / 3)}


def test_a_linear_probe_chooses_its_strength_on_validation_images():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=120)
    x = rng.standard_normal((120, 5)) + 3 * y[:, None]
    probe = linear_probe(x[:80], y[:80], (x[80:100], y[80:100]), halvings=1)
    assert (probe(x[100:]) == y[100:]).mean() > 0.9


def test_the_public_names_load_it():
    assert isinstance(zoo.load("cbvc", device="cpu"), Cbvc)
