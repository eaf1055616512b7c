"""SAM's image encoder with attention by ``zoo.ops.masked_attention`` and with transformers' own, at 1024 px.

``python benchmarks/sam_encoder.py`` measures ViT-B (random weights: they don't change the time) end to end in one run
and writes ``benchmarks/results/``. Contestants take turns. ``--small`` only shows that it works.
"""

from __future__ import annotations

import argparse
from typing import Any

import contest
import machine
import torch
from transformers import SamConfig, SamModel

from zoo.nn.promptable import register_attention, small_config
from zoo.ops import status

OURS = "zoo.ops.masked_attention"
IMPLEMENTATIONS = {OURS: "zoo", "transformers, SDPA": "sdpa", "transformers, eager": "eager"}  # attn_implementation


def encoder(config: SamConfig, attention: str) -> SamModel:
    torch.manual_seed(0)
    sam = SamModel._from_config(config, attn_implementation=IMPLEMENTATIONS[attention])
    with torch.no_grad():  # SAM starts its encoder at almost zero, where no two attentions differ
        for parameter in sam.vision_encoder.parameters():
            parameter.normal_(std=0.02)
    return sam.eval()


def case(title: str, config: SamConfig, repeats: int) -> dict[str, Any]:
    side = config.vision_config.image_size
    pixels = torch.randn(1, 3, side, side)
    encoders = {name: encoder(config, name) for name in IMPLEMENTATIONS}
    runs = {name: (lambda sam=sam: sam.get_image_embeddings(pixels)) for name, sam in encoders.items()}
    expected = runs["transformers, eager"]()
    difference = {name: float((run() - expected).abs().max()) for name, run in runs.items()}
    times = contest.race(runs, repeats)
    memory = {name: machine.peak_extra_memory(run) for name, run in runs.items()}
    return {"title": title, "times": times, "peak extra bytes": memory, "difference": difference}


def report(facts: dict[str, Any], cases: list[dict[str, Any]]) -> str:
    lines = [
        "# SAM's image encoder",
        "",
        f"{facts['processor']}, {facts['threads']} of {facts['cores']} cores, torch {facts['torch']}, kernels"
        f" {facts['simd']}, {facts['date']}. One image through the whole encoder; medians, best in brackets.",
        "",
    ]
    for item in cases:
        lines += [
            f"## {item['title']}",
            "",
            "| attention | seconds | of ours | peak extra MB | largest difference |",
            "|---|---|---|---|---|",
        ]
        for name, (median, best) in item["times"].items():
            lines.append(
                f"| {name} | {median:.3f} ({best:.3f}) | {contest.ratio(item['times'], name, OURS)} |"
                f" {item['peak extra bytes'][name] / 1e6:.0f} | {item['difference'][name]:.1e} |"
            )
        lines += ["", "Goal: at least 1.3 times as fast as transformers, with at most half the peak memory.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="the zoo's own small SAM; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    register_attention()
    config = small_config() if options.small else SamConfig(vision_config={}, prompt_encoder_config={})
    if not options.small:  # transformers' defaults are those of ViT-B but for the relative positions
        config.vision_config.use_rel_pos = True
    name = "the zoo's small SAM, 256 px" if options.small else "ViT-B, 1024 px"
    cases = [case(name, config, options.repeats)]
    facts = machine.facts() | {"simd": status().simd, "repeats": options.repeats}
    page = report(facts, cases)
    print(page)
    if not options.small:
        contest.save("sam_encoder", page, facts, cases)


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
