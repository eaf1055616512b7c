"""Loads the compiled module and decides, operator by operator, between its kernels and the PyTorch reference."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

from zoo.errors import OptionError

MODES = ("auto", "reference", "compiled")


@dataclass(frozen=True)
class Status:
    """What runs when an operator is called. Plain data for ``zoo doctor``."""

    mode: str  # ZOO_OPS: auto, reference or compiled
    operators: dict[str, dict[str, str]]  # operator -> {"cpu": "compiled" | "reference", "cuda": ...}
    simd: str | None  # instruction set of the CPU kernels on this processor: baseline, avx2 or avx512
    cuda_archs: tuple[str, ...]  # compiled GPU generations, e.g. ("8.0", "9.0+PTX")
    why_not_compiled: dict[str, str] = field(default_factory=dict)  # "cpu" or "cuda" -> reason
    build: dict[str, str] = field(default_factory=dict)  # compiler, C++ standard, torch, digest of sources; CUDA


def _mode() -> str:
    mode = os.environ.get("ZOO_OPS") or "auto"
    if mode not in MODES:
        raise OptionError(f"the environment variable ZOO_OPS must be one of {', '.join(MODES)}, not {mode!r}")
    return mode


def _load() -> tuple[ModuleType | None, ModuleType | None, dict[str, str]]:
    """The CPU and the CUDA module, and for each that is absent the reason."""
    try:
        cpu = importlib.import_module("zoo._C")
    except ModuleNotFoundError:
        absent = "zoo._C is not part of this installation (it was installed without a C++ compiler)"
        return None, None, {"cpu": absent, "cuda": absent}
    except ImportError as error:
        unusable = f"zoo._C does not load: {error}"
        return None, None, {"cpu": unusable, "cuda": unusable}
    if torch.version.cuda is None:
        return cpu, None, {"cuda": f"torch {torch.__version__} is a build without CUDA"}
    try:
        return cpu, importlib.import_module("zoo._C_cuda"), {}
    except ModuleNotFoundError:
        return cpu, None, {"cuda": "zoo._C_cuda is not part of this installation (it was installed without a toolkit)"}
    except ImportError as error:
        return cpu, None, {"cuda": f"zoo._C_cuda does not load: {error}"}


_MODE = _mode()
_CPU, _CUDA, _WHY_NOT = _load()
_BY_REFERENCE = ContextVar("by_reference", default=False)
_KERNELS: dict[str, tuple[str, ...]] = {}  # operator -> device types with a compiled kernel


def declare(name: str) -> bool:
    """Enter an operator; every file of ``zoo.ops`` does so once, on import.

    Returns whether the compiled library defines ``zoo::<name>``, which is when the file registers its fake kernel and
    its autograd formula.
    """
    defined = hasattr(torch.ops.zoo, name)
    keys = {"cpu": "CPU", "cuda": "CUDA"}
    _KERNELS[name] = tuple(
        device
        for device, key in keys.items()
        if defined and torch._C._dispatch_has_kernel_for_dispatch_key(f"zoo::{name}", key)
    )
    return defined


def use_compiled(name: str, device: torch.device) -> bool:
    """Whether a call on ``device`` goes to the compiled kernel.

    Raises ``RuntimeError`` when ``ZOO_OPS=compiled`` asks for a kernel that is not there.
    """
    if _MODE == "reference" or _BY_REFERENCE.get():
        return False
    if device.type in _KERNELS[name]:
        return True
    if _MODE == "compiled":
        why = _WHY_NOT.get(device.type, "the compiled module has no kernel for it")
        raise RuntimeError(f"ZOO_OPS=compiled, but {name} is not compiled for {device.type}: {why}")
    return False


@contextmanager
def by_reference() -> Iterator[None]:
    """While it lasts every operator runs by its reference: for a graph of PyTorch's own operators, as ONNX's is."""
    token = _BY_REFERENCE.set(True)
    try:
        yield
    finally:
        _BY_REFERENCE.reset(token)


def autocasts(device: torch.device) -> bool:
    """Whether an autocast region is active for this device."""
    # Only where autocast certainly exists: is_autocast_available, the general question, can't be traced by torch 2.10.
    return device.type in ("cpu", "cuda") and torch.is_autocast_enabled(device.type)


def host(name: str) -> Any:
    """A class of the compiled module that lives on the host; call only where :func:`use_compiled` says so."""
    return getattr(_CPU, name)


def status() -> Status:
    """Which implementation each operator runs by, and the facts behind it."""
    build = {}
    if _CPU is not None:
        build = {
            "compiler": _CPU.compiler,
            "c++": str(_CPU.cxx_standard),
            "torch": _CPU.torch_version,
            "sources": getattr(_CPU, "sources", "unknown"),  # of a build from before this was compiled in
        }
    if _CUDA is not None:
        build["cuda"] = _CUDA.cuda_version
    return Status(
        mode=_MODE,
        operators={
            name: {
                device: "compiled" if device in devices and _MODE != "reference" else "reference"
                for device in ("cpu", "cuda")
            }
            for name, devices in _KERNELS.items()
        },
        simd=_CPU.simd_level if _CPU is not None else None,
        cuda_archs=tuple(_CUDA.cuda_archs.split(";")) if _CUDA is not None else (),
        why_not_compiled=dict(_WHY_NOT),
        build=build,
    )
