"""The CUDA kernels without a GPU: the operators' own tests, run on an emulator that also looks for races.

``ZOO_SIMT_LONG=1 python -m pytest tests/simt`` takes all tests of the operators, more examples and more schedules.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests_simt_build import build, rewrite  # the folder's own build.py, see conftest.py

TESTS = Path(__file__).resolve().parents[1]
ON_THE_HOST = (
    "threads or refused_by_name or not_finite_is_refused or out_of_range or tree or simd or status or narrow_bank"
)
"""What CUDA leaves to the caller, because looking at the values would wait for the device, and what only a CPU has."""

# Clouds and banks of thousands of rows: minutes on an emulator.
LARGE = {
    "icp": "mirrored or planar or outliers or next_may_start or stopping_rule or copies_of_a_cloud",
    "cosine_topk": "larger_bank or lowest_index",
    "nearest_neighbors": "large_clouds",
    "masked_attention": "numerical_one or opcheck",
    "cosine_filter": "opcheck",
    "prototype_similarity": "opcheck",
}

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None or platform.system() != "Linux", reason="needs g++ on Linux"),
    pytest.mark.xdist_group("simt"),  # one worker compiles
]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels, compiled for this processor."""
    path = build(tmp_path_factory.mktemp("simt"))
    torch.ops.load_library(str(path))
    return path


def run(library: Path, operator: str, skipped: str, examples: int, schedules: int) -> str:
    """The tests of an operator on its emulated kernels; gives what pytest said at its end."""
    command = [
        sys.executable, "-m", "pytest", str(TESTS / "ops" / f"test_{operator}.py"), "-q", "-p", "plugin",
        "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "-m", "not gpu", "-k", f"not ({skipped})",
    ]  # fmt: skip
    settings = {
        "ZOO_SIMT_LIBRARY": str(library),
        "ZOO_SIMT_EXAMPLES": str(examples),
        "ZOO_SIMT_SCHEDULES": str(schedules),
        "PYTHONPATH": str(Path(__file__).parent),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def emulated(said: str, operator: str) -> int:
    return int(re.search(rf"\b{operator} (\d+)", said)[1])  # type: ignore[index]


@pytest.mark.parametrize("operator", LARGE)
def test_the_kernels_pass_the_operators_tests(library, operator):
    said = run(library, operator, f"{ON_THE_HOST} or {LARGE[operator]}", examples=3, schedules=2)
    assert emulated(said, operator) >= 20


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("ZOO_SIMT_LONG") != "1", reason="an hour; ZOO_SIMT_LONG=1 runs it")
@pytest.mark.parametrize("operator", LARGE)
def test_the_kernels_pass_all_of_them_in_more_orders(library, operator):
    said = run(library, operator, ON_THE_HOST, examples=25, schedules=4)
    assert emulated(said, operator) >= 100


def results_of(kernel: str) -> list[torch.Tensor]:
    found = []
    for schedule in range(4):
        torch.ops.zoo_simt.set_schedule(schedule)
        found.append(torch.ops.zoo_simt.faults(torch.arange(64.0), kernel))
    return found


def test_a_sound_kernel_gives_the_same_in_every_order(library):
    for found in results_of("sound"):
        assert found.tolist() == list(range(63, -1, -1))


@pytest.mark.parametrize("kernel", ["race", "warp_race"])
def test_a_missing_barrier_shows_in_another_order(library, kernel):
    first, *others = results_of(kernel)
    assert not all(torch.equal(first, other) for other in others)


def test_shared_memory_that_nobody_wrote_is_no_number(library):
    for found in results_of("uninitialised"):
        assert found.isnan().tolist() == [False] * 63 + [True]


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ("beyond", "kernel beyond: writes behind a tensor of 256 bytes"),
        ("divergent", "kernel divergent: thread 0 of block 0 waits for its block in line"),
        ("half_a_warp", "with a lane that has ended"),
    ],
)
def test_a_fault_is_named_with_its_kernel(library, kernel, words):
    with pytest.raises(RuntimeError, match=words):
        results_of(kernel)


def test_launches_and_shared_memory_are_rewritten_and_nothing_else():
    source = "__shared__ A best[2][n];\n scan<T, A><<<grid(a, b), 32, 0, stream>>>(x.data<T>(), y); a << b;"
    assert rewrite(source) == (
        "static A best[2][n]; ::simt::claim_shared(&best, sizeof(best));\n"
        ' ::simt::launch("scan", grid(a, b), 32, static_cast<size_t>(0), '
        "[&](auto&... simt_arguments) { scan<T, A>(simt_arguments...); }, x.data<T>(), y); a << b;"
    )


def test_every_cuda_source_is_emulated(library):
    sources = sorted((TESTS.parent / "csrc").glob("*/cuda.cu"))
    assert {source.parent.name for source in sources} == set(LARGE)
