"""What a training spends: against two accountants of Opacus, the paper's numbers, and what must hold for any."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from zoo.models.grad_align.accounting import (
    CAP_SHARE,
    ORDERS,
    Accountant,
    batch_cap,
    epsilon_of,
    rdp,
    smallest_sigma,
    together,
)

SETTINGS = [(64 / 50_000, 0.598, 39_062), (64 / 3000, 2.0, 400), (0.1, 1.2, 100), (0.5, 4.0, 50)]
few = settings(max_examples=25, deadline=None)
noise = st.floats(0.5, 8.0)
rates = st.floats(1e-3, 0.6)


@pytest.mark.parametrize(("rate", "sigma", "steps"), SETTINGS)
def test_renyi_curves_equal_those_of_opacus_at_integer_orders(rate: float, sigma: float, steps: int):
    opacus = pytest.importorskip("opacus.accountants.analysis.rdp")
    orders = np.arange(2, 64)
    theirs = opacus.compute_rdp(q=rate, noise_multiplier=sigma, steps=1, orders=orders)
    assert np.allclose(rdp(rate, sigma, orders), theirs, rtol=1e-6)


@pytest.mark.parametrize(("rate", "sigma", "steps"), SETTINGS)
def test_epsilon_is_within_one_percent_of_opacus_accountant(rate: float, sigma: float, steps: int):
    accountants = pytest.importorskip("opacus.accountants")
    theirs = accountants.RDPAccountant()
    theirs.history = [(sigma, rate, steps)]
    orders = [int(order) for order in ORDERS[:126]]
    expected = theirs.get_epsilon(delta=1e-5, alphas=orders)
    assert Accountant("strict", rate, sigma, None, 1e-5).epsilon(steps) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("rate", "sigma", "steps"), SETTINGS)
def test_a_second_accountant_confirms_it_as_an_upper_bound_within_a_quarter(rate: float, sigma: float, steps: int):
    """Numerical composition of privacy loss variables is nearly exact; Rényi accounting lies above it."""
    accountants = pytest.importorskip("opacus.accountants")
    tight = accountants.PRVAccountant()
    tight.history = [(sigma, rate, steps)]
    exact = tight.get_epsilon(delta=1e-5, eps_error=0.01)
    ours = Accountant("strict", rate, sigma, None, 1e-5).epsilon(steps)
    assert exact - 0.01 <= ours <= 1.25 * exact


def test_the_papers_two_epsilons_come_back():
    """Sec. 4.2: 6.97 for DP-SGD and 7.46 with private similarities fit sigma 0.598 and tau 0.80."""
    rate, steps = 64 / 50_000, 39_062
    assert Accountant("paper", rate, 0.598, None, 1e-6).epsilon(steps) == pytest.approx(6.97, abs=0.01)
    assert Accountant("paper", rate, 0.598, 0.80, 1e-6).epsilon(steps) == pytest.approx(7.46, abs=0.01)


def test_one_sample_for_both_releases_costs_far_more_than_the_paper_counts():
    paper, strict = (Accountant(mode, 64 / 50_000, 0.598, 0.80, 1e-6).epsilon(39_062) for mode in ("paper", "strict"))
    assert strict > 2 * paper


@few
@given(rate=rates, sigma=noise, tau=st.none() | noise, steps=st.integers(1, 2000))
def test_epsilon_grows_with_steps_and_falls_with_noise(rate: float, sigma: float, tau: float | None, steps: int):
    for mode in ("paper", "strict"):
        here = Accountant(mode, rate, sigma, tau, 1e-5)
        assert 0 <= here.epsilon(steps) <= here.epsilon(steps + 50)
        assert Accountant(mode, rate, sigma * 1.3, tau, 1e-5).epsilon(steps) <= here.epsilon(steps)
        if tau is not None:
            assert Accountant(mode, rate, sigma, tau * 1.3, 1e-5).epsilon(steps) <= here.epsilon(steps)
            assert Accountant(mode, rate, sigma, None, 1e-5).epsilon(steps) <= here.epsilon(steps)


@few
@given(rate=rates, sigma=noise, tau=noise)
def test_the_strict_curve_is_never_below_the_papers(rate: float, sigma: float, tau: float):
    strict, paper = (Accountant(mode, rate, sigma, tau, 1e-5).step for mode in ("strict", "paper"))
    assert (strict >= paper * (1 - 1e-9)).all()


@few
@given(rate=rates, sigma=noise, steps=st.integers(1, 500))
def test_more_delta_needs_less_epsilon(rate: float, sigma: float, steps: int):
    curve = steps * rdp(rate, sigma)
    assert epsilon_of(curve, 1e-4) <= epsilon_of(curve, 1e-6)


def test_without_a_guarantee_epsilon_is_infinite():
    assert Accountant("nonprivate", 0.01, 100.0, None, 1e-5).epsilon(1) == math.inf
    assert Accountant("strict", 0.01, 0.0, None, 1e-5).epsilon(1) == math.inf
    assert Accountant("strict", 0.01, 1.0, 1.0, 1e-5).epsilon(0) == 0


def test_the_whole_set_in_every_batch_is_the_plain_gaussian():
    assert np.allclose(rdp(1.0, 2.0), ORDERS / 8)
    assert np.allclose(rdp(1 - 1e-9, 2.0)[:10], ORDERS[:10] / 8, rtol=1e-3)
    assert (rdp(0.0, 2.0) == 0).all()


@few
@given(sigma=noise, tau=noise)
def test_two_releases_tell_as_much_as_one_with_their_joint_noise(sigma: float, tau: float):
    assert np.allclose(rdp(1.0, sigma) + rdp(1.0, tau), rdp(1.0, together(sigma, tau)))


def test_steps_stop_exactly_before_the_target():
    accountant = Accountant("strict", 0.05, 1.0, None, 1e-5)
    steps = accountant.steps_within(4.0, 10_000)
    assert accountant.epsilon(steps) <= 4.0 < accountant.epsilon(steps + 1)
    assert accountant.steps_within(4.0, 3) == 3
    assert accountant.steps_within(1e-9, 10) == 0


@pytest.mark.parametrize("tau", [None, 3.0])
def test_the_smallest_sigma_reaches_the_target_and_no_less_does(tau: float | None):
    sigma = smallest_sigma("strict", 0.03, tau, 1e-5, 3.0, 500)
    assert Accountant("strict", 0.03, sigma, tau, 1e-5).epsilon(500) <= 3.0
    assert Accountant("strict", 0.03, sigma / 1.01, tau, 1e-5).epsilon(500) > 3.0


def test_no_sigma_makes_up_for_loud_similarities():
    assert smallest_sigma("strict", 0.03, 0.5, 1e-5, 1.0, 500) is None


def test_a_batch_passes_the_cap_only_within_its_share_of_delta():
    cap = batch_cap(5163, 64 / 5163, 1614, 1e-5, 8.0)
    overflow = 1614 * binom.sf(cap, 5163, 64 / 5163)
    assert (1 + math.exp(8.0)) * overflow <= CAP_SHARE * 1e-5
    assert 64 < cap < 160
    assert batch_cap(10, 1.0, 5, 1e-5, 1.0) == 10
