"""A plugin's training for ``accelerate launch`` to start on two processes: ``two_processes.py NAME FOLDER``.

``FOLDER/given.pickle``, which the test has just written, holds recipe and data. Each process writes hashes of its
parameters to ``FOLDER/rankN.json``, or the sentence with which it was refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys
from pathlib import Path

import torch

from zoo import registry
from zoo.data.sets import load_dataset
from zoo.data.splits import divide
from zoo.errors import OptionError
from zoo.training import Run


def main(name: str, out: Path) -> None:
    torch.set_num_threads(1)
    plugin, training = registry.part(name, "training")
    recipe, data = pickle.loads((out / "given.pickle").read_bytes())
    parts = divide(load_dataset(data, plugin=plugin), training.split, recipe) if isinstance(data, str) else data
    try:
        with Run(out / "run", seed=0, device="cpu", progress=False) as run:
            model = training.run(recipe, parts, run)
            found = {name: hashed(tensor) for name, tensor in model.named_parameters()}
            found["processes"] = run.accelerator.num_processes
    except OptionError as error:
        found = {"refused": str(error)}
    (out / f"rank{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))


def hashed(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
