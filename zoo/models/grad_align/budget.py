"""How a training gets by with its epsilon: the noise and the steps that fit, what both are drawn from, and what
contradicts a guarantee.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from zoo.errors import OptionError
from zoo.models.grad_align.accounting import Accountant, Accounting, batch_cap, smallest_sigma
from zoo.seeds import derive_seed

USUAL_SIGMA = 0.8


@dataclass(frozen=True)
class Budget:
    """What each step spends, and how many steps there are."""

    accountant: Accountant
    count: int  # N, training images
    batch_size: int  # L, expected
    planned: int  # steps of all epochs
    steps: int  # as many of them as epsilon allows
    batch_cap: int | None  # B

    @classmethod
    def settle(
        cls,
        accounting: Accounting,
        count: int,
        batch_size: int,
        epochs: int,
        *,
        sigma: float | None,
        tau: float | None,
        delta: float,
        target: float | None,
    ) -> Budget:
        """``sigma`` None: so large that all steps fit into ``target``, else 0.8. Raises ``OptionError``."""
        if batch_size > count and accounting != "nonprivate":
            raise OptionError(
                f"batch_size {batch_size} is more than the {count} training cases, so its sampling rate is no "
                f"probability; choose a batch_size of at most {count}"
            )
        batch_size = min(batch_size, count)
        rate, planned = batch_size / count, math.ceil(epochs * count / batch_size)
        if sigma is None:
            sigma = USUAL_SIGMA
            if target is not None:
                found = smallest_sigma(accounting, rate, tau, delta, target, planned)
                if found is None:
                    raise OptionError(_unreachable(accounting, rate, tau, delta, target, planned))
                digits = 3 - math.floor(math.log10(found))
                sigma = math.ceil(found * 10**digits) / 10**digits  # four digits, never less
        accountant = Accountant(accounting, rate, sigma, tau, delta)
        steps = planned if target is None else accountant.steps_within(target, planned)
        if steps == 0:
            raise OptionError(
                f"epsilon {target:g} can't be reached: a single step with sigma {sigma:g} spends "
                f"{accountant.epsilon(1):.3g}; raise sigma, or leave it out to have it chosen"
            )
        capped = accounting == "strict" and tau is not None
        cap = batch_cap(count, rate, steps, delta, accountant.epsilon(steps)) if capped else None
        return cls(accountant, count, batch_size, planned, steps, cap)

    @property
    def epoch(self) -> int:
        """Steps of one."""
        return max(1, self.count // self.batch_size)

    def cs_noise_std(self, cs_clip: float) -> float:
        """Standard deviation of the noise on each similarity."""
        if self.accountant.tau is None:
            return 0.0
        # one image moves up to B similarities by 2 lambda each; the paper counts one
        return self.accountant.tau * 2 * cs_clip * math.sqrt(self.batch_cap or 1)

    def announcement(self) -> str:
        """What a training is about to spend, in one line."""
        spender = self.accountant
        if spender.accounting == "nonprivate":
            return "accounting=nonprivate: epsilon is infinite, whatever the noise; set epsilon=... for a guarantee"
        spends = (
            f"sigma {spender.sigma:g}, {spender.epsilon(1):.3f} in the first step and "
            f"{spender.epsilon(self.steps):.3f} in {self.steps} of {self.planned} steps"
        )
        if spender.tau is None:
            return f"DP-SGD: {spends}"
        if spender.accounting == "paper":
            return (
                f"accounting=paper: {spends}; its sensitivity argument is not proven: one image moves the "
                "similarities of the whole batch. accounting=strict holds"
            )
        return (
            f"accounting=strict: {spends}; the noise on the similarities is matched to batches of {self.batch_cap}, "
            "which makes the selection nearly random: compare with filter=none"
        )


@dataclass
class Chance:
    """What batches and noise are drawn from: a secret number or a seed that anyone may know. Survives a resume."""

    key: int
    secret: bool = False

    def generator(self, *of: int | str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.key, *of))

    def state_dict(self) -> dict[str, Any]:
        return {"key": str(self.key), "secret": self.secret}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.key, self.secret = int(state["key"]), state["secret"]


def draw_sample(
    budget: Budget, chance: Chance, step: int, device: torch.device
) -> tuple[Int[np.ndarray, " b"], torch.Generator]:
    """Who is in the batch, each with the sampling rate by itself, at most B of them; and a generator for the noise."""
    rng = chance.generator("sample", step)
    index = np.flatnonzero(rng.random(budget.count) < budget.accountant.sample_rate)
    noise = torch.Generator(device).manual_seed(int(chance.generator("noise", step).integers(2**63)))
    return rng.permutation(index)[: budget.batch_cap], noise


def _unreachable(
    accounting: Accounting, rate: float, tau: float | None, delta: float, target: float, planned: int
) -> str:
    alone = 0.0 if tau is None else Accountant(accounting, rate, math.inf, tau, delta).epsilon(planned)
    if alone > target:
        return (
            f"epsilon {target:g} can't be reached: the noisy similarities alone (tau {tau:g}) spend "
            f"{alone:.3g} in {planned} steps; raise tau, train for fewer epochs, or choose filter=none"
        )
    return (
        f"epsilon {target:g} can't be reached in {planned} steps at delta {delta:g}; "
        "train for fewer epochs, or with more cases"
    )


def refuse_contradictions(
    accounting: Accounting,
    *,
    epsilon: float | None,
    sigma: float | None,
    filter: str,
    quantile: float | None,
    noise: str,
    cs_on: str | None,
    denominator: str | None,
) -> None:
    """Raise ``OptionError`` where fields of a recipe rule out the guarantee that is asked for."""
    if accounting == "nonprivate":
        if epsilon is not None:
            raise OptionError(
                f"epsilon {epsilon:g} asks for a guarantee that accounting=nonprivate doesn't give; "
                "choose accounting=strict, or leave epsilon out"
            )
        return
    if noise == "literal_independent":
        why = "independent draws average out, so the step carries less noise than accounted"
        raise OptionError(f"noise={noise} gives no guarantee: {why}; choose accounting=nonprivate")
    if filter == "random":
        why = "it is a control of the claim"
        raise OptionError(f"filter={filter} gives no guarantee: {why}; choose accounting=nonprivate")
    if quantile is not None and filter != "none":
        raise OptionError("a quantile of the similarities gives no guarantee; give a threshold instead")
    if sigma == 0:
        raise OptionError("sigma 0 gives no guarantee; choose a noise multiplier above 0, or accounting=nonprivate")
    if accounting == "strict" and filter != "none":
        if cs_on == "noisy":
            raise OptionError("accounting=strict needs similarities of clipped gradients; choose cs_on=clipped")
        if denominator not in (None, "expected"):
            raise OptionError(
                f"accounting=strict can't divide by a private count; choose denominator=expected, not {denominator}"
            )
