from __future__ import annotations

import json

import pytest
from PIL import Image

from zoo.errors import OptionError
from zoo.evaluation import evaluate
from zoo.publish import _is_template
from zoo.runs import runs
from zoo.training import train


def test_a_run_tells_what_it_was_and_what_to_type_next(toy, squares, tmp_path, capsys):
    out = train(toy.plugin, squares, out=tmp_path / "my run", device="cpu", overrides={"steps": "20"}, seed=5)
    text = (out / "README.md").read_text()
    assert f"zoo train toy-threshold --data {squares} --preset paper --set steps=20 --seed 5 --out '{out}'" in text
    assert f"zoo predict toy-threshold IMAGE --weights '{out}'" in text
    assert "14 for training, 2 for validation, 4 for testing" in text
    assert "| threshold | 20 | loss " in text
    assert Image.open(out / "curves.png").width > 200
    said = capsys.readouterr().err
    assert "14 for training" in said
    assert str(out) in said
    assert "--resume" in said


def test_what_a_run_tells_is_no_model_card(toy, squares, tmp_path):
    out = train(toy.plugin, squares, out=tmp_path / "run", device="cpu", overrides={"steps": "5"})
    assert _is_template(out / "README.md")


def test_runs_are_listed_with_their_state_and_scores(toy, squares, tmp_path):
    out = train(toy.plugin, squares, out=tmp_path / "a", device="cpu", overrides={"steps": "20"}, seed=5)
    stopped = tmp_path / "b"
    (stopped / "metrics").mkdir(parents=True)
    (stopped / "run.json").write_text(json.dumps({"identity": {"model": "toy-threshold", "data": squares}}))
    (stopped / "metrics" / "threshold.csv").write_text("step,loss\n0,1.5\n1,1.25\n")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "run.json").write_text("no JSON")
    by_name = {one.folder.name: one for one in runs(tmp_path)}
    assert set(by_name) == {"a", "b"}
    assert by_name["a"].state == "finished"
    assert by_name["a"].scores.startswith("loss ")
    assert (by_name["b"].state, by_name["b"].scores) == ("stopped at step 2 of threshold", "loss 1.25")
    result = evaluate(toy.plugin, squares, weights=str(out), out=tmp_path / "evaluations", device="cpu", progress=False)
    (listed,) = runs(out)
    assert listed.scores.startswith(f"test: {result.metrics[0].name} {result.metrics[0].mean:.4g}")


@pytest.mark.parametrize("name", ["", "none"])
def test_a_folder_without_runs_is_named(tmp_path, name):
    with pytest.raises(OptionError, match=r"no run of zoo train|no folder"):
        runs(tmp_path / name)
