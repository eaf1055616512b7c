"""SurgicalSAM (Sec. 6): a frozen SAM encoder with low-rank updates, and a mask decoder with a token for every class.

Beside it the SAM that the paper studies (Sec. 3 and 5), asked by boxes, points or a grid; nothing of that is trained.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import SamModel

from zoo import media
from zoo.data.images import rgb_bytes
from zoo.errors import OptionError
from zoo.model import Model
from zoo.models.surgical_sam_lora import plugin
from zoo.models.surgical_sam_lora.result import Instruments
from zoo.nn.promptable import (
    SMALL,
    Box,
    DecoderConfig,
    Frame,
    Grid,
    OnSam,
    Point,
    Prompt,
    Promptable,
    PromptEmbeddings,
    all_masks,
    decode,
    encode_prompts,
    find_everything,
    fitted,
    load_sam,
    mask_side,
    near_box,
    new_decoder,
)

PHANTOM = ("grasper", "scissors", "hook")
Method = Literal["lora", "decoder-only", "u-net", "ternausnet"]


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder that the updates belong to; those of SAM's ViT-B."""

    layers: int = field(default=12, metadata={"min": 1, "max": 256})
    width: int = field(default=768, metadata={"min": 8, "max": 16_384})

    @classmethod
    def of(cls, sam: SamModel) -> EncoderConfig:
        config = sam.config.vision_config
        return cls(config.num_hidden_layers, config.hidden_size)


@dataclass(frozen=True)
class SurgicalSamConfig:
    """The network, and the two SAMs it stands on."""

    method: Method = "lora"
    """``decoder-only``: without the low-rank updates; ``u-net`` and ``ternausnet``: no SAM."""
    sam: str = "demo"  # that is adapted: a Hub id, a folder, or the SAM that comes with the zoo
    # side of its input, px; None for its own
    image_size: int | None = field(default=None, metadata={"min": 16, "max": 4096})
    prompted: str = "demo"  # that answers boxes, points and the grid
    grid: Grid = field(default_factory=Grid)  # of mode=amg
    classes: tuple[str, ...] = PHANTOM  # values 1, 2, ... of a mask; 0 is background
    rank: int = field(default=4, metadata={"min": 1, "max": 1024})  # r, Sec. 6
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(6, 96))
    decoder: DecoderConfig = SMALL
    unet_features: tuple[int, ...] = field(default=(32, 32, 64, 128, 256, 32), metadata={"min": 1, "max": 4096})

    def __post_init__(self) -> None:
        if not self.classes or len({*self.classes, "background"}) != len(self.classes) + 1:
            raise ValueError("classes must be one or more different names, none of them background")
        if len(self.classes) > 254:
            raise ValueError("a mask holds at most 254 classes")


class LowRank(nn.Module):
    """The update of one attention layer: W_A W_B x of its queries and of its values (Eq. 1); keys stay as they are."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down_q, self.down_v = (nn.Linear(width, rank, bias=False) for _ in range(2))  # W_A
        self.up_q, self.up_v = (nn.Linear(rank, width, bias=False) for _ in range(2))  # W_B
        for down, up in ((self.down_q, self.up_q), (self.down_v, self.up_v)):
            nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
            nn.init.zeros_(up.weight)  # training starts from SAM as it is

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n 3*c"]:
        q, v = self.up_q(self.down_q(x)), self.up_v(self.down_v(x))
        return torch.cat([q, torch.zeros_like(q), v], dim=-1)

    def matrix(self) -> Float[Tensor, "k c"]:
        """The update as one matrix, to add to the weights of ``qkv``."""
        q, v = self.up_q.weight @ self.down_q.weight, self.up_v.weight @ self.down_v.weight
        return torch.cat([q, torch.zeros_like(q), v])


class Adapted(nn.Module):
    """SAM's ``qkv`` layer with an update: W_enc x + dW x (Eq. 1)."""

    def __init__(self, frozen: nn.Linear, update: LowRank) -> None:
        super().__init__()
        self.frozen, self.update = frozen, update

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n 3*c"]:
        return self.frozen(x) + self.update(x)


