"""What ends up in a wheel and in an editable install, built from a copy of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow

if not (ROOT / "setup.py").is_file():
    pytest.skip("needs the source checkout", allow_module_level=True)
pytest.importorskip("setuptools")

MAX_WHEEL = 26 << 20  # 20 MiB of weights at most, and the rest
IMPORTS = "import zoo.registry, zoo.cli; print(zoo.registry.__file__); print(zoo.cli.__file__)"
NOTHING_ELSE = """
import importlib, zoo.errors, zoo.registry, zoo.cli
for name in ("setup", "tests", "zoo", "docs", "benchmarks", "csrc", "examples"):
    try:
        importlib.import_module("zoo." + name)
    except ModuleNotFoundError as error:
        assert error.name == "zoo." + name, error
    else:
        raise AssertionError(f"zoo.{name} was imported")
assert len(list(zoo.__path__)) == 1, zoo.__path__
"""
TOP_LEVEL = """
import importlib.util
assert importlib.util.find_spec("registry") is None, "registry"
assert importlib.util.find_spec("cli") is None, "cli"
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    env = {**os.environ, "ZOO_CUDA": "0", "MAX_JOBS": "2", "PYTHONSAFEPATH": "1", **environment}
    env.pop("PYTHONPATH", None)
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that building leaves no trace in the real one."""
    folder = tmp_path_factory.mktemp("checkout") / "source"
    folder.mkdir()
    for name in ("zoo", "registry", "cli", "csrc"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    (folder / "README.md").touch()
    return folder


def build_wheel(checkout: Path, folder: Path, **environment: str) -> tuple[Path, str]:
    code = f"import setuptools.build_meta as b; b.build_wheel({str(folder)!r})"
    # As a front end runs the hooks: with the checkout as the current folder.
    output = run(sys.executable, "-c", code, cwd=checkout, **environment)
    (wheel,) = folder.glob("*.whl")
    return wheel, output


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one that .ci/run built, or one of our own."""
    if built := os.environ.get("ZOO_BUILT"):
        return next(Path(built, "dist").glob("*.whl"))
    return build_wheel(checkout, tmp_path_factory.mktemp("wheel"))[0]


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The interpreter of a fresh virtual environment that sees the libraries of this one, and nothing of the zoo."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    # A path line shows the libraries alone: the .pth files beside them (editable installs) are not read again.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def install(python: Path, *arguments: str | Path, cwd: Path, **environment: str) -> None:
    pytest.importorskip("pip")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-build-isolation",
        "--force-reinstall", "--quiet", "--disable-pip-version-check", *arguments, cwd=cwd, **environment)  # fmt: skip


def test_a_wheel_holds_registry_and_cli_inside_zoo_only(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"zoo/registry/__init__.py", "zoo/cli/__init__.py", "zoo/py.typed", "zoo/errors.py"} <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"zoo"}
    weights = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("zoo/**/demo/*") if path.is_file()}
    assert weights <= set(names)


def test_an_installed_wheel_imports_them(wheel, environment, tmp_path):
    install(environment, wheel, cwd=tmp_path)
    output = run(environment, "-c", IMPORTS, cwd=tmp_path)
    assert output.count(str(tmp_path / "venv")) == 2
    run(environment, "-c", TOP_LEVEL, cwd=tmp_path)


def test_a_wheel_stays_small(wheel):
    """Demo weights (test_budgets.py) and the compiled operators are nearly all of it."""
    assert wheel.stat().st_size < MAX_WHEEL


def test_an_editable_install_imports_them_from_the_checkout(checkout, environment, tmp_path):
    install(environment, "--editable", checkout, cwd=tmp_path, CC="/no/such/compiler", CXX="/no/such/compiler")
    output = run(environment, "-c", IMPORTS, cwd=tmp_path).splitlines()
    assert output == [str(checkout / "registry" / "__init__.py"), str(checkout / "cli" / "__init__.py")]
    run(environment, "-c", TOP_LEVEL, cwd=tmp_path)
    for folder in ("tests", "docs", "benchmarks", "examples"):  # what a checkout also holds
        (checkout / folder).mkdir(exist_ok=True)
        (checkout / folder / "__init__.py").touch()
    run(environment, "-c", NOTHING_ELSE, cwd=tmp_path)
    run(environment, "-c", NOTHING_ELSE, cwd=checkout, PYTHONSAFEPATH="")  # Python started inside the checkout


def test_the_checkout_alone_finds_registry_and_cli(checkout, environment):
    """Without any installation: the libraries are there, the zoo isn't."""
    run(environment, "-c", NOTHING_ELSE, cwd=checkout, PYTHONSAFEPATH="")
    assert "zoo" in run(environment, "-m", "zoo", "--version", cwd=checkout, PYTHONSAFEPATH="")


def test_a_wheel_carries_the_compiled_operators(wheel, environment, tmp_path):
    if not any(name.startswith("zoo/_C.") for name in zipfile.ZipFile(wheel).namelist()):
        pytest.skip("no C++ compiler here")
    assert "-cp310-abi3-" in wheel.name  # one for every Python
    install(environment, wheel, cwd=tmp_path)
    code = "import zoo.ops; s = zoo.ops.status(); print(s.operators['prototype_similarity']['cpu'], s.simd)"
    mode, simd = run(environment, "-W", "ignore", "-c", code, cwd=tmp_path, ZOO_OPS="compiled").split()[-2:]
    assert mode == "compiled"
    assert simd in ("baseline", "avx2", "avx512")


def test_without_a_compiler_the_wheel_is_built_and_the_references_run(checkout, environment, tmp_path):
    folder = tmp_path / "wheel"
    folder.mkdir()
    wheel, output = build_wheel(checkout, folder, CC="/no/such/compiler", CXX="/no/such/compiler")
    assert output.count("no working C++ compiler") == 1
    assert not any(name.endswith((".so", ".pyd")) for name in zipfile.ZipFile(wheel).namelist())
    install(environment, wheel, cwd=tmp_path)
    code = """
import torch, zoo.ops
similarity, argmax = zoo.ops.prototype_similarity(torch.eye(3)[None], torch.eye(3)[1:])
assert argmax.tolist() == [[1, 2]], argmax
status = zoo.ops.status()
assert status.operators["prototype_similarity"] == {"cpu": "reference", "cuda": "reference"}
print(status.why_not_compiled["cpu"])
"""
    assert "without a C++ compiler" in run(environment, "-c", code, cwd=tmp_path)


def test_an_unknown_value_of_zoo_cuda_is_refused(checkout, tmp_path):
    code = "import setuptools.build_meta as b; b.get_requires_for_build_wheel()"
    env = {**os.environ, "ZOO_CUDA": "yes"}
    result = subprocess.run([sys.executable, "-c", code], cwd=checkout, env=env, capture_output=True, text=True)
    assert result.returncode != 0
    assert "ZOO_CUDA must be auto, 0 or 1, not 'yes'" in result.stderr
