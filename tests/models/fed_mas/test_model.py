"""The network, its predictions, and its prior."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from zoo import media
from zoo.data.case import Case
from zoo.data.phantoms.skin import skin_lesion
from zoo.errors import OptionError, WeightsError
from zoo.models.fed_mas.model import FedMAS, FedMASConfig, build_network, to_network, view
from zoo.models.fed_mas.prior import (
    PriorConfig,
    build_prior,
    load_prior,
    prior_features,
    save_prior,
)
from zoo.models.fed_mas.training import FedMASRecipe
from zoo.nn.backbones import encoder_tensors


@pytest.fixture(scope="module")
def model(tiny: FedMASRecipe) -> FedMAS:
    torch.manual_seed(0)
    return FedMAS(replace(tiny.network, class_counts=(400, 900, 300, 6, 80, 2, 3, 5))).eval()


@pytest.fixture(scope="module")
def lesion() -> Case:
    return skin_lesion(1000, size=80)


def test_groups_follow_the_training_counts(model: FedMAS) -> None:
    groups = replace(model.config, head_above=100, tail_below=5).groups
    assert [groups[name] for name in model.config.labels] == [
        "head", "head", "head", "medium", "medium", "tail", "tail", "medium"
    ]  # fmt: skip


def test_prediction_names_probabilities_group_and_distance(model: FedMAS, lesion: Case) -> None:
    found = model.predict(lesion.image, ssl_distance=True, saliency=True)
    record = found.to_dict()
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert record["group"] == model.config.groups[found.label]
    assert record["top"][0]["label"] == found.label
    assert 0 <= record["measurements"]["ssl_distance"] <= 4
    assert f"({record['group']} class)" in found.summary()
    assert [panel.title.split(" (")[0] for panel in found.panels()] == [
        "input", f"evidence for {found.label_names[found.label]}", "probabilities"
    ]  # fmt: skip
    assert found.saliency is not None
    assert 0 <= found.saliency.min() <= found.saliency.max() <= 1


def test_grad_cam_is_that_of_autograd(model: FedMAS, lesion: Case) -> None:
    x = to_network(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    features = model.network.encoder.features(x).detach().requires_grad_(True)
    logits = model.network.classifier(features.mean((2, 3)))
    logits[0, logits.argmax()].backward()
    assert features.grad is not None
    expected = (features.grad.mean((2, 3), keepdim=True) * features).sum(1).relu()[0]
    expected = expected / expected.max().clamp(min=1e-12)
    found = model._cam(x, logits.argmax(1))[0]
    torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-4)


def test_distance_is_refused_where_no_prior_is_at_hand(tiny: FedMASRecipe, lesion: Case, tmp_path: Path) -> None:
    without = FedMAS(replace(tiny.network, prior=PriorConfig("none"))).eval()
    with pytest.raises(OptionError, match="trained without a prior"):
        without.predict(lesion.image, ssl_distance=True)
    public = FedMAS(replace(tiny.network, prior=PriorConfig("moco"))).eval()
    assert public.prior is None  # it's large and has its own licence
    with pytest.raises(OptionError, match="give its file or folder as prior=PATH"):
        public.predict(lesion.image, ssl_distance=True)
    broken = tmp_path / "broken.safetensors"
    with pytest.raises(OptionError, match=r"prior names .*broken\.safetensors, which does not exist"):
        public.predict(lesion.image, ssl_distance=True, prior=broken)
    broken.write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match="can't be read"):
        public.predict(lesion.image, ssl_distance=True, prior=broken)


def test_parameters_of_the_papers_network() -> None:
    pytest.importorskip("timm")
    network = build_network(FedMASConfig(labels=tuple(f"class {k}" for k in range(23))))
    size = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert size["encoder"] + size["classifier"] == 11_188_311
    assert size["projector"] == 512 * 2048 + 2048 + 2048 * 2048 + 2048
    assert network(torch.zeros(2, 3, 64, 64)).y.shape == (2, 2048)


def test_a_squeezed_view_shows_all_of_the_picture() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :8] = 255  # beyond the middle
    shown = [view(media.read(pixels), FedMASConfig(image_size=32, squeeze=squeeze)) for squeeze in (False, True)]
    assert [found.shape for found in shown] == [(32, 32, 3)] * 2
    assert shown[0].max() == 0
    assert shown[1][:, :2].min() > 250


@pytest.mark.parametrize("prefix", ["module.encoder_q.", ""])
def test_moco_checkpoints_lose_prefix_and_head(prefix: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    source = build_prior(PriorConfig("moco"))
    tensors = {prefix + name: tensor.clone() for name, tensor in source.state_dict().items()}
    if prefix:
        tensors |= {prefix + "fc.0.weight": torch.zeros(2, 2), "module.encoder_k.conv1.weight": torch.zeros(1)}
    assert set(encoder_tensors(tensors)) == set(source.state_dict())
    save_file(tensors, tmp_path / "moco.safetensors")
    prior = load_prior(PriorConfig("moco", path=str(tmp_path / "moco.safetensors")))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(prior(x), source(x))
    assert prior(x).shape == (1, 2048)


def test_clip_gives_its_image_embedding(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=32,
        image_size=224, projection_dim=512,
    )  # fmt: skip
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
    prior = load_prior(PriorConfig("clip", path=str(tmp_path)))
    assert prior(torch.zeros(2, 3, 64, 64)).shape == (2, 512)
    with pytest.raises(WeightsError, match="no folder of CLIP weights"):
        load_prior(PriorConfig("clip", path=str(tmp_path / "nothing")))


def test_unfit_priors_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "moco.pth.tar").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"not a \.safetensors file"):
        load_prior(PriorConfig("moco", path=str(tmp_path / "moco.pth.tar")))
    save_file({"conv": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="doesn't hold the weights of the small prior"):
        load_prior(PriorConfig("small", path=str(tmp_path / "other.safetensors"), channels=(4, 5)))


def test_features_are_computed_once_per_image(tmp_path: Path) -> None:
    config = PriorConfig("small", channels=(4, 6))
    prior = build_prior(config)
    views = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    first = prior_features(prior, views, to_network, tmp_path)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(5), atol=2e-3, rtol=0)
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 5
    again = prior_features(prior, views[[3, 1]], to_network, tmp_path)
    assert torch.equal(again, first[[3, 1]])
    assert files == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    other = build_prior(config)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    prior_features(other, views[:1], to_network, tmp_path)
    assert len(list(tmp_path.iterdir())) == 6  # another prior, other features


def test_a_stored_prior_comes_back(tmp_path: Path) -> None:
    config = PriorConfig("small", channels=(4, 6))
    prior = build_prior(config)
    save_prior(prior, tmp_path)
    back = load_prior(replace(config, path=str(tmp_path)))
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in prior.state_dict().items())
    assert not any(p.requires_grad for p in back.parameters())
