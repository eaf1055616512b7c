"""The k entries of a bank that are most similar to a query, without the table of all similarities."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.ops import _library, _ways
from zoo.ops._rows import inverse_norm, product, refuse_not_finite, sample, unit, widen


def cosine_topk(
    queries: Float[Tensor, "q d"],
    bank: Float[Tensor, "m d"],
    k: int,
    *,
    threshold: float | None = None,
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    r"""The ``k`` entries of ``bank`` that are most similar to each query, best first.

    With queries :math:`x_i` and entries :math:`y_j` (vectors of length ``d``)

    .. math::
        s_{ij} = \frac{x_i \cdot y_j}{\|x_i\| \|y_j\|}

    in [-1, 1] up to rounding; a query or entry whose norm is at most 1e-8 has similarity 0 with everything. The bank
    needs no normalisation beforehand: it is streamed once, and its norms are computed on the way. Extra memory is
    O(q (d + k)), whatever the size of the bank; where PyTorch's product is taken instead (:func:`zoo.ops.ways`), and a
    table of 16 M similarities at most.

    Args:
        queries: ``[q, d]``; float32, float64, float16 or bfloat16. Half precision is accumulated in float32.
        bank: ``[m, d]``, of the same dtype and on the same device. Any strides; rows that are contiguous are fastest.
            Under autocast both are taken as float32.
        k: how many, from 1 to ``m``.
        threshold: keep only entries with :math:`s_{ij} \ge` this; None keeps all. Compared before the similarity is
            rounded to a half-precision dtype.

    Returns:
        ``(similarity, index)``, both ``[q, k]``, in descending order of similarity and, where that is equal, in
        ascending order of index (int64). Where fewer than ``k`` entries reach the threshold the rest is ``-inf`` with
        index -1. The gradient of the similarities reaches the queries and the entries found.

    Raises:
        ValueError: wrong rank, mixed dtype or device, different ``d``, ``k`` outside 1 to ``m``, a threshold of NaN.
        RuntimeError: on CPU, queries or a bank that are not finite. On CUDA, where that check would stall the stream, a
            similarity of NaN is never among the results. Norms are sums of squares in float32 (float64 for float64):
            entries beyond about 1e18 overflow and count as not finite.

    Source: the retrieval of look-alike cases in C. Santiago et al., Global and Local Explanations for Skin Cancer
    Diagnosis Using Prototypes, 2023, Sec. 2.
    """
    _refuse(queries, bank, k, threshold)
    if _library.autocasts(queries.device):
        queries, bank = queries.float(), bank.float()  # what autocast does for cosine_similarity
    arguments = (queries, bank, k, threshold)
    narrow = queries.dtype != torch.float64 and 0 not in (*queries.shape, *bank.shape)
    found = _ways.take("cosine_topk", arguments, lambda: sizes(queries, bank), {"matmul": by_matmul}, lambda _: narrow)
    if found is not None:
        return found
    if _library.use_compiled("cosine_topk", queries.device):
        return torch.ops.zoo.cosine_topk(*arguments)
    return reference(*arguments)


def reference(
    queries: Float[Tensor, "q d"], bank: Float[Tensor, "m d"], k: int, threshold: float | None = None
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """The operator in plain PyTorch: sort the whole table, then compare the winners again, differentiably."""
    refuse_not_finite(queries=queries, bank=bank)
    with torch.no_grad():
        table = unit(widen(queries)) @ unit(widen(bank)).T
        if threshold is not None:
            table = table.where(table >= threshold, -torch.inf)
        table = table.nan_to_num(-torch.inf, torch.inf, -torch.inf)
        # topk leaves the order of equals open; a stable sort doesn't.
        values, index = (part[:, :k] for part in table.sort(dim=1, descending=True, stable=True))
        found = values > -torch.inf
    winners = widen(bank)[index]
    similarity = (unit(winners) * unit(widen(queries)).unsqueeze(1)).sum(-1)
    return similarity.where(found, -torch.inf).to(queries.dtype), index.where(found, -1)


LARGEST_TABLE = 2**24
"""Similarities that :func:`by_matmul` holds at once."""


def by_matmul(
    queries: Float[Tensor, "q d"], bank: Float[Tensor, "m d"], k: int, threshold: float | None = None
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """The operator by the library's product and ``topk``, a part of the bank at a time; forward alone."""
    refuse_not_finite(queries=queries, bank=bank)
    rows = max(k, LARGEST_TABLE // max(1, len(queries)))
    best = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    scale = inverse_norm(widen(queries))
    for start in range(0, len(bank), rows):
        part = bank[start : start + rows]
        table = product(queries, part.T) * scale * inverse_norm(widen(part)).T
        if threshold is not None:
            table = table.where(table >= threshold, -torch.inf)
        ranks = _ranks(table.nan_to_num(-torch.inf, torch.inf, -torch.inf), start)
        ranks = torch.cat([best, ranks], 1)
        best = ranks.topk(min(k, ranks.shape[1]), 1).values
    index = _LAST - (best & _LAST)
    found = best >> 32 > _NOTHING
    x = (unit(widen(bank[index])) * unit(widen(queries)).unsqueeze(1)).sum(-1)
    return x.where(found, -torch.inf).to(queries.dtype), index.where(found, -1)


_LAST = 2**32 - 1
_NOTHING = -0x7F800001  # the rank of -inf


def _ranks(table: Float[Tensor, "q m"], start: int) -> Int[Tensor, "q m"]:
    """Integers in the order that results have: similarity (float32) in the upper half, then the lower index first."""
    bits = (table + 0.0).view(torch.int32)  # of -0 and 0, which are equal, 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    index = torch.arange(start, start + table.shape[1], device=table.device)
    return (ordered.long() << 32) | (_LAST - index)


def sizes(queries: Tensor, bank: Tensor) -> dict[str, float]:
    """Of a call, as ``ways.json`` names them."""
    q, (m, d) = len(queries), bank.shape
    return {"flops": 2.0 * q * m * d, "columns": d}


def _refuse(queries: Tensor, bank: Tensor, k: int, threshold: float | None) -> None:
    for name, x, shape in (("queries", queries, "[q, d]"), ("bank", bank, "[m, d]")):
        if x.dim() != 2:
            raise ValueError(f"{name} must be {shape}, not of shape {tuple(x.shape)}")
    supported = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    if queries.dtype not in supported:
        raise ValueError(f"queries must be float32, float64, float16 or bfloat16, not {queries.dtype}")
    mixed = _library.autocasts(queries.device) and bank.dtype in supported
    if queries.dtype != bank.dtype and not mixed:
        raise ValueError(f"queries and bank must have the same dtype, not {queries.dtype} and {bank.dtype}")
    if queries.device != bank.device:
        raise ValueError(f"queries and bank must be on the same device, not {queries.device} and {bank.device}")
    if queries.shape[1] != bank.shape[1]:
        raise ValueError(f"queries have d = {queries.shape[1]}, but bank has d = {bank.shape[1]}")
    if not 1 <= k <= bank.shape[0]:
        raise ValueError(f"k must be between 1 and the {bank.shape[0]} entries of bank, not {k}")
    if threshold is not None and threshold != threshold:
        raise ValueError("threshold must be a number or None, not NaN")


def _fake(queries: Tensor, bank: Tensor, k: int, threshold: float | None) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape), queries.new_empty(shape, dtype=torch.int64)


