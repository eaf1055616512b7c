"""The frozen prior f, and the paper's mathematics: how far a network is from it, and who needs rescue for that.

f is a network trained without labels, the same on every client, evaluated once per image. Distance, its mean by class
and the rescue factor are Eq. 1 to 3; the server's weights RF_c / sum RF (Eq. 5) are ``metric:rescue_factor``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from zoo.data.augment import Crops
from zoo.data.features import FeatureCache, content_key, weights_key
from zoo.errors import WeightsError
from zoo.models.fed_mas import plugin
from zoo.nn.backbones import Small, clip_images, encoder_tensors, timm_network
from zoo.storage import user_path, write_file

CLIP_REPOSITORY = "hf-hub:openai/clip-vit-base-patch32"
WIDTHS = {"moco": 2048, "clip": 512}
VIEWS = Crops(area=(0.4, 1.0), jitter=0.3, tint=0.2)  # of one image, for the small prior


@dataclass(frozen=True)
class PriorConfig:
    """Which frozen network, and where its weights are."""

    kind: Literal["moco", "clip", "small", "none"] = "moco"
    """``moco``: a ResNet-50 by MoCo v2 (Sec. 3), features before its contrastive head. ``clip``: CLIP's image encoder
    (Table 5). ``small``: a few convolutions that are trained here without labels. ``none``: no distillation."""
    path: str = ""  # moco: a .safetensors file; clip: a folder (default: from the Hub); small: a folder of ``save``
    channels: tuple[int, ...] = field(default=(24, 32, 48, 64), metadata={"min": 1, "max": 4096})  # of ``small``

    @property
    def width(self) -> int:
        """d, of a feature."""
        return WIDTHS.get(self.kind, self.channels[-1])


def build_prior(config: PriorConfig) -> nn.Module:
    """The prior's network with random weights, in evaluation mode. Raises ``MissingExtraError``."""
    if config.kind == "small":
        return small_encoder(config.channels).eval()
    if config.kind == "moco":
        return timm_network("resnet50", needed_by=f"{plugin.name} with a MoCo prior", num_classes=0).eval()
    raise ValueError(f"there is no network to build for the prior {config.kind!r}")


def small_encoder(channels: tuple[int, ...]) -> Small:
    """All but the last convolution of stride 2."""
    return Small(channels, [2] * (len(channels) - 1) + [1])


def load_prior(config: PriorConfig) -> nn.Module:
    """The frozen prior with its weights. Raises ``WeightsError`` when they're missing or of another network."""
    if config.kind == "clip":
        where = config.path or CLIP_REPOSITORY
        return clip_images(where, needed_by=f"{plugin.name} with a CLIP prior", what="the prior").requires_grad_(False)
    if not config.path:
        raise WeightsError(
            f"the prior {config.kind} needs its weights; give the file with --set network.prior.path=PATH, or choose "
            "--set network.prior.kind=clip, which comes from the Hub"
        )
    path = user_path(config.path, WeightsError)
    path = path / "prior.safetensors" if path.is_dir() else path
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"the prior {path} is not a .safetensors file; convert a checkpoint once with "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True)['state_dict'], OUT)"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"the prior {path} can't be read: {error}") from error
    prior = build_prior(config)
    try:
        prior.load_state_dict(encoder_tensors(tensors))
    except RuntimeError as error:
        network = "a ResNet-50" if config.kind == "moco" else f"the small prior with channels {config.channels}"
        raise WeightsError(f"{path} doesn't hold the weights of {network}") from error
    return prior.requires_grad_(False)


@torch.inference_mode()
def prior_features(
    prior: nn.Module, views: UInt8[Tensor, "n 3 s s"], prepare: Callable[[Tensor], Tensor], folder: Path | None = None
) -> Float[Tensor, "n d"]:
    """Unit features of images without augmentation, in half precision (Sec. 2: they can be pre-computed).

    ``folder``: where they're kept between runs, one file per image.
    """
    cache, weights, device = FeatureCache(folder, half=True), weights_key(prior), next(prior.parameters()).device

    def features(places: list[int]) -> Float[Tensor, "b d"]:
        return F.normalize(prior(prepare(views[places].to(device))), dim=1).cpu()

    return cache.get_all([content_key(image, weights) for image in views], features, batch_size=64)


def save_prior(prior: nn.Module, folder: Path) -> Path:
    """Write ``prior.safetensors`` to ``folder``."""
    from safetensors.torch import save

    tensors = {name: tensor.cpu().contiguous() for name, tensor in prior.state_dict().items()}
    return write_file(folder / "prior.safetensors", save(tensors))


def prior_distance(y: Float[Tensor, "b d"], prior: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """L_f = 2 - 2 <y, y'> of unit vectors, in [0, 4] (Eq. 1).

    ``y`` is the projection MLP(g(x)), ``prior`` the frozen network's feature; both are scaled to unit length here.
    """
    return 2 - 2 * (F.normalize(y, dim=1) * F.normalize(prior, dim=1)).sum(1)


class ClassMeans:
    """Running mean of a number by class (Eq. 2): L_k for the classes seen, 0 for the others.

    ``of``: the images of each class, by which sums are divided although not all may be seen, as released.
    """

    def __init__(self, classes: int, of: Int[Tensor, " k"] | None = None) -> None:
        self.sums, self.counts, self.of = torch.zeros(classes), torch.zeros(classes), of

    def add(self, values: Float[Tensor, " b"], labels: Int[Tensor, " b"]) -> None:
        values, labels = values.detach().cpu().float(), labels.cpu()
        self.sums.index_add_(0, labels, values)
        self.counts.index_add_(0, labels, torch.ones_like(values))

    @property
    def means(self) -> Float[Tensor, " k"]:
        return self.sums / (self.counts if self.of is None else self.of).clamp(min=1)


@torch.no_grad()
def class_distances(project: Callable[[Tensor], Float[Tensor, "b d"]], shard: Any, classes: int) -> Float[Tensor, " k"]:
    """w_k: mean distance to the prior by class, of images without augmentation; 0 for absent classes.

    ``project``: from images to MLP(g(x)). ``shard``: images ``x``, their labels ``y`` and ``prior`` features.
    """
    means = ClassMeans(classes)
    for places in torch.arange(len(shard.y)).split(128):
        projected = project(shard.x[places])
        means.add(prior_distance(projected, shard.prior[places].to(projected.device)), shard.y[places])
    return means.means


def rescue_factor(w: Float[Tensor, " k"], w_hat: Float[Tensor, " k"], norm: str = "sum") -> float:
    """RF = sum_k w_k w^_k (Eq. 3), at least 0.

    ``w``: class means of the received model, ``w_hat``: those seen during training, summed over epochs. ``norm``:
    ``sum`` as printed, by which clients with more classes count more, or ``shares``, as released: both are divided by
    their sums first, so that clients with fewer classes do.
    """
    total = float((w * w_hat).sum())
    return total / max(float(w.sum() * w_hat.sum()), 1e-12) if norm == "shares" else total
