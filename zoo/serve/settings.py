"""What a server is told when it starts."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from zoo import registry
from zoo.errors import OptionError, PluginError

TOKEN = "ZOO_SERVE_TOKEN"
"""The variable of the environment that holds the token: an option would show in the list of processes."""


@dataclass(frozen=True)
class Settings:
    """Raises ``OptionError`` for a value that can't be."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None  # None: nobody is asked for one
    models: tuple[str, ...] = ()  # the models that are served; empty: all that are installed
    weights: Mapping[str, str] = field(default_factory=dict)  # model -> demo, a folder, a file or hf://...
    device: str = "auto"
    memory: int = 0  # bytes that loaded models may take together; 0: half of the machine's
    queue: int = 32  # requests that are uploading, waiting or worked on
    upload: int = 512 << 20  # bytes of one request, packed and unpacked alike
    files: int = 5000  # files of one request, those of a zip included
    seconds: float = 600  # of work on one request
    idle: float = 30  # seconds without a byte after which an upload is given up
    keep: float = 1800  # seconds for which the results of a finished job are there
    page: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise OptionError(f"port {self.port} is none; choose one from 1 to 65535")
        for name in ("queue", "upload", "files", "seconds", "idle", "keep"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be more than 0, not {getattr(self, name)}")
        if self.memory < 0:
            raise OptionError(f"memory must be at least 0, not {self.memory}")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def memory_limit(self) -> int:
        """Bytes."""
        if self.memory:
            return self.memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 8 << 30


def served(name: str, settings: Settings) -> registry.Entry:
    """The plugin called ``name``, if it is served. Raises ``PluginError``."""
    entry = registry.find(name)
    known = [registry.find(one).name for one in settings.models]
    if known and entry.name not in known:
        raise PluginError(f"there is no model {name!r} here; this server has {', '.join(known)}")
    return entry


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def token_for(host: str) -> str | None:
    """The token of the environment; where there is none and others can reach the server, one that is drawn now.

    Raises ``OptionError`` for a token that is too short to keep anybody out.
    """
    stated = os.environ.get(TOKEN, "")
    if stated:
        if not re.fullmatch(r"[A-Za-z0-9._~+/=-]{16,512}", stated):
            raise OptionError(f"{TOKEN} must be 16 or more letters, digits and ._~+/=-; unset it to have one drawn")
        return stated
    return None if is_loopback(host) else secrets.token_urlsafe(24)


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def size(text: str, name: str) -> int:
    """``500MB``, ``2G`` or a number of bytes. Raises ``OptionError``."""
    lowered = text.strip().lower().removesuffix("b")
    unit = lowered[-1:] if lowered[-1:] in "kmgt" else ""
    try:
        value = float(lowered.removesuffix(unit))
    except ValueError:
        value = 0
    if not 0 < value < 1e6 and not (unit == "" and 0 < value < 1e15):
        raise OptionError(f"{name} must be a size such as 500MB or 4GB, not {text[:40]!r}")
    return int(value * _UNITS[unit])
