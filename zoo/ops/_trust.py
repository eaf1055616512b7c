"""Whether the kernels answer on a device as their references do: looked at on first use, and remembered.

Kernels for GPUs can't be tested on every GPU before they are delivered. So the first call of an operator on one runs a
small case both ways. What came of it is kept in ``~/.cache/medimg-zoo/operators``, for each device, driver and build
(``ZOO_OPS_CACHE`` names another folder; ``off`` keeps nothing).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.storage import write_file
from zoo.text import printable

VARIABLE = "ZOO_OPS_CACHE"
GUARDED: frozenset[str] = frozenset({"cuda"})
"""Device types whose kernels are looked at before they are used; those of the CPU are tested where they are built."""

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Of a difference, relative to the largest number of the reference's answer."""

Check = Callable[[torch.device], tuple[Tensor, ...]]
"""Calls an operator on small inputs of its own on a device, and returns all that came of it."""


@dataclass(frozen=True)
class Finding:
    """What came of running an operator both ways."""

    operator: str
    ok: bool
    why: str = ""  # what is wrong, as the end of a sentence about the operator
    difference: float = 0.0  # the worst, relative to the largest number of the answer
    milliseconds: float = 0.0


def examine(operator: str, check: Check, device: torch.device, ways: tuple[Any, Any], of: str = "kernel") -> Finding:
    """Run ``check`` under each of two context managers, kernel first, and compare. ``of`` is the first one's name.

    Raises ``torch.OutOfMemoryError``: that decides nothing.
    """
    start = time.perf_counter()
    answers = []
    for way, said in zip(ways, (f"its {of} fails", "its reference fails"), strict=True):
        try:
            with way, torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
                answers.append([part.detach().cpu() for part in check(device)])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a launch may end in
            return Finding(operator, False, f"{said} ({printable(error, 160) or type(error).__name__})")
    worst, why = 0.0, ""
    for found, expected in zip(*answers, strict=True):
        difference = apart(found, expected)
        worst = max(worst, difference)
        if difference > TOLERANCE.get(expected.dtype, 0.0) and not why:
            by = f", by {difference:.2g} of the largest number" if math.isfinite(difference) else ""
            why = f"its {of} answers otherwise than its reference{by} ({expected.dtype})"
    return Finding(operator, not why, why, worst, 1000 * (time.perf_counter() - start))


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest finite number expected; infinite where the kind differs."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if found.equal(expected) else float("inf")
    finite = expected.isfinite()
    same = found.isfinite().equal(finite)
    if not same or not found[~finite].nan_to_num().equal(expected[~finite].nan_to_num()):
        return float("inf")
    if not finite.any():
        return 0.0
    x, y = found[finite].double(), expected[finite].double()
    return ((x - y).abs().max() / y.abs().max().clamp_min(1e-30)).item()


# ---- memory ---------------------------------------------------------------------------------------------------------


def identity(device: torch.device, build: str) -> dict[str, str]:
    """What a finding holds for: device, driver, build and torch."""
    if device.type == "cpu":
        level = torch.backends.cpu.get_cpu_capability()
        return {"device": f"{platform.machine()}, {level}", "driver": "", "build": "", "torch": torch.__version__}
    properties = torch.cuda.get_device_properties(device)
    driver = str(getattr(torch._C, "_cuda_getDriverVersion", int)())
    with suppress(OSError):
        driver = Path("/proc/driver/nvidia/version").read_text().partition("\n")[0]
    return {
        "device": f"{properties.name}, {properties.major}.{properties.minor}",
        "driver": driver,
        "build": _digest(build),
        "torch": torch.__version__,
    }


def recall(facts: dict[str, str]) -> dict[str, Finding]:
    """What was found before; nothing where that can't be read."""
    path = _path(facts)
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        stored = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
        if all(stored.get(name) == value for name, value in facts.items()):
            return {name: Finding(**one) for name, one in stored.get("operators", {}).items()}
    return {}


def keep(facts: dict[str, str], *findings: Finding) -> None:
    """Beside what was found before. A folder that can't be written to is no error."""
    path = _path(facts)
    if path is None:
        return
    known = recall(facts) | {one.operator: one for one in findings}
    told = {name: asdict(one) for name, one in known.items()}
    with suppress(OSError, DataError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_file(path, json.dumps({**facts, "operators": told}, indent=2))


def _path(facts: dict[str, str]) -> Path | None:
    given = os.environ.get(VARIABLE, "")
    if given.lower() == "off":
        return None
    with suppress(RuntimeError):  # there may be no home
        folder = Path(given).expanduser() if given else Path.home() / ".cache" / "medimg-zoo" / "operators"
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        return folder / f"{name}.json"
    return None


@cache
def _digest(file: str) -> str:
    with suppress(OSError):
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    return "unknown"


__all__ = ["GUARDED", "TOLERANCE", "Check", "Finding", "apart", "examine", "identity", "keep", "recall"]
