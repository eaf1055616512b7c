"""FedAutoMRI: rounds of its search and training beside plain FedAvg's, and its reconstruction beside an eager loop.

``python benchmarks/fedautomri.py`` measures all in one run and writes ``benchmarks/results/``; ``--quick`` shows that
it works. Times are those of the processor, which other work on the machine changes least, and contestants take turns.
The eager loop shifts k-space and mask in every iteration, makes every kernel anew, and runs each operation by
itself, as the formulas are printed; both give the same image.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import contest
import machine
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.data.case import Case
from zoo.data.phantoms.k_space import slice_of
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.federated import Context, Federation, Update, federate
from zoo.models.fedautomri.baselines import build_network
from zoo.models.fedautomri.cell import Operation
from zoo.models.fedautomri.data import Sampling, Slices
from zoo.models.fedautomri.network import Unrolled, to_complex, to_parts
from zoo.models.fedautomri.training import FedAutoMRIRecipe, federation, searching
from zoo.training import Run

CLIENTS, STEPS, SIDE = 3, 5, 64
RECIPE = FedAutoMRIRecipe(size=SIDE, local_steps=STEPS, search_batch=4, batch_size=4, rounds=1, search_rounds=1)


def plain(network: Any, slices: Slices, rng: np.random.Generator, context: Context) -> Update:
    """FedAvg's client: steps of Adam on the same network and batches."""
    adam = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(STEPS):
        batch = slices.batch(4, rng)
        loss = (network(batch.x0, batch.mask) - batch.truth).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return Update({"network": network}, num_examples=len(slices))


def fedavg(recipe: FedAutoMRIRecipe, partitions: Any, slices: Any) -> Federation:
    return Federation(partial(build_network, recipe.network), plain, slices, partitions, recipe.rounds)


def seconds_per_round(make: Callable[..., Federation], rounds: int) -> float:
    """The difference of two lengths, which leaves out what is done once."""
    rng = np.random.default_rng(0)
    shards = [
        Slices(torch.from_numpy(np.stack([slice_of(rng, SIDE, site) for _ in range(8)])), Sampling(4.0, 0.08))
        for site in "abc"
    ]
    ends = np.cumsum([0, *map(len, shards)])
    cases = [Case(np.zeros((1, 1), np.float32), str(i)) for i in range(ends[-1])]
    data = TrainData(Dataset("drawn", [Entry(one.id, one) for one in cases]), *[Dataset("drawn", [])] * 2)
    taken = []
    for count in (1, 1 + rounds):
        recipe = replace(RECIPE, rounds=count, search_rounds=count)
        built = make(recipe, [np.arange(a, b) for a, b in pairwise(ends)], shards.__getitem__)
        start = time.process_time()
        with Run(None, device="cpu", progress=False) as run:
            federate(lambda *_, built=built: built, recipe, data, run)
        taken.append(time.process_time() - start)
    return (taken[1] - taken[0]) / rounds


@torch.no_grad()
def eager(network: Unrolled, x0: Tensor, mask: Tensor) -> Tensor:
    """Eq. 3 with centred k-space: every shift, every operation, in every iteration."""
    denoiser: Any = network.denoiser
    axes = (-2, -1)

    def forward(x: Tensor) -> Tensor:
        return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(x, axes), norm="ortho"), axes)

    def inverse(k: Tensor) -> Tensor:
        return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(k, axes), norm="ortho"), axes)

    def run(operation: Operation, x: Tensor) -> Tensor:
        if operation.kind == "std":
            return F.conv2d(x, operation.weight, padding=operation.reach // 2, dilation=operation.dilation)
        deep = F.conv2d(x, operation.depthwise[:, None], padding=operation.kernel // 2, groups=x.shape[1])
        return F.conv2d(deep, operation.pointwise[:, :, None, None])

    x, centred = x0, torch.fft.fftshift(mask, axes)
    for _ in range(network.unroll):
        before = last = denoiser.stem(x)
        for cell in denoiser.cells:
            p0 = cell.merge(torch.cat([before, last], 1))
            p1, p2 = (sum(run(one, p0.relu()) for one in cell.edges[place]) for place in (0, 1))
            before, last = last, p2 + sum(run(one, p1.relu()) for one in cell.edges[2])
        r = to_complex(x + denoiser.head(last))
        k = centred * forward(to_complex(x0))
        x = to_parts(inverse((k + network.weight * forward(r)) / (centred + network.weight)))
    return x


def reconstruction(size: int, repeats: int) -> dict[str, float]:
    torch.manual_seed(0)
    network = build_network(RECIPE.network).eval()
    assert isinstance(network, Unrolled)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(np.stack([slice_of(rng, size, "a")]))
    batch = Slices(images, Sampling(4.0, 0.08)).batch(1, rng)
    mask = batch.mask.expand(1, size, size)
    ways = {"ours": lambda: network(batch.x0, mask), "eager": lambda: eager(network, batch.x0, mask)}
    with torch.inference_mode():
        torch.testing.assert_close(ways["ours"](), ways["eager"](), rtol=1e-3, atol=1e-4)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                start = time.process_time()
                way()
                taken[name].append(time.process_time() - start)
    return {f"ms of a slice of {size} px, {name}": 1e3 * float(np.median(some)) for name, some in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    rounds, turns = (1, 1) if quick else (4, 3)
    kinds = {"plain FedAvg": fedavg, "training": federation, "search": searching}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(turns):
        for name, make in kinds.items():
            seconds[name].append(seconds_per_round(make, rounds))
    result: dict[str, Any] = {
        f"rounds per second, {name}": 1 / float(np.median(some)) for name, some in seconds.items()
    }
    result |= reconstruction(64 if quick else 256, 2 if quick else 20)
    lines = [f"{name}: {value:.4g}" for name, value in result.items()]
    print("\n".join(lines))
    if not quick:
        facts = machine.facts()
        where = f"{facts['processor']}, {facts['threads']} threads, torch {facts['torch']}"
        about = f"{where}, {facts['date']}; processor time"
        page = "\n".join(["# fedautomri", "", about, "", *(f"- {line}" for line in lines), ""])
        contest.save("fedautomri", page, facts, [result])


if __name__ == "__main__":
    main()
