"""What draws a network to what it was while it learns something new: EWC and LwF, for rivals of continual learners.

Both are told when a task is learned (``finish``), and add to the loss of a batch afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.data.images import ImageSet, normalise


class Ewc:
    """``weight / 2 * sum F (p - p*)^2`` with the Fisher information of all tasks so far, added up.

    Source: J. Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017, Eq. 3.
    """

    def __init__(self, net: nn.Module, weight: float) -> None:
        self.net, self.weight = net, weight
        self.star: dict[str, Tensor] = {}
        self.fisher: dict[str, Tensor] = {}

    def finish(self, images: ImageSet, places: Sequence[int] | Int[Tensor, " m"], device: torch.device) -> None:
        """A task is learned; the images at ``places`` say which weights it needs."""
        now = fisher_of(self.net, images, places, device)
        self.fisher = {name: value + self.fisher.get(name, 0) for name, value in now.items()}
        self.star = {name: p.detach().clone() for name, p in self.net.named_parameters()}

    def __call__(self, x: Float[Tensor, "b 3 s s"], logits: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
        """Zero until a task is learned."""
        moved = [
            (self.fisher[name] * (p - self.star[name]) ** 2).sum()
            for name, p in self.net.named_parameters()
            if name in self.star
        ]
        return self.weight / 2 * torch.stack(moved).sum() if moved else logits.new_zeros(())


class Lwf:
    """``weight * T^2 * KL(old || new)`` of the softened outputs on the new images.

    Source: Z. Li and D. Hoiem, Learning without forgetting, TPAMI 2017, Sec. 3, with one head for all tasks.
    """

    def __init__(self, net: nn.Module, weight: float, temperature: float) -> None:
        self.net, self.weight, self.temperature = net, weight, temperature
        self.before: nn.Module | None = None

    def finish(self, images: ImageSet, places: Sequence[int] | Int[Tensor, " m"], device: torch.device) -> None:
        """A task is learned; of the images nothing is kept."""
        self.before = copy.deepcopy(self.net).eval().requires_grad_(False)

    def __call__(self, x: Float[Tensor, "b 3 s s"], logits: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
        """Zero until a task is learned."""
        if self.before is None:
            return logits.new_zeros(())
        with torch.no_grad():
            old = F.log_softmax(self.before(x) / self.temperature, 1)
        new = F.log_softmax(logits / self.temperature, 1)
        return self.weight * self.temperature**2 * F.kl_div(new, old, reduction="batchmean", log_target=True)


def fisher_of(
    net: nn.Module, images: ImageSet, places: Sequence[int] | Int[Tensor, " m"], device: torch.device
) -> dict[str, Tensor]:
    """Diagonal Fisher information: mean squared gradient of the log-likelihood of the network's own class, by image."""
    training = net.training
    net.eval()
    names, weights = zip(*net.named_parameters(), strict=True)
    found = {name: torch.zeros_like(p) for name, p in zip(names, weights, strict=True)}
    for place in places:
        logits = net(normalise(images.batch([int(place)], device)[0]))
        gradients = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(1)), weights)
        for name, gradient in zip(names, gradients, strict=True):
            found[name] += gradient**2 / len(places)
    net.train(training)
    return found
