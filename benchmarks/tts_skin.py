"""tts-skin: 50 copies of an image by test-time selection, against 50 plain passes of the same network.

``python benchmarks/tts_skin.py`` measures everything in one run and writes ``benchmarks/results/``. They take turns
within every repeat. The naive way upsamples the whole map to the image's size, as printed. ``--small`` runs the demo's
network alone and writes nothing.
"""

from __future__ import annotations

import argparse
from typing import Any

import contest
import machine
import numpy as np
import torch
import torch.nn.functional as F
from contest import race, ratio

from zoo.data.images import normalise
from zoo.models.tts_skin.model import TtsSkin, TtsSkinConfig
from zoo.models.tts_skin.replicas import replicas
from zoo.models.tts_skin.selection import at_points, best_channels, channel_scores, select
from zoo.models.tts_skin.training import training

COPIES, POINTS, GOAL = 50, 20, 1.2
OURS, ONE_BY_ONE, BATCHED = "tts-skin, 50 copies", "plain, 50 passes one by one", "plain, 50 passes in a batch"
DIRECT, NAIVE = "tts-skin, at the points", "upsampled to the image's size"


def whole(config: TtsSkinConfig, title: str, repeats: int) -> dict[str, Any]:
    """From the image to both probabilities: augmentation, trunk, selection and head of 51 images, in one call."""
    torch.manual_seed(0)
    model, rng = TtsSkin(config).eval(), np.random.default_rng(0)
    own, size = model.classifier(), config.image_size
    view = torch.rand(3, size, size)
    plus, minus = (rng.uniform(-1, 1, (POINTS, 2)) for _ in range(2))
    x = normalise(view[None].expand(COPIES, -1, -1, -1).contiguous(), own.mean, own.std)

    @torch.inference_mode()
    def ours() -> None:
        made = replicas(view, plus, minus, COPIES, "whole", np.random.default_rng(0))
        select(own, made, 0.4, 0.1)

    @torch.inference_mode()
    def one_by_one() -> None:
        for one in x:
            model(one[None])

    @torch.inference_mode()
    def batched() -> None:
        model(x)

    times = race({OURS: ours, ONE_BY_ONE: one_by_one, BATCHED: batched}, repeats)
    reached = times[OURS][0] <= GOAL * times[ONE_BY_ONE][0]
    notes = [
        f"Seconds over one by one: {ratio(times, OURS, ONE_BY_ONE)}; over the batch: {ratio(times, OURS, BATCHED)}."
    ]
    goal = f"at most {GOAL} times 50 plain passes"
    return {"title": title, "times": times, "ours": OURS, "notes": notes, "goal": goal, "reached": reached}


def reading(channels: int, side: int, size: int, copies: int, repeats: int) -> dict[str, Any]:
    """Scores and channels of ready maps."""
    torch.manual_seed(0)
    maps = torch.rand(copies, channels, side, side)
    pixels = torch.randint(0, size, (copies, 2 * POINTS, 2))
    points = (pixels + 0.5) / size * 2 - 1
    rows = torch.arange(copies)[:, None]

    def upsampled() -> torch.Tensor:
        large = F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)
        return large[rows, :, pixels[..., 1], pixels[..., 0]].transpose(1, 2)

    torch.testing.assert_close(at_points(maps, points), upsampled(), atol=1e-5, rtol=0)

    def direct() -> None:
        best_channels(channel_scores(maps, points[:, :POINTS], points[:, POINTS:], 0.4), 0.1)

    def naive() -> None:
        values = upsampled()
        best_channels(0.4 * values[..., :POINTS].sum(-1) - 0.6 * values[..., POINTS:].sum(-1), 0.1)

    times = race({DIRECT: direct, NAIVE: naive}, repeats)
    notes = [f"Upsampling takes {ratio(times, NAIVE, DIRECT)} times as long."]
    title = f"selection alone: {copies} maps of {channels} x {side} x {side}, {POINTS} points of each sign"
    reached = times[DIRECT][0] < times[NAIVE][0]
    return {"title": title, "times": times, "ours": DIRECT, "notes": notes, "goal": "faster", "reached": reached}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="the demo's network alone; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    demo = training.configure("demo").network
    if options.small:
        for case in (whole(demo, "the demo's network", 1), reading(32, 7, 56, 4, 1)):
            print(case["title"], case["times"])
        return
    facts = contest.conditions() | {"repeats": options.repeats}
    cases = [
        whole(demo, "the demo's network, 96 px", 3 * options.repeats),
        whole(TtsSkinConfig(backbone="resnet50"), "ResNet-50, 224 px", options.repeats),
        reading(2048, 7, 224, 4, options.repeats),
    ]
    contest.publish("tts-skin", "plain passes of the same network", facts, cases)


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
