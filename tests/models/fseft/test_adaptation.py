"""The adapter and its number of parameters, and the size constraint on a whole volume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import media
from zoo.data.case import Case
from zoo.data.scans import Scan, View, read_case
from zoo.data.support import Annotation
from zoo.models.fseft.adaptation import (
    RELEASED,
    Adaptation,
    Fit,
    Prior,
    Query,
    prior_of,
    segmentation_loss,
    size_loss,
)
from zoo.models.fseft.claim import ORGANS, PAPER, RECIPE, draw, overlap, prediction
from zoo.models.fseft.model import Fseft, FseftConfig
from zoo.models.fseft.network import Adapted, Block, Head
from zoo.models.fseft.training import build, pretrain
from zoo.nn.volumetric import UnetBackbone
from zoo.training import Run

WIDTHS = (48, 48)
QUICK = Adaptation(epochs=4, patches=2, gate=False)


def scan_of(seed: int, side: tuple[int, int, int] = (20, 18, 22)) -> Scan:
    """Noise with a bright ball; ``side`` is of z, y and x."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[: side[0], : side[1], : side[2]]
    ball = (z - 9) ** 2 + (y - 9) ** 2 + (x - 8) ** 2 < 30
    image = media.Image(
        (0.3 + 0.4 * ball + 0.1 * rng.random(side)).astype(np.float32), spacing=(1, 1, 1), ndim_spatial=3
    )
    case = Case(image, str(seed), masks={"ball": ball.astype(np.uint8)})
    return read_case(case, View((1, 1, 1), (0, 1)), {"ball": Annotation("ball", ())}, "fseft")


def network(block: Block = "residual3", seed: int = 0) -> Adapted:
    torch.manual_seed(seed)
    return Adapted(UnetBackbone((4, 6), flat=False), Head(block, (4, 6))).eval()


# ---- what is trained ----


@pytest.mark.parametrize(
    ("block", "parameters"),
    [
        ("none", 49),  # Table 1
        ("residual3", 3 * 62_208 + 288 + 49),
        ("resblock", 124_416 + 49),  # as released
        ("up_block", 209_664 + 2 * 3 * 48 + 49),  # batch normalisation has weights, and the paper's count has none
        ("last", 209_664 + 49),  # Table 1
    ],
)
def test_heads_have_the_number_of_parameters_that_the_paper_or_the_code_states(block: Block, parameters: int) -> None:
    head = Head(block, WIDTHS)
    assert sum(p.numel() for p in head.parameters()) == parameters
    assert sum(p.numel() * 4 for p in head.state_dict().values()) < 2**20  # a stored adapter


def test_an_adapter_whose_last_scale_is_zero_hands_features_on() -> None:
    head = Head("residual3", (4, 6)).train()
    assert head.block is not None
    torch.nn.init.zeros_(head.block.norms[2].weight)
    z = torch.randn(2, 4, 5, 5, 5)
    torch.testing.assert_close(head.block(z), torch.nn.functional.leaky_relu(z, 0.01))


def test_an_mlp_sees_no_neighbours_and_the_spatial_adapter_three_voxels() -> None:
    for block, reach in (("mlp", 0), ("residual3", 3), ("resblock", 2)):
        head = Head(block, (4, 6)).double()
        if block == "resblock":  # without normalisation, which sees all
            head.block.norm1 = head.block.norm2 = torch.nn.Identity()
        z = torch.randn(1, 4, 11, 11, 11, dtype=torch.float64, requires_grad=True)
        head.eval()(z)[0, 0, 5, 5, 5].backward()
        seen = torch.nonzero(z.grad.abs().sum((0, 1)))
        assert (seen - 5).abs().max() == reach, block


@pytest.mark.parametrize("method", ["linear-probe", "adapter", "ft-last", "ft"])
def test_only_the_head_is_trained_and_the_backbone_keeps_its_bits_but_for_ft(method: str) -> None:
    config = FseftConfig("unet", channels=(4, 6), patch=(16, 16, 16), view=View((1, 1, 1), (0, 1)))
    model = Fseft(config).eval()
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    (known,) = model.adapt([scan_of(0)], [scan_of(1)], "ball", method, replace(QUICK, epochs=2), 0)
    after = model.backbone.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    moved = any(not torch.equal(tensor, before[name]) for name, tensor in known.network.backbone.state_dict().items())
    assert moved == (method == "ft")
    assert not any(p.grad is not None for p in model.backbone.parameters())
    assert (known.file is None) == (method == "ft")


# ---- the size ----


