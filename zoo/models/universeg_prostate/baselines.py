"""What the paper compares UniverSeg with: a 2-D U-Net that is trained on the labelled volumes (Sec. 3.3).

nnU-Net's recipe in MONAI's terms: ``DynUNet`` with instance normalisation and deep supervision, Dice + cross-entropy,
SGD with a polynomial rate, its augmentations, mirroring, and the mean over folds of the training slices. The larger
network is the one that nnU-Net configured for the paper; the smaller has its widths / 4 and UniverSeg's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from zoo.errors import MissingExtraError
from zoo.nn.losses import dice_ce
from zoo.training import Run

LARGE = (32, 64, 128, 256, 512, 512)
SMALL = (8, 16, 32, 64, 128, 128)  # the paper's appendix with its details is missing; this size matches its 1.3 M


@dataclass(frozen=True)
class NnUNetRecipe:
    """nnU-Net's defaults (F. Isensee et al., Nature Methods 18, 2021); the paper says that it kept them."""

    folds: int = field(default=5, metadata={"min": 1, "max": 16})  # Sec. 3.3
    steps: int = field(default=250_000, metadata={"min": 1, "max": 10_000_000})  # 1000 epochs of 250
    batch_size: int = field(default=12, metadata={"min": 1, "max": 4096})
    lr: float = field(default=0.01, metadata={"min": 0.0, "max": 10.0})
    momentum: float = field(default=0.99, metadata={"min": 0.0, "max": 1.0})
    weight_decay: float = field(default=3e-5, metadata={"min": 0.0, "max": 1.0})
    augment: bool = True


def unet(channels: Sequence[int]) -> nn.Module:
    """A plain U-Net with two convolutions a level. Raises ``MissingExtraError`` without MONAI."""
    try:
        from monai.networks.nets import DynUNet
    except ImportError:
        raise MissingExtraError("a U-Net", "monai", "volumes") from None
    n = len(channels)
    return DynUNet(
        2, 1, 2, [3] * n, [1] + [2] * (n - 1), [2] * (n - 1), filters=list(channels),
        norm_name=("INSTANCE", {"affine": True}), deep_supervision=n > 2, deep_supr_num=max(1, n - 2),
    )  # fmt: skip


def fit_unet(
    net: nn.Module, images: Float32[np.ndarray, "n s s"], labels: Bool[np.ndarray, "n s s"], recipe: NnUNetRecipe,
    run: Run, fold: int | None, stage: str,
) -> None:  # fmt: skip
    """Train one network on the slices that aren't in ``fold``; on all of them where there are too few, or ``None``."""
    keep = np.arange(len(images))
    if fold is not None and recipe.folds > 1 and len(images) >= recipe.folds:
        keep = keep[run.generator("folds").permutation(len(images)) % recipe.folds != fold]
    x, y = torch.from_numpy(images[keep])[:, None], torch.from_numpy(labels[keep]).long()
    run.stage(stage)
    sgd = torch.optim.SGD(
        net.parameters(), lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )  # fmt: skip
    poly = torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: max(0.0, 1 - step / recipe.steps) ** 0.9)
    net, sgd, poly = run.track(net=net, sgd=sgd, poly=poly)
    for step in run.steps(recipe.steps, description=stage):
        net.train()
        index = torch.from_numpy(run.indices(len(keep), recipe.batch_size, step))
        a, b = x[index], y[index]
        if recipe.augment:
            a, b = augmented(a, b, int(run.generator("augment", step).integers(2**31)))
        found = net(standardised(a).to(run.device))
        b = b.to(run.device)
        heads = found.unbind(1) if found.ndim == 5 else [found]
        weights = [0.5**k for k in range(len(heads))]  # deep supervision: each half as much as the one above
        losses = [w * dice_ce(head, b) for w, head in zip(weights, heads, strict=True)]
        loss = sum(losses, torch.zeros(())) / sum(weights)
        sgd.zero_grad()
        run.backward(loss)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 12)
        sgd.step()
        poly.step()
        run.log(loss=loss)
    net.eval()


@torch.no_grad()
def unet_probability(
    nets: Any, slices: Float32[np.ndarray, "q s s"], *, tta: bool, at_once: int = 16
) -> Float32[np.ndarray, "q s s"]:
    """The mean of the softmax over networks and, with ``tta``, over mirrorings of all axes (Sec. 4.2)."""
    views: list[tuple[int, ...]] = [(), (2,), (3,), (2, 3)] if tta else [()]
    device = next(nets.parameters()).device
    rows = []
    for some in torch.from_numpy(np.ascontiguousarray(slices))[:, None].split(at_once):
        x = standardised(some).to(device)
        found = [net(x.flip(v)).softmax(1)[:, 1:].flip(v) for net in nets for v in views]
        rows.append(torch.stack(found).mean(0)[:, 0].cpu())
    return torch.cat(rows).numpy()


def standardised(x: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b 1 s s"]:
    """Mean 0 and deviation 1 of every slice, as nnU-Net scales MR."""
    mean, deviation = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True)
    return (x - mean) / deviation.clamp_min(1e-6)


def augmented(x: Float[Tensor, "b 1 s s"], y: Tensor, seed: int) -> tuple[Float[Tensor, "b 1 s s"], Tensor]:
    """nnU-Net's augmentations by MONAI, drawn anew for every slice."""
    chain = _transforms(seed)
    moved = [chain({"x": a, "y": b[None].float()}) for a, b in zip(x, y, strict=True)]
    images, labels = (torch.stack([one[key] for one in moved]).as_subclass(Tensor) for key in ("x", "y"))
    return images, labels[:, 0].round().long()


def _transforms(seed: int) -> Any:
    from monai import transforms as t

    both, image = ["x", "y"], ["x"]
    chain = t.Compose([
        t.RandAffined(both, prob=0.2, rotate_range=np.pi, mode=["bilinear", "nearest"], padding_mode="border"),
        t.RandZoomd(both, prob=0.2, min_zoom=0.7, max_zoom=1.4, mode=["bilinear", "nearest"], padding_mode="edge"),
        t.RandGaussianNoised(image, prob=0.1, std=0.1),
        t.RandGaussianSmoothd(image, sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0), prob=0.2),
        t.RandScaleIntensityd(image, factors=0.25, prob=0.15),
        t.RandSimulateLowResolutiond(image, prob=0.25, zoom_range=(0.5, 1.0), upsample_mode="bilinear"),
        t.RandAdjustContrastd(image, prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        t.RandFlipd(both, prob=0.5, spatial_axis=0),
        t.RandFlipd(both, prob=0.5, spatial_axis=1),
    ])  # fmt: skip
    chain.set_random_state(seed)
    return chain
