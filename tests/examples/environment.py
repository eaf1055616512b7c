"""A virtual environment for tests that install plugins: its own packages, the libraries and the zoo of this one."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest


class Environment:
    """``install``, ``wheel`` and ``run`` in a fresh virtual environment, without a network.

    What is installed here lies in ``folder`` alone; the libraries are read from where this process has them.
    """

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("setuptools", "77")
        self.folder = folder
        home = folder / "home"
        home.mkdir(parents=True)
        binaries = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON", "PIP_"))
        }
        self.variables = {
            **inherited,
            "PATH": os.pathsep.join([str(binaries), os.environ.get("PATH", "")]),
            "HF_HOME": str(home / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # by its value pip means the opposite of its name: don't isolate
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "120",
        }
        self.python = binaries / "python"
        made = subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], capture_output=True, text=True)
        if made.returncode:  # a Python without ensurepip; the one of this environment may serve
            pytest.importorskip("pip")
            subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder / "venv")], check=True)
        else:  # the setuptools that some versions of Python bring along would hide the one that builds
            self.run("-m", "pip", "uninstall", "--yes", "--quiet", "setuptools")
        site = Path(self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        parent = sysconfig.get_path("purelib")
        (site / "libraries.pth").write_text(f"import site; site.addsitedir({parent!r})\n")
        for tool in ("zoo", "pytest", "pip"):  # as their installation here would write them
            script = binaries / tool
            script.write_text(f'#!/bin/sh\nexec "{self.python}" -m {tool} "$@"\n')
            script.chmod(0o755)

    def run(self, *arguments: str | Path, cwd: Path | None = None, code: int = 0, **variables: str) -> str:
        """What a Python command printed; it must end with ``code``."""
        return self.command(self.python, *arguments, cwd=cwd, code=code, **variables)

    def zoo(self, *arguments: str | Path, cwd: Path | None = None, code: int = 0, **variables: str) -> str:
        """What ``zoo ...`` printed on stdout; it must end with ``code``."""
        return self.run("-m", "zoo", *arguments, cwd=cwd, code=code, **variables)

    def command(self, *command: str | Path, cwd: Path | None = None, code: int = 0, **variables: str) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd or self.folder,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def install(self, *arguments: str | Path) -> str:
        return self.run("-m", "pip", "install", "--no-deps", "--no-build-isolation", *arguments)

    def wheel(self, source: Path, out: Path) -> Path:
        """Build a wheel of a package, from a copy, and return its path."""
        import shutil

        copy = self.folder / "source" / source.name
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "runs"))
        self.run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, copy)
        (wheel,) = out.glob("*.whl")
        return wheel
