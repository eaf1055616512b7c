"""Finds plugins by Python entry points, ours and other people's by the same road.

A plugin is broken alone: one that can't be imported is listed with its error and hinders no other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from zoo.config import from_dict
from zoo.errors import MissingExtraError, OptionError, PluginError
from zoo.foreign import Point, points
from zoo.plugin import CONTRACT_VERSION, ENTRY_POINT_GROUP, Plugin
from zoo.text import close_to, normalised, printable

__all__ = ["Entry", "entries", "find", "info", "list_models", "resolve"]

_log = logging.getLogger(__name__)
LONGEST_CARD = 65_536
"""Characters of all texts of a card together."""


@dataclass(frozen=True)
class Entry:
    """One entry point: a plugin, or the reason why there is none."""

    name: str
    distribution: str
    version: str
    plugin: Plugin | None = None
    error: str | None = None

    @property
    def status(self) -> str:
        return "ok" if self.plugin else "broken"


@cache
def entries() -> tuple[Entry, ...]:
    """All plugins that are installed, sorted by name. Never raises because of a plugin."""
    found = [_entry(point) for point in points(ENTRY_POINT_GROUP)]
    return tuple(sorted(found, key=lambda entry: (entry.name, entry.distribution)))


def _entry(point: Point) -> Entry:
    distribution, version = point.distribution, point.version
    try:
        plugin = point.load()
        if not isinstance(plugin, Plugin):
            raise PluginError(f"{point.value} is a {type(plugin).__name__}, not a zoo.Plugin")
        if plugin.contract != CONTRACT_VERSION:
            raise PluginError(
                f"written for version {plugin.contract} of the plugin contract, this zoo has {CONTRACT_VERSION}; "
                f"update {distribution if plugin.contract < CONTRACT_VERSION else 'medimg-zoo'}"
            )
        _check_card(plugin)
        if plugin.name != normalised(point.name):
            raise PluginError(f"the entry point is called {point.name} but the plugin calls itself {plugin.name}")
    # A stranger's module may fail in any way at all; the others must still be listed.
    except Exception as error:
        reason = printable(error, 300) or type(error).__name__
        kind = "" if isinstance(error, PluginError) else f"{type(error).__name__}: "
        _log.info("the plugin %s of %s is broken: %s%s", printable(point.name, 80), distribution, kind, reason)
        return Entry(printable(normalised(point.name), 80), distribution, version, error=f"{kind}{reason}")
    return Entry(plugin.name, distribution, version, plugin)


def _check_card(plugin: Plugin) -> None:
    """Raises ``PluginError`` for a card that a table can't hold: too long, or with fields of other types."""
    card = plugin.to_dict()
    if (length := _length(card)) > LONGEST_CARD:
        raise PluginError(f"its card holds {length:,} characters, more than {LONGEST_CARD:,}")
    try:
        from_dict(Plugin, card)
    except OptionError as error:
        raise PluginError(f"its card is malformed: {error}") from error


def _length(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_length(one) for pair in value.items() for one in pair)
    if isinstance(value, (list, tuple)):
        return sum(map(_length, value))
    return len(value) if isinstance(value, (str, bytes)) else 1


def find(name: str) -> Entry:
    """The plugin called ``name``: ``map-vessel``, ``map_vessel``, or ``distribution:map-vessel``.

    Raises ``PluginError`` when it is unknown (with the nearest names), broken, or claimed by two distributions.
    """
    distribution, _, model = name.rpartition(":")
    model = normalised(model)
    claimed = [entry for entry in entries() if entry.name == model]
    if distribution:
        claimed = [entry for entry in claimed if normalised(entry.distribution) == normalised(distribution)]
    if not claimed:
        raise PluginError(f"there is no model {name!r}; {_suggest(model)}")
    if len(claimed) > 1:
        owners = [entry.distribution for entry in claimed]
        raise PluginError(
            f"the name {model} is claimed by {' and '.join(owners)}; "
            f"say which one you mean, for example {owners[0]}:{model}"
        )
    if claimed[0].plugin is None:
        raise PluginError(
            f"the plugin {model} of {claimed[0].distribution} is broken ({claimed[0].error}); "
            f"update or uninstall {claimed[0].distribution}"
        )
    return claimed[0]


def resolve(entry: Entry, what: str) -> Any:
    """The object behind an import string of a plugin: its ``model``, ``training`` or ``claim``.

    Raises ``PluginError`` when the plugin has none or its import string leads nowhere, ``MissingExtraError`` when a
    library of the plugin's extras is not installed.
    """
    plugin = entry.plugin
    assert plugin is not None, "find() returns working plugins only"
    target = getattr(plugin, what)
    if target is None:
        raise PluginError(f"{plugin.name} has no {what}; zoo info {plugin.name} shows what it offers")
    module, _, attribute = target.partition(":")
    try:
        found = getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        lost = error.name or ""
        if f"{module}.".startswith(f"{lost}."):
            raise PluginError(f"{what} of {plugin.name} points to {target}, which does not exist") from error
        if lost.partition(".")[0] in (module.partition(".")[0], ""):
            raise _broken(entry, what, error) from error
        library = lost.partition(".")[0]
        raise MissingExtraError(plugin.name, library, ",".join(plugin.extras) or "all", entry.distribution) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a stranger's module may fail in any way at all
        raise _broken(entry, what, error) from error
    if found is None:
        raise PluginError(f"{what} of {plugin.name} points to {target}, which does not exist")
    return found


def _broken(entry: Entry, what: str, error: BaseException) -> PluginError:
    assert entry.plugin is not None
    reason = f"{type(error).__name__}: {printable(error, 200)}"
    owner = f"; update or uninstall {entry.distribution}" if entry.distribution else ""
    return PluginError(f"the {what} of {entry.plugin.name} can't be imported ({reason}){owner}")


def part(model: str | Plugin, what: str) -> tuple[Plugin, Any]:
    """A plugin, by name or as it is, and its ``model``, ``training`` or ``claim``. Raises ``PluginError``."""
    entry = find(model) if isinstance(model, str) else Entry(model.name, "", "", model)
    assert entry.plugin is not None
    return entry.plugin, resolve(entry, what)


def list_models(*, task: str | None = None, modality: str | None = None, operator: str | None = None) -> list[str]:
    """Names of the installed models that work, optionally those of one task, modality or operator."""
    return [entry.name for entry in select(task=task, modality=modality, operator=operator) if entry.plugin]


def select(*, task: str | None = None, modality: str | None = None, operator: str | None = None) -> list[Entry]:
    """Entries that match the filters; broken ones only when there is no filter."""
    chosen: Iterable[Entry] = entries()
    if task or modality or operator:
        chosen = (entry for entry in chosen if entry.plugin and _matches(entry.plugin, task, modality, operator))
    return list(chosen)


def _matches(plugin: Plugin, task: str | None, modality: str | None, operator: str | None) -> bool:
    return (
        (task is None or plugin.task == task)
        and (modality is None or modality.lower() in plugin.modality.lower())
        and (operator is None or operator in plugin.operators)
    )


def info(name: str) -> Plugin:
    """The card of one model. Raises ``PluginError`` like :func:`find`."""
    plugin = find(name).plugin
    assert plugin is not None
    return plugin


def _suggest(name: str) -> str:
    known = sorted({entry.name for entry in entries()})
    near = close_to(name, known, count=3)
    return f"did you mean {' or '.join(near)}?" if near else "zoo list shows all models"
