"""The frozen transformer with what is trained in and beside it, and how a user's photograph gets there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from zoo import media
from zoo.data.images import IMAGENET_MEAN, IMAGENET_STD, normalise, resize, rgb_bytes, to_tensor
from zoo.errors import OptionError, WeightsError
from zoo.hub import fetch_backbone
from zoo.model import Model
from zoo.models.avit import plugin
from zoo.models.avit.network import (
    TINY_SHAPE,
    WITH_NORMS,
    WITH_PROMPT,
    Decoder,
    Encoder,
    Method,
    PromptGenerator,
    Shape,
)
from zoo.models.avit.result import Lesion
from zoo.nn.backbones import timm_network
from zoo.weights import TENSORS

TINY = "tiny"
AT_ONCE = 16  # images in a batch of predict


@dataclass(frozen=True)
class AvitConfig:
    """The network, and which frozen transformer it belongs to; sizes are those of the demo's tiny ViT."""

    backbone: str = TINY  # or timm's name of a ViT or Swin
    commit: str = ""  # of the backbone's Hub repository; empty where the transformer lies in the weights themselves
    digest: str = ""  # of the transformer's tensors at that commit
    method: Method = "avit"
    shape: Shape = TINY_SHAPE
    size: int = field(default=96, metadata={"min": 32, "max": 1024})  # of the square input, px
    first: int | None = field(default=None, metadata={"min": 32, "max": 4096})
    """px of the square that images are brought to before ``size``, 512 in the authors' code; none: directly."""
    reduction: int = field(default=4, metadata={"min": 1, "max": 1024})  # r, Sec. 3
    skip: bool = True  # the adapter's own; none is printed, the authors' code has one
    tokens: int = field(default=100, metadata={"min": 1, "max": 10_000})  # of VPT, Sec. 3
    prompt_width: int = field(default=32, metadata={"min": 4, "max": 4096})
    prompt_blocks: int = field(default=1, metadata={"min": 1, "max": 64})
    rates: tuple[int, ...] = field(default=(6, 12, 18), metadata={"min": 1, "max": 64})  # of ASPP; not stated
    channels: int = field(default=32, metadata={"min": 4, "max": 4096})  # of ASPP
    head: int = field(default=16, metadata={"min": 4, "max": 4096})
    drop_path: float = field(default=0.2, metadata={"min": 0.0, "max": 0.9})  # while training; the authors' code
    mean: tuple[float, float, float] = field(default=IMAGENET_MEAN, metadata={"min": 0.0, "max": 1.0})
    std: tuple[float, float, float] = field(default=IMAGENET_STD, metadata={"min": 0.01, "max": 1.0})

    def __post_init__(self) -> None:
        if len(self.rates) != 3:
            raise ValueError("rates needs three dilations")
        if self.method == "vpt" and self.shape.is_swin:
            raise ValueError("vpt puts its tokens beside a class token, which a Swin doesn't have")

    @property
    def whole(self) -> bool:
        """Whether the weights hold the transformer too, not only what was trained beside it."""
        return not self.commit or self.method == "base"


