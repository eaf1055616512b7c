"""Public weights that a plugin starts from."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save

from zoo.errors import WeightsError
from zoo.hub import fetch_backbone, timm_backbone, transformers_backbone


def _publish(hub, repo: str, model: torch.nn.Module, config: dict) -> dict[str, torch.Tensor]:
    tensors = {name: torch.randn_like(t) if t.is_floating_point() else t for name, t in model.state_dict().items()}
    hub.add(repo, {"config.json": json.dumps(config).encode(), "model.safetensors": save(tensors, {"format": "pt"}),
                   "pytorch_model.bin": b"\x80\x04."})  # fmt: skip
    return tensors


def test_the_size_is_announced_before_anything_is_fetched(hub, client) -> None:
    hub.add("big/net", {"config.json": b"{}", "model.safetensors": b"x" * 1_500_000, "model.bin": b"pickle"})
    told = []

    def announce(line: str) -> None:
        told.append((line, hub.count("GET", "/storage/")))

    folder = fetch_backbone("big/net", needed_by="toy-model", announce=announce)
    assert told == [("toy-model starts from big/net: fetching 1.5 MB from the Hub", 0)]
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    fetch_backbone("big/net", needed_by="toy-model", announce=announce)
    assert len(told) == 1, "nothing is announced when nothing is fetched"
    client.offline()
    assert fetch_backbone("big/net", needed_by="toy-model", announce=announce) == folder


def test_offline_the_error_names_the_repository_and_the_command(hub, client) -> None:
    client.offline()
    with pytest.raises(WeightsError) as refusal:
        fetch_backbone("big/net", needed_by="toy-model", files=("config.json", "model.safetensors"))
    assert str(refusal.value) == (
        "toy-model starts from big/net, which is not in the cache, and the Hub can't be reached (HF_HUB_OFFLINE is "
        "set); get it once with: hf download big/net config.json model.safetensors"
    )


def test_a_backbone_of_pickles_is_refused(hub, client) -> None:
    hub.add("big/net", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(WeightsError, match="big/net, which holds no safetensors"):
        fetch_backbone("big/net", needed_by="toy-model")


def test_a_damaged_backbone_is_never_used(hub, client, server) -> None:
    hub.add("big/net", {"config.json": b"{}", "model.safetensors": b"x" * 1000})
    hub.faults.append(server.Fault("GET", "/storage/", change=lambda content: b"y" + content[1:]))
    with pytest.raises(WeightsError, match=r"model\.safetensors of hf://big/net is damaged"):
        fetch_backbone("big/net", needed_by="toy-model", announce=lambda line: None)


@pytest.mark.slow
def test_timm_takes_its_weights_from_the_hub(hub, client, capsys) -> None:
    timm = pytest.importorskip("timm")
    name = "resnet10t.c3_in1k"
    tensors = _publish(hub, f"timm/{name}", timm.create_model(name), {"architecture": "resnet10t"})
    model = timm_backbone(name, needed_by="toy-model")
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in model.state_dict().items())
    assert f"toy-model starts from timm/{name}" in capsys.readouterr().err
    client.offline()
    assert timm_backbone(name, needed_by="toy-model", num_classes=2).num_classes == 2


def test_timm_models_without_public_weights_are_named(hub, client) -> None:
    pytest.importorskip("timm")
    with pytest.raises(WeightsError, match=r"resnet18\.nothing"):
        timm_backbone("resnet18.nothing", needed_by="toy-model")


@pytest.mark.slow
def test_transformers_takes_its_weights_from_the_hub(hub, client) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8
    )
    tensors = _publish(hub, "google/tiny", transformers.ViTModel(config), {**config.to_dict(), "model_type": "vit"})
    model = transformers_backbone(transformers.ViTModel, "google/tiny", needed_by="toy-model")
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in model.state_dict().items())
