"""Which optional libraries are installed, read from package metadata without importing any of them."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version

from zoo.errors import MissingExtraError

DISTRIBUTION = "medimg-zoo"
_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][\w.\-]*).*;.*\bextra\s*==\s*['\"]([\w.\-]+)['\"]")


def libraries(distribution: str = DISTRIBUTION) -> dict[str, list[str]]:
    """The extras of a distribution and the libraries each names."""
    found: dict[str, list[str]] = {}
    for requirement in requires(distribution) or []:
        match = _REQUIREMENT.match(requirement)
        if match and match[1] != distribution:
            found.setdefault(match[2], []).append(match[1])
    return found


def missing(extra: str, distribution: str = DISTRIBUTION) -> list[str]:
    """Libraries of an extra that are not installed."""
    return [name for name in libraries(distribution).get(extra, []) if not _installed(name)]


def require(extras: tuple[str, ...], needed_by: str, distribution: str = DISTRIBUTION) -> None:
    """Raise ``MissingExtraError`` for the first library of these extras that is not installed."""
    try:
        known = libraries(distribution)
    except PackageNotFoundError:
        return  # a plugin that was never installed as a distribution, as in tests
    for extra in extras:
        for name in known.get(extra, []):
            if not _installed(name):
                raise MissingExtraError(needed_by, name, extra, distribution)


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
