"""What a training spends: Rényi accounting of DP-SGD whose samples were selected by noisy cosine similarities.

One step with a filter releases two things that depend on the same Poisson sample: the selection, made from cosine
similarities, and the noisy sum of the selected gradients. Three readings of what that costs:

- ``nonprivate``: the similarities carry no noise (Table 1 of the paper). Nothing is guaranteed: epsilon is infinite.
- ``paper``: noise tau 2 lambda on each similarity, and the curves of two independently subsampled Gaussians added up
  (Sec. 3.1). Not proven: one image moves the similarities of the whole batch and not only its own, both releases share
  one sample, and the divisor of the step and the fallback of an empty selection depend on who was drawn.
- ``strict``: what makes the argument hold.

  1. At most B images in a batch. Adding one moves at most B similarities, each clipped to a range of 2 lambda, so the
     noise on each is tau 2 lambda sqrt(B). That the cap never cuts is part of delta (``batch_cap``).
  2. Similarities see clipped gradients without the noise of the release, so that the selection, once known, says
     nothing about that noise.
  3. Given the selection of the others, the sum moves by at most C. It is divided by the expected batch size: dividing
     by the number kept would also scale the noise by a number that depends on the added image.
  4. An empty selection gives a step of noise alone; keeping everybody instead would let one image switch all others.
  5. Both releases of a step use one sample, so their likelihood ratios multiply before the subsampling is averaged:
     one subsampled Gaussian with 1/s^2 = 1/sigma^2 + 1/tau^2. Adding the two curves would be too small.

Neighbouring sets differ by one image added or removed, so a patient with several images is protected less. The
guarantee holds for a seed that stays secret, and for the weights: logs of the training are not covered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float

Accounting = Literal["nonprivate", "paper", "strict"]

ORDERS = np.arange(2, 257)
CAP_SHARE = 0.01  # of delta, for a batch that the cap would have to cut
LARGEST_NOISE = 1e4  # a noise multiplier beyond this trains nothing


def rdp(sample_rate: float, noise_multiplier: float, orders: np.ndarray = ORDERS) -> Float[np.ndarray, " orders"]:
    """Rényi divergence of one step of the Poisson-subsampled Gaussian mechanism, at integer orders above 1.

    ``RDP(a) = log sum_k binom(a, k) (1 - q)^(a - k) q^k exp((k^2 - k) / (2 sigma^2)) / (a - 1)``
    (Mironov, Talwar, Zhang: Rényi differential privacy of the sampled Gaussian mechanism, 2019, Sec. 3.3).
    """
    if sample_rate == 0:
        return np.zeros(len(orders))
    if noise_multiplier == 0:
        return np.full(len(orders), math.inf)
    if sample_rate == 1:
        return orders / (2 * noise_multiplier**2)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, orders.max() + 1)))])
    curve = []
    for a in orders:
        k = np.arange(a + 1)
        binomial = log_factorial[a] - log_factorial[k] - log_factorial[a - k]
        weight = (a - k) * math.log1p(-sample_rate) + k * math.log(sample_rate)
        curve.append(np.logaddexp.reduce(binomial + weight + (k**2 - k) / (2 * noise_multiplier**2)) / (a - 1))
    return np.array(curve)


def epsilon_of(curve: Float[np.ndarray, " orders"], delta: float, orders: np.ndarray = ORDERS) -> float:
    """The smallest epsilon that a Rényi curve guarantees at ``delta`` (Balle et al. 2020, Theorem 21), at least 0."""
    return max(0.0, float(np.min(curve + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1))))


@dataclass(frozen=True)
class Accountant:
    """Epsilon after any number of equal steps.

    ``sigma``: noise multiplier of the gradients. ``tau``: that of the similarities; ``None`` where nothing is selected,
    so that each step is plain DP-SGD.
    """

    accounting: Accounting
    sample_rate: float
    sigma: float
    tau: float | None
    delta: float

    @cached_property
    def step(self) -> Float[np.ndarray, " orders"]:
        """The Rényi curve of one step."""
        if self.accounting == "nonprivate" or self.sigma == 0 or self.tau == 0:
            return np.full(len(ORDERS), math.inf)
        if self.tau is None:
            return rdp(self.sample_rate, self.sigma)
        if self.accounting == "paper":
            return rdp(self.sample_rate, self.sigma) + rdp(self.sample_rate, self.tau)
        return rdp(self.sample_rate, together(self.sigma, self.tau))

    def epsilon(self, steps: int) -> float:
        """Spent after ``steps`` steps; 0 before the first, infinite without a guarantee."""
        if steps == 0:
            return 0.0
        capped = self.accounting == "strict" and self.tau is not None
        return epsilon_of(steps * self.step, self.delta * (1 - CAP_SHARE) if capped else self.delta)

    def steps_within(self, target: float, planned: int) -> int:
        """The most steps, up to ``planned``, whose epsilon does not exceed ``target``."""
        low, high = 0, planned
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.epsilon(middle) <= target else (low, middle - 1)
        return low


def together(sigma: float, tau: float) -> float:
    """The noise multiplier of one Gaussian release that tells as much as two, of sigma and tau, on the same sample."""
    return (sigma**-2 + tau**-2) ** -0.5


def smallest_sigma(
    accounting: Accounting, sample_rate: float, tau: float | None, delta: float, target: float, steps: int
) -> float | None:
    """The smallest noise multiplier with which ``steps`` steps stay within ``target``; ``None`` if there is none."""

    def fits(sigma: float) -> bool:
        return Accountant(accounting, sample_rate, sigma, tau, delta).epsilon(steps) <= target

    if not fits(LARGEST_NOISE):
        return None
    low, high = 1e-2, LARGEST_NOISE
    while high / low > 1.0005:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def batch_cap(count: int, sample_rate: float, steps: int, delta: float, epsilon: float) -> int:
    """B: so large that a batch of Poisson sampling passes it in no step, but for a share of ``delta``.

    A mechanism that equals a private one except with probability p is (epsilon, delta + (1 + e^epsilon) p)-private;
    ``CAP_SHARE`` of delta is kept for that.
    """
    from scipy.stats import binom

    failure = CAP_SHARE * delta / (1 + math.exp(min(epsilon, 50.0))) / steps
    return max(1, min(count, int(binom.isf(failure, count, sample_rate))))
