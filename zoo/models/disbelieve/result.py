"""What the audit looks like: a prediction beside its poisoned copies, and AUC over rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image as PILImage

from zoo import figure as fig
from zoo.prediction import Classification

if TYPE_CHECKING:
    from zoo.models.disbelieve.model import Curve

ATTACK_COLOURS = {"none": fig.colour(5), "lie": fig.colour(1), "min-max": fig.colour(7), "disbelieve": fig.colour(6)}
ATTACK_NAMES = {"none": "no attack", "lie": "LIE", "min-max": "Min-Max", "disbelieve": "DISBELIEVE"}
AGGREGATOR_NAMES = {"fedavg": "FedAvg", "krum": "Krum", "trimmed-mean": "trimmed mean", "dos": "DOS"}


@dataclass(kw_only=True)
class AuditedClassification(Classification):
    """Class probabilities of the clean global model, and those of its poisoned copies by the name of their weights."""

    attacked: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: Sequence[Curve] = ()

    @property
    def flipped(self) -> bool:
        """Whether any poisoned copy names another class than the clean model."""
        return any(self.flips.values())

    @property
    def flips(self) -> dict[str, bool]:
        return {name: max(found, key=lambda k: found[k]) != self.label for name, found in self.attacked.items()}

    def summary(self) -> str:
        text = super().summary()
        if not self.attacked:
            return text
        flips = [name for name, flip in self.flips.items() if flip]
        verdict = f"another class by {', '.join(flips)}" if flips else "the same class by all poisoned copies"
        return f"{text} (clean model; {verdict})"

    def to_dict(self) -> dict[str, Any]:
        record = super().to_dict()
        clean = record["probabilities"]
        attacked = {name: {k: round(p, 6) for k, p in found.items()} for name, found in self.attacked.items()}
        return {**record, "probs_clean": clean, "probs_attacked": attacked, "flips": self.flips,
                "flipped": self.flipped}  # fmt: skip

    def panels(self) -> list[fig.Panel]:
        if not self.attacked:
            return super().panels()
        picture = fig.Panel("input", self.image.thumbnail(fig.PANEL_SIDE))
        panels = [picture, fig.Panel("clean model, and poisoned copies for comparison", self._bars())]
        if self.curves:
            panels.append(fig.Panel("AUC of the global model, by round of training", self._curves()))
        return panels

    def _bars(self) -> PILImage.Image:
        """A block for each class, most probable first, with a bar for each model."""
        models = {"clean": ("none", self.probabilities)}
        for name, found in self.attacked.items():
            attack, aggregator = split_name(name)
            models[f"{AGGREGATOR_NAMES[aggregator]}, poisoned"] = attack, found
        ranked = sorted(self.probabilities, key=lambda label: -max(found[label] for _, found in models.values()))
        groups = {
            label: [fig.Bar(name, found[label], ATTACK_COLOURS[attack]) for name, (attack, found) in models.items()]
            for label in ranked
        }
        return fig.grouped_bars(groups, rest="less probable classes not shown")

    def _curves(self) -> PILImage.Image:
        """AUC over rounds, one chart for each aggregator, one line for each attack."""
        charts: dict[str, list[fig.Curve]] = {}
        for curve in self.curves:
            line = fig.Curve(ATTACK_NAMES[curve.attack], curve.auc, ATTACK_COLOURS[curve.attack])
            charts.setdefault(AGGREGATOR_NAMES.get(curve.aggregator, curve.aggregator), []).append(line)
        lowest = min((value for curve in self.curves for value in curve.auc), default=0.5)
        return fig.curves(charts, low=min(0.4, lowest), x="round")

    def legend(self) -> list[fig.LegendEntry]:
        if not self.attacked:
            return []
        entries = [fig.LegendEntry("clean model (decides)", ATTACK_COLOURS["none"])]
        attacks = dict.fromkeys(split_name(name)[0] for name in self.attacked)
        return entries + [
            fig.LegendEntry(f"model poisoned by {ATTACK_NAMES[attack]} in a simulation", ATTACK_COLOURS[attack])
            for attack in attacks
        ]


def split_name(weights_name: str) -> tuple[str, str]:
    """Attack and aggregator of ``disbelieve-trimmed-mean-poisoned``."""
    stem = weights_name.removesuffix("-poisoned")
    attack = next(name for name in ATTACK_NAMES if stem.startswith(f"{name}-"))
    return attack, stem.removeprefix(f"{attack}-")
