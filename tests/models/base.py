"""What the tests of all plugins have in common.

Two places test a plugin, and neither does the other's work again:

* ``tests/conformance`` makes the checks of ``zoo check``, each once for a model: card, light import, build,
  configuration, save and load, demo weights, predictions on sample and phantom, the same bits twice, a batch like its
  images one by one, CUDA, JSON, figure and files, good and wrong options, bad images, a demo preset that lowers the
  loss, the claim's quick mode. A plugin's own tests say nothing about these.
* :class:`PluginTests` adds what needs a training of seconds: it goes on to the same bits after two kills, its seed
  decides the weights, what it stored predicts as it did; and the command line, the evaluation, the facts on the card.

A plugin's folder in ``tests/models`` then holds one subclass and the paper's own statements. All of it for a model
whose training needs nothing but its recipe and its phantom::

    from tests.models.base import PluginTests

    TINY = MyRecipe(network=MyConfig(channels=(4, 8)), epochs=3, batch_size=4)


    class TestMyModel(PluginTests):
        name = "my-model"
        recipe = TINY  # trains within about two seconds on
        data = "phantom:my-phantom?n=10&size=48"


    def test_the_loss_is_that_of_equation_4(): ...

Where a recipe or its data must be made, override the fixture in place of the attribute::

    class TestMyModel(PluginTests):
        name = "my-model"

        @pytest.fixture(scope="class")
        @classmethod
        def tiny(cls, tiny_sam):  # the recipe
            return replace(TINY, sam=tiny_sam)

        @pytest.fixture(scope="class")
        @classmethod
        def parts(cls):  # the TrainData
            return TrainData(cases(range(8)), cases(range(8, 10)), cases(range(10, 12)))

Fixtures for the paper's own tests, in the class or beside it (a class is not needed to use the first two):

* ``demo("my-model")``: the model with its demo weights, loaded once in the whole session; don't change it.
* ``predicted("my-model")``: its prediction on the card's phantom, made once in the whole session.
* ``trained`` (in the class): the tiny training, made once: ``.model``, ``.folder`` (of the run), ``.steps``.

A statement that needs the trained model goes into the class and takes ``trained``.
"""

from __future__ import annotations

import json
import math
import pickle
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from zoo import loading, registry, weights
from zoo.conformance.checks import different
from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData, divide
from zoo.evaluation import evaluate
from zoo.model import Model
from zoo.plugin import Plugin
from zoo.spec import Spec
from zoo.training import Run, Training


class Killed(Exception):
    """The end of a process, as far as a test can have it without one."""


class MortalRun(Run):
    """Counts its steps, and dies after one of them before anything more is written."""

    def __init__(self, out: Path | None, *, die_after: int | None = None, resume: bool = False, seed: int = 0) -> None:
        super().__init__(out, seed=seed, device="cpu", progress=False, checkpoint_every=2, resume=resume)
        self.made = 0
        self.die_after = die_after

    def steps(self, total: int, *, description: str | None = None) -> Iterator[int]:
        for step in super().steps(total, description=description):
            yield step
            self.made += 1
            if self.made == self.die_after:
                raise Killed


@dataclass(frozen=True)
class Trained:
    """A tiny training that nobody disturbed."""

    model: Model
    folder: Path
    steps: int


