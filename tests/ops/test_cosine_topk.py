from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.ops import cosine_topk, status
from zoo.ops.cosine_topk import reference

COMPILED = status().operators["cosine_topk"]["cpu"] == "compiled"
needs_compiled = pytest.mark.skipif(not COMPILED, reason="the operator is not compiled")

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def rows_of(count: int, d: int, layout: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Random rows [count, d] in one of several memory layouts."""
    x = torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    if layout == "transposed":
        return x.T.contiguous().T
    if layout == "every second":
        wide = torch.full((2 * count, 2 * d), 100.0, dtype=dtype)
        wide[::2, ::2] = x
        return wide[::2, ::2]
    if layout == "part of wider rows":
        return torch.cat([x, x, x], 1)[:, d : 2 * d]
    if layout == "one row expanded":
        return x[:1].expand(count, d)
    return x


def table_of(queries: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """All similarities, written out from the definition in float64."""
    norms = queries.double().norm(dim=1, keepdim=True) * bank.double().norm(dim=1)
    return torch.where(norms > 0, queries.double() @ bank.double().T / norms.clamp_min(1e-300), 0)


def check(
    queries: torch.Tensor, bank: torch.Tensor, k: int, similarity: torch.Tensor, index: torch.Tensor, slack: float
) -> None:
    """The found entries have the similarities stated, are distinct, and are the best within rounding."""
    table = table_of(queries, bank)
    best = table.sort(1, descending=True).values[:, :k]
    torch.testing.assert_close(similarity.double(), best, rtol=slack, atol=slack)
    torch.testing.assert_close(table.gather(1, index), best, rtol=slack, atol=slack)
    assert all(len(set(row)) == k for row in index.tolist())


@settings(max_examples=120)
@given(
    q=st.sampled_from([0, 1, 2, 3, 4, 5, 16, 17, 31, 33, 70, 257, 300]),
    m=st.sampled_from([1, 2, 11, 12, 13, 47, 49, 200, 777]),
    d=st.integers(0, 90),
    k=st.integers(1, 60),
    layout=st.sampled_from(["contiguous", "transposed", "every second", "part of wider rows", "one row expanded"]),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 10_000),
)
def test_finds_the_best_for_any_shape_layout_and_dtype(q, m, d, k, layout, dtype, seed):
    k = min(k, m)
    queries, bank = rows_of(q, d, "contiguous", dtype, seed), rows_of(m, d, layout, dtype, seed + 1)
    similarity, index = cosine_topk(queries, bank, k)
    assert similarity.shape == index.shape == (q, k)
    assert similarity.dtype == dtype
    assert index.dtype == torch.int64
    check(queries, bank, k, similarity, index, TOLERANCE[dtype])
    assert similarity.diff(dim=1).le(0).all()
    expected, _ = reference(queries, bank, k)
    torch.testing.assert_close(similarity, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@settings(max_examples=60)
@given(
    q=st.sampled_from([1, 4, 5, 40]),
    m=st.sampled_from([1, 30, 400]),
    k=st.integers(1, 30),
    threshold=st.floats(-1.5, 1.5),
    seed=st.integers(0, 10_000),
)
def test_below_the_threshold_nothing_is_found(q, m, k, threshold, seed):
    k = min(k, m)
    queries, bank = (
        rows_of(q, 6, "contiguous", torch.float64, seed),
        rows_of(m, 6, "contiguous", torch.float64, seed + 1),
    )
    all_similarity, all_index = cosine_topk(queries, bank, k)
    similarity, index = cosine_topk(queries, bank, k, threshold=threshold)
    kept = all_similarity >= threshold
    assert similarity.equal(all_similarity.where(kept, -torch.inf))
    assert index.equal(all_index.where(kept, -1))


@pytest.mark.parametrize("implementation", [cosine_topk, reference])
def test_the_threshold_itself_is_kept(implementation):
    queries, bank = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.0], [-1.0, 0.0]])
    similarity, index = implementation(queries, bank, 3, threshold=0.0)
    assert index.tolist() == [[1, 0, -1]]
    assert similarity.tolist() == [[1.0, 0.0, -torch.inf]]
    assert implementation(queries, bank, 2, threshold=1.0)[1].tolist() == [[1, -1]]
    assert implementation(queries, bank, 2, threshold=float("inf"))[1].tolist() == [[-1, -1]]
    assert implementation(queries, bank, 3, threshold=-float("inf"))[1].tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("q", [1, 4, 5, 40])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_of_equal_entries_the_lowest_index_comes_first(q, dtype):
    # Small integers, so that equal entries have equal similarities in any order of summation.
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=dtype).repeat(300, 1)
    queries = torch.tensor([[1.0, 0.0]], dtype=dtype).expand(q, 2)
    for k in (1, 7, 320):
        similarity, index = cosine_topk(queries, bank, k)
        expected = [*range(0, 600, 2), *range(1, 600, 2)][:k]
        assert index.tolist() == [expected] * q
        assert similarity.tolist() == [[1.0] * min(k, 300) + [0.0] * max(0, k - 300)] * q


def test_similarity_does_not_depend_on_the_scale_of_its_input():
    queries, bank = torch.randn(6, 16), torch.randn(90, 16)
    expected = cosine_topk(queries, bank, 9)
    for scale in (1e-6, 1e12):
        scaled = bank * torch.linspace(1, 7, 90).unsqueeze(1) * scale
        torch.testing.assert_close(cosine_topk(queries * scale, scaled, 9), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("q", [1, 9])
def test_a_zero_vector_has_similarity_zero_and_no_gradient(q):
    queries = torch.randn(q, 4)
    bank = torch.stack([torch.zeros(4), torch.full((4,), 1e-10), *(-queries)]).requires_grad_()
    queries.requires_grad_()
    similarity, index = cosine_topk(queries, bank, q + 2, threshold=0.0)
    zero = (index == 0) | (index == 1)
    assert zero.sum() == 2 * q
    assert similarity[zero].eq(0).all()
    similarity[zero].sum().backward()
    assert queries.grad.eq(0).all()
    assert bank.grad.eq(0).all()
    with torch.no_grad():
        assert cosine_topk(torch.zeros(q, 4), torch.randn(5, 4), 2)[1].tolist() == [[0, 1]] * q


def test_all_of_a_larger_bank_is_its_sorted_order():
    queries, bank = torch.randn(3, 8, dtype=torch.float64), torch.randn(5000, 8, dtype=torch.float64)
    similarity, index = cosine_topk(queries, bank, 5000)
    expected = table_of(queries, bank).sort(1, descending=True)
    torch.testing.assert_close(similarity, expected.values)
    assert index.equal(expected.indices)


@pytest.mark.parametrize("threshold", [None, 0.1])
def test_the_gradient_is_the_numerical_one(threshold):
    queries = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    bank = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)

    def found(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        similarity, index = cosine_topk(x, y, 3, threshold=threshold)
        return similarity[index >= 0]

    assert torch.autograd.gradcheck(found, (queries, bank))
    assert torch.autograd.gradgradcheck(found, (queries, bank))


def test_the_gradient_equals_the_references():
    queries, bank = torch.randn(6, 7, requires_grad=True), torch.randn(40, 7, requires_grad=True)
    weight = torch.randn(6, 4)
    found = torch.autograd.grad((cosine_topk(queries, bank, 4)[0] * weight).sum(), (queries, bank))
    expected = torch.autograd.grad((reference(queries, bank, 4)[0] * weight).sum(), (queries, bank))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@needs_compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("threshold", [None, 0.2])
def test_opcheck(dtype, threshold):
    needs_grad = dtype == torch.float64
    for layout in ("contiguous", "transposed"):
        queries = rows_of(3, 5, layout, dtype).requires_grad_(needs_grad)
        bank = rows_of(9, 5, layout, dtype, 1).requires_grad_(needs_grad)
        torch.library.opcheck(torch.ops.zoo.cosine_topk.default, (queries, bank, 4, threshold))


def test_compiles_as_one_graph_with_its_backward():
    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return cosine_topk(x, y, 3)[0].square().sum()

    x, y = torch.randn(4, 6, requires_grad=True), torch.randn(20, 6, requires_grad=True)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(x, y), (x, y))
    torch.testing.assert_close(found, torch.autograd.grad(loss(x, y), (x, y)), rtol=1e-4, atol=1e-5)


@needs_compiled
@pytest.mark.parametrize("q", [1, 3, 40, 600])
def test_the_result_is_the_same_bit_for_bit_for_any_number_of_threads(q):
    # Few distinct entries: many ties, across every border between threads.
    queries, bank = torch.randn(q, 33), torch.randn(50, 33).repeat(40, 1)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(cosine_topk(queries, bank, 100))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(a.equal(b) for a, b in zip(results[0], other, strict=True))


NARROW = (torch.float16, torch.bfloat16, torch.int8)


def narrowed(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (127 * rows / rows.abs().amax(1, keepdim=True)).round().to(dtype) if dtype == torch.int8 else rows.to(dtype)


@settings(max_examples=60)
@given(
    q=st.sampled_from([0, 1, 2, 3, 4, 5, 33]),
    m=st.sampled_from([1, 13, 49, 200]),
    d=st.integers(1, 150),
    layout=st.sampled_from(["contiguous", "transposed", "every second", "part of wider rows", "one row expanded"]),
    dtype=st.sampled_from(NARROW),
    seed=st.integers(0, 10_000),
)
def test_a_narrow_bank_is_met_in_single_precision(q, m, d, layout, dtype, seed):
    """What comes of it is what comes of the same numbers in float32."""
    queries = rows_of(q, d, "contiguous", seed=seed)
    bank = narrowed(rows_of(m, d, "contiguous", seed=seed + 1), dtype)
    laid = {"transposed": bank.T.contiguous().T, "one row expanded": bank[:1].expand(m, d)}.get(layout, bank)
    if layout == "every second":
        laid = torch.stack([bank, bank], 2).flatten(1)[:, ::2]
    if layout == "part of wider rows":
        laid = torch.cat([bank, bank, bank], 1)[:, d : 2 * d]
    found, index = cosine_topk(queries, laid, min(m, 5))
    assert found.dtype == torch.float32
    expected, expected_index = cosine_topk(queries, laid.float().contiguous(), min(m, 5))
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6)
    table = table_of(queries, laid)
    torch.testing.assert_close(table.gather(1, index), table.gather(1, expected_index), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("q", [2, 7])
def test_a_narrow_bank_gives_the_queries_their_gradient(dtype, q):
    bank = narrowed(torch.randn(60, 12), dtype)
    queries = torch.randn(q, 12, requires_grad=True)
    gradients = [
        torch.autograd.grad(call(queries, entries, 4)[0].square().sum(), queries)[0]
        for call, entries in ((cosine_topk, bank), (reference, bank), (cosine_topk, bank.float()))
    ]
    for other in gradients[1:]:
        torch.testing.assert_close(gradients[0], other)


def test_autocast_leaves_a_narrow_bank_as_it_is():
    queries, bank = torch.randn(2, 8).bfloat16(), narrowed(torch.randn(9, 8), torch.int8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        similarity, index = cosine_topk(queries, bank, 3)
    expected = cosine_topk(queries.float(), bank, 3)
    assert similarity.equal(expected[0])
    assert index.equal(expected[1])


def test_autocast_takes_both_as_float32():
    queries, bank = torch.randn(2, 8).bfloat16(), torch.randn(9, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        similarity, _ = cosine_topk(queries, bank, 3)
    assert similarity.dtype == torch.float32
    torch.testing.assert_close(similarity, cosine_topk(queries.float(), bank, 3)[0])


Q, B = torch.randn(2, 4), torch.randn(5, 4)


@pytest.mark.parametrize(
    ("queries", "bank", "k", "threshold", "message"),
    [
        (Q[0], B, 1, None, "queries must be"),
        (Q, B[None], 1, None, "bank must be"),
        (Q, B[:, :3], 1, None, "d = 4, but bank has d = 3"),
        (Q.double(), B, 1, None, "same dtype"),
        (Q.half(), B.to(torch.int8), 1, None, "same dtype, or float32 and a narrower one"),
        (Q.to(torch.int8), B.to(torch.int8), 1, None, "queries must be float32"),
        (Q.long(), B.long(), 1, None, "queries must be float32"),
        (Q, B.to("meta"), 1, None, "same device"),
        (Q, B, 0, None, "k must be between 1 and the 5 entries of bank, not 0"),
        (Q, B, 6, None, "k must be between 1 and the 5 entries of bank, not 6"),
        (Q, B[:0], 1, None, "k must be between 1 and the 0 entries"),
        (Q, B, 1, float("nan"), "threshold must be a number"),
    ],
)
def test_bad_input_is_refused_by_name(queries, bank, k, threshold, message):
    with pytest.raises(ValueError, match=message):
        cosine_topk(queries, bank, k, threshold=threshold)


@pytest.mark.parametrize("q", [1, 20])
@pytest.mark.parametrize("which", ["queries", "bank"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_values_that_are_not_finite_are_refused_by_name(which, value, q):
    arguments = {"queries": torch.randn(q, 4), "bank": torch.randn(100, 4)}
    arguments[which][-1, 2] = value
    with pytest.raises(RuntimeError, match=f"{which} must be finite"):
        cosine_topk(**arguments, k=2)


@needs_compiled
@pytest.mark.parametrize(
    ("queries", "bank", "k", "threshold", "message"),
    [
        (Q[0], B, 1, None, r"queries must be \[q d\]"),
        (Q, B[:, :3], 1, None, "same d"),
        (Q, B.double(), 1, None, "same dtype"),
        (Q.to(torch.int8), B.to(torch.int8), 1, None, "same dtype"),
        (Q.long(), B.long(), 1, None, "queries must be float32"),
        (Q, B, 6, None, "k must be between 1 and the 5"),
        (Q, B, 1, float("nan"), "threshold"),
    ],
)
def test_the_kernel_itself_refuses_bad_input(queries, bank, k, threshold, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.zoo.cosine_topk(queries, bank, k, threshold)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "every second"])
@pytest.mark.parametrize(
    ("q", "m", "d", "k"), [(1, 1, 1, 1), (3, 5000, 33, 10), (100, 3000, 64, 70), (65, 129, 16, 129), (0, 4, 4, 2)]
)
def test_cuda_finds_the_best(dtype, layout, q, m, d, k):
    queries, bank = rows_of(q, d, "contiguous", dtype).cuda(), rows_of(m, d, layout, dtype, 1).cuda()
    similarity, index = cosine_topk(queries, bank, k)
    check(queries, bank, k, similarity, index, TOLERANCE[dtype] * 5)
    found, found_index = cosine_topk(queries, bank, k, threshold=0.25)
    assert found.masked_select(found_index < 0).eq(-torch.inf).all()
    assert found_index.masked_select(similarity < 0.2).eq(-1).all()


@pytest.mark.gpu
def test_cuda_ties_nan_and_opcheck():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]], device="cuda").repeat(2000, 1)
    queries = torch.tensor([[1.0, 0.0]], device="cuda").expand(70, 2)
    _, index = cosine_topk(queries, bank, 300)
    assert index.cpu().equal(torch.arange(0, 600, 2).expand(70, -1))
    bank[3] = float("nan")
    similarity, index = cosine_topk(queries[:2], bank[:6], 6)
    assert index.tolist() == [[0, 2, 4, 1, 5, -1]] * 2
    assert not similarity.isnan().any()
    torch.library.opcheck(
        torch.ops.zoo.cosine_topk.default, (queries.contiguous(), torch.randn(90, 2, device="cuda"), 4, 0.3)
    )
