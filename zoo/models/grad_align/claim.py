"""The paper's findings in miniature: does dropping misaligned samples help, and what is left once it is paid for?

Two data sets: a mixture of Gaussians that anyone can draw (30 modes in 100 dimensions, 10 classes), and the real
handwritten digits that come with scikit-learn. One hidden layer of 32, noise multiplier 2, clip norm 1, 64 expected
samples, 300 steps. Each arm has its own best of three learning rates, chosen on held-out validation data; all arms of a
seed share data, initial weights, batches and noise. The noise comes from the seed, so that anyone can run it again:
what is trained here protects nobody, and epsilons are what such a training would spend with secret noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.claims import Claim, Comparison, Verdict, spending
from zoo.data.digits import digits as read_digits
from zoo.models.grad_align.accounting import Accountant, Accounting
from zoo.models.grad_align.budget import Chance, draw_sample
from zoo.models.grad_align.data import GradAlignRecipe
from zoo.models.grad_align.training import (
    accuracy,
    align,
    alignment,
    batch_gradient,
    descend,
    settle,
    share_kept,
)
from zoo.nn.per_sample import per_sample_gradients

CLAIM = "the claim of grad-align"
RATES = (0.08, 0.15, 0.3)
STEPS = 300
DIGITS_AGAIN = 400 / 1397  # every seed splits the same 1,797 digits
SIGMA, DELTA = 2.0, 1e-5
BASE = GradAlignRecipe(
    filter="none", accounting="nonprivate", sigma=SIGMA, delta=DELTA, cs_on="noisy", denominator="printed"
)
# The arm that pays for its selection spends what DP-SGD spends with noise 2: 1 / 2.2^2 + 1 / tau^2 = 1 / 2^2.
FULL_SIGMA, FULL_TAU = 2.2, (2.0**-2 - 2.2**-2) ** -0.5
ARMS: dict[str, GradAlignRecipe] = {
    "dpsgd": BASE,
    "cs": replace(BASE, filter="cs", threshold=0.07),
    "random": replace(BASE, filter="random"),
    "cov": replace(BASE, filter="cov", threshold=0.03, percentile=0.7),
    "private": replace(BASE, filter="cs", threshold=0.07, accounting="paper", tau=0.8, cs_clip=0.05),
    "strict divisor": replace(BASE, filter="cs", threshold=0.05, denominator="expected"),
    "accounted": replace(
        BASE,
        filter="cs",
        threshold=0.07,
        accounting="strict",
        sigma=FULL_SIGMA,
        tau=FULL_TAU,
        cs_clip=0.05,
        cs_on="clipped",
        denominator="expected",
    ),
}


@dataclass(frozen=True)
class Split:
    """Samples with their classes."""

    x: Float[Tensor, "n d"]
    y: Int[Tensor, " n"]


@dataclass(frozen=True)
class Parts:
    train: Split
    validation: Split
    test: Split


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Train every arm at every learning rate on both sets; percent correct, alignment and share kept."""
    sets = {"accuracy": mixture(seed), "digits accuracy": digits(seed)}
    rates, steps = (RATES[1:2], 6) if quick else (RATES, STEPS)
    scores: dict[str, dict[str, float]] = {arm: {} for arm in ARMS}
    for name, parts in sets.items():
        kept = 0.4
        for arm, recipe in ARMS.items():
            recipe = replace(recipe, keep=kept)
            with spending(arm, examples=len(parts.train.x)):
                found = [fit_arm(replace(recipe, lr=lr), parts, seed, steps) for lr in rates]
            best = max(found, key=lambda result: result["validation"])
            if arm == "cs":
                kept = best["kept"]  # the control keeps as many
            prefix = name.removesuffix("accuracy")
            scores[arm] |= {name: best["test"], f"{prefix}alignment": best["alignment"], f"{prefix}kept": best["kept"]}
            if arm in ("dpsgd", "private", "accounted"):
                scores[arm][f"{prefix}epsilon"] = spent(recipe, len(parts.train.x), steps)
    return scores


