"""What an annotation says is there: every hint of the library can be read.

``tests/conftest.py`` checks types and shapes of every call in ``zoo`` while the tests run.
"""

from __future__ import annotations

import inspect
import pkgutil
import typing
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.media import Image

LIGHT = ("zoo.weights", "zoo.hub.backbones", "zoo.data.phantoms")  # commands read them without torch and Pillow
MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(zoo.__path__, "zoo.")
    if ".templates" not in found.name and found.name not in ("zoo._C", "zoo._C_cuda", "zoo.__main__")
)


def annotated(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Functions, classes and methods that a module defines."""
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, inspect.unwrap(value)
        elif inspect.isclass(value):
            yield name, value
            for member, method in vars(value).items():
                if isinstance(method, property):
                    method = method.fget
                method = getattr(method, "__func__", method)
                written = inspect.isfunction(method) and method.__code__.co_filename == module.__file__
                if written:  # not what dataclass makes
                    yield f"{name}.{member}", inspect.unwrap(method)


def test_all_modules_are_looked_at():
    assert len(MODULES) > 150


@pytest.mark.parametrize("name", MODULES)
def test_every_hint_can_be_read(name: str):
    module = import_module(name)
    here = {"torch": torch, "nn": nn, "Image": Image} if name in LIGHT else {}
    unreadable = []
    for what, value in annotated(module):
        try:
            typing.get_type_hints(value, localns=here or None)
        except Exception as error:  # a NameError, mostly
            unreadable.append(f"{what}: {error}")
    assert unreadable == []
