"""Image classifiers as starting points: timm and torchvision by name, their normalisation, a small encoder for demos.

    encoder = build("resnet18", needed_by="my-model")                                  # [b 3 h w] -> [b 512]
    encoder = build("densenet169.tv_in1k", needed_by="my-model", pooled=False, pretrained=True)   # a feature map
    encoder = build("small", needed_by="my-model", channels=(16, 32, 64))              # trains in minutes on a CPU

Names are timm's (``resnet18``, with a tag where weights are meant: ``resnet18.tv_in1k``) or a Hub id of a timm network
(``hf-hub:ORG/NAME``). Weights are fetched only for ``pretrained=True``, through :mod:`zoo.hub`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.data.images import IMAGENET_MEAN, IMAGENET_STD, normalise
from zoo.errors import MissingExtraError, WeightsError

EXTRA = "backbones"


class Small(nn.Sequential):
    """3 x 3 convolutions with batch norm and ReLU, of stride 2 unless ``strides`` says otherwise."""

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int] | None = None, *, pooled: bool = True, inputs: int = 3
    ) -> None:
        strides = [2] * len(channels) if strides is None else strides
        layers: list[nn.Module] = []
        for before, after, stride in zip((inputs, *channels[:-1]), channels, strides, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers)
        self.width = channels[-1]
        self.pooled = pooled

    def features(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c h2 w2"]:
        return super().forward(x)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c"] | Float[Tensor, "b c h2 w2"]:
        """The mean over positions if ``pooled``, else the feature map."""
        return self.features(x).mean((2, 3)) if self.pooled else self.features(x)


class Backbone(nn.Module):
    """A timm network without its classifier; ``net`` is timm's own module."""

    def __init__(self, net: Any, *, pooled: bool = True) -> None:
        super().__init__()
        for name in ("pre_logits", "head", "classifier", "fc", "global_pool"):
            if hasattr(net, name):
                setattr(net, name, nn.Identity())
        self.net = net
        self.pooled = pooled

    @property
    def width(self) -> int:
        """c, of the feature map."""
        return channels(self.net.pretrained_cfg["architecture"])

    def features(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.net.forward_features(x)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"] | Float[Tensor, "b c h2 w2"]:
        """The mean over positions if ``pooled``, else the feature map."""
        return self.features(x).mean((2, 3)) if self.pooled else self.features(x)


class LinearClassifier(nn.Module):
    """A backbone that gives maps of so many channels, global average pooling, one linear layer."""

    def __init__(self, backbone: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(channels, classes)

    def pooled(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t"]:
        return self.backbone(x).mean((2, 3))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.head(self.pooled(x))

    def probabilities(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self(x).softmax(1)


def build(
    name: str,
    *,
    needed_by: str,
    pretrained: bool = False,
    pooled: bool = True,
    channels: Sequence[int] = (24, 32, 48, 64),
    strides: Sequence[int] | None = None,
    bare: bool = False,
    **options: Any,
) -> Small | Backbone:
    """A convolutional network from images to vectors, or to a feature map (``pooled=False``).

    ``bare``: the map is that of the last layer with weights, without VGG's last pooling or DenseNet's last activation.

    ``small`` is :class:`Small` with ``channels`` and ``strides``, which has no pretrained weights; any other name is
    timm's, and ``options`` go to ``timm.create_model``. Raises ``MissingExtraError`` without timm, and ``WeightsError``
    where pretrained weights can't be had.
    """
    if name == "small":
        return Small(channels, strides, pooled=pooled)
    net: Any = timm_network(name, needed_by=needed_by, pretrained=pretrained, **options)
    if bare and isinstance(features := getattr(net, "features", None), nn.Sequential):
        if isinstance(features[-1], nn.MaxPool2d):
            features[-1] = nn.Identity()
        elif hasattr(features[-1], "act"):
            features[-1].act = nn.Identity()
    return Backbone(net, pooled=pooled)


def timm_network(name: str, *, needed_by: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """``timm.create_model(name, **options)`` as it is; ``pretrained`` with the weights of its tag, through zoo.hub."""
    timm = _timm(name)
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    from zoo.hub import timm_backbone

    return timm_backbone(name, needed_by=needed_by, **options)


def torchvision_network(name: str, **options: Any) -> nn.Module:
    """``torchvision.models``' network of that name with random weights. Raises ``MissingExtraError``."""
    try:
        import torchvision
    except ImportError:
        raise MissingExtraError(f"the architecture {name}", "torchvision", EXTRA) from None
    return torchvision.models.get_model(name, weights=None, **options)


class ClipImages(nn.Module):
    """CLIP's image embedding, for images that were normalised by ImageNet's statistics."""

    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        column = (1, 3, 1, 1)
        rgb = x * x.new_tensor(IMAGENET_STD).view(column) + x.new_tensor(IMAGENET_MEAN).view(column)
        rgb = F.interpolate(rgb, size=(224, 224), mode="bicubic", align_corners=False)
        return self.clip(pixel_values=normalise(rgb, self.mean, self.std)).image_embeds


def clip_images(where: str, *, needed_by: str, what: str = "the backbone") -> ClipImages:
    """CLIP's image encoder from a folder, or from the Hub (``hf-hub:ORG/NAME``), in evaluation mode.

    Raises ``MissingExtraError`` without transformers, ``WeightsError`` for a folder of anything else, as ``what``.
    """
    try:
        from transformers import CLIPVisionModelWithProjection
    except ImportError:
        raise MissingExtraError(needed_by, "transformers", "text") from None
    from zoo.hub import foreign_config, transformers_backbone

    if where.startswith("hf-hub:"):
        name = where.removeprefix("hf-hub:")
        return ClipImages(transformers_backbone(CLIPVisionModelWithProjection, name, needed_by=needed_by)).eval()
    try:
        config = foreign_config(CLIPVisionModelWithProjection.config_class, where)
        net = CLIPVisionModelWithProjection.from_pretrained(
            where, config=config, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, WeightsError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{what} {where} is no folder of CLIP weights: {reason}") from None
    return ClipImages(net).eval()


def encoder_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The query encoder of a MoCo checkpoint without its contrastive head; other state dicts stay as they are."""
    prefix = "module.encoder_q."
    if any(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return {name: t for name, t in tensors.items() if not name.startswith("fc.")}


@cache
def channels(name: str) -> int:
    """Of the last feature map of timm's network ``name``; nothing is fetched, and no memory taken."""
    timm = _timm(name)
    with torch.device("meta"):
        net = Backbone(timm.create_model(name, pretrained=False), pooled=False).eval()
        size = timm.data.resolve_data_config({}, model=net.net)["input_size"]
        return net.features(torch.zeros(1, *size)).shape[1]


@cache
def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, by channel and of [0, 1], that the weights of timm's ``name`` were trained with.

    ImageNet's for ``small`` and for names without public weights.
    """
    card = None if name == "small" else _timm(name).get_pretrained_cfg(name)
    return (IMAGENET_MEAN, IMAGENET_STD) if card is None else (tuple(card.mean), tuple(card.std))


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError:
        raise MissingExtraError(f"the backbone {name}", "timm", EXTRA) from None
    return timm
