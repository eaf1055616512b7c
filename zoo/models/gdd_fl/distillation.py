"""Generalizable dataset distillation at a client: Eqs. 1-2, the loss of Algorithm 1, and its loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from zoo.data.images import IMAGENET_MEAN, IMAGENET_STD, ImageSet
from zoo.errors import DataError, OptionError
from zoo.models.gdd_fl.model import build_extractor, to_network
from zoo.models.gdd_fl.siamese import siamese
from zoo.nn.instance_nets import Shift, check_size, unchanged
from zoo.seeds import seed_torch

LEAST = 2  # images of a class; from fewer, its mean is that image


@dataclass(frozen=True)
class Distillation:
    """How a client condenses its images; comments name the section, or say that the paper leaves a value open."""

    method: Literal["gdd", "dm", "dm-doubled", "random", "full", "fedavg"] = "gdd"
    """``gdd``: L_ST + L_U (Algorithm 1); ``dm``: L_ST alone; ``dm-doubled``: twice that, the control for longer steps;
    ``random``: real images that clients draw; ``full``: all real images in one place; ``fedavg``: weights travel."""
    images_per_class: int = field(default=1, metadata={"min": 1, "max": 1000})  # 1 or 10; Table 1
    iterations: int = field(default=300, metadata={"min": 1, "max": 1_000_000})
    """Sec. 3.2 says 300 epochs; the authors' code makes 300 steps of one batch for each class, and so do we."""
    lr: float = field(default=1.0, metadata={"min": 0.0, "max": 1e6})  # eta, of the pixels; Sec. 3.2
    momentum: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})  # open; DM's
    real_batch: int = field(default=64, metadata={"min": 2, "max": 65_536})  # of each class; Sec. 3.2
    p: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})  # of U_p; Sec. 2.2
    level: Literal["input", "block", "convolution"] = "input"
    """Where U_p acts: on the images (Algorithm 1), on the features after every block (the text), or between every
    convolution and its norm, as released: instance normalisation then takes all of it back."""
    shift: Literal["batch", "instance"] = "batch"
    """Whether all images of a batch get the same epsilon, one other client, or each its own; open."""
    objective: Literal["sum", "mean", "joint"] = "sum"
    """``sum``: L_ST + L_U (Algorithm 1); ``mean``: half of it, so that a step is as long as DM's; ``joint``: one
    distance of the logits of a plain and a shifted network side by side, as released."""
    printed: bool = False  # x_hat as printed, with mean and deviation exchanged; for comparison only
    extractor: Literal["convnet", "resnet18-instance"] = "convnet"  # Sec. 3.2
    extractor_width: int = field(default=128, metadata={"min": 1, "max": 4096})  # open
    extractor_depth: int = field(default=5, metadata={"min": 1, "max": 9})  # open: 7 x 7 x 128 features at 224 px
    redraw: bool = True  # a new network in each iteration (Algorithm 1), or one for all, as released
    augment: tuple[str, ...] = ("colour", "crop", "cutout", "flip", "scale", "rotate")  # A; [30], open
    init: Literal["noise", "real"] = "noise"  # Sec. 2.2; ``real`` starts at patients' images
    allow_real: bool = False  # let a message hold patients' images or begin at them (``random``, ``init=real``)
    message: Literal["uint8", "float32"] = "uint8"  # 8 bits agree with Table 1's 2.88 MB


class Distilled(NamedTuple):
    """A client's synthetic set, in bytes or in units of [0, 1], and what it came from."""

    images: UInt8[Tensor, "n 3 s s"] | Float[Tensor, "n 3 s s"]
    y: Int[Tensor, " n"]
    loss: float  # of the last iteration, mean over the classes
    nearest: float  # least root mean square distance of a synthetic image to a real one of the client, in [0, 1]


def refuse(how: Distillation, size: int) -> None:
    """Raises ``OptionError`` for what can't be or mustn't be sent."""
    if (how.init == "real" or how.method == "random") and not how.allow_real:
        asked = "method=random sends" if how.method == "random" else "init=real begins at"
        raise OptionError(f"{asked} patients' images, which the paper's privacy argument excludes; "
                          "if you may share them, say so with allow_real=true")  # fmt: skip
    try:
        check_size(how.extractor, size, how.extractor_depth)
        siamese(np.random.default_rng(0), how.augment)
    except ValueError as error:
        raise OptionError(f"the extractor doesn't fit: {error}; set extractor_depth, image_size or augment") from None


