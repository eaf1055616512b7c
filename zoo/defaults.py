"""What a user's configuration file says, for commands that leave it out: ``device``, ``out``, and weights by model.

    device = "cpu"
    out = "~/predictions"

    [weights]
    map-vessel = "hf://org/vessels"

It is ``zoo/config.toml`` in the folder of the user's settings, or what ``ZOO_CONFIG`` names; empty, there is none. The
command line alone reads it: a program that calls ``zoo.load`` does the same on every machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from zoo.errors import OptionError
from zoo.storage import user_path
from zoo.text import nearest, normalised, printable

VARIABLE = "ZOO_CONFIG"
LARGEST = 1 << 20  # bytes


@dataclass(frozen=True)
class Defaults:
    """What is stated; None where nothing is."""

    device: str | None = None
    out: str | None = None
    weights: dict[str, str] = field(default_factory=dict)  # by a model's name

    def weights_of(self, model: str) -> str | None:
        return self.weights.get(normalised(model.rpartition(":")[2]))


def place() -> Path | None:
    """Where the file is looked for; None where it's switched off. Raises ``OptionError`` for a home that is none."""
    stated = os.environ.get(VARIABLE)
    if stated is not None:
        return user_path(stated, OptionError) if stated else None
    home = os.environ.get("APPDATA") if os.name == "nt" else os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path(os.path.expanduser("~")) / ".config") / "zoo" / "config.toml"


def read() -> Defaults:
    """The user's defaults. Raises ``OptionError`` for a file that can't be read or says something unknown."""
    path = place()
    if path is None or (VARIABLE not in os.environ and not os.path.isfile(path)):
        return Defaults()
    return _read(path)


@cache
def _read(path: Path) -> Defaults:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST).decode()
        stated: dict[str, Any] = tomllib.loads(text)
    except OSError as error:
        raise OptionError(f"can't read {path}: {error.strerror}; mend it, or set {VARIABLE} to another file") from None
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is no TOML ({printable(error, 100)}); mend it, or unset {VARIABLE}") from None
    known = ("device", "out", "weights")
    for name, value in stated.items():
        if name not in known:
            raise OptionError(f"{path} states {printable(name, 60)!r}, which is no setting; {nearest(name, known)}")
        if not isinstance(value, dict if name == "weights" else str):
            example = (
                '[weights] with lines such as map-vessel = "hf://org/vessels"' if name == "weights" else 'a "text"'
            )
            raise OptionError(f"{name} in {path} must be {example}")
    weights = stated.get("weights", {})
    for model, spec in weights.items():
        if not isinstance(spec, str):
            raise OptionError(
                f"the weights of {printable(model, 60)} in {path} must be a text such as hf://org/vessels"
            )
    return Defaults(
        stated.get("device"), stated.get("out"), {normalised(model): spec for model, spec in weights.items()}
    )
