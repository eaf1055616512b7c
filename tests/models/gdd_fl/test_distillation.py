"""Eqs. 1-2, the loss of Algorithm 1 by hand, and what a client sends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo.data.images import ImageSet
from zoo.errors import DataError, OptionError
from zoo.models.gdd_fl import distillation as gdd
from zoo.models.gdd_fl.distillation import Distillation, class_loss, client_shift, distil, refuse
from zoo.models.gdd_fl.model import to_network
from zoo.models.gdd_fl.siamese import OPERATIONS, looked_up, moved, siamese
from zoo.nn.instance_nets import ConvNet, InstanceResNet

SMALL = Distillation(extractor_width=8, extractor_depth=2, iterations=5, real_batch=8, augment=())
CPU = torch.device("cpu")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def images(counts: tuple[int, ...] = (9, 6), size: int = 16) -> ImageSet:
    y = [k for k, n in enumerate(counts) for _ in range(n)]
    return ImageSet.of(list(rng(1).integers(0, 255, (len(y), size, size, 3), np.uint8)), y, empty=(3, size, size))


# ---- Eqs. 1-2 --------------------------------------------------------------------------------------------------------


def test_without_spread_nothing_is_shifted() -> None:
    x = torch.randn(1, 3, 5, 5).expand(4, 3, 5, 5)
    loud = (torch.full((4, 3), 9.0), torch.full((4, 3), -9.0))
    torch.testing.assert_close(client_shift(x, loud), x)
    torch.testing.assert_close(client_shift(x[:1], (loud[0][:1], loud[1][:1])), x[:1])  # a batch of one
    assert not torch.allclose(client_shift(x, loud, printed=True), x, atol=0.1)  # the printed formula gives another


def test_the_shift_by_hand() -> None:
    x = torch.tensor([[1.0, 3.0], [4.0, 8.0]]).view(2, 1, 1, 2)  # means 2 and 6, deviations 1 and 2
    moved_ = client_shift(x, (torch.tensor([[0.5]]), torch.tensor([[1.0]])))
    # spreads: of means 2, of deviations .5; new means 3 and 7, new deviations 1.5 and 2.5
    torch.testing.assert_close(moved_.flatten(), torch.tensor([1.5, 4.5, 4.5, 9.5]))
    flipped = client_shift(x, (torch.tensor([[0.0]]), torch.tensor([[-50.0]])))
    torch.testing.assert_close(flipped.std((2, 3), correction=0).flatten(), torch.tensor([0.1, 0.2]))  # never negative


@pytest.mark.parametrize("make", [lambda: ConvNet(2, 32, 6, 2), lambda: InstanceResNet(2, 32, 4)])
def test_instance_normalisation_takes_the_released_shift_back(make: Any) -> None:
    """Between a convolution and its norm a shift of mean and deviation changes nothing; after the block it does."""
    net, x = make().double(), torch.randn(4, 3, 32, 32, dtype=torch.float64)

    def shift(maps: Tensor) -> Tensor:
        noise = torch.randn(2, *maps.shape[:2], dtype=maps.dtype) / 4
        return client_shift(maps, (noise[0], noise[1]))

    there, here, late = net.features(x), net.features(x, shift), net.features(x, late=shift)
    assert (here - there).abs().max() < 1e-2 * (late - there).abs().max()


# ---- the loss --------------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """An extractor whose answer is known: twice the pixels."""

    def features(self, x: Tensor, shift: Any = None, late: Any = None) -> Tensor:
        return 2 * x.flatten(1)


def test_the_loss_is_the_distance_of_mean_embeddings() -> None:
    real, made = torch.zeros(4, 3, 2, 2), torch.ones(2, 3, 2, 2)
    real[0] += 2  # mean .5; embeddings 1 and 2 in 12 places
    expected = {"dm": 12.0, "dm-doubled": 24.0}
    for method, value in expected.items():
        assert float(class_loss([Twice()], real, made, replace(SMALL, method=method), rng())) == value  # type: ignore[arg-type]


def test_without_the_shift_gdd_is_dm_with_the_loss_doubled() -> None:
    net, real, made = ConvNet(2, 16, 8, 2), torch.randn(6, 3, 16, 16), torch.randn(2, 3, 16, 16)
    grads = []
    for how in (replace(SMALL, p=0.0), replace(SMALL, method="dm-doubled"), replace(SMALL, method="dm")):
        s = made.clone().requires_grad_()
        grads.append(torch.autograd.grad(class_loss([net], real, s, replace(how, augment=OPERATIONS), rng(3)), s)[0])
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[1], 2 * grads[2])
    halved = class_loss([net], real, made, replace(SMALL, p=0.0, objective="mean"), rng(3))
    torch.testing.assert_close(halved, class_loss([net], real, made, replace(SMALL, method="dm"), rng(3)))


def test_the_gradient_is_that_of_finite_differences() -> None:
    net, real, made = (one.double() for one in (ConvNet(2, 8, 4, 1), torch.randn(5, 3, 8, 8), torch.randn(1, 3, 8, 8)))
    made.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: class_loss([net], real, s, SMALL, rng(2)), [made], fast_mode=True)


def test_real_and_synthetic_images_are_changed_alike() -> None:
    x = torch.randn(1, 3, 16, 16)
    for seed in range(12):
        change = siamese(rng(seed))
        torch.testing.assert_close(change(x), change(torch.cat([x, x]))[1:])
    torch.testing.assert_close(looked_up(x, np.array([[1.0, 0, 0], [0, 1, 0]])), x)
    torch.testing.assert_close(moved(x, 2, -3)[0, 0, 2:, :-3], x[0, 0, :-2, 3:])


# ---- a client --------------------------------------------------------------------------------------------------------


def test_distilling_lowers_the_distance_and_the_seed_decides_all() -> None:
    how = replace(SMALL, method="dm", redraw=False, iterations=25, lr=1.0)
    made = distil(images(), how, 2, rng(), CPU)
    assert made.loss < 0.8 * distil(images(), replace(how, iterations=1), 2, rng(), CPU).loss
    assert (made.images.dtype, tuple(made.images.shape), made.y.tolist()) == (torch.uint8, (2, 3, 16, 16), [0, 1])
    assert 0.05 < made.nearest < 1  # it copies nobody
    torch.manual_seed(99)
    assert torch.equal(made.images, distil(images(), how, 2, rng(), CPU).images)
    assert not torch.equal(made.images, distil(images(), how, 2, rng(1), CPU).images)


@pytest.mark.parametrize("counts", [(9, 0), (9, 1)])
def test_a_class_of_fewer_than_two_images_is_skipped_and_nothing_is_sent_for_it(counts: tuple[int, int]) -> None:
    made = distil(images(counts), replace(SMALL, images_per_class=3), 2, rng(), CPU)
    assert made.y.tolist() == [0, 0, 0]
    with pytest.raises(DataError, match="two of no class"):
        distil(images((1, 1)), SMALL, 2, rng(), CPU)


def test_all_readings_distil() -> None:
    joint = {"objective": "joint", "level": "convolution", "shift": "instance", "redraw": False, "message": "float32"}
    for changes in (joint, {"level": "block"}, {"printed": True}, {"images_per_class": 9}, {"shift": "instance"}):
        made = distil(images(), replace(SMALL, augment=OPERATIONS, **changes), 2, rng(), CPU)  # type: ignore[arg-type]
        assert torch.isfinite(made.images.float()).all()


def test_patients_images_are_refused_unless_allowed() -> None:
    for changes in ({"init": "real"}, {"method": "random"}):
        with pytest.raises(OptionError, match="patients' images, which the paper's privacy argument excludes"):
            refuse(replace(SMALL, **changes), 16)  # type: ignore[arg-type]
        refuse(replace(SMALL, allow_real=True, **changes), 16)  # type: ignore[arg-type]
    drawn = distil(images(), replace(SMALL, method="random", images_per_class=2), 2, rng(), CPU)
    assert drawn.nearest == 0
    real = {tuple(view.flatten().tolist()) for view in images().views}
    assert all(tuple(view.flatten().tolist()) in real for view in drawn.images)


def test_an_export_is_the_inverse_of_the_normalisation() -> None:
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(gdd.to_unit(to_network(x)), x)
    assert gdd.to_bytes(torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1)).flatten().tolist() == [0, 128, 255]
    with pytest.raises(DataError, match="diverged at lr=1e"):
        distil(images(), replace(SMALL, lr=1e38, momentum=0.0), 2, rng(), CPU)
    with pytest.raises(OptionError, match="the extractor doesn't fit"):
        refuse(replace(SMALL, extractor_depth=6), 32)
