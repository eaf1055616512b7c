"""Loads the compiled module and decides, operator by operator, between its kernels and the PyTorch reference."""

from __future__ import annotations

import importlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType

import torch

from zoo.errors import OptionError
from zoo.ops import _trust

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
_BY_KERNEL = ContextVar("by_kernel", default=False)
_BY_WAY = ContextVar("by_way", default="")
_KERNELS: dict[str, tuple[str, ...]] = {}  # operator -> device types with a compiled kernel
_CHECKS: dict[str, _trust.Check] = {}
_WAYS: dict[str, tuple[_trust.Check, Callable[[torch.device], bool]]] = {}  # "operator by way" -> and where it may run
_TRUSTED: dict[tuple[str, str, int | None], bool] = {}  # operator, device type and index -> whether its kernel is used
_LOCK = threading.Lock()


def declare(name: str, check: _trust.Check) -> bool:
    """Enter an operator; every file of ``zoo.ops`` does so once, on import.

    ``check``: calls it on small inputs of its own, for the comparison of kernel and reference on a GPU.

    Returns whether the compiled library defines ``zoo::<name>``, which is when the file registers its fake kernel and
    its autograd formula.
    """
    defined = hasattr(torch.ops.zoo, name)
    keys = {"cpu": "CPU", "cuda": "CUDA"}
    _CHECKS[name] = check
    _KERNELS[name] = tuple(
        device
        for device, key in keys.items()
        if defined and torch._C._dispatch_has_kernel_for_dispatch_key(f"zoo::{name}", key)
    )
    return defined


def declare_way(name: str, check: _trust.Check, here: Callable[[torch.device], bool]) -> None:
    """Enter a library's way of an operator, as ``operator by way``; ``here`` tells the devices on which it may run."""
    _WAYS[name] = (check, here)


def use_compiled(name: str, device: torch.device) -> bool:
    """Whether a call on ``device`` goes to the compiled kernel.

    On a GPU the first call compares kernel and reference, once for each device, driver and build; where they differ it
    warns, and the reference runs from then on.

    Raises ``RuntimeError`` when ``ZOO_OPS=compiled`` asks for a kernel that is not there, or that is wrong here.
    """
    if _MODE == "reference" or _holds(_BY_REFERENCE):
        return False
    if device.type in _KERNELS[name]:
        return device.type not in _trust.GUARDED or _holds(_BY_KERNEL) or _trusted(name, device)
    if _MODE == "compiled":
        why = _WHY_NOT.get(device.type, "the compiled module has no kernel for it")
        raise RuntimeError(f"ZOO_OPS=compiled, but {name} is not compiled for {device.type}: {why}")
    return False


def _holds(asked: ContextVar[bool]) -> bool:
    """Whether a surrounding block asks for it. Dynamo, which in torch 2.10 can't trace the question, is told no."""
    return not torch.compiler.is_dynamo_compiling() and asked.get()


@contextmanager
def by_reference() -> Iterator[None]:
    """While it lasts every operator runs by its reference: for a graph of PyTorch's own operators, as ONNX's is.

    ``torch.compile`` doesn't look at it.
    """
    token = _BY_REFERENCE.set(True)
    try:
        yield
    finally:
        _BY_REFERENCE.reset(token)


def way_asked_for(operator: str) -> str | None:
    """The library's way that a surrounding block asks for, "" where it asks for none; None leaves it to the table."""
    if _MODE != "auto" or _holds(_BY_REFERENCE) or _holds(_BY_KERNEL):
        return ""
    of, _, way = _BY_WAY.get().partition(" by ")
    return (way if of == operator else "") if of else None


def trusts_way(name: str, device: torch.device) -> bool:
    """Whether a library's way, ``operator by way``, answers on ``device`` as the reference does; looked at once."""
    return not _can_not_wait(device) and _trusted(name, device)


def distrust(name: str, device: torch.device, why: str) -> None:
    """Take a library's way no more on ``device``, and say so; for one that failed."""
    _TRUSTED[(name, device.type, device.index)] = False
    warnings.warn(f"{name}: {why}, so the zoo's own kernel runs from now on", RuntimeWarning, stacklevel=4)


@contextmanager
def by_way(name: str) -> Iterator[None]:
    """While it lasts an operator goes by the library's way named (``operator by way``), where that covers the call."""
    token = _BY_WAY.set(name)
    try:
        yield
    finally:
        _BY_WAY.reset(token)


@contextmanager
def _by_kernel() -> Iterator[None]:
    token = _BY_KERNEL.set(True)
    try:
        yield
    finally:
        _BY_KERNEL.reset(token)


def _trusted(name: str, device: torch.device) -> bool:
    key = (name, device.type, device.index)
    if key not in _TRUSTED:
        if _can_not_wait(device):  # decided at the next call outside of a graph
            return True
        with _LOCK:
            if key not in _TRUSTED:
                _decide(name, device, key)
    return _TRUSTED.get(key, True)


def _can_not_wait(device: torch.device) -> bool:
    """While a graph is traced or recorded nothing can be compared."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
        return True
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _decide(name: str, device: torch.device, key: tuple[str, str, int | None]) -> None:
    facts = _trust.identity(device, getattr(_CUDA, "__file__", None) or "")
    finding = _trust.recall(facts).get(name)
    if finding is None:
        try:
            finding = self_test(name, device)
        except torch.OutOfMemoryError:
            return
        _trust.keep(facts, finding)
    if not finding.ok:
        told = f"{name} on {facts['device']}: {finding.why}"
        if _MODE == "compiled":
            raise RuntimeError(f"ZOO_OPS=compiled, but {told}")
        instead = "the zoo's own kernel" if name in _WAYS else "the reference"
        warnings.warn(f"{told}, so {instead} runs instead; look at zoo doctor --gpu", RuntimeWarning, stacklevel=5)
    _TRUSTED[key] = finding.ok


def self_test(name: str, device: torch.device) -> _trust.Finding:
    """Kernel, or a library's way, against reference on a small case. Raises ``torch.OutOfMemoryError``."""
    if name in _WAYS:
        check, _ = _WAYS[name]
        return _trust.examine(name, check, device, (by_way(name), by_reference()), "way")
    return _trust.examine(name, _CHECKS[name], device, (_by_kernel(), by_reference()))


def self_tests(device: torch.device) -> dict[str, _trust.Finding]:
    """Every operator with a kernel for this device, and every library's way, looked at anew; remembered."""
    facts = _trust.identity(device, getattr(_CUDA, "__file__", None) or "")
    found = {}
    kernels = [name for name, devices in _KERNELS.items() if device.type in devices]
    for name in (*kernels, *(name for name, (_, here) in _WAYS.items() if here(device))):
        found[name] = self_test(name, device)
        _TRUSTED[(name, device.type, device.index)] = found[name].ok
    _trust.keep(facts, *found.values())
    return found


def autocasts(device: torch.device) -> bool:
    """Whether an autocast region is active for this device."""
    # Only where autocast certainly exists: is_autocast_available, the general question, can't be traced by torch 2.10.
    return device.type in ("cpu", "cuda") and torch.is_autocast_enabled(device.type)


def status() -> Status:
    """Which implementation each operator runs by, and the facts behind it."""
    build = {}
    if _CPU is not None:
        build = {
            "compiler": _CPU.compiler,
            "c++": _CPU.cxx_standard,
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
