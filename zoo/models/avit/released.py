"""The authors' trained models, by the names that their code gives to tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from zoo.errors import WeightsError
from zoo.models.avit.model import Avit, AvitConfig
from zoo.models.avit.network import Shape

NAMES = (
    (r"encoder\.blocks\.(\d+)\.adapter([12])\.0\.D_fc1\.", r"encoder.layers.\1.adapter\2.down."),
    (r"encoder\.blocks\.(\d+)\.adapter([12])\.0\.D_fc2\.", r"encoder.layers.\1.adapter\2.up."),
    (r"encoder\.", "vit."),
    (r"prompt_encoder\.", "prompt."),
    (r"aspp\.", "decoder.aspp."),
    (r"final_conv\.", "decoder.head."),
)
BACKBONES = {768: ("vit_base_patch16_224", 12), 1024: ("vit_large_patch16_224", 16)}  # with heads, by width


def convert(released: Mapping[str, Tensor]) -> Avit:
    """The model with the tensors of an AViT on ViT-B or ViT-L (``best.pth`` as safetensors), the transformer included.

    Raises ``WeightsError`` for any other layout.
    """
    state = {renamed(name.removeprefix("module.")): tensor.float() for name, tensor in released.items()}
    token = state.get("vit.cls_token")
    if token is None or token.shape[-1] not in BACKBONES or "prompt.conv1.weight" not in state:
        raise WeightsError("these are no tensors of an AViT on ViT-B or ViT-L; see the notes of avit")
    width = token.shape[-1]
    backbone, heads = BACKBONES[width]
    depth = len({name.split(".")[2] for name in state if name.startswith("vit.blocks.")})
    model = Avit(AvitConfig(backbone, shape=Shape((depth,), width, heads, 16), first=512, **PAPER))  # type: ignore[arg-type]
    expected = model.state_dict()
    for name in sorted(state.keys() ^ expected.keys()):
        if not name.endswith("num_batches_tracked"):
            raise WeightsError(f"{name} is {'missing' if name in expected else 'unknown'}: these are no AViT's tensors")
    for name, tensor in state.items():
        if name in expected and tensor.shape != expected[name].shape:
            raise WeightsError(f"{name} is of {list(tensor.shape)}, not {list(expected[name].shape)}: no AViT's tensor")
    model.load_state_dict(
        {**expected, **{name: state[name].to(t.dtype) for name, t in expected.items() if name in state}}
    )
    return model.eval()


PAPER = {"size": 224, "prompt_width": 64, "prompt_blocks": 3, "channels": 256, "head": 64}
"""Sizes of the authors' network beside the transformer's."""


def renamed(name: str) -> str:
    for pattern, ours in NAMES:
        if re.match(pattern, name):
            return re.sub(pattern, ours, name, count=1)
    return name
