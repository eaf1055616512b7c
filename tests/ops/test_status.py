from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from zoo.ops import _library, status

SHOW = "from zoo.ops import status; s = status(); print(s.mode, s.operators['prototype_similarity']['cpu'])"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True)


def test_every_operator_states_how_it_runs_and_why_not_compiled():
    found = status()
    assert found.operators
    for name, devices in found.operators.items():
        assert set(devices) == {"cpu", "cuda"}, name
        assert set(devices.values()) <= {"compiled", "reference"}
    if _library._CPU is None:
        assert found.simd is None
        assert "zoo._C" in found.why_not_compiled["cpu"]
    else:
        assert found.simd in ("baseline", "avx2", "avx512")
        assert found.build["compiler"]
    assert bool(found.cuda_archs) != ("cuda" in found.why_not_compiled)


def test_the_environment_forces_the_reference():
    result = python(SHOW, ZOO_OPS="reference")
    assert result.stdout.split() == ["reference", "reference"], result.stderr


def test_a_forced_kernel_that_is_not_there_is_an_error_naming_the_reason():
    code = """
import sys
sys.modules["zoo._C"] = None  # as if it were not installed
import torch, zoo.ops
try:
    zoo.ops.prototype_similarity(torch.randn(1, 2, 3), torch.randn(1, 3))
except RuntimeError as error:
    print(error)
"""
    result = python(code, ZOO_OPS="compiled")
    assert "prototype_similarity is not compiled for cpu: zoo._C is not part of this installation" in result.stdout


def test_an_unknown_mode_is_refused_by_name():
    result = python(SHOW, ZOO_OPS="fast")
    assert "ZOO_OPS must be one of auto, reference, compiled, not 'fast'" in result.stderr


@pytest.mark.skipif(_library._CPU is None, reason="the operators are not compiled")
def test_zoo_simd_lowers_the_level():
    result = python("from zoo.ops import status; print(status().simd)", ZOO_SIMD="baseline")
    assert result.stdout.strip() == "baseline", result.stderr


@pytest.mark.skipif(_library._CPU is None, reason="the operators are not compiled")
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_the_binaries_use_the_stable_abi_alone():
    for module in filter(None, (_library._CPU, _library._CUDA)):
        assert module.__file__ is not None
        symbols = subprocess.run(
            ["nm", "-D", "--undefined-only", module.__file__], capture_output=True, text=True, check=True
        ).stdout
        assert "aoti_torch_" in symbols
        # Mangled names of at::, c10:: and torch:: are libtorch's unstable C++ interface; THP is libtorch_python.
        assert not re.findall(r"\b(?:_ZN?K?(?:2at|3c10|5torch)\w*|THP\w*)", symbols)
