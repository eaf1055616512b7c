"""What EWC and LwF add to a loss, by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.data.images import ImageSet, normalise
from zoo.training.continual import Ewc, Lwf, fisher_of

IMAGES = ImageSet(torch.randint(0, 256, (6, 3, 2, 2), generator=torch.Generator().manual_seed(1)).byte(),
                  torch.zeros(6, dtype=torch.long))  # fmt: skip
CPU = torch.device("cpu")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


def test_fisher_is_the_mean_squared_gradient_of_the_networks_own_class():
    model = net()
    found = fisher_of(model, IMAGES, range(6), CPU)["1.bias"]
    logits = model(normalise(IMAGES.batch(range(6))[0]))
    gradient = logits.softmax(1) - F.one_hot(logits.argmax(1), 3)
    assert torch.allclose(found, (gradient**2).mean(0), atol=1e-6)


def test_ewc_pulls_by_what_mattered_and_adds_tasks_up():
    model = net()
    pull, x = Ewc(model, weight=10.0), IMAGES.batch(range(6))[0]
    assert pull(x, model(x)).item() == 0
    pull.finish(IMAGES, range(6), CPU)
    assert pull(x, model(x)).item() == 0
    once = pull.fisher["1.bias"].clone()
    with torch.no_grad():
        model[1].bias += 0.5
    assert pull(x, model(x)).item() == pytest.approx(float(10 / 2 * (once * 0.25).sum()), rel=1e-5)
    pull.finish(IMAGES, range(6), CPU)
    assert pull(x, model(x)).item() == 0
    assert (pull.fisher["1.bias"] > once).all()


def test_lwf_is_the_divergence_from_the_earlier_outputs():
    model = net()
    pull, x = Lwf(model, weight=3.0, temperature=2.0), IMAGES.batch(range(6))[0]
    assert pull(x, model(x)).item() == 0
    pull.finish(IMAGES, [], CPU)
    old = model(x).detach()
    assert pull(x, model(x)).item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        model[1].bias[0] += 1.0
    p, q = (old / 2).softmax(1), (model(x) / 2).softmax(1)
    by_hand = 3 * 4 * (p * (p / q).log()).sum(1).mean()
    assert pull(x, model(x)).item() == pytest.approx(float(by_hand), rel=1e-4)
