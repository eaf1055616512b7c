"""The procedure: weights, folds, drawing, what is trained by which patients, operating points, resume, evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo import config as configs
from zoo.data.case import Case
from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData, load_split
from zoo.errors import DataError
from zoo.evaluation import evaluate
from zoo.metrics import youden
from zoo.models.meldd import training as method
from zoo.models.meldd.model import MelDD
from zoo.models.meldd.network import VARIANTS, Layout
from zoo.models.meldd.patient import Patient, patients_of
from zoo.models.meldd.training import Lesions, MelddRecipe, draw_fixed, fit, training
from zoo.nn.losses import balanced_weights, class_counts
from zoo.training import Run
from zoo.training.recipe import train as train_to_folder

# ---- loss -----------------------------------------------------------------------------------------------------------


def test_both_labels_weigh_the_same_in_sum():
    y = torch.tensor([1.0] + [0.0] * 7)
    weights = balanced_weights(class_counts(y, 2))
    assert weights.tolist() == pytest.approx([8 / 14, 4.0])
    logits = torch.tensor([0.3, -0.2, 0.5, 0.0, 1.0, -1.0, 0.1, 0.7])
    s = logits.sigmoid()
    by_hand = -(4.0 * s[0].log() + 8 / 14 * (1 - s[1:]).log().sum()) / 8
    assert torch.isclose(method.weighted_bce(logits, y, weights), by_hand)
    assert balanced_weights(class_counts(torch.zeros(5), 2)).tolist() == [0.5, 1.0]


# ---- patients -------------------------------------------------------------------------------------------------------


def test_lesions_become_patients():
    def case(i: int, **facts: object) -> Case:
        return Case(np.zeros((4, 4, 3), np.uint8), f"l{i}", label=("benign", "MEL")[i == 1], attributes=facts)

    cases = [case(0, patient="a", age="50", sex="male", site="torso"), case(1, patient="a", age="60.0", site="unknown"),
             case(2, patient="b"), case(3), case(4, patient="a", age=70)]  # fmt: skip
    a, b, alone = patients_of(cases)
    assert (a.name, a.names, a.sites, a.labels) == ("a", ("l0", "l1", "l4"), ("torso", None, None), (0, 1, 0))
    assert (a.age, a.sex, a.label) == (60.0, "male", "melanoma")
    assert (b.name, b.age, b.sex, b.label) == ("b", None, None, "benign")
    assert alone.name == "l3"
    with pytest.raises(DataError, match="needs benign or melanoma"):
        patients_of([replace(cases[0], label="perhaps")])


def test_a_fixed_count_is_drawn_from_the_patients_own_lesions():
    lengths = torch.tensor([1, 3, 9])
    rows = draw_fixed(lengths, 4, np.random.default_rng(0)).view(3, 4)
    owner = Layout(lengths).owner
    assert torch.equal(owner[rows], torch.arange(3)[:, None].expand(3, 4))
    assert set(rows[1].tolist()) == {1, 2, 3}  # all of them, one again
    assert len(set(rows[2].tolist())) == 4  # a subset


# ---- training -------------------------------------------------------------------------------------------------------


def test_every_variant_is_trained_and_has_its_operating_point(trained: MelDD, people: list[Patient], tiny: MelddRecipe):
    torch.manual_seed(0)
    assert not torch.equal(trained.threshold, torch.zeros(5))
    validation = people[8:]
    for name in VARIANTS:
        found = [trained.predict(patient, variant=name) for patient in validation]
        p = np.concatenate([one.probability for one in found]).astype(float)
        y = np.array([label for patient in validation for label in patient.labels])
        called = np.concatenate([one.malignant for one in found])
        bacc = (called[y == 1].mean() + 1 - called[y == 0].mean()) / 2
        assert bacc == pytest.approx(youden(np.log(p / (1 - p)), y)[1], abs=1e-6), name


def test_the_backbone_never_sees_validation_patients_and_stays_fixed(
    people: list[Patient], tiny: MelddRecipe, monkeypatch: pytest.MonkeyPatch
):
    def learned(validation: list[Patient]) -> dict[str, torch.Tensor]:
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


def test_udtr_trains_on_fixed_counts_with_a_contrastive_loss(people: list[Patient], tiny: MelddRecipe, tmp_path: Path):
    recipe = training.configure("udtr-full")
    assert (recipe.network.fixed_count, recipe.network.tta, recipe.contrastive > 0) == (16, True, True)
    assert training.configure("udtr-adapted").contrastive == 0
    network = replace(tiny.network, variants=("V1",), fixed_count=4, tta=True)
    with Run(tmp_path, seed=0, device="cpu", progress=False) as run:
        model = fit(replace(tiny, network=network, contrastive=0.1, epochs=1), people[:8], people[8:], run)
    assert "contrast" in (tmp_path / "metrics" / "context-V1.csv").read_text()
    assert model.predict(people[0]).probability.shape == (len(people[0].images),)


def test_images_that_do_not_fit_into_memory_are_read_when_needed(people: list[Patient]):
    at_once, later = Lesions(people[:3], 32), Lesions(people[:3], 32, memory=10)
    assert np.array_equal(later.batch([2, 0, 5]), at_once.batch([2, 0, 5]))
    with pytest.raises(DataError, match="every lesion needs a label"):
        Lesions([replace(people[0], labels=None)], 32)


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


def test_a_killed_run_ends_as_an_uninterrupted_one(people: list[Patient], tiny: MelddRecipe, tmp_path: Path):
    recipe = replace(tiny, network=replace(tiny.network, variants=("V0", "V4")), epochs=2)

    class Killed(Exception): ...

    def go(out: Path, die_at: int | None, resume: bool) -> MelDD:
        with Run(out, seed=0, device="cpu", resume=resume, checkpoint_every=1, progress=False) as run:
            if die_at is not None:
                log, seen = run.log, [0]

                def counting(**values: object) -> None:
                    log(**values)
                    seen[0] += 1
                    if seen[0] == die_at:
                        raise Killed

                run.log = counting  # type: ignore[method-assign]
            return fit(recipe, people[:8], people[8:], run)

    whole = go(tmp_path / "whole", None, False).state_dict()
    with pytest.raises(Killed):
        go(tmp_path / "cut", 9, False)
    assert (tmp_path / "cut" / "checkpoints" / "features.safetensors").is_file()
    resumed = go(tmp_path / "cut", None, True).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


# ---- measuring ------------------------------------------------------------------------------------------------------


def test_a_set_of_images_is_trained_on_and_evaluated_by_patient(people: list[Patient], tmp_path: Path):
    """From a table of lesions to weights and measures, as the command line does it."""
    lines = ["image,label,patient,site,age,sex"]
    for patient in people:
        for i, picture in enumerate(patient.images[:4]):
            name = f"{patient.name}-{i}.png"
            Image.fromarray(picture).save(tmp_path / name)
            label = ("benign", "melanoma")[patient.labels[i]]
            lines.append(f"{name},{label},{patient.name},{patient.sites[i]},{patient.age},{patient.sex}")
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    spec = f"csv:{tmp_path / 'all.csv'}"
    overrides = {"epochs": "1", "backbone_epochs": "1", "network.image_size": "16", "folds": "2", "fold": "1"}
    out = train_to_folder("meldd", spec, out=tmp_path / "run", preset="demo", overrides=overrides, device="cpu")
    parts = load_split(load_dataset(spec), out / "split.json")
    assert isinstance(parts, TrainData)
    result = evaluate("meldd", spec, weights=str(out), device="cpu", progress=False, out=tmp_path / "eval")
    assert len(result.rows) == len(parts.test)
    assert {row["patient"] for row in result.rows} == {e.patient for e in parts.test.entries}
    assert 0 <= result["auroc"].mean <= 1
    assert (tmp_path / "eval" / "figure.png").is_file()


def test_presets_come_back_from_plain_data():
    for preset in training.presets:
        recipe = training.configure(preset)
        assert configs.from_dict(MelddRecipe, configs.to_dict(recipe)) == recipe
