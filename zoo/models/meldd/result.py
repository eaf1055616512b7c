"""What the plugin gives back for one patient, and its pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image as PILImage

from zoo import figure as fig
from zoo.figure.body import body
from zoo.prediction import Prediction

SHOWN = 16  # lesions on the contact sheet: the most suspicious
MAPPED = 128  # lesions up to which whole attention maps are kept
_SHADES = ((222, 235, 247), (158, 202, 225), (254, 178, 76), (189, 60, 0))  # below the operating point blue, above red
EVIDENCE = {
    "V0": "lesion alone",
    "V1": "+ other lesions",
    "V2": "+ others, site",
    "V3": "+ others, age, sex",
    "V4": "+ all of these",
}


@dataclass(kw_only=True)
class PatientLesions(Prediction):
    """All lesions of one patient; arrays have an entry for each, in the order of the images.

    ``numbers``: place of each among the images given, counted from 1. ``raised``: how far the other lesions raise its
    logit. ``received``: attention from the other lesions, 1 on average. ``attention``: ``[layers heads m m]``, rows
    attend; with age and sex in front where the variant takes them; None for more than 128 lesions. ``evidence``:
    probabilities by variant.
    """

    kind: ClassVar[str] = "lesions of a patient"

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    sites: tuple[str | None, ...]
    age: float | None
    sex: str | None
    variant: str
    operating_point: float
    probability: Float[np.ndarray, " n"]
    malignant: Bool[np.ndarray, " n"]
    raised: Float[np.ndarray, " n"]
    received: Float[np.ndarray, " n"]
    attention: Float[np.ndarray, "l h m m"] | None
    evidence: dict[str, Float[np.ndarray, " n"]]
    operating_points: dict[str, float]
    pictures: dict[int, UInt8[np.ndarray, "s s 3"]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def rank(self) -> list[int]:
        """Places of the lesions, the most suspicious first."""
        return np.argsort(-self.probability, kind="stable").tolist()

    def summary(self) -> str:
        top, count = self.rank[0], int(self.malignant.sum())
        noun = "lesion" if len(self.names) == 1 else "lesions"
        return (
            f"{len(self.names)} {noun}, {count} at or above the operating point {self.operating_point:.1%}; most "
            f"suspicious: {self.names[top]} ({self.probability[top]:.1%})"
        )

    def quantities(self) -> dict[str, Any]:
        top = self.rank[0]
        return {
            "lesions": len(self.names),
            "lesions_at_or_above_operating_point": int(self.malignant.sum()),
            "most_suspicious": self.names[top],
            "highest_probability_melanoma": round(float(self.probability[top]), 6),
            "operating_point": round(self.operating_point, 6),
            **super().quantities(),
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "variant": self.variant,
            "operating_point": round(self.operating_point, 6),
            "age": self.age,
            "sex": self.sex,
            "melanoma_suspected": None if self.unlike else bool(self.malignant.any()),
            "lesions": [
                {
                    "image": self.names[i],
                    "number": self.numbers[i],
                    "site": self.sites[i] or "unknown",
                    "probability": round(float(self.probability[i]), 6),
                    "malignant": None if self.unlike else bool(self.malignant[i]),
                    "raised_by_others": round(float(self.raised[i]), 4),
                    "attention_received": round(float(self.received[i]), 4),
                    "evidence": {name: round(float(p[i]), 6) for name, p in self.evidence.items()},
                }
                for i in range(len(self.names))
            ],
            "most_suspicious_first": [] if self.unlike else [self.numbers[i] for i in self.rank],
        }

    def temper(self, temperature: float) -> None:
        """Of all variants, operating points alike, so that what is called malignant stays so."""

        def of(p: Any) -> Any:
            return 1 / (1 + (1 / np.clip(p, 1e-12, 1 - 1e-12) - 1) ** (1 / temperature))

        self.probability, self.operating_point = of(self.probability), float(of(self.operating_point))
        self.evidence = {name: of(p) for name, p in self.evidence.items()}
        self.operating_points = {name: float(of(p)) for name, p in self.operating_points.items()}

    def severity(self, p: float, variant: str | None = None) -> float:
        """A probability on a scale from 0 to 1 whose middle is the operating point."""
        return severity(p, self.operating_points[variant] if variant else self.operating_point)

    def legend(self) -> list[fig.LegendEntry]:
        return [
            fig.LegendEntry(
                f"probability of melanoma below the operating point, {self.operating_point:.1%}", shade(0.25)
            ),
            fig.LegendEntry("at or above it (marked !)", shade(0.8)),
        ]

    def known_panels(self) -> list[fig.Panel]:
        some = [fig.Tile(self.pictures[i], [f"{self.numbers[i]}: {self.names[i]}"]) for i in sorted(self.pictures)]
        return [fig.Panel("input", fig.tiles(some))]

    def panels(self) -> list[fig.Panel]:
        ranked = [i for i in self.rank if i in self.pictures]
        panels = [fig.Panel(self._heading(len(ranked)), fig.tiles([self._tile(i) for i in ranked]))]
        if self.attention is not None and len(self.attention) and len(self.names) > 1:
            panels.append(
                fig.Panel("who looks at whom: last layer's attention, no score", self._attention(sorted(ranked)))
            )
        if any(self.sites):
            panels.append(fig.Panel("sites: lesions, and the worst of each", self._body()))
        if len(self.evidence) > 1:
            groups = {f"lesion {self.numbers[i]}": [self._bar(name, float(p[i])) for name, p in self.evidence.items()]
                      for i in ranked[:4]}  # fmt: skip
            panels.append(fig.Panel("what each kind of evidence changes", fig.grouped_bars(groups, digits=0)))
        return panels

    def _heading(self, shown: int) -> str:
        count = len(self.names)
        which = f"{count} lesions" if count <= shown else f"{shown} of {count} lesions"
        person = [None if self.age is None else f"age {self.age:g}", self.sex]
        facts = ", ".join([self.variant, *(fact for fact in person if fact)])
        others = "; others: how far the patient's other lesions raise its logit" if count > 1 else ""
        return f"{which}, most suspicious first ({facts}){others}"

    def _tile(self, i: int) -> fig.Tile:
        p, malignant = float(self.probability[i]), bool(self.malignant[i])
        others = f"others {self.raised[i]:+.1f}, " if len(self.names) > 1 else ""
        where = f"{others}{self.sites[i] or 'site unknown'}"
        lines = f"{self.numbers[i]}: {p:.0%}{' !' if malignant else ''}", self.names[i], where
        return fig.Tile(self.pictures[i], lines, shade(self.severity(p)), bold=malignant)

    def _attention(self, order: list[int]) -> PILImage.Image:
        """Rows attend to columns; mid grey is even attention to all that are shown, black twice as much or more."""
        assert self.attention is not None
        first = self.attention.shape[-1] - len(self.names)
        table = self.attention[-1].mean(0)[first:, first:][np.ix_(order, order)]
        return fig.matrix(
            table / (2 * (float(table.mean()) or 1.0)),
            [f"{self.numbers[i]}{'!' if self.malignant[i] else ''}" for i in order],
            inks=[shade(1.0) if self.malignant[i] else (90, 90, 90) for i in order],
            rows="looks", columns="is looked at", key="white: none, mid grey: as to all others, black: twice as much",
        )  # fmt: skip

    def _body(self) -> PILImage.Image:
        worst: dict[str, tuple[int, float]] = {}
        for p, site in zip(self.probability, self.sites, strict=True):
            if site is not None:
                n, most = worst.get(site, (0, 0.0))
                worst[site] = n + 1, max(most, self.severity(float(p)))
        return body({site: (n, shade(level)) for site, (n, level) in worst.items()})

    def _bar(self, variant: str, p: float) -> fig.Bar:
        level = self.severity(p, variant)
        return fig.Bar(f"{variant} {EVIDENCE[variant]}", p, shade(level), "!" if level >= 0.5 else "")


def severity(p: float, operating_point: float) -> float:
    """0 to 1 with the operating point at 0.5, linear on both sides of it."""
    t = min(max(operating_point, 1e-6), 1 - 1e-6)
    return 0.5 * p / t if p < t else 0.5 + 0.5 * (p - t) / (1 - t)


def shade(level: float) -> tuple[int, int, int]:
    """Pale to darker blue below 0.5, orange to dark red from it on: told apart in greyscale and by the colour-blind."""
    low, high, share = (_SHADES[0], _SHADES[1], 2 * level) if level < 0.5 else (_SHADES[2], _SHADES[3], 2 * level - 1)
    r, g, b = (round((1 - share) * a + share * b) for a, b in zip(low, high, strict=True))
    return r, g, b
