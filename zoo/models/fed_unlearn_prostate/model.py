"""The U-Net of the benchmark, several sets of its weights by name, and what each makes of one volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from zoo import media
from zoo.data.volumes import Grid, largest_component, resample, standardise, volumes_ml, voxels
from zoo.errors import MissingExtraError, OptionError
from zoo.metrics import dice
from zoo.model import Model
from zoo.models.fed_unlearn_prostate import plugin
from zoo.models.fed_unlearn_prostate.result import ComparedSegmentation
from zoo.text import listed


@dataclass(frozen=True)
class ProstateConfig:
    """The network as the authors' code has it, how a volume enters, and the names of the sets of weights."""

    channels: tuple[int, ...] = field(default=(16, 32, 64, 128, 256), metadata={"min": 1, "max": 1024})
    units: int = field(default=3, metadata={"min": 0, "max": 8})  # residual units of each level, as released
    dropout: float = field(default=0.2, metadata={"min": 0.0, "max": 0.9})  # Table 4
    size: tuple[int, int, int] = field(default=(320, 320, 16), metadata={"min": 1, "max": 1024})  # x, y, z; Sec. 3.1
    fit: Literal["crop", "resize"] = "crop"
    """The paper says resized; the authors' code crops about the centre and pads with zeros."""
    sets: tuple[str, ...] = ("full",)  # names of the weights, the one that decides last

    def __post_init__(self) -> None:
        if not self.sets or len(set(self.sets)) != len(self.sets):
            raise ValueError("sets must name one set of weights or more, each once")
        if len(self.channels) < 2:
            raise ValueError("channels must be two numbers or more, one for each level")
        flat, halvings = self.size[2] == 1, 2 ** (len(self.channels) - 1)
        if any(side % halvings for side in (self.size[:2] if flat else self.size)):
            raise ValueError(f"size must be multiples of {halvings}, which {len(self.channels)} levels halve it by")


class UNet(nn.Module):
    """MONAI's residual U-Net with instance normalisation, of two channels; no buffers, so theta is all there is.

    A volume of one slice is convolved, and halved, in its plane alone.
    """

    def __init__(self, config: ProstateConfig) -> None:
        super().__init__()
        try:
            from monai.networks.nets import UNet as MonaiUNet
        except ImportError:
            raise MissingExtraError("the network for volumes", "monai", "volumes") from None
        self.flat = config.size[2] == 1
        asked = torch.get_default_device()
        with torch.device("cpu" if asked.type == "meta" else asked):
            self.unet = MonaiUNet(
                spatial_dims=2 if self.flat else 3, in_channels=1, out_channels=2, channels=config.channels,
                strides=[2] * (len(config.channels) - 1), num_res_units=config.units,
                norm="instance", dropout=config.dropout,
            ).to(asked)  # fmt: skip

    def forward(self, x: Float[Tensor, "b 1 x y z"], temperature: float = 1.0) -> Float[Tensor, "b 2 x y z"]:
        """Probabilities of background and prostate, flatter the higher the temperature is."""
        logits = self.unet(x[..., 0])[..., None] if self.flat else self.unet(x)
        return (logits / temperature).softmax(1) if temperature != 1 else logits.softmax(1)


def entering(image: media.Image, config: ProstateConfig) -> tuple[Float32[np.ndarray, "x y z"], Grid, Grid]:
    """A volume as the network takes it: mean 0 and deviation 1 over all of it, the padding included.

    With the grid it then lies on and its own. Raises ``MediaError`` for what is no volume.
    """
    array, native = voxels(image, plugin.name)
    turned = native.oriented("LPS")
    shape = (config.size[2], config.size[1], config.size[0])
    grid = turned.fitted(shape) if config.fit == "crop" else turned.resized(shape)
    values = resample(array, native, grid, outside=0.0 if config.fit == "crop" else None)
    return np.ascontiguousarray(standardise(values).T), grid, native


class FedUnlearnProstate(Model[ComparedSegmentation]):
    """``networks``: one U-Net for each name in ``config.sets``."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = ProstateConfig

    def __init__(self, config: ProstateConfig | None = None) -> None:
        super().__init__(config)
        self.networks = nn.ModuleDict({name: UNet(self.config) for name in self.config.sets})

    def forward(self, x: Float[Tensor, "b 1 x y z"]) -> Float[Tensor, "b 2 x y z"]:
        """Probabilities by the weights that decide."""
        return cast(Tensor, self.networks[self.config.sets[-1]](x))

    def _predict(
        self, images: Sequence[media.Image], *, scheme: str | None, compare: str | None, reference: Any,
        largest: bool, threshold: float,
    ) -> list[ComparedSegmentation]:  # fmt: skip
        chosen = self._known(scheme or self.config.sets[-1])
        beside = [name.strip() for name in compare.split(",")] if compare else []
        beside = list(self.config.sets) if beside == ["all"] else [self._known(name) for name in beside]
        return [self._one(image, chosen, beside, reference, largest, threshold) for image in images]

    def _known(self, name: str) -> str:
        if name not in self.config.sets:
            raise OptionError(f"these weights have no set {name!r}; they have {listed(self.config.sets, 'and')}")
        return name

    def _one(
        self, image: media.Image, chosen: str, beside: Sequence[str], reference: Any, largest: bool, threshold: float
    ) -> ComparedSegmentation:
        x, grid, native = entering(image, self.config)
        batch = torch.from_numpy(x)[None, None].to(self.device)
        masks: dict[str, np.ndarray] = {}
        probability = np.zeros(native.shape, np.float32)
        for name in dict.fromkeys((*beside, chosen)):
            found = self.networks[name](batch)[0, 1].float().cpu().numpy().T
            back = resample(np.ascontiguousarray(found), grid, native, outside=0.0)
            inside = back > threshold
            masks[name] = (largest_component(inside) if largest else inside).astype(np.uint8)
            if name == chosen:
                probability = back
        truth = None if reference is None else _reference(reference, native)
        measured: dict[str, float] = {}
        if native.measured:
            measured["volume_ml"] = round(volumes_ml(masks[chosen], native, {1: "prostate"})["prostate"], 3)
        if truth is not None:
            measured |= {f"dice {name}": round(dice(mask > 0, truth > 0), 4) for name, mask in masks.items()}
        notes = [] if masks[chosen].any() else ["no prostate was found"]
        return ComparedSegmentation(
            image=image, mask=masks[chosen], labels=plugin.labels, probability=probability, scheme=chosen,
            masks={name: masks[name] for name in beside if name != chosen}, reference=truth, measurements=measured,
            notes=tuple(notes), options={"scheme": chosen},
        )  # fmt: skip


def _reference(given: Any, native: Grid) -> np.ndarray:
    """A mask on the grid of the image: whatever is labelled is prostate. Raises ``OptionError`` for another size."""
    if isinstance(given, (np.ndarray, Tensor)):
        if given.ndim != 3:
            raise OptionError(f"the reference has {given.ndim} axes; a volume has 3: slices, rows and columns")
        given = media.Image(np.asarray(given), ndim_spatial=3)
    labels = media.read_labels(given).require_3d("a reference")
    array = labels.array.reshape(labels.size)
    if array.shape != native.shape:
        raise OptionError(f"the reference has {array.shape} voxels and the volume {native.shape}; give its own mask")
    return (array > 0).astype(np.uint8)
