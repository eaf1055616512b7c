"""Fixtures that several rooms share, and how a whole run is shared among the cores.

``pytest`` without files runs with one worker for each core and one thread in each; with files, in this process. ``-n``
says otherwise (``-n 0`` for none). What shares costly fixtures stays on one worker: all about one plugin, or one file.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import settings
from PIL import Image

# Every call in zoo is checked against its annotations, shapes included; in the tests only. The hook wants a checker by
# its name; this one takes a whole number where a float is asked for, as type checkers do.
sys.modules["zoo_typechecker"] = ModuleType("zoo_typechecker")
sys.modules["zoo_typechecker"].check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # type: ignore[attr-defined]
jaxtyping.install_import_hook("zoo", "zoo_typechecker.check")
os.environ.setdefault("ZOO_VIEWS", "off")  # tests leave nothing in their user's cache
os.environ["ZOO_CONFIG"] = ""  # and don't depend on his settings

from zoo import registry  # noqa: E402

# A slow machine is no failure, and the gate meets the same examples each time. To look for new ones:
# pytest --hypothesis-profile=explore
settings.register_profile("gate", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("gate")

TESTS = Path(__file__).resolve().parent


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads what it is asked for
def pytest_cmdline_main(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ or not hasattr(config.option, "numprocesses"):
        return
    everything = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    if config.option.numprocesses is None and everything and not config.option.collectonly:
        config.option.numprocesses = "auto"
    if config.option.numprocesses:
        config.option.dist = "loadgroup"
        config.option.loadscopereorder = False  # our own order, below
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # of the workers and of what they start
            os.environ.setdefault(variable, "1")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    groups = [_group(item) for item in items]
    for item, group in zip(items, groups, strict=True):
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(group))
    long = {group for item, group in zip(items, groups, strict=True) if item.get_closest_marker("slow")}
    if "PYTEST_XDIST_WORKER" in os.environ:  # what takes minutes first, so that no worker ends alone with it
        order = sorted(range(len(items)), key=lambda place: groups[place] not in long)
        items[:] = [items[place] for place in order]


def _group(item: pytest.Item) -> str:
    """The plugin that a test is about, or its file."""
    if not item.path.is_relative_to(TESTS):  # of the package, as zoo.conformance
        return item.path.as_posix()
    place = item.path.relative_to(TESTS)
    if place.parts[0] == "models" and len(place.parts) > 2:
        return place.parts[1].replace("_", "-")
    if place == Path("conformance/test_built_in.py") and hasattr(item, "callspec"):
        return str(item.callspec.params["name"])
    return place.as_posix()


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


@pytest.fixture(autouse=True)
def _annotations_are_checked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Except where a test gives values that the annotations forbid, to see them refused or as stand-ins."""
    if request.node.get_closest_marker("wrong_types"):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(autouse=True)
def _draws_are_the_same_each_time() -> None:
    """A test that draws from torch's global generator sees the same numbers alone and in a full run."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


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
def change_finder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``examples/change-finder`` as pip would leave it, for this process and those it starts; a folder with a case.

    The case: ``today.png``, ``before.png``, and ``cases.csv``, which names them in a line.
    """
    source = TESTS.parent / "examples" / "change-finder" / "src" / "change_finder"
    if not source.is_dir():
        pytest.skip("needs the source checkout")
    site, folder = tmp_path / "change-finder-site", tmp_path / "case"
    shutil.copytree(source, site / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    info = site / "change_finder-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: change-finder\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[zoo.models]\nchange-finder = change_finder:plugin\n")
    monkeypatch.syspath_prepend(str(site))
    inherited = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *inherited]))
    registry.entries.cache_clear()
    case = importlib.import_module("change_finder.phantom").draw(7001)
    folder.mkdir()
    for name, image in (("today", case.image), ("before", case.inputs["prior"])):
        Image.fromarray(image).save(folder / f"{name}.png")
    (folder / "cases.csv").write_text("current,prior\ntoday.png,before.png\n")
    yield folder
    registry.entries.cache_clear()
    for module in [module for module in sys.modules if module.startswith("change_finder")]:
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
