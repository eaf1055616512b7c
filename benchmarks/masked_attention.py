"""masked_attention against PyTorch's scaled_dot_product_attention, jagged nested tensors and FlexAttention.

``python benchmarks/masked_attention.py`` measures everything in one run and writes ``benchmarks/results/``. Peers take
turns within every repeat, so that whatever else the machine does meets them alike.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from typing import Any

import contest
import machine
import torch
import torch.nn.functional as F
from contest import Run, race, ratio

from zoo.ops import masked_attention, status

OURS = "zoo.ops.masked_attention"


def set_sizes(sets: int, largest: int, mean: float) -> torch.Tensor:
    """Sizes as of lesions per patient: most sets small, a few large, one of the largest size."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.empty(sets).log_normal_(2.35, 0.85, generator=generator)
    sizes = (sizes * mean / sizes.mean()).round().clamp(1, largest).long()
    sizes[0] = largest
    return sizes


def jagged(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Sets [b h n d] as a jagged nested tensor of that shape, whose rows lie as a projection leaves them."""
    parts = [rows[:, :size].transpose(0, 1) for rows, size in zip(x, lengths.tolist(), strict=True)]
    return torch.nested.nested_tensor(parts, layout=torch.jagged).transpose(1, 2)


def ragged_peers(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor
) -> tuple[dict[str, Run], dict[str, str]]:
    """Peers that do no work for padding, or little, each at its best: inputs in its own form, masks made before.

    With those that can't run, and why.
    """
    real = torch.arange(q.shape[2]) < lengths[:, None]
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None]).transpose(1, 2)[real]
    nested = [jagged(x, lengths) for x in (q, k, v)]
    document = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    packed = [x.transpose(1, 2)[real].transpose(0, 1).contiguous()[None] for x in (q, k, v)]

    def same_document(b: Any, h: Any, i: Any, j: Any) -> Any:
        return document[i] == document[j]

    def both_real(b: Any, h: Any, i: Any, j: Any) -> Any:
        return (i < lengths[b]) & (j < lengths[b])

    runs: dict[str, tuple[Callable[[], Run], Callable[[torch.Tensor], torch.Tensor]]] = {
        "SDPA, jagged nested": (
            lambda: lambda: F.scaled_dot_product_attention(*nested),
            lambda out: out.transpose(1, 2).values(),
        ),
        # All sets in one row of tokens, a document each.
        "FlexAttention, documents": (
            lambda: flex_at_its_best(packed, same_document, (None, len(document))),
            lambda out: out[0].transpose(0, 1),
        ),
        "FlexAttention, lengths": (
            lambda: flex_at_its_best([q, k, v], both_real, (len(lengths), q.shape[2])),
            lambda out: out.transpose(1, 2)[real],
        ),
    }
    found: dict[str, Run] = {}
    absent: dict[str, str] = {}
    for name, (make, rows_of) in runs.items():
        try:
            run = make()
            torch.testing.assert_close(rows_of(run()), expected, rtol=1e-4, atol=1e-4)
            found[name] = run
        except Exception as error:
            absent[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return found, absent


def flex_at_its_best(inputs: list[torch.Tensor], mask_mod: Any, sizes: tuple[int | None, int]) -> Run:
    """Compiled FlexAttention under a mask for so many sets of so many rows, with the blocks that make it fastest."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    sets, n = sizes
    runs: dict[str, Run] = {}
    for block in (16, 32, 64, 128):
        mask = create_block_mask(mask_mod, sets, None, n, n, device="cpu", BLOCK_SIZE=block)
        torch._dynamo.reset()  # else the fifth shape isn't compiled for itself
        compiled = torch.compile(flex_attention, dynamic=False)
        runs[str(block)] = lambda compiled=compiled, mask=mask: compiled(*inputs, block_mask=mask)
        runs[str(block)]()
    times = race(runs, 5)
    return runs[min(times, key=lambda block: times[block][1])]


def ragged(d: int, repeats: int) -> dict[str, Any]:
    sets, heads, largest = 128, 4, 115
    lengths = set_sizes(sets, largest, 16)
    q, k, v, grad = (torch.randn(sets, heads, largest, d) for _ in range(4))
    real = torch.arange(largest) < lengths[:, None]
    mask = real[:, None, None]

    def ours() -> torch.Tensor:
        return masked_attention(q, k, v, lengths=lengths)

    def sdpa() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    with torch.no_grad():
        shown = real[:, None, :, None]
        torch.testing.assert_close(ours(), sdpa().masked_fill(~shown, 0), rtol=1e-4, atol=1e-4)
        peers, absent = ragged_peers(q, k, v, lengths)
        runs: dict[str, Run] = {OURS: ours, "SDPA, padding mask": sdpa, **peers}
        forward = race(runs, repeats * 20)
        memory = {name: machine.peak_extra_memory(run) for name, run in runs.items()}
    for x in (q, k, v):
        x.requires_grad_()
    both = race(
        {
            OURS: lambda: torch.autograd.grad(ours(), (q, k, v), grad),
            "SDPA, padding mask": lambda: torch.autograd.grad(sdpa(), (q, k, v), grad),
        },
        repeats * 8,
    )
    flops = 4 * heads * d * int((lengths**2).sum())
    # The operator reads q, k, v of real rows and writes the whole of out.
    traffic = 4 * heads * d * (3 * int(lengths.sum()) + sets * largest)
    return {
        "title": f"{sets} sets, {lengths.float().mean():.1f} of up to {largest} tokens, {heads} heads, d {d}",
        "flops": flops,
        "bytes": traffic,
        "forward": forward,
        "forward and backward": both,
        "peak extra bytes": memory,
        "absent": absent,
        "goal": f"forward at least {8 if d == 16 else 6}x SDPA with a padding mask",
        "reached": f"{ratio(forward, 'SDPA, padding mask', OURS)}x",
    }


def flex_run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rel_h: torch.Tensor, rel_w: torch.Tensor) -> Run | str:
    """FlexAttention with the decomposed bias as a score_mod, or why it can't run."""
    width = rel_w.shape[-1]

    def add_bias(score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        return score + rel_h[b, h, i, j // width] + rel_w[b, h, i, j % width]

    try:
        from torch.nn.attention.flex_attention import flex_attention

        compiled = torch.compile(flex_attention)
        compiled(q, k, v, score_mod=add_bias)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return lambda: compiled(q, k, v, score_mod=add_bias)


def decomposed(repeats: int, side: int = 64, heads: int = 12, d: int = 64) -> dict[str, Any]:
    n = side * side
    q, k, v, grad = (torch.randn(1, heads, n, d) for _ in range(4))
    rel_h, rel_w = torch.randn(1, heads, n, side), torch.randn(1, heads, n, side)

    def ours() -> torch.Tensor:
        return masked_attention(q, k, v, bias=(rel_h, rel_w))

    def without_bias() -> torch.Tensor:
        return masked_attention(q, k, v)

    def sdpa() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def expanded() -> torch.Tensor:
        bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    absent = {}
    runs: dict[str, Run] = {
        OURS: ours,
        f"{OURS}, no bias": without_bias,
        "SDPA, no bias": sdpa,
        "SDPA, expanded bias": expanded,
    }
    with torch.no_grad():
        torch.testing.assert_close(ours(), expanded(), rtol=1e-3, atol=1e-4)
        flex = flex_run(q, k, v, rel_h, rel_w)
        if isinstance(flex, str):
            absent["FlexAttention"] = flex
        else:
            torch.testing.assert_close(flex(), ours(), rtol=1e-3, atol=1e-4)
            runs["FlexAttention"] = flex
        forward = race(runs, repeats)
        memory = {
            name: machine.peak_extra_memory(runs[name]) for name in (OURS, "SDPA, no bias", "SDPA, expanded bias")
        }
    for x in (q, k, v, rel_h, rel_w):
        x.requires_grad_()
    both = race(
        {
            OURS: lambda: torch.autograd.grad(ours(), (q, k, v, rel_h, rel_w), grad),
            "SDPA, no bias": lambda: torch.autograd.grad(sdpa(), (q, k, v), grad),
        },
        max(1, repeats // 2),
    )
    reached = [
        f"{ratio(forward, OURS, 'SDPA, no bias')}x the time",
        f"{ratio(forward, 'FlexAttention', OURS)}x FlexAttention's speed"
        if "FlexAttention" in forward
        else "FlexAttention absent",
        f"1/{memory['SDPA, expanded bias'] / max(memory[OURS], 1):.0f} of the memory",
    ]
    return {
        "title": f"{n} tokens with decomposed bias {side} x {side}, {heads} heads, d {d}",
        "flops": 4 * heads * n * n * d,
        "bytes": 4 * heads * n * (4 * d + 2 * side),
        "forward": forward,
        "forward and backward": both,
        "peak extra bytes": memory,
        "absent": absent,
        "goal": "forward at most 1.05x the time of SDPA without bias, at least FlexAttention's speed, at most 1/8 of "
        "the expanded form's extra memory",
        "reached": "; ".join(reached),
    }


def bfloat16(repeats: int, sets: int = 2, n: int = 1024, heads: int = 12, d: int = 64) -> dict[str, Any]:
    """Forward passes by the processor's products of bfloat16, beside oneDNN's, which SDPA takes."""
    side = math.isqrt(n)
    q, k, v = (torch.randn(sets, heads, n, d).bfloat16() for _ in range(3))
    rel_h, rel_w = (torch.randn(sets, heads, n, side).bfloat16() for _ in range(2))
    lengths = torch.full((sets,), n)
    lengths[1:] = 2 * n // 3
    mask = (torch.arange(n) < lengths[:, None])[:, None, None]
    wide = [x.float() for x in (q, k, v)]

    def expanded() -> torch.Tensor:
        bias = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    runs: dict[str, Run] = {
        OURS: lambda: masked_attention(q, k, v, lengths=lengths),
        f"{OURS}, float32": lambda: masked_attention(*wide, lengths=lengths),
        "SDPA, padding mask": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        f"{OURS}, decomposed bias": lambda: masked_attention(q, k, v, bias=(rel_h, rel_w)),
        "SDPA, expanded bias": expanded,
    }
    with torch.no_grad():
        close = {"rtol": 3e-2, "atol": 3e-2}
        shown = (torch.arange(n) < lengths[:, None])[:, None, :, None]
        torch.testing.assert_close(runs[OURS](), runs["SDPA, padding mask"]().masked_fill(~shown, 0), **close)
        torch.testing.assert_close(runs[f"{OURS}, decomposed bias"](), expanded(), **close)
        forward = race(runs, repeats * 4)
        memory = {name: machine.peak_extra_memory(run) for name, run in runs.items()}
    flops = 4 * heads * d * int((lengths**2).sum())
    rate, gemm = flops / forward[OURS][0] / 1e9, machine.gemm_rate(torch.bfloat16)
    return {
        "title": f"bfloat16, {sets} sets of {lengths.float().mean():.0f} tokens on average, {heads} heads, d {d}",
        "flops": flops,
        "bytes": 2 * heads * d * (3 * int(lengths.sum()) + sets * n),
        "forward": forward,
        "forward and backward": {},
        "peak extra bytes": memory,
        "goal": "the rate of oneDNN's product of bfloat16 matrices where the processor has one",
        "reached": f"{rate / gemm:.0%} of its {gemm:.0f} GFLOP/s, softmax included; "
        f"{ratio(forward, 'SDPA, padding mask', OURS)}x SDPA's speed with a padding mask and "
        f"{ratio(forward, 'SDPA, expanded bias', OURS + ', decomposed bias')}x with a decomposed bias",
    }


def report(result: dict[str, Any]) -> str:
    m = result["machine"]
    lines = [
        "# masked_attention",
        "",
        f"{m['processor']}, {m['threads']} of {m['cores']} cores, torch {m['torch']}, kernels {m['simd']}, "
        f"{m['date']}. float32 unless said, allocation reuse for everybody, medians of {m['repeats']} or more turns; "
        "ratios are of medians and, in brackets, of best times.",
        "",
        f"Load average at the start and end of the run: {m['load'][0]:.1f} and {m['load'][1]:.1f}. Above "
        f"{m['threads']}, other programs took part of the cores, from short runs on several threads above all.",
        "",
        f"In the same run: read {m['read GB/s']:.1f} GB/s, copy {m['copy GB/s']:.1f} GB/s, "
        f"sgemm {m['sgemm GFLOP/s']:.0f} GFLOP/s (mean of before and after).",
        "",
    ]
    for case in result["cases"]:
        lines += [f"## {case['title']}", ""]
        for kind, factor in (("forward", 1), ("forward and backward", 3.5)):
            times = case[kind]
            if not times:
                continue
            lines += [
                f"| {kind} | ms | best | ratio | GFLOP/s | of sgemm | extra MB |",
                "|---|---|---|---|---|---|---|",
            ]
            for name, (seconds, best) in times.items():
                rate = factor * case["flops"] / seconds / 1e9
                # Whoever computes padding does more than the useful work that is counted here.
                memory = case["peak extra bytes"].get(name) if kind == "forward" else None
                lines.append(
                    f"| {name} | {seconds * 1e3:.2f} | {best * 1e3:.2f} | {ratio(times, name, OURS)} | {rate:.0f} | "
                    f"{rate / m['sgemm GFLOP/s']:.0%} | {'' if memory is None else f'{memory / 1e6:.1f}'} |"
                )
            lines.append("")
        ours = case["forward"][OURS][0]
        lines += [
            f"Useful work of the forward pass: {case['flops'] / 1e9:.2f} GFLOP and {case['bytes'] / 1e6:.1f} MB of "
            f"input and output: {case['flops'] / ours / 1e9 / m['sgemm GFLOP/s']:.0%} of sgemm, "
            f"{case['bytes'] / ours / 1e9 / m['copy GB/s']:.0%} of copy bandwidth.",
            "",
        ]
        lines += [f"{name} is absent: {why}\n" for name, why in case.get("absent", {}).items()]
        lines += [f"Goal: {case['goal']}. Reached: {case['reached']}.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    repeats = options.repeats
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    load = os.getloadavg()[0]
    bandwidths = (machine.read_bandwidth(), machine.copy_bandwidth())
    rate = machine.sgemm_rate()
    cases = [ragged(16, repeats), ragged(64, repeats), decomposed(repeats), bfloat16(repeats)]
    rate = (rate + machine.sgemm_rate()) / 2
    facts = machine.facts() | {
        "read GB/s": bandwidths[0],
        "copy GB/s": bandwidths[1],
        "sgemm GFLOP/s": rate,
        "simd": status().simd,
        "repeats": repeats,
        "load": (load, os.getloadavg()[0]),
    }
    result = {"machine": facts, "cases": cases}
    page = report(result)
    contest.save("masked_attention", page, facts, cases)
    print(page)


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
