"""``zoo new --backbone``: the package starts from a public network of the Hub and learns on top of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from zoo import scaffold
from zoo.errors import WeightsError
from zoo.training import Run

TIMM = "resnet10t.c3_in1k"


def publish(hub: Any, repo: str, model: torch.nn.Module, config: dict[str, Any]) -> None:
    hub.add(repo, {"config.json": json.dumps(config).encode(), "model.safetensors": save(model.state_dict())})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Any]]:
    """Write a package on a backbone; the recipe of its preset ``paper`` with two steps, and what it trains with."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.startswith("toy_wrapped")]:
            del sys.modules[name]

    def write(task: str, backbone: str) -> Any:
        folder = scaffold.new("toy-wrapped", task, tmp_path, backbone=backbone).folder
        monkeypatch.syspath_prepend(str(folder / "src"))
        training, phantom = (import_module(f"toy_wrapped.{name}") for name in ("training", "phantom"))
        changes = training.training.presets["paper"]["network"]
        assert changes == {"backbone": backbone}
        network = training.ToyWrappedConfig(**changes)
        return training, replace(training.ToyWrappedRecipe(network=network), steps=2, batch_size=2), phantom.draw

    forget()
    yield write
    forget()


@pytest.mark.parametrize("task", ["detection", "report"])
def test_a_network_of_timm_is_trained_on(hub, client, package, task) -> None:
    timm = pytest.importorskip("timm")
    publish(hub, f"timm/{TIMM}", timm.create_model(TIMM), {"architecture": "resnet10t"})
    training, recipe, draw = package(task, f"timm:{TIMM}")
    with Run(seed=0, device="cpu") as run:
        model = training.fit(recipe, [draw(seed) for seed in range(4)], run)
    assert model.encoder.width == 512
    assert training.score(model, draw(9), {})


def test_a_network_of_transformers_is_trained_on(hub, client, package) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=64, patch_size=16
    )
    network = transformers.ViTModel(config)
    publish(hub, "google/tiny", network, {**config.to_dict(), "model_type": "vit"})
    training, recipe, draw = package("multi-task", "hf:google/tiny")
    with Run(seed=0, device="cpu") as run:
        model = training.fit(recipe, [draw(seed) for seed in range(4)], run)
    assert model.encoder.width == 8
    x = torch.zeros(1, 1, 64, 64)
    assert model.encoder(x).shape == (1, 8, 4, 4)
    assert training.score(model, draw(9), {})


@pytest.mark.parametrize(("backbone", "repo"), [(f"timm:{TIMM}", f"timm/{TIMM}"), ("hf:google/tiny", "google/tiny")])
def test_without_the_hub_one_sentence_names_the_network(hub, client, package, backbone, repo) -> None:
    pytest.importorskip("timm" if backbone.startswith("timm") else "transformers")
    client.offline()
    training, recipe, _ = package("detection", backbone)
    with pytest.raises(WeightsError) as refusal:
        training.ToyWrapped(recipe.network)
    told = str(refusal.value)
    assert told.startswith(f"toy-wrapped starts from {repo}, which is not in the cache, and the Hub can't be reached")
    assert "\n" not in told
