"""Exact softmax attention over padded sets and with a decomposed position bias, without the table of weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.ops import _attention_ways, _library, _ways
from zoo.ops._attention_ways import padded
from zoo.ops._rows import sample, widen

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LARGEST_ON_CUDA = 256  # columns per head that the CUDA kernels hold


def masked_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h m d"],
    v: Float[Tensor, "b h m e"],
    *,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    query_padding_mask: Bool[Tensor, "b n"] | None = None,
    lengths: Int[Tensor, " b"] | None = None,
    bias: Float[Tensor, "*bias"] | tuple[Float[Tensor, "#b #h #n y"], Float[Tensor, "#b #h #n x"]] | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "b h n e"]:
    r"""Softmax attention that does no work for padding and never stores ``n x m`` numbers.

    For every set and head, over the keys :math:`j` that take part,

    .. math::
        o_i = \sum_j \frac{\exp(s_{ij})}{\sum_l \exp(s_{il})} v_j, \qquad
        s_{ij} = \mathrm{scale}\; q_i \cdot k_j + b_{ij}

    A query that has no key to attend to (all padded, all biased by -inf, or ``m = 0``) gives zeros, and so does a
    padded query; neither passes a gradient on. What padded rows hold, NaN included, has no influence and gets gradient
    zero.

    Args:
        q: queries. Any strides; float32, float64, float16 or bfloat16. Half precision is accumulated in float32.
        k: keys, of the dtype and on the device of ``q``.
        v: values; ``e`` may differ from ``d``. Under autocast ``q``, ``k``, ``v`` and ``bias`` are taken in autocast's
            dtype.
        key_padding_mask: True marks a padded key, as in ``torch.nn.MultiheadAttention``. Any pattern; it says nothing
            about the queries.
        query_padding_mask: True marks a padded query.
        lengths: for self-attention over ragged sets (``n = m``): of set ``b`` only the first ``lengths[b]`` rows are
            real, as queries and as keys. Can be combined with the masks. Integers from 0 to ``n``.
        bias: added to the scores. Either a tensor that broadcasts to ``[b, h, n, m]`` (it is never expanded), or SAM's
            decomposed relative position ``(rel_h, rel_w)``: the keys form a grid of ``y`` rows and ``x`` columns, row
            by row, with ``m = y x``, and :math:`b_{ij} = \mathrm{rel\_h}_{i,\lfloor j/x \rfloor} +
            \mathrm{rel\_w}_{i, j \bmod x}`. -inf is allowed and masks.
        causal: query ``i`` sees keys ``j <= i`` only (counted from the first row, padding included).
        scale: factor of the products; :math:`1/\sqrt{d}` by default.

    Returns:
        ``[b, h, n, e]`` in the dtype of ``q``, laid out in memory as ``[b, n, h, e]`` so that joining the heads copies
        nothing. Differentiable in ``q``, ``k``, ``v`` and ``bias``; the backward pass computes the weights again, and
        one that is to be differentiated itself (``create_graph``) runs by the reference. NaN, and infinity where it
        makes the score NaN or +inf, spread through the queries that meet them, as in ``softmax``. On CPU the result is
        the same bit for bit for any number of threads (not promised for bfloat16 where the processor has tiles for it
        and no gradient is asked for: see ``zoo.ops.ways``), and bfloat16 is multiplied by the processor's own products
        where it has them; on CUDA the gradient of a broadcast ``bias`` is summed by atomics, in no fixed order.

    Raises:
        ValueError: wrong rank, shape, dtype or device, ``lengths`` with ``n != m``, a scale that is not finite.
        RuntimeError: on CPU, ``lengths`` outside 0 to ``n`` (on CUDA, where that check would stall the stream, they are
            clamped).

    Source: M. Milakov and N. Gimelshein, Online normalizer calculation for softmax, 2018; T. Dao et al.,
    FlashAttention, 2022, Alg. 1 and 4; Y. Li et al., MViTv2, 2022, Sec. 4.1 (decomposed relative position).
    """
    rel_h, rel_w = bias if isinstance(bias, tuple) else (None, None)
    bias = None if isinstance(bias, tuple) else bias
    kind = q.device.type
    if _library.autocasts(q.device):
        narrow = torch.get_autocast_dtype(kind)
        q, k, v = q.to(narrow), k.to(narrow), v.to(narrow)
        bias, rel_h, rel_w = (x if x is None else x.to(narrow) for x in (bias, rel_h, rel_w))
    if scale is None:
        scale = 1 / math.sqrt(max(q.shape[-1], 1))
    _refuse(q, k, v, key_padding_mask, query_padding_mask, lengths, bias, rel_h, rel_w, scale)
    if bias is not None:
        bias = bias[(None,) * (4 - bias.dim())]
    if rel_h is not None and rel_w is not None:  # views: broadcast dimensions have stride 0
        rel_h, rel_w = rel_h.expand(*q.shape[:3], -1), rel_w.expand(*q.shape[:3], -1)
    lengths = lengths if lengths is None else lengths.long()
    arguments = (q, k, v, key_padding_mask, query_padding_mask, lengths, bias, rel_h, rel_w, causal, float(scale))
    found = _ways.take(
        "masked_attention",
        arguments,
        lambda: sizes(q, k, v),
        _attention_ways.WAYS,
        lambda way: _attention_ways.covers(way, *arguments),
    )
    if found is not None:
        return found
    fits = kind != "cuda" or max(q.shape[-1], v.shape[-1]) <= LARGEST_ON_CUDA
    if _library.use_compiled("masked_attention", q.device) and fits:
        return torch.ops.zoo.masked_attention(*arguments)[0]
    return reference(*arguments)


def sizes(q: Tensor, k: Tensor, v: Tensor) -> dict[str, float]:
    """Of a call, as ``ways.json`` names them; the operations are those of all pairs, padding included."""
    b, h, n, d = q.shape
    m, e = v.shape[2:]
    return {"flops": 2.0 * b * h * n * m * (d + e), "keys": m, "columns": d}


def reference(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h m d"],
    v: Float[Tensor, "b h m e"],
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    query_padding_mask: Bool[Tensor, "b n"] | None = None,
    lengths: Int[Tensor, " b"] | None = None,
    bias: Float[Tensor, "*bias"] | None = None,
    rel_h: Float[Tensor, "b h n y"] | None = None,
    rel_w: Float[Tensor, "b h n x"] | None = None,
    causal: bool = False,
    scale: float = 1.0,
) -> Float[Tensor, "b h n e"]:
    """The operator in plain PyTorch, with the whole table of scores."""
    n, m = q.shape[2], k.shape[2]
    padded_queries = padded(query_padding_mask, lengths, q.shape[0], n, q.device)
    padded_keys = padded(key_padding_mask, lengths, q.shape[0], m, q.device)
    # Zeros in place of whatever the padding holds: 0 * NaN would reach the real rows.
    q_wide = widen(q).masked_fill(padded_queries[:, None, :, None], 0)
    k_wide, v_wide = (widen(x).masked_fill(padded_keys[:, None, :, None], 0) for x in (k, v))
    scores = scale * q_wide @ k_wide.transpose(-1, -2)
    if bias is not None:
        scores = scores + widen(bias)
    if rel_h is not None and rel_w is not None:
        scores = scores + (widen(rel_h)[..., :, None] + widen(rel_w)[..., None, :]).flatten(-2)
    hidden = padded_keys[:, None, None, :] | padded_queries[:, None, :, None]
    if causal:
        hidden = hidden | ~torch.ones(n, m, dtype=torch.bool, device=q.device).tril()
    scores = scores.masked_fill(hidden, -math.inf)
    alone = (scores == -math.inf).all(-1, keepdim=True)
    weights = scores.masked_fill(alone, 0).softmax(-1).masked_fill(alone, 0)
    return (weights @ v_wide).masked_fill(alone, 0).to(q.dtype)  # where v is infinite, 0 * v is NaN


def _refuse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_padding_mask: Tensor | None,
    query_padding_mask: Tensor | None,
    lengths: Tensor | None,
    bias: Tensor | None,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    scale: float,
) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 4:
            raise ValueError(f"{name} must be [b, h, n, d], not of shape {tuple(x.shape)}")
    b, h, n, d = q.shape
    m = k.shape[2]
    if q.dtype not in DTYPES:
        raise ValueError(f"q must be float32, float64, float16 or bfloat16, not {q.dtype}")
    if tuple(k.shape) != (b, h, m, d):
        raise ValueError(f"k must be [{b}, {h}, m, {d}] to go with q, not of shape {tuple(k.shape)}")
    if tuple(v.shape[:3]) != (b, h, m):
        raise ValueError(f"v must be [{b}, {h}, {m}, e] to go with q and k, not of shape {tuple(v.shape)}")
    numbers = {"k": k, "v": v, "bias": bias, "rel_h": rel_h, "rel_w": rel_w}
    masks = {"key_padding_mask": key_padding_mask, "query_padding_mask": query_padding_mask, "lengths": lengths}
    for name, given in numbers.items():
        if given is not None and given.dtype != q.dtype:
            raise ValueError(f"{name} must have the dtype of q, {q.dtype}, not {given.dtype}")
    for name, given in (numbers | masks).items():
        if given is not None and given.device != q.device:
            raise ValueError(f"{name} must be on the device of q, {q.device}, not {given.device}")
    for name, mask, size in (
        ("key_padding_mask", key_padding_mask, m),
        ("query_padding_mask", query_padding_mask, n),
    ):
        if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != (b, size)):
            raise ValueError(f"{name} must be bool of shape [{b}, {size}], not {mask.dtype} of {tuple(mask.shape)}")
    if lengths is not None:
        if lengths.dtype not in (torch.int32, torch.int64) or tuple(lengths.shape) != (b,):
            raise ValueError(f"lengths must be int64 of shape [{b}], not {lengths.dtype} of {tuple(lengths.shape)}")
        if n != m:
            raise ValueError(
                f"lengths are for self-attention, but q has {n} rows and k has {m}: use key_padding_mask and "
                "query_padding_mask"
            )
    if bias is not None and not _broadcasts(bias.shape, (b, h, n, m)):
        raise ValueError(f"bias must broadcast to [{b}, {h}, {n}, {m}], which {tuple(bias.shape)} does not")
    if rel_h is not None and rel_w is not None:
        for name, rel in (("rel_h", rel_h), ("rel_w", rel_w)):
            if rel.dim() == 0 or not _broadcasts(rel.shape[:-1], (b, h, n)):
                raise ValueError(
                    f"{name} must broadcast to [{b}, {h}, {n}, size of the grid], which {tuple(rel.shape)} does not"
                )
        if rel_h.shape[-1] * rel_w.shape[-1] != m:
            raise ValueError(
                f"rel_h and rel_w must cover the {m} keys, but they are for {rel_h.shape[-1]} x {rel_w.shape[-1]}"
            )
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, not {scale}")


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(shape[::-1], to[::-1], strict=False))


def _wide_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _fake(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    b, h, n, _d = q.shape
    return q.new_empty(b, n, h, v.shape[3]).transpose(1, 2), q.new_empty(b, h, n, dtype=_wide_dtype(q))


def _fake_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    key_padding_mask: Tensor | None,
    query_padding_mask: Tensor | None,
    lengths: Tensor | None,
    bias: Tensor | None,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    causal: bool,
    scale: float,
    bias_needs_grad: bool,
) -> tuple[Tensor, ...]:
    keys = k.shape[2] > 0
    height, width = (0 if rel is None or not keys else rel.shape[3] for rel in (rel_h, rel_w))
    return (
        q.new_empty(q.shape),
        q.new_empty(k.shape),
        q.new_empty(v.shape),
        q.new_empty(bias.shape if bias is not None and bias_needs_grad else (0,)),
        q.new_empty(*q.shape[:3], height),
        q.new_empty(*q.shape[:3], width),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.causal, ctx.scale = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(*tensors[:3], out, lse, *tensors[3:])


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, key_padding_mask, query_padding_mask, lengths, bias, rel_h, rel_w = ctx.saved_tensors
    masks = (key_padding_mask, query_padding_mask, lengths)
    # The kernel has no derivative of its own: a backward that is to be differentiated again runs in PyTorch.
    if torch.is_grad_enabled():
        inputs = (q, k, v, *masks, bias, rel_h, rel_w)
        wanted = [x for x, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed and x is not None]
        again = torch.autograd.grad(
            reference(*inputs, ctx.causal, ctx.scale), wanted, grad, create_graph=True, materialize_grads=True
        )
        found = iter(again)
        return *(next(found) if needed else None for needed in ctx.needs_input_grad[:9]), None, None
    bias_needs_grad = bias is not None and ctx.needs_input_grad[6]
    dq, dk, dv, dbias, drel_h, drel_w = torch.ops.zoo.masked_attention_backward(
        grad, q, k, v, out, lse, *masks, bias, rel_h, rel_w, ctx.causal, ctx.scale, bias_needs_grad
    )
    dbias = dbias if bias_needs_grad else None
    if rel_h is None:
        drel_h = drel_w = None
    elif k.shape[2] == 0:
        drel_h, drel_w = torch.zeros_like(rel_h), torch.zeros_like(rel_w)
    return dq, dk, dv, None, None, None, dbias, drel_h, drel_w, None, None


def _check(device: torch.device) -> tuple[Tensor, ...]:
    """For the comparison of kernel and reference, gradients too: ragged sets, and a grid with decomposed bias."""
    found: tuple[Tensor, ...] = ()
    for dtype in (torch.float32, torch.float16):
        q, k, v = (sample((2, 2, 24, 16), seed).to(device, dtype).requires_grad_() for seed in range(3))
        rel = tuple(sample((2, 2, 24, n), n).to(device, dtype).requires_grad_() for n in (4, 6))
        lengths = torch.tensor([24, 9], device=device)
        for options, wanted in (({"lengths": lengths}, (q, k, v)), ({"bias": rel}, (q, k, v, *rel))):
            out = masked_attention(q, k, v, **options)  # type: ignore[arg-type]
            weight = sample(out.shape, 9).to(device, dtype)
            found += (out, *torch.autograd.grad(out, wanted, weight))
    return found


if _library.declare("masked_attention", _check):
    torch.library.register_fake("zoo::masked_attention", _fake)
    torch.library.register_fake("zoo::masked_attention_backward", _fake_backward)
    torch.library.register_autograd("zoo::masked_attention", _backward, setup_context=_save_for_backward)

for _way in _attention_ways.WAYS:
    _ways.declare("masked_attention", _way, _attention_ways.check(_way, masked_attention))
