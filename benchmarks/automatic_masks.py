"""Masks of a whole image: ``find_everything`` and transformers' pipeline ``mask-generation``; then their priors.

``python benchmarks/automatic_masks.py`` measures the zoo's small SAM on a phantom and a SAM of ViT-B's sizes at 1024 px
(random weights: they don't change the time of a click, but decide how many masks are good enough, so thresholds are put
where a share of the masks passes), and the rasterising of priors against the NumPy way. Contestants take turns; the
pipeline is asked with as many clicks at a time as it takes by itself, and with fewer. ``--small`` leaves ViT-B out and
writes nothing.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import contest
import machine
import numpy as np
import torch
from PIL import Image
from skimage.segmentation import find_boundaries
from transformers import SamConfig, SamImageProcessor, SamModel, pipeline

from zoo.data.phantoms.he_tile import he_tile
from zoo.models.samaug.priors import rasterise
from zoo.nn.promptable import (
    AutoMask,
    Decoded,
    Grid,
    Promptable,
    Tensors,
    decode,
    encode_prompts,
    find_everything,
    load_sam,
    mask_side,
    use_operator,
)
from zoo.ops import status

OURS = "find_everything"
THEIRS = {"transformers' pipeline, 64 clicks at a time": 64, "transformers' pipeline, 16 clicks at a time": 16}
PASS = 0.25  # share of ViT-B's masks that are good enough, and of these the stable half


def peer(sam: SamModel, image: np.ndarray, grid: Grid, at_once: int) -> list[np.ndarray]:
    size, side = sam.config.vision_config.image_size, mask_side(sam)
    processor = SamImageProcessor(
        size={"longest_edge": size}, pad_size={"height": size, "width": size},
        mask_size={"longest_edge": side}, mask_pad_size={"height": side, "width": side},
    )  # fmt: skip
    generate = pipeline("mask-generation", model=sam, image_processor=processor, device="cpu")
    found = generate(
        Image.fromarray(image), points_per_crop=grid.points, points_per_batch=at_once, pred_iou_thresh=grid.quality,
        stability_score_thresh=grid.stability, crops_nms_thresh=grid.overlap,
    )  # fmt: skip
    return [np.asarray(mask) for mask in found["masks"]]


def vit_b(image: np.ndarray, points: int) -> tuple[SamModel, Grid]:
    """Of ViT-B's sizes, with masks and estimates that vary as a trained one's do; and thresholds where some pass."""
    torch.manual_seed(0)
    config = SamConfig(vision_config={}, prompt_encoder_config={})
    config.vision_config.use_rel_pos = True
    sam = SamModel._from_config(config, attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in sam.vision_encoder.parameters():
            parameter.normal_(std=0.02)
    use_operator(sam.eval())
    decoder = sam.mask_decoder
    with torch.no_grad():
        seen = first_look(sam, image)
        for head in decoder.output_hypernetworks_mlps:
            head.proj_out.weight *= 8 / seen.logits.std()
            head.proj_out.bias *= 8 / seen.logits.std()
        last, share = decoder.iou_prediction_head.proj_out, 0.1 / seen.quality.std()
        last.weight *= share
        last.bias.copy_(0.5 + share * (last.bias - seen.quality.mean()))
    seen = first_look(sam, image)
    stability = (seen.logits > 1).sum((2, 3)) / (seen.logits > -1).sum((2, 3)).clamp_min(1)
    return sam, Grid(points, float(seen.quality.quantile(1 - PASS)), float(stability.median()), overlap=0.7)


@torch.no_grad()
def first_look(sam: SamModel, image: np.ndarray) -> Decoded:
    embedded = Promptable(sam).embed(image)
    x, y = torch.meshgrid(*[torch.linspace(64.0, 960.0, 4)] * 2, indexing="xy")
    points = torch.stack([x.ravel(), y.ravel()], 1)[None, :, None]
    prompts = encode_prompts(sam, Tensors(points=points, labels=torch.ones(1, 16, 1, dtype=torch.long)))
    return decode(sam, embedded.features, prompts, multimask=True)


def masks_case(title: str, sam: SamModel, image: np.ndarray, grid: Grid, repeats: int) -> dict[str, Any]:
    results: dict[str, Any] = {}

    def ours() -> None:
        results[OURS] = [one.full() for one in find_everything(Promptable(sam), image, grid)]

    def theirs(name: str, at_once: int) -> None:
        results[name] = peer(sam, image, grid, at_once)

    peers = {name: partial(theirs, name, at_once) for name, at_once in THEIRS.items()}
    times = contest.race({OURS: ours} | peers, repeats)
    print(title, times, flush=True)
    found, expected = results[OURS], results[next(iter(THEIRS))]
    note = f"{len(found)} masks here, {len(expected)} there"
    if len(found) == len(expected) > 0:
        same = np.mean([np.mean(a == b) for a, b in zip(found, expected, strict=True)])
        note += f"; {100 * same:.4f} % of their pixels are the same"
    return {"title": title, "times": times, "note": note}


def priors_case(masks: list[AutoMask], size: tuple[int, int], repeats: int) -> dict[str, Any]:
    full = [mask.full() for mask in masks]
    results: dict[str, Any] = {}

    def ours() -> None:
        results[OURS] = rasterise(masks, size, boundary="thick")

    def numpy_way() -> None:
        segmentation, boundary = np.zeros(size), np.zeros(size)
        for mask, inside in zip(masks, full, strict=True):
            segmentation[inside] += mask.stability
            boundary[find_boundaries(inside, mode="thick")] = 1
        results["NumPy"] = np.stack([segmentation, boundary])

    times = contest.race({OURS: ours, "NumPy": numpy_way}, repeats)
    print(times, flush=True)
    difference = float(np.abs(results[OURS] - results["NumPy"]).max())
    title = f"priors of {len(masks)} masks at {size[0]} x {size[1]} px (thick boundaries)"
    return {"title": title, "times": times, "note": f"largest difference {difference:.1e}"}


def report(facts: dict[str, Any], cases: list[dict[str, Any]]) -> str:
    lines = [
        "# Automatic masks and priors",
        "",
        f"{facts['processor']}, {facts['threads']} of {facts['cores']} cores, torch {facts['torch']}, kernels"
        f" {facts['simd']}, {facts['date']}. Medians, best in brackets; both with attention by the operator.",
        "",
    ]
    for item in cases:
        lines += [f"## {item['title']}", "", "| | seconds | of ours |", "|---|---|---|"]
        for name, (median, best) in item["times"].items():
            ours = next(iter(item["times"]))
            lines.append(f"| {name} | {median:.3f} ({best:.3f}) | {contest.ratio(item['times'], name, ours)} |")
        lines += ["", f"{item['note']}.", ""]
    lines += ["Goal: twice as fast as transformers' pipeline, at the same masks.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--points", type=int, default=16, help="of the grid for ViT-B, per side")
    parser.add_argument("--small", action="store_true", help="the zoo's own small SAM; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    facts = machine.facts() | {"simd": status().simd, "repeats": options.repeats}
    small, image = load_sam(needed_by="the benchmark"), he_tile(5, size=256).image
    grid = Grid(points=32, quality=0.4, stability=0.6, overlap=0.7)
    cases = [masks_case("the zoo's small SAM, 256 px, 32 x 32 clicks", small, image, grid, options.repeats)]
    large = he_tile(5, size=1024).image
    masks = find_everything(Promptable(small), large, grid)
    cases.append(priors_case(masks, (1024, 1024), options.repeats))
    if not options.small:
        sam, grid = vit_b(large, options.points)
        clicks = f"{options.points} x {options.points} clicks"
        title = f"ViT-B's sizes (random weights), 1024 px, {clicks}, an eighth of the masks passes"
        cases.append(masks_case(title, sam, large, grid, 1))
    page = report(facts, cases)
    print(page)
    if not options.small:
        contest.save("automatic_masks", page, facts, cases)


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