def spent(recipe: GradAlignRecipe, n: int, steps: int) -> float:
    """Epsilon of an arm that has one; of the private arm by the paper's accounting, which is not proven."""
    accounting: Accounting = "paper" if recipe.accounting == "paper" else "strict"
    tau = None if recipe.filter == "none" else recipe.tau
    return Accountant(accounting, recipe.batch_size / n, recipe.sigma or 0.0, tau, DELTA).epsilon(steps)


def fit_arm(recipe: GradAlignRecipe, parts: Parts, seed: int, steps: int) -> dict[str, float]:
    """One training: accuracy in percent on validation and test data, mean alignment and mean share kept."""
    n, d = parts.train.x.shape
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(d, 32), nn.Tanh(), nn.Linear(32, 10))
    parameters = sum(p.numel() for p in network.parameters())
    recipe, budget = settle(replace(recipe, epochs=1 + steps * recipe.batch_size // n), n, parameters)
    sgd = torch.optim.SGD(network.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    aligned, kept = [], []
    with per_sample_gradients(network, CLAIM) as gradients:
        for step in range(steps):
            index, generator = draw_sample(budget, Chance(seed), step, torch.device("cpu"))
            grads, _ = gradients(parts.train.x[index], parts.train.y[index], physical_batch=1024)
            result = align(grads, recipe, budget, generator)
            descend(sgd, result.aggregate)
            aligned.append(float(alignment(result, batch_gradient(result, grads))))
            kept.append(share_kept(result))
    network.eval()
    return {
        "validation": 100 * accuracy(network, parts.validation.x, parts.validation.y),
        "test": 100 * accuracy(network, parts.test.x, parts.test.y),
        "alignment": float(np.mean(aligned)),
        "kept": float(np.mean(kept)),
    }


def mixture(seed: int) -> Parts:
    """10 classes of 3 modes each in 100 dimensions: x = (mode + 2 noise) / sqrt(5), all standard normal."""
    rng = np.random.default_rng([0xA116, seed])
    modes = rng.standard_normal((10, 3, 100))

    def draw(n: int) -> Split:
        y, m = rng.integers(10, size=n), rng.integers(3, size=n)
        x = (modes[y, m] + 2 * rng.standard_normal((n, 100))) / np.sqrt(5)
        return Split(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y))

    return Parts(draw(3000), draw(2000), draw(2000))


def digits(seed: int) -> Parts:
    """The 1,797 digits of scikit-learn, 8 x 8 pixels: 1,100 for training, 297 for validation, 400 for testing."""
    pixels, y = read_digits(CLAIM)
    order = np.random.default_rng([0xD161, seed]).permutation(len(y))
    x = (pixels.reshape(len(y), -1)[order].astype(np.float32) - 8) / 8  # by their range: nothing is learned from them
    parts = [slice(0, 1100), slice(1100, 1397), slice(1397, 1797)]
    return Parts(*(Split(torch.from_numpy(x[p]), torch.from_numpy(y[order][p])) for p in parts))


def _compare(
    method: str,
    baseline: str,
    metric: str,
    yes: str,
    no: str,
    unclear: str,
    margin: float = 0.0,
    headline: bool = False,
) -> Comparison:
    readings: dict[Verdict, str] = {"supported": yes, "not supported": no, "inconclusive": unclear}
    again = DIGITS_AGAIN if metric.startswith("digits") else 0.0
    return Comparison(method, baseline, metric, margin=margin, resplit=again, readings=readings, headline=headline)


claim = Claim(
    statement=(
        "Keeping, in each step of DP-SGD, only the samples whose gradient agrees with the batch gradient raises "
        "accuracy, as long as the similarities themselves carry no noise."
    ),
    data=(
        "a mixture of 30 Gaussians in 100 dimensions (10 classes, 3,000 samples to train on) and scikit-learn's "
        "handwritten digits; sigma 2, clip norm 1, 64 expected samples, 300 steps, best of three learning rates each"
    ),
    arms={
        "dpsgd": "plain DP-SGD",
        "cs": "the filter on similarities without noise (psi 0.07); no guarantee",
        "random": "control: keeps a random share, as large as that of cs",
        "cov": "similarity over the 30 % of coordinates that vary most about their mean (psi 0.03); no guarantee",
        "private": "similarities with noise by the paper's accounting (tau 0.8, lambda 0.05), which spends more",
        "strict divisor": "cs (psi 0.05), but the kept sum divided by the expected batch size; no guarantee",
        "accounted": "corrected sensitivities throughout, at the epsilon of DP-SGD",
    },
    run="zoo.models.grad_align.claim:run",
    primary=_compare(
        "cs", "dpsgd", "accuracy",
        "Dropping misaligned samples raises accuracy when their similarity is known without noise.",
        "Dropping misaligned samples does not raise accuracy, even when their similarity is known without noise.",
        "Whether dropping misaligned samples raises accuracy stays open.",
        margin=1.0,
    ),
    secondary=(
        _compare(
            "cs", "random", "accuracy",
            "The gain comes from which samples are kept: a random share of that size gives less.",
            "A random share of that size does as well.",
            "The filter and a random share of that size are not told apart.",
        ),
        _compare(
            "cs", "dpsgd", "alignment",
            "The steps lie closer to the gradient without clipping and noise.",
            "The steps do not lie closer to the gradient without clipping and noise.",
            "Whether the steps lie closer to the gradient without noise stays open.",
        ),
        _compare(
            "cov", "cs", "accuracy",
            "Aligning only coordinates of high variation is better still.",
            "Aligning only coordinates of high variation is no better than aligning all.",
            "Aligning coordinates of high variation and aligning all are not told apart.",
        ),
        _compare(
            "private", "dpsgd", "accuracy",
            "Some of the gain is left with noisy similarities by the paper's accounting, at a larger epsilon.",
            "No gain is left with noisy similarities by the paper's accounting, although it spends more.",
            "Whether noisy similarities by the paper's accounting leave a gain stays open.",
        ),
        _compare(
            "strict divisor", "dpsgd", "accuracy",
            "The gain survives a divisor that does not depend on who was kept.",
            "With a divisor that does not depend on who was kept, the filter does not help.",
            "Whether the gain survives a divisor that does not depend on who was kept stays open.",
        ),
        _compare(
            "accounted", "dpsgd", "accuracy",
            "The filter helps at equal epsilon under full accounting.",
            "Under full accounting and at equal epsilon the filter does not help.",
            "Whether the filter helps under full accounting stays open.",
            headline=True,
        ),
        _compare(
            "cs", "dpsgd", "digits accuracy",
            "On real digits, too, similarities without noise raise accuracy.",
            "On real digits similarities without noise do not raise accuracy.",
            "On real digits it stays open whether similarities without noise raise accuracy.",
            margin=1.0,
        ),
        Comparison("cs", "random", "digits accuracy", resplit=DIGITS_AGAIN),
        _compare(
            "accounted", "dpsgd", "digits accuracy",
            "On real digits the filter helps at equal epsilon under full accounting.",
            "On real digits the filter does not help under full accounting at equal epsilon.",
            "On real digits it stays open whether the filter helps under full accounting.",
        ),
    ),
    # Table 1 and Sec. 4.2, CIFAR-10: another task and another network, for the direction only
    paper={
        "dpsgd": {"accuracy": 69.33, "alignment": 0.02},
        "cs": {"accuracy": 70.96, "alignment": 0.15},
        "cov": {"accuracy": 73.53, "alignment": 0.10},
        "private": {"accuracy": 69.8},
    },
    falsified_if={
        "the filter without noise gains less than 1 point over DP-SGD": ("cs vs. dpsgd, accuracy",),
        "a random share gains as much": ("cs vs. random, accuracy",),
    },
    changes=(
        "Eight fresh seeds instead of five, with three learning rates instead of five and 300 steps instead of 400 for "
        "the time they take. The intervals on digits are widened, for every seed splits the same images, and two "
        "comparisons on digits are gone, for each makes the correction of the others harder. Settings had been chosen "
        "on the five earlier seeds, which the claim didn't say."
    ),
    seeds=tuple(range(200, 208)),  # named before any of them was run
    tuned_on=(0, 1, 2, 3, 4),  # thresholds, tau, lambda and the rates stand as they were when these had been run
    tuning=(
        "Every arm has the best of the same three rates, chosen on validation data for each seed. Thresholds, tau "
        "and lambda stand as they were when an earlier form of the claim had been run; DP-SGD has none of them."
    ),
)  # fmt: skip
