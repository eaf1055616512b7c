"""The plainest of trainings, for baselines and arms of a claim that differ in nothing but their network and loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.data.images import ImageSet
from zoo.training.run import Run


def descend(
    run: Run,
    net: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    loss_of: Callable[[np.ndarray, int], torch.Tensor],
    count: int,
    batch_size: int,
    *,
    stage: str,
    epochs: int,
    key: str = "order",
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Minimise ``loss_of(which of the samples, step)`` for some epochs of ``count`` samples; eval mode afterwards.

    ``key``: of the order in which the samples come. ``after_epoch`` is told how many are done.
    """
    run.stage(stage)
    net, optimiser = run.track(net=net, optimiser=optimiser)
    steps_per_epoch = math.ceil(count / batch_size)
    for step in run.steps(epochs * steps_per_epoch, description=stage):
        net.train()
        loss = loss_of(run.indices(count, batch_size, step, key=key), step)
        optimiser.zero_grad()
        run.backward(loss)
        optimiser.step()
        run.log(loss=loss)
        if after_epoch is not None and (step + 1) % steps_per_epoch == 0:
            after_epoch((step + 1) // steps_per_epoch)
    net.eval()


def loss_on_images(
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    images: ImageSet,
    device: torch.device,
    view: Callable[[torch.Tensor, int], torch.Tensor],
) -> Callable[[np.ndarray, int], torch.Tensor]:
    """For :func:`descend`, a loss of images and labels; ``view`` makes of a batch in [0, 1] what the network sees."""

    def loss(index: np.ndarray, step: int) -> torch.Tensor:
        x, y = images.batch(index, device)
        return loss_of(view(x, step), y)

    return loss


class Noisy:
    """Samples in noise: drawn anew for every batch, or (``stays``) left on its samples, so that it adds up.

    ``order``: which samples a step takes. ``deviation``: of one drawing; 0 leaves the samples alone.
    """

    def __init__(
        self,
        run: Run,
        samples: Float[Tensor, "n t"],
        order: Callable[[int], Int[Tensor, " b"]],
        deviation: float,
        stays: bool,
    ) -> None:
        self.run, self.order, self.deviation, self.stays = run, order, deviation, stays
        self.samples = samples.clone() if stays else samples
        self.done = 0  # steps whose noise lies on the samples

    def batch(self, step: int) -> Float[Tensor, "b t"]:
        """With its noise; where that stays, with that of all steps up to this one, also if a run was resumed."""
        if self.stays:
            for past in range(self.done, step + 1):
                self.samples[self.order(past)] += self._noise(past)
            self.done = max(self.done, step + 1)
            return self.samples[self.order(step)]
        found = self.samples[self.order(step)]
        return found + self._noise(step) if self.deviation else found

    def _noise(self, step: int) -> Float[Tensor, "b t"]:
        rng = self.run.generator("noise", step, self.run.accelerator.process_index)
        noise = rng.standard_normal((len(self.order(step)), self.samples.shape[1]))
        return self.deviation * torch.from_numpy(noise).to(self.samples)


def batches(
    y: Int[Tensor, " n"], size: int, rng: np.random.Generator, balanced: bool = False, whole: bool = False
) -> list[Int[Tensor, " b"]]:
    """An epoch in random order; a single image left over joins the batch before. ``balanced``: equal classes.

    ``whole``: what is left over is left out, unless there's no whole batch.
    """
    n = len(y)
    if balanced:
        counts = np.bincount(y.numpy())
        share = 1 / counts[y.numpy()]
        order = rng.choice(n, n, p=share / share.sum())
    else:
        order = rng.permutation(n)
    if whole and n >= size:
        order = order[: n // size * size]
        n = len(order)
    cuts = list(range(size, n, size))
    if cuts and n - cuts[-1] == 1:
        cuts.pop()
    return [torch.from_numpy(part) for part in np.split(order, cuts)]
