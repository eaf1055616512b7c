"""The vessel segmenter g of MAP: a small residual U-Net on one grey channel, and how a user's image gets there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo import figure, media
from zoo.data.fundus import colourless, field_of, lines_are_dark, vessel_contrast
from zoo.data.images import resize
from zoo.errors import OptionError
from zoo.model import Model
from zoo.models.map_vessel import plugin
from zoo.prediction import Segmentation

Modality = Literal["auto", "fundus", "octa", "fa"]


@dataclass(frozen=True)
class MapVesselConfig:
    """The network g, the scale it works at, and what an image looks like when it enters.

    Defaults are the paper's, and this implementation's where the paper is silent; ``RELEASED`` has the authors' code's.
    """

    channels: tuple[int, ...] = field(default=(8, 32, 32, 64, 64, 16), metadata={"min": 1, "max": 4096})  # Sec. 2.5
    backbone: Literal["paper", "released"] = "paper"
    """``paper``: the channels, and this implementation's choice of the rest; ``released``: as the authors' code."""
    norm_at_test: Literal["training", "image"] = "training"
    """BatchNorm's statistics in ``predict``: those of training, or the image's own as in the authors' code, which never
    leaves training mode."""
    working_size: int | None = field(default=576, metadata={"min": 64, "max": 4096})
    """Width of a fundus camera's field of view in the network, px: DRIVE's scale; none: as photographed. The paper
    leaves it open."""
    longest_side: int | None = field(default=1024, metadata={"min": 64, "max": 8192})
    """Images of other modalities that are larger are reduced to this; none: as they are. The paper leaves it open."""
    surround: Literal["dark", "kept"] = "dark"
    """What is outside of a fundus camera's field: 0, or inverted like all else, which makes it bright."""
    pad_to: int | None = field(default=None, metadata={"min": 2, "max": 4096})
    """px; sides grow with zeros to the next multiple above, and one that is a multiple grows as well; none: to the
    network's stride."""
    # of CLAHE, OpenCV's scale; not in the paper
    clip_limit: float = field(default=2.0, metadata={"min": 0.0, "max": 1000.0})
    clahe_tiles: int = field(default=8, metadata={"min": 1, "max": 64})  # per axis; not in the paper

    def __post_init__(self) -> None:
        if len(self.channels) < 2 or min(self.channels) < 1:
            raise ValueError("channels needs at least two levels, each with one channel or more")
        if self.pad_to and self.pad_to % self.stride:
            raise ValueError(f"pad_to must be a multiple of {self.stride} for {len(self.channels)} levels")

    @property
    def stride(self) -> int:
        """Of the bottleneck, px."""
        return 2 ** (len(self.channels) - (self.backbone == "paper"))


# StructuralCluster.py, MetaSyn_func.py: native resolution, no field of view, sides padded to multiples of 128
RELEASED: dict[str, Any] = {
    "backbone": "released", "norm_at_test": "image", "working_size": None, "longest_side": None, "surround": "kept",
    "pad_to": 128, "clip_limit": 5.0,
}  # fmt: skip


