"""What distributions add to the data room by entry point: phantoms and layouts, ours and other people's alike.

A broken one is broken alone, and a name that two distributions claim is nobody's; both say so when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zoo.errors import DataError, MissingExtraError, PluginError
from zoo.foreign import Point, points
from zoo.text import listed, printable


@dataclass(frozen=True)
class Found:
    """One name of a group: ``what`` it is for, the object it stands for (``"module:object"``), and whose it is."""

    what: str
    name: str
    value: str
    owners: tuple[str, ...] = ("unknown",)
    error: str = ""

    def load(self) -> Any:
        """The object. Raises ``DataError`` if it's claimed twice or broken, ``MissingExtraError`` without a library."""
        if len(self.owners) > 1:
            raise DataError(f"the {self.what} {self.name!r} is claimed by {listed(self.owners)}; uninstall one of them")
        module = self.value.partition(":")[0]
        try:
            return Point(self.name, self.value, "", self.owners[0], "", self.error).load()
        except ModuleNotFoundError as error:
            root = (error.name or "").partition(".")[0]
            if root in ("", module.partition(".")[0]):
                raise self._broken(error) from error
            raise MissingExtraError(f"the {self.what} {self.name!r}", root, "imaging") from error
        except Exception as error:  # a stranger's module may fail in any way at all
            raise self._broken(error) from error

    def _broken(self, error: BaseException) -> DataError:
        reason = (
            printable(error, 300)
            if isinstance(error, PluginError)
            else printable(f"{type(error).__name__}: {error}", 300)
        )
        owner = self.owners[0]
        return DataError(f"the {self.what} {self.name!r} of {owner} is broken ({reason}); update or uninstall {owner}")


def found(group: str, what: str) -> dict[str, Found]:
    """Everything under an entry point group by name; nothing is imported."""
    owners: dict[str, dict[str, Point]] = {}
    for point in points(group):
        owners.setdefault(point.name, {})[point.distribution] = point
    return {
        name: Found(what, name, first.value, tuple(sorted(by)), first.error)
        for name, by in sorted(owners.items())
        for first in [next(iter(by.values()))]
    }
