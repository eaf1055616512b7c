from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
from safetensors.torch import load_file

import zoo.training.recipe as recipes
from zoo.data.sets import Dataset, load_dataset
from zoo.data.splits import TrainData, divide
from zoo.errors import DataError, OptionError, PluginError, WeightsError
from zoo.loading import load_into
from zoo.training import Training, train
from zoo.training.reference import refer


def fit(toy, data, out, **options):
    return train(toy.plugin, data, out=out, device="cpu", **options)


def test_training_leaves_weights_split_metrics_and_a_record(toy, squares, tmp_path):
    out = fit(toy, squares, tmp_path / "run", overrides={"steps": "20"}, seed=5)
    assert out == tmp_path / "run"
    names = {path.name for path in out.iterdir()}
    told = {"README.md", "curves.png"}
    assert names == {"config.json", "model.safetensors", "run.json", "seen.json", "split.json", "metrics", *told}
    identity = json.loads((out / "run.json").read_text())["identity"]
    assert identity["recipe"] == {"steps": 20, "lr": 0.3, "batch_size": 4, "dtype": "float32"}
    assert (identity["model"], identity["data"], identity["seed"]) == ("toy-threshold", squares, 5)
    record = json.loads((out / "split.json").read_text())
    assert [len(record[part]) for part in ("train", "validation", "test")] == [14, 2, 4]
    assert len((out / "metrics" / "threshold.csv").read_text().splitlines()) == 21
    assert json.loads((out / "config.json").read_text())["trained_on"] == squares


def test_presets_and_overrides(toy):
    assert toy.training.configure("demo", {"lr": "0.5"}) == toy.ToyRecipe(steps=5, lr=0.5)
    with pytest.raises(OptionError, match="no preset 'papr'; did you mean 'paper'"):
        toy.training.configure("papr")
    with pytest.raises(OptionError, match="did you mean 'steps'"):
        toy.training.configure("paper", {"step": "3"})


@dataclass(frozen=True)
class Inner:
    width: int = 4
    depth: int = 2


@dataclass(frozen=True)
class TwoReadings:
    recipe: Literal["paper", "released"] = "paper"
    inner: Inner = field(default_factory=Inner)
    epochs: int = 30


def test_a_reading_changes_defaults_and_a_preset_comes_after_it():
    training = Training(
        recipe=TwoReadings,
        run=lambda recipe, data, run: None,
        presets={"paper": {}, "demo": {"inner": {"width": 1}, "epochs": 3}},
        readings={"released": {"inner": {"width": 8, "depth": 3}, "epochs": 50}},
    )
    released = {"recipe": "released"}
    assert training.configure("paper", released) == TwoReadings("released", Inner(8, 3), 50)
    assert training.configure("demo", released) == TwoReadings("released", Inner(1, 3), 3)
    assert training.configure("demo") == TwoReadings("paper", Inner(1, 2), 3)
    assert training.configure("paper", {**released, "epochs": "7"}).epochs == 7
    with pytest.raises(OptionError, match="recipe must be one of paper, released"):
        training.configure("paper", {"recipe": "printed"})


def test_weights_can_be_stored_in_half_precision(toy, squares, tmp_path):
    out = fit(toy, squares, tmp_path / "run", preset="demo", overrides={"dtype": "float16"})
    assert {str(tensor.dtype) for tensor in load_file(out / "model.safetensors").values()} == {"torch.float16"}


