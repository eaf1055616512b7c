"""A step of `grad-align` against Opacus' plain DP-SGD step and against the same filter written in PyTorch.

``python benchmarks/grad_align.py`` measures ResNet-9 (2.45 million parameters) on 32 x 32 pixels at batch 64 and 256,
in one run, and writes ``benchmarks/results/``. A step is all of it: forward and backward pass with per-sample
gradients, clipping, noise, selection, update. Contestants take turns within every repeat. ``--small`` only shows
that it works.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import contest
import machine
import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from zoo.models.grad_align.model import ResNet9
from zoo.models.grad_align.training import (
    GradAlignRecipe,
    align,
    align_ghosts,
    alignment,
    batch_gradient,
    descend,
    settle,
)
from zoo.nn.ghost import Ghosts
from zoo.nn.per_sample import per_sample_gradients
from zoo.ops import status

SIGMA, PSI, PERCENTILE, COUNT = 0.598, 0.1, 0.7, 50_000
OPACUS, PLAIN = "Opacus DPOptimizer", "without privacy"
Step = Callable[[], Any]


def recipe(name: Any, batch: int) -> GradAlignRecipe:
    return GradAlignRecipe(
        filter=name, sigma=SIGMA, threshold=PSI, percentile=PERCENTILE, batch_size=batch, physical_batch=batch
    )


def opacus_step(network: nn.Module, x: Tensor, y: Tensor) -> Step:
    hooked = GradSampleModule(network, loss_reduction="sum")
    sgd = torch.optim.SGD(hooked.parameters(), lr=0.005, momentum=0.1)
    optimizer = DPOptimizer(
        sgd, noise_multiplier=SIGMA, max_grad_norm=1.0, expected_batch_size=len(x), loss_reduction="mean"
    )

    def step() -> None:
        F.cross_entropy(hooked(x), y, reduction="sum").backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(network: nn.Module, x: Tensor, y: Tensor, name: str, stack: ExitStack) -> Step:
    settled, budget = settle(recipe(name, len(x)), COUNT, sum(p.numel() for p in network.parameters()))
    gradients = stack.enter_context(per_sample_gradients(network, "this benchmark"))
    sgd = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.1)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        grads, _ = gradients(x, y, len(x))
        aligned = align(grads, settled, budget, generator)
        descend(sgd, aligned.aggregate)
        alignment(aligned, batch_gradient(aligned, grads))

    return step


def ghost_step(network: nn.Module, x: Tensor, y: Tensor, name: str) -> Step:
    parameters = sum(p.numel() for p in network.parameters())
    settled, budget = settle(replace(recipe(name, len(x)), gradients="ghost"), COUNT, parameters)
    sgd = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.1)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        aligned, whole = align_ghosts(Ghosts(network, x, y, len(x)), settled, budget, generator)
        descend(sgd, aligned.aggregate)
        alignment(aligned, whole)

    return step


def plain_step(network: nn.Module, x: Tensor, y: Tensor) -> Step:
    """Training without privacy."""
    sgd = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.1)

    def step() -> None:
        sgd.zero_grad()
        F.cross_entropy(network(x), y).backward()
        sgd.step()

    return step


def eager_step(network: nn.Module, x: Tensor, y: Tensor, name: str, stack: ExitStack) -> Step:
    """The algorithm line by line, from the same gradients."""
    gradients = stack.enter_context(per_sample_gradients(network, "this benchmark"))
    sgd = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.1)

    def step() -> None:
        grads, _ = gradients(x, y, len(x))
        clipped = grads / grads.norm(dim=1, keepdim=True).clamp(min=1)
        private = clipped + SIGMA * torch.randn(grads.shape[1]) / len(x)
        batch, seen = grads.mean(0), clipped
        if name == "cov":
            column = clipped.std(0) / (clipped.mean(0).abs() + 1e-12)
            chosen = column > column.kthvalue(int(PERCENTILE * column.numel())).values
            batch, seen = batch[chosen], clipped[:, chosen]
        kept = torch.cosine_similarity(batch.unsqueeze(0), seen) > PSI
        descend(sgd, private[kept if kept.any() else slice(None)].mean(0))

    return step


def case(batch: int, channels: tuple[int, int, int], repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    network = ResNet9(3, 10, channels)
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    memory = {}
    with ExitStack() as stack:
        steps: dict[str, Step] = {PLAIN: plain_step(copy.deepcopy(network), x, y)}
        for name in ("none", "cs"):
            steps[f"grad-align, {name}, ghost"] = ghost_step(copy.deepcopy(network), x, y, name)
        steps |= {OPACUS: opacus_step(copy.deepcopy(network), x, y)}
        for name in ("none", "cs", "cov"):
            steps[f"grad-align, {name}"] = our_step(copy.deepcopy(network), x, y, name, stack)
        for name in ("cs", "cov"):
            steps[f"eager, {name}"] = eager_step(copy.deepcopy(network), x, y, name, stack)
        times = contest.race(steps, repeats)
        for name, step in steps.items():
            memory[name] = machine.peak_extra_memory(step)
    return {
        "title": f"batch {batch}, {sum(p.numel() for p in network.parameters()):,} parameters",
        "seconds": times,
        "peak extra bytes": memory,
    }


def report(result: dict[str, Any]) -> str:
    m = result["machine"]
    lines = [
        "# grad-align",
        "",
        f"{m['processor']}, {m['threads']} of {m['cores']} cores, torch {m['torch']}, kernels {m['simd']}, {m['date']}."
        f" Whole training steps, medians of {m['repeats']} turns, best in brackets.",
        "",
    ]
    for item in result["cases"]:
        lines += [
            f"## {item['title']}",
            "",
            "| step | seconds | of Opacus' step | peak extra MB | of training without privacy |",
            "|---|---|---|---|---|",
        ]
        base = item["seconds"][OPACUS]
        for name, (median, best) in item["seconds"].items():
            ratio = f"{median / base[0]:.2f} ({best / base[1]:.2f})"
            extra = item["peak extra bytes"][name] / 1e6
            share = item["peak extra bytes"][name] / item["peak extra bytes"][PLAIN]
            lines.append(f"| {name} | {median:.3f} ({best:.3f}) | {ratio} | {extra:.0f} | {share:.2f} |")
        goal = "Goal: at most 1.5 times Opacus' step; the ghost form at most 1.2 times the memory without privacy."
        lines += ["", goal, ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="a small network and batch; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    channels = (8, 8, 16) if options.small else (64, 128, 256)
    cases = [case(batch, channels, options.repeats) for batch in ((8,) if options.small else (64, 256))]
    facts = machine.facts() | {"simd": status().simd, "repeats": options.repeats}
    result = {"machine": facts, "cases": cases}
    page = report(result)
    print(page)
    if not options.small:
        contest.save("grad_align", page, facts, cases)


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
