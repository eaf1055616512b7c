"""Two frozen encoders side by side, and a neck, class prompts and SAM's mask decoder that are trained (Sec. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamLayerNorm

from zoo import media
from zoo.data.images import normalise, resize, rgb_bytes
from zoo.errors import OptionError
from zoo.model import Model
from zoo.models.sam_path import plugin
from zoo.models.sam_path.encoders import SMALL, SmallEncoder, encode, load_encoder
from zoo.models.sam_path.result import ClassMap
from zoo.nn.promptable import SMALL as SMALL_DECODER
from zoo.nn.promptable import (
    DecoderConfig,
    OnSam,
    Point,
    Prompt,
    PromptEmbeddings,
    all_masks,
    before_neck,
    decode,
    encode_prompts,
    new_decoder,
)
from zoo.nn.promptable.frame import MEAN, STD, Tensors
from zoo.nn.windows import tiled

Encoders = Literal["both", "sam", "pathology"]
Prompts = Literal["joint", "single"]
BCSS = ("unlabelled", "tumour", "stroma", "inflammatory", "necrosis", "other")
CRAG = ("background", "gland")


@dataclass(frozen=True)
class SamPathConfig:
    """The network, and which encoders it stands on."""

    labels: tuple[str, ...] = CRAG  # by value of the mask
    ignored: bool = False  # value 0 is what nobody labelled: neither trained on, nor predicted, nor measured
    dummy: bool = False  # a map for what nobody labelled all the same, as in the authors' code
    prompts: Prompts = "joint"
    """``joint``: a mask token for each class, all in one pass, as the authors' code has it; ``single``: a prompt token
    for each class and a pass for each, as the text may be read."""
    encoders: Encoders = "both"
    frozen_neck: bool = False  # with ``sam`` alone: SAM's own neck, not trained, as in the authors' code
    sam: str = "demo"  # a Hub id, a folder, or the SAM that comes with the zoo
    image_size: int | None = field(
        default=None, metadata={"min": 16, "max": 4096}
    )  # of the encoders' input; None: SAM's
    sam_width: int = field(default=96, metadata={"min": 1, "max": 16_384})  # channels before SAM's neck
    pathology: str = SMALL  # ``small``, timm's name of a ViT, or HIPT's file (.safetensors)
    pathology_width: int = field(default=64, metadata={"min": 2, "max": 16_384})
    decoder: DecoderConfig = SMALL_DECODER
    tile: int = field(default=256, metadata={"min": 32, "max": 8192})  # px of the image that one pass sees
    mpp: float | None = field(default=None, metadata={"min": 0.01, "max": 100.0})  # micrometres per pixel, as trained
    quality: bool = True  # whether the expected IoU was trained (beta above 0)

    def __post_init__(self) -> None:
        if len(self.maps) < 2:
            raise ValueError("at least two classes are needed; one alone is always right")
        if self.frozen_neck and self.encoders != "sam":
            raise ValueError("SAM's own neck fits SAM's encoder alone; set encoders=sam")

    @property
    def maps(self) -> tuple[str, ...]:
        """The classes that the decoder draws, in its order."""
        classes = self.labels[1:] if self.ignored else self.labels
        return ("unlabelled", *classes) if self.dummy else classes

    @property
    def width(self) -> int:
        """Channels that reach the neck."""
        return self.sam_width * (self.encoders != "pathology") + self.pathology_width * (self.encoders != "sam")


class Neck(nn.Module):
    """R, the module that reduces both encoders' channels to the decoder's: SAM's neck with more inputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm1 = SamLayerNorm(outputs, data_format="channels_first")
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = SamLayerNorm(outputs, data_format="channels_first")

    def forward(self, h: Float[Tensor, "b d g g"]) -> Float[Tensor, "b c g g"]:
        return self.norm2(self.conv2(self.norm1(self.conv1(h))))

    @torch.no_grad()
    def copy(self, sam: SamModel) -> None:
        """Start as SAM's neck, blind to all channels but SAM's, which come first."""
        neck = sam.vision_encoder.neck
        known = neck.conv1.in_channels
        self.conv1.weight.zero_()
        self.conv1.weight[:, :known] = neck.conv1.weight
        self.norm1.load_state_dict(neck.layer_norm1.state_dict())
        self.conv2.load_state_dict(neck.conv2.state_dict())
        self.norm2.load_state_dict(neck.layer_norm2.state_dict())


