"""What benchmarks/gpu.py will do where there is a GPU: its plumbing on the CPU, and the table that it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from zoo.ops import _ways

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "benchmarks" / "gpu.py"

if not PROGRAM.is_file():
    pytest.skip("needs the source checkout", allow_module_level=True)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    import gpu

    return gpu


def result(
    gpu: ModuleType, operator: str, way: str, ms: float, dtype: str = "float16", apart: float = 0.0, **sizes: float
):
    times = {gpu.OURS: (1e-3, 1e-3), gpu.REFERENCE: (5e-3, 5e-3), gpu.LIBRARY + way: (ms * 1e-3, ms * 1e-3)}
    difference = {gpu.OURS: 0.0, gpu.LIBRARY + way: apart}
    return {"operator": operator, "dtype": dtype, "sizes": sizes, "times": times, "difference": difference}


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], None),
        ([({"flops": 1, "keys": 9}, False)], None),
        ([({"flops": 1, "keys": 9}, True), ({"flops": 2, "keys": 4}, True)], {"flops": 1, "keys": 4}),
        ([({"flops": 1, "keys": 9}, False), ({"flops": 2, "keys": 9}, True)], {"flops": 2, "keys": 9}),
        # Many operations over few keys lost: only the keys tell.
        ([({"flops": 5, "keys": 2}, False), ({"flops": 3, "keys": 9}, True)], {"flops": 3, "keys": 9}),
        ([({"flops": 5}, False), ({"flops": 3}, True)], None),  # the larger lost
    ],
)
def test_a_row_holds_from_sizes_on_where_the_way_never_lost(gpu, points, expected):
    assert gpu.best_box(points) == expected


def test_the_table_is_written_anew_for_the_card(gpu):
    measured = [
        result(gpu, "masked_attention", "flex", 0.5, flops=8, keys=4096, columns=64),
        result(gpu, "masked_attention", "flex", 0.5, dtype="bfloat16", flops=8, keys=4096, columns=64),
        result(gpu, "masked_attention", "flex", 1.0, flops=2, keys=196, columns=64),
        result(gpu, "masked_attention", "flex", 0.1, dtype="float32", flops=8, keys=4096, columns=64),
        result(gpu, "cosine_topk", "matmul", 0.1, apart=0.3, flops=8, columns=64),  # fast and wrong
        result(gpu, "prototype_similarity", "matmul", 0.97, flops=8, columns=64),  # hardly faster
    ]
    table = gpu.rewritten(_ways.table(), measured, "NVIDIA Stand-in", "2026-11-28", "2.14.1")
    on_gpus = [row for row in table.rows if row.device == "cuda"]
    sizes = {"flops": 8, "keys": 4096, "columns": 64}
    told = "measured on NVIDIA Stand-in, 2026-11-28"
    halves = ("float16", "bfloat16")
    assert on_gpus == [_ways.Row("masked_attention", "flex", "cuda", halves, _ways.TENSOR_CORES, sizes, told)]
    assert [row for row in table.rows if row.device == "cpu"] == [r for r in _ways.table().rows if r.device == "cpu"]
    assert table.measured == {"card": "NVIDIA Stand-in", "date": "2026-11-28", "torch": "2.14.1"}
    assert _ways.read(_ways.written(table)) == table


def test_without_a_gpu_it_says_so_and_ends_with_2(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 2
    assert capsys.readouterr().err == gpu.NO_GPU + "\n"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu"])
    assert gpu.main() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_its_plumbing_works_on_the_cpu_and_writes_nothing():
    before = {path: path.read_bytes() for path in (_ways.PATH, *(PROGRAM.parent / "results").iterdir())}
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), "--device", "cpu", "--quick"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    for name in (
        "masked_attention",
        "cosine_topk",
        "prototype_similarity",
        "cosine_filter",
        "nearest_neighbors",
        "icp",
    ):
        assert f"## {name}: " in ran.stdout
    assert "| library, flex |" in ran.stdout
    assert "| library, matmul |" in ran.stdout
    assert {path: path.read_bytes() for path in (_ways.PATH, *(PROGRAM.parent / "results").iterdir())} == before


def test_what_pytest_and_the_sanitizer_said_comes_into_the_report(gpu, monkeypatch):
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 9, "...\n1 failed, 2 passed\n", "")

    monkeypatch.setattr(gpu.subprocess, "run", run)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    assert gpu.ran_tests(True) == ["compute-sanitizer is not installed, so nothing ran under it."]
    assert asked == []
    monkeypatch.setattr(gpu.shutil, "which", lambda name: f"/there/{name}")
    assert gpu.ran_tests(True) == ["compute-sanitizer: exit code 9; 1 failed, 2 passed"]
    assert asked[0][:3] == ["/there/compute-sanitizer", "--tool", "memcheck"]
    assert gpu.ran_tests(False) == ["pytest -m gpu: exit code 9; 1 failed, 2 passed"]
