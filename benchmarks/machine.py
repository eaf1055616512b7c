"""What the machine can do, measured in the run that a benchmark is quoted from, and how to time things fairly."""

from __future__ import annotations

import ctypes
import datetime
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# Fresh large allocations page-fault slowly on some machines, which would inflate whatever allocates most.
REUSE = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


def reuse_allocations() -> None:
    """Start the program again with an allocator that keeps freed memory. Call it first, from ``__main__``."""
    if all(os.environ.get(name) == value for name, value in REUSE.items()):
        return
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **REUSE})


def facts() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def median_time(fn: Callable[[], Any], *, repeats: int = 7, warmup: int = 2) -> float:
    """Seconds."""
    for _ in range(warmup):
        fn()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        fn()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def read_bandwidth() -> float:
    """GB/s of summing 256 MB."""
    x = torch.ones(1 << 26)
    return x.nbytes / median_time(lambda: x.sum()) / 1e9


def copy_bandwidth() -> float:
    """GB/s, read plus written, of copying 256 MB into memory that is already mapped."""
    x, y = torch.ones(1 << 26), torch.ones(1 << 26)
    return 2 * x.nbytes / median_time(lambda: y.copy_(x)) / 1e9


def gemm_rate(dtype: torch.dtype, n: int = 2048) -> float:
    """GFLOP/s of a square product."""
    x, y, out = (torch.randn(n, n).to(dtype) for _ in range(3))
    return 2 * n**3 / median_time(lambda: torch.mm(x, y, out=out)) / 1e9


def sgemm_rate() -> float:
    """GFLOP/s of a square float32 product."""
    return gemm_rate(torch.float32)


def peak_extra_memory(fn: Callable[[], Any]) -> int:
    """Bytes that the resident set grows by, at most, while ``fn`` runs (Linux)."""
    fn()  # what is set up once doesn't count
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory that the allocator kept would hide what fn takes
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    before = _status("VmRSS")
    fn()
    return max(0, _status("VmHWM") - before)


def peak_memory() -> int:
    """Bytes of this process's resident set at its largest (Linux). ``ru_maxrss`` would count the parent's too."""
    return _status("VmHWM")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
