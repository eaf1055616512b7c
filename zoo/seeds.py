"""Where chance comes from: seeds made of names and numbers, and the state of the global generators."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from typing import Any, SupportsIndex


def derive_seed(*key: SupportsIndex | str) -> int:
    """A 128-bit seed that depends on all parts of ``key`` and is the same on every machine."""
    text = json.dumps(key, default=int)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    seed_torch(seed)


def seed_torch(seed: int) -> None:
    """``torch.manual_seed``; without an accelerator, less the stack traces that it keeps for the day one comes."""
    import torch

    seed_all = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
    seed_all(seed % 2**63)


def rng_state() -> dict[str, Any]:
    """The global random number generators of Python, NumPy and torch (with the current CUDA device's)."""
    import numpy as np
    import torch

    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}  # noqa: NPY002
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Set the generators to what ``rng_state`` returned."""
    import numpy as np
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
