"""Backbones of volumes: from ``[b 1 x y z]`` to features at full resolution, ``[b c x y z]``.

Both end in a block ``decoder1`` that joins features at half resolution with the input's own, which is where methods
that adapt a last block step in: ``decoder1(*joints(x))``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import MissingExtraError, OptionError, WeightsError


def monai_blocks() -> Any:
    """``monai.networks.blocks``. Raises ``MissingExtraError`` without MONAI."""
    try:
        from monai.networks import blocks
    except ImportError:
        raise MissingExtraError("a network for volumes", "monai", "volumes") from None
    return blocks


class SwinBackbone(nn.Module):
    """MONAI's SwinUNETR without its head; weights have the authors' names."""

    multiple = 32  # what the sides of a patch must be

    def __init__(self, features: int) -> None:
        super().__init__()
        self.width = features
        if find_spec("einops") is None:  # MONAI finds that out in the forward pass
            raise MissingExtraError("a SwinUNETR", "einops", "volumes")
        monai_blocks()
        from monai.networks.nets import SwinUNETR

        asked = torch.get_default_device()
        with torch.device("cpu" if asked.type == "meta" else asked):  # MONAI asks for numbers while it builds
            net = SwinUNETR(in_channels=1, out_channels=1, feature_size=features).to(asked)
        for name, module in net.named_children():
            if name != "out":
                self.add_module(name, module)

    def joints(self, x: Float[Tensor, "b 1 x y z"]) -> tuple[Tensor, Tensor]:
        """What the last block of the decoder joins: features at half resolution, and the input's own."""
        net: Any = self
        hidden = net.swinViT(x, True)
        deep = net.decoder5(net.encoder10(hidden[4]), hidden[3])
        deep = net.decoder4(deep, net.encoder4(hidden[2]))
        deep = net.decoder3(deep, net.encoder3(hidden[1]))
        return net.decoder2(deep, net.encoder2(hidden[0])), net.encoder1(x)

    def forward(self, x: Float[Tensor, "b 1 x y z"]) -> Float[Tensor, "b c x y z"]:
        last: Any = self.decoder1
        return last(*self.joints(x))


class UnetBackbone(nn.Module):
    """A small U-Net of the same blocks; ``flat`` looks at each plane alone (kernels of 3 x 3 x 1)."""

    def __init__(self, channels: Sequence[int], flat: bool) -> None:
        super().__init__()
        blocks, kernel, two = monai_blocks(), (3, 3, 1) if flat else 3, (2, 2, 1) if flat else 2
        self.multiple = 2 ** (len(channels) - 1)
        self.encoders = nn.ModuleList(
            blocks.UnetrBasicBlock(3, before, after, kernel, 1 if before == 1 else two, "instance", res_block=True)
            for before, after in zip((1, *channels), channels, strict=False)
        )
        self.decoders = nn.ModuleList(
            blocks.UnetrUpBlock(3, deep, shallow, kernel, two, "instance", res_block=True)
            for shallow, deep in pairwise(channels[1:])
        )
        self.decoder1 = blocks.UnetrUpBlock(3, channels[1], channels[0], kernel, two, "instance", res_block=True)

    def joints(self, x: Float[Tensor, "b 1 x y z"]) -> tuple[Tensor, Tensor]:
        found = []
        for encoder in self.encoders:
            x = encoder(x)
            found.append(x)
        for decoder, skipped in zip(reversed(self.decoders), reversed(found[1:-1]), strict=True):
            x = decoder(x, skipped)
        return x, found[0]

    def forward(self, x: Float[Tensor, "b 1 x y z"]) -> Float[Tensor, "b c x y z"]:
        return self.decoder1(*self.joints(x))


def require_patch(patch: Sequence[int], backbone: nn.Module, flat: bool) -> None:
    """Raises ``OptionError`` for a patch that the backbone can't halve as often as it does."""
    multiple: Any = backbone.multiple
    sides = patch[:2] if flat else patch
    if any(side % multiple for side in sides) or max(sides) == multiple:  # one voxel has no deviation to divide by
        shown = f"multiples of {multiple} for this backbone, one of them larger"
        raise OptionError(f"the sides of a patch must be {shown}, not {tuple(patch)}")


# ---- weights of others -----------------------------------------------------------------------------------------------


def swin_of(released: Mapping[str, Tensor]) -> tuple[SwinBackbone, Tensor | None, Tensor | None]:
    """The backbone in a SwinUNETR's tensors and, where they have them, weight and bias of its last convolution.

    Their names are MONAI's own or those of CLIP-Driven Universal Model and what descends from it: they may start with
    ``module.``, ``swin_vit`` stands for ``swinViT`` and ``classifier`` for ``out.conv.conv``; what else there is, such
    as a teacher's head, is left out. Raises ``WeightsError`` for other tensors or shapes.
    """
    given = {_ours(name): tensor.float() for name, tensor in released.items()}
    first = given.get("encoder1.layer.conv1.conv.weight")
    if first is None or first.ndim != 5 or first.shape[1] != 1 or first.shape[0] % 12 or not len(first) <= 192:
        raise WeightsError("the file holds no SwinUNETR of one channel; give the weights of one as they were released")
    backbone = SwinBackbone(len(first))
    for name, tensor in backbone.state_dict().items():
        if name not in given:
            raise WeightsError(f"the file holds no whole SwinUNETR: {name} is missing; get it again")
        if given[name].shape != tensor.shape:
            shapes = f"{list(given[name].shape)}, expected {list(tensor.shape)}"
            raise WeightsError(f"the file holds another SwinUNETR: {name} has shape {shapes}")
    backbone.load_state_dict({name: given[name] for name in backbone.state_dict()})
    weight, bias = given.get("classifier.weight"), given.get("classifier.bias")
    if weight is None or bias is None or weight.shape != (len(bias), len(first), 1, 1, 1):
        return backbone, None, None
    return backbone, weight, bias


def _ours(name: str) -> str:
    name = name.removeprefix("module.")
    if name.startswith("swin_vit."):
        name = f"swinViT.{name.removeprefix('swin_vit.')}"
    return name.replace("out.conv.conv.", "classifier.")
