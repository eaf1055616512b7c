from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo import evaluation as evaluations
from zoo.data.case import Case
from zoo.errors import DataError, OptionError
from zoo.evaluation import Evaluation, evaluate
from zoo.metrics import Metric, bootstrap, classification_scores, over_cases, over_set, segmentation_scores
from zoo.training import train


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "training"))
    import toy_plugin

    return toy_plugin


@pytest.fixture
def squares(toy, tmp_path):
    return toy.write_squares(tmp_path / "squares")


@pytest.fixture
def weights(toy, squares, tmp_path):
    return str(train(toy.plugin, squares, out=tmp_path / "run", device="cpu"))


# ---- measures ------------------------------------------------------------------------------------------------


def test_scores_of_a_case_counted_by_hand():
    truth = np.array([[1, 1, 0, 0], [0, 0, 0, 0]])
    mask = np.array([[1, 0, 1, 0], [0, 0, 0, 0]])
    scores = segmentation_scores(mask, truth)
    assert scores == pytest.approx({"dice": 0.5, "iou": 1 / 3, "sensitivity": 0.5, "specificity": 5 / 6})


def test_only_the_inside_counts():
    truth, mask = np.array([[1, 1, 0]]), np.array([[1, 0, 1]])
    scores = segmentation_scores(mask, truth, inside=np.array([[True, True, False]]))
    assert scores["dice"] == pytest.approx(2 / 3)
    assert math.isnan(scores["specificity"])


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_scores_of_several_labels_agree_with_counting(pairs):
    mask, truth = (np.array(column) for column in zip(*pairs, strict=True))
    scores = segmentation_scores(mask, truth, ("none", "a", "b"))
    for value, name in ((1, "a"), (2, "b")):
        both, total = ((mask == value) & (truth == value)).sum(), (mask == value).sum() + (truth == value).sum()
        if total:
            assert scores[f"dice_{name}"] == pytest.approx(2 * both / total)
        else:
            assert math.isnan(scores[f"dice_{name}"])
    known = [scores[f"dice_{name}"] for name in "ab" if not math.isnan(scores[f"dice_{name}"])]
    assert math.isnan(scores["dice"]) if not known else scores["dice"] == pytest.approx(np.mean(known))


@pytest.mark.wrong_types
def test_masks_that_cannot_be_compared():
    with pytest.raises(DataError, match="can't be compared"):
        segmentation_scores(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(DataError, match="has the label 7, beyond the 2"):
        segmentation_scores(np.zeros((2, 2), int), np.full((2, 2), 7))


def test_scores_of_classes_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for classes in (2, 4):
        probabilities = rng.dirichlet(np.ones(classes), 80)
        truth = rng.integers(0, classes, 80)
        chosen = probabilities.argmax(1)
        scores = classification_scores(probabilities, truth)
        average = "binary" if classes == 2 else "macro"
        score = probabilities[:, 1] if classes == 2 else probabilities
        assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(truth, chosen), abs=1e-6)
        assert scores["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, chosen), abs=1e-6)
        assert scores["f1"] == pytest.approx(metrics.f1_score(truth, chosen, average=average), abs=1e-6)
        assert scores["auroc"] == pytest.approx(metrics.roc_auc_score(truth, score, multi_class="ovr"), abs=1e-5)
        if classes == 2:
            assert scores["sensitivity"] == pytest.approx(metrics.recall_score(truth, chosen), abs=1e-6)
            assert scores["specificity"] == pytest.approx(metrics.recall_score(truth, chosen, pos_label=0), abs=1e-6)


def test_one_class_alone_has_no_auroc():
    scores = classification_scores(np.array([[0.4, 0.6], [0.7, 0.3]]), np.array([1, 1]))
    assert math.isnan(scores["auroc"])
    assert math.isnan(scores["specificity"])
    assert scores["sensitivity"] == 0.5


def test_the_interval_of_a_mean_is_that_of_theory_and_seeded():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(lambda index: float(values[index].mean()), 400, seed=1)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap(lambda index: float(values[index].mean()), 400, seed=1) == (low, high)


def test_means_leave_out_what_is_undefined_and_say_how_many_count():
    metric, lonely = over_cases([{"dice": 0.5, "x": 1.0}, {"dice": math.nan}, {"dice": 0.7}])
    assert (metric.name, metric.mean, metric.cases) == ("dice", pytest.approx(0.6), 2)
    assert metric.low <= metric.mean <= metric.high
    assert (lonely.cases, math.isnan(lonely.low)) == (1, True)
    assert lonely.to_dict() == {"name": "x", "mean": 1.0, "low": None, "high": None, "cases": 1}


def test_intervals_of_a_set_hold_its_value():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 60)
    positive = np.clip(0.3 + 0.3 * truth + rng.normal(0, 0.2, 60), 0, 1)
    for metric in over_set(np.stack([1 - positive, positive], 1), truth):
        assert metric.low < metric.mean < metric.high
        assert metric.cases == 60


