"""What setup.py decides before anything is compiled."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import setuptools
import torch

from zoo.ops import status

ROOT = Path(__file__).resolve().parent.parent

if not (ROOT / "setup.py").is_file():
    pytest.skip("needs the source checkout", allow_module_level=True)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The functions of setup.py, on a machine with a toolkit and no GPU; nothing is built."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    for name in ("ZOO_CUDA", "TORCH_CUDA_ARCH_LIST", "MAX_JOBS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("ZOO_CUDA", "0")
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("ZOO_CUDA")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "cuda_home", lambda: "/toolkit")
    monkeypatch.setattr(module, "cuda_runtime", lambda home: f"{home}/libcudart_static.a")
    monkeypatch.setattr(module, "cuda_version", lambda home: "13.0")
    return module


def built(script: ModuleType) -> list[str]:
    return [extension.name for extension in script.extensions()]


def test_the_digest_of_sources_is_of_what_the_cpu_runs(script, tmp_path, monkeypatch):
    """Comments too: whoever edits C++ builds anyway."""
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    monkeypatch.chdir(tmp_path)
    before = script.sources_digest()
    assert dict(script.cpu_extension().define_macros)["ZOO_SOURCES"] == f'"{before}"'
    for name in ("icp/cuda.cu", "nearest_neighbors/tree.cuh", "common/cuda.h", "module_cuda.cpp"):
        Path("csrc", name).write_text("// nothing\n")
    module = Path("csrc", "module.cpp")
    module.write_bytes(module.read_bytes().replace(b"\n", b"\r\n"))  # as git writes it on Windows
    assert script.sources_digest() == before
    kernel = Path("csrc", "masked_attention", "kernel.inl")
    kernel.write_text(kernel.read_text().replace("over > V{} ? V{} : over", "over"))
    assert script.sources_digest() != before


@pytest.mark.skipif(status().simd is None, reason="the operators are not compiled")
def test_the_operators_here_were_built_from_the_sources_as_they_stand(script):
    """If not, build them again: pip install -e . as the README has it."""
    assert status().build["sources"] == script.sources_digest()


def macros(script: ModuleType) -> dict[str, Any]:
    return dict(script.extensions()[1].define_macros)


def test_without_a_gpu_no_cuda_kernel_is_compiled(script):
    assert built(script) == ["zoo._C"]


def test_the_gpus_at_hand_are_compiled_for_and_no_others(script, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: [(9, 0), (8, 6), (9, 0)][device])
    assert built(script) == ["zoo._C", "zoo._C_cuda"]
    assert macros(script)["ZOO_CUDA_ARCHS"] == '"8.6;9.0"'
    assert "ZOO_CUDA=0 leaves them out" in capsys.readouterr().err


def test_named_generations_are_compiled_without_a_gpu(script, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5")
    assert macros(script)["ZOO_CUDA_ARCHS"] == '"7.5"'


def test_asked_for_without_a_gpu_the_usual_generations_are_taken(script, monkeypatch):
    monkeypatch.setenv("ZOO_CUDA", "1")
    assert macros(script)["ZOO_CUDA_ARCHS"] == '"8.0;9.0+PTX"'


def test_zero_leaves_them_out_whatever_is_there(script, monkeypatch):
    monkeypatch.setenv("ZOO_CUDA", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert built(script) == ["zoo._C"]


def test_compilers_run_side_by_side_as_far_as_memory_goes(script, monkeypatch):
    import os

    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2 * script.MEMORY_PER_JOB // 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    script.limit_jobs()
    assert os.environ["MAX_JOBS"] == "2"
    monkeypatch.setenv("MAX_JOBS", "7")
    script.limit_jobs()
    assert os.environ["MAX_JOBS"] == "7"
