"""Each check notices the promise that it is about, and lets a plugin through that keeps all of them."""

from __future__ import annotations

import json

import pytest

from zoo.conformance import MAX_DEMO_BYTES, check
from zoo.conformance.rules import RULES
from zoo.errors import OptionError, PluginError

PREDICT = "probability = self(torch.from_numpy(picture.grey()).to(self.device)).sigmoid().cpu().numpy()"
RETURN = "        return Segmentation("
IMAGE = "image=picture,"
LOOP = "return [self._marked(image, threshold, region) for image in images]"
SIGNATURE = "    def _predict(self, images, *, threshold, region):\n"
INIT = "self.weight = torch.nn.Parameter(torch.tensor([self.config.scale, -0.5]))"
WEIGHTS = 'weights=WeightsInfo(trained_on="phantom:toy?n=20", command="zoo train toy-model --data phantom:toy?n=20"),'
QUICK = 'return {"method": {"dice": 0.9}, "baseline": {"dice": 0.8}}'

BROKEN = {
    "no summary": ("card", 'summary="Marks what is bright."', 'summary=""', "leaves summary empty"),
    "no author": ("card", 'authors=("Ada Lovelace",)', 'authors=("",)', "leaves paper.authors empty"),
    "one label": ("card", 'labels=("dark", "bright")', 'labels=("bright",)', "at least two labels"),
    "a default out of range": ("card", "default=0.5, minimum=0.0", "default=7, minimum=0.0", "from 0 to 1, not 7"),
    "optional first input": ("card", '"a 2-D image", required=True', '"a 2-D image"', "must be required"),
    "torch on import": (
        "light import",
        "from zoo.plugin import",
        "import torch\nfrom zoo.plugin import",
        "imports torch",
    ),
    "another card": ("build", "plugin: ClassVar = plugin", "plugin = None", "is not the card"),
    "no model": ("build", "class Toy(Model):", "class Toy:", "is no subclass of zoo.Model"),
    "mutable config": (
        "build",
        "@dataclass(frozen=True)\nclass ToyConfig",
        "@dataclass\nclass ToyConfig",
        "must be frozen",
    ),
    "a predict of its own": (
        "build",
        SIGNATURE,
        "    def predict(self, image):\n        return None\n\n" + SIGNATURE,
        "Toy has a predict of its own; write _predict, which predict calls",
    ),
    "no _predict": ("build", SIGNATURE, SIGNATURE.replace("_predict", "segment"), "has no _predict"),
    "an option that nobody takes": (
        "build",
        SIGNATURE,
        SIGNATURE.replace(", region", ", region=None, regions=None").replace("region=None, ", ""),
        "_predict doesn't take region, which the card declares",
    ),
    "an option that nobody declares": (
        "build",
        SIGNATURE,
        SIGNATURE.replace("region", "region, depth=3"),
        "_predict takes depth, which the card doesn't declare",
    ),
    "no parameters": ("build", INIT, "self.weight = [8.0, -3.5]", "has no parameters"),
    "config without equality": (
        "configuration",
        "@dataclass(frozen=True)\nclass ToyConfig",
        "@dataclass(frozen=True, eq=False)\nclass ToyConfig",
        "comes back from JSON as",
    ),
    "config that JSON can't hold": ("configuration", "scale: float =", "scale: complex =", "unsupported type"),
    "unlabelled weights": ("demo weights", 'trained_on="phantom:toy?n=20"', 'trained_on=" "', "leave trained_on empty"),
    "a mask of another size": (
        "phantom",
        "mask=(probability > threshold)",
        "mask=(probability[::2] > threshold)",
        "scale it back",
    ),
    "a label too many": (
        "phantom",
        "mask=(probability > threshold).astype(np.uint8)",
        "mask=np.full(probability.shape, 2, np.uint8)",
        "below 2",
    ),
    "NaN": ("phantom", PREDICT, PREDICT + " * np.nan", "holds NaN"),
    "no prediction": ("phantom", RETURN, "        return probability\n" + RETURN, "not ndarray"),
    "random": ("deterministic", PREDICT, PREDICT + " * float(torch.rand(()))", "draw nothing at random"),
    "training mode": ("deterministic", RETURN, "        self.train()\n" + RETURN, "left the model in training mode"),
    "batch": (
        "batch",
        LOOP,
        LOOP.replace("threshold,", "threshold if len(images) == 1 else 0.9,"),
        "gives another prediction: ",
    ),
    "a batch cut short": ("batch", LOOP, LOOP + "[:1]", "for each of 2 inputs, not Segmentation"),
    "numpy in JSON": ("json", IMAGE, IMAGE + ' measurements={"area": np.float32(1)},', "what JSON can't"),
    "NaN in JSON": ("json", IMAGE, IMAGE + ' measurements={"area": float("nan")},', "what JSON can't"),
    "an option that breaks": ("options", "if region is not None:", "if region:", "region=an array of 24 x 24 fails"),
    "a wrong mask is taken": (
        "options",
        "if inside.shape != probability.shape:",
        "if inside.shape != probability.shape:\n                return self._marked(picture, threshold, None)",
        "region=an array of 1 x 2 is taken; refuse it",
    ),
    "a wrong mask breaks": (
        "options",
        "if inside.shape != probability.shape:",
        "if False:",
        "region=an array of 1 x 2 fails with ValueError",
    ),
    "bad images are taken": (
        "bad images",
        SIGNATURE,
        "    def _read(self, given):\n        try:\n            return media.read(given)\n        except Exception:\n"
        "            return media.read(np.arange(64, dtype=np.uint8).reshape(8, 8))\n\n" + SIGNATURE,
        "a file that isn't there is taken; refuse it",
    ),
    "bad images break": (
        "bad images",
        SIGNATURE,
        "    def _read(self, given):\n"
        "        return media.Image(np.asarray(__import__('PIL.Image').Image.open(given))) "
        "if isinstance(given, str) else media.read(given)\n\n" + SIGNATURE,
        "fails with FileNotFoundError",
    ),
    "no optimiser step": ("training", "        adam.step()\n", "", "don't lower the loss of the stage 'weights'"),
    "no demo preset": ("training", ', "demo": {"steps": 20}}', "}", "has no preset 'demo'"),
    "another model": ("training", "    return model\n", "    return torch.nn.Linear(1, 1)\n", "returned a Linear"),
    "a loss of NaN": ("training", "run.backward(loss)", "run.backward(loss * np.nan)", "isn't finite"),
    "no loss": (
        "training",
        "        run.backward(loss)\n        adam.step()\n        run.log(loss=loss)\n",
        "        loss.backward()\n        adam.step()\n",
        "no step with a loss",
    ),
    "an arm too few": ("claim", QUICK, 'return {"method": {"dice": 0.9}}', "returned the arms method, not"),
    "a score of NaN": ("claim", QUICK, QUICK.replace("0.9", 'float("nan")'), "isn't finite"),
    "an arm that trains longer": (
        "claim",
        "            pass\n",
        "            weight = torch.nn.Parameter(torch.zeros(1))\n"
        "            for _ in range(3 if arm == 'method' else 1):\n"
        "                torch.optim.SGD([weight]).step()\n",
        "not the same budget with seed 0, method {'updates': 3",
    ),
    "an arm without a budget": (
        "claim",
        "for arm in claim.arms:",
        "for arm in ['method']:",
        "the arm baseline states no budget",
    ),
    "an empty statement": ("claim", 'statement="The method is better."', 'statement=" "', "leaves statement empty"),
}


