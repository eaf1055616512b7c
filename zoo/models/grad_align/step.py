"""One step of the method: who agrees with the batch gradient, and the private gradient of those who do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo.models.grad_align.budget import Budget
from zoo.models.grad_align.recipe import GradAlignRecipe
from zoo.nn.ghost import Ghosts, ghost_filter
from zoo.ops import cosine_filter
from zoo.ops.cosine_filter import Filtered


def align(grads: Float[Tensor, "b f"], recipe: GradAlignRecipe, budget: Budget, generator: torch.Generator) -> Filtered:
    """The gradient of one step and who went into it. Raw gradients are never averaged (Algorithm 1 prints that)."""
    assert recipe.cs_on is not None, "settle the recipe first"
    size = float(budget.batch_size)
    noise_std = budget.accountant.sigma * recipe.clip_norm
    if recipe.noise == "shared":
        z = noise_std * torch.randn(grads.shape[1], generator=generator, device=grads.device)
        with_noise: dict[str, Any] = {"noise": z}
    else:
        with_noise = {"noise": "literal_independent", "noise_std": noise_std}
    step: dict[str, Any] = {
        "clip_norm": recipe.clip_norm,
        "expected_batch_size": size,
        "generator": generator,
        **with_noise,
    }
    if recipe.filter == "none":
        return cosine_filter(grads, threshold=-1.0, **step)
    if recipe.filter == "random":
        chosen = torch.rand(len(grads), generator=generator, device=grads.device) < recipe.keep
        part = cosine_filter(grads[chosen], quantile=0.0, denominator=recipe.denominator, **step)
        return Filtered(part.aggregate, chosen, *(torch.zeros_like(chosen, dtype=grads.dtype).masked_scatter(
            chosen, values) for values in part[2:]))  # fmt: skip
    filtered = cosine_filter(
        grads,
        threshold=recipe.threshold if recipe.quantile is None else None,
        quantile=recipe.quantile,
        cs_on=recipe.cs_on,
        cs_clip=recipe.cs_clip if budget.accountant.tau is not None else None,
        cs_noise_std=budget.cs_noise_std(recipe.cs_clip),
        dim_measure=None if recipe.filter == "cs" else recipe.filter,
        percentile=recipe.percentile,
        denominator=recipe.denominator,
        **step,
    )
    return _nobody(filtered, recipe, budget, with_noise["noise"]) if recipe.noise == "shared" else filtered


def align_ghosts(
    ghosts: Ghosts, recipe: GradAlignRecipe, budget: Budget, generator: torch.Generator
) -> tuple[Filtered, Float[Tensor, " f"]]:
    """:func:`align` without the gradients themselves, and the batch gradient; the same draws, the same to rounding."""
    width = sum(p.numel() for p in ghosts.parameters)
    noise_std = budget.accountant.sigma * recipe.clip_norm
    z = noise_std * torch.randn(width, generator=generator, device=ghosts.x.device)
    step: dict[str, Any] = {"clip_norm": recipe.clip_norm, "noise": z, "expected_batch_size": float(budget.batch_size)}
    if recipe.filter == "none":
        return ghost_filter(ghosts, threshold=-1.0, **step)
    assert recipe.cs_on is not None, "settle the recipe first"
    assert recipe.denominator is not None
    filtered, whole = ghost_filter(
        ghosts,
        threshold=recipe.threshold if recipe.quantile is None else None,
        quantile=recipe.quantile,
        cs_on=recipe.cs_on,
        cs_clip=recipe.cs_clip if budget.accountant.tau is not None else None,
        cs_noise_std=budget.cs_noise_std(recipe.cs_clip),
        denominator=recipe.denominator,
        generator=generator,
        **step,
    )
    return _nobody(filtered, recipe, budget, z), whole


def _nobody(filtered: Filtered, recipe: GradAlignRecipe, budget: Budget, z: Tensor) -> Filtered:
    """For ``strict``, where nobody passes, noise alone; the operator keeps everybody then."""
    if budget.accountant.accounting != "strict" or recipe.threshold <= -1:
        return filtered
    nobody = ~(filtered.cosine > recipe.threshold).any()
    return filtered._replace(
        aggregate=torch.where(nobody, z / float(budget.batch_size), filtered.aggregate),
        kept=filtered.kept & ~nobody,
    )


def descend(sgd: torch.optim.Optimizer, aggregate: Float[Tensor, " f"]) -> None:
    """One step of ``sgd`` along ``aggregate``, whose entries lie in the order of its parameters."""
    parameters = [p for group in sgd.param_groups for p in group["params"]]
    for p, part in zip(parameters, aggregate.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)
    sgd.step()
    sgd.zero_grad()


def batch_gradient(aligned: Filtered, grads: Float[Tensor, "b f"]) -> Float[Tensor, " f"]:
    """Without clipping and noise, of the samples whose gradient is finite."""
    usable = grads[~aligned.dropped] if aligned.dropped.any() else grads
    return usable.sum(0)


def alignment(aligned: Filtered, whole: Float[Tensor, " f"]) -> Float[Tensor, ""]:
    """Cosine of the step to the batch gradient (Sec. 4.2)."""
    return F.cosine_similarity(aligned.aggregate, whole, dim=0)


def share_kept(aligned: Filtered) -> float:
    return float(aligned.kept.float().mean()) if len(aligned.kept) else 0.0


@dataclass
class Tally:
    """Gradients that were dropped for not being finite; survives a resume."""

    dropped: int = 0

    def state_dict(self) -> dict[str, int]:
        return {"dropped": self.dropped}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.dropped = state["dropped"]
