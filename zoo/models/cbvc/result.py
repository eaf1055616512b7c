"""A class with the phrases that speak for it, and how visual they are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from zoo import figure as fig
from zoo.figure.phrases import PhraseBar, pale_to_dark, phrase_bars, sorted_curve
from zoo.prediction import Classification


@dataclass(frozen=True)
class Influence:
    """What one concept says of one class: P of Eq. 6, and by how much that is above the mean of all classes.

    ``similarity``: of the image to the phrase. ``visual``: V of Eq. 7. ``visual_rank``: share of the candidates whose V
    is lower, in [0, 1]. ``origin``: the classes whose candidate the phrase was.
    """

    concept: str
    influence: float
    above_mean: float
    similarity: float
    visual: float
    visual_rank: float
    origin: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scores:
    """V of all candidates, and which of them became concepts."""

    visual: Float[np.ndarray, " n"]
    kept: Bool[np.ndarray, " n"]


@dataclass(kw_only=True)
class ConceptClassification(Classification):
    """``concepts``: by class, of the predicted one and another, those of most influence first. ``influence``: P of all
    classes and concepts, in the order of the weights' configuration."""

    kind: ClassVar[str] = "concepts"

    concepts: dict[str, tuple[Influence, ...]]
    influence: Float[np.ndarray, "y m"]
    scores: Scores = field(compare=False)

    def to_dict(self) -> dict[str, Any]:
        found = {name: [asdict(one) for one in some] for name, some in self.concepts.items()}
        return {**super().to_dict(), "concepts": {} if self.unlike else found}

    def legend(self) -> list[fig.LegendEntry]:
        return [
            fig.LegendEntry("bar of a phrase whose visual score is the lowest of all candidates", pale_to_dark(0)),
            fig.LegendEntry("the highest", pale_to_dark(1)),
        ]

    def panels(self) -> list[fig.Panel]:
        groups = {
            f"for {self.spelled(name)} ({self.probabilities[name]:.0%})": [
                PhraseBar(one.concept, one.above_mean, pale_to_dark(one.visual_rank), f"{one.influence:.5f}")
                for one in some
            ]
            for name, some in self.concepts.items()
        }
        key = "bar: influence above the mean of all classes; number: influence"
        n = len(self.scores.visual)
        panels = [
            *super().panels(),
            fig.Panel("what speaks for it, most influence first", phrase_bars(groups, key=key)),
        ]
        if n > 1:
            curve = sorted_curve(
                self.scores.visual, self.scores.kept,
                names=(f"kept ({int(self.scores.kept.sum())})", f"all candidates ({n})"),
                y="visual activation score", x="candidates, by score",
            )  # fmt: skip
            panels.append(fig.Panel("which phrases are visual", curve))
        return panels
