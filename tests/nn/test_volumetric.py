"""Backbones of volumes, and SwinUNETR's weights from elsewhere."""

from __future__ import annotations

import pytest
import torch

from zoo.errors import OptionError, WeightsError
from zoo.nn.volumetric import SwinBackbone, UnetBackbone, require_patch, swin_of

FEATURES = 12


Released = tuple[dict[str, torch.Tensor], torch.nn.Module]


@pytest.fixture(scope="module")
def released() -> Released:
    """Made-up weights in the layout of the authors' file: `module.`, `swin_vit`, `classifier`."""
    from monai.networks.nets import SwinUNETR

    torch.manual_seed(0)
    net = SwinUNETR(in_channels=1, out_channels=29, feature_size=12).eval()
    names = {
        f"module.{name}".replace("module.swinViT", "module.swin_vit").replace("out.conv.conv", "classifier"): tensor
        for name, tensor in net.state_dict().items()
    }
    return {**names, "module.projection.weight": torch.zeros(3)}, net


def test_features_and_head_of_a_file_give_what_monais_network_gives(released: Released) -> None:
    tensors, net = released
    backbone, weight, bias = swin_of(tensors)
    x = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        features = backbone.eval()(x)
        torch.testing.assert_close(torch.nn.functional.conv3d(features, weight, bias), net(x), atol=1e-5, rtol=1e-5)
    assert features.shape == (1, 12, 64, 32, 32)


def test_other_tensors_are_refused(released: Released) -> None:
    tensors = released[0]
    with pytest.raises(WeightsError, match="holds no SwinUNETR of one channel"):
        swin_of({"a": torch.zeros(1)})
    name = "module.decoder2.conv_block.conv2.conv.weight"
    with pytest.raises(WeightsError, match=r"decoder2\.conv_block\.conv2\.conv\.weight is missing"):
        swin_of({key: tensor for key, tensor in tensors.items() if key != name})
    with pytest.raises(WeightsError, match=r"another SwinUNETR: decoder2\..* has shape"):
        swin_of({**tensors, name: torch.zeros(3)})


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


def test_the_frozen_swinunetr_ends_in_the_block_that_the_paper_of_fseft_counts() -> None:
    with torch.device("meta"):
        backbone = SwinBackbone(48)
    assert sum(p.numel() for p in backbone.decoder1.parameters()) == 209_664
    assert sum(p.numel() for p in backbone.parameters()) == 62_187_296 - 14 * 49  # less MONAI's head of 14 channels


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
