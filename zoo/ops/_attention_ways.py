"""PyTorch's own kernels for what ``masked_attention`` computes, where they give its answer: forward alone.

Each takes the arguments of the operator's reference. ``covers`` tells which calls a way is for.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from zoo.ops._rows import sample

WIDEST = 256  # columns per head that the flash kernels hold


def covers(
    way: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_padding_mask: Tensor | None,
    query_padding_mask: Tensor | None,
    lengths: Tensor | None,
    bias: Tensor | None,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    causal: bool,
    scale: float,
) -> bool:
    """Whether ``way`` gives the operator's answer: no bias, or a decomposed one without masks, and never causal."""
    d = q.shape[-1]
    if causal or bias is not None or 0 in (*q.shape, *k.shape, *v.shape) or d != v.shape[-1] or d > WIDEST:
        return False
    masked = key_padding_mask is not None or query_padding_mask is not None
    if way == "flex":
        powers = d in (16, 32, 64, 128)  # what its kernels take in every version
        return rel_h is not None and lengths is None and not masked and powers
    if rel_h is not None:
        return False
    if way == "varlen":
        known = _varlen() is not None and (_takes_scale() or math.isclose(scale, 1 / math.sqrt(d)))
        return lengths is not None and not masked and d % 8 == 0 and known
    return way == "sdpa"


def by_varlen(q: Tensor, k: Tensor, v: Tensor, _keys: None, _queries: None, lengths: Tensor, *rest: Any) -> Tensor:
    """Ragged sets by ``torch.nn.attention.varlen``: padded rows stay where they are, and meet nothing."""
    b, h, n, d = q.shape
    q_starts, k_starts = varlen_starts(lengths, n)
    packed = [rows if rows.stride(-1) == 1 else rows.contiguous() for rows in (_packed(x) for x in (q, k, v))]
    options = {"scale": rest[-1]} if _takes_scale() else {}
    attend = _varlen()
    if attend is None:
        raise RuntimeError(f"torch {torch.__version__} has no torch.nn.attention.varlen")
    out = attend(*packed, q_starts, k_starts, n, n, **options)
    real = torch.arange(n, device=q.device) < lengths[:, None]
    return out.view(b, n, h, d).where(real[:, :, None, None], 0).transpose(1, 2)