# ---- evaluate ------------------------------------------------------------------------------------------------


def test_trained_weights_are_measured_on_the_test_part_of_their_own_split(toy, squares, weights, tmp_path):
    result = evaluate(toy.plugin, squares, weights=weights, out=tmp_path / "out", device="cpu", seed=99)
    assert [row["id"] for row in result.rows] == json.loads(Path(weights, "split.json").read_text())["test"]
    n = len(result.rows)
    note = f"split as in the training of these weights: {n} of 20 cases are its test part, which the weights didn't see"
    assert result.notes == (note,)
    assert result["dice"].mean > 0.85
    assert result["auroc"].mean > 0.95
    assert result["dice"].mean == pytest.approx(np.mean([row["dice"] for row in result.rows]))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cases.csv", "evaluation.json", "figure.png"]
    rows = list(csv.DictReader((tmp_path / "out" / "cases.csv").open()))
    assert [float(row["dice"]) for row in rows] == [row["dice"] for row in result.rows]
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == result.to_dict()
    with Image.open(tmp_path / "out" / "figure.png") as figure:
        assert figure.width > 600


def test_cases_the_weights_saw_are_refused_unless_asked_for(toy, squares, weights):
    parts = json.loads(Path(weights, "split.json").read_text())
    seen = len(parts["train"]) + len(parts["validation"])
    for split, count in (("all", seen), ("train", len(parts["train"])), ("validation", len(parts["validation"]))):
        with pytest.raises(DataError, match=f"saw {count} of these"):
            evaluate(toy.plugin, squares, weights=weights, split=split, device="cpu")
    result = evaluate(toy.plugin, squares, weights=weights, split="all", device="cpu", allow_seen=True)
    assert len(result.rows) == 20
    assert result.notes == (f"the weights saw {seen} of these 20 cases or others of their patients",)


def test_the_split_comes_back_however_the_set_is_spelled(toy, squares, weights, tmp_path, monkeypatch):
    held_out = json.loads(Path(weights, "split.json").read_text())["test"]
    rows = [f"images/c{i:02}.png,masks/c{i:02}.png\n" for i in range(20)]
    (tmp_path / "squares" / "all.csv").write_text("image,mask\n" + "".join(rows))
    monkeypatch.chdir(tmp_path)
    for spec in ("csv:squares/all.csv", "csv:./squares/all.csv", f"csv:{tmp_path}/squares/all.csv", "pairs:squares"):
        result = evaluate(toy.plugin, spec, weights=weights, device="cpu", seed=5)
        assert [Path(row["id"]).stem for row in result.rows] == held_out


def test_a_planted_overlap_is_found_under_another_name(toy, squares, weights, tmp_path):
    """One picture that was trained on, renamed, in a test set of somebody else's."""
    trained = json.loads(Path(weights, "split.json").read_text())["train"][0]
    other = tmp_path / "other"
    toy.write_squares(other)
    for path in (other / "images").iterdir():
        pixels = np.array(Image.open(path))
        Image.fromarray(255 - pixels).save(path)
    spec = f"pairs:{other}"
    assert not evaluate(toy.plugin, spec, weights=weights, split="all", device="cpu").notes
    (other / "images" / "c05.png").write_bytes((tmp_path / "squares" / "images" / f"{trained}.png").read_bytes())
    with pytest.raises(DataError, match=r"saw 1 of these 20 cases, .* such as c05"):
        evaluate(toy.plugin, spec, weights=weights, split="all", device="cpu")
    assert "c05" not in [row["id"] for row in evaluate(toy.plugin, spec, weights=weights, device="cpu").rows]


def test_weights_without_a_list_say_so(toy, squares, weights, tmp_path):
    Path(weights, "seen.json").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "squares")
    result = evaluate(toy.plugin, f"pairs:{tmp_path}/link", weights=weights, device="cpu")
    assert "without a list of the cases they saw" in result.notes[0]


def test_a_model_object_can_be_evaluated(toy, squares):
    result = evaluate(toy.Toy(), squares, split="all")
    assert result.weights == "none"
    assert "untrained" in result.disclaimer


def test_cases_that_fail_are_named_and_the_rest_goes_on(toy, squares, tmp_path):
    (tmp_path / "squares" / "images" / "c04.png").write_bytes(b"broken")
    result = evaluate(toy.Toy(), squares, split="all")
    assert len(result.rows) == 19
    assert [failure[:4] for failure in result.failures] == ["c04:"]
    for path in (tmp_path / "squares" / "images").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="none of the 20 cases"):
        evaluate(toy.Toy(), squares, split="all")


def test_refusals(toy, squares, tmp_path):
    with pytest.raises(OptionError, match="split must be one of"):
        evaluate(toy.Toy(), squares, split="tset")
    (tmp_path / "squares" / "masks" / "c04.png").unlink()
    with pytest.raises(DataError, match="have no mask, such as c04"):
        evaluate(toy.Toy(), squares, split="all")
    with pytest.raises(OptionError, match="states no score for report"):
        evaluations._score_of(toy.card(task="report", training=None))


