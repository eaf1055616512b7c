"""A small plugin that keeps every promise, and a way to break one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

CARD = """
from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="toy-model", title="A toy", summary="Marks what is bright.",
    paper=Paper(title="Toys: A Study", authors=("Ada Lovelace",), workshop="Toy Workshop"),
    task="segmentation", modality="any",
    inputs=(
        Input("image", "image", "a 2-D image", required=True),
        Input("threshold", "number", "from which a pixel counts", default=0.5, minimum=0.0, maximum=1.0),
        Input("region", "mask", "where to look"),
    ),
    outputs=(Output("mask", "what is bright"),), labels=("dark", "bright"),
    model="toy_network:Toy", training="toy_network:training", claim="toy_network:claim",
    weights=WeightsInfo(trained_on="phantom:toy?n=20", command="zoo train toy-model --data phantom:toy?n=20"),
    phantom="phantom:toy",
)
"""

NETWORK = """
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from toy_package import plugin
from zoo import Model, OptionError, Segmentation, media
from zoo.claims import Claim, Comparison, spending
from zoo.data.case import Case
from zoo.training import Run, Training


def draw(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    mask = np.zeros((24, 24), np.uint8)
    y, x = rng.integers(2, 14, 2)
    mask[y : y + 8, x : x + 8] = 1
    return Case(np.uint8(60 + 100 * mask + rng.integers(0, 30, mask.shape)), f"toy-{seed}", masks={"mask": mask})


@dataclass(frozen=True)
class ToyConfig:
    scale: float = field(default=1.0, metadata={"min": 0.0})


@dataclass(frozen=True)
class ToyRecipe:
    steps: int = field(default=100, metadata={"min": 1})
    lr: float = 0.1


class Toy(Model):
    plugin: ClassVar = plugin
    config_class = ToyConfig

    def __init__(self, config=None):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.tensor([self.config.scale, -0.5]))

    def forward(self, grey):
        return self.weight[0] * grey + self.weight[1]

    def _predict(self, images, *, threshold, region):
        return [self._marked(image, threshold, region) for image in images]

    def _marked(self, picture, threshold, region):
        probability = self(torch.from_numpy(picture.grey()).to(self.device)).sigmoid().cpu().numpy()
        if region is not None:
            inside = media.read(region).grey() > 0
            if inside.shape != probability.shape:
                raise OptionError("region has another size than the image; give one of its size")
            probability = np.where(inside, probability, 0)
        return Segmentation(
            image=picture,
            mask=(probability > threshold).astype(np.uint8), probability=probability, labels=plugin.labels,
        )


def train(recipe, data, run):
    images = [torch.from_numpy(media.read(case.image).grey()) for case in data.train]
    masks = [torch.from_numpy(case.masks["mask"]).float() for case in data.train]
    run.stage("weights")
    model = Toy()
    net, adam = run.track(model=model, adam=torch.optim.Adam(model.parameters(), lr=recipe.lr))
    for step in run.steps(recipe.steps):
        index = run.indices(len(images), 2, step)
        x, y = (torch.stack([part[i] for i in index]).to(run.device) for part in (images, masks))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(x), y)
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
    return model


training = Training(recipe=ToyRecipe, presets={"paper": {}, "demo": {"steps": 20}}, run=train)


def arms(seed, *, quick=False):
    for arm in claim.arms:
        with spending(arm):
            pass
    return {"method": {"dice": 0.9}, "baseline": {"dice": 0.8}}


claim = Claim(
    statement="The method is better.", data="phantom:toy", arms={"method": "it", "baseline": "what was before"},
    run="toy_network:arms", primary=Comparison("method", "baseline", "dice"),
    falsified_if={"it isn't": ("method vs. baseline, dice",)},
)
"""


@pytest.fixture
def toy(install_plugin: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Install the plugin ``toy-model``, with pieces of its source replaced, and with demo weights unless told."""
    from zoo.data.finding import Found
    from zoo.data.phantoms import PHANTOMS

    def install(*changes: tuple[str, str], demo: bool = True) -> Path:
        card, network = CARD, NETWORK
        for old, new in changes:
            assert (card + network).count(old) == 1, f"{old!r} is not there, or not once"
            card, network = card.replace(old, new), network.replace(old, new)
        site = install_plugin("toy-zoo", card)
        (site / "toy_network.py").write_text(network)
        monkeypatch.setitem(PHANTOMS, "toy", Found("phantom", "toy", "toy_network:draw"))
        if demo:
            _save_demo(site, monkeypatch)
        return site

    return install


def _save_demo(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights for a plugin that is one module and so has no folder ``demo/`` of its own."""
    import json

    import torch
    from safetensors.torch import save_file

    from zoo import loading

    folder = site / "toy_demo"
    folder.mkdir()
    save_file({"weight": torch.tensor([8.0, -3.5])}, folder / "model.safetensors")
    record = {
        "model": "toy-model",
        "distribution": "toy-zoo",
        "version": "1.2",
        "contract": 1,
        "trained_on": "phantom:toy?n=20",
        "disclaimer": "trained on phantoms; not for clinical use",
        "config": {"scale": 1.0},
    }
    (folder / "config.json").write_text(json.dumps(record))
    monkeypatch.setattr(loading, "_demo_folder", lambda plugin: folder)
