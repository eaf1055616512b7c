"""meldd's encoder on patients of realistic size, against PyTorch's nn.TransformerEncoder with a padding mask.

``python benchmarks/meldd.py`` measures everything in one run and writes ``benchmarks/results/``. Both have the same
weights and give the same result; peers take turns within every repeat. ``--small`` takes few patients and writes
nothing.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable
from typing import Any

import contest
import machine
import torch
from contest import race, ratio
from masked_attention import set_sizes
from torch import Tensor, nn

from zoo.models.meldd.network import Block, ContextConfig, Layout, Sets, Variant
from zoo.ops import status

OURS = "meldd, lengths"
SLOW, FAST = "nn.TransformerEncoder, padding mask", "nn.TransformerEncoder, nested tensors"


def peer_of(blocks: nn.ModuleList, config: ContextConfig, nested: bool) -> nn.TransformerEncoder:
    """PyTorch's encoder with the weights of ``blocks``, which must be of the usual pre-norm form."""
    layer = nn.TransformerEncoderLayer(
        config.width, config.heads, config.ffn, config.dropout, batch_first=True, norm_first=not nested
    )
    peer = nn.TransformerEncoder(layer, len(blocks), enable_nested_tensor=nested)
    for ours, theirs in zip(blocks, peer.layers, strict=True):
        assert isinstance(ours, Block)
        assert isinstance(theirs, nn.TransformerEncoderLayer)
        pairs = [
            (theirs.self_attn.in_proj_weight, ours.attention.qkv.weight),
            (theirs.self_attn.in_proj_bias, ours.attention.qkv.bias),
        ]
        for a, b in (
            (theirs.self_attn.out_proj, ours.attention.out), (theirs.linear1, ours.ffn[0]),
            (theirs.linear2, ours.ffn[3]), (theirs.norm1, ours.norm_in), (theirs.norm2, ours.norm),
        ):  # fmt: skip
            pairs += list(zip(a.parameters(), b.parameters(), strict=True))
        with torch.no_grad():
            for a, b in pairs:
                a.copy_(b)
    return peer


def case(patients: int, largest: int, mean: float, repeats: int) -> dict[str, Any]:
    """A training step (without dropout, so that results can be compared) and a forward pass of one batch."""
    torch.manual_seed(0)
    lengths = set_sizes(patients, largest, mean)
    layout, config = Layout(lengths), ContextConfig(block="preln", scale="head", dropout=0.0)
    variant = Variant("V1", config.width, config)
    t = int(lengths.sum())
    packed = torch.randn(t, config.width)
    padded = torch.zeros(patients * layout.longest, config.width).index_copy(0, layout.cell, packed)
    padded = padded.view(patients, layout.longest, -1)
    padding = torch.arange(layout.longest) >= lengths[:, None]
    sets = Sets(packed, torch.full((t,), 6), lengths, torch.full((patients,), torch.nan), torch.full((patients,), -1))
    variant.projection = nn.Identity()  # type: ignore[assignment]
    peers = {SLOW: peer_of(variant.blocks, config, nested=False), FAST: peer_of(variant.blocks, config, nested=True)}

    def ours() -> Tensor:
        return variant(sets)[1]

    def theirs(name: str) -> Tensor:
        return peers[name](padded, src_key_padding_mask=padding)

    def step(forward: Callable[[], Tensor], parameters: list[nn.Parameter]) -> Callable[[], None]:
        adam = torch.optim.Adam(parameters, lr=8e-5)

        def run() -> None:
            adam.zero_grad()
            forward().square().mean().backward()
            adam.step()

        return run

    variant.train()
    steps = {OURS: step(ours, list(variant.blocks.parameters()))}
    steps[SLOW] = step(lambda: theirs(SLOW)[~padding], list(peers[SLOW].parameters()))
    with torch.no_grad():
        torch.testing.assert_close(ours(), theirs(SLOW)[~padding], rtol=1e-3, atol=1e-4)
    training = race(steps, repeats)
    memory = {name: machine.peak_extra_memory(run) for name, run in steps.items()}
    variant.eval()
    for peer in peers.values():
        peer.eval()
    with torch.no_grad():
        forward = race({OURS: ours, SLOW: lambda: theirs(SLOW), FAST: lambda: theirs(FAST)}, 2 * repeats)
    return {
        "title": f"{patients} patients, {lengths.float().mean():.1f} of up to {layout.longest} lesions",
        "training step": training,
        "forward": forward,
        "peak extra bytes": memory,
    }


def page(facts: dict[str, Any], cases: list[dict[str, Any]]) -> str:
    lines = [
        "# meldd",
        "",
        f"{facts['processor']}, {facts['threads']} of {facts['cores']} cores, torch {facts['torch']}, kernels "
        f"{facts['simd']}, {facts['date']}. float32, 4 layers, 4 heads, D = 64; medians and, in brackets, best times. "
        f"Load average at the start and end: {facts['load'][0]:.1f} and {facts['load'][1]:.1f}.",
        "",
        "The encoder with pre-norm blocks, whose weights PyTorch's encoder takes over; nested tensors exist for "
        "inference in post-norm form only, so that they do the same work but give another result.",
        "",
    ]
    for item in cases:
        lines += [
            f"## {item['title']}",
            "",
            "| | | ms | best | time over ours | extra MB |",
            "|---|---|---|---|---|---|",
        ]
        for what in ("training step", "forward"):
            for name, (median, best) in item[what].items():
                extra = f"{item['peak extra bytes'][name] / 1e6:.1f}" if what == "training step" else ""
                cells = (f"{median * 1e3:.2f}", f"{best * 1e3:.2f}", ratio(item[what], name, OURS), extra)
                lines.append(f"| {what} | {name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="few patients; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message=".*nested tensors is in prototype.*")
    load = os.getloadavg()[0]
    if options.small:
        cases = [case(8, 24, 8, 2)]
    else:
        cases = [case(32, 115, 16, options.repeats), case(128, 115, 16, max(3, options.repeats // 3))]
    facts = machine.facts() | {"simd": status().simd, "load": (load, os.getloadavg()[0])}
    text = page(facts, cases)
    print(text)
    if not options.small:
        contest.save("meldd", text, facts, cases)


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
