"""A segmentation network whose input is the image with what a frozen SAM sees in it (Sec. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int32, UInt8
from scipy import ndimage
from torch import Tensor, nn

from zoo import media
from zoo.data.images import IMAGENET_MEAN, IMAGENET_STD, normalise, rgb_bytes, to_tensor
from zoo.errors import OptionError
from zoo.model import Model
from zoo.models.samaug import plugin
from zoo.models.samaug.hsnet import HSNet
from zoo.models.samaug.priors import Boundary, Compose, PriorMaker, fuse, rasterise, read_priors
from zoo.models.samaug.result import AugmentedSegmentation
from zoo.nn.promptable import Grid, Promptable, load_sam, read_masks
from zoo.nn.windows import sliding_window

Task = Literal["nuclei", "glands", "polyp"]
Network = Literal["u-net", "p-net", "attention-u-net", "hsnet"]
Inputs = Literal["aug", "both", "raw"]
OBJECT = {"nuclei": "nucleus", "glands": "gland", "polyp": "polyp"}


@dataclass(frozen=True)
class SamaugConfig:
    """The network M, and what goes into it."""

    task: Task = "nuclei"
    network: Network = "u-net"
    # of U-Net's five levels and its end; of P-Net the first
    features: tuple[int, ...] = field(default=(64, 128, 256, 512, 1024, 64), metadata={"min": 1, "max": 4096})
    backbone: str = "pvt_v2_b2"  # of HSNet: timm's name
    corners: bool = True  # HSNet's maps are enlarged from corner to corner; False: as in the authors' copy of it
    inputs: Inputs = "aug"
    """What M was trained on: the augmented image (Eq. 1), both (Eq. 2), or, as the baseline, the raw image."""
    sam: str = "demo"  # a Hub id, a folder, or the SAM that comes with the zoo
    image_size: int | None = field(default=None, metadata={"min": 16, "max": 4096})  # of SAM's input; None: its own
    grid: Grid = field(default_factory=Grid)
    compose: Compose = "sum"
    boundary: Boundary = "exterior"
    scored: bool = True  # masks are drawn with their stability; False: as ones
    fuse_first: bool = True
    """Priors are added to the image in [0, 1], then all is normalised. False: cut to [0, 1], after it."""
    mean: tuple[float, float, float] = field(default=IMAGENET_MEAN, metadata={"min": -10.0, "max": 100.0})
    std: tuple[float, float, float] = field(default=IMAGENET_STD, metadata={"min": 1e-3, "max": 100.0})
    choice: Literal["entropy", "margin"] = "entropy"
    """How one of the two inputs is chosen: Eq. 6, or, as in the authors' code, by the mean distance to one half."""
    # side of the tiles (nuclei, glands) or of the square that the image is brought to (polyp), px
    size: int = field(default=256, metadata={"min": 32, "max": 4096})
    border: int = field(default=1, metadata={"min": 1, "max": 32})  # px of an object's rim, a class of its own
    least: int = field(default=10, metadata={"min": 0, "max": 1_000_000})  # px; smaller objects are dropped

    def __post_init__(self) -> None:
        if len(self.features) != 6:
            raise ValueError("features must be six widths: of five levels and of the end")
        if self.size % 32:
            raise ValueError("size must be a multiple of 32 px")

    @property
    def classes(self) -> int:
        """Background, object and rim (Sec. 3.2); of polyps a single logit."""
        return 1 if self.task == "polyp" else 3


class PNet(nn.Module):
    """P-Net (G. Wang et al. 2018): full resolution throughout, dilations 1, 2, 4, 8, 16 in five blocks."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        channels = 3
        for count, dilation in zip((2, 2, 3, 3, 3), (1, 2, 4, 8, 16), strict=True):
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation), nn.ReLU()]
                channels = width
            self.blocks.append(nn.Sequential(*layers))
        self.head = nn.Sequential(
            nn.Dropout2d(0.3),
            nn.Conv2d(5 * width, width, 1),
            nn.ReLU(),
            nn.Dropout2d(0.3),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return self.head(torch.cat(found, 1))


def build(config: SamaugConfig, *, pretrained: bool = False) -> nn.Module:
    """M: 3 channels to ``config.classes`` maps, HSNet to four of one. ``pretrained``: HSNet's encoder, on ImageNet."""
    if config.network == "hsnet":
        return HSNet(config.backbone, pretrained=pretrained, corners=config.corners)
    if config.network == "p-net":
        return PNet(config.classes, config.features[0])
    if config.network == "u-net":
        from monai.networks.nets import BasicUNet

        return BasicUNet(2, 3, config.classes, features=config.features)
    from monai.networks.nets import AttentionUnet

    return AttentionUnet(2, 3, config.classes, channels=config.features[:5], strides=(2, 2, 2, 2))


