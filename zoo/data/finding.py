"""What distributions add to the data room by entry point: phantoms and layouts, ours and other people's alike.

A broken one is broken alone, and a name that two distributions claim is nobody's; both say so when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from zoo.errors import DataError, MissingExtraError
from zoo.text import listed


@dataclass(frozen=True)
class Found:
    """One name of a group: ``what`` it is for, the object it stands for (``"module:object"``), and whose it is."""

    what: str
    name: str
    value: str
    owners: tuple[str, ...] = ("unknown",)

    def load(self) -> Any:
        """The object. Raises ``DataError`` if it's claimed twice or broken, ``MissingExtraError`` without a library."""
        if len(self.owners) > 1:
            raise DataError(f"the {self.what} {self.name!r} is claimed by {listed(self.owners)}; uninstall one of them")
        module, _, attribute = self.value.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            root = (error.name or "").partition(".")[0]
            if root in ("", module.partition(".")[0]):
                raise self._broken(error) from error
            raise MissingExtraError(f"the {self.what} {self.name!r}", root, "imaging") from error
        except (Exception, SystemExit) as error:  # a stranger's module may fail in any way at all
            raise self._broken(error) from error

    def _broken(self, error: BaseException) -> DataError:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        owner = self.owners[0]
        return DataError(f"the {self.what} {self.name!r} of {owner} is broken ({reason}); update or uninstall {owner}")


def found(group: str, what: str) -> dict[str, Found]:
    """Everything under an entry point group by name; nothing is imported."""
    owners: dict[str, dict[str, str]] = {}
    for point in _points().select(group=group):
        owners.setdefault(point.name, {})[point.dist.name if point.dist else "unknown"] = point.value
    return {
        name: Found(what, name, next(iter(values.values())), tuple(sorted(values)))
        for name, values in sorted(owners.items())
    }


@cache
def _points() -> Any:  # EntryPoints from Python 3.12 on
    return entry_points()
