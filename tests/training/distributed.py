"""A small training for ``accelerate launch`` to start on several processes: ``distributed.py FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from zoo.training import Run

STEPS = 12


def train(out: Path, until: int | None = None) -> tuple[list[float], list[float]]:
    """Weights before and after, trained as far as ``until`` or to the end."""
    data = torch.linspace(-1, 1, 40)[:, None] * torch.linspace(1, 2, 5)
    with Run(out, seed=2, device="cpu", resume=True, identity={"model": "toy"}, checkpoint_every=3) as run:
        net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        start = net[0].weight.flatten().tolist()
        net, adam = run.track(net=net, adam=torch.optim.Adam(net.parameters(), lr=0.05))
        for step in run.steps(STEPS):
            if step == until:
                break
            x = data[run.indices(len(data), 8, step)]
            loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
            adam.zero_grad()
            run.backward(loss)
            adam.step()
            run.log(loss=loss)
        return start, run.unwrap(net)[0].weight.flatten().tolist()


def main(out: Path) -> None:
    torch.set_num_threads(1)
    start, whole = train(out / "whole")
    train(out / "parts", until=7)
    _, resumed = train(out / "parts")
    run = Run(device="cpu")
    if run.is_main:
        record = {"processes": run.accelerator.num_processes, "start": start, "whole": whole, "resumed": resumed}
        print(json.dumps(record))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
