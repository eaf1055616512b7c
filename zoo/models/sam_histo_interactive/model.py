"""The refinement decoder on SAM's frozen encoders, the decoders it is compared with, and how a user clicks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamMaskDecoder

from zoo import media
from zoo.data.images import rgb_bytes
from zoo.errors import OptionError
from zoo.media.doubts import require_content
from zoo.metrics import iou
from zoo.model import Model
from zoo.models.sam_histo_interactive import plugin
from zoo.models.sam_histo_interactive.result import ClickedSegmentation
from zoo.nn.promptable import (
    SMALL,
    DecoderConfig,
    Embedded,
    OnSam,
    Promptable,
    PromptEmbeddings,
    Session,
    Tensors,
    decode,
    encode_prompts,
    follow,
    inside_of,
    load_sam,
    new_decoder,
    two_way,
)

Method = Literal["refine", "sam-md", "sam-ie-md", "sam-whole", "zero-shot", "wide"]
TRAINS_ENCODER: tuple[Method, ...] = ("sam-ie-md", "sam-whole")
FED_BACK = 10.0  # logits of the answer before are held within it: new decoders know no bounds


@dataclass(frozen=True)
class SamHistoConfig:
    """The network, and which SAM it stands on."""

    method: Method = "refine"
    """``refine``: the paper's decoder. ``sam-md``, ``sam-ie-md``, ``sam-whole``: SAM's own decoder, trained alone, with
    the image encoder, with all (Sec. 2.2). ``zero-shot``: SAM as it is. ``wide``: SAM's decoder with as many parameters
    as the paper's, a control."""
    sam: str = "demo"  # a Hub id, a folder, or the SAM that comes with the zoo
    # of SAM's input, px; None for its own
    image_size: int | None = field(default=None, metadata={"min": 16, "max": 4096})
    decoder: DecoderConfig = SMALL
    heads: int = field(default=8, metadata={"min": 1, "max": 64})  # of the global self-attention; not stated
    target: str = "mask"  # which mask of a data set is to be found


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, the second to half the channels, with a shortcut (Sec. 2.3; its form is ours)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1), nn.InstanceNorm2d(channels, affine=True)
        self.conv2, self.norm2 = nn.Conv2d(channels, half, 3, padding=1), nn.InstanceNorm2d(half, affine=True)
        self.shortcut = nn.Conv2d(channels, half, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        y = F.gelu(self.norm1(self.conv1(x)))
        return F.gelu(self.norm2(self.conv2(y)) + self.shortcut(x))


class UpConvBlock(nn.Module):
    """A ``ConvBlock``, then a 2x2 up-convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.convolutions = ConvBlock(channels)
        self.up, self.norm = nn.ConvTranspose2d(half, half, 2, stride=2), nn.InstanceNorm2d(half, affine=True)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        return F.gelu(self.norm(self.up(self.convolutions(x))))


class GlobalSelfAttention(nn.Module):
    """All places of the image embedding read each other; positions are SAM's, on queries and keys."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x: Float[Tensor, "n c g g"], position: Float[Tensor, "1 c g g"]) -> Float[Tensor, "n c g g"]:
        flat = self.norm(x.flatten(2).transpose(1, 2))
        placed = flat + position.flatten(2).transpose(1, 2)
        read = self.attention(placed, placed, flat, need_weights=False)[0]
        return x + read.transpose(1, 2).reshape(x.shape)


class Transformer(nn.Module):
    """The tokens and the two-way transformer of SAM's decoder, without its heads."""

    def __init__(self, sizes: DecoderConfig) -> None:
        super().__init__()
        whole = new_decoder(sizes)
        self.iou_token, self.mask_tokens, self.transformer = whole.iou_token, whole.mask_tokens, whole.transformer

    def start_from(self, decoder: SamMaskDecoder) -> None:
        """Take over what SAM learned."""
        for name in ("iou_token", "mask_tokens", "transformer"):
            getattr(self, name).load_state_dict(getattr(decoder, name).state_dict())


class RefineDecoder(Transformer):
    """The paper's decoder (Sec. 2.3): no dot product with a token, but attention over the image and deep upsampling."""

    def __init__(self, sizes: DecoderConfig, heads: int) -> None:
        super().__init__(sizes)
        c = sizes.channels
        self.attention = GlobalSelfAttention(c, heads)
        self.blocks = nn.Sequential(UpConvBlock(c), UpConvBlock(c // 2), ConvBlock(c // 4))
        self.head = nn.Conv2d(c // 8, 1, 1)

    def forward(
        self, sam: SamModel, features: Float[Tensor, "#n c g g"], prompts: PromptEmbeddings
    ) -> Float[Tensor, "n 1 m m"]:
        image = two_way(sam, features, prompts, decoder=self)[1]
        image = self.attention(image, sam.get_image_wide_positional_embeddings())
        return self.head(self.blocks(image))


class WideDecoder(Transformer):
    """SAM's upsampling and dot product, ``width`` channels wide: as large as the refinement decoder, a control."""

    def __init__(self, sizes: DecoderConfig, width: int) -> None:
        super().__init__(sizes)
        c = sizes.channels
        self.up1, self.norm = nn.ConvTranspose2d(c, width, 2, stride=2), nn.GroupNorm(1, width)
        self.up2 = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.token = nn.Sequential(nn.Linear(c, c), nn.ReLU(), nn.Linear(c, c), nn.ReLU(), nn.Linear(c, width))

    @classmethod
    def as_large_as(cls, other: nn.Module, sizes: DecoderConfig) -> WideDecoder:
        """With the width whose number of parameters comes nearest to that of ``other``."""
        wanted = sum(p.numel() for p in other.parameters())

        def distance(width: int) -> int:
            with torch.device("meta"):
                return abs(sum(p.numel() for p in cls(sizes, width).parameters()) - wanted)

        return cls(sizes, min(range(8, 8 * sizes.channels, 8), key=distance))

    def forward(
        self, sam: SamModel, features: Float[Tensor, "#n c g g"], prompts: PromptEmbeddings
    ) -> Float[Tensor, "n 1 m m"]:
        queries, image = two_way(sam, features, prompts, decoder=self)
        fine = F.gelu(self.up2(F.gelu(self.norm(self.up1(image)))))
        return torch.einsum("nc,nchw->nhw", self.token(queries[:, 1]), fine)[:, None]  # after the quality token


class SamHistoInteractive(OnSam, Model[ClickedSegmentation]):
    """What is trained: a decoder; with ``sam-ie-md`` and ``sam-whole`` a SAM of its own, stored with the weights."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = SamHistoConfig

    def __init__(self, config: SamHistoConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.decoder: nn.Module
        if c.method == "refine":
            self.decoder = RefineDecoder(c.decoder, c.heads)
        elif c.method == "wide":
            self.decoder = WideDecoder.as_large_as(RefineDecoder(c.decoder, c.heads), c.decoder)
        else:
            self.decoder = new_decoder(c.decoder)
        self.own: SamModel | None = None
        if c.method in TRAINS_ENCODER:
            self.own = copy.deepcopy(load_sam(c.sam, needed_by=plugin.name, image_size=c.image_size))
            self.own.mask_decoder = self.decoder
            self._base = Promptable(self.own)

    def forward(
        self, features: Float[Tensor, "#n c g g"], points: Tensors, *, three: bool = False
    ) -> Float[Tensor, "n 1 m m"]:
        """Logits of ``n`` objects from the encoder's features, all clicks so far and, as ``masks``, the answer before.

        ``three``: SAM's own decoder may choose among its masks for an ambiguous click.
        """
        sam = self.base.sam
        if points.masks is not None:
            points = Tensors(points.boxes, points.points, points.labels, points.masks.clamp(-FED_BACK, FED_BACK))
        prompts = encode_prompts(sam, points)
        if isinstance(self.decoder, RefineDecoder | WideDecoder):
            return self.decoder(sam, features, prompts)
        logits, quality = decode(sam, features, prompts, decoder=self.decoder, multimask=three)
        best = quality.argmax(1)
        return logits[torch.arange(len(logits)), best][:, None]

    def session(self, image: Any, *, threshold: float = 0.5, previous: Any = None) -> Session:
        """Encode ``image`` (all that ``zoo.media.read`` takes) once; its ``click(x, y, label)`` gives the new mask.

        ``previous``: a mask to start from. Raises ``OptionError`` for one of another size, ``MediaError`` for no image.
        """
        picture = media.read(image).require_2d(plugin.name)
        require_content(picture)
        before = None if previous is None else self._mask(previous, picture)

        def answer(embedded: Embedded, points: Tensors) -> Float[Tensor, "1 1 m m"]:
            assert points.points is not None
            first = self.config.method == "zero-shot" and points.masks is None and points.points.shape[2] == 1
            return self(embedded.features, points, three=first)

        return Session(self.base, rgb_bytes(picture), answer, threshold=threshold, previous=before)

    def _mask(self, given: Any, picture: media.Image) -> Any:
        mask = media.read_labels(given).require_2d(plugin.name).array > 0
        if mask.shape != picture.size:
            found, wanted = (" x ".join(map(str, reversed(size))) for size in (mask.shape, picture.size))
            raise OptionError(f"the mask is {found} px and the image {wanted}; give a mask of the image's size")
        return mask

    def _predict(
        self,
        images: Sequence[media.Image],
        *,
        click: Sequence[Sequence[float]] | None,
        previous: Any,
        simulate_gt: Any,
        most: int,
        threshold: float,
    ) -> list[ClickedSegmentation]:
        """Answer the clicks one after the other; with the truth, measure them and go on with simulated ones."""
        found = []
        for image in images:
            session = self.session(image, threshold=threshold, previous=previous)
            trace = truth = None
            if simulate_gt is not None:
                truth = self._mask(simulate_gt, image)
                if not truth.any():
                    raise OptionError("simulate_gt marks nothing, so there is nothing to click on")
            scores = []
            for x, y, label in click or ():
                session.click(x, y, inside_of(label))
                if truth is not None:
                    scores.append(iou(session.mask, truth))
            if truth is not None:
                trace = follow(session, truth, most=max(0, most - len(scores)))
                trace = replace(trace, iou=(*scores, *trace.iou))
            found.append(ClickedSegmentation.of(image, session, truth, trace, most))
        return found
