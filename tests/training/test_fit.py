"""The plainest of trainings, and what its batches are."""

from __future__ import annotations

import torch

from zoo.training import Run
from zoo.training.fit import Noisy


def test_noise_that_stays_adds_up_and_comes_back_with_a_resumed_run() -> None:
    with Run(None, seed=0, device="cpu", progress=False) as run:
        run.stage("noise")
        clean = torch.zeros(6, 400)
        order = lambda step: torch.arange(6)[step % 2 :: 2]  # noqa: E731
        stained = Noisy(run, clean, order, 0.1, stays=True)
        first = stained.batch(0)
        assert abs(float(first.std()) - 0.1) < 0.01
        stained.batch(1)
        third = stained.batch(2)  # the samples of the first step again
        assert abs(float(third.std()) - 0.1 * 2**0.5) < 0.01
        assert abs(float((third - first).std()) - 0.1) < 0.01
        assert torch.equal(Noisy(run, clean, order, 0.1, stays=True).batch(2), third)
        assert not clean.any()
        fresh = Noisy(run, clean, order, 0.1, stays=False)
        assert abs(float(fresh.batch(2).std()) - 0.1) < 0.01
        assert torch.equal(fresh.batch(2), fresh.batch(2))
        assert Noisy(run, clean, order, 0.0, stays=False).batch(3).eq(0).all()