class ClassMasks(NamedTuple):
    """For each class its logits, small, and the IoU that the decoder expects."""

    logits: Float[Tensor, "b k m m"]
    quality: Float[Tensor, "b k"]


class SamPath(OnSam, Model[ClassMap]):
    """What is trained: neck, class prompts, decoder. The encoders stay frozen; only the small one is in the weights."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = SamPathConfig

    def __init__(self, config: SamPathConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        count = len(c.maps)
        self.neck = None if c.frozen_neck else Neck(c.width, c.decoder.channels)
        self.decoder = new_decoder(c.decoder, count + 1 if c.prompts == "joint" else 4)
        self.class_prompts = nn.Embedding(count, c.decoder.channels) if c.prompts == "single" else None
        small = c.pathology == SMALL and c.encoders != "sam"
        self.pathology = SmallEncoder(c.pathology_width).requires_grad_(False) if small else None
        self._frozen: nn.Module | None = None

    # ---- what is frozen --------------------------------------------------------------------------------------------

    def _take(self, sam: SamModel) -> None:
        c = self.config
        if DecoderConfig.of(sam) != c.decoder or sam.config.vision_config.hidden_size != c.sam_width:
            raise OptionError(
                f"these weights of {plugin.name} have other sizes than {c.sam}; "
                "train them on the SAM that they are to be used with"
            )

    @property
    def pathology_encoder(self) -> nn.Module:
        """F_p, loaded when it's first needed. Raises ``WeightsError`` when it can't be had."""
        if self.pathology is not None:
            return self.pathology
        if self._frozen is None:
            self._frozen = load_encoder(self.config.pathology, self.base.size, needed_by=plugin.name)
        return self._frozen.to(self.device)

    def train(self, mode: bool = True) -> SamPath:
        super().train(mode)
        if self.pathology is not None:
            self.pathology.eval()  # frozen: its batch statistics too
        return self

    @torch.no_grad()
    def features(self, x: Float[Tensor, "b 3 t t"]) -> Float[Tensor, "b d g g"]:
        """h = [F_s(x), F_p(x)] (Eq. 1) of images in [0, 1], brought to the encoders' size."""
        size, found = self.base.size, []
        if x.shape[-1] != size:
            x = F.interpolate(x, (size, size), mode="bilinear")
        if self.config.encoders != "pathology":
            mean, std = ([v / 255 for v in values] for values in (MEAN, STD))
            found.append(before_neck(self.base.sam, normalise(x, mean, std)))
        if self.config.encoders != "sam":
            found.append(encode(self.pathology_encoder, x, size // self.base.sam.config.vision_config.patch_size))
        return torch.cat(found, 1)

    # ---- what is trained -------------------------------------------------------------------------------------------

    def forward(self, h: Float[Tensor, "b d g g"]) -> ClassMasks:
        """G(R(h), P) (Eq. 2): a map of logits and an expected IoU for each class. ``h``: what ``features`` gives."""
        sam = self.base.sam
        if self.neck is None:
            with torch.no_grad():
                embedded = sam.vision_encoder.neck(h.permute(0, 2, 3, 1))
        else:
            embedded = self.neck(h)
        dense = encode_prompts(sam, Tensors()).dense[:1]  # no mask
        b, c = embedded.shape[:2]
        if self.class_prompts is None:
            found = all_masks(sam, embedded, PromptEmbeddings(dense.new_zeros(1, b, 0, c), dense), decoder=self.decoder)
            return ClassMasks(found.logits[:, 1:], found.quality[:, 1:])  # token 0 draws no class
        k = len(self.class_prompts.weight)
        sparse = self.class_prompts.weight[:, None].repeat(b, 1, 1)[None]  # every image with every class
        each = embedded.repeat_interleave(k, 0)
        found = decode(sam, each, PromptEmbeddings(sparse, dense.expand(b * k, -1, -1, -1)), decoder=self.decoder)
        return ClassMasks(found.logits.view(b, k, *found.logits.shape[2:]), found.quality.view(b, k))

    def logits(self, x: Float[Tensor, "b 3 t t"]) -> Float[Tensor, "b k t t"]:
        """Of every pixel of images in [0, 1]."""
        return F.interpolate(self(self.features(x)).logits, x.shape[2:], mode="bilinear", align_corners=False).float()

    # ---- what a user asks ------------------------------------------------------------------------------------------

    def _predict(
        self,
        images: Sequence[media.Image],
        *,
        mode: str,
        point: Sequence[Sequence[float]] | None,
        drop_large: bool,
        overlap: float,
        mpp: float | None,
    ) -> list[ClassMap]:
        """The class of every pixel; large images in tiles that overlap and are blended.

        ``mode=vanilla``: the union of what SAM itself draws from each ``point``; with ``drop_large`` without masks of
        more than half the image. Raises ``OptionError`` for points beside the image, or without their mode.
        """
        if mode == "vanilla":
            return [self._vanilla(image, point, drop_large) for image in images]
        if point or drop_large:
            raise OptionError("points and drop_large are of vanilla alone; leave them out, or add --with mode=vanilla")
        return [self._mapped(image, overlap, mpp) for image in images]

    def _mapped(self, picture: media.Image, overlap: float, mpp: float | None) -> ClassMap:
        c, notes = self.config, []
        rgb = rgb_bytes(picture)
        if mpp is not None and c.mpp is not None:
            scale = mpp / c.mpp
            rgb = resize(rgb, [max(1, round(n * scale)) for n in rgb.shape[:2]])
            notes.append(f"scaled from {mpp:g} to the {c.mpp:g} micrometres per pixel of training")
        elif mpp is not None:
            notes.append("these weights state no micrometres per pixel: mpp was not used")
        logits = tiled(self.logits, rgb, c.tile, overlap=overlap, device=self.device)
        logits = F.interpolate(logits[None].float(), picture.size, mode="bilinear", align_corners=False)
        if c.dummy:
            logits = logits[:, 1:]
        p = logits[0].softmax(0).cpu().numpy()
        mask = p.argmax(0).astype(np.uint8) + np.uint8(c.ignored)
        names = c.labels[1:] if c.ignored else c.labels
        return ClassMap(
            notes=tuple(notes), image=picture, mask=mask, labels=c.labels, probability=p, names=names,
            quality=self._expected(rgb) if c.quality else {},
        )  # fmt: skip

    def _expected(self, rgb: np.ndarray) -> dict[str, float]:
        """Expected IoU of each class, where the image is a single tile."""
        c = self.config
        if max(rgb.shape[:2]) > c.tile:
            return {}
        padded = np.pad(rgb, ((0, c.tile - rgb.shape[0]), (0, c.tile - rgb.shape[1]), (0, 0)), mode="edge")
        x = torch.from_numpy(padded).permute(2, 0, 1)[None].to(self.device) / 255
        found = self(self.features(x)).quality[0].tolist()
        return dict(zip(c.maps[1:] if c.dummy else c.maps, found[1:] if c.dummy else found, strict=True))

    def _vanilla(self, picture: media.Image, point: Sequence[Sequence[float]] | None, drop_large: bool) -> ClassMap:
        if not point:
            raise OptionError("mode=vanilla needs a point in every object; add --with point=x,y")
        prompts = [Prompt(points=(Point(float(x), float(y)),)) for x, y in point]
        image = self.base.embed(rgb_bytes(picture))
        union, dropped = np.zeros(picture.size, bool), 0
        for prompt in prompts:
            mask = (image.frame.logits(self.base.ask(image, [prompt]).logits)[0, 0] > 0).cpu().numpy()
            if drop_large and mask.mean() > 0.5:
                dropped += 1
                continue
            union |= mask
        notes = ["SAM's own answer to the points: no class is known"]
        if dropped:
            notes.append(f"{dropped} masks of more than half the image were dropped")
        names = ("background", "object")
        return ClassMap(
            notes=tuple(notes), image=picture, mask=union.astype(np.uint8), labels=names, names=names, prompts=prompts
        )