class SurgicalSam(OnSam, Model[Instruments]):
    """What is trained: updates, default prompt and mask decoder. The two SAMs are frozen and no part of the weights.

    Of the prompt encoder, only the embedding for "no prompt" (h_default) is ever read, so that is what is kept of it.
    """

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = SurgicalSamConfig

    def __init__(self, config: SurgicalSamConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.updates = self.decoder = self.default = self.plain = None
        if c.method in ("u-net", "ternausnet"):
            from zoo.models.surgical_sam_lora.baselines import TernausNet, u_net

            outputs = len(c.classes) + 1
            self.plain = TernausNet(outputs) if c.method == "ternausnet" else u_net(outputs, c.unet_features)
        else:
            self.decoder = new_decoder(c.decoder, tokens=len(c.classes) + 1)  # one for each class and the background
            self.default = nn.Parameter(torch.zeros(c.decoder.channels))
            if c.method == "lora":
                self.updates = nn.ModuleList(LowRank(c.encoder.width, c.rank) for _ in range(c.encoder.layers))
        self._prompted: Promptable | None = None

    # ---- the two SAMs ----------------------------------------------------------------------------------------------

    def _take(self, sam: SamModel) -> None:
        """The updates become a part of its encoder."""
        c = self.config
        if (EncoderConfig.of(sam), DecoderConfig.of(sam)) != (c.encoder, c.decoder):
            raise OptionError(
                f"these weights of {plugin.name} are for a SAM of other sizes than {c.sam}; "
                "train them on the SAM that they are to be used with"
            )
        if self.updates is not None:
            for layer, update in zip(sam.vision_encoder.layers, self.updates, strict=True):
                assert isinstance(update, LowRank)
                layer.attn.qkv = Adapted(layer.attn.qkv, update)

    @property
    def prompted(self) -> Promptable:
        """The SAM that answers prompts, as it was published. Raises ``WeightsError`` when it can't be had."""
        if self._prompted is None:
            self._prompted = Promptable(load_sam(self.config.prompted, needed_by=plugin.name))
        if self._prompted.device != self.device:
            self._prompted.sam.to(self.device)
        return self._prompted

    def merged(self) -> SamModel:
        """The base SAM with the updates added to its weights, for an encoder that costs no more than SAM's own."""
        sam = copy.deepcopy(self.base.sam)
        for layer in sam.vision_encoder.layers:
            if isinstance(layer.attn.qkv, Adapted):
                adapted = layer.attn.qkv
                with torch.no_grad():
                    adapted.frozen.weight.add_(adapted.update.matrix())
                layer.attn.qkv = adapted.frozen
        return sam

    # ---- the network -----------------------------------------------------------------------------------------------

    @property
    def side(self) -> int:
        """Of the square that every frame is brought to, px."""
        if self.plain is not None:
            return self.config.image_size or 256
        return self.base.size

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b k m m"]:
        """Logits of background and classes, of frames as :func:`pixels_of` makes them; SAM's are a quarter as large."""
        if self.plain is not None:
            return self.plain(pixels)
        assert self.decoder is not None
        assert self.default is not None
        sam = self.base.sam
        features = sam.vision_encoder(pixels).last_hidden_state  # h_image, Eq. 1
        b, _, g, _g = features.shape
        dense = self.default[None, :, None, None].expand(b, -1, g, g)  # h_default: no prompt
        prompts = PromptEmbeddings(features.new_zeros(1, b, 0, features.shape[1]), dense)
        return all_masks(sam, features, prompts, decoder=self.decoder).logits

    # ---- predict ---------------------------------------------------------------------------------------------------

    def _predict(
        self,
        images: Sequence[media.Image],
        *,
        mode: str | None,
        box: Sequence[Sequence[float]] | None,
        point: Sequence[Sequence[float]] | None,
        label: Sequence[str] | None,
    ) -> list[Instruments]:
        """Raises ``OptionError`` for prompts that don't go with the mode, or beside the image."""
        prompts = prompts_of(mode, box, point, label)
        mode = mode or ("box" if box else "point" if point else "auto")
        if mode == "auto":
            return [self._by_class(image) for image in images]
        if mode == "amg":
            return [self._everything(image) for image in images]
        return [self._marked(image, mode, prompts, label) for image in images]

    def _by_class(self, picture: media.Image) -> Instruments:
        logits = self(pixels_of(picture, self.side, self.device))
        full = F.interpolate(logits.float(), picture.size, mode="bilinear", align_corners=False)[0]
        return Instruments(
            image=picture,
            mask=full.argmax(0).to(torch.uint8).cpu().numpy(),
            labels=("background", *self.config.classes),
            probability=full.softmax(0).cpu().numpy(),
            mode="auto",
            options={"mode": "auto"},
        )

    def _marked(
        self, picture: media.Image, mode: str, prompts: Sequence[Prompt], label: Sequence[str] | None
    ) -> Instruments:
        """One mask for each prompt (Sec. 3). Where masks overlap, the pixel is of the one with the higher logit."""
        prompts, cut = fitted(prompts, *picture.size)
        base = self.prompted
        image = base.embed(rgb_bytes(picture))
        encoded = encode_prompts(base.sam, image.frame.tensors(prompts, mask_side(base.sam), self.device))
        low, quality = decode(base.sam, image.features, encoded, multimask=mode == "point")
        best = quality.argmax(1)  # a point may mean a part or the whole: the mask of which SAM expects most
        rows = torch.arange(len(best), device=best.device)
        logits = image.frame.logits(low[rows, best][:, None].float())[:, 0]
        names = list(label) if label else [f"{mode} {i}" for i in range(1, len(prompts) + 1)]
        labels = ("background", *dict.fromkeys(names))
        values = torch.tensor([labels.index(name) for name in names], device=logits.device)
        highest, which = logits.max(0)
        mask = torch.where(highest > 0, values[which], 0).to(torch.uint8).cpu().numpy()
        expected = quality[rows, best].float().cpu().tolist()
        return Instruments(
            image=picture,
            mask=mask,
            labels=labels,
            probability=highest.sigmoid().cpu().numpy(),
            mode=mode,
            prompts=tuple(prompts),
            quality={
                f"{i}: {name}": value for i, (name, value) in enumerate(zip(names, expected, strict=True), start=1)
            },
            notes=(*cut, *doubts_of(names, prompts, logits > 0)),
            options={"mode": mode},
        )

    def _everything(self, picture: media.Image) -> Instruments:
        """All that the plain SAM tells apart, large masks below small ones (Sec. 5); colours mean nothing."""
        found = sorted(
            find_everything(self.prompted, rgb_bytes(picture), self.config.grid)[:254], key=lambda one: -one.area
        )
        mask = np.zeros(picture.size, np.uint8)
        for i, one in enumerate(found, start=1):
            mask[one.full()] = i
        return Instruments(
            image=picture,
            mask=mask,
            labels=("background", *(f"mask {i}" for i in range(1, len(found) + 1))),
            mode="amg",
            quality={f"mask {i}": float(one.quality) for i, one in enumerate(found, start=1)},
            notes=() if found else ("SAM found nothing that it can tell apart",),
            options={"mode": "amg"},
        )


def pixels_of(picture: media.Image, side: int, device: torch.device | str = "cpu") -> Float[Tensor, "1 3 s s"]:
    """A frame as the encoder wants it: squashed to a square of ``side`` px, as in Sec. 6, SAM's mean and deviation."""
    rgb = torch.from_numpy(np.ascontiguousarray(rgb_bytes(picture))).to(device)
    height, width = picture.size
    return Frame(height, width, side, "stretch").pixels(rgb)


def prompts_of(
    mode: str | None,
    box: Sequence[Sequence[float]] | None,
    point: Sequence[Sequence[float]] | None,
    label: Sequence[str] | None,
) -> tuple[Prompt, ...]:
    """A prompt for each instrument. Raises ``OptionError`` where mode, boxes, points and labels don't go together."""
    if box and point:
        raise OptionError("give boxes or points, not both; each of them marks one instrument")
    given = box or point or ()
    kind = "box" if box else "point"
    if mode in ("auto", "amg") and (given or label):
        raise OptionError(f"mode={mode} takes no prompts; leave out mode, or the {kind if given else 'label'}")
    if mode in ("box", "point") and not given:
        raise OptionError(
            f"mode={mode} needs at least one {mode}; add --with {mode}={'x0,y0,x1,y1' if mode == 'box' else 'x,y'}"
        )
    if given and mode and mode != kind:
        raise OptionError(f"mode={mode} takes no {kind}; leave out mode")
    if label and not given:
        raise OptionError("a label needs its box or point; add --with box=x0,y0,x1,y1")
    if label is not None and len(label) != len(given):
        raise OptionError(f"there are {len(given)} boxes or points and {len(label)} labels; give one label for each")
    if len(given) > 254:
        raise OptionError(f"at most 254 boxes or points fit into one mask, not {len(given)}")
    if box:
        return tuple(Prompt(Box(*map(float, one))) for one in given)
    return tuple(Prompt(points=(Point(float(x), float(y)),)) for x, y in given)


def doubts_of(names: Sequence[str], prompts: Sequence[Prompt], masks: Bool[Tensor, "n h w"]) -> list[str]:
    """A note for every prompt whose mask is empty, or lies mostly beyond its box."""
    notes = []
    for name, prompt, mask in zip(names, prompts, masks.cpu().numpy(), strict=True):
        if not mask.any():
            notes.append(f"nothing was found for {name}")
        elif (share := float(mask[~near_box(mask.shape, prompt)].sum() / mask.sum())) > 0.5:
            notes.append(f"{share:.0%} of the mask of {name} lies beyond its box, which may hold no instrument")
    return notes