def client_shift(
    x: Float[Tensor, "n c h w"],
    noise: tuple[Float[Tensor, "m c"], Float[Tensor, "m c"]],
    *,
    printed: bool = False,
    released: bool = False,
) -> Float[Tensor, "n c h w"]:
    """Images or maps as another client might have them (Eqs. 1-2).

    The mean and deviation of every channel move by ``noise`` (epsilon_mu, epsilon_sigma; m is n, or 1 for all alike)
    times their own spread over the batch. Without spread x stays x. ``printed``: the last formula as it stands in the
    paper, where the new mean scales and the new deviation is added. ``released``: variances as the authors' code has
    them (unbiased, plus 1e-6), else they are the batch's own and a deviation keeps a tenth of itself.
    """
    unbiased, little = (1, 1e-6) if released else (0, 0.0)
    mu = x.mean((2, 3))
    sigma = (x.var((2, 3), correction=unbiased) + little).sqrt()

    def spread(values: Float[Tensor, "n c"]) -> Float[Tensor, "1 c"]:  # Eq. 1
        if len(values) == 1:
            return torch.full_like(values, little).sqrt()
        return (values.var(0, keepdim=True, correction=unbiased) + little).sqrt()

    new_mu, new_sigma = mu + noise[0] * spread(mu), sigma + noise[1] * spread(sigma)  # Eq. 2
    if not released:
        new_sigma = torch.maximum(new_sigma, 0.1 * sigma)
    by, plus = (new_mu, new_sigma) if printed else (new_sigma, new_mu)
    standard = (x - mu[..., None, None]) / sigma.clamp(min=1e-6)[..., None, None]
    return by[..., None, None] * standard + plus[..., None, None]


def uncertain(x: Tensor, how: Distillation, rng: np.random.Generator) -> Tensor:
    """U_p: with probability p the batch as another client's, else as it is."""
    if rng.random() >= how.p:
        return x
    rows = 1 if how.shift == "batch" else len(x)
    mu, sigma = (torch.from_numpy(rng.standard_normal((rows, x.shape[1]))).to(x) for _ in range(2))
    return client_shift(x, (mu, sigma), printed=how.printed, released=how.objective == "joint")


def class_loss(
    nets: Sequence[Any],
    real: Float[Tensor, "b 3 s s"],
    synthetic: Float[Tensor, "m 3 s s"],
    how: Distillation,
    rng: np.random.Generator,
) -> Float[Tensor, ""]:
    """One class's part of L_ST + L_U, or of what ``how`` has in its place."""
    change = siamese(rng, how.augment)
    if how.method == "gdd" and how.objective == "joint":
        plain, shifting = nets

        def both(x: Tensor) -> Tensor:
            seen = change(x)
            return torch.cat([plain(seen), shifting(seen, partial(uncertain, how=how, rng=rng))], 1).mean(0)

        with torch.no_grad():
            target = both(real)
        return (target - both(synthetic)).square().sum()

    def mean_embedding(x: Tensor, shift: Shift = unchanged, late: Shift = unchanged) -> Float[Tensor, " d"]:
        return nets[0].features(change(x), shift, late).mean(0)

    of_synthetic = mean_embedding(synthetic)  # O_S
    with torch.no_grad():
        of_real = mean_embedding(real)  # O_T
    loss = (of_real - of_synthetic).square().sum()
    if how.method != "gdd":
        return 2 * loss if how.method == "dm-doubled" else loss
    move = partial(uncertain, how=how, rng=rng)
    with torch.no_grad():  # O_U
        if how.level == "input":
            other = move(real)
            shifted = of_real if other is real else mean_embedding(other)  # as it is with probability 1 - p
        else:
            shifted = mean_embedding(real, **{"late" if how.level == "block" else "shift": move})
    loss = loss + (shifted - of_synthetic).square().sum()
    return loss / 2 if how.objective == "mean" else loss


