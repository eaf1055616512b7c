"""Which condition an image is of, where nobody says so: a small head, not in the paper.

SAM's own estimate of quality can't tell conditions apart: taking the condition whose mask it expects to be best was
right in a fifth of the cases. The head sees the frozen features in a box and around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.training import Run

STEPS, BATCH, LR, WEIGHT_DECAY = 600, 64, 1e-3, 1e-2


class ConditionHead(nn.Module):
    """Log-probabilities of the conditions, from what ``around_box`` sees.

    Conditions without objects, such as BUSI's ``normal``, are never inferred: who asks with a box has seen something.
    """

    def __init__(self, channels: int, conditions: int, hidden: int = 64) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.LayerNorm(4 * channels + 3),
            nn.Linear(4 * channels + 3, hidden),
            nn.ReLU(),
            nn.Linear(hidden, conditions),
        )
        self.temperature: Tensor
        self.possible: Tensor
        self.register_buffer("temperature", torch.ones(()))  # fitted on validation cases
        self.register_buffer("possible", torch.ones(conditions))  # 1 for those with objects in the training cases

    def forward(self, views: Float[Tensor, "n v"]) -> Float[Tensor, "n m"]:
        """Log-probabilities; those of impossible conditions are about -1e4."""
        logits = self.network(views) / self.temperature
        return (logits - 1e4 * (1 - self.possible)).log_softmax(1)


def around_box(
    features: Float[Tensor, "#n c g g"], boxes: Float[Tensor, "n 4"], ring: float = 0.25
) -> Float[Tensor, "n v"]:
    """What ``ConditionHead`` sees: mean and deviation of each channel in a box and in the ring around it, and its form.

    ``boxes``: x0, y0, x1, y1 as shares of the image's sides. ``ring``: its width, as a share of the box's sides.
    """
    x0, y0, x1, y1 = boxes.unbind(1)
    w, h = x1 - x0, y1 - y0
    wider = torch.stack([x0 - ring * w, y0 - ring * h, x1 + ring * w, y1 + ring * h], dim=1)
    side = features.shape[-1]
    inside, outer = _covered(boxes, side), _covered(wider, side)
    parts = [part for weight in (inside, outer - inside) for part in _moments(features, weight)]
    form = torch.stack([(w / h).log(), (w * h).log() / 2, (y0 + y1) / 2], dim=1)
    return torch.cat([*parts, form.to(features.dtype)], dim=1)


def _covered(boxes: Float[Tensor, "n 4"], side: int) -> Float[Tensor, "n g g"]:
    """The share of each place of the grid that a box covers."""
    start = torch.arange(side, device=boxes.device, dtype=boxes.dtype)

    def along(low: Tensor, high: Tensor) -> Tensor:
        ends = torch.minimum(high[:, None] * side, start + 1), torch.maximum(low[:, None] * side, start)
        return (ends[0] - ends[1]).clamp(min=0)

    x0, y0, x1, y1 = boxes.unbind(1)
    return along(y0, y1)[:, :, None] * along(x0, x1)[:, None, :]


def _moments(
    features: Float[Tensor, "#n c g g"], weight: Float[Tensor, "n g g"]
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    share = (weight / weight.sum((1, 2), keepdim=True).clamp(min=1e-6))[:, None]
    mean = (features * share).sum((2, 3))
    return mean, ((features**2 * share).sum((2, 3)) - mean**2).clamp(min=1e-8).sqrt()


def as_shares(boxes: Sequence[Sequence[float]], size: tuple[int, ...]) -> Float[Tensor, "n 4"]:
    """Boxes in px of an image of ``size`` (height, width), as shares of its sides."""
    height, width = size[:2]
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / torch.tensor([width, height, width, height])


Views = tuple[Tensor, Tensor]
"""What ``around_box`` sees, float ``[n v]``, and the conditions, int ``[n]``."""


def fit_head(head: ConditionHead, training: Views, validation: Views, run: Run) -> None:
    """Cross-entropy in which every condition weighs alike; then the temperature that the validation cases want."""
    views, truth = training
    counts = torch.bincount(truth, minlength=len(head.possible)).float()
    head.possible.copy_((counts > 0).float() if len(truth) else torch.ones_like(counts))
    weight = torch.where(counts > 0, len(truth) / ((counts > 0).sum() * counts.clamp(min=1)), 0.0)
    adam = torch.optim.AdamW(head.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    net, adam = run.track(head=head, adam=adam)
    for step in run.steps(STEPS if len(truth) else 0, description="condition"):
        chosen = run.indices(len(truth), min(BATCH, len(truth)), step)
        loss = F.nll_loss(net(views[chosen]), truth[chosen], weight)
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
    views, truth = validation
    if not len(truth):
        return
    with torch.no_grad():
        scores = head(views)
        known = head.possible[truth] > 0
        tried = torch.logspace(-0.7, 1.3, 41)
        losses = [F.nll_loss((scores[known] / t).log_softmax(1), truth[known]) for t in tried]
        if known.any():
            head.temperature.fill_(float(tried[int(torch.stack(losses).argmin())]))