def _save_for_backward(
    ctx: Any, inputs: tuple[Tensor, Tensor, int, float | None], output: tuple[Tensor, Tensor]
) -> None:
    queries, bank, *_ = inputs
    ctx.save_for_backward(queries, bank, output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
    queries, bank, index = ctx.saved_tensors
    found = (index >= 0).unsqueeze(-1)
    chosen = index.clamp_min(0)
    x, y = widen(queries).unsqueeze(1), widen(bank[chosen])
    g = widen(grad).unsqueeze(-1).where(found, 0)
    x_scale, y_scale = inverse_norm(x), inverse_norm(y)
    x_unit, y_unit = x * x_scale, y * y_scale
    cosine = (x_unit * y_unit).sum(-1, keepdim=True)
    grad_queries = (g * (y_unit - cosine * x_unit) * x_scale).sum(1)
    grad_chosen = g * (x_unit - cosine * y_unit) * y_scale
    grad_bank = torch.zeros_like(bank, dtype=grad_chosen.dtype).index_add(
        0, chosen.flatten(), grad_chosen.flatten(0, 1)
    )
    return grad_queries.to(queries.dtype), grad_bank.to(bank.dtype), None, None


def _check(device: torch.device) -> tuple[Tensor, ...]:
    """For the comparison of kernel and reference: small, and both ways of accumulating."""
    found: tuple[Tensor, ...] = ()
    for dtype in (torch.float32, torch.float16):
        queries, bank = (sample((rows, 24), seed).to(device, dtype) for seed, rows in enumerate((3, 300)))
        found += cosine_topk(queries, bank, 7, threshold=0.1)
    return found


def _check_halves(device: torch.device) -> tuple[Tensor, ...]:
    """For the comparison of the library's way: equal entries, entries of no length, and more than one part."""
    found: tuple[Tensor, ...] = ()
    for dtype in (torch.float16, torch.bfloat16):
        queries, bank = (sample((rows, 64), seed).to(device, dtype) for seed, rows in enumerate((4, 300)))
        bank[150:170], bank[7], queries[3] = bank[:20].clone(), 0, 0
        found += cosine_topk(queries, bank, 9, threshold=0.0) + cosine_topk(queries, bank, 300)
    return found


if _library.declare("cosine_topk", _check):
    torch.library.register_fake("zoo::cosine_topk", _fake)
    torch.library.register_autograd("zoo::cosine_topk", _backward, setup_context=_save_for_backward)

_ways.declare("cosine_topk", "matmul", _check_halves)
