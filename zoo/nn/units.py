"""Subnetworks by units: a part of a convolutional network taken out, trained on its own, and written back.

A unit is an output channel of a convolution. Where a residual adds feature maps, all that write to the sum share their
units: these are one *space*. A subnetwork is taken out as a network of its own, physically slim, trained as such, and
written back. Nothing else in the network moves then, so that what others learned stays to the bit: no momentum, weight
decay or running statistic can reach it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Units = dict[str, Int[Tensor, " u"]]  # which units of each space
INPUT = ""  # the colours, which all see


def spaces_of(net: nn.Module) -> dict[str, tuple[str, str]]:
    """For every convolution and batch norm the spaces that it reads and writes: ``Small``, or timm's ResNets.

    Raises ``ValueError`` for another network.
    """
    found: dict[str, tuple[str, str]] = {}
    layers = {name: m for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))}
    stream = INPUT
    for name, layer in layers.items():
        place = re.fullmatch(r"(?:net\.)?layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)", name)
        if isinstance(layer, nn.Conv2d) and layer.groups != 1:
            raise ValueError(f"{name} has groups of channels, which have no units of their own")
        if place is None:  # one after the other
            if isinstance(layer, nn.Conv2d):
                found[name] = (stream, name)
                stream = name
            else:
                found[name] = (stream, stream)
            continue
        stage, block, kind, number = place[1], place[2], place[3], int(place[4])
        last = 3 if f"{name[: name.index(kind)]}conv3" in layers else 2
        whole, before = f"layer{stage}", _before(layers, name, stage, block, stream)
        if kind == "downsample.":
            found[name] = (before, whole) if number == 0 else (whole, whole)
        else:
            written = (
                _sum_of(layers, name, stage, block, stream) if number == last else f"layer{stage}.{block}.{number}"
            )
            read = before if number == 1 else f"layer{stage}.{block}.{number - 1}"
            found[name] = (read, written) if kind == "conv" else (written, written)
    if not found:
        raise ValueError("the network has no convolutions")
    return found


def _sum_of(layers: Mapping[str, Any], name: str, stage: str, block: str, stem: str) -> str:
    """The space that the first block of a stage adds to: without a projection it is the one before."""
    prefix = name[: name.index("layer")]
    if f"{prefix}layer{stage}.0.downsample.0" in layers:
        return f"layer{stage}"
    return stem if stage == "1" else _sum_of(layers, name, str(int(stage) - 1), "0", stem)


def _before(layers: Mapping[str, Any], name: str, stage: str, block: str, stem: str) -> str:
    if block != "0":
        return _sum_of(layers, name, stage, block, stem)
    return stem if stage == "1" else _sum_of(layers, name, str(int(stage) - 1), "0", stem)


def widths_of(net: nn.Module) -> dict[str, int]:
    """How many units each space has; the last one is that of the features."""
    spaces = spaces_of(net)
    return {spaces[n][1]: m.out_channels for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}


def features_of(net: nn.Module) -> str:
    """The space of the features: what the last layer of all writes to."""
    return list(spaces_of(net).values())[-1][1]


def slim(net: nn.Module, units: Units) -> nn.Module:
    """A network of these units alone, with copies of their weights."""
    made = copy.deepcopy(net)
    dense = dict(net.named_modules())
    for name, (read, written) in spaces_of(net).items():
        layer: Any = dict(made.named_modules())[name]
        for key, tensor, rows, columns in _parts(dense[name], units, read, written):
            part = tensor.detach().index_select(0, rows)
            part = part if columns is None else part.index_select(1, columns)
            setattr(layer, key, nn.Parameter(part) if isinstance(tensor, nn.Parameter) else part)
        if isinstance(layer, nn.Conv2d):
            layer.out_channels, layer.in_channels = layer.weight.shape[:2]
        else:
            layer.num_features = len(layer.weight)
    return made


@torch.no_grad()
def write_back(net: nn.Module, part: nn.Module, units: Units) -> None:
    """Put the weights of a slim network in their places of the whole one; all others stay as they are."""
    dense, slimmed = dict(net.named_modules()), dict(part.named_modules())
    for name, (read, written) in spaces_of(net).items():
        for key, tensor, rows, columns in _parts(dense[name], units, read, written):
            value = getattr(slimmed[name], key).detach().to(tensor)
            if columns is None:
                tensor[rows] = value
            else:
                tensor[rows[:, None], columns[None]] = value


def _parts(
    layer: Any, units: Units, read: str, written: str
) -> list[tuple[str, Tensor, Int[Tensor, " r"], Int[Tensor, " c"] | None]]:
    """Name, tensor, rows and columns of all that a layer holds for these units."""
    rows = units[written].to(layer.weight.device)
    if isinstance(layer, nn.Conv2d):
        every = torch.arange(layer.weight.shape[1], device=rows.device)
        columns = every if read == INPUT else units[read].to(rows.device)
        bias = [] if layer.bias is None else [("bias", layer.bias, rows, None)]
        return [("weight", layer.weight, rows, columns), *bias]
    return [(key, getattr(layer, key), rows, None) for key in ("weight", "bias", "running_mean", "running_var")]


@torch.no_grad()
def activations(net: nn.Module, run: Callable[[], Any]) -> dict[str, Float[Tensor, "n u"]]:
    """What every unit does on each image: the mean over positions after batch norm and ReLU.

    ``run`` sends the images through ``net``. Of a sum, the mean of all that is added to it.
    """
    spaces = spaces_of(net)
    seen: dict[str, list[Tensor]] = {}
    hooks = [
        layer.register_forward_hook(
            lambda _, __, out, name=name: seen.setdefault(name, []).append(out.relu().mean((2, 3)).cpu())
        )
        for name, layer in net.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    of: dict[str, list[Tensor]] = {}
    for name, parts in seen.items():
        of.setdefault(spaces[name][1], []).append(torch.cat(parts))
    return {space: torch.stack(parts).mean(0) for space, parts in of.items()}
