"""A frozen SAM, the condition-embedding block between its encoder and its mask decoder, and how a user asks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import SamModel

from zoo import media
from zoo.data.images import place_of, resize
from zoo.errors import OptionError
from zoo.model import Model
from zoo.models.cemb_sam import plugin
from zoo.models.cemb_sam.result import Answer, PromptedSegmentation
from zoo.nn.promptable import (
    Frame,
    Mask,
    Point,
    Prompt,
    Promptable,
    PromptEmbeddings,
    decode,
    encode_prompts,
    load_sam,
    mask_side,
    prompts_from,
)
from zoo.nn.promptable.frame import Tensors

BUSI = ("benign", "malignant", "normal")
NERVE = ("FH", "FN", "FN+1", "FN+2", "FN+3", "FN+4", "ulnar")
Method = Literal["cemb-sam", "decoder-only", "zero-shot", "u-net"]


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of SAM's mask decoder; the published ones all have these."""

    channels: int = field(default=256, metadata={"min": 8, "max": 4096})  # C
    mlp: int = field(default=2048, metadata={"min": 1, "max": 65_536})
    heads: int = field(default=8, metadata={"min": 1, "max": 256})
    quality_hidden: int = field(default=256, metadata={"min": 1, "max": 65_536})

    @classmethod
    def of(cls, sam: SamModel) -> DecoderConfig:
        config = sam.config.mask_decoder_config
        return cls(config.hidden_size, config.mlp_dim, config.num_attention_heads, config.iou_head_hidden_dim)


@dataclass(frozen=True)
class CEmbSamConfig:
    """The network, and which SAM it stands on."""

    method: Method = "cemb-sam"
    """``decoder-only``: fine-tuned decoder without the block (the paper's MedSAM); ``zero-shot``: SAM as it is;
    ``u-net``: no SAM and no prompt."""
    sam: str = "demo"  # a Hub id, a folder, or the SAM that comes with the zoo
    # of SAM's input, px; None for its own
    image_size: int | None = field(default=None, metadata={"min": 16, "max": 4096})
    conditions: tuple[str, ...] = BUSI
    decoder: DecoderConfig = field(default_factory=lambda: DecoderConfig(64, 256, 4, 64))
    # every image is brought to this square first
    working_size: int = field(default=256, metadata={"min": 32, "max": 8192})
    gamma_offset: float = field(default=1.0, metadata={"min": -100.0, "max": 100.0})
    """Added to gamma, so that the block starts as instance normalisation; 0 is the formula as printed."""
    residual: bool = False  # add the block's input to its output; not in the paper
    # of monai's BasicUNet
    unet_features: tuple[int, ...] = field(default=(32, 32, 64, 128, 256, 32), metadata={"min": 1, "max": 4096})

    def __post_init__(self) -> None:
        if not self.conditions or len(set(self.conditions)) != len(self.conditions):
            raise ValueError("conditions must be one or more different names")