class MapVessel(Model[Segmentation]):
    """Vessel probability from one grey image in which vessels may be bright or dark."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = MapVesselConfig

    def __init__(self, config: MapVesselConfig | None = None) -> None:
        super().__init__(config)
        design = ResidualUNet if self.config.backbone == "paper" else ReleasedUNet
        self.network = design(1, 2, self.config.channels)
        self.normalise_by(self.config.norm_at_test)

    def normalise_by(self, statistics: Literal["training", "image"]) -> None:
        """Whose mean and deviation BatchNorm takes in ``predict``: those of training, or every image's own."""
        for module in self.network.modules():
            if isinstance(module, Norm):
                module.by_image = statistics == "image"

    def forward(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 2 h w"]:
        """Logits of background and vessel. ``x`` is in [0, 1]; h and w are multiples of the stride."""
        return self.network(x)[0]

    def _predict(
        self, images: Sequence[media.Image], *, modality: Modality, fov_mask: Any, threshold: float, tile: int | None
    ) -> list[Segmentation]:
        """Segment the vessels. Images of one working size go through the network together.

        ``fov_mask``: nothing is marked outside of it; estimated for fundus photographs where not given. ``tile``: side
        in px of overlapping tiles that are segmented at the image's own resolution; without it the image is scaled to
        the calibre the network was trained on and the result scaled back.
        """
        if tile is not None and tile < self.network.stride:
            raise OptionError(f"tile must be at least {self.network.stride} px for these weights, not {tile}")
        inputs = [prepare(image, self.config, modality, fov_mask, native=tile is not None) for image in images]
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, item in enumerate(inputs):
            groups.setdefault(item.grey.shape, []).append(i)
        probabilities: dict[int, np.ndarray] = {}
        for members in groups.values():
            grey = torch.from_numpy(np.stack([inputs[i].grey for i in members])[:, None]).to(self.device)
            p = self._tiled(grey, tile) if tile else self._whole(grey)
            probabilities |= dict(zip(members, p.cpu().numpy(), strict=True))
        return [self._prediction(item, probabilities[i], threshold) for i, item in enumerate(inputs)]

    def _network_features(self, images: Sequence[media.Image]) -> Float[Tensor, "n c"]:
        """The bottleneck's channels, averaged over a square of the image's own grey or inverted green."""
        greys = [prepare(image, self.config).grey for image in images]
        side = 8 * self.network.stride
        x = torch.from_numpy(np.stack([resize(grey, side) for grey in greys])[:, None]).to(self.device)
        z = self.network(x)[1]
        return z.view(len(images), self.config.channels[-1], -1).mean(2)

    def _whole(self, grey: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b h w"]:
        h, w = grey.shape[-2:]
        padded = F.pad(grey, (0, self._missing(w), 0, self._missing(h)))
        return self(padded).softmax(1)[:, 1, :h, :w].float()

    def _missing(self, side: int) -> int:
        step = self.config.pad_to
        return step - side % step if step else -side % self.network.stride

    def _tiled(self, grey: Float[Tensor, "b 1 h w"], tile: int) -> Float[Tensor, "b h w"]:
        """Tiles overlap by half; a raised cosine blends them."""
        tile = tile // self.network.stride * self.network.stride
        b, _, h, w = grey.shape
        window = torch.hann_window(tile + 2, periodic=False, device=grey.device)[1:-1]
        weight = window[:, None] * window
        total, norm = grey.new_zeros(b, h, w), grey.new_zeros(h, w)
        for top in _starts(h, tile):
            for left in _starts(w, tile):
                part = grey[..., top : top + tile, left : left + tile]
                ph, pw = part.shape[-2:]
                total[:, top : top + ph, left : left + pw] += self._whole(part) * weight[:ph, :pw]
                norm[top : top + ph, left : left + pw] += weight[:ph, :pw]
        return total / norm

    def _prediction(self, item: Prepared, probability: np.ndarray, threshold: float) -> Segmentation:
        size = item.image.size
        probability = np.clip(resize(probability, size), 0, 1)
        if item.field is not None:
            probability = np.where(item.field, probability, 0)
        conversion = "inverted green, CLAHE" if item.modality == "fundus" else "grey levels, min-max"
        return Segmentation(
            options={"modality": item.modality},
            notes=item.notes,
            image=item.image,
            mask=(probability >= max(threshold, 1e-6)).astype(np.uint8),
            probability=probability.astype(np.float32),
            labels=plugin.labels,
            inside=item.field,
            extra_panels=(
                figure.Panel(f"network input: {conversion}", item.grey),
                figure.Panel("vessel probability", figure.heatmap(probability)),
            ),
        )


def _starts(length: int, tile: int) -> list[int]:
    if length <= tile:
        return [0]
    return [*range(0, length - tile, max(1, tile // 2)), length - tile]


@dataclass(frozen=True)
class Prepared:
    """An image on its way into the network."""

    image: media.Image
    modality: str
    grey: Float[np.ndarray, "h w"]  # network input, working size, in [0, 1]
    rgb: Float[np.ndarray, "h w 3"]  # working size, in [0, 1]; the synthesis networks train on it
    field: Bool[np.ndarray, "H W"] | None  # of view, original size
    notes: tuple[str, ...] = ()


def prepare(
    image: Any, config: MapVesselConfig, modality: Modality = "auto", fov_mask: Any = None, native: bool = False
) -> Prepared:
    """Read, convert to grey and scale; ``native`` keeps the resolution.

    Fundus: D^0, the CLAHE of the inverted green channel (Sec. 2.2). Others go in as they are (Sec. 2.5), min-max.
    """
    picture = media.read(image).require_2d("map-vessel")
    rgb = picture.rgb()
    notes: tuple[str, ...] = ()
    chosen = str(modality)
    if modality == "auto":
        pale = colourless(rgb)
        chosen = "octa" if pale and not lines_are_dark(rgb.mean(-1)) else "fundus"
        why = f" because it is grey and its lines are {'dark' if chosen == 'fundus' else 'bright'}" if pale else ""
        notes = (f"modality guessed: {chosen}{why}; say otherwise with modality=fundus|octa|fa",)
    inside = None
    if fov_mask is not None:
        field = media.read_labels(fov_mask).require_2d("fov_mask")
        inside, notes = _inside(field, picture), (*notes, *field.notes)
    if chosen != "fundus":
        share = config.longest_side / max(picture.size) if config.longest_side and not native else 1.0
        size = _fit(picture.size, min(1.0, share))
        small = resize(rgb, size)
        grey = small.mean(-1)
        low, high = float(grey.min()), float(grey.max())
        return Prepared(picture, chosen, (grey - low) / max(high - low, 1e-6), small, inside, notes)
    if inside is None:
        inside = field_of(picture)
    size = _fit(picture.size, config.working_size / _extent(inside) if config.working_size and not native else 1.0)
    small = np.clip(resize(rgb, size), 0, 1)
    lit = resize(inside.astype(np.float32), size) > 0.5 if config.surround == "dark" else np.ones(size, bool)
    grey = vessel_contrast(small[..., 1], lit, clip_limit=config.clip_limit, tiles=config.clahe_tiles)
    return Prepared(picture, chosen, grey, small, inside, notes)


def _inside(field: media.Image, picture: media.Image) -> Bool[np.ndarray, "h w"]:
    inside = field.array > 0
    if inside.shape != picture.size:
        raise OptionError(
            f"fov_mask is {inside.shape[0]} x {inside.shape[1]} px but {picture.source} is "
            f"{picture.size[0]} x {picture.size[1]}; give a mask of the image's size"
        )
    if not inside.any():
        raise OptionError("fov_mask is empty; mark the field of view with values above 0")
    return inside


def _extent(inside: Bool[np.ndarray, "h w"]) -> int:
    """Longer side of the field's bounding box: the diameter, also of a circle that is clipped at top and bottom."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1


def _fit(size: tuple[int, ...], scale: float) -> tuple[int, int]:
    h, w = (max(1, round(side * scale)) for side in size)
    return h, w


class Norm(nn.BatchNorm2d):
    """BatchNorm that can take the statistics of every single image outside of training too."""

    by_image = False

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if self.by_image and not self.training:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)  # a batch of one image
        return super().forward(x)


class ResidualUNet(nn.Module):
    """U-Net of residual blocks. Encoder level i has ``channels[i]`` channels at 1 / 2**i of the input's resolution.

    The paper gives the six channel counts; max-pooling, nearest upsampling, skip concatenation and a decoder that
    mirrors the encoder are this implementation's choice.
    """

    def __init__(self, in_channels: int, out_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.stride = 2 ** (len(channels) - 1)
        self.down = nn.ModuleList(
            ResidualBlock(before, after) for before, after in zip((in_channels, *channels), channels, strict=False)
        )
        self.up = nn.ModuleList(
            ResidualBlock(deep + skip, skip) for deep, skip in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(channels[0], out_channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b latent"]]:
        """Output map, and the latent vector z: the bottleneck before its last LeakyReLU, flattened.

        ``latent`` is channels[-1] * (h / stride) * (w / stride). The paper doesn't say where in g its z is taken.
        """
        skips: list[Tensor] = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else F.max_pool2d(x, 2))
            if i < len(self.down) - 1:
                x = F.leaky_relu(x, 0.01)
                skips.append(x)
        z = x.flatten(1)
        x = F.leaky_relu(x, 0.01)
        for block in self.up:
            x = torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skips.pop()], 1)
            x = F.leaky_relu(block(x), 0.01)
        return self.head(x), z


class ResidualBlock(nn.Module):
    """conv-BN-LeakyReLU-conv-BN plus shortcut; the last LeakyReLU is left to the caller."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = Norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = Norm(out_channels)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        y = F.leaky_relu(self.norm1(self.conv1(x)), 0.01)
        return self.norm2(self.conv2(y)) + self.shortcut(x)


class ReleasedUNet(nn.Module):
    """The authors' ``res_UNet``: strided convolutions down and transposed ones up, also below the last level."""

    def __init__(self, in_channels: int, out_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.stride = 2 ** len(channels)
        levels, deep = (in_channels, *channels), channels[::-1]
        self.encoder = nn.ModuleList(map(ReleasedBlock, levels, channels))
        self.decoder = nn.ModuleList(
            ReleasedBlock(2 * c, after) for c, after in zip(deep, (*deep[1:], out_channels), strict=True)
        )
        self.down = nn.ModuleList(nn.Sequential(nn.Conv2d(c, c, 4, 2, 1), Norm(c), nn.ELU()) for c in channels)
        self.up = nn.ModuleList(nn.Sequential(nn.ConvTranspose2d(c, c, 4, 2, 1), Norm(c), nn.ELU()) for c in deep)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b latent"]]:
        """Output map, never negative because its block ends in a ReLU, and z: what the last way down gives, flattened.

        ``latent`` is channels[-1] * (h / stride) * (w / stride).
        """
        skips: list[Tensor] = []
        for block, down in zip(self.encoder, self.down, strict=True):
            skips.append(block(x))
            x = down(skips[-1])
        z = x.flatten(1)
        for block, up in zip(self.decoder, self.up, strict=True):
            x = block(torch.cat([up(x), skips.pop()], 1))
        return x, z


class ReleasedBlock(nn.Module):
    """a = conv1x1, then ReLU of a + conv-BN-ELU-conv-BN of a."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.align = nn.Conv2d(in_channels, out_channels, 1)
        self.conv1, self.norm1 = nn.Conv2d(out_channels, out_channels, 3, padding=1), Norm(out_channels)
        self.conv2, self.norm2 = nn.Conv2d(out_channels, out_channels, 3, padding=1), Norm(out_channels)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        a = self.align(x)
        return F.relu(a + self.norm2(self.conv2(F.elu(self.norm1(self.conv1(a))))))
