"""Trains a toy network in forked processes that are killed, and prints the digests of what came out.

Importing torch takes seconds and a fork milliseconds, so that every system call of a training's disk writes can be a
place to die. Run as a script: ``kill_driver.py reference|calls|times FOLDER``.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.training import EarlyStopping, Run
from zoo.training import checkpoint as checkpoints

STAGES = ("first", "second")
STEPS = 12


def train(out: Path, *, resume: bool, pause: float = 0.0) -> str:
    """Two stages whose result depends on all that a checkpoint must hold; returns a digest of weights and metrics."""
    torch.set_num_threads(1)
    last = None
    with Run(out, seed=3, device="cpu", resume=resume, identity={"model": "toy"}, checkpoint_every=4) as run:
        for name in STAGES:
            run.stage(name)
            net = torch.nn.Sequential(
                torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1)
            )
            if last is not None:  # the second stage builds on the first, as networks on synthesised images do
                net[0].load_state_dict(last[0].state_dict())
            adam = torch.optim.Adam(net.parameters(), lr=1e-2)
            schedule = torch.optim.lr_scheduler.MultiStepLR(adam, [3, 6], gamma=0.5)
            stopping = EarlyStopping(patience=100, module=net, maximise=False)
            run.keep(stopping=stopping)
            net, adam, schedule = run.track(net=net, adam=adam, schedule=schedule)
            for step in run.steps(STEPS):
                index = run.indices(20, 4, step)
                x = torch.randn(4, 6) + torch.from_numpy(index)[:, None] / 20  # torch's global generator
                x = x + float(np.random.normal()) + random.random()  # noqa: NPY002
                x = x + float(run.generator("noise", step).normal())
                loss = net(x).square().mean()
                adam.zero_grad()
                run.backward(loss)
                adam.step()
                schedule.step()
                stopping.update(loss)
                run.log(loss=loss, **({"late": 1.0} if step > 7 else {}))
                time.sleep(pause)
            last = net
        tensors = b"".join(v.numpy().tobytes() for v in net.state_dict().values())
        metrics = b"".join((out / "metrics" / f"{name}.csv").read_bytes() for name in STAGES)
        return hashlib.sha256(tensors + metrics + repr(stopping.best).encode()).hexdigest()


class Dying:
    """Counts the calls that touch the disk and kills the process at the chosen one, half-way through if it writes."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.count = 0
        for module, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (shutil, "rmtree")):
            setattr(module, name, self.wrap(getattr(module, name), self.nothing))
        checkpoints.save_file = self.wrap(checkpoints.save_file, self.half_a_file)

    def wrap(self, function: Any, spoil: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                spoil(function, *args)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    @staticmethod
    def nothing(function: Any, *args: Any) -> None:
        if function.__name__ == "rmtree":  # die with part of the folder removed
            for path in sorted(Path(args[0]).glob("*"))[:1]:
                path.unlink()

    @staticmethod
    def half_a_file(function: Any, tensors: Any, path: Path) -> None:
        function(tensors, path)
        os.truncate(path, os.path.getsize(path) // 2)


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process; its exit status, or minus the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def digest_of(folder: Path, *, resume: bool, at: int | None = None) -> tuple[int, str, int]:
    """Exit status, digest and number of disk calls of one training in a child."""
    note = folder.with_suffix(".note")
    note.unlink(missing_ok=True)

    def work() -> None:
        dying = Dying(at)
        digest = train(folder, resume=resume)
        note.write_text(json.dumps([digest, dying.count]))

    status = in_child(work)
    digest, count = json.loads(note.read_text()) if note.exists() else ("", 0)
    return status, digest, count


def killed_at_every_call(root: Path) -> dict:
    status, reference, calls = digest_of(root / "reference", resume=False)
    assert status == 0
    digests, statuses = [], []
    for at in range(1, calls + 1):
        folder = root / f"call-{at}"
        statuses.append(digest_of(folder, resume=False, at=at)[0])
        # and once more while it resumes, at another place
        statuses.append(digest_of(folder, resume=True, at=7 + at % 11)[0])
        status, digest, _ = digest_of(folder, resume=True)
        assert status == 0, f"resume after a kill at call {at} failed"
        digests.append(digest)
    return {"reference": reference, "digests": digests, "statuses": statuses, "calls": calls}


def killed_at_random_times(root: Path) -> dict:
    _, reference, _ = digest_of(root / "reference", resume=False)
    rng = random.Random(0)
    digests, kills = [], 0
    for trial in range(6):
        folder, resume = root / f"time-{trial}", False
        for _ in range(50):
            pid = os.fork()
            if pid == 0:
                train(folder, resume=resume, pause=0.01)
                os._exit(0)
            time.sleep(rng.uniform(0.05, 0.4))
            os.kill(pid, signal.SIGKILL)
            killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
            kills += killed
            resume = (folder / "run.json").exists()
            if not killed:
                break
        digests.append(digest_of(folder, resume=resume)[1])
    return {"reference": reference, "digests": digests, "kills": kills}


if __name__ == "__main__":
    what, root = sys.argv[1], Path(sys.argv[2])
    work = {"calls": killed_at_every_call, "times": killed_at_random_times}[what]
    train(root / "warm-up", resume=False)  # imports happen once, before the forks
    print(json.dumps(work(root)))