class PluginTests:
    """See the head of the file."""

    name: ClassVar[str]  # as `zoo list` shows it
    recipe: ClassVar[Any] = None  # trains within about two seconds, in at least six steps
    data: ClassVar[str] = ""  # a data set for it
    given: ClassVar[tuple[str, ...]] = ()  # required options beside the image, as ("--with", "box=0,0,9,9")
    evaluated_on: ClassVar[str] = ""  # a few cases for `zoo evaluate`; by default four of the card's phantom
    # Slow: numbers of the card that `zoo evaluate` gives again, as {name on the card: name in the evaluation}, and how
    # they were measured: the set and its part.
    facts: ClassVar[Mapping[str, str]] = {}
    facts_on: ClassVar[tuple[str, str]] = ("", "test")

    # ---- what the tests share --------------------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def plugin(cls) -> Plugin:
        found = registry.find(cls.name).plugin
        assert found is not None
        return found

    @pytest.fixture(scope="class")
    @classmethod
    def training(cls) -> Training:
        return registry.resolve(registry.find(cls.name), "training")

    @pytest.fixture(scope="class")
    @classmethod
    def tiny(cls) -> Any:
        return cls.recipe

    @pytest.fixture(scope="class")
    @classmethod
    def parts(cls, plugin: Plugin, training: Training, tiny: Any) -> TrainData:
        return _parts(load_dataset(cls.data, plugin=plugin), training, tiny)

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, training: Training, tiny: Any, parts: TrainData, tmp_path_factory: Any) -> Trained:
        folder = tmp_path_factory.mktemp(cls.name) / "whole"
        with MortalRun(folder) as run:
            model = training.run(tiny, parts, run)
        assert run.made >= 6, f"the tiny training makes {run.made} steps; at least 6 leave room for two kills"
        return Trained(model.eval(), folder, run.made)

    # ---- training --------------------------------------------------------------------------------------------------

    def test_a_training_killed_twice_ends_in_the_same_bits(
        self, training: Training, tiny: Any, parts: TrainData, trained: Trained, tmp_path: Path
    ):
        out, resume = tmp_path / "cut", False
        for share in (0.3, 0.5):
            with pytest.raises(Killed), MortalRun(out, die_after=int(share * trained.steps), resume=resume) as run:
                training.run(tiny, parts, run)
            resume = True
        with MortalRun(out, resume=True) as run:
            model = training.run(tiny, parts, run)
        assert run.made < trained.steps, "the resumed training began at its first step"
        assert model.config == trained.model.config
        assert _unequal(model, trained.model) == []

    def test_another_seed_gives_other_weights(self, training: Training, tiny: Any, parts: TrainData, trained: Trained):
        with MortalRun(None, seed=1) as run:
            model = training.run(tiny, parts, run)
        assert _unequal(model, trained.model)

    def test_what_is_stored_predicts_as_it_did(
        self, plugin: Plugin, trained: Trained, predict_on_phantom: Any, tmp_path: Path
    ):
        weights.save(trained.model, tmp_path, trained_on="a few phantoms")
        back = loading.load_into(type(trained.model), str(tmp_path), "cpu")
        assert _unequal(back, trained.model) == []
        back.provenance = trained.model.provenance  # notes tell weights from none
        before, after = (predict_on_phantom(self.name, model) for model in (trained.model, back))
        assert different(before, after, 1e-5) == ""  # elsewhere in memory sums run in another order

    @pytest.mark.slow
    def test_two_processes_end_with_equal_weights_or_are_refused(self, tiny: Any, parts: TrainData, tmp_path: Path):
        """Under ``accelerate launch``; a loss beside the wrapped network would let the processes drift apart."""
        (tmp_path / "given.pickle").write_bytes(pickle.dumps((tiny, self.data or parts)))
        script = Path(__file__).with_name("two_processes.py")
        command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
                   "--main_process_port", "0", str(script), self.name, str(tmp_path)]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=540)
        assert done.returncode == 0, done.stderr[-3000:]
        one, two = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
        assert one == two
        assert one.get("processes") == 2 or "process" in one["refused"]

    # ---- the command line ------------------------------------------------------------------------------------------

    def test_the_command_line_writes_the_record_and_the_picture(self, plugin: Plugin, zoo_cli: Any, tmp_path: Path):
        image = plugin.phantom or plugin.sample
        ran = zoo_cli("predict", self.name, image, *self.given, "--out", tmp_path, "--device", "cpu")
        assert ran.code == 0, ran.err
        (record,) = tmp_path.glob("*.json")
        assert json.loads(record.read_text(encoding="utf-8"))["model"] == self.name
        assert record.with_suffix(".png").stat().st_size > 0

    def test_the_command_line_refuses_what_is_no_image_and_writes_nothing(
        self, plugin: Plugin, zoo_cli: Any, tmp_path: Path
    ):
        (tmp_path / "text.png").write_text("this is no picture\n" * 50)
        image, out = tmp_path / "text.png", tmp_path / "out"
        ran = zoo_cli("predict", self.name, image, *self.given, "--out", out, "--device", "cpu")
        assert ran.code == 2
        assert "text.png" in ran.err
        assert not list((tmp_path / "out").glob("*"))

    # ---- what the card says ----------------------------------------------------------------------------------------

    def test_demo_weights_are_evaluated(self, plugin: Plugin, demo: Any):
        cases = self.evaluated_on or str(
            Spec.parse(plugin.phantom or "").with_options(n=4, seed=77000)
        )  # none that a demo saw
        found = evaluate(demo(self.name), cases, split="all", device="cpu", progress=False)
        assert found.failures == ()
        assert len(found.rows) >= 1
        assert found.metrics
        assert any(math.isfinite(metric.mean) for metric in found.metrics)

    def test_the_card_says_how_its_weights_were_made_and_measured(self, plugin: Plugin, training: Training):
        about = plugin.weights
        assert about is not None
        assert about.metrics, "the card states nothing that was measured"
        assert all(map(math.isfinite, about.metrics.values()))
        given = _train_command(about.command)
        assert given["model"] == self.name
        pairs = (text.partition("=") for text in given["given"] or [])
        training.configure(given["preset"], {name: value for name, _, value in pairs})
        dataset = load_dataset(given["data"], plugin=plugin)
        assert len(dataset) > 0
        assert about.trained_on.startswith(given["data"].partition("?")[0])

    @pytest.mark.slow
    def test_the_cards_numbers_are_measured_again(self, plugin: Plugin, demo: Any):
        if not self.facts:
            pytest.skip("its tests name no facts of the card")
        data, part = self.facts_on
        found = evaluate(demo(self.name), data, split=part, device="cpu", progress=False)
        assert plugin.weights is not None
        for stated, name in self.facts.items():
            value = plugin.weights.metrics[stated]
            digits = len(str(value).partition(".")[2])  # the card rounds
            assert value == pytest.approx(found[name].mean, abs=0.6 * 10.0**-digits), stated


def _parts(dataset: Any, training: Training, recipe: Any) -> TrainData:
    """The division that `zoo train` makes with seed 0."""
    return divide(dataset, training.split, recipe)


def _unequal(a: torch.nn.Module, b: torch.nn.Module) -> list[str]:
    """Names of the tensors that two models don't share to the bit."""
    here, there = a.state_dict(), b.state_dict()
    assert here.keys() == there.keys()
    return [name for name, tensor in here.items() if not torch.equal(tensor.cpu(), there[name].cpu())]


def _train_command(command: str) -> dict[str, Any]:
    """What `zoo train` would be called with, read by the command line itself."""
    import typer

    from zoo.cli import app

    words = shlex.split(command)
    assert words[:2] == ["zoo", "train"], command
    return typer.main.get_command(app).commands["train"].make_context("train", words[2:]).params  # type: ignore[attr-defined]
