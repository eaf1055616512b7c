"""Backbones of volumes: from ``[b 1 x y z]`` to features at full resolution, ``[b c x y z]``.

Both end in a block ``decoder1`` that joins features at half resolution with the input's own, which is where methods
that adapt a last block step in: ``decoder1(*joints(x))``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import MissingExtraError, OptionError, WeightsError
from zoo.storage import user_path
from zoo.weights import Located, Stored, read_headers, read_tensors


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
        hidden = self.swinViT(x, True)
        deep = self.decoder5(self.encoder10(hidden[4]), hidden[3])
        deep = self.decoder4(deep, self.encoder4(hidden[2]))
        deep = self.decoder3(deep, self.encoder3(hidden[1]))
        return self.decoder2(deep, self.encoder2(hidden[0])), self.encoder1(x)

    def forward(self, x: Float[Tensor, "b 1 x y z"]) -> Float[Tensor, "b c x y z"]:
        return self.decoder1(*self.joints(x))


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
    if any(side % multiple for side in sides):
        raise OptionError(f"the sides of a patch must be multiples of {multiple} for this backbone, not {tuple(patch)}")


# ---- weights of others -----------------------------------------------------------------------------------------------


def load_swin(path: str, features: int) -> tuple[SwinBackbone, Tensor | None, Tensor | None]:
    """A backbone from a file of SwinUNETR and, where the file has them, weight and bias of its last convolution.

    The layout is MONAI's own or that of CLIP-Driven Universal Model and what descends from it: names may start with
    ``module.``, ``swin_vit`` stands for ``swinViT`` and ``classifier`` for ``out.conv.conv``. Only safetensors are
    read. Raises ``WeightsError`` for anything else or other shapes.
    """
    where = user_path(path, WeightsError)
    if where.suffix != ".safetensors" or not where.is_file():
        raise WeightsError(
            f"{path} is no .safetensors file; a .pth is a pickle, which is never read: load it yourself "
            "and write its state_dict with safetensors.torch.save_file"
        )
    stored = read_headers(Located(Path(where).parent, path, Path(where)))
    with torch.device("meta"):
        backbone = SwinBackbone(features)
    wanted = dict(backbone.state_dict())
    head = next((v for k, v in stored.items() if k.endswith(("classifier.weight", "out.conv.conv.weight"))), None)
    count = head.shape[0] if head is not None else 0
    for name, shape in (("weight", (count, features, 1, 1, 1)), ("bias", (count,))):
        if count:
            wanted[f"classifier.{name}"] = torch.empty(shape, device="meta")
    ours = {name: _ours(name) for name in stored}
    known = {name: wanted[ours[name]] for name in stored if ours[name] in wanted}
    if missing := sorted(set(wanted) - set(ours.values())):
        raise WeightsError(f"{path} is no SwinUNETR of feature size {features}: {missing[0]} is missing")
    for name, tensor in known.items():
        if stored[name].shape != tuple(tensor.shape):
            shapes = f"{list(stored[name].shape)}, expected {list(tensor.shape)}"
            raise WeightsError(f"{path} is no SwinUNETR of feature size {features}: {name} has shape {shapes}")
    found = _read(Located(Path(where).parent, path, Path(where)), stored, known)
    tensors = {ours[name]: tensor for name, tensor in found.items()}
    weight, bias = tensors.pop("classifier.weight", None), tensors.pop("classifier.bias", None)
    backbone = SwinBackbone(features)
    backbone.load_state_dict(tensors)
    return backbone, weight, bias


def _read(located: Located, stored: dict[str, Stored], known: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are wanted; what else the file has, such as a teacher's head, is read and dropped."""
    spare = {name: torch.empty(0) for name in stored}
    tensors = read_tensors(located, stored, {**spare, **known})
    return {name: tensors[name] for name in known}


def _ours(name: str) -> str:
    name = name.removeprefix("module.")
    if name.startswith("swin_vit."):
        name = f"swinViT.{name.removeprefix('swin_vit.')}"
    return name.replace("out.conv.conv.", "classifier.")