def test_a_plugin_may_measure_in_its_own_way(toy, squares, monkeypatch):
    from dataclasses import replace

    own = replace(toy.training, score=lambda model, case, options: {"words": 3.0})
    monkeypatch.setattr(toy, "training", own)
    result = evaluate(toy.Toy(), squares, split="all")
    assert [metric.name for metric in result.metrics] == ["words"]


def test_an_operating_point_is_measured_by_lesion_and_resampled_by_patient():
    rng = np.random.default_rng(0)
    rows = [
        {"patient": f"p{i // 4}", "truth": ("benign", "melanoma")[i % 4 == 0],
         "predicted": ("benign", "melanoma")[i % 4 == 0 or i % 8 == 1], "operating_point": 0.4,
         "p_benign": 0.0, "p_melanoma": 0.3 * (i % 4 == 0) + rng.random()}
        for i in range(80)
    ]  # fmt: skip
    found = {metric.name: metric for metric in evaluations.over_rows(rows, 0)}
    assert found["sensitivity"].mean == 1.0
    assert found["specificity"].mean == pytest.approx(1 - 10 / 60)
    assert found["balanced_accuracy"].mean == pytest.approx(1 - 5 / 60)
    assert found["balanced_accuracy_test_optimal"].mean >= 0.5
    assert found["auroc"].low < found["auroc"].mean < found["auroc"].high
    assert all(metric.cases == 80 for metric in found.values())
    with pytest.raises(DataError, match="at least two are needed"):
        evaluations.over_rows([row for row in rows if row["truth"] == "benign"], 0)


def test_an_answer_that_is_always_the_same_is_measured_beside_the_model():
    rows = [
        {"truth": "ab"[i % 4 == 0], "predicted": "a", "constant": "a", "p_a": 0.4 + 0.4 * (i % 3 > 0), "p_b": 0.3}
        for i in range(40)
    ]
    found = {metric.name: metric for metric in evaluations.over_rows(rows, 0)}
    assert (found["accuracy_always_a"].mean, found["balanced_accuracy_always_a"].mean) == (0.75, 0.5)
    assert found["accuracy_always_a"].low < 0.75 < found["accuracy_always_a"].high


def test_pixels_of_so_many_images_at_a_time():
    tables = [[[50, 0], [0, 50]], [[90, 0], [10, 0]]] * 6
    rows = [{"dice": 1.0, "counts": table, "labels": ["none", "lesion"], "together": 2} for table in tables]
    found = {metric.name: metric for metric in evaluations.over_rows(rows, 0)}
    assert found["dice_by_2"].mean == pytest.approx(100 / 110)
    assert found["iou_by_2"].low == found["iou_by_2"].high == pytest.approx(50 / 60)  # every pair is like the others


def test_cases_of_one_patient_are_drawn_together():
    """Ten equal cases of each of two patients are two facts, not twenty: the interval says so."""
    rows = [{"dice": float(i % 2), "patient": f"p{i % 2}"} for i in range(20)]
    (together,), (apart,) = (evaluations.over_rows(some, 0) for some in (rows, [{"dice": row["dice"]} for row in rows]))
    assert (together.mean, together.low, together.high) == (0.5, 0.0, 1.0)
    assert 0.2 < apart.low < 0.5 < apart.high < 0.8


@pytest.mark.wrong_types
def test_labels_of_a_table_find_their_class():
    prediction = SimpleNamespace(probabilities={"benign": 0.3, "malignant": 0.7})
    model = SimpleNamespace(predict=lambda image: prediction)
    for label in ("malignant", 1, "1"):
        row = evaluations._classification(model, Case(np.zeros((1, 1)), "c", label=label), {})
        assert (row["truth"], row["predicted"], row["p_benign"]) == ("malignant", "malignant", 0.3)
    with pytest.raises(DataError, match="isn't one of benign, malignant"):
        evaluations._classification(model, Case(np.zeros((1, 1)), "c", label="odd"), {})


def test_the_figure_of_classes_shows_the_confusion():
    rng = np.random.default_rng(0)
    rows = []
    for i in range(30):
        p = float(np.clip(rng.normal(0.35 + 0.3 * (i % 2), 0.2), 0, 1))
        truth, predicted = ("no", "yes")[i % 2], ("no", "yes")[p > 0.5]
        rows.append({"id": str(i), "truth": truth, "predicted": predicted, "p_no": 1 - p, "p_yes": p})
    metrics = (Metric("accuracy", 0.8, 0.7, 0.9, 30), Metric("auroc", 0.85, 0.7, 0.95, 30))
    result = Evaluation("toy", "demo", "none", "csv:x", "test", 0, metrics, tuple(rows))
    with Image.open(io.BytesIO(evaluations.figure(result))) as figure:
        assert figure.width > 1000
