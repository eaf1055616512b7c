"""What the demo's tiny ViT is pretrained on in place of ImageNet: lobed shapes, which are no lesions.

Each image shows one flat shape of 0, 2, 3, 4, 5 or 6 lobes somewhere, in two random colours under a random wave and
noise. The class token has to tell the number of lobes, the centre, the radius and both colours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.data.images import normalise
from zoo.training import Run

LOBES = (0, 2, 3, 4, 5, 6)
VALUES = 9  # centre, radius, two colours


def shapes(
    rng: np.random.Generator, n: int, size: int
) -> tuple[Float[Tensor, "n 3 s s"], Int[Tensor, " n"], Float[Tensor, "n v"]]:
    """Images in [0, 1], the place of each one's lobes in ``LOBES``, and what else it shows, each from -1 to 1."""

    def draw(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, (n, *shape)).astype(np.float32)

    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) * (2 / size) - 1
    kinds = rng.integers(len(LOBES), size=n)
    radius, centre = draw(0.28, 0.55), draw(-0.4, 0.4, 2)
    dx, dy = x - centre[:, :1, None], y - centre[:, 1:, None]
    angle = np.arctan2(dy, dx) + draw(0, 2 * np.pi, 1, 1)
    lobes = np.array(LOBES, np.float32)[kinds][:, None, None]
    edge = radius[:, None, None] * (1 + draw(0.2, 0.35, 1, 1) * np.cos(lobes * angle) * (lobes > 0))
    inside = (np.hypot(dx, dy) < edge)[:, None]
    colours = draw(0, 1, 2, 3)
    turn, pitch = draw(0, 2 * np.pi, 1, 1), draw(4, 16, 1, 1)
    wave = 0.1 * np.sin(pitch * (x * np.cos(turn) + y * np.sin(turn)) + draw(0, 2 * np.pi, 1, 1))[:, None]
    image = np.where(inside, colours[:, 0, :, None, None], colours[:, 1, :, None, None]) + wave
    image = np.clip(image + 0.08 * rng.standard_normal(image.shape, np.float32), 0, 1)
    values = np.concatenate([centre / 0.4, (radius[:, None] - 0.415) / 0.135, 2 * colours.reshape(n, 6) - 1], 1)
    return torch.from_numpy(image), torch.from_numpy(kinds), torch.from_numpy(values.astype(np.float32))


def pretrain(vit: Any, size: int, steps: int, batch: int, lr: float, run: Run) -> None:
    """Supervised, by the class token as timm's classifiers have it, with AdamW and a cosine to 0."""
    run.stage("pretext")
    guess = nn.Linear(vit.embed_dim, len(LOBES) + VALUES)
    adamw = torch.optim.AdamW([*vit.parameters(), *guess.parameters()], lr=lr)
    net, guess, adamw = run.track(vit=vit, guess=guess, adamw=adamw)
    for step in run.steps(steps, description="pretext"):
        net.train()
        adamw.param_groups[0]["lr"] = lr * (1 + np.cos(np.pi * step / steps)) / 2
        drawn = shapes(run.generator("shapes", step, run.accelerator.process_index), batch, size)
        x, kinds, values = (part.to(run.device) for part in drawn)
        told = guess(vit.forward_features(normalise(x))[:, 0])
        lobes = F.cross_entropy(told[:, : len(LOBES)], kinds)
        rest = F.mse_loss(told[:, len(LOBES) :], values)
        adamw.zero_grad()
        run.backward(lobes + rest)
        adamw.step()
        right = (told[:, : len(LOBES)].argmax(1) == kinds).float().mean()
        run.log(loss=lobes + rest, lobes=lobes, rest=rest, right=right)