class Views(NamedTuple):
    """The two inputs of M, normalised."""

    raw: Float[Tensor, "b 3 h w"]
    aug: Float[Tensor, "b 3 h w"]


class Samaug(Model[AugmentedSegmentation]):
    """What is trained: M. SAM stays frozen and is not part of the weights."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = SamaugConfig

    def __init__(self, config: SamaugConfig | None = None, *, pretrained: bool = False) -> None:
        super().__init__(config)
        self.network = build(self.config, pretrained=pretrained)
        self._priors: PriorMaker | None = None

    @property
    def priors(self) -> PriorMaker:
        """Makes and keeps the priors of images; loads SAM when an image needs it. Raises ``WeightsError``."""
        if self._priors is None:
            c = self.config
            self._priors = PriorMaker(self._sam, c.grid, c.compose, c.boundary, scored=c.scored)
        return self._priors

    @priors.setter
    def priors(self, maker: PriorMaker) -> None:
        self._priors = maker

    def _sam(self) -> Promptable:
        sam = load_sam(self.config.sam, needed_by=plugin.name, image_size=self.config.image_size)
        return Promptable(sam.to(self.device))

    def maps(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b k h w"], ...]:
        """All maps of logits of M: one, or HSNet's four."""
        found = self.network(x)
        return found if isinstance(found, tuple) else (found,)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Logits; h and w are multiples of 32. ``x``: one of ``views``."""
        maps = self.maps(x)
        return sum(maps[1:], start=maps[0])

    def views(self, x: Float[Tensor, "b 3 h w"], priors: Float[Tensor, "b 2 h w"], grey: Bool[Tensor, " b"]) -> Views:
        """Raw and augmented input from images in [0, 1]. ``grey``: the priors take two channels of these images."""
        c = self.config
        raw = normalise(x, c.mean, c.std)
        if c.fuse_first:
            return Views(raw, normalise(fuse(x, priors, grey), c.mean, c.std))
        return Views(raw, fuse(raw, priors.clamp(0, 1), grey))

    def _predict(
        self,
        images: Sequence[media.Image],
        *,
        strategy: str | None,
        priors: str | None,
        sam_masks: str | None,
        threshold: float,
    ) -> list[AugmentedSegmentation]:
        """Segment from the augmented image, from both (Eq. 4), or from the one M is surer of (Eq. 6).

        Raises ``OptionError`` for priors or masks of another size than the image, and for both of them.
        """
        if priors and sam_masks:
            raise OptionError("give priors or sam_masks, not both; priors are drawn from masks")
        return [self._segmented(image, strategy, priors, sam_masks, threshold) for image in images]

    def _segmented(
        self, picture: media.Image, strategy: str | None, priors: str | None, masks: str | None, threshold: float
    ) -> AugmentedSegmentation:
        c = self.config
        rgb = rgb_bytes(picture)
        made, count = self._drawn(rgb, priors, masks)
        used = "raw" if c.inputs == "raw" else strategy or _DEFAULT[c.inputs]
        x, grey = to_tensor([rgb], self.device), is_grey(rgb)
        views = self.views(x, torch.from_numpy(made)[None].to(self.device), torch.tensor([grey], device=self.device))
        raw, aug = (self._whole(view) for view in views)
        chosen = self._chosen(raw, aug) if used == "entropy" else used
        p = tau({"raw": raw, "aug": aug, "mean": raw + aug}[chosen])
        mask, objects = self.objects(p, threshold)
        each = {"raw": raw} if c.inputs == "raw" else {"raw": raw, "aug": aug}
        return AugmentedSegmentation(
            options={"strategy": used},
            notes=self._notes(strategy, made),
            image=picture,
            mask=mask.astype(np.uint8),
            labels=(plugin.labels[0], OBJECT[c.task]),
            probability=object_probability(p),
            priors=made,
            sam_masks=count,
            augmented=shown(rgb, made, grey),
            masks={name: self.objects(tau(one), threshold)[0].astype(np.uint8) for name, one in each.items()},
            instances=objects,
            chosen=chosen,
            entropy={name: entropy(tau(one)) for name, one in each.items()},
        )

    def _drawn(
        self, rgb: UInt8[np.ndarray, "h w 3"], priors: str | None, masks: str | None
    ) -> tuple[Float[np.ndarray, "2 h w"], int | None]:
        """Both priors, given or made, and of how many masks; None where that isn't known."""
        c, size = self.config, rgb.shape[:2]
        if c.inputs == "raw":
            return np.zeros((2, *size), np.float32), None
        if priors:
            return read_priors(priors, size), None
        if masks:
            given = read_masks(masks, size)
            return rasterise(given, size, c.compose, c.boundary, scored=c.scored), len(given)
        return self.priors(rgb)

    def _notes(self, strategy: str | None, priors: Float[np.ndarray, "2 h w"]) -> tuple[str, ...]:
        if self.config.inputs == "raw":
            return () if strategy is None else (f"trained on raw images: strategy {strategy} was not used",)
        notes = []
        if self.config.inputs == "aug" and strategy in ("mean", "entropy"):
            notes.append(
                f"trained on augmented images alone (Eq. 1), but strategy {strategy} asks it about the raw one"
            )
        if not priors.any():
            notes.append("SAM found no masks: the augmented image is the image")
        return tuple(notes)

    def _chosen(self, raw: Float[Tensor, "k h w"], aug: Float[Tensor, "k h w"]) -> str:
        if self.config.choice == "margin":
            return "raw" if margin(tau(raw)) > margin(tau(aug)) else "aug"
        return "raw" if entropy(tau(raw)) < entropy(tau(aug)) else "aug"

    def _whole(self, x: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "k h w"]:
        """Logits of a whole image: of overlapping tiles, or (polyp) of the image brought to a square."""
        size, (h, w) = self.config.size, x.shape[2:]
        if self.config.task == "polyp":
            square = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
            return F.interpolate(self(square), (h, w), mode="bilinear")[0].float()
        padded = F.pad(x, (0, max(0, size - w), 0, max(0, size - h)), mode="replicate")[0]
        logits = sliding_window(self, padded, (size, size), finish=Tensor.clone, progress=False, batch=4)
        return logits[:, :h, :w].to(x.device)

    def objects(
        self, p: Float[Tensor, "k h w"], threshold: float = 0.5
    ) -> tuple[Bool[np.ndarray, "h w"], Int32[np.ndarray, "h w"] | None]:
        """Where objects are, and (nuclei, glands) which pixel belongs to which of them."""
        mask = object_probability(p) >= max(threshold, 1e-6)
        if self.config.classes == 1:
            return mask, None
        core = mask & (p[1] >= p[2]).cpu().numpy()
        labels = instances(core, mask, self.config.least, self.config.border)
        return labels > 0, labels


