"""What the plugin gives back for one patient, and its pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image as PILImage

from zoo import figure as fig
from zoo.models.meldd import charts
from zoo.prediction import Prediction

SHOWN = 16  # lesions on the contact sheet: the most suspicious
MAPPED = 128  # lesions up to which whole attention maps are kept


@dataclass(kw_only=True)
class PatientLesions(Prediction):
    """All lesions of one patient; arrays have an entry for each, in the order of the images.

    ``numbers``: place of each among the images given, counted from 1. ``received``: attention from the other lesions,
    1 on average. ``attention``: ``[layers heads m m]``, rows attend; with age and sex in front where the variant takes
    them; None for more than 128 lesions. ``evidence``: probabilities by variant.
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
    received: Float[np.ndarray, " n"]
    attention: Float[np.ndarray, "l h m m"] | None
    evidence: dict[str, Float[np.ndarray, " n"]]
    operating_points: dict[str, float]
    pictures: dict[int, PILImage.Image] = field(default_factory=dict, repr=False, compare=False)

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

    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "variant": self.variant,
            "operating_point": round(self.operating_point, 6),
            "age": self.age,
            "sex": self.sex,
            "melanoma_suspected": bool(self.malignant.any()),
            "lesions": [
                {
                    "image": self.names[i],
                    "number": self.numbers[i],
                    "site": self.sites[i] or "unknown",
                    "probability": round(float(self.probability[i]), 6),
                    "malignant": bool(self.malignant[i]),
                    "attention_received": round(float(self.received[i]), 4),
                    "evidence": {name: round(float(p[i]), 6) for name, p in self.evidence.items()},
                }
                for i in range(len(self.names))
            ],
            "most_suspicious_first": [self.numbers[i] for i in self.rank],
        }

    def severity(self, p: float, variant: str | None = None) -> float:
        """A probability on a scale from 0 to 1 whose middle is the operating point."""
        return charts.severity(p, self.operating_points[variant] if variant else self.operating_point)

    def legend(self) -> list[fig.LegendEntry]:
        return [
            fig.LegendEntry(
                f"probability of melanoma below the operating point, {self.operating_point:.1%}", charts.shade(0.25)
            ),
            fig.LegendEntry("at or above it (marked !)", charts.shade(0.8)),
        ]

    def panels(self) -> list[fig.Panel]:
        ranked = [i for i in self.rank if i in self.pictures]
        tiles = [
            charts.Tile(
                self.pictures[i], self.numbers[i], float(self.probability[i]), bool(self.malignant[i]),
                self.sites[i] or "site unknown", self.severity(float(self.probability[i])),
            )
            for i in ranked
        ]  # fmt: skip
        count = len(self.names)
        which = f"{count} lesions" if count <= len(tiles) else f"{len(tiles)} of {count} lesions"
        person = [None if self.age is None else f"age {self.age:g}", self.sex]
        about = ", ".join([self.variant, *(fact for fact in person if fact)])
        panels = [fig.Panel(f"{which}, most suspicious first ({about})", charts.contact_sheet(tiles))]
        if self.attention is not None and len(self.attention) and count > 1:
            first = self.attention.shape[-1] - count
            order = sorted(ranked)
            table = self.attention[-1].mean(0)[first:, first:][np.ix_(order, order)]
            shown = [self.numbers[i] for i in order]
            flagged = [bool(self.malignant[i]) for i in order]
            panels.append(fig.Panel("who looks at whom: last layer's attention", charts.matrix(table, shown, flagged)))
        if any(self.sites):
            worst: dict[str, tuple[int, float]] = {}
            for i, site in enumerate(self.sites):
                if site is not None:
                    n, most = worst.get(site, (0, 0.0))
                    worst[site] = n + 1, max(most, self.severity(float(self.probability[i])))
            panels.append(fig.Panel("sites: lesions, and the worst of each", charts.body(worst)))
        if len(self.evidence) > 1:
            some = ranked[:4]
            rows = {
                self.numbers[i]: {
                    name: (float(p[i]), charts.severity(float(p[i]), self.operating_points[name]))
                    for name, p in self.evidence.items()
                }
                for i in some
            }
            panels.append(fig.Panel("what each kind of evidence changes", charts.evidence(rows)))
        return panels
