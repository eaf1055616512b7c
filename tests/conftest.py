"""Fixtures that several rooms share."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

from zoo import registry

# A slow machine is no failure, and the gate meets the same examples each time. To look for new ones:
# pytest --hypothesis-profile=explore
settings.register_profile("gate", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("gate")

TESTS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Ran:
    """What one call of the command line left behind."""

    code: int
    out: str
    err: str

    @property
    def refused(self) -> str:
        """The one sentence of a refusal; asserts that it is one line, without a traceback, with exit code 2."""
        assert self.code == 2, (self.code, self.out, self.err)
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("zoo: ")
        assert "Traceback" not in self.err
        return lines[0]


@pytest.fixture(scope="session")
def examination() -> Callable[[str], Any]:
    """The checks of a plugin of ours, by name: each runs once in a session, on a model that is loaded once."""
    from zoo.conformance.report import Examination
    from zoo.extras import DISTRIBUTION

    return functools.cache(lambda name: Examination(f"{DISTRIBUTION}:{name}"))


@pytest.fixture
def zoo_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command line in this process."""

    def run(*arguments: str | Path) -> Ran:
        from zoo.cli import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def install_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Put a distribution with a plugin on the path, as pip would leave it there."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def install(distribution: str, source: str, *, name: str = "toy-model", module: str = "toy_package") -> Path:
        (site / f"{module}.py").write_text(source)
        info = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[zoo.models]\n{name} = {module}:plugin\n")
        registry.entries.cache_clear()
        return site

    yield install
    registry.entries.cache_clear()
    for module in set(sys.modules) - before:
        if module.startswith("toy_"):
            del sys.modules[module]


@pytest.fixture
def environment(tmp_path: Path) -> Any:
    """A fresh virtual environment with this one's libraries and zoo."""
    return _load("plugin_environment", TESTS / "examples" / "environment.py").Environment(tmp_path / "environment")


@pytest.fixture
def local_hub(environment: Any) -> Iterator[Any]:
    """A running Hub that commands in ``environment`` talk to, logged in as one who may write to ``org``."""
    server = _load("hub_server", TESTS / "hub" / "server.py")
    with server.Hub() as hub:
        environment.variables |= {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": server.OWNER}
        yield hub


def _load(name: str, path: Path) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