def test_a_run_resumed_after_a_failure_gives_the_same_weights_and_a_finished_one_is_left_alone(
    toy, squares, tmp_path, monkeypatch
):
    whole = fit(toy, squares, tmp_path / "whole", overrides={"steps": "12"})
    real = recipes.Run.log

    def fail(run, **scalars):
        real(run, **scalars)
        if run.step == 9:
            raise RuntimeError("power cut")

    monkeypatch.setattr(recipes.Run, "log", fail)
    with pytest.raises(RuntimeError):
        fit(toy, squares, tmp_path / "parts", overrides={"steps": "12"}, checkpoint_every=4)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    monkeypatch.setattr(recipes.Run, "log", real)
    parts = fit(toy, squares, tmp_path / "parts", overrides={"steps": "12"}, resume=True)
    for name in ("model.safetensors", "metrics/threshold.csv"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    before = (parts / "model.safetensors").stat().st_mtime_ns
    fit(toy, squares, tmp_path / "parts", overrides={"steps": "12"}, resume=True)
    assert (parts / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_of_other_data_is_not_resumed(toy, squares, tmp_path):
    fit(toy, squares, tmp_path / "run", preset="demo")
    root = tmp_path / "squares"
    (root / "images" / "c00.png").unlink()
    (root / "masks" / "c00.png").unlink()
    with pytest.raises(OptionError, match="holds another run: cases was"):
        fit(toy, squares, tmp_path / "run", preset="demo", resume=True)
    with pytest.raises(OptionError, match=r"recipe\.lr was 0\.3, now 0\.2"):
        fit(toy, squares, tmp_path / "run", preset="demo", resume=True, overrides={"lr": "0.2"})


def test_missing_masks_stop_the_training_before_anything_is_written(toy, squares, tmp_path):
    (tmp_path / "squares" / "masks" / "c03.png").unlink()
    with pytest.raises(DataError, match=r"1 of 20 cases .* have no mask, such as c03"):
        fit(toy, squares, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_procedure_that_refuses_before_its_first_step_leaves_the_folder_free(toy, squares, tmp_path, monkeypatch):
    def refuse(recipe, data, run):
        raise OptionError("no")

    with monkeypatch.context() as patched:
        patched.setattr(toy, "training", replace(toy.training, run=refuse))
        with pytest.raises(OptionError, match="no"):
            fit(toy, squares, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "notes.txt").write_text("mine")
        with pytest.raises(OptionError, match="no"):
            fit(toy, squares, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    assert fit(toy, squares, tmp_path / "run", overrides={"steps": "2"}) == tmp_path / "run"


def test_a_model_without_training_is_told(toy, squares, tmp_path):
    with pytest.raises(PluginError, match="toy-threshold has no training"):
        train(toy.card(training=None), squares, out=tmp_path / "run")


def test_a_full_disk_at_the_end_leaves_a_run_that_resumes(toy, squares, tmp_path, monkeypatch):
    import safetensors.torch

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(WeightsError, match="No space left"):
            fit(toy, squares, tmp_path / "run", preset="demo")
    assert not (tmp_path / "run" / "model.safetensors").exists()
    out = fit(toy, squares, tmp_path / "run", preset="demo", resume=True)
    assert (out / "model.safetensors").exists()


def test_a_training_states_the_kind_of_its_images(toy, tmp_path):
    """Of training and validation images; of the validation images alone where training images are nobody's business."""
    data = "phantom:he-tile?n=30&size=64"
    out = fit(toy, data, tmp_path / "run", overrides={"steps": "1"})
    model = load_into(toy.Toy, str(out))
    assert model.domain.images == 24  # not the test's
    assert not any(model.predict(case.image).unlike for case in load_dataset(data))
    assert model.temperature is None  # there are no classes

    parts = divide(load_dataset(data), toy.training.split, toy.training.recipe(), 0)
    private = replace(toy.training, private=True)
    refer(model, parts, private)
    assert model.domain.images == 24  # drawn images are nobody's
    files = [Dataset(part.spec, [replace(one, drawn="") for one in part.entries]) for part in (parts.train, parts.test)]
    refer(model, TrainData(files[0], files[1], files[1]), private)
    assert model.domain is None  # 6 validation images are too few to tell anything by
    refer(model, TrainData(files[1], files[0], files[1]), private)
    assert model.domain.images == len(files[0])
