"""Backbones of volumes, and SwinUNETR's weights from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zoo.errors import OptionError, WeightsError
from zoo.nn.volumetric import SwinBackbone, UnetBackbone, load_swin, require_patch

FEATURES = 12


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """Made-up weights in the layout of the authors' file: `module.`, `swin_vit`, `classifier`."""
    from monai.networks.nets import SwinUNETR

    torch.manual_seed(0)
    net = SwinUNETR(in_channels=1, out_channels=29, feature_size=FEATURES).eval()
    names = {
        f"module.{name}".replace("module.swinViT", "module.swin_vit").replace("out.conv.conv", "classifier"): tensor
        for name, tensor in net.state_dict().items()
    }
    path = tmp_path_factory.mktemp("released") / "foundation.safetensors"
    save_file({**names, "module.projection.weight": torch.zeros(3)}, path)
    return path, net


def test_features_and_head_of_a_file_give_what_monais_network_gives(released: tuple[Path, torch.nn.Module]) -> None:
    path, net = released
    backbone, weight, bias = load_swin(str(path), FEATURES)
    x = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        features = backbone.eval()(x)
        torch.testing.assert_close(torch.nn.functional.conv3d(features, weight, bias), net(x), atol=1e-5, rtol=1e-5)
    assert features.shape == (1, FEATURES, 32, 32, 32)


def test_other_files_are_refused(released: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no SwinUNETR of feature size 24"):
        load_swin(str(released[0]), 24)
    (tmp_path / "weights.pth").write_bytes(b"\x80")
    with pytest.raises(WeightsError, match="is a pickle, which is never read"):
        load_swin(str(tmp_path / "weights.pth"), FEATURES)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="is missing"):
        load_swin(str(tmp_path / "other.safetensors"), FEATURES)


def test_a_flat_network_looks_at_each_plane_alone() -> None:
    torch.manual_seed(0)
    net = UnetBackbone((4, 6, 8), flat=True).eval()
    x = torch.rand(1, 1, 16, 16, 3)
    with torch.no_grad():
        assert net(x).shape == (1, 4, 16, 16, 3)
        before, after = (encoder(x)[..., 0] for encoder in (net.encoders[0].layer.conv1,) * 2)
        changed = x.clone()
        changed[..., 2] = 0
        after = net.encoders[0].layer.conv1(changed)[..., 0]
    torch.testing.assert_close(before, after)


def test_joints_are_what_the_last_block_joins() -> None:
    torch.manual_seed(0)
    net = UnetBackbone((4, 6, 8), flat=False).eval()
    x = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        deep, own = net.joints(x)
        assert deep.shape == (1, 6, 8, 8, 8)
        assert own.shape == (1, 4, 16, 16, 16)
        torch.testing.assert_close(net.decoder1(deep, own), net(x))


def test_patches_must_be_halved_as_often_as_the_network_does() -> None:
    net = UnetBackbone((4, 6, 8), flat=True)
    require_patch((8, 12, 1), net, flat=True)
    with pytest.raises(OptionError, match="multiples of 4"):
        require_patch((8, 10, 1), net, flat=True)
    with torch.device("meta"), pytest.raises(OptionError, match="multiples of 32"):
        require_patch((96, 96, 48), SwinBackbone(48), flat=False)