def varlen_starts(lengths: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Where the sequences of queries and those of keys begin, for sets of ``n`` rows of which ``lengths`` are real.

    Every set is three sequences: its real rows; no query with the padded keys; the padded queries with no key. So
    nothing has to be packed, and the device is never waited for. Two int32 tensors of 3 b + 1 entries.
    """
    ends = lengths.clamp(0, n)  # a GPU's are not looked at
    first = torch.arange(len(lengths), device=lengths.device) * n
    real, whole = first + ends, first + n
    zero = first.new_zeros(1)
    queries = torch.cat([zero, torch.stack([real, real, whole], 1).flatten()])
    keys = torch.cat([zero, torch.stack([real, whole, whole], 1).flatten()])
    return queries.int(), keys.int()


def by_flex(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    _keys: None,
    _queries: None,
    _lengths: None,
    _bias: None,
    rel_h: Tensor,
    rel_w: Tensor,
    _causal: bool,
    scale: float,
) -> Tensor:
    """A decomposed bias by FlexAttention, compiled on a GPU; on the CPU as it is, which stores the table of scores."""
    width = rel_w.shape[-1]
    attend = _flex(q.device.type == "cuda")
    # No function with a name: type checks at run time would get into what is compiled.
    out = attend(
        q,
        k,
        v,
        score_mod=lambda score, b, h, i, j: score + rel_h[b, h, i, j // width] + rel_w[b, h, i, j % width],
        scale=scale,
    )
    return out.transpose(1, 2).contiguous().transpose(1, 2)


def by_sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_padding_mask: Tensor | None,
    query_padding_mask: Tensor | None,
    lengths: Tensor | None,
    *rest: Any,
) -> Tensor:
    """Padding by ``scaled_dot_product_attention``, which multiplies bfloat16 as the processor does."""
    queries = padded(query_padding_mask, lengths, q.shape[0], q.shape[2], q.device)
    keys = padded(key_padding_mask, lengths, q.shape[0], k.shape[2], q.device)
    # Zeros in place of whatever the padding holds: 0 * NaN would reach the real rows.
    q = q.masked_fill(queries[:, None, :, None], 0)
    k, v = (x.masked_fill(keys[:, None, :, None], 0) for x in (k, v))
    given = key_padding_mask is not None or lengths is not None
    out = F.scaled_dot_product_attention(q, k, v, ~keys[:, None, None] if given else None, scale=rest[-1])
    alone = queries | keys.all(1, keepdim=True)
    return out.masked_fill(alone[:, None, :, None], 0)


def padded(
    mask: Bool[Tensor, "b n"] | None, lengths: Int[Tensor, " b"] | None, b: int, n: int, device: torch.device
) -> Bool[Tensor, "b n"]:
    """True for the rows that a mask, or lengths, leave out."""
    hidden = torch.zeros(b, n, dtype=torch.bool, device=device) if mask is None else mask
    if lengths is None:
        return hidden
    # Not while tracing (a data-dependent branch), and not on devices that a look at the data would stall.
    if device.type == "cpu" and not torch.compiler.is_compiling() and ((lengths < 0) | (lengths > n)).any():
        raise RuntimeError(f"lengths must be between 0 and {n}, got {lengths.tolist()}")
    return hidden | (torch.arange(n, device=device) >= lengths[:, None])


WAYS: dict[str, Callable[..., Tensor]] = {"varlen": by_varlen, "flex": by_flex, "sdpa": by_sdpa}


def _packed(x: Tensor) -> Tensor:
    """[b h n d] as the rows [b n, h, d]; a view where the heads lie inside."""
    return x.transpose(1, 2).flatten(0, 1)


@cache
def _varlen() -> Callable[..., Tensor] | None:
    """It came with torch 2.10."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return cast("Callable[..., Tensor]", varlen_attn)


@cache
def _takes_scale() -> bool:
    """Later than 2.10; before, 1 / sqrt(d) is the only one."""
    attend = _varlen()
    return attend is not None and "scale" in inspect.signature(attend).parameters


@cache
def _flex(compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    # The whole graph: where there have been too many shapes it then fails, instead of running as it is on the CPU.
    attend = torch.compile(flex_attention, dynamic=False, fullgraph=True) if compiled else flex_attention
    return cast("Callable[..., Tensor]", attend)


def check(way: str, attention: Callable[..., Tensor]) -> Callable[[torch.device], tuple[Tensor, ...]]:
    """Calls of ``attention`` that ``way`` covers, for its comparison with the reference.

    Sets with no row and with padding of NaN, sizes on both sides of where libraries change kernels, queries without a
    key, and numbers that are not finite.
    """

    def ask(device: torch.device) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = ()
        for dtype in (torch.bfloat16,) if device.type == "cpu" else (torch.float16, torch.bfloat16):
            for n in (136,) if way == "flex" else (24, 136):  # each shape is compiled
                q, k, v = (sample((3, 2, n, 16), seed).to(device, dtype) for seed in range(3))
                q[0, 0, 1], v[0, 1, 2, 3] = math.nan, math.inf
                if way == "flex":
                    rel = [sample((3, 2, n, side), side).to(device, dtype) for side in (n // 4, 4)]
                    rel[0][1, 0, 5], rel[1][1, 1, 5, :2] = -math.inf, -math.inf
                    found += (attention(q, k, v, bias=(rel[0], rel[1])),)
                    continue
                for x in (q, k, v):
                    x[1, :, 9:] = math.nan
                found += (attention(q, k, v, lengths=torch.tensor([n, 9, 0], device=device)),)
        return found

    return ask