class ConditionEmbedding(nn.Module):
    """CEmb: two 3x3 convolutions, each followed by instance normalisation with scale and shift from the condition.

    Paper Sec. 2.2, Eqs. 1 to 4. ``channels`` is C, ``conditions`` m.
    """

    def __init__(self, channels: int, conditions: int, *, gamma_offset: float = 1.0, residual: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConditionalLayer(channels, conditions, gamma_offset) for _ in range(2))
        self.residual = residual

    def forward(self, x: Float[Tensor, "b c h w"], condition: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        z = x
        for layer in self.layers:  # F_mid, then z
            z = layer(z, condition)
        return x + z if self.residual else z


class ConditionalLayer(nn.Module):
    """sigma(CIN(Conv(x) | gamma, beta)), Eq. 3 and 4, with gamma and beta from one pair of matrices (Eq. 1)."""

    epsilon = 1e-5

    def __init__(self, channels: int, conditions: int, gamma_offset: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.w_gamma = nn.Embedding(conditions, channels)
        self.w_beta = nn.Embedding(conditions, channels)
        self.w1 = nn.Linear(channels, channels, bias=False)
        self.w2 = nn.Linear(channels, channels, bias=False)
        self.gamma_offset = gamma_offset
        if gamma_offset:
            with torch.no_grad():
                self.w2.weight.mul_(0.1)  # near to plain instance normalisation at first

    def forward(self, x: Float[Tensor, "b c h w"], condition: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        gamma = self.gamma_offset + self.w2(F.relu(self.w1(self.w_gamma(condition))))
        beta = self.w2(F.relu(self.w1(self.w_beta(condition))))
        return F.relu(conditional_instance_norm(self.convolution(x), gamma, beta, self.epsilon))


def conditional_instance_norm(
    x: Float[Tensor, "b c h w"], gamma: Float[Tensor, "b c"], beta: Float[Tensor, "b c"], epsilon: float = 1e-5
) -> Float[Tensor, "b c h w"]:
    """CIN(F | gamma, beta), Eq. 2: statistics of each sample and channel; epsilon outside the root, as printed."""
    variance, mean = torch.var_mean(x, dim=(2, 3), keepdim=True, correction=0)
    return gamma[..., None, None] * (x - mean) / (variance.sqrt() + epsilon) + beta[..., None, None]


class CEmbSam(Model[PromptedSegmentation]):
    """What is trained: the block and the mask decoder. SAM's encoders stay frozen and are not part of the weights."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = CEmbSamConfig

    def __init__(self, config: CEmbSamConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.block = self.decoder = self.unet = None
        if c.method == "u-net":
            from monai.networks.nets import BasicUNet

            self.unet = BasicUNet(spatial_dims=2, in_channels=1, out_channels=1, features=c.unet_features)
            return
        from transformers.models.sam.modeling_sam import SamMaskDecoder, SamMaskDecoderConfig

        d = c.decoder
        sizes = SamMaskDecoderConfig(
            hidden_size=d.channels, mlp_dim=d.mlp, num_attention_heads=d.heads, iou_head_hidden_dim=d.quality_hidden
        )
        sizes._attn_implementation = "sdpa"
        self.decoder = SamMaskDecoder(sizes)
        if c.method == "cemb-sam":
            self.block = ConditionEmbedding(
                d.channels, len(c.conditions), gamma_offset=c.gamma_offset, residual=c.residual
            )
        self._base: Promptable | None = None

    @property
    def base(self) -> Promptable:
        """The frozen SAM, loaded when it's first needed. Raises ``WeightsError`` when it can't be had."""
        if self._base is None:
            sam = load_sam(self.config.sam, needed_by=plugin.name, image_size=self.config.image_size)
            if DecoderConfig.of(sam) != self.config.decoder:
                raise OptionError(
                    f"the decoder of {plugin.name} has other sizes than that of {self.config.sam}; "
                    "train it on the SAM that it is to be used with"
                )
            self._base = Promptable(sam)
        if self._base.device != self.device:
            self._base.sam.to(self.device)
        return self._base

    @base.setter
    def base(self, promptable: Promptable) -> None:
        self._base = promptable

    def forward(
        self, features: Float[Tensor, "#n c g g"], prompts: PromptEmbeddings, condition: Int[Tensor, " #n"]
    ) -> tuple[Float[Tensor, "n 1 m m"], Float[Tensor, "n 1"]]:
        """Low-resolution logits of ``n`` objects and their expected IoU, from the encoder's features."""
        if self.block is not None:
            features = self.block(features, condition)
        return decode(self.base.sam, features, prompts, decoder=self.decoder)

    def _predict(
        self,
        images: Sequence[media.Image],
        *,
        box: Sequence[Sequence[float]],
        point: Sequence[Sequence[float]] | None,
        background: Sequence[Sequence[float]] | None,
        mask: Any,
        condition: str | None,
        threshold: float,
    ) -> list[PromptedSegmentation]:
        """Segment what lies in each box; an image is encoded once for all its boxes.

        ``condition``: the sub-group, by name or number. Without it all are tried and the one taken whose masks the
        network expects to be best. Raises ``OptionError`` for a prompt beside the image and an unknown condition.
        """
        given = self._condition(condition)
        hint = None if mask is None else media.read_labels(mask).require_2d(self.plugin.name)
        inside = None if hint is None else hint.array > 0
        prompts = prompts_from(box, point, background, inside)
        found = [self._segmented(image, prompts, given, threshold) for image in images]
        for one in found:
            one.notes = (*one.notes, *(hint.notes if hint else ()))
        return found

    def _segmented(
        self, picture: media.Image, prompts: tuple[Prompt, ...], given: int | None, threshold: float
    ) -> PromptedSegmentation:
        for prompt in prompts:
            prompt.check(*picture.size)
        tried = [given] if given is not None else list(range(len(self.config.conditions)))
        if self.block is None:
            tried = tried[:1]
        answers = [self._answer(picture, prompts, c) for c in tried]
        best = int(np.argmax([answer.quality.mean() for answer in answers]))
        names = self.config.conditions
        notes = []
        if self.block is None and given is not None:
            notes.append(f"{self.config.method} knows no conditions: {names[given]} was not used")
        elif self.block is not None and given is None:
            notes.append(f"condition inferred: {names[tried[best]]}; say otherwise with condition={'|'.join(names)}")
        if any(prompt.points or prompt.mask is not None for prompt in prompts):
            notes.append("trained with boxes alone: points and masks may help less than expected")
        return PromptedSegmentation.of(
            picture,
            prompts,
            {names[c] if self.block else "": answer for c, answer in zip(tried, answers, strict=True)},
            chosen=names[tried[best]] if self.block else "",
            inferred=given is None and self.block is not None,
            threshold=threshold,
            notes=tuple(notes),
        )

    def _condition(self, condition: str | None) -> int | None:
        names = self.config.conditions
        if condition is None:
            return None
        if (place := place_of(condition, names)) is not None:
            return place
        listed = ", ".join(f"{name} ({i})" for i, name in enumerate(names))
        raise OptionError(f"these weights know no condition {condition!r}; choose one of {listed}, or leave it out")

    def _answer(self, picture: media.Image, prompts: Sequence[Prompt], condition: int) -> Answer:
        small = working_image(picture, self.config.working_size)
        if self.unet is not None:
            x = torch.from_numpy(small).to(self.device)[None, None] / 255
            logits, quality = self.unet(x).expand(len(prompts), -1, -1, -1), torch.full((len(prompts), 1), np.nan)
        else:
            embedded = self.base.embed(np.repeat(small[..., None], 3, axis=2))
            tensors = prompt_tensors(prompts, picture.size, embedded.frame, mask_side(self.base.sam), self.device)
            encoded = encode_prompts(self.base.sam, tensors)
            logits, quality = self(embedded.features, encoded, torch.tensor([condition], device=self.device))
        # the working square is stretched: back to the image's own proportions
        probability = F.interpolate(logits.float().sigmoid(), picture.size, mode="bilinear", align_corners=False)
        return Answer(probability[:, 0].cpu().numpy(), quality[:, 0].float().cpu().numpy())


def working_image(picture: media.Image, side: int) -> Float[np.ndarray, "side side"]:
    """Grey, from 0 for its darkest to 255 for its brightest pixel, stretched to a square (Sec. 3.2), bicubic."""
    grey = picture.grey().astype(np.float32)
    low, high = float(grey.min()), float(grey.max())
    return np.clip(resize((grey - low) / max(high - low, 1e-6) * 255, side), 0, 255).astype(np.float32)


def prompt_tensors(
    prompts: Sequence[Prompt], size: tuple[int, ...], frame: Frame, side: int, device: torch.device | str = "cpu"
) -> Tensors:
    """Prompts in pixels of an image of ``size`` (height, width) for SAM's square, by way of the working square."""
    sy, sx = frame.height / size[0], frame.width / size[1]
    moved = []
    for prompt in prompts:
        b, m = prompt.box, prompt.mask
        moved.append(
            Prompt(
                None if b is None else type(b)(b.x0 * sx, b.y0 * sy, b.x1 * sx, b.y1 * sy),
                tuple(Point(p.x * sx, p.y * sy, p.inside) for p in prompt.points),
                None if m is None else Mask(resize(m.inside, frame.height, "nearest")),
            )
        )
    return frame.tensors(moved, side, device)
