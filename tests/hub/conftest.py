"""A Hub on loopback, a client that talks to it, and a small model to send there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

TOY = """
from __future__ import annotations
from dataclasses import dataclass, field
from zoo import Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="toy-model", title="A toy", summary="Tells bright from dark images.",
    paper=Paper(title="Toys: A Study", authors=("Ada Lovelace",), workshop="Toy Workshop", doi="10.1000/toy"),
    task="classification", modality="photograph: any",
    inputs=(Input("image", "image", "a 2-D image", required=True),), outputs=(Output("label", "bright or dark"),),
    labels=("dark", "bright"), model="toy_package:Toy", claim="toy_package:plugin",
)

@dataclass(frozen=True)
class ToyConfig:
    width: int = field(default=16, metadata={"min": 1, "max": 1_000_000})
    depth: int = field(default=2, metadata={"min": 1, "max": 1_000_000_000})
    name: str = "toy"

def __getattr__(name):
    if name != "Toy":
        raise AttributeError(name)
    import torch
    from torch import nn
    from zoo import Classification, Model

    class Toy(Model):
        config_class = ToyConfig

        def __init__(self, config=None):
            super().__init__(config)
            w = self.config.width
            self.layers = nn.ModuleList()
            for _ in range(self.config.depth):
                self.layers.append(nn.Linear(w, w))
            self.norm = nn.BatchNorm1d(w)

        def _predict(self, images, **options):
            return [self._classified(image) for image in images]

        def _classified(self, image):
            x = torch.full((1, self.config.width), float(image.grey().mean()))
            for layer in self.layers:
                x = layer(x)
            p = float(self.norm(x).mean().sigmoid())
            return Classification(image=image, probabilities={"dark": 1 - p, "bright": p})

    Toy.plugin = plugin
    globals()["Toy"] = Toy
    return Toy
"""


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"hub_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def server() -> ModuleType:
    """The module with the server: its tokens, ``Fault`` and ``Hub``."""
    return sys.modules.get("hub_server") or _load("server")


@pytest.fixture
def hub(server: ModuleType) -> Iterator[Any]:
    """A running Hub, empty."""
    with server.Hub() as running:
        yield running


@pytest.fixture
def client(hub: Any, server: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """This process's client as the environment would set it up at its start, with the owner's token.

    ``cache`` is the cache folder; ``token(value)`` logs in as somebody else; ``offline()`` is HF_HUB_OFFLINE=1.
    """
    from huggingface_hub import _tree_cache, close_session, constants

    from zoo.hub import client as zoo_hub

    cache = tmp_path / "hf" / "hub"
    for name, value in {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(tmp_path / "hf" / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", server.OWNER)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(zoo_hub, "FIRST_WAIT", 0.01)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    close_session()

    def token(value: str | None) -> None:
        if value is None:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        else:
            monkeypatch.setenv("HF_TOKEN", value)

    def offline(value: bool = True) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", value)
        close_session()

    def forget() -> None:
        _tree_cache._IN_MEMORY_TREE_CACHE.clear()

    forget()
    yield SimpleNamespace(cache=cache, token=token, offline=offline, forget=forget)
    close_session()
    forget()


@pytest.fixture
def toy(install_plugin: Callable[..., Path]) -> Path:
    """The plugin ``toy-model`` of the distribution ``toy-zoo``; returns the folder it is installed in."""
    return install_plugin("toy-zoo", TOY)


@pytest.fixture
def make_toy(toy: Path, tmp_path: Path) -> Callable[..., Path]:
    """Save a toy model with random weights; returns the folder."""

    def make(name: str = "weights", seed: int = 0, width: int = 16, **how: Any) -> Path:
        import torch

        import zoo
        from zoo import weights

        torch.manual_seed(seed)
        model_class = type(zoo.load("toy-model", weights="none"))
        model = model_class(model_class.config_class(width=width))
        return weights.save(model, tmp_path / name, trained_on="phantom:fundus?n=4&seed=0", **how)

    return make


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """The files of a saved model by name."""

    def read(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    return read


@pytest.fixture
def run_zoo(hub: Any, toy: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start ``zoo`` in a process of its own, configured by environment variables alone."""

    def start(*arguments: str | Path, home: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
        variables = {
            **inherited,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home or tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(toy), os.environ.get("PYTHONPATH", "")])),
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        command = [sys.executable, "-m", "zoo", *map(str, arguments)]
        return subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )

    return start