def make_nets(how: Distillation, classes: int, size: int, rng: np.random.Generator, device: torch.device) -> list[Any]:
    """theta ~ P: frozen networks with random weights that depend on ``rng`` alone; two of them for ``joint``."""
    count = 2 if how.method == "gdd" and how.objective == "joint" else 1
    with torch.random.fork_rng(devices=[]):
        seed_torch(int(rng.integers(2**31)))
        nets: list[nn.Module] = [
            build_extractor(how.extractor, classes, size, how.extractor_width, how.extractor_depth)
            for _ in range(count)
        ]
    return [net.to(device).requires_grad_(False) for net in nets]


def distil(
    images: ImageSet,
    how: Distillation,
    classes: int,
    rng: np.random.Generator,
    device: torch.device,
    steps: Iterable[int] | None = None,
) -> Distilled:
    """Algorithm 1: a client's images in, ``images_per_class`` synthetic ones for each class out.

    A class of which the client has fewer than two images is skipped, and nothing is sent for it. Raises ``DataError``
    for a client without any class, and for a distillation that ends in numbers that aren't finite.
    """
    places = [torch.nonzero(images.y == c).flatten() for c in range(classes)]
    held = [c for c in range(classes) if len(places[c]) >= LEAST]
    if not held:
        raise DataError(f"this client has {len(images)} images and two of no class, so there is nothing to distil")
    m, size = how.images_per_class, images.views.shape[-1]
    y = torch.tensor(held).repeat_interleave(m)
    if how.method == "random" or how.init == "real":
        drawn = [places[c][torch.from_numpy(rng.choice(len(places[c]), m, replace=len(places[c]) < m))] for c in held]
        chosen = images.views[torch.cat(drawn)].contiguous()
        if how.method == "random":
            return Distilled(chosen, y, float("nan"), 0.0)
        start = to_network(chosen.float() / 255)
    else:
        start = torch.from_numpy(rng.standard_normal((len(y), 3, size, size)).astype(np.float32))
    synthetic = start.to(device).requires_grad_()
    sgd = torch.optim.SGD([synthetic], how.lr, how.momentum)
    nets: list[Any] = []
    loss = synthetic.sum() * 0
    for _ in range(how.iterations) if steps is None else steps:
        if how.redraw or not nets:
            nets = make_nets(how, classes, size, rng, device)
        losses = []
        for place, c in enumerate(held):
            rows = rng.choice(len(places[c]), min(how.real_batch, len(places[c])), replace=False)
            real = to_network(images.batch(places[c][torch.from_numpy(rows)], device)[0])
            mine = synthetic[place * m : (place + 1) * m]
            if m > how.real_batch:
                mine = mine[torch.from_numpy(rng.choice(m, how.real_batch, replace=False)).to(device)]
            losses.append(class_loss(nets, real, mine, how, rng))
        loss = torch.stack(losses).sum()
        (synthetic.grad,) = torch.autograd.grad(loss, [synthetic])
        sgd.step()
    pixels = to_unit(synthetic.detach().cpu())
    if not torch.isfinite(pixels).all():
        raise DataError(f"the distillation of this client diverged at lr={how.lr:g}; set a lower lr")
    sent = to_bytes(pixels) if how.message == "uint8" else pixels
    return Distilled(sent, y, float(loss.detach()) / len(held), nearest(pixels.clamp(0, 1), images))


def to_unit(x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 3 s s"]:
    """The inverse of the network's normalisation."""
    return x * x.new_tensor(IMAGENET_STD).view(-1, 1, 1) + x.new_tensor(IMAGENET_MEAN).view(-1, 1, 1)


def to_bytes(x: Float[Tensor, "n 3 s s"]) -> UInt8[Tensor, "n 3 s s"]:
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def nearest(pixels: Float[Tensor, "n 3 s s"], images: ImageSet) -> float:
    """The least root mean square distance of a made image to a real one, in [0, 1]; 0 would be a copy."""
    flat = pixels.flatten(1)
    least = min(float(torch.cdist(flat, part.flatten(1).float() / 255).min()) for part in images.views.split(256))
    return least / flat.shape[1] ** 0.5
