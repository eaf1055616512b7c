"""Names such as ``sample:retina``, ``pairs:photos/`` and ``phantom:fundus?seed=7``: a kind, and what it is told."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl


@dataclass(frozen=True)
class Spec:
    """``kind:rest``. What comes after the colon is a path, or a name with options (``name?option=value&...``)."""

    kind: str  # empty where there is no colon
    rest: str

    @classmethod
    def parse(cls, text: str) -> Spec:
        kind, colon, rest = text.partition(":")
        return cls(kind, rest) if colon else cls("", text)

    @property
    def name(self) -> str:
        return self.rest.partition("?")[0]

    @property
    def options(self) -> dict[str, str]:
        return dict(parse_qsl(self.rest.partition("?")[2], keep_blank_values=True))

    def with_options(self, **options: object) -> Spec:
        """The same with further options; one that it has already is replaced."""
        kept = {key: value for key, value in self.options.items() if key not in options}
        query = "&".join(f"{key}={value}" for key, value in {**kept, **options}.items())
        return Spec(self.kind, f"{self.name}?{query}" if query else self.name)

    def __str__(self) -> str:
        return f"{self.kind}:{self.rest}" if self.kind else self.rest


def is_kind(text: object, *kinds: str) -> bool:
    """Whether ``text`` is a name of one of ``kinds``."""
    return isinstance(text, str) and Spec.parse(text).kind in kinds
