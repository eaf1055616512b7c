"""A frozen SAM, the condition-embedding block between its encoder and its mask decoder, and how a user asks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zoo import media
from zoo.data.images import Resample, place_of, resize
from zoo.errors import OptionError
from zoo.model import Model
from zoo.models.cemb_sam import plugin
from zoo.models.cemb_sam.block import ConditionEmbedding, Reading
from zoo.models.cemb_sam.condition import ConditionHead, around_box, as_shares
from zoo.models.cemb_sam.result import SURE, Answer, PromptedSegmentation
from zoo.nn.promptable import (
    SMALL,
    DecoderConfig,
    Embedded,
    Frame,
    Mask,
    OnSam,
    Point,
    Prompt,
    PromptEmbeddings,
    decode,
    encode_prompts,
    fitted,
    mask_side,
    new_decoder,
    prompts_from,
)
from zoo.nn.promptable.frame import MEAN, STD, Tensors

BUSI = ("benign", "malignant", "normal")
NEVER = 0.01  # below which a condition isn't even tried
NERVE = ("FH", "FN", "FN+1", "FN+2", "FN+3", "FN+4", "ulnar")
Method = Literal["cemb-sam", "decoder-only", "zero-shot", "u-net"]


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
    reading: Reading = "paper"  # of the block, and of what SAM's encoder is fed (`released`: 0 to 255, not normalised)
    infers: bool = False  # whether there is a head that infers the condition
    # from which a pixel counts when a user doesn't say; the authors' code cuts the logits at 0.5
    threshold: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    decoder: DecoderConfig = SMALL
    # every image is brought to this square first
    working_size: int = field(default=256, metadata={"min": 32, "max": 8192})
    gamma_offset: float = field(default=1.0, metadata={"min": -100.0, "max": 100.0})
    """Added to gamma, so that the block starts as instance normalisation; 0 is the formula as printed. Not released."""
    residual: bool = False  # add the block's input to its output; not in the paper
    sam_share: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    """How much the frozen SAM's own logits count beside the trained decoder's in an answer; not in the paper."""
    # of monai's BasicUNet
    unet_features: tuple[int, ...] = field(default=(32, 32, 64, 128, 256, 32), metadata={"min": 1, "max": 4096})

    def __post_init__(self) -> None:
        if not self.conditions or len(set(self.conditions)) != len(self.conditions):
            raise ValueError("conditions must be one or more different names")


class CEmbSam(OnSam, Model[PromptedSegmentation]):
    """What is trained: the block and the mask decoder. SAM's encoders stay frozen and are not part of the weights."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = CEmbSamConfig

    def __init__(self, config: CEmbSamConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.block = self.decoder = self.unet = self.head = None
        if c.method == "u-net":
            from monai.networks.nets import BasicUNet

            self.unet = BasicUNet(spatial_dims=2, in_channels=1, out_channels=1, features=c.unet_features)
            return
        self.decoder = new_decoder(c.decoder)
        if c.method == "cemb-sam":
            m = len(c.conditions)
            self.block = ConditionEmbedding(
                c.decoder.channels, m, reading=c.reading, gamma_offset=c.gamma_offset, residual=c.residual
            )
            self.head = ConditionHead(c.decoder.channels, m) if c.infers else None

    def forward(
        self,
        features: Float[Tensor, "#n c g g"],
        prompts: PromptEmbeddings | None,
        condition: Int[Tensor, " #n"] | None,
    ) -> tuple[Float[Tensor, "n 1 m m"], Float[Tensor, "n 1"]]:
        """Low-resolution logits of ``n`` objects and their expected IoU (NaN, if nothing is expected).

        ``features``: the encoder's; of the U-Net the image itself in [0, 1], with neither prompts nor condition.
        """
        if self.unet is not None:
            return self.unet(features), features.new_full((len(features), 1), torch.nan)
        assert prompts is not None
        if self.block is not None:
            features = self.block(features, condition)
        return decode(self.base.sam, features, prompts, decoder=self.decoder)

    def embed(self, grey: Float[np.ndarray, "s s"]) -> Embedded:
        """The frozen encoder's view of a working image, from the cache if it was seen before."""
        rgb = np.repeat(grey[..., None], 3, axis=2)
        if self.config.reading == "released":  # the encoder's own normalisation undone: it gets 0 to 255
            rgb = (rgb * np.array(STD) + np.array(MEAN)).astype(np.float32)
        return self.base.embed(rgb)

    def _predict(
        self,
        images: Sequence[media.Image],
        *,
        box: Sequence[Sequence[float]],
        point: Sequence[Sequence[float]] | None,
        background: Sequence[Sequence[float]] | None,
        mask: Any,
        condition: str | None,
        threshold: float | None,
    ) -> list[PromptedSegmentation]:
        """Segment what lies in each box; an image is encoded once for all its boxes.

        ``condition``: the sub-group, by name or number. Without it the head infers it; where it isn't sure, or there is
        none, the mask is the mean of those under each condition, weighted by how probable they are.
        Raises ``OptionError`` for a prompt beside the image and an unknown condition.
        """
        given = self._condition(condition)
        hint = None if mask is None else media.read_labels(mask).require_2d(self.plugin.name)
        inside = None if hint is None else hint.array > 0
        prompts = prompts_from(box, point, background, inside)
        cut = self.config.threshold if threshold is None else threshold
        found = [self._segmented(image, prompts, given, cut) for image in images]
        for one in found:
            one.notes = (*one.notes, *(hint.notes if hint else ()))
            one.options["threshold"] = cut
        return found

    def _segmented(
        self, picture: media.Image, prompts: tuple[Prompt, ...], given: int | None, threshold: float
    ) -> PromptedSegmentation:
        prompts, clipped = fitted(prompts, *picture.size)
        names = self.config.conditions if self.block is not None else ("",)
        small = working_image(picture, self.config)
        embedded = None if self.unet is not None else self.embed(small)
        known, notes = np.ones(1), clipped
        if self.block is None:
            if given is not None:
                notes.append(f"{self.config.method} knows no conditions: {self.config.conditions[given]} was not used")
        elif given is not None:
            known = np.eye(len(names))[given]
        else:
            known = self._inferred(embedded, prompts, picture.size)
            notes.append(said_of(names, known))
        answers = {
            name: self._answer(picture.size, small, embedded, prompts, c)
            for c, name in enumerate(names)
            if known[c] > NEVER
        }
        if any(prompt.points or prompt.mask is not None for prompt in prompts):
            notes.append("trained with boxes alone: points and masks may help less than expected")
        return PromptedSegmentation.of(
            picture,
            prompts,
            answers,
            known={name: float(share) for name, share in zip(names, known, strict=True)},
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

    def _inferred(
        self, embedded: Embedded | None, prompts: Sequence[Prompt], size: tuple[int, ...]
    ) -> Float[np.ndarray, " m"]:
        """How probable each condition is, from all boxes together; all alike, where there is no head."""
        m = len(self.config.conditions)
        if self.head is None or embedded is None:
            return np.full(m, 1 / m)
        boxes = as_shares([(p.box.x0, p.box.y0, p.box.x1, p.box.y1) for p in prompts if p.box is not None], size)
        views = around_box(embedded.features, boxes.to(self.device))
        return self.head(views).mean(0).softmax(0).double().cpu().numpy()

    def _answer(
        self,
        size: tuple[int, ...],
        small: Float[np.ndarray, "s s"],
        embedded: Embedded | None,
        prompts: Sequence[Prompt],
        condition: int,
    ) -> Answer:
        if embedded is None:
            x = torch.from_numpy(small).to(self.device)[None, None] / 255
            logits, quality = (each.expand(len(prompts), *each.shape[1:]) for each in self(x, None, None))
        else:
            tensors = prompt_tensors(prompts, size, embedded.frame, mask_side(self.base.sam), self.device)
            encoded = encode_prompts(self.base.sam, tensors)
            logits, quality = self(embedded.features, encoded, torch.tensor([condition], device=self.device))
            if self.config.sam_share:
                logits = logits.lerp(decode(self.base.sam, embedded.features, encoded)[0], self.config.sam_share)
        # the working square is stretched: back to the image's own proportions
        probability = F.interpolate(logits.float().sigmoid(), size, mode="bilinear", align_corners=False)
        return Answer(probability[:, 0].cpu().numpy(), quality[:, 0].float().cpu().numpy())


def said_of(names: Sequence[str], known: Float[np.ndarray, " m"]) -> str:
    """What a user is told of a condition that wasn't given."""
    best, say = int(known.argmax()), f"say it with condition={'|'.join(names)}"
    if known[best] >= SURE:
        return f"condition inferred: {names[best]} ({100 * known[best]:.0f} %); {say}"
    likely = ", ".join(f"{names[c]} {100 * known[c]:.0f} %" for c in np.argsort(-known) if known[c] > NEVER)
    return f"condition not known ({likely}): the mask is their weighted mean; {say}"


def working_image(picture: media.Image, config: CEmbSamConfig) -> Float[np.ndarray, "s s"]:
    """Grey, from 0 for its darkest to 255 for its brightest pixel, stretched to a square (Sec. 3.2).

    Bicubic; bilinear as released.
    """
    side = config.working_size
    resample: Resample = "bilinear" if config.reading == "released" else "bicubic"
    grey = picture.grey().astype(np.float32)
    low, high = float(grey.min()), float(grey.max())
    return np.clip(resize((grey - low) / max(high - low, 1e-6) * 255, side, resample), 0, 255).astype(np.float32)


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
