"""local-global-prototypes end to end: a training step and a prediction, compiled operator against its reference.

``python benchmarks/local_global_prototypes.py`` measures everything in one run and writes ``benchmarks/results/``. The
two take turns within every repeat. ``--small`` runs the demo's network alone and writes nothing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import contest
import machine
import numpy as np
import torch

from zoo.data.phantoms.skin import skin_lesion
from zoo.models.local_global_prototypes import prototypes as network
from zoo.models.local_global_prototypes.model import LocalGlobalConfig, LocalGlobalPrototypes
from zoo.models.local_global_prototypes.training import training
from zoo.ops import prototype_similarity, status

reference = import_module("zoo.ops.prototype_similarity").reference
COMPILED, REFERENCE = "compiled operator", "PyTorch reference"


@contextmanager
def operator(name: str) -> Iterator[None]:
    """Let both branches use one implementation."""

    def plain(features: torch.Tensor, prototypes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return reference(features, prototypes, "cosine")

    network.prototype_similarity = prototype_similarity if name == COMPILED else plain  # type: ignore[assignment]
    try:
        yield
    finally:
        network.prototype_similarity = prototype_similarity


def race(run: Callable[[], Any], repeats: int) -> contest.Times:
    """Seconds of ``run`` with each implementation, taking turns."""

    def with_operator(name: str) -> None:
        with operator(name):
            run()

    return contest.race({name: partial(with_operator, name) for name in (COMPILED, REFERENCE)}, repeats)


def training_step(config: LocalGlobalConfig, batch: int) -> Callable[[], None]:
    """Forward, centroids, loss, backward and Adam, as in stage 1."""
    torch.manual_seed(0)
    model = LocalGlobalPrototypes(config).train()
    adam = torch.optim.Adam([p for n, p in model.named_parameters() if not n.startswith("heads")], lr=1e-5)
    x = torch.randn(batch, 3, config.image_size, config.image_size)
    y = torch.arange(batch) % len(config.labels)

    def step() -> None:
        evidence = model(x)
        loss = torch.zeros(())
        for name, seen in evidence.items():
            branch = model.branch(name)
            branch.absorb(*branch.assign(seen, y))
            loss = loss + torch.nn.functional.cross_entropy(model.stage1_logits(seen), y) + 0.01 * branch.cluster_loss()
        adam.zero_grad()
        loss.backward()
        adam.step()

    return step


def similarity_step(config: LocalGlobalConfig, batch: int, side: int) -> Callable[[], None]:
    """The part of a step that the operator takes: local similarities of all cells, forward and backward."""
    torch.manual_seed(0)
    d, p = config.embedding_width, config.prototypes * len(config.labels)
    cells, prototypes = torch.randn(batch, side * side, d, requires_grad=True), torch.randn(p, d, requires_grad=True)

    def step() -> None:
        network.prototype_similarity(cells, prototypes)[0].sum().backward()

    return step


def case(title: str, config: LocalGlobalConfig, batch: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = LocalGlobalPrototypes(config).eval()
    image = skin_lesion(0).image
    with operator(COMPILED):
        ours = model.predict(image).probabilities
    with operator(REFERENCE):
        plain = model.predict(image).probabilities
    np.testing.assert_allclose(list(ours.values()), list(plain.values()), atol=1e-5)
    with torch.no_grad():
        features = model.backbone(torch.zeros(1, 3, config.image_size, config.image_size))
    return {
        "title": f"{title}, batch {batch}, {config.image_size} px, {config.prototypes} prototypes per class and branch",
        "training step": race(training_step(config, batch), repeats),
        "local similarity alone, forward and backward": race(
            similarity_step(config, batch, features.shape[-1]), repeats
        ),
        "predict, one image": race(lambda: model.predict(image), 2 * repeats),
    }


def report(result: dict[str, Any]) -> str:
    m = result["machine"]
    lines = [
        "# local-global-prototypes",
        "",
        f"{m['processor']}, {m['threads']} of {m['cores']} cores, torch {m['torch']}, kernels {m['simd']}, "
        f"{m['date']}. float32, medians of {m['repeats']} or more turns, best times in brackets. Load average at the "
        f"start and end: {m['load'][0]:.1f} and {m['load'][1]:.1f}.",
        "",
    ]
    for item in result["cases"]:
        lines += [f"## {item['title']}", "", f"| | {COMPILED}, ms | {REFERENCE}, ms | ratio |", "|---|---|---|---|"]
        for name, times in item.items():
            if name != "title":
                (a, a_best), (b, b_best) = times[COMPILED], times[REFERENCE]
                cells = f"{a * 1e3:.2f} ({a_best * 1e3:.2f}) | {b * 1e3:.2f} ({b_best * 1e3:.2f})"
                lines.append(f"| {name} | {cells} | {b / a:.2f} ({b_best / a_best:.2f}) |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="the demo's network alone; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    cases = [case("small network", training.configure("demo").network, 10 if options.small else 50, options.repeats)]
    if not options.small:
        for backbone in ("resnet18", "densenet169"):
            cases.append(case(backbone, LocalGlobalConfig(backbone=backbone), 16, max(2, options.repeats // 2)))
    facts = machine.facts() | {
        "simd": status().simd,
        "repeats": options.repeats,
        "load": (load, os.getloadavg()[0]),
    }
    result = {"machine": facts, "cases": cases}
    page = report(result)
    print(page)
    if not options.small:
        contest.save("local_global_prototypes", page, facts, cases)


if __name__ == "__main__":
    machine.reuse_allocations()
    main()
