"""Clicks per second in a session: the image is encoded once, and every click is answered by a decoder alone.

``python benchmarks/clicks.py`` measures the small SAM that comes with the zoo and one of ViT-B's size (random weights:
they don't change the time), each with SAM's own decoder, with the refinement decoder of sam-histo-interactive, and as
it would be without a session, where every click encodes the image again. Contestants take turns. ``--small`` leaves
ViT-B out and writes nothing.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import contest
import machine
import numpy as np
import torch
from transformers import SamConfig, SamModel

from zoo.models.sam_histo_interactive.model import SamHistoConfig, SamHistoInteractive
from zoo.nn.promptable import DecoderConfig, Embedded, Promptable, Session, Tensors, load_sam, use_operator
from zoo.ops import status

CLICKS = 5
OWN, REFINE, AGAIN = "SAM's decoder", "refinement decoder", "SAM's decoder, encoded at every click"


def vit_b() -> SamModel:
    torch.manual_seed(0)
    config = SamConfig(vision_config={}, prompt_encoder_config={})  # transformers' defaults are ViT-B's but for this
    config.vision_config.use_rel_pos = True
    return use_operator(SamModel._from_config(config, attn_implementation="sdpa").eval())


def case(title: str, sam: SamModel, repeats: int) -> dict[str, Any]:
    side = sam.config.vision_config.image_size
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    model = SamHistoInteractive(SamHistoConfig(decoder=DecoderConfig.of(sam))).eval()
    model.base = promptable = Promptable(sam)

    def refined(embedded: Embedded, points: Tensors) -> torch.Tensor:
        return model(embedded.features, points)

    def clicks(answer: Any) -> None:
        session = Session(promptable, image, answer)
        for k in range(CLICKS):
            session.click(100 + 20 * k, 200, k % 2)

    def without_session() -> None:
        for k in range(CLICKS):
            promptable.cache.clear()
            Session(promptable, image).click(100 + 20 * k, 200, k % 2)

    def encode() -> None:
        sam.get_image_embeddings(torch.zeros(1, 3, side, side))

    promptable.embed(image)
    with torch.no_grad():
        times = contest.race(
            {
                "the encoder alone": encode,
                OWN: partial(clicks, None),
                REFINE: partial(clicks, refined),
                AGAIN: without_session,
            },
            repeats,
        )
    return {"title": title, "times": times}


def report(facts: dict[str, Any], cases: list[dict[str, Any]]) -> str:
    lines = [
        "# Clicks in a session",
        "",
        f"{facts['processor']}, {facts['threads']} of {facts['cores']} cores, torch {facts['torch']}, kernels"
        f" {facts['simd']}, {facts['date']}. An image of 400 x 400 px, {CLICKS} clicks; medians, best in brackets. A"
        " click ends with the mask at the size of the image.",
        "",
    ]
    for item in cases:
        times = item["times"]
        encoder, best = times["the encoder alone"]
        lines += [f"## {item['title']}", "", f"The encoder takes {encoder:.3f} s ({best:.3f})."]
        lines += ["", "| decoder | seconds per click | clicks per second |", "|---|---|---|"]
        for name in (OWN, REFINE, AGAIN):
            median, best = (value / CLICKS for value in times[name])
            lines.append(f"| {name} | {median:.4f} ({best:.4f}) | {1 / median:.1f} ({1 / best:.1f}) |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="the zoo's own small SAM alone; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = [case("the zoo's small SAM, 256 px", load_sam(needed_by="a benchmark"), options.repeats)]
    if not options.small:
        cases.append(case("ViT-B's sizes (random weights), 1024 px", vit_b(), max(1, options.repeats - 3)))
    facts = machine.facts() | {"simd": status().simd, "repeats": options.repeats}
    page = report(facts, cases)
    print(page)
    if not options.small:
        contest.save("clicks", page, facts, cases)


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
