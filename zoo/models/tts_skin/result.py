"""What test-time selection gives back: both answers, the points, and where the features look before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image as PILImage
from PIL import ImageDraw

from zoo import figure as fig
from zoo.prediction import Classification, Provenance
from zoo.spec import is_kind

LESION, ELSEWHERE = fig.colour(3), fig.colour(6)
NAMES = {"tts": "selected features", "none": "all features", "random": "random features", "noisecrop": "NoiseCrop",
         "tent": "Tent", "t3a": "T3A"}  # fmt: skip
DOT = 6  # px, of the figure


@dataclass(kw_only=True)
class SelectedClassification(Classification):
    """Probabilities by the features that points chose, and ``baseline``, by all of them.

    ``positive``, ``negative``: [n 2], pixels (x, y) of the image; ``origin``: where they come from. ``window``: left,
    top, width and height of what the network sees, px. ``scores`` and ``kept``: of every channel, for the image as it
    is; ``kept_share``: the share of its copies in which a channel stays. ``before``, ``after``: mean of all channels,
    and of those that stay, on the map's grid. ``classifier``: another one's name, with its ``foreign`` provenance.
    """

    kind: ClassVar[str] = "classification by selected features"

    baseline: dict[str, float]
    method: str
    tts_applied: bool
    positive: Float[np.ndarray, "p 2"]
    negative: Float[np.ndarray, "n 2"]
    origin: str
    window: tuple[float, ...]
    scores: Float[np.ndarray, " c"]
    kept: Bool[np.ndarray, " c"]
    kept_share: Float[np.ndarray, " c"]
    before: Float[np.ndarray, "h w"]
    after: Float[np.ndarray, "h w"]
    classifier: str = ""
    foreign: Provenance | None = None

    @property
    def demonstration(self) -> bool:
        """Whether the classifier that answers was trained on phantoms and this is none."""
        if not self.classifier:
            return super().demonstration
        made = self.foreign
        return made is not None and is_kind(made.trained_on, "phantom") and not is_kind(self.source, "phantom")

    @property
    def footer(self) -> str:
        if not self.classifier:
            return super().footer
        said = f"weights {self.foreign.weights}: {self.foreign.disclaimer}" if self.foreign else "public weights"
        return f"features of {self.classifier} ({said})"

    def summary(self) -> str:
        name = self.most_probable
        plain = f"{self.spelled(name)} {self.probabilities[name]:.1%}"
        if self.method == "tts" and not self.tts_applied:
            return f"{plain} by all features; no points, so nothing was selected"
        kept = f", {int(self.kept.sum())} of {len(self.kept)} channels" if self.tts_applied else ""
        return f"{plain} by {NAMES[self.method]} ({self.baseline[name]:.1%} by all{kept})"

    def quantities(self) -> dict[str, Any]:
        before = {f"baseline_probability_{name}": round(p, 6) for name, p in self.baseline.items()}
        return {**super().quantities(), **before, "tts_applied": self.tts_applied}

    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "method": self.method,
            "tts_applied": self.tts_applied,
            "classifier": self.classifier or None,
            "baseline": {name: round(float(p), 6) for name, p in self.baseline.items()},
            "points": {
                "origin": self.origin or None,
                "positive": np.round(self.positive, 2).tolist(),
                "negative": np.round(self.negative, 2).tolist(),
            },
            "window": [round(float(v), 2) for v in self.window],
            "channels": len(self.kept),
            "kept_channels": np.flatnonzero(self.kept).tolist() if self.tts_applied else None,
            "scores": [round(float(v), 6) for v in self.scores] if self.tts_applied else None,
        }

    def panels(self) -> list[fig.Panel]:
        picture = fig.to_picture(self.image.thumbnail(fig.PANEL_SIDE))
        seen = self._seen(picture)
        panels = [fig.Panel("input and points" if len(self.positive) else "input", self._dotted(picture))]
        panels.append(fig.Panel(f"all features: {self._said(self.baseline)}", self._attention(seen, self.before)))
        if self.tts_applied:
            panels.append(
                fig.Panel(f"selected: {self._said(self.probabilities)}", self._attention(seen, self.after, points=True))
            )
        return [*panels, fig.Panel("probabilities", self._bars()), *self.extra_panels]

    def legend(self) -> list[fig.LegendEntry]:
        if not len(self.positive):
            return []
        marks = (("+ lesion", self.positive, LESION), ("- to be ignored", self.negative, ELSEWHERE))
        return [fig.LegendEntry(f"{name} (points: {len(p)})", ink) for name, p, ink in marks if len(p)]

    def _said(self, probabilities: dict[str, float]) -> str:
        name = "melanoma" if "melanoma" in probabilities else self.most_probable
        return f"{self.spelled(name)} {probabilities[name]:.0%}"

    def _bars(self) -> PILImage.Image:
        ranked = sorted(self.probabilities, key=lambda name: -self.probabilities[name])
        changed = self.tts_applied or self.method != "tts"  # without points nothing was selected
        rows = {
            self.spelled(name): [
                fig.Bar("all features", self.baseline[name], (150, 150, 150)),
                *([fig.Bar(NAMES[self.method], self.probabilities[name], fig.colour(5))] if changed else []),
            ]
            for name in (ranked if len(ranked) > 5 else self.probabilities)
        }
        return fig.grouped_bars(rows)

    def _seen(self, picture: PILImage.Image) -> PILImage.Image:
        """The part of the picture that the network sees."""
        h, w = self.image.size
        left, top, width, height = self.window
        sx, sy = picture.width / w, picture.height / h
        return picture.crop((round(left * sx), round(top * sy), round((left + width) * sx), round((top + height) * sy)))

    def _attention(self, seen: PILImage.Image, values: np.ndarray, *, points: bool = False) -> PILImage.Image:
        low, high = float(values.min()), float(values.max())
        heat = fig.heat_over(seen, (values - low) / max(high - low, 1e-12))
        if not points:
            return heat
        left, top, width, height = self.window
        return _dots(heat, *((p + 0.5 - (left, top)) / (width, height) for p in (self.positive, self.negative)))

    def _dotted(self, picture: PILImage.Image) -> PILImage.Image:
        h, w = self.image.size
        return _dots(picture, *((p + 0.5) / (w, h) for p in (self.positive, self.negative)))


def _dots(picture: PILImage.Image, positive: np.ndarray, negative: np.ndarray) -> PILImage.Image:
    """Points, in shares of the sides: green with a plus, red with a minus; told apart in grey too."""
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    for shares, ink, plus in ((negative, ELSEWHERE, False), (positive, LESION, True)):
        for x, y in shares * (picture.width, picture.height):
            draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=ink, outline="black", width=2)
            draw.line((x - 3, y, x + 3, y), fill="white", width=2)
            if plus:
                draw.line((x, y - 3, x, y + 3), fill="white", width=2)
    return picture
