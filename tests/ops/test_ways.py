"""A library's kernel is taken by the table alone, and only where it gives the operator's answer."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import ops
from zoo.ops import _attention_ways, _library, _trust, _ways, cosine_topk, masked_attention, prototype_similarity
from zoo.ops._library import by_way

CPU = torch.device("cpu")
BF16 = torch.bfloat16


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """A processor that multiplies bfloat16, which nobody has met yet, and a table of one row for it."""
    monkeypatch.setattr(_trust, "identity", lambda device, build: {"device": "Stand-in"})
    monkeypatch.setattr(_library, "_TRUSTED", {})
    monkeypatch.setattr(_library, "_MODE", "auto")
    monkeypatch.setattr(_ways, "abilities", lambda device: frozenset({_ways.TILES}))
    monkeypatch.setenv("ZOO_OPS_CACHE", str(tmp_path))

    def table(operator: str, way: str, **at_least: float) -> None:
        row = _ways.Row(operator, way, "cpu", ("bfloat16",), _ways.TILES, at_least)
        monkeypatch.setattr(_ways, "table", lambda: _ways.Table((row,)))

    table("masked_attention", "sdpa", flops=1000)
    return table


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of attention's ways that ran."""
    ran: list[str] = []

    def counting(name: str, run: Any) -> Any:
        def counted(*arguments: Any) -> torch.Tensor:
            ran.append(name)
            return run(*arguments)

        return counted

    monkeypatch.setattr(_attention_ways, "WAYS", {name: counting(name, f) for name, f in _attention_ways.WAYS.items()})
    return ran


def rows(b: int, h: int, n: int, d: int, dtype: torch.dtype = BF16, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b, h, n, d, generator=generator).to(dtype) for _ in range(3)]


# ---- the table ------------------------------------------------------------------------------------------------------


def test_the_table_is_chosen_from_by_dtype_device_ability_and_size():
    table = ops.ways()
    chosen = table.choose("masked_attention", "cuda", torch.float16, {"tensor cores"}, {"flops": 5e10, "keys": 4096})
    assert chosen == ["varlen", "flex"]
    assert table.choose("masked_attention", "cuda", torch.float16, {"tensor cores"}, {"flops": 5e10}) == ["varlen"]
    assert table.choose("masked_attention", "cuda", torch.float16, {"tensor cores"}, {"flops": 5e9}) == []
    assert table.choose("masked_attention", "cuda", torch.float32, {"tensor cores"}, {"flops": 5e10}) == []
    assert table.choose("masked_attention", "cuda", torch.float16, set(), {"flops": 5e10}) == []
    assert table.choose("masked_attention", "cpu", BF16, {_ways.TILES}, {"flops": 5e10}) == ["sdpa"]
    assert table.choose("icp", "cuda", torch.float16, {"tensor cores"}, {"flops": 5e10}) == []


def test_the_table_names_ways_that_exist_and_survives_writing():
    table = ops.ways()
    assert {f"{row.operator} by {row.way}" for row in table.rows} == set(_library._WAYS)
    assert _ways.read(_ways.written(table)) == table
    assert all(row.why for row in table.rows)


def test_no_row_is_for_float32_on_a_cpu():
    """Nor for float64: what claims were computed by stays as it was."""
    assert {dtype for row in ops.ways().rows if row.device == "cpu" for dtype in row.dtypes} == {"bfloat16"}


def test_abilities_are_those_of_the_processor(monkeypatch):
    for amx, expected in ((True, {_ways.TILES}), (False, set())):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert _ways.abilities.__wrapped__(CPU) == expected


# ---- when a way is taken --------------------------------------------------------------------------------------------


