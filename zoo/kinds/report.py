"""Text about an image, as a language model wrote it, with how sure it was of its words and what it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from zoo import figure as fig
from zoo import media
from zoo.prediction import Prediction
from zoo.storage import write_file

DOUBTFUL = 0.5  # probability below which a token is marked


@dataclass(frozen=True)
class Token:
    """A piece of the text and the probability in [0, 1] that the model gave it when it wrote it."""

    text: str
    probability: float


@dataclass(kw_only=True)
class Report(Prediction):
    """``tokens`` joined are ``text``, where they are given. ``findings_by_name``: a word or a probability for each."""

    kind: ClassVar[str] = "report"

    image: media.Image | None
    text: str
    tokens: Sequence[Token] = ()
    findings_by_name: Mapping[str, str | float] = field(default_factory=dict)
    extra_panels: Sequence[fig.Panel] = ()

    @property
    def certainty(self) -> float | None:
        """Geometric mean of the tokens' probabilities, in [0, 1]; None without tokens."""
        if not self.tokens:
            return None
        return float(np.exp(np.mean(np.log([max(token.probability, 1e-12) for token in self.tokens]))))

    def summary(self) -> str:
        text = " ".join(self.text.split())
        return text if len(text) <= 120 else text[:119] + "…"

    def to_dict(self) -> dict[str, Any]:
        if self.unlike:  # a report that was not asked of such an image is no report
            return {**super().to_dict(), "text": None, "findings": {}, "certainty": None, "tokens": []}
        tokens = [[token.text, round(float(token.probability), 6)] for token in self.tokens]
        certainty = None if self.certainty is None else round(self.certainty, 6)
        found = {name: value if isinstance(value, str) else round(float(value), 6)
                 for name, value in self.findings_by_name.items()}  # fmt: skip
        return {**super().to_dict(), "text": self.text, "findings": found, "certainty": certainty, "tokens": tokens}

    def quantities(self) -> dict[str, Any]:
        found: dict[str, Any] = {f"finding_{name}": value for name, value in self.findings_by_name.items()}
        return {"text": self.text, "certainty": self.certainty, **found, **super().quantities()}

    def findings(self) -> list[media.Finding]:
        if self.unlike:
            return []
        made = []
        for name, value in self.findings_by_name.items():
            number = () if isinstance(value, str) else (media.Measured(media.own("probability"), float(value)),)
            said = f"{name}: {value}" if isinstance(value, str) else name
            made.append(media.Finding(self.label_names.get(said, said), self._code(name), number))
        return made

    def known_panels(self) -> list[fig.Panel]:
        return [] if self.image is None else [fig.Panel("input", self.image.thumbnail(fig.PANEL_SIDE))]

    def panels(self) -> list[fig.Panel]:
        words = [(token.text, token.probability < DOUBTFUL) for token in self.tokens] or [(self.text, False)]
        title = "report" if not self.tokens else f"report; marked: below {DOUBTFUL:.0%} when it was written"
        panels = [*self.known_panels(), fig.Panel(title, fig.prose(words))]
        rated = {name: float(v) for name, v in self.findings_by_name.items() if not isinstance(v, str)}
        if rated:
            panels.append(fig.Panel("findings", fig.bars(rated)))
        return [*panels, *self.extra_panels]

    def files(self) -> dict[str, Callable[[Path], Path]]:
        """``_text.txt``; none for an image that is unlike the training images."""
        if self.unlike:
            return {}
        text = f"{self.text.rstrip()}\n\n{self.footer}\n"
        return {"text": lambda path: write_file(path.with_name(path.name + ".txt"), text.encode())}