@pytest.mark.parametrize("error", ["prior", "voxels"])
def test_the_size_loss_is_zero_in_the_band_and_grows_with_the_distance_to_it(error: str) -> None:
    scale = 1.0 if error == "voxels" else 100.0
    for size, wanted, slope in ((60.0, 25.0, -1), (90.0, 0.0, 0), (114.0, 0.0, 0), (150.0, 35.0, 1)):
        s = torch.tensor(size, requires_grad=True)
        loss = size_loss(s, 100.0, 0.15, error)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(wanted / scale, abs=1e-6)
        assert float(s.grad) == pytest.approx(slope / scale)


@settings(max_examples=30, deadline=None)
@given(size=st.floats(1, 500), gamma=st.floats(0.05, 0.5))
def test_the_released_error_is_relative_to_the_larger_size_which_is_a_constant(size: float, gamma: float) -> None:
    s = torch.tensor(size, dtype=torch.float64, requires_grad=True)
    loss = size_loss(s, 100.0, gamma, "larger")
    off = abs(100 - size) / max(size, 100)
    assert float(loss.detach()) == pytest.approx(max(0.0, off - gamma), abs=1e-9)
    loss.backward()
    wanted = 0.0 if off <= gamma else np.sign(size - 100) / max(size, 100)
    assert float(s.grad) == pytest.approx(wanted, abs=1e-9)


