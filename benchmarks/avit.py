"""Images a second of AViT on ViT-B beside the plain transformer of timm, at 224 px.

``python benchmarks/avit.py`` measures inference end to end in one run (random weights: they don't change the time) and
writes ``benchmarks/results/``. Contestants take turns. ``--small`` only shows that it works, with the demo's ViT.
"""

from __future__ import annotations

import argparse
from typing import Any

import contest
import machine
import torch

from zoo.models.avit.model import TINY, Avit, AvitConfig, bare
from zoo.models.avit.network import TINY_SHAPE, Method, Shape
from zoo.models.avit.released import PAPER

PLAIN, OURS = "timm, the plain transformer", "AViT"
GOAL = 0.8
CONTESTANTS: dict[str, Method] = {
    OURS: "avit",
    "AViT without prompt": "no-prompt",
    "the decoder alone on it (BASE)": "base-frozen",
    "AdaptFormer": "adaptformer",
    "VPT, 100 tokens": "vpt",
}


def case(backbone: str, shape: Shape, batch: int, repeats: int) -> dict[str, Any]:
    size = 96 if backbone == TINY else 224
    sizes: dict[str, Any] = {"size": size} if backbone == TINY else PAPER
    torch.manual_seed(0)
    x = torch.randn(batch, 3, size, size)
    plain = bare(backbone, shape, size).eval()
    nets: dict[str, Any] = {PLAIN: plain.forward_features}  # type: ignore[union-attr]
    for name, method in CONTESTANTS.items():
        nets[name] = Avit(AvitConfig(backbone=backbone, shape=shape, method=method, **sizes)).eval()
    with torch.inference_mode():
        times = contest.race({name: (lambda net=net: net(x)) for name, net in nets.items()}, repeats)
    return {"title": f"{backbone}, {size} px, batch of {batch}", "batch": batch, "times": times}


def report(facts: dict[str, Any], cases: list[dict[str, Any]]) -> str:
    lines = [
        "# AViT beside its transformer",
        "",
        f"{facts['processor']}, {facts['threads']} of {facts['cores']} cores, torch {facts['torch']}, {facts['date']}. "
        "Inference from normalised images to logits, or to tokens; medians, best in brackets.",
        "",
    ]
    for item in cases:
        times = item["times"]
        lines += [
            f"## {item['title']}",
            "",
            "| network | images a second | of the plain transformer's |",
            "|---|---|---|",
        ]
        for name, (median, best) in times.items():
            rate = f"{item['batch'] / median:.2f} ({item['batch'] / best:.2f})"
            lines.append(f"| {name} | {rate} | {contest.ratio(times, PLAIN, name)} |")
        reached = "reached" if times[PLAIN][0] / times[OURS][0] >= GOAL else "not reached"
        lines += ["", f"Goal: at least {GOAL} of the plain transformer's images a second; {reached}.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="the demo's tiny ViT; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.small:
        cases = [case(TINY, TINY_SHAPE, 2, options.repeats)]
    else:
        cases = [case("vit_base_patch16_224", Shape((12,), 768, 12, 16), options.batch, options.repeats)]
    facts = machine.facts() | {"repeats": options.repeats}
    text = report(facts, cases)
    print(text)
    if not options.small:
        contest.save("avit", text, facts, cases)


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
