"""Differentially private training that drops, in each step, the samples whose gradient disagrees with the batch.

One step (Algorithms 1 and 2 of the paper): a Poisson sample of the images; per-sample gradients; clipping and one draw
of noise, shared by the batch; cosine similarities to the batch's own gradient, clipped and noisy where a guarantee is
asked for; the step from those above the threshold. ``zoo.ops.cosine_filter`` does all after the gradients. What a step
costs is in ``accounting``.
"""

from __future__ import annotations

import secrets
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.errors import OptionError
from zoo.models.grad_align import plugin
from zoo.models.grad_align.budget import Budget, Chance, draw_sample, refuse_contradictions
from zoo.models.grad_align.data import GradAlignRecipe, load
from zoo.models.grad_align.model import GradAlign, GradAlignConfig
from zoo.models.grad_align.result import Privacy, chart
from zoo.nn.ghost import Ghosts, ghost_filter
from zoo.nn.per_sample import per_sample_gradients, refuse_layers
from zoo.ops import cosine_filter
from zoo.ops.cosine_filter import Filtered
from zoo.storage import write_file
from zoo.training import Run, TrainData, Training

LARGE = 100_000  # parameters beyond which noise hides every single gradient from the similarity
NEEDED_BY = f"training {plugin.name}"


def train(recipe: GradAlignRecipe, data: TrainData, run: Run) -> GradAlign:
    """Train on the images of ``data.train``; the weights carry their privacy statement.

    Raises ``DataError`` for a case without a label, ``OptionError`` for a guarantee that can't be given.
    """
    x, y = load(data.train, recipe.network)
    held_out = load(data.validation, recipe.network) if len(data.validation) else None
    run.stage("network")
    model = GradAlign(recipe.network)
    settled, budget = settle(recipe, len(x), sum(p.numel() for p in model.network.parameters()))
    privacy = fit(model.network, x, y, settled, budget, run, held_out)
    trained = GradAlign(replace(recipe.network, privacy=privacy))
    trained.network.load_state_dict(model.network.state_dict())
    if run.out is not None and run.is_main:
        table = run.out / "metrics" / "network.csv"
        write_file(run.out / "training.png", chart(table, privacy, budget.epoch, recipe.epsilon))
    return trained.eval()


