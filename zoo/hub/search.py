"""What there is for the zoo on the Hub: weights and packages of plugins, found by the library's tag."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from zoo import registry
from zoo.errors import WeightsError
from zoo.extras import DISTRIBUTION
from zoo.hub.client import api, patiently, quiet, refused
from zoo.text import printable

PLUGIN_TAG = "zoo-plugin"
"""Of a repository that holds a plugin's package, for ``zoo install``; others hold weights."""

MOST = 1000
"""Repositories that are looked through."""

_REPO = re.compile(r"[\w\-][\w.\-]*/[\w\-][\w.\-]*")


@dataclass(frozen=True)
class Found:
    """One repository."""

    repo: str
    kind: str  # weights or plugin
    model: str  # the installed model that it is about, or empty
    tags: tuple[str, ...]
    downloads: int
    changed: str  # a date, or empty

    @property
    def command(self) -> str:
        """What makes use of it."""
        if self.kind == "plugin":
            return f"zoo install git+https://huggingface.co/{self.repo}"
        return (
            f"zoo pull {self.repo}" if not self.model else f"zoo predict {self.model} INPUT --weights hf://{self.repo}"
        )


def search(words: Sequence[str] = ()) -> list[Found]:
    """Repositories with the library's tag that have every word in their name or tags, the most loaded first.

    Raises ``WeightsError`` when the Hub can't be asked.
    """
    client = api()
    wanted = [word.casefold() for word in words]
    try:
        with quiet():
            listed = patiently(
                lambda: list(client.list_models(filter=DISTRIBUTION, sort="downloads", limit=MOST, full=True))
            )
    except Exception as error:
        if said := refused(error):
            raise WeightsError(f"the Hub can't be searched: {said}") from error
        raise
    known = set(registry.list_models())
    found = list(_found(listed, known))
    return [one for one in found if all(any(word in text for text in _texts(one)) for word in wanted)]


def _found(listed: Sequence[object], known: set[str]) -> Iterator[Found]:
    for one in listed:
        repo = str(getattr(one, "id", ""))
        if not _REPO.fullmatch(repo):  # an address is made of it
            continue
        tags = tuple(printable(tag, 80) for tag in getattr(one, "tags", None) or ())
        changed = getattr(one, "last_modified", None)
        yield Found(
            repo,
            "plugin" if PLUGIN_TAG in tags else "weights",
            next((tag for tag in tags if tag in known), ""),
            tags,
            int(getattr(one, "downloads", None) or 0),
            f"{changed:%Y-%m-%d}" if changed else "",
        )


def _texts(one: Found) -> list[str]:
    return [text.casefold() for text in (one.repo, one.kind, *one.tags)]