def test_a_row_decides_and_size_dtype_gradient_graph_and_mode_rule_it_out(allowed, counted, monkeypatch):
    q, k, v = rows(1, 2, 16, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masked_attention(q, k, v)
        assert counted
        counted.clear()
        masked_attention(q[:, :, :2], k, v[..., :2])  # other widths
        masked_attention(q[:, :, :1], k[:, :, :1], v[:, :, :1])
        masked_attention(q.float(), k.float(), v.float())
        masked_attention(q, k, v, causal=True)
        masked_attention(q, k, v, bias=torch.zeros(16, 16, dtype=BF16))
        masked_attention(q.clone().requires_grad_(), k, v)
        with ops.by_reference():
            masked_attention(q, k, v)
        torch.compile(lambda x: masked_attention(x, x, x), backend="eager")(q)
        for mode in ("compiled", "reference"):
            with monkeypatch.context() as patch:
                patch.setattr(_library, "_MODE", mode)
                masked_attention(q, k, v)
        assert counted == []
        with torch.no_grad():
            masked_attention(q.clone().requires_grad_(), k, v)
        assert counted == ["sdpa"]


def test_without_the_ability_nothing_changes(allowed, counted, monkeypatch):
    monkeypatch.setattr(_ways, "abilities", lambda device: frozenset())
    masked_attention(*rows(1, 2, 16, 8))
    assert counted == []


def test_a_way_that_answers_otherwise_is_told_of_once_and_never_taken(allowed, monkeypatch):
    q, k, v = rows(1, 2, 16, 8)
    expected = masked_attention(q.clone().requires_grad_(), k, v)
    monkeypatch.setattr(_library, "_TRUSTED", {})
    monkeypatch.setenv("ZOO_OPS_CACHE", "off")
    monkeypatch.setitem(_attention_ways.WAYS, "sdpa", lambda q, *rest: torch.zeros_like(q))
    with pytest.warns(
        RuntimeWarning, match=r"masked_attention by sdpa on Stand-in: its way answers otherwise .* so the z"
    ):
        assert masked_attention(q, k, v).equal(expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert masked_attention(q, k, v).equal(expected)


def test_a_way_that_fails_on_a_later_shape_gives_place_to_the_kernel(allowed, monkeypatch):
    by_sdpa = _attention_ways.by_sdpa

    def fails(q: torch.Tensor, *rest: Any) -> torch.Tensor:
        if q.shape[2] == 16:
            raise RuntimeError("no valid choice\nof a kernel")
        return by_sdpa(q, *rest)

    q, k, v = rows(1, 2, 16, 8)
    expected = masked_attention(q.clone().requires_grad_(), k, v)
    monkeypatch.setitem(_attention_ways.WAYS, "sdpa", fails)
    with pytest.warns(
        RuntimeWarning, match=r"masked_attention by sdpa: no valid choice.* so the zoo's own kernel runs"
    ):
        assert masked_attention(q, k, v).equal(expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert masked_attention(q, k, v).equal(expected)


def test_self_tests_look_at_the_ways_that_may_run_here(allowed):
    found = ops.self_tests(CPU)
    assert found["masked_attention by sdpa"].ok
    assert not any(name.endswith(("by varlen", "by flex", "by matmul")) for name in found)


# ---- each way against the reference ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("name", sorted(set(_library._WAYS) - {"masked_attention by varlen"}))
def test_a_way_answers_as_the_reference_on_the_case_of_its_check(name: str):
    finding = _library.self_test(name, CPU)
    assert finding.ok, finding


@settings(max_examples=40)
@given(
    n=st.sampled_from([1, 7, 40, 130]),
    masks=st.sampled_from(["none", "keys", "queries", "both", "lengths", "lengths and both"]),
    scale=st.sampled_from([None, 0.0, 0.3, -1.0]),
    odd=st.sampled_from([0.0, math.nan, math.inf, -math.inf]),
    seed=st.integers(0, 10_000),
)
def test_sdpa_agrees_with_the_reference(n: int, masks: str, scale: float | None, odd: float, seed: int):
    q, k, v = rows(3, 2, n, 16, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    given: dict[str, Any] = {"scale": scale}
    if masks in ("keys", "both", "lengths and both"):
        given["key_padding_mask"] = torch.rand(3, n, generator=generator) < torch.rand(3, 1, generator=generator)
    if masks in ("queries", "both", "lengths and both"):
        given["query_padding_mask"] = torch.rand(3, n, generator=generator) < 0.4
    if masks.startswith("lengths"):
        given["lengths"] = torch.randint(0, n + 1, (3,), generator=generator)
    if odd:
        (q, k, v)[seed % 3][0, 1, seed % n, 3] = odd
    with ops.by_reference():
        expected = masked_attention(q, k, v, **given)
    with by_way("masked_attention by sdpa"):
        found = masked_attention(q, k, v, **given)
    torch.testing.assert_close(found, expected, rtol=3e-2, atol=3e-2, equal_nan=True)


def varlen(q, k, v, q_starts, k_starts, max_q, max_k, *, scale=None):
    """What torch.nn.attention.varlen documents, one sequence after the other."""
    assert q_starts.dtype == k_starts.dtype == torch.int32
    out = torch.full_like(q, math.nan)
    for i in range(len(q_starts) - 1):
        ours, theirs = slice(q_starts[i], q_starts[i + 1]), slice(k_starts[i], k_starts[i + 1])
        assert 0 <= q_starts[i + 1] - q_starts[i] <= max_q
        assert 0 <= k_starts[i + 1] - k_starts[i] <= max_k
        x, y, z = (part.transpose(0, 1).float() for part in (q[ours], k[theirs], v[theirs]))
        if y.shape[1]:
            out[ours] = (
                torch.nn.functional.scaled_dot_product_attention(x, y, z, scale=scale).transpose(0, 1).to(q.dtype)
            )
    return out


def before_scale(q, k, v, q_starts, k_starts, max_q, max_k):
    return varlen(q, k, v, q_starts, k_starts, max_q, max_k)


@pytest.mark.parametrize("attend", [varlen, before_scale])
def test_varlen_is_given_ragged_sets_without_packing(monkeypatch, attend):
    """On the CPU a stand-in; that on a GPU the library answers so is looked at there, on first use."""
    monkeypatch.setattr(_attention_ways, "_varlen", lambda: attend)
    monkeypatch.setattr(_attention_ways, "_takes_scale", lambda: attend is varlen)
    finding = _library.self_test("masked_attention by varlen", CPU)
    assert finding.ok, finding
    q, k, v = rows(4, 2, 9, 8)
    lengths = torch.tensor([9, 0, 4, 1])
    expected = masked_attention(q, k, v, lengths=lengths)
    with by_way("masked_attention by varlen"):
        torch.testing.assert_close(masked_attention(q, k, v, lengths=lengths), expected, rtol=2e-2, atol=2e-2)
    other = (q, k, v, None, None, lengths, None, None, None, False, 0.5)
    assert _attention_ways.covers("varlen", *other) == (attend is varlen)


def test_sequences_are_the_real_rows_the_padded_keys_and_the_padded_queries():
    queries, keys = _attention_ways.varlen_starts(torch.tensor([2, 0, 3]), 3)
    assert queries.tolist() == [0, 2, 2, 3, 3, 3, 6, 9, 9, 9]
    assert keys.tolist() == [0, 2, 3, 3, 3, 6, 6, 9, 9, 9]


def test_the_library_is_called_as_it_is_declared():
    import inspect

    attend = _attention_ways._varlen()
    if attend is None:
        pytest.skip("torch 2.10 or later")
    names = list(inspect.signature(attend).parameters)
    assert names[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_lays_its_answer_out_as_the_operator_does():
    q, k, v = rows(1, 2, 12, 16, torch.float32)
    bias = (torch.randn(1, 2, 12, 3), torch.randn(1, 2, 12, 4))
    expected = masked_attention(q, k, v, bias=bias, scale=0.3)
    with by_way("masked_attention by flex"):
        found = masked_attention(q, k, v, bias=bias, scale=0.3)
        assert masked_attention(q, k, v, bias=bias, causal=True).shape == expected.shape  # by ours
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.transpose(1, 2).is_contiguous()


def signs(n: int, d: int, generator: torch.Generator) -> torch.Tensor:
    """Rows with four entries of 1 or -1: their lengths are 2 and their cosines exact, and many are equal."""
    x = torch.zeros(n, d)
    x[:, :4] = 2.0 * torch.randint(0, 2, (n, 4), generator=generator) - 1
    return torch.stack([row[torch.randperm(d, generator=generator)] for row in x])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, BF16])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.9])
def test_topk_by_matmul_keeps_the_order_of_equals_across_parts(monkeypatch, dtype, threshold):
    monkeypatch.setattr(sys.modules["zoo.ops.cosine_topk"], "LARGEST_TABLE", 64)
    generator = torch.Generator().manual_seed(0)
    queries, bank = (signs(n, 8, generator).to(dtype) for n in (5, 90))
    queries[4], bank[11] = 0, 0
    for k in (1, 6, 90):
        with ops.by_reference():
            similarity, index = cosine_topk(queries, bank, k, threshold=threshold)
        with by_way("cosine_topk by matmul"):
            found, found_index = cosine_topk(queries, bank, k, threshold=threshold)
        assert found.equal(similarity)
        assert found_index.equal(index)


@pytest.mark.parametrize("metric", ["cosine", "l2", "log"])
def test_prototypes_by_matmul_in_parts(monkeypatch, metric):
    monkeypatch.setattr(sys.modules["zoo.ops.prototype_similarity"], "LARGEST_TABLE", 300)
    generator = torch.Generator().manual_seed(0)
    features = signs(5 * 20, 6, generator).half().view(5, 4, 5, 6).permute(0, 3, 1, 2)
    prototypes = signs(7, 6, generator).half()
    with ops.by_reference():
        expected = prototype_similarity(features, prototypes, metric=metric)
    with by_way("prototype_similarity by matmul"):
        found = prototype_similarity(features, prototypes, metric=metric)
    assert found[0].equal(expected[0])
    assert found[1].equal(expected[1])


@pytest.mark.gpu
def test_every_way_is_good_on_this_gpu():
    device = torch.device("cuda", 0)
    ways = [name for name, (_, here) in _library._WAYS.items() if here(device)]
    assert [finding for finding in (_library.self_test(name, device) for name in ways) if not finding.ok] == []
