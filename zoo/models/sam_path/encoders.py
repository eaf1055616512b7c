"""The frozen pathology encoder F_p: HIPT's first stage from its file, a ViT of timm's, or a small one for demos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.data.images import IMAGENET_MEAN, IMAGENET_STD, normalise
from zoo.errors import WeightsError
from zoo.nn.backbones import Small, normalisation, timm_network
from zoo.storage import user_path

SMALL = "small"
HIPT = "vit_small_patch16_224"  # timm's name of its architecture: 384 channels, 12 blocks, 6 heads
_PREFIXES = ("teacher.", "module.", "backbone.")


class SmallEncoder(Small):
    """Three convolutions of stride 2; its weights are part of the model's."""

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, width: int) -> None:
        super().__init__((width // 2, width, width), pooled=False)


class TokenEncoder(nn.Module):
    """The patch tokens of a ViT as a map, after its last normalisation; class and register tokens are dropped."""

    def __init__(self, vit: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.vit, self.mean, self.std = vit, mean, std

    def forward(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c g g"]:
        vit: Any = self.vit  # timm's, whose parts its type doesn't tell
        tokens = vit.forward_features(x)[:, vit.num_prefix_tokens :]
        side = round(tokens.shape[1] ** 0.5)
        return tokens.transpose(1, 2).unflatten(2, (side, side))


def load_encoder(source: str, size: int, *, needed_by: str) -> TokenEncoder:
    """A frozen ViT for squares of ``size`` px.

    ``source``: HIPT's ``vit256_small_dino`` as a safetensors file (names with or without ``teacher.``, ``module.`` and
    ``backbone.``), or timm's name or Hub id of another ViT with public weights, with its own normalisation.

    Raises ``WeightsError`` for a file that is no such ViT.
    """
    if source.endswith(".safetensors"):
        # its table of positions is of 14 x 14 patches, though it was trained on 256 px; mean and deviation are 0.5
        vit = timm_network(HIPT, needed_by=needed_by, num_classes=0, img_size=size)
        _load(vit, user_path(source, WeightsError), size // 16)
        encoder = TokenEncoder(vit, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    else:
        vit = timm_network(source, needed_by=needed_by, pretrained=True, num_classes=0, img_size=size)
        encoder = TokenEncoder(vit, *normalisation(source))
    return encoder.eval().requires_grad_(False)


def _load(vit: nn.Module, path: Path, side: int) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is no safetensors file of HIPT's first stage; see the notes of sam-path") from error
    state = {}
    for name, tensor in stored.items():
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        if not name.startswith("head."):
            state[name] = tensor.float()
    if "pos_embed" in state:
        state["pos_embed"] = positions(state["pos_embed"], side)
    found = vit.load_state_dict(state, strict=False)
    if found.missing_keys:
        raise WeightsError(f"{path} lacks {found.missing_keys[0]} of HIPT's first stage; see the notes of sam-path")


def positions(table: Float[Tensor, "1 n c"], side: int) -> Float[Tensor, "1 m c"]:
    """A ViT's table of positions for ``side`` x ``side`` patches, as DINO interpolates it: bicubic, a tenth too far."""
    cls, grid = table[:, :1], table[:, 1:]
    old = round(grid.shape[1] ** 0.5)
    if old == side:
        return table
    grid = grid.transpose(1, 2).unflatten(2, (old, old))
    scale = (side + 0.1) / old
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([cls, grid.flatten(2).transpose(1, 2)], 1)


def encode(encoder: Any, x: Float[Tensor, "b 3 s s"], side: int) -> Float[Tensor, "b c side side"]:
    """Features of images in [0, 1], normalised as the encoder wants it, on a grid of ``side``."""
    features = encoder(normalise(x, encoder.mean, encoder.std))
    if features.shape[-1] == side:
        return features
    return F.interpolate(features, (side, side), mode="bilinear", antialias=True)