def test_tiles_add_up_to_the_whole_volume_and_their_gradients_to_its_own() -> None:
    net, scan = network(), scan_of(3)
    query = Query(net, scan, (8, 8, 8), Adaptation(overlap=0.0))
    assert len(query._tiles) > 8
    from zoo.nn.windows import sliding_window

    z = sliding_window(net.backbone, scan.x, (8, 8, 8), overlap=0.0)[None].float()
    whole = net.head(z).sigmoid().sum()
    assert query.size(net) == pytest.approx(float(whole.detach()), rel=1e-5)
    prior = Prior(float(whole.detach()) / 2, 0.001, 0.15)  # too large by half of itself
    (2.0 * size_loss(whole, prior.size, prior.gamma)).backward()
    wanted = [p.grad.clone() for p in net.head.parameters()]
    net.head.zero_grad()
    loss = query.constrain(net, prior, Adaptation(lam=2.0), torch.Tensor.backward)
    assert loss == pytest.approx(2 * 0.85, rel=1e-4)
    for parameter, gradient in zip(net.head.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_within_the_band_nothing_gets_a_gradient_and_statistics_are_left_alone() -> None:
    net = network().train()
    query = Query(net, scan_of(3), (16, 16, 16), Adaptation())
    means = [norm.running_mean.clone() for norm in net.head.block.norms]
    assert query.constrain(net, Prior(query.size(net), 0.001, 0.15), Adaptation(), torch.Tensor.backward) == 0
    assert all(p.grad is None for p in net.head.parameters())
    assert all(torch.equal(a, norm.running_mean) for a, norm in zip(means, net.head.block.norms, strict=True))
    assert net.head.training


@pytest.mark.parametrize("block", ["up_block", "resblock"])
def test_windows_of_their_own_are_cut_to_the_volume_or_counted_at_half_resolution(block: Block) -> None:
    net, scan = network(block), scan_of(3, (20, 18, 16))
    how = Adaptation(block=block, pooled=block == "resblock")
    query = Query(net, scan, (16, 16, 16), how)
    torch.nn.init.zeros_(net.head.logit.weight)
    torch.nn.init.zeros_(net.head.logit.bias)
    voxels = scan.x.numel() if block == "up_block" else 32 * 32 * 16  # released: padded to whole windows
    assert query.size(net) == pytest.approx(voxels / 2)


def test_the_prior_is_the_mean_size_and_as_released_without_outliers() -> None:
    scans = [scan_of(i) for i in range(6)]
    big = torch.ones_like(scans[0].y["ball"])
    odd = [*scans[:5], replace(scans[5], y={"ball": big})]
    usual = scans[0].size("ball")
    assert prior_of(scans, "ball", Adaptation()).size == usual
    assert prior_of(odd, "ball", Adaptation()).size == pytest.approx((5 * usual + big.numel()) / 6)
    assert prior_of(odd, "ball", Adaptation(**RELEASED)).size == usual
    assert prior_of(scans, "ball", Adaptation(), ml=2.0).size == pytest.approx(2000)
    assert prior_of(odd, "ball", Adaptation(gamma=None)).gamma > 1
    assert prior_of(scans, "ball", Adaptation(gamma=None)).gamma == 0.15


def test_the_supports_loss_is_dice_of_each_patch_or_cross_entropy_or_both() -> None:
    logits, y = torch.randn(2, 1, 3, 3, 3), (torch.rand(2, 1, 3, 3, 3) > 0.5).float()
    p = logits.sigmoid().flatten(1)
    dice = 1 - (2 * (p * y.flatten(1)).sum(1) + 1) / (p.sum(1) + y.flatten(1).sum(1) + 1)
    entropy = -(y * logits.sigmoid().log() + (1 - y) * (1 - logits.sigmoid()).log()).mean()
    for kind, wanted in (("dice", dice.mean()), ("bce", entropy), ("dice+bce", dice.mean() + entropy)):
        torch.testing.assert_close(segmentation_loss(logits, y, kind), wanted)


# ---- when it acts ----


def test_the_constraint_acts_in_the_last_half_and_the_released_one_once_an_epoch_in_steps_of_its_own() -> None:
    scans = [scan_of(0), scan_of(1)]
    for joint, steps in ((True, 4), (False, 2)):
        net = network()
        how = Adaptation(epochs=4, patches=1, gate=False, joint=joint)
        fit = Fit(net, scans, "ball", "adapter-ti", how, (16, 16, 16))
        fit.prior = Prior(1e6, 0.001, 0.1)  # never reached
        query = Query(net, scans[0], (16, 16, 16), how)
        rng = np.random.default_rng(0)
        held = [step for step in range(fit.steps) if "size_loss" in fit.step(step, [step % 2], rng, query)]
        assert held == ([4, 5, 6, 7] if joint else [5, 7])
        made = next(iter(fit.optimizer.state.values()))["step"]
        assert made == 8 + (0 if joint else steps)


def test_queries_share_the_beginning_and_end_as_if_each_were_alone() -> None:
    config = FseftConfig("unet", channels=(4, 6), patch=(16, 16, 16), view=View((1, 1, 1), (0, 1)))
    model, supports = Fseft(config).eval(), [scan_of(0)]
    both = model.adapt(supports, [scan_of(5), scan_of(6)], "ball", "adapter-ti", QUICK, 0)
    (alone,) = model.adapt(supports, [scan_of(6)], "ball", "adapter-ti", QUICK, 0)
    assert both[1].file == alone.file
    assert both[1].trace == alone.trace
    assert both[0].file != both[1].file
    assert [one["constrained"] for one in alone.trace] == [0, 0, 1, 1]
    assert len(alone.file) < 2**20


@pytest.fixture(scope="module")
def foundation() -> Fseft:
    """A foundation of the claim's kind, pretrained for a few seconds."""
    rng = np.random.default_rng(77)
    recipe = replace(RECIPE, epochs=5)
    sources = [draw(rng, some, target=False) for some in (("a", "b"), ("c",), ("a", "d")) for _ in range(40)]
    with Run(seed=0, device="cpu", progress=False) as chance:
        chance.stage("foundation")
        model = build(recipe, ORGANS)
        pretrain(model, recipe, sources, chance)
    return model.eval()


@pytest.mark.slow
def test_a_constraint_that_begins_too_early_shrinks_correct_masks_and_the_gate_keeps_it_back(foundation: Fseft) -> None:
    """The card's negative trial: at its start faint probabilities add up to far more than the organ."""
    rng = np.random.default_rng(5)
    wanted = {"b": Annotation("b", ())}
    scans = [read_case(draw(rng, ORGANS, target=True), RECIPE.view, wanted, "fseft") for _ in range(8)]
    early = replace(PAPER, epochs=40, bias=None)

    def adapted(method: str, how: Adaptation) -> tuple[float, list]:
        found = foundation.adapt(scans[:5], scans[5:], "b", method, how, 0)
        scores = [overlap(prediction(k, s), s, "b", 0.5) for k, s in zip(found, scans[5:], strict=True)]
        return float(np.mean(scores)), found

    plain, _ = adapted("adapter", early)
    pressed, found = adapted("adapter-ti", replace(early, gate=False))
    gated, held = adapted("adapter-ti", early)
    prior = found[0].prior_ml
    assert prior is not None
    start = [known.trace[19]["size_ml"] / prior[1] for known in found]
    assert min(start) > 1.5  # the sum of probabilities, as a share of the organ's size
    assert pressed < plain - 0.05
    assert gated >= pressed
    opened = [next((k for k, one in enumerate(known.trace) if one["constrained"]), 40) for known in held]
    assert min(opened) > 20