_DEFAULT = {"aug": "aug", "both": "entropy"}  # Sec. 3.3, and what the paper used for polyps


def tau(logits: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
    """Sigmoid of one map, softmax of several."""
    return logits.sigmoid() if len(logits) == 1 else logits.softmax(0)


def object_probability(p: Float[Tensor, "k h w"]) -> Float[np.ndarray, "h w"]:
    """Of object or rim."""
    return (p[0] if len(p) == 1 else 1 - p[0]).cpu().numpy().astype(np.float32)


def entropy(p: Float[Tensor, "k h w"]) -> float:
    """Mean over pixels (Eq. 5), in nats; of a single map that of yes and no."""
    both = torch.cat([p, 1 - p]) if len(p) == 1 else p
    return float(-(both * (both + 1e-8).log()).sum(0).mean())


def margin(p: Float[Tensor, "k h w"]) -> float:
    """Mean distance to one half of the first map, stretched to [0, 1], as the authors' code measures certainty."""
    low, high = p[0].min(), p[0].max()
    return float(((p[0] - low) / (high - low + 1e-8) - 0.5).abs().mean())


def instances(
    core: Bool[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], least: int, border: int
) -> Int32[np.ndarray, "h w"]:
    """Connected parts of ``core`` of at least ``least`` px, given back their rim of ``border`` px within ``mask``."""
    from skimage.segmentation import expand_labels

    labels, count = ndimage.label(core)
    large = np.bincount(labels.ravel(), minlength=count + 1) >= max(least, 1)
    large[0] = False
    numbered = np.where(large, large.cumsum(), 0)[labels]
    reach = 1.5 * border  # to the corners of a rim, which are farther than its sides
    return np.where(mask, expand_labels(numbered, reach), 0).astype(np.int32)


def is_grey(rgb: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether all channels are the same everywhere."""
    return bool((rgb == rgb[..., :1]).all())


def shown(
    rgb: UInt8[np.ndarray, "h w 3"], priors: Float[np.ndarray, "2 h w"], grey: bool
) -> UInt8[np.ndarray, "h w 3"]:
    """The augmented image as a picture, cut to what a screen can show."""
    x = fuse(to_tensor([rgb]), torch.from_numpy(priors)[None], torch.tensor([grey]))[0]
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