class Avit(Model[Lesion]):
    """Weights hold what is trained: adapters, layer norms, prompt generator, decoder.

    The transformer of a public backbone is frozen, fetched at its commit when it's first needed, and no part of them.
    """

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = AvitConfig

    def __init__(self, config: AvitConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.encoder = Encoder(
            c.shape, c.method, reduction=c.reduction, skip=c.skip, tokens=c.tokens, drop_path=c.drop_path
        )
        prompted = c.method in WITH_PROMPT
        self.prompt = PromptGenerator(c.prompt_width, c.prompt_blocks) if prompted else None
        self.decoder = Decoder(
            c.shape.widths[-1], c.rates, c.channels, c.prompt_width if prompted else 0, c.head,
            plain=not prompted and not c.shape.is_swin,
        )  # fmt: skip
        self.vit = self.norms = None
        self._public: list[nn.Module] = []  # a list, so that torch takes it for no part of this module
        if c.whole:
            self.vit = bare(c.backbone, c.shape, c.size)
            for name, one in self.vit.named_parameters():
                one.requires_grad_(c.method == "base" or (c.method in WITH_NORMS and "norm" in name))
        elif c.method in WITH_NORMS:
            eps = 1e-5 if c.shape.is_swin else 1e-6  # timm's
            self.norms = nn.ModuleDict(
                {name.replace(".", "-"): nn.LayerNorm(width, eps=eps) for name, width in c.shape.norms().items()}
            )

    # ---- the transformer -------------------------------------------------------------------------------------------

    @property
    def transformer(self) -> nn.Module:
        """timm's ViT or Swin, with the trained norms in place.

        Raises ``WeightsError`` where a public one can't be had or is another than the weights were trained on.
        """
        if self.vit is not None:
            return self.vit
        if not self._public:
            c = self.config
            vit, _ = public(c.backbone, c.size, c.commit)
            if digest(vit) != c.digest:
                raise WeightsError(
                    f"{c.backbone} at commit {c.commit} is not what these weights of {plugin.name} were trained on; "
                    "get both again"
                )
            self.attach(vit)
        vit = self._public[0]
        if next(vit.parameters()).device != self.device:
            vit.to(self.device)
        return vit

    def attach(self, vit: nn.Module, *, start: bool = False) -> None:
        """Take a public transformer as the frozen one; ``start``: its layer norms are where training starts from."""
        if (found := shape_of(vit, self.config.backbone)) != self.config.shape:
            raise OptionError(f"{self.config.backbone} has the sizes {found}, these weights {self.config.shape}")
        vit.requires_grad_(False)
        for key, norm in (self.norms or {}).items():
            name = key.replace("-", ".")
            if start:
                norm.load_state_dict(vit.get_submodule(name).state_dict())
            vit.set_submodule(name, norm)
        self._public = [vit.eval()]

    # ---- the network -----------------------------------------------------------------------------------------------

    def forward(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 1 s s"]:
        """Logits of lesion. ``x``: normalised images of the network's size."""
        return self.decoder(self.encode(x), None if self.prompt is None else self.prompt(x), x.shape[-2:])

    def encode(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d g g"]:
        """V (Sec. 2.1): the transformer's last layer as a map."""
        return self.encoder(self.transformer, x)

    def normalised(self, views: UInt8[np.ndarray, "b s s 3"]) -> Float[Tensor, "b 3 s s"]:
        return normalise(to_tensor(views, self.device), self.config.mean, self.config.std)

    # ---- what a user asks ------------------------------------------------------------------------------------------

    def _predict(self, images: Sequence[media.Image], *, threshold: float, gt: Any) -> list[Lesion]:
        """Segment each image at the network's size and bring the probability back to the image's own."""
        truth = None if gt is None else media.read_labels(gt).require_2d("gt")
        found = []
        for start in range(0, len(images), AT_ONCE):
            some = images[start : start + AT_ONCE]
            views = np.stack([view_of(image, self.config) for image in some])
            maps = self(self.normalised(views)).sigmoid()[:, 0].float().cpu().numpy()
            found += [Lesion.of(image, one, threshold, truth) for image, one in zip(some, maps, strict=True)]
        return found

    def _network_features(self, images: Sequence[media.Image]) -> Float[Tensor, "n d"]:
        """V, averaged over the image."""
        views = np.stack([view_of(image, self.config) for image in images])
        return self.encode(self.normalised(views)).mean((2, 3))


def view_of(picture: media.Image, config: AvitConfig) -> UInt8[np.ndarray, "s s 3"]:
    """What the network sees: the whole image as a square (Sec. 3)."""
    rgb = rgb_bytes(picture.require_2d(plugin.name))
    if config.first is not None:
        rgb = resize(rgb, config.first)  # bicubic, as the authors stored their images
    return resize(rgb, config.size, "bilinear")


# ---- transformers ----------------------------------------------------------------------------------------------------


def bare(backbone: str, shape: Shape, size: int) -> nn.Module:
    """The transformer with random weights. Raises ``OptionError`` for a backbone that can't be adapted."""
    if backbone == TINY:
        from timm.models import VisionTransformer

        if size % shape.patch or shape.is_swin:
            raise OptionError(f"the tiny ViT has one stage, and patches of {shape.patch} px must fill {size} px")
        return VisionTransformer(
            size, shape.patch, num_classes=0, embed_dim=shape.width, depth=shape.depths[0], num_heads=shape.heads
        )
    vit = cut(timm_network(backbone, needed_by=plugin.name, num_classes=0, img_size=size))
    shape_of(vit, backbone)
    return vit


def public(backbone: str, size: int, commit: str = "") -> tuple[nn.Module, str]:
    """The transformer with the public weights of timm's ``backbone``, and the commit that they have on the Hub.

    Raises ``WeightsError`` where they can't be had, or there are none.
    """
    import timm

    try:
        card = timm.get_pretrained_cfg(backbone)
    except RuntimeError:  # an unknown tag
        card = None
    if card is None or not card.hf_hub_id:
        raise WeightsError(f"{plugin.name} starts from {backbone}, which has no public weights in timm; choose another")
    folder: Path = fetch_backbone(
        card.hf_hub_id, needed_by=plugin.name, revision=commit or None, files=("config.json", TENSORS)
    )
    overlay = {"file": str(folder / TENSORS), "custom_load": False}  # not in the format of the original release
    vit = cut(
        timm.create_model(backbone, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=size)
    )
    shape_of(vit, backbone)
    return vit, commit or folder.name  # a snapshot's folder is called by its commit


def cut(vit: Any) -> nn.Module:
    """A Swin without its fourth stage (Sec. 3); a ViT as it is."""
    if hasattr(vit, "layers") and len(vit.layers) > 1:
        vit.layers = vit.layers[:-1]
        vit.norm = vit.head = nn.Identity()
    return vit


def shape_of(vit: Any, name: str) -> Shape:
    """Raises ``OptionError`` for a network that is no plain ViT or Swin of timm's."""
    if hasattr(vit, "blocks") and hasattr(vit, "_pos_embed") and hasattr(vit, "norm_pre"):
        block = vit.blocks[0]
        scaled = not isinstance(getattr(block, "ls1", nn.Identity()), nn.Identity)
        if hasattr(block, "norm1") and hasattr(block, "mlp") and not scaled:
            return Shape((len(vit.blocks),), vit.embed_dim, block.attn.num_heads, vit.patch_embed.patch_size[0])
    elif hasattr(vit, "layers") and hasattr(vit.layers[0].blocks[0], "_attn"):
        depths = tuple(len(stage.blocks) for stage in vit.layers)
        heads = vit.layers[0].blocks[0].attn.num_heads
        return Shape(depths, vit.embed_dim, heads, vit.patch_embed.patch_size[0])
    raise OptionError(f"{plugin.name} adapts timm's plain ViTs and Swins, and {name} is neither; choose another")


def digest(vit: nn.Module) -> str:
    """Of all tensors of a transformer, names and values; before trained norms take their place."""
    found = hashlib.sha256()
    for name, tensor in sorted(vit.state_dict().items()):
        found.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()[:32]
