from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.ops import cosine_filter, status
from zoo.ops.cosine_filter import clip_factors, normal_stream, reference_aggregate, reference_score

COMPILED = status().operators["cosine_filter"]["cpu"] == "compiled"
needs_compiled = pytest.mark.skipif(not COMPILED, reason="the operator is not compiled")

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
MEASURES = ("none", "magnitude", "std", "cov")
# Both sides sum in float64; what is left is the rounding of cosines, clip factors and independent noise to float32.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 3e-6, torch.float16: 3e-6, torch.bfloat16: 3e-6}


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def grads_of(
    b: int, f: int, layout: str = "contiguous", dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0
) -> torch.Tensor:
    """Random gradients [b, f] with a common direction, in one of several memory layouts."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, f, generator=generator, dtype=torch.float64)
    x = (scale * (x + torch.randn(f, generator=generator, dtype=torch.float64))).to(dtype)
    if layout == "transposed":
        return x.t().contiguous().t()
    if layout == "every second":
        spaced = torch.full((2 * b, 2 * f), 100.0, dtype=dtype)
        spaced[::2, ::2] = x
        return spaced[::2, ::2]
    if layout == "one row expanded":
        return x[:1].expand(b, f)
    return x


def noise_of(kind: str, f: int, dtype: torch.dtype) -> tuple[torch.Tensor | None, float, int | None]:
    if kind == "shared":
        return torch.randn(f, generator=torch.Generator().manual_seed(99), dtype=wide(dtype)), 0.2, None
    return (None, 0.05, 12345) if kind == "independent" else (None, 0.0, None)


def plain_dp_sgd(grads: torch.Tensor, clip_norm: float, noise: torch.Tensor, size: float) -> torch.Tensor:
    """(sum of clipped gradients + noise) / size, written out."""
    norms = grads.double().square().sum(1).sqrt().to(wide(grads.dtype))
    factors = (clip_norm / norms.double()).clamp(max=1).to(norms.dtype)
    total = torch.zeros(grads.shape[1], dtype=torch.float64)
    for row, factor in zip(grads, factors, strict=True):
        total += factor.double() * row.double()
    return ((total + noise.double()) / size).to(norms.dtype).to(grads.dtype)


def assert_same_columns(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


@needs_compiled
@settings(max_examples=80)
@given(
    b=st.sampled_from([0, 1, 2, 3, 4, 5, 8, 17, 70]),
    f=st.sampled_from([0, 1, 2, 15, 16, 17, 33, 255, 1023, 1024, 1025, 2500, 4096]),
    layout=st.sampled_from(["contiguous", "transposed", "every second", "one row expanded"]),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(["none", "shared", "independent"]),
    measure=st.sampled_from(MEASURES),
    share=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    clip_norm=st.sampled_from([0.01, 1.0, math.inf]),
    scale=st.sampled_from([1e-3, 1.0, 1e2]),
    broken=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_scores_agree_with_the_reference(b, f, layout, dtype, kind, measure, share, clip_norm, scale, broken, seed):
    grads = grads_of(b, f, layout, dtype, seed, scale) if b else torch.empty(0, f, dtype=dtype)
    if broken and grads.numel():
        grads = grads.clone()
        grads[b // 2, f // 2] = math.nan
        grads[0, -1] = math.inf
    noise, noise_scale, key = noise_of(kind, f, dtype)
    arguments = (grads, noise, noise_scale, key, clip_norm, measure, math.ceil(share * f))
    cosine, norms = torch.ops.zoo.cosine_filter(*arguments)
    expected_cosine, expected_norms = reference_score(*arguments)
    assert cosine.dtype == norms.dtype == wide(dtype)
    assert_same_columns(norms, expected_norms, 1e-6)
    # Where two coordinates tie within rounding at the cut, either may be left out; with a handful that is visible.
    ties = measure != "none" and (layout == "one row expanded" or f < 1000)
    if not ties:
        # The stream of independent noise has the resolution of float32, whatever the dtype.
        tolerance = TOLERANCE[torch.float32 if kind == "independent" else dtype]
        assert_same_columns(cosine, expected_cosine, tolerance)
    assert cosine.isnan().equal(~norms.isfinite())


@needs_compiled
@settings(max_examples=50)
@given(
    b=st.sampled_from([0, 1, 3, 4, 9, 70]),
    f=st.sampled_from([0, 1, 16, 17, 1023, 1025, 2500]),
    layout=st.sampled_from(["contiguous", "transposed", "every second", "one row expanded"]),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(["none", "shared", "independent"]),
    seed=st.integers(0, 10_000),
)
def test_aggregates_agree_with_the_reference(b, f, layout, dtype, kind, seed):
    grads = grads_of(b, f, layout, dtype, seed).clone() if b else torch.empty(0, f, dtype=dtype)
    weights = torch.rand(b, generator=torch.Generator().manual_seed(seed), dtype=wide(dtype))
    if b > 2:
        weights[1] = 0
        grads[1] = math.nan  # never looked at
    noise, noise_scale, key = noise_of(kind, f, dtype)
    arguments = (grads, weights, torch.tensor([0.75, 3.0], dtype=torch.float64), noise, noise_scale, key)
    found, expected = torch.ops.zoo.cosine_filter_aggregate(*arguments), reference_aggregate(*arguments)
    assert found.dtype == dtype
    tolerance = 2e-6 if kind == "independent" and dtype == torch.float64 else None
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("denominator", ["kept", "expected", "printed"])
@pytest.mark.parametrize("size", [None, 64, 37.5])
@pytest.mark.parametrize("dim_measure", [None, "cov"])
def test_threshold_minus_one_is_dp_sgd_bit_for_bit(dtype, denominator, size, dim_measure):
    grads, noise = grads_of(50, 3000, dtype=dtype, scale=0.1), torch.randn(3000)
    options: dict[str, Any] = {
        "denominator": denominator,
        "dim_measure": dim_measure,
        "cs_clip": 0.1,
        "cs_noise_std": 2.0,
    }
    found = cosine_filter(grads, clip_norm=1.0, noise=noise, threshold=-1, expected_batch_size=size, **options)
    assert found.aggregate.equal(plain_dp_sgd(grads, 1.0, noise, size or 50))
    assert found.kept.all()


def test_threshold_minus_one_is_dp_sgd_in_float64_up_to_rounding():
    grads, noise = grads_of(50, 3000, dtype=torch.float64), torch.randn(3000, dtype=torch.float64)
    found = cosine_filter(grads, clip_norm=1.0, noise=noise, threshold=-1)
    torch.testing.assert_close(found.aggregate, plain_dp_sgd(grads, 1.0, noise, 50), rtol=1e-13, atol=1e-15)


def test_threshold_minus_one_keeps_a_sample_of_cosine_minus_one_too():
    grads = torch.tensor([[3.0, 0.0], [-1.0, 0.0]])
    found = cosine_filter(grads, clip_norm=math.inf, threshold=-1)
    assert found.cosine.tolist() == [1.0, -1.0]
    assert found.kept.tolist() == [True, True]


@pytest.mark.parametrize("cs_on", ["noisy", "clipped"])
@pytest.mark.parametrize("measure", [None, "magnitude", "std", "cov"])
@pytest.mark.parametrize("denominator", ["kept", "expected", "printed"])
def test_the_whole_filter_is_the_algorithm_as_written(cs_on, measure, denominator):
    grads, noise = grads_of(40, 1200, scale=0.2, seed=3), 0.5 * torch.randn(1200)
    size, psi, percentile = 32.0, 0.45, 0.7
    g = grads.double()
    clipped = g / (g.norm(dim=1, keepdim=True) / 1.0).clamp(min=1)
    private = clipped + noise.double() / size
    seen = private if cs_on == "noisy" else clipped
    deviation = seen.std(0, unbiased=False)
    column = {
        None: torch.ones(1200),
        "magnitude": seen.abs().mean(0),
        "std": deviation,
        "cov": deviation / seen.mean(0).abs(),
    }[measure]
    chosen = column > column.sort().values[math.ceil(percentile * 1200) - 1] if measure else column > 0
    cosine = torch.cosine_similarity(g.mean(0)[chosen].unsqueeze(0), seen[:, chosen])
    kept = cosine > psi if cosine.gt(psi).any() else torch.ones(40, dtype=torch.bool)
    total = clipped[kept].sum(0)
    expected = {
        "kept": (total + noise) / kept.sum(),
        "expected": (total + noise) / size,
        "printed": private[kept].mean(0),
    }[denominator]

    found = cosine_filter(
        grads,
        clip_norm=1.0,
        noise=noise,
        expected_batch_size=size,
        threshold=psi,
        cs_on=cs_on,
        dim_measure=measure,
        percentile=percentile,
        denominator=denominator,
    )
    torch.testing.assert_close(found.cosine, cosine.float(), rtol=1e-5, atol=1e-6)
    assert found.kept.equal(kept)
    assert 0 < kept.sum() <= 40
    torch.testing.assert_close(found.aggregate, expected.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.norms, grads.norm(dim=1))


def test_independent_noise_is_the_printed_formula_with_the_stream_of_the_seed():
    grads = grads_of(12, 301, scale=0.1, seed=5)
    noise = 0.5 * normal_stream(12, 301, seed=8)
    g = grads.double()
    private = g / g.norm(dim=1, keepdim=True).clamp(min=1) + noise / 16
    cosine = torch.cosine_similarity(g.sum(0, keepdim=True), private)
    found = cosine_filter(
        grads,
        clip_norm=1.0,
        noise="literal_independent",
        noise_std=0.5,
        seed=8,
        expected_batch_size=16,
        threshold=cosine.median().item(),
    )
    torch.testing.assert_close(found.cosine, cosine.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.aggregate, private[found.kept].mean(0).float(), rtol=1e-5, atol=1e-6)
    assert 0 < found.kept.sum() < 12


def test_the_noise_stream_is_philox_and_standard_normal():
    # Known answer of Philox 4x32-10 (Random123) for a counter and a key of zeros.
    words = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    expected = []
    for uniform, turn in (words[:2], words[2:]):
        radius, angle = math.sqrt(-2 * math.log((uniform + 0.5) / 2**32)), 2 * math.pi * turn / 2**32
        expected += [radius * math.cos(angle), radius * math.sin(angle)]
    assert normal_stream(1, 4, seed=0)[0].tolist() == pytest.approx(expected, abs=1e-6)
    x = normal_stream(100, 501, seed=2**62 + 5)
    n = x.numel()
    assert abs(x.mean().item()) < 5 / math.sqrt(n)
    assert abs(x.std().item() - 1) < 5 / math.sqrt(2 * n)
    assert abs((x[:-1] * x[1:]).mean().item()) < 5 / math.sqrt(n)
    assert abs((x[:, :-1] * x[:, 1:]).mean().item()) < 5 / math.sqrt(n)
    assert abs(x.pow(4).mean().item() - 3) < 5 * math.sqrt(96 / n)
    assert not normal_stream(1, 8, seed=1).equal(normal_stream(1, 8, seed=1 + 2**32))
    assert normal_stream(1, 8, seed=1, first_row=3)[0].equal(normal_stream(4, 8, seed=1)[3])


def test_independent_noise_averages_down_and_shared_noise_does_not():
    zeros = torch.zeros(100, 20_000)
    options: dict[str, Any] = {"clip_norm": 1.0, "noise_std": 100.0, "seed": 1, "threshold": -1}
    shared = cosine_filter(zeros, **options).aggregate
    independent = cosine_filter(zeros, noise="literal_independent", **options).aggregate
    assert shared.std().item() == pytest.approx(1.0, rel=0.05)
    assert independent.std().item() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("measure", [None, "magnitude", "std", "cov"])
def test_a_gradient_that_is_not_finite_drops_its_sample_and_is_reported(value, measure):
    grads, noise = grads_of(9, 2000, seed=2), torch.randn(2000)
    broken = grads.clone()
    broken[4, 1234] = value
    options: dict[str, Any] = {
        "clip_norm": 1.0,
        "noise": noise,
        "expected_batch_size": 8,
        "threshold": 0.2,
        "dim_measure": measure,
    }
    found = cosine_filter(broken, **options)
    rest = [i for i in range(9) if i != 4]
    expected = cosine_filter(grads[rest], **options)
    assert found.dropped.nonzero().tolist() == [[4]]
    assert math.isnan(found.cosine[4])
    assert not found.kept[4]
    torch.testing.assert_close(found.cosine[rest], expected.cosine)
    assert found.kept[rest].equal(expected.kept)
    assert found.aggregate.equal(expected.aggregate)


def test_a_batch_without_a_usable_sample_is_noise_alone():
    noise = torch.randn(5)
    for grads in (torch.empty(0, 5), torch.full((3, 5), math.nan)):
        for denominator in ("kept", "expected", "printed"):
            for selection in ({"threshold": 0.1}, {"threshold": -1}, {"quantile": 0.5}):
                found = cosine_filter(
                    grads, clip_norm=1.0, noise=noise, expected_batch_size=4, denominator=denominator, **selection
                )
                torch.testing.assert_close(found.aggregate, noise / 4)
                assert not found.kept.any()


def test_extreme_values_neither_overflow_nor_vanish():
    grads = grads_of(6, 500, seed=1)
    expected = cosine_filter(grads, clip_norm=math.inf, threshold=0.1)
    for scale in (1e-30, 1e30):
        found = cosine_filter(grads * scale, clip_norm=math.inf, threshold=0.1)
        torch.testing.assert_close(found.cosine, expected.cosine)
        torch.testing.assert_close(found.norms / scale, expected.norms)
        assert found.kept.equal(expected.kept)
        torch.testing.assert_close(found.aggregate / scale, expected.aggregate)
    half = cosine_filter(torch.full((2, 1000), 60_000.0, dtype=torch.float16), clip_norm=1.0, threshold=0.5)
    assert half.norms.tolist() == pytest.approx([60_000 * math.sqrt(1000)] * 2)
    # Too long for its own norm: dropped like an infinite one.
    assert cosine_filter(torch.full((2, 100), 3e38), clip_norm=1.0, threshold=0.5).dropped.all()


def test_clipped_gradients_are_no_longer_than_the_clip_norm():
    grads = grads_of(30, 50, scale=0.1)
    norms = grads.norm(dim=1)
    clipped = clip_factors(norms, 0.7)[:, None] * grads
    assert clipped.norm(dim=1).max().item() <= 0.7 * (1 + 1e-6)
    assert (norms < 0.7).any() or norms.min() > 0.7
    assert clip_factors(torch.tensor([0.0, 0.5, 2.0]), 1.0).tolist() == [1.0, 1.0, 0.5]


def test_a_gradient_of_zero_has_cosine_zero():
    grads = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    found = cosine_filter(grads, clip_norm=1.0, threshold=-0.5)
    assert found.cosine[1] == 0
    assert found.kept.tolist() == [True, True]
    assert cosine_filter(grads, clip_norm=1.0, threshold=0.0).kept.tolist() == [True, False]


def test_when_nobody_passes_everybody_is_kept():
    grads = torch.eye(4)
    found = cosine_filter(grads, clip_norm=1.0, threshold=0.9)
    assert found.cosine.lt(0.9).all()
    assert found.kept.all()
    torch.testing.assert_close(found.aggregate, grads.mean(0))


def test_a_quantile_drops_that_share_of_the_usable_samples():
    grads = grads_of(20, 300, seed=4)
    grads[3] = math.nan
    for share, count in ((0.0, 19), (0.1, 17), (0.5, 9), (0.9, 1)):
        found = cosine_filter(grads, clip_norm=1.0, quantile=share)
        assert found.kept.sum() == count
        assert (
            found.cosine[found.kept].min() > found.cosine[~found.kept & ~found.dropped].amax() if count < 19 else True
        )
    assert cosine_filter(grads, clip_norm=1.0, quantile=1.0).kept.sum() == 19  # nobody is above the maximum


def test_cosines_are_clipped_about_the_threshold_and_then_made_noisy():
    grads = grads_of(200, 60, seed=6)
    plain = cosine_filter(grads, clip_norm=1.0, threshold=0.7)
    clipped = cosine_filter(grads, clip_norm=1.0, threshold=0.7, cs_clip=0.05)
    torch.testing.assert_close(clipped.cosine, plain.cosine.clamp(0.65, 0.75))
    assert clipped.kept.equal(plain.kept)
    assert cosine_filter(grads, clip_norm=1.0, threshold=0.9, cs_clip=0.5).cosine.max() <= 1
    noisy = cosine_filter(grads, clip_norm=1.0, threshold=0.7, cs_clip=0.05, cs_noise_std=0.08, seed=1)
    difference = noisy.cosine - clipped.cosine
    assert difference.std().item() == pytest.approx(0.08, rel=0.2)
    assert noisy.kept.equal(noisy.cosine > 0.7)


def test_a_seed_or_a_generator_fixes_every_draw():
    grads = grads_of(16, 100)
    options: dict[str, Any] = {"clip_norm": 1.0, "noise_std": 1.0, "threshold": 0.1, "cs_noise_std": 0.1}
    for noise in ("shared", "literal_independent"):
        one = cosine_filter(grads, noise=noise, seed=3, **options)
        assert all(map(torch.equal, one, cosine_filter(grads, noise=noise, seed=3, **options)))
        assert not one.aggregate.equal(cosine_filter(grads, noise=noise, seed=4, **options).aggregate)
        draws = [
            cosine_filter(grads, noise=noise, generator=torch.Generator().manual_seed(5), **options) for _ in range(2)
        ]
        assert all(map(torch.equal, *draws))
    torch.manual_seed(7)
    draw = 2.0 * torch.randn(100)
    torch.manual_seed(7)
    found = cosine_filter(grads, clip_norm=1.0, noise_std=2.0, threshold=-1)
    assert found.aggregate.equal(cosine_filter(grads, clip_norm=1.0, noise=draw, threshold=-1).aggregate)


def test_ties_at_the_cut_are_left_out_and_no_coordinate_means_cosine_zero():
    grads = torch.tensor([[1.0, 5.0, 5.0, 9.0], [1.0, 5.0, 5.0, -9.0]])
    options: dict[str, Any] = {"clip_norm": math.inf, "threshold": 0.1, "dim_measure": "magnitude"}
    # The measures are 1, 5, 5, 9: the second of them cuts off both fives.
    assert cosine_filter(grads, percentile=0.5, **options).cosine.tolist() == [0.0, 0.0]  # the mean of column 3 is 0
    assert cosine_filter(grads, percentile=0.25, **options).cosine[0].item() == pytest.approx(50 / math.sqrt(50 * 131))
    assert cosine_filter(grads, percentile=1.0, **options).cosine.tolist() == [0.0, 0.0]
    assert cosine_filter(grads[:1], percentile=0.5, **{**options, "dim_measure": "std"}).cosine.tolist() == [0.0]


def test_it_screens_client_updates():
    updates = grads_of(10, 800, seed=9)
    updates[[2, 7]] *= -1
    found = cosine_filter(updates, clip_norm=math.inf, threshold=0.0)
    assert found.kept.logical_not().nonzero().flatten().tolist() == [2, 7]
    torch.testing.assert_close(found.aggregate, updates[found.kept].mean(0), rtol=1e-5, atol=1e-6)


@needs_compiled
@pytest.mark.parametrize("kind", ["none", "shared", "independent"])
@pytest.mark.parametrize("measure", MEASURES)
def test_the_result_is_the_same_bit_for_bit_for_any_number_of_threads(kind, measure):
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for dtype in (torch.float32, torch.float64):
                grads = grads_of(37, 20_011, dtype=dtype)
                noise, noise_scale, key = noise_of(kind, 20_011, dtype)
                cosine, norms = torch.ops.zoo.cosine_filter(grads, noise, noise_scale, key, 1.0, measure, 14_000)
                coefficients = torch.tensor([1.0, 37.0], dtype=torch.float64)
                weights = clip_factors(norms, 1.0)
                out = torch.ops.zoo.cosine_filter_aggregate(grads, weights, coefficients, noise, noise_scale, key)
                results.append((cosine, norms, out))
    finally:
        torch.set_num_threads(before)
    for other in (results[2:4], results[4:6]):
        for one, two in zip(results[:2], other, strict=True):
            assert all(map(torch.equal, one, two))


@needs_compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["none", "shared", "independent"])
def test_opcheck(dtype, kind):
    grads = grads_of(5, 40, "transposed", dtype)
    noise, noise_scale, key = noise_of(kind, 40, dtype)
    torch.library.opcheck(torch.ops.zoo.cosine_filter.default, (grads, noise, noise_scale, key, 1.0, "cov", 20))
    weights, coefficients = torch.rand(5, dtype=wide(dtype)), torch.tensor([1.0, 5.0], dtype=torch.float64)
    arguments = (grads, weights, coefficients, noise, noise_scale, key)
    torch.library.opcheck(torch.ops.zoo.cosine_filter_aggregate.default, arguments)


@pytest.mark.parametrize("noise", ["given", "shared", "literal_independent"])
def test_compiles_as_one_graph(noise):
    draw = 0.1 * torch.randn(64)
    seed = 4 if noise == "literal_independent" else None

    def step(grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return cosine_filter(
            grads * 2,
            clip_norm=1.0,
            noise=draw if noise == "given" else noise,
            noise_std=0.3,
            seed=seed,
            threshold=0.3,
            dim_measure="cov",
            cs_clip=0.2,
        )

    torch.compiler.reset()
    grads = grads_of(6, 64)
    torch.manual_seed(1)
    found = torch.compile(step, fullgraph=True, backend="aot_eager")(grads)
    torch.manual_seed(1)
    for one, two in zip(found, step(grads), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.slow
def test_compiles_by_inductor():
    grads, draw = grads_of(6, 64), torch.randn(64)

    def step(grads: torch.Tensor) -> torch.Tensor:
        return cosine_filter(grads * 2, clip_norm=1.0, noise=draw, quantile=0.5).aggregate + 1

    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(step, fullgraph=True)(grads), step(grads))


def test_nothing_is_differentiable_and_the_input_is_left_alone():
    grads = grads_of(4, 30).requires_grad_()
    before = grads.detach().clone()
    found = cosine_filter(grads, clip_norm=1.0, threshold=0.0)
    assert not found.aggregate.requires_grad
    assert not found.cosine.requires_grad
    assert grads.detach().equal(before)


G = torch.randn(3, 4)


@pytest.mark.parametrize(
    ("grads", "options", "message"),
    [
        (G[0], {}, r"per_sample_grads must be \[b, f\]"),
        (G.long(), {}, "per_sample_grads must be float32"),
        (G[:0], {}, "expected_batch_size must be given"),
        (G, {"expected_batch_size": 0}, "expected_batch_size must be positive"),
        (G, {"expected_batch_size": math.nan}, "expected_batch_size must be positive"),
        (G, {"noise": torch.randn(3)}, r"noise must be \[f\] with f = 4"),
        (G, {"noise": torch.randn(3, 4)}, "noise must be"),
        (G, {"noise": torch.randn(4).double()}, "noise must be torch.float32"),
        (G.double(), {"noise": torch.randn(4)}, "noise must be torch.float64"),
        (G, {"noise": torch.randn(4, device="meta")}, "same device"),
        (G, {"noise": "independent"}, "'literal_independent'"),
        (G, {"noise_std": -1.0}, "noise_std must be"),
        (G, {"noise_std": math.inf}, "noise_std must be"),
        (G, {"clip_norm": 0.0}, "clip_norm must be positive"),
        (G, {"clip_norm": math.nan}, "clip_norm must be positive"),
        (G, {"threshold": None}, "either threshold or quantile"),
        (G, {"quantile": 0.5}, "either threshold or quantile"),
        (G, {"threshold": 1.5}, "threshold must be in"),
        (G, {"threshold": math.nan}, "threshold must be in"),
        (G, {"threshold": None, "quantile": 1.5}, "quantile must be in"),
        (G, {"threshold": None, "quantile": 0.5, "cs_clip": 0.1}, "cs_clip is a range about the threshold"),
        (G, {"cs_clip": 0.0}, "cs_clip must be in"),
        (G, {"cs_noise_std": -0.1}, "cs_noise_std must be"),
        (G, {"cs_on": "raw"}, "cs_on must be one of"),
        (G, {"dim_measure": "var"}, "dim_measure must be None or one of"),
        (G, {"dim_measure": "std", "percentile": 1.1}, "percentile must be in"),
        (G, {"denominator": "batch"}, "denominator must be one of"),
        (G, {"noise": "literal_independent", "denominator": "kept"}, "denominator must be 'printed'"),
        (G, {"seed": 1, "generator": torch.Generator()}, "exclude each other"),
        (G, {"seed": -1}, "seed must be in"),
    ],
)
def test_bad_input_is_refused_by_name(grads, options, message):
    with pytest.raises(ValueError, match=message):
        cosine_filter(grads, **{"clip_norm": 1.0, "threshold": 0.0, **options})


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("cs_on", ["noisy", "clipped"])
def test_noise_that_is_not_finite_is_refused(value, cs_on):
    noise = torch.randn(4)
    noise[2] = value
    for measure in (None, "cov"):
        with pytest.raises(RuntimeError, match="noise must be finite"):
            cosine_filter(G, clip_norm=1.0, noise=noise, threshold=0.0, cs_on=cs_on, dim_measure=measure)


@needs_compiled
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: G[0]}, r"per_sample_grads must be \[b f\]"),
        ({0: G.long()}, "per_sample_grads must be float32"),
        ({1: torch.randn(3)}, r"noise must be \[f\]"),
        ({1: torch.randn(4).double()}, "noise must be float64 for float64"),
        ({3: 1}, "exclude each other"),
        ({4: -1.0}, "clip_norm must be positive"),
        ({5: "var"}, "measure must be"),
        ({6: 5}, "unselected must be in"),
    ],
)
def test_the_scoring_kernel_refuses_bad_input_itself(change, message):
    arguments = [G, torch.randn(4), 1.0, None, 1.0, "cov", 2]
    for position, value in change.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.zoo.cosine_filter(*arguments)


@needs_compiled
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: torch.rand(4)}, r"weights must be \[b\]"),
        ({1: torch.rand(3).double()}, "weights must be float64 for float64"),
        ({2: torch.ones(2)}, "coefficients must be"),
        ({3: torch.randn(5)}, r"noise must be \[f\]"),
    ],
)
def test_the_aggregating_kernel_refuses_bad_input_itself(change, message):
    arguments = [G, torch.rand(3), torch.ones(2, dtype=torch.float64), torch.randn(4), 1.0, None]
    for position, value in change.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.zoo.cosine_filter_aggregate(*arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["none", "shared", "independent"])
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("b", "f", "layout"),
    [
        (64, 5000, "contiguous"),
        (256, 2001, "transposed"),
        (1100, 300, "every second"),
        (1, 1, "contiguous"),
        (0, 4, "contiguous"),
        (4, 0, "contiguous"),
    ],
)
def test_cuda_agrees_with_the_reference(dtype, kind, measure, b, f, layout):
    grads = grads_of(max(b, 1), f, layout, dtype, scale=0.1)[:b].cuda()
    if b > 1 and f > 0:
        grads[b // 2, f // 2] = math.nan
    noise, noise_scale, key = noise_of(kind, f, dtype)
    noise = noise.cuda() if noise is not None else None
    arguments = (grads, noise, noise_scale, key, 1.0, measure, f // 2)
    cosine, norms = torch.ops.zoo.cosine_filter(*arguments)
    expected_cosine, expected_norms = reference_score(*arguments)
    assert_same_columns(norms, expected_norms, 1e-6)
    if measure == "none" or f >= 1000:
        assert_same_columns(cosine, expected_cosine, max(TOLERANCE[dtype], 1e-5 if kind == "independent" else 0))
    weights = torch.where(norms.isfinite(), clip_factors(norms, 1.0), 0)
    coefficients = torch.tensor([0.75, 3.0], dtype=torch.float64, device="cuda")
    arguments = (grads, weights, coefficients, noise, noise_scale, key)
    found, expected = torch.ops.zoo.cosine_filter_aggregate(*arguments), reference_aggregate(*arguments)
    tolerance = 1e-5 if kind == "independent" and dtype == torch.float64 else None
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
def test_cuda_is_dp_sgd_bit_for_bit_repeats_itself_and_passes_opcheck():
    grads, noise = grads_of(50, 3000, scale=0.1), torch.randn(3000)
    expected = plain_dp_sgd(grads, 1.0, noise, 50)
    options: dict[str, Any] = {"clip_norm": 1.0, "noise": noise.cuda()}
    assert cosine_filter(grads.cuda(), threshold=-1, **options).aggregate.cpu().equal(expected)
    one = cosine_filter(grads.cuda(), threshold=0.3, dim_measure="cov", **options)
    two = cosine_filter(grads.cuda(), threshold=0.3, dim_measure="cov", **options)
    assert all(map(torch.equal, one, two))
    torch.library.opcheck(torch.ops.zoo.cosine_filter.default, (grads.cuda(), noise.cuda(), 0.1, None, 1.0, "cov", 9))


@pytest.mark.gpu
def test_cuda_follows_the_current_stream_without_waiting():
    grads, noise = grads_of(64, 100_000).cuda(), torch.randn(100_000, device="cuda")
    expected = cosine_filter(grads, clip_norm=1.0, noise=noise, quantile=0.5, dim_measure="cov")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        busy = torch.randn(4096, 4096, device="cuda")
        for _ in range(10):
            busy = busy @ busy / 64
        late = grads + busy[0, 0] * 0
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = cosine_filter(late, clip_norm=1.0, noise=noise, quantile=0.5, dim_measure="cov")
        finally:
            torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)
