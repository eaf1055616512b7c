"""The procedure: weights, folds, drawing, what is trained by which patients, operating points, resume, evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.base import PluginTests
from tests.models.meldd.conftest import TINY
from zoo import config as configs
from zoo.data.case import Case
from zoo.data.dermoscopy import SITES
from zoo.data.patients import patients_of
from zoo.data.sets import load_dataset
from zoo.data.splits import load_split
from zoo.errors import DataError
from zoo.evaluation import evaluate
from zoo.metrics import youden
from zoo.models.meldd import training as method
from zoo.models.meldd.data import Evidence, Lesions, as_sets, evidence_of, label_of
from zoo.models.meldd.model import MelDD
from zoo.models.meldd.network import UNKNOWN_SITE, VARIANTS, Layout
from zoo.models.meldd.training import MelddRecipe, draw_fixed, fit, training
from zoo.nn.losses import balanced_weights, class_counts
from zoo.training import Run
from zoo.training.recipe import train as train_to_folder

HELD_OUT = "1181 lesions of 100 held-out phantoms"


class TestMelDD(PluginTests):
    name = "meldd"
    recipe = replace(TINY, network=replace(TINY.network, variants=("V0", "V4")), epochs=2)
    data = "phantom:patients?n=12&size=32&risk=0.3&artifacts=none"
    evaluated_on = "phantom:patients?n=4&seed=77&size=64&risk=0.3"
    facts = {f"{name}, {HELD_OUT}": measure for name, measure in (
        ("AUC", "auroc"), ("balanced accuracy", "balanced_accuracy"), ("sensitivity", "sensitivity"),
        ("specificity", "specificity"))}  # fmt: skip
    facts_on = ("phantom:patients?n=500&size=64&risk=0.2", "test")


# ---- patients -------------------------------------------------------------------------------------------------------


def test_lesions_become_patients():
    def case(i: int, **facts: object) -> Case:
        return Case(
            np.arange(48, dtype=np.uint8).reshape(4, 4, 3), f"l{i}", label=("benign", "MEL")[i == 1], attributes=facts
        )

    cases = [case(0, patient="a", age="50", sex="male", site="torso"), case(1, patient="a", age="60.0", site="unknown"),
             case(2, patient="b"), case(3), case(4, patient="a", age=70)]  # fmt: skip
    people = patients_of(cases)
    assert [person.id for person in people] == ["a", "b", "l3"]
    assert evidence_of(people[0]) == Evidence(("torso", None, None), 60.0, "male")
    assert evidence_of(people[1]) == Evidence((None,), None, None)
    lesions = Lesions(people, 16)
    assert lesions.y.tolist() == [0, 1, 0, 0, 0]
    sets = as_sets(lesions.evidence, torch.zeros(5, 2))
    assert sets.site.tolist() == [SITES.index("torso"), *[UNKNOWN_SITE] * 4]
    assert sets.lengths.tolist() == [3, 1, 1]
    assert sets.sex.tolist() == [1, -1, -1]
    for label in ("perhaps", None):
        with pytest.raises(DataError, match="needs benign or melanoma"):
            Lesions([Case(None, "p", images=(replace(cases[0], label=label),))], 16)


def test_both_labels_weigh_the_same_in_sum():
    y = torch.tensor([1.0] + [0.0] * 7)
    weights = balanced_weights(class_counts(y, 2))
    assert weights.tolist() == pytest.approx([8 / 14, 4.0])
    logits = torch.tensor([0.3, -0.2, 0.5, 0.0, 1.0, -1.0, 0.1, 0.7])
    s = logits.sigmoid()
    by_hand = -(4.0 * s[0].log() + 8 / 14 * (1 - s[1:]).log().sum()) / 8
    assert torch.isclose(method.weighted_bce(logits, y, weights), by_hand)


def test_a_fixed_count_is_drawn_from_the_patients_own_lesions():
    lengths = torch.tensor([1, 3, 9])
    rows = draw_fixed(lengths, 4, np.random.default_rng(0)).view(3, 4)
    owner = Layout(lengths).owner
    assert torch.equal(owner[rows], torch.arange(3)[:, None].expand(3, 4))
    assert set(rows[1].tolist()) == {1, 2, 3}  # all of them, one again
    assert len(set(rows[2].tolist())) == 4  # a subset


# ---- training -------------------------------------------------------------------------------------------------------


def test_every_variant_is_trained_and_has_its_operating_point(trained: MelDD, people: list[Case], tiny: MelddRecipe):
    torch.manual_seed(0)
    assert not torch.equal(trained.threshold, torch.zeros(5))
    validation = people[8:]
    for name in VARIANTS:
        found = [trained.predict(patient, variant=name) for patient in validation]
        p = np.concatenate([one.probability for one in found]).astype(float)
        y = np.array([label_of(one) for patient in validation for one in patient.images])
        called = np.concatenate([one.malignant for one in found])
        bacc = (called[y == 1].mean() + 1 - called[y == 0].mean()) / 2
        assert bacc == pytest.approx(youden(np.log(p / (1 - p)), y)[1], abs=1e-6), name


def test_the_backbone_never_sees_validation_patients_and_stays_fixed(
    people: list[Case], tiny: MelddRecipe, monkeypatch: pytest.MonkeyPatch
):
    def learned(validation: list[Case]) -> dict[str, torch.Tensor]:
        with Run(None, seed=0, device="cpu", progress=False) as run:
            recipe = replace(tiny, epochs=1, network=replace(tiny.network, variants=("V1",)))
            return fit(recipe, people[:6], validation, run).backbone.state_dict()

    a, b = learned([]), learned([])
    assert all(torch.equal(a[name], b[name]) for name in a)
    before = {}
    original = method.extract

    def noted(model: MelDD, *rest: object) -> list[torch.Tensor]:
        before.update({name: tensor.clone() for name, tensor in model.backbone.state_dict().items()})
        return original(model, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(method, "extract", noted)
    after = learned(people[6:])
    assert all(torch.equal(before[name], after[name]) for name in after)


def test_udtr_trains_on_fixed_counts_with_a_contrastive_loss(people: list[Case], tiny: MelddRecipe, tmp_path: Path):
    recipe = training.configure("udtr-full")
    assert (recipe.network.fixed_count, recipe.network.tta, recipe.contrastive > 0) == (16, True, True)
    assert training.configure("udtr-adapted").contrastive == 0
    network = replace(tiny.network, variants=("V1",), fixed_count=4, tta=True)
    with Run(tmp_path, seed=0, device="cpu", progress=False) as run:
        model = fit(replace(tiny, network=network, contrastive=0.1, epochs=1), people[:8], people[8:], run)
    assert "contrast" in (tmp_path / "metrics" / "context-V1.csv").read_text()
    assert model.predict(people[0]).probability.shape == (len(people[0].images),)


def test_augmented_images_are_turned_and_flipped_only():
    views = np.random.default_rng(0).integers(100, 150, (40, 6, 6, 3), dtype=np.uint8)
    out = method.augmented(views, np.random.default_rng(1))
    seen = set()
    for view, new in zip(views.astype(float), out.astype(float), strict=True):
        turns = [np.rot90(v, k) for v in (view, view[:, ::-1]) for k in range(4)]
        gaps = [np.abs(new / new.mean((0, 1)) - t / t.mean((0, 1))).max() for t in turns]
        assert min(gaps) < 0.02
        seen.add(int(np.argmin(gaps)))
    assert len(seen) == 8


# ---- measuring ------------------------------------------------------------------------------------------------------


def test_a_table_of_lesions_is_trained_on_and_evaluated_by_patient(people: list[Case], tmp_path: Path):
    """From a table of lesions to weights and measures, as the command line does it."""
    lines = ["image,label,patient,site,age,sex"]
    for person in people:
        facts = person.attributes
        for i, lesion in enumerate(person.images[:4]):
            name = f"{person.id}-{i}.png"
            Image.fromarray(lesion.image).save(tmp_path / name)
            lines.append(f"{name},{lesion.label},{person.id},{lesion.attributes['site']},{facts['age']},{facts['sex']}")
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    spec = f"csv:{tmp_path / 'all.csv'}"
    overrides = {"epochs": "1", "backbone_epochs": "1", "network.image_size": "16", "folds": "2", "fold": "1"}
    out = train_to_folder("meldd", spec, out=tmp_path / "run", preset="demo", overrides=overrides, device="cpu")
    parts = load_split(load_dataset(spec), out / "split.json")
    result = evaluate("meldd", spec, weights=str(out), device="cpu", progress=False)
    assert len(result.rows) == len(parts.test)
    assert {row["patient"] for row in result.rows} == {e.patient for e in parts.test.entries}
    assert [metric.name for metric in result.metrics][:2] == ["auroc", "balanced_accuracy"]
    assert result.metrics[-1].name.endswith("_test_optimal")


def test_presets_come_back_from_plain_data():
    for preset in training.presets:
        recipe = training.configure(preset)
        assert configs.from_dict(MelddRecipe, configs.to_dict(recipe)) == recipe
