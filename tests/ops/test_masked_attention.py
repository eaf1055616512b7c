from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.ops import masked_attention, status
from zoo.ops.masked_attention import reference

COMPILED = status().operators["masked_attention"]["cpu"] == "compiled"
needs_compiled = pytest.mark.skipif(not COMPILED, reason="the operator is not compiled")

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
NAN = float("nan")


def rows_of(b: int, h: int, n: int, d: int, layout: str, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Random rows [b, h, n, d] in one of several memory layouts."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, h, n, d, generator=generator, dtype=torch.float64).to(dtype)
    if layout == "heads inside":  # as a projection leaves them
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "columns outside":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "every second":
        wide = torch.full((b, h, 2 * n, 2 * d), 100.0, dtype=dtype)
        wide[:, :, ::2, ::2] = x
        return wide[:, :, ::2, ::2]
    if layout == "one row expanded":
        return x[:, :, :1].expand(b, h, n, d)
    return x


def biases(kind: str, b: int, h: int, n: int, m: int, dtype: torch.dtype, seed: int) -> Any:
    """A bias of the given kind; m is a multiple of every grid width used here."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    if kind == "decomposed":
        width = next(w for w in (7, 5, 3, 2, 1) if m % w == 0)
        return random(b, h, n, m // width), random(b, h, n, width)
    if kind == "decomposed, shared by heads":
        return random(b, 1, n, m), random(1, 1, 1, 1)
    shape = {
        "full": (b, h, n, m),
        "per head": (h, n, m),
        "per key": (b, 1, 1, m),
        "per query": (b, h, n, 1),
        "shared": (n, m),
        "transposed": (m, n),
    }.get(kind)
    if shape is None:
        return None
    return random(*shape).t() if kind == "transposed" else random(*shape)


BIASES = ("none", "full", "per head", "per key", "per query", "shared", "transposed", "decomposed")


def by_reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    bias = options.pop("bias", None)
    if isinstance(bias, tuple):
        shape = q.shape[:3]
        options["rel_h"], options["rel_w"] = bias[0].expand(*shape, -1), bias[1].expand(*shape, -1)
    else:
        options["bias"] = bias
    options.setdefault("scale", 1 / math.sqrt(max(q.shape[-1], 1)))
    return reference(q, k, v, **options)


@settings(max_examples=100)
@given(
    b=st.integers(0, 3),
    h=st.integers(1, 3),
    n=st.sampled_from([0, 1, 2, 7, 16, 31, 49, 70, 150]),
    m=st.sampled_from([0, 1, 2, 8, 21, 64, 127, 130, 300]),
    d=st.sampled_from([0, 1, 3, 8, 16, 33, 64]),
    dv=st.sampled_from([1, 5, 16, 40]),
    layout=st.sampled_from(["contiguous", "heads inside", "columns outside", "every second", "one row expanded"]),
    dtype=st.sampled_from(list(TOLERANCE)),
    bias=st.sampled_from([*BIASES, "decomposed, shared by heads"]),
    masks=st.sampled_from(["none", "keys", "queries", "both", "lengths", "lengths and both"]),
    causal=st.booleans(),
    scale=st.sampled_from([None, 0.0, 0.3, -1.0]),
    seed=st.integers(0, 10_000),
)
def test_agrees_with_the_reference_forward_and_backward(
    b, h, n, m, d, dv, layout, dtype, bias, masks, causal, scale, seed
):
    if masks.startswith("lengths"):
        m = n
    if layout == "one row expanded" and 0 in (n, m):
        layout = "contiguous"
    generator = torch.Generator().manual_seed(seed)
    q, k = rows_of(b, h, n, d, layout, dtype, seed), rows_of(b, h, m, d, layout, dtype, seed + 1)
    v = rows_of(b, h, m, dv, layout, dtype, seed + 2)
    options: dict[str, Any] = {"causal": causal, "bias": biases(bias, b, h, n, m, dtype, seed + 3)}
    if scale is not None:
        options["scale"] = scale
    if masks in ("keys", "both", "lengths and both"):
        options["key_padding_mask"] = torch.rand(b, m, generator=generator) < torch.rand(b, 1, generator=generator)
    if masks in ("queries", "both", "lengths and both"):
        options["query_padding_mask"] = torch.rand(b, n, generator=generator) < 0.4
    if masks.startswith("lengths"):
        options["lengths"] = torch.randint(0, n + 1, (b,), generator=generator)

    def run(function: Any) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        given = dict(options)
        inputs = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in (q, k, v)]
        if isinstance(given["bias"], tuple):
            given["bias"] = tuple(x.clone().requires_grad_() for x in given["bias"])
            inputs += given["bias"]
        elif given["bias"] is not None:
            given["bias"] = given["bias"].clone().requires_grad_()
            inputs.append(given["bias"])
        out = function(*inputs[:3], **given)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        return out, torch.autograd.grad(out, inputs, weight)

    out, grads = run(masked_attention)
    expected, expected_grads = run(by_reference)
    tolerance = TOLERANCE[dtype]
    assert out.shape == (b, h, n, dv)
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert grad.shape == expected_grad.shape
        atol = tolerance * 10 * (1 + expected_grad.abs().max().item() if expected_grad.numel() else 1)
        torch.testing.assert_close(grad, expected_grad, rtol=10 * tolerance, atol=atol)


@pytest.mark.parametrize("n", [5, 200])
def test_equals_scaled_dot_product_attention(n):
    q, k, v = torch.randn(3, 2, 4, n, 16)
    mask = torch.rand(2, n) < 0.3
    bias = torch.randn(2, 1, n, n)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.masked_fill(mask[:, None, None], -math.inf))
    torch.testing.assert_close(masked_attention(q, k, v, key_padding_mask=mask, bias=bias), expected)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(masked_attention(q, k, v, causal=True), expected)


def test_the_decomposed_bias_is_the_sum_of_its_row_and_column_parts():
    q, k, v = torch.randn(3, 1, 2, 12, 8)
    rel_h, rel_w = torch.randn(1, 2, 12, 3), torch.randn(1, 2, 12, 4)
    table = torch.empty(1, 2, 12, 12)
    for key in range(12):
        table[..., key] = rel_h[..., key // 4] + rel_w[..., key % 4]
    torch.testing.assert_close(
        masked_attention(q, k, v, bias=(rel_h, rel_w)), masked_attention(q, k, v, bias=table), rtol=1e-5, atol=1e-5
    )


def test_sets_of_different_lengths_give_what_each_gives_alone():
    lengths = torch.tensor([115, 1, 16, 0, 37])
    q, k, v = torch.randn(3, 5, 4, 115, 16)
    out = masked_attention(q, k, v, lengths=lengths)
    for i, n in enumerate(lengths.tolist()):
        alone = masked_attention(q[i : i + 1, :, :n], k[i : i + 1, :, :n], v[i : i + 1, :, :n])
        torch.testing.assert_close(out[i : i + 1, :, :n], alone, rtol=0, atol=0 if COMPILED else 1e-6)
        assert out[i, :, n:].eq(0).all()


@pytest.mark.parametrize("poison", [NAN, math.inf])
def test_what_padding_holds_has_no_influence_and_gets_no_gradient(poison):
    lengths = torch.tensor([3, 9])
    real = torch.arange(9) < lengths[:, None]
    clean = [torch.randn(2, 2, 9, 8) for _ in range(3)]
    results = []
    for fill in (0.0, poison):
        inputs = [x.masked_fill(~real[:, None, :, None], fill).requires_grad_() for x in clean]
        out = masked_attention(*inputs, lengths=lengths)
        weight = torch.ones_like(out).masked_fill(~real[:, None, :, None], fill)
        results.append((out, *torch.autograd.grad(out, inputs, weight)))
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected)
        assert found.masked_select(~real[:, None, :, None]).eq(0).all()


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("how", ["mask", "bias", "rel", "no keys"])
def test_a_query_with_nothing_to_attend_to_gives_zeros_and_no_gradient(how, dtype):
    m = 0 if how == "no keys" else 6
    q, k, v = (torch.randn(1, 2, n, 4).to(dtype).requires_grad_() for n in (5, m, m))
    options: dict[str, Any] = {}
    if how == "mask":
        options["key_padding_mask"] = torch.ones(1, 6, dtype=torch.bool)
    if how == "bias":
        options["bias"] = torch.full((5, 6), -math.inf, dtype=dtype)
    if how == "rel":
        rel = torch.full((1, 2, 5, 2), -math.inf, dtype=dtype, requires_grad=True)
        options["bias"] = (rel, torch.zeros(1, 2, 5, 3, dtype=dtype))
    out = masked_attention(q, k, v, **options)
    assert out.eq(0).all()
    grads = torch.autograd.grad(out.sum(), (q, k, v, rel) if how == "rel" else (q, k, v))
    assert all(grad.eq(0).all() for grad in grads)


def test_nan_stays_in_the_rows_that_meet_it():
    q, k, v = torch.randn(3, 1, 1, 20, 8)
    q[0, 0, 3, 2] = NAN
    out = masked_attention(q, k, v)
    assert out[0, 0, 3].isnan().all()
    assert out.isnan().sum() == 8
    k[0, 0, 19, 0] = NAN
    assert masked_attention(q[:, :, 4:], k, v).isnan().all()
    bias = torch.zeros(17, 20)
    bias[5, 7] = math.inf
    out = masked_attention(torch.randn(1, 1, 17, 8), torch.randn(1, 1, 20, 8), v, bias=bias)
    assert out[0, 0, 5].isnan().all()
    assert out.isnan().sum() == 8


@pytest.mark.parametrize("size", [1e-20, 30.0, 1e3, 1e6])
def test_scores_of_any_size_neither_overflow_nor_underflow(size):
    q, k, v = torch.randn(3, 1, 2, 40, 8)
    found = masked_attention(q * size, k, v, scale=1.0)
    expected = by_reference((q * size).double(), k.double(), v.double(), scale=1.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_a_one_hot_row_of_weights_returns_the_value_exactly():
    v = torch.randn(1, 1, 9, 5)
    bias = torch.full((9, 9), -math.inf).fill_diagonal_(3.7)
    out = masked_attention(torch.zeros(1, 1, 9, 4), torch.zeros(1, 1, 9, 4), v, bias=bias)
    torch.testing.assert_close(out, v, rtol=0, atol=0)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("causal", [False, True])
def test_the_gradient_is_the_numerical_one(bias, causal):
    generator = torch.Generator().manual_seed(1)
    q, k = (rows_of(2, 2, n, 3, "heads inside", torch.float64, n).requires_grad_() for n in (5, 6))
    v = torch.randn(2, 2, 6, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    mask = torch.tensor([[False, False, False, False, True, False], [False] * 6])
    added = biases(bias, 2, 2, 5, 6, torch.float64, 3)
    added = () if added is None else added if isinstance(added, tuple) else (added,)
    added = tuple(x.requires_grad_() for x in added)

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *added: torch.Tensor) -> torch.Tensor:
        given: Any = None if not added else added if len(added) == 2 else added[0]
        return masked_attention(q, k, v, key_padding_mask=mask, bias=given, causal=causal)

    assert torch.autograd.gradcheck(run, (q, k, v, *added))


@needs_compiled
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("causal", [False, True])
def test_second_derivatives_are_those_of_the_reference(bias, causal):
    b, h, n, m, d = 2, 2, 4, 6, 3
    q, k, v = (
        rows_of(b, h, r, d, "contiguous", torch.float64, seed).requires_grad_() for r, seed in ((n, 1), (m, 2), (m, 3))
    )
    options = {
        "bias": biases(bias, b, h, n, m, torch.float64, 4),
        "causal": causal,
        "key_padding_mask": torch.tensor([[False] * 5 + [True]] * b),
        "query_padding_mask": torch.tensor([[True] + [False] * 3] * b),
    }
    found = []
    for function in (masked_attention, by_reference):
        (first,) = torch.autograd.grad(function(q, k, v, **options).square().sum(), q, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), (q, k, v)))
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().max() > 0.01
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("scale", [1.0, -1e4])
@pytest.mark.parametrize("bias", [False, True])
def test_no_weight_is_above_1_where_scores_are_rounded_coarsely(dtype, scale, bias):
    b, h, n, m, d = 2, 2, 17, 9, 33
    q, k = (rows_of(b, h, r, d, "contiguous", dtype, seed).mul(1e4) for r, seed in ((n, 1), (m, 2)))
    v, grad = (rows_of(b, h, r, d, "contiguous", dtype, seed) for r, seed in ((m, 3), (n, 4)))
    inputs = [q, k, v, *([rows_of(1, h, 1, m, "contiguous", dtype, 5)] if bias else [])]
    for x in inputs:
        x.requires_grad_()
    padded = torch.arange(n).expand(b, n) % 3 == 0
    out = masked_attention(q, k, v, bias=inputs[3] if bias else None, query_padding_mask=padded, scale=scale)
    found = torch.autograd.grad(out, inputs, grad)
    assert all(x.isfinite().all() for x in found[2:])
    assert not any(x.isnan().any() for x in found)
    most = grad.float().abs().sum(2, keepdim=True)  # of a value: each query's gradient times a weight of at most 1
    assert (found[2].float().abs() <= most * 1.02).all()


def test_padded_queries_are_zero_whatever_the_values_hold():
    q, k, v = (torch.randn(1, 2, 4, 3) for _ in range(3))
    v[0, 0, 1, 0], v[0, 1, 2, 1] = math.inf, NAN
    padded = torch.tensor([[True, False, True, False]])
    for function in (masked_attention, by_reference):
        assert (function(q, k, v, query_padding_mask=padded)[:, :, padded[0]] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", ["none", "per head", "decomposed"])
def test_opcheck(dtype, bias):
    needs_grad = dtype == torch.float64
    q, k, v = (rows_of(2, 2, 6, d, "heads inside", dtype, d).requires_grad_(needs_grad) for d in (3, 3, 4))
    added = biases(bias, 2, 2, 6, 6, dtype, 0)
    rel = added if isinstance(added, tuple) else (None, None)
    dense = None if isinstance(added, tuple) or added is None else added[None].requires_grad_(needs_grad)
    mask, lengths = torch.rand(2, 6) < 0.3, torch.tensor([6, 4])
    arguments = (mask, None, lengths, dense, *rel, False, 0.5)
    torch.library.opcheck(torch.ops.zoo.masked_attention.default, (q, k, v, *arguments))
    with torch.no_grad():
        out, lse = torch.ops.zoo.masked_attention(q, k, v, *arguments)
        torch.library.opcheck(
            torch.ops.zoo.masked_attention_backward.default,
            (torch.randn_like(out), q, k, v, out, lse, *arguments, dense is not None),
        )


@pytest.mark.parametrize("bias", ["none", "per head", "decomposed"])
def test_compiles_as_one_graph_with_its_backward(bias):
    q, k, v = (rows_of(2, 2, 6, 4, "heads inside", torch.float32, seed).requires_grad_() for seed in range(3))
    added = biases(bias, 2, 2, 6, 6, torch.float32, 3)
    lengths = torch.tensor([6, 4])

    def loss(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return masked_attention(q, k, v, bias=added, lengths=lengths).square().sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(q, k, v), (q, k, v))
    expected = torch.autograd.grad(loss(q, k, v), (q, k, v))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiles_by_inductor():
    torch.compiler.reset()
    q, k, v = torch.randn(3, 2, 2, 6, 4)

    def run(q: torch.Tensor) -> torch.Tensor:
        return masked_attention(q * 2, k, v).transpose(1, 2).flatten(2) + 1

    torch.testing.assert_close(torch.compile(run, fullgraph=True)(q), run(q))


@pytest.mark.parametrize("bias", ["none", "shared", "per query", "decomposed"])
def test_the_result_is_the_same_bit_for_bit_for_any_number_of_threads(bias):
    q, k, v = (torch.randn(2, 2, 1100, 8, requires_grad=True) for _ in range(3))
    added = biases(bias, 2, 2, 1100, 1100, torch.float32, 0)
    added = tuple(x.requires_grad_() for x in (added if isinstance(added, tuple) else (added,)) if x is not None)
    given: Any = None if not added else added if len(added) == 2 else added[0]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = masked_attention(q, k, v, bias=given)
            results.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v, *added))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            if COMPILED:
                assert found.equal(expected)
            else:  # the reference leans on BLAS, which splits its sums by thread
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_joining_the_heads_of_the_result_copies_nothing():
    out = masked_attention(*torch.randn(3, 2, 4, 10, 8))
    assert COMPILED is False or out.transpose(1, 2).flatten(2).data_ptr() == out.data_ptr()


def test_autocast_takes_everything_in_its_dtype():
    q, k, v = torch.randn(3, 1, 2, 10, 8)
    bias = torch.randn(10, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = masked_attention(q, k.bfloat16(), v, bias=bias)
    assert found.dtype == torch.bfloat16
    expected = masked_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), bias=bias.bfloat16())
    torch.testing.assert_close(found, expected)


Q, K, V = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 7)
REL = (torch.randn(2, 3, 5, 2), torch.randn(2, 3, 5, 3))


@pytest.mark.parametrize(
    ("q", "k", "v", "options", "message"),
    [
        (Q[0], K, V, {}, r"q must be \[b, h, n, d\]"),
        (Q, K[0], V, {}, r"k must be \[b, h, n, d\]"),
        (Q, K[..., :3], V, {}, r"k must be \[2, 3, m, 4\]"),
        (Q, K, V[:, :, :5], {}, r"v must be \[2, 3, 6, e\]"),
        (Q, K.double(), V, {}, "k must have the dtype of q"),
        (Q.long(), K.long(), V.long(), {}, "q must be float32"),
        (Q, K, V.to("meta"), {}, "v must be on the device of q"),
        (Q, K, V, {"key_padding_mask": torch.zeros(2, 5, dtype=torch.bool)}, "key_padding_mask must be bool of shape"),
        (Q, K, V, {"key_padding_mask": torch.zeros(2, 6)}, "key_padding_mask must be bool"),
        (Q, K, V, {"query_padding_mask": torch.zeros(2, 6, dtype=torch.bool)}, "query_padding_mask must be bool"),
        (Q, K, V, {"lengths": torch.tensor([1, 2])}, "lengths are for self-attention"),
        (K, K, V, {"lengths": torch.tensor([1.0, 2.0])}, "lengths must be int64"),
        (K, K, V, {"lengths": torch.tensor([1, 2, 3])}, r"lengths must be int64 of shape \[2\]"),
        (Q, K, V, {"bias": torch.zeros(5, 5)}, "bias must broadcast"),
        (Q, K, V, {"bias": torch.zeros(5, 6).double()}, "bias must have the dtype"),
        (Q, K, V, {"bias": REL[:1] + REL[:1]}, "must cover the 6 keys"),
        (Q, K, V, {"bias": (REL[0], REL[1][:, :, :4])}, "rel_w must broadcast"),
        (Q, K, V, {"scale": NAN}, "scale must be finite"),
    ],
)
def test_bad_input_is_refused_by_name(q, k, v, options, message):
    with pytest.raises(ValueError, match=message):
        masked_attention(q, k, v, **options)


@pytest.mark.parametrize("lengths", [[-1, 2], [3, 7]])
def test_lengths_out_of_range_are_refused(lengths):
    with pytest.raises(RuntimeError, match="lengths must be between 0 and 6"):
        masked_attention(K, K, V, lengths=torch.tensor(lengths))


@needs_compiled
@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, Q[0], "q must be"),
        (1, K[..., :3], "d of q"),
        (2, V[:, :, :5], "rows of k"),
        (2, V.double(), "dtype of q"),
        (3, torch.zeros(2, 5, dtype=torch.bool), "key_padding_mask must be"),
        (4, torch.zeros(2, 5), "query_padding_mask must be bool"),
        (5, torch.tensor([1, 2]), "lengths need"),
        (6, torch.zeros(1, 1, 5, 5), "bias must broadcast"),
        (7, REL[0], "must come together"),
        (10, math.inf, "scale must be finite"),
    ],
)
def test_the_kernel_itself_refuses_bad_input(position, value, message):
    arguments: list[Any] = [Q, K, V, None, None, None, None, None, None, False, 1.0]
    arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.zoo.masked_attention(*arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n", "m", "d", "dv"), [(1, 1, 1, 1), (70, 130, 64, 64), (200, 63, 33, 100), (65, 65, 256, 7)])
def test_cuda_agrees_with_the_reference_forward_and_backward(dtype, bias, causal, n, m, d, dv):
    q, k = (rows_of(2, 3, i, d, "heads inside", dtype, i).cuda().requires_grad_() for i in (n, m))
    v = rows_of(2, 3, m, dv, "every second", dtype, 3).cuda().requires_grad_()
    added = biases(bias, 2, 3, n, m, dtype, 4)
    added = () if added is None else added if isinstance(added, tuple) else (added,)
    added = tuple(x.cuda().requires_grad_() for x in added)
    options = {
        "bias": None if not added else added if len(added) == 2 else added[0],
        "causal": causal,
        "key_padding_mask": (torch.rand(2, m) < 0.5).cuda(),
        "query_padding_mask": (torch.rand(2, n) < 0.5).cuda(),
    }
    out = masked_attention(q, k, v, **options)
    expected = by_reference(q, k, v, **options)
    weight = torch.randn_like(expected)
    grads = torch.autograd.grad(out, (q, k, v, *added), weight)
    expected_grads = torch.autograd.grad(expected, (q, k, v, *added), weight)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        atol = tolerance * 10 * (1 + expected_grad.abs().max().item())
        torch.testing.assert_close(grad, expected_grad, rtol=10 * tolerance, atol=atol)


@pytest.mark.gpu
def test_cuda_lengths_opcheck_gradcheck_and_wide_heads():
    lengths = torch.tensor([115, 0, 16, 64], device="cuda")
    q, k, v = torch.randn(3, 4, 4, 115, 16, device="cuda")
    out = masked_attention(q, k, v, lengths=lengths)
    torch.testing.assert_close(out, by_reference(q, k, v, lengths=lengths), rtol=1e-4, atol=1e-4)
    q, k, v = (torch.randn(1, 2, 5, 3, dtype=torch.float64, device="cuda", requires_grad=True) for _ in range(3))
    arguments = (None, None, lengths[3:] - 60, None, None, None, True, 0.5)
    torch.library.opcheck(torch.ops.zoo.masked_attention.default, (q, k, v, *arguments))
    assert torch.autograd.gradcheck(lambda q, k, v: masked_attention(q, k, v, causal=True), (q, k, v))
    wide = torch.randn(3, 1, 1, 10, 300, device="cuda")
    torch.testing.assert_close(masked_attention(*wide), by_reference(*wide), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_cuda_follows_the_current_stream():
    q, k, v = torch.randn(3, 2, 4, 300, 64, device="cuda")
    expected = masked_attention(q, k, v)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        busy = torch.randn(4096, 4096, device="cuda")
        for _ in range(10):
            busy = busy @ busy / 64
        found = masked_attention(q + busy[0, 0] * 0, k, v)
    stream.synchronize()
    torch.testing.assert_close(found, expected)


@needs_compiled
def test_bfloat16_is_multiplied_alike_with_and_without_the_processors_products():
    """Odd numbers of columns and keys, padding and NaN; the same process, once for each road."""
    code = """
import torch
from zoo.ops import masked_attention
torch.manual_seed(0)
for n, m, d, e in ((1, 1, 1, 1), (5, 3, 7, 9), (50, 131, 17, 8), (49, 300, 64, 33)):
    q, k, v = (torch.randn(2, 3, rows, columns).bfloat16() for rows, columns in ((n, d), (m, d), (m, e)))
    k[0, 0, -1, 0], v[1, 1, 0, 0] = float("nan"), float("inf")
    mask = torch.zeros(2, m, dtype=torch.bool)
    mask[:, 1 : m // 2] = True
    for options in ({}, {"key_padding_mask": mask}, {"causal": True}, {"bias": torch.randn(n, m).bfloat16()}):
        print(masked_attention(q, k, v, **options).float().flatten().tolist())
"""
    found = []
    for level in ("avx512", "best"):
        environment = {**os.environ, "ZOO_SIMD": level, "ZOO_OPS": "compiled"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.append([torch.tensor(json.loads(line.replace("nan", "NaN").replace("inf", "Infinity")))
                      for line in done.stdout.splitlines()])  # fmt: skip
    assert len(found[0]) == 16
    for expected, other in zip(*found, strict=True):
        torch.testing.assert_close(other, expected, rtol=2e-2, atol=2e-2, equal_nan=True)