def test_a_plugin_that_keeps_every_promise_passes_all_of_them(toy):
    toy()
    report = check("toy-model")
    assert report.ok, str(report)
    assert [result.check for result in report.results] == list(RULES)
    skipped = {result.check for result in report.results if result.status == "skipped"}
    assert skipped <= {"sample", "cuda", "anatomy", "answer"}
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


@pytest.mark.wrong_types
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_noticed(toy, name):
    rule, old, new, message = BROKEN[name]
    toy((old, new))
    (result,) = check("toy-model", only=[rule]).results
    assert result.status == "failed"
    assert message in result.detail
    assert "\n" not in result.detail


def test_state_outside_of_parameters_and_buffers_is_noticed(toy):
    toy((INIT, INIT + "\n        self.shift = np.random.rand()"), (PREDICT, PREDICT + " * self.shift"))
    (result,) = check("toy-model", only=["save and load"]).results
    assert "keep all state in parameters and buffers" in result.detail


def test_a_card_without_weights_fails(toy):
    toy((WEIGHTS, ""))
    (result,) = check("toy-model", only=["demo weights"]).results
    assert "the card has no weights; train some" in result.detail


def test_what_needs_a_failed_check_is_skipped(toy):
    toy(("class Toy(Model):", "class Toy:"))
    report = check("toy-model", only=["build", "json"])
    assert [result.status for result in report.results] == ["failed", "skipped"]
    assert report.results[1].detail == "needs the check 'build' to pass"
    assert not report.ok


def test_demo_weights_that_are_missing_or_too_large_fail(toy):
    site = toy()
    padding = site / "toy_demo" / "notes.txt"
    padding.write_bytes(b" " * MAX_DEMO_BYTES)
    (result,) = check("toy-model", only=["demo weights"]).results
    assert "keep it under 1 MiB" in result.detail
    (site / "toy_demo" / "model.safetensors").unlink()
    (result,) = check("toy-model", only=["demo weights"]).results
    assert result.status == "failed"


def test_a_blank_figure_is_noticed(toy, monkeypatch):
    from PIL import Image

    from zoo.prediction import Segmentation

    toy()
    monkeypatch.setattr(Segmentation, "figure", lambda self: Image.new("RGB", (64, 64), "white"))
    (result,) = check("toy-model", only=["figure"]).results
    assert result.detail == "the figure is blank"


def test_unknown_names_are_refused_with_the_nearest(toy):
    toy()
    with pytest.raises(OptionError, match="there is no check 'trainign'; did you mean 'training'"):
        check("toy-model", only=["trainign"])
    with pytest.raises(PluginError, match="did you mean toy-model"):
        check("toy-modle")


def test_the_fixed_batch_is_the_same_at_every_step(toy):
    import numpy as np
    import torch

    from zoo.conformance.fixed_batch import FixedBatchRun

    seen = []
    with FixedBatchRun(seed=3, device="cpu", progress=False, limit=4) as run:
        run.stage("one")
        for step in run.steps(100):
            draws = run.generator("crop", step).random(), torch.rand(()).item(), np.random.rand()  # noqa: NPY002
            seen.append((run.indices(50, 5, step).tolist(), draws))
        run.stage("two")
        loaded = [batch.tolist() for _, batch in run.batches(lambda i, rng: i + rng.random(), 50, 5, 100)]
    assert len(seen) == len(loaded) == 4
    assert seen == seen[:1] * 4
    assert loaded == loaded[:1] * 4
