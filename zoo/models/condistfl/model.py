"""The network that the hospitals train together, and what it says about a CT volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from zoo import media
from zoo.data.scans import View, read_scan
from zoo.data.volumes import components, label_map
from zoo.errors import MissingExtraError
from zoo.model import Model
from zoo.models.condistfl import CLASSES, plugin
from zoo.models.condistfl.result import WINDOW, OrgansAndTumours, notes_on
from zoo.nn.windows import sliding_window


@dataclass(frozen=True)
class CondistConfig:
    """The classes and the network, a DynUNet; small by default, ``PAPER`` is the released one."""

    classes: tuple[str, ...] = CLASSES
    """From 1 on. A tumour is called ``<organ> tumour``; without any it's the union of organ and tumour."""
    filters: tuple[int, ...] = field(default=(8, 16, 32), metadata={"min": 1, "max": 4096})
    thin: bool = True  # the first level doesn't look or halve along z; released
    flat: bool = False  # images instead of volumes
    deep_heads: int = field(default=0, metadata={"min": 0, "max": 8})  # Sec. 3: deep supervision
    patch: tuple[int, ...] = field(default=(32, 32, 16), metadata={"min": 1, "max": 1024})
    view: View = field(default_factory=lambda: View((7.5, 7.5, 7.5), WINDOW))

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must be two or more, each once")
        levels = len(self.filters)
        if levels < 3:
            raise ValueError("filters needs three levels or more, such as 8,16,32")
        if self.deep_heads > levels - 2:
            raise ValueError(f"{levels} levels have room for {levels - 2} deep heads, not {self.deep_heads}")
        axes = 2 if self.flat else 3
        if len(self.patch) != axes:
            raise ValueError(f"patch needs {axes} sides, not {self.patch}")
        deep = 2 ** (levels - 1)
        multiples = (deep, deep) if self.flat else (deep, deep, deep // 2 if self.thin else deep)
        if any(side % multiple for side, multiple in zip(self.patch, multiples, strict=True)):
            raise ValueError(f"the sides of a patch must be multiples of {multiples}, not {self.patch}")


PAPER = CondistConfig(
    filters=(32, 64, 128, 256, 320, 320), deep_heads=3, patch=(224, 224, 64),
    view=View((1.44423774, 1.44423774, 2.87368553), WINDOW),
)  # fmt: skip
"""Patches and window are Sec. 3's, filters and the exact spacing the released code's; 31,166,016 parameters."""


class Network(nn.Module):
    """MONAI's DynUNet without its second list of the same layers, so that every parameter has one name.

    Under two names a server that treats them apart loses its momentum: the copy without it is loaded last.
    """

    def __init__(self, config: CondistConfig) -> None:
        super().__init__()
        try:
            from monai.networks.nets import DynUNet
        except ImportError:
            raise MissingExtraError("the network of condistfl", "monai", "volumes") from None
        axes, levels = 2 if config.flat else 3, len(config.filters)
        thin = config.thin and not config.flat
        kernels = [[3, 3, 1] if thin and level == 0 else [3] * axes for level in range(levels)]
        strides = [[1] * axes] + [[2, 2, 1] if thin and level == 1 else [2] * axes for level in range(1, levels)]
        net = DynUNet(
            spatial_dims=axes, in_channels=1, out_channels=1 + len(config.classes), kernel_size=kernels,
            strides=strides, upsample_kernel_size=strides[1:], filters=list(config.filters),
            deep_supervision=config.deep_heads > 0, deep_supr_num=max(config.deep_heads, 1),
        )  # fmt: skip
        self.input_block, self.downsamples, self.bottleneck = net.input_block, net.downsamples, net.bottleneck
        self.upsamples, self.output_block = net.upsamples, net.output_block
        heads = list(net.deep_supervision_heads) if config.deep_heads else []
        self.deep_supervision_heads = nn.ModuleList(heads)

    def forward(self, x: Float[Tensor, "b 1 *grid"]) -> list[Float[Tensor, "b n *grid"]]:
        """Logits; in training those of the deep heads come after, brought to full size by the nearest neighbour.

        ``x``: grey values in [0, 1] of the window -54 to 258 HU, which the paper's mean of 100 HU and deviation of 50
        HU scale (Sec. 3).
        """
        low, high = WINDOW
        x = (x * (high - low) + low - 100) / 50
        skips = [self.input_block(x)]
        for block in self.downsamples:
            skips.append(block(skips[-1]))
        x = self.bottleneck(skips[-1])
        found = []
        for block, skip in zip(self.upsamples, reversed(skips), strict=True):
            x = block(x, skip)
            found.append(x)
        logits = [self.output_block(x)]
        if self.training:
            for place, head in enumerate(self.deep_supervision_heads):
                logits.append(F.interpolate(head(found[-2 - place]), x.shape[2:], mode="nearest"))
        return logits


class CondistFL(Model[OrgansAndTumours]):
    """``network`` is the global model of a federation."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = CondistConfig

    def __init__(self, config: CondistConfig | None = None) -> None:
        super().__init__(config)
        self.network = Network(self.config)

    def forward(self, x: Float[Tensor, "b 1 *grid"]) -> Float[Tensor, "b n *grid"]:
        """Logits of the background and each class."""
        return self.network(x)[0]

    def _predict(self, images: Sequence[media.Image], *, merge_tumors: bool, largest: bool) -> list[OrgansAndTumours]:
        """Every class in each volume, on its own grid."""
        return [self._segment(image, merge_tumors, largest) for image in images]

    def _segment(self, image: media.Image, merge: bool, largest: bool) -> OrgansAndTumours:
        config, scan = self.config, read_scan(image, self.config.view, plugin.name)
        network: Any = self.network
        p = sliding_window(
            lambda x: network(x)[0], scan.x, config.patch, finish=lambda logits: logits.softmax(0).half(),
            device=self.device, description="windows",
        )  # fmt: skip
        scores = p.permute(0, 3, 2, 1).numpy()  # [k z y x], as the grids have it
        labels: tuple[str, ...] = ("background", *config.classes)
        mask = label_map(scores, scan.grid, scan.native)
        if merge:
            mask, labels = merged(mask, config.classes)
        mask = largest_parts(mask, labels) if largest else mask
        return OrgansAndTumours(
            image=image, mask=mask.astype(np.uint8), labels=labels, window=(-160.0, 240.0),
            notes=notes_on(image, mask, labels), options={"merge_tumors": merge},
        )  # fmt: skip


def merged(
    mask: Integer[np.ndarray, "*grid"], classes: Sequence[str]
) -> tuple[Integer[np.ndarray, "*grid"], tuple[str, ...]]:
    """Labels in which a tumour is of its organ, as sets that don't tell them apart need (Sec. 3); and their names."""
    names = [name.removesuffix(" tumour") for name in classes]
    organs = list(dict.fromkeys(names))
    return np.array([0, *(1 + organs.index(name) for name in names)])[mask], ("background", *organs)


def largest_parts(mask: Integer[np.ndarray, "z y x"], labels: Sequence[str]) -> Integer[np.ndarray, "z y x"]:
    """Of each organ, its tumours in it, the largest part that hangs together, and of kidneys the two largest."""
    organs: dict[str, list[int]] = {}
    for number, name in enumerate(labels[1:], start=1):
        organs.setdefault(name.removesuffix(" tumour"), []).append(number)
    kept = np.zeros_like(mask)
    for organ, numbers in organs.items():
        parts, sizes = components(np.isin(mask, numbers))
        order = 1 + np.argsort(-sizes[1:], kind="stable")
        here = np.isin(parts, order[: 2 if organ == "kidney" else 1])
        kept[here] = mask[here]
    return kept