def fit(
    network: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    recipe: GradAlignRecipe,
    budget: Budget,
    run: Run,
    held_out: tuple[Tensor, Tensor] | None = None,
) -> Privacy:
    """Train any network without batch statistics, in place, by a settled recipe; returns what it spent.

    Under a guarantee, who is in a batch and the noise come from numbers that only the run's checkpoints hold; with a
    seed that was given anyone can draw them again, and the statement is void. ``metrics/`` and what is printed come
    from the raw gradients and are not private themselves.
    Raises ``OptionError`` for layers without per-sample gradients.
    """
    refuse_layers(network, NEEDED_BY)
    _refuse_scaling(run)
    sgd = torch.optim.SGD(network.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    secret = budget.accountant.accounting != "nonprivate" and not run.seed_given
    chance = Chance(secrets.randbits(128) if secret else run.seed, secret)
    network, sgd, tally, _ = run.track(network=network, sgd=sgd, tally=Tally(), chance=chance)
    _say(run, budget.announcement())
    if budget.accountant.accounting != "nonprivate" and not secret:
        _say(run, "with a seed that was given anyone can draw the noise again, so the weights will state no guarantee; "
                  "leave the seed out", always=True)  # fmt: skip

    ghost = recipe.gradients == "ghost"
    with nullcontext() if ghost else per_sample_gradients(run.unwrap(network), NEEDED_BY) as gradients:
        for step in run.steps(budget.steps, description=recipe.filter):
            network.train()
            index, generator = draw_sample(budget, chance, step, run.device)
            batch = x[index].to(run.device), y[index].to(run.device)
            if gradients is None:
                ghosts = Ghosts(run.unwrap(network), *batch, recipe.physical_batch, run.backward)
                aligned, whole = align_ghosts(ghosts, recipe, budget, generator)
                loss = ghosts.loss()
            else:
                grads, loss = gradients(*batch, recipe.physical_batch, run.backward)
                aligned = align(grads, recipe, budget, generator)
                whole = batch_gradient(aligned, grads)
            descend(sgd, aligned.aggregate)

            tally.dropped += int(aligned.dropped.sum())
            epsilon = budget.accountant.epsilon(step + 1)
            run.log(loss=loss, alignment=alignment(aligned, whole), kept=share_kept(aligned), epsilon=epsilon,
                    dropped=aligned.dropped.sum())  # fmt: skip
            if (step + 1) % budget.epoch == 0:
                if held_out is not None:
                    run.log(validation_accuracy=accuracy(network, *held_out))
                _say(run, f"step {step + 1} of {budget.steps}: loss {loss:.3f}, epsilon {epsilon:.3f}")
    if tally.dropped:
        _say(run, f"{tally.dropped} gradients weren't finite; their samples were dropped from the step", always=True)
    privacy = replace(statement(recipe, budget, budget.steps), secret=chance.secret)
    _say(run, f"after {budget.steps} of {budget.planned} steps: {privacy.sentence()}")
    return privacy


# ---- one step ----------------------------------------------------------------------------------------------------


def align(grads: Float[Tensor, "b f"], recipe: GradAlignRecipe, budget: Budget, generator: torch.Generator) -> Filtered:
    """The gradient of one step and who went into it. Raw gradients are never averaged (Algorithm 1 prints that)."""
    noise_std = budget.accountant.sigma * recipe.clip_norm
    if recipe.noise == "shared":
        z = noise_std * torch.randn(grads.shape[1], generator=generator, device=grads.device)
        with_noise: dict[str, Any] = {"noise": z}
    else:
        with_noise = {"noise": "literal_independent", "noise_std": noise_std}
    step: dict[str, Any] = {
        "clip_norm": recipe.clip_norm,
        "expected_batch_size": float(budget.batch_size),
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
        dim_measure=None if recipe.filter == "cs" else recipe.filter,
        percentile=recipe.percentile,
        **choice(recipe, budget),
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
    filtered, whole = ghost_filter(
        ghosts,
        generator=generator,
        **choice(recipe, budget),
        **step,
    )
    return _nobody(filtered, recipe, budget, z), whole


def choice(recipe: GradAlignRecipe, budget: Budget) -> dict[str, Any]:
    """By what samples are chosen, as both forms of the filter name it."""
    assert recipe.cs_on is not None, "settle the recipe first"
    assert recipe.denominator is not None, "settle the recipe first"
    return {
        "threshold": recipe.threshold if recipe.quantile is None else None,
        "quantile": recipe.quantile,
        "cs_on": recipe.cs_on,
        "cs_clip": recipe.cs_clip if budget.accountant.tau is not None else None,
        "cs_noise_std": budget.cs_noise_std(recipe.cs_clip),
        "denominator": recipe.denominator,
    }


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


# ---- what a recipe comes to --------------------------------------------------------------------------------------


def settle(recipe: GradAlignRecipe, count: int, parameters: int) -> tuple[GradAlignRecipe, Budget]:
    """The recipe with everything decided that depends on the number of samples and parameters, and its budget.

    Raises ``OptionError`` when the recipe contradicts itself or its epsilon can't be reached.
    """
    accounting = recipe.accounting or ("nonprivate" if recipe.epsilon is None else "strict")
    refuse_contradictions(accounting, epsilon=recipe.epsilon, sigma=recipe.sigma, filter=recipe.filter,
                          quantile=recipe.quantile, noise=recipe.noise, cs_on=recipe.cs_on,
                          denominator=recipe.denominator)  # fmt: skip
    if recipe.gradients == "ghost" and (recipe.filter not in ("none", "cs") or recipe.noise != "shared"):
        raise OptionError(
            "gradients=ghost knows norms and products of the gradients alone; choose filter=none or filter=cs, with "
            "noise=shared, or gradients=each"
        )
    strict, literal = accounting == "strict", recipe.noise == "literal_independent"
    selects_privately = recipe.filter not in ("none", "random") and accounting != "nonprivate"
    tau = recipe.tau if selects_privately else None
    budget = Budget.settle(accounting, count, recipe.batch_size, recipe.epochs,
                           sigma=recipe.sigma, tau=tau, delta=recipe.delta, target=recipe.epsilon)  # fmt: skip
    settled = replace(
        recipe,
        accounting=accounting,
        sigma=budget.accountant.sigma,
        batch_size=budget.batch_size,
        cs_on=recipe.cs_on or ("clipped" if strict or parameters > LARGE else "noisy"),
        denominator=recipe.denominator or ("expected" if strict and not literal else "printed"),
    )
    return settled, budget


def statement(recipe: GradAlignRecipe, budget: Budget, steps: int) -> Privacy:
    """What ``steps`` steps of a settled recipe guarantee."""
    spender, thresholded = budget.accountant, recipe.filter not in ("none", "random") and recipe.quantile is None
    return Privacy(
        accounting=spender.accounting,
        epsilon=spender.epsilon(steps),
        delta=spender.delta,
        filter=recipe.filter,
        sigma=spender.sigma,
        tau=spender.tau,
        cs_clip=None if spender.tau is None else recipe.cs_clip,
        threshold=recipe.threshold if thresholded else None,
        sample_rate=spender.sample_rate,
        steps=steps,
        batch_cap=budget.batch_cap,
    )


def _refuse_scaling(run: Run) -> None:
    """What would scale gradients behind the accountant."""
    accelerator = run.accelerator
    if accelerator.num_processes > 1 or accelerator.gradient_accumulation_steps > 1:
        raise OptionError(
            f"{plugin.name} trains in one process without gradient accumulation; physical_batch saves memory"
        )
    if accelerator.mixed_precision != "no":
        raise OptionError(f"{plugin.name} trains in full precision; leave mixed precision out")


# ---- data and presets --------------------------------------------------------------------------------------------


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    device = next(network.parameters()).device
    hits = [
        (network(part.to(device)).argmax(1).cpu() == truth)
        for part, truth in zip(x.split(128), y.split(128), strict=True)
    ]
    return float(torch.cat(hits).float().mean())


def _say(run: Run, text: str, always: bool = False) -> None:
    if run.progress or (always and run.is_main):
        print(text, file=sys.stderr)


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SMALL = GradAlignConfig(channels=(8, 8, 16), groups=4, side=32)

training = Training(
    recipe=GradAlignRecipe,
    private=True,
    presets={
        "paper": {},
        # The paper's other set (Sec. 4.1, Table 1): zoo train grad-align --data cifar10:FOLDER --preset cifar10
        "cifar10": {
            "network": GradAlignConfig(labels=CIFAR10, colour=True, side=32),
            "epochs": 50,
            "lr": 5e-3,
            "threshold": 0.1,
            "percentile": 0.7,
            "delta": 1e-6,
        },
        # Seconds, without noise and without a guarantee: it works on a handful of images.
        "demo": {"network": SMALL, "sigma": 0.0, "epochs": 10, "lr": 0.2, "dtype": "float16"},
        # What the weights in the package were trained with: plain DP-SGD, for under a guarantee the filter costs more
        # than it brings (see the claim).
        "private": {
            "network": replace(SMALL, side=24),
            "filter": "none",
            "epsilon": 8.0,
            "batch_size": 128,
            "epochs": 8,
            "lr": 0.5,
            "dtype": "float16",
        },
    },
    run=train,
)
