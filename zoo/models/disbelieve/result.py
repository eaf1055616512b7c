"""What the audit shows: a prediction beside its poisoned copies, and the federations round by round."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage
from torch import Tensor

from zoo import figure as fig
from zoo.figure import plots
from zoo.figure.plane import Projection, draw_distances, draw_plane, draw_shares
from zoo.prediction import Classification
from zoo.storage import write_file
from zoo.text import finite

ATTACK_COLOURS = {"none": fig.colour(5), "lie": fig.colour(1), "min-max": fig.colour(7), "disbelieve": fig.colour(6)}
ATTACK_NAMES = {"none": "no attack", "lie": "LIE", "min-max": "Min-Max", "disbelieve": "DISBELIEVE"}
AGGREGATOR_NAMES = {
    "fedavg": "FedAvg", "krum": "Krum", "trimmed-mean": "trimmed mean", "dos": "DOS", "dos-sum": "DOS by sums",
    "krum-released": "Krum as released",
}  # fmt: skip
POISONED = "-poisoned"
LAST = 5  # rounds whose mean is the score of a federation; the paper doesn't say which round it reports


@dataclass(frozen=True)
class Curve:
    """AUC of a global model after every round, under one aggregator and attack; ``none`` is no attack."""

    aggregator: str
    attack: str
    auc: tuple[float, ...] = field(metadata={"min": 0.0, "max": 1.0})
    stored: bool = False  # whether the weights hold the poisoned model that it ends in
    diverged: bool = False  # whether some round's global model gave numbers that aren't finite

    @property
    def weights_name(self) -> str:
        """Of the poisoned copy in the weights file."""
        return f"{self.attack}-{self.aggregator}{POISONED}"


@dataclass(kw_only=True)
class AuditedClassification(Classification):
    """Class probabilities of the clean global model, and those of its poisoned copies by the name of their weights."""

    attacked: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: Sequence[Curve] = ()

    @property
    def flipped(self) -> bool:
        return any(self.flips.values())

    @property
    def flips(self) -> dict[str, bool]:
        """Whether each poisoned copy names another class than the clean model."""
        return {name: max(found, key=lambda k: found[k]) != self.most_probable for name, found in self.attacked.items()}

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
            self.spelled(label): [
                fig.Bar(name, found[label], ATTACK_COLOURS[attack]) for name, (attack, found) in models.items()
            ]
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
    stem = weights_name.removesuffix(POISONED)
    attack = next(name for name in ATTACK_NAMES if stem.startswith(f"{name}-"))
    return attack, stem.removeprefix(f"{attack}-")


# ---- a federation ----------------------------------------------------------------------------------------------------


@dataclass
class RoundRecord:
    """What one round showed. Distances are squared; NaN or empty where there is nothing to tell."""

    round: int
    loss: float  # mean over clients, of their own data
    spread: tuple[float, float, float]  # least, mean and largest distance of two honest clients
    distance: float = math.nan  # of the malicious vector to the mean of the controlled clients' honest updates
    threshold: float = math.nan
    feasible: bool = True
    picked: int | None = None  # Krum's choice, by client
    weights: tuple[float, ...] = ()  # DOS, by client
    excluded: tuple[int, ...] = ()  # clients whose update wasn't finite
    auc: float = math.nan
    accuracy: float = math.nan
    hard_auc: float = math.nan  # of the called class alone
    diverged: bool = False  # the global model gave numbers that aren't finite; its AUC then counts as 0.5


@dataclass
class Audit:
    """One simulated federation under one attack and one aggregator, round by round."""

    aggregator: str
    attack: str
    share: str
    clients: int
    controlled: tuple[int, ...]
    rounds: list[RoundRecord]
    auc: list[float]  # of the global model before training and after each round
    accuracy: list[float]
    projection: Projection | None = None
    state: dict[str, Tensor] = field(default_factory=dict, repr=False)  # of the final global model

    @property
    def score(self) -> float:
        """Mean AUC of the last five rounds."""
        return float(np.mean(self.auc[1:][-LAST:]))

    @property
    def hard_score(self) -> float:
        """The same of the called class alone, as the released code measures it."""
        return float(np.mean([record.hard_auc for record in self.rounds[-LAST:]]))

    @property
    def feasible(self) -> float:
        """Share of the rounds in which a vector of the attack's form could keep within the threshold."""
        return float(np.mean([record.feasible for record in self.rounds])) if self.rounds else math.nan

    @property
    def picked_malicious(self) -> float:
        """Share of the rounds in which Krum took the malicious vector; NaN for other aggregators."""
        picks = [record.picked in self.controlled for record in self.rounds if record.picked is not None]
        return float(np.mean(picks)) if picks and self.attack != "none" else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what isn't finite becomes None."""
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "state"}
        scores = {name: getattr(self, name) for name in ("score", "hard_score", "feasible", "picked_malicious")}
        rounds, plane = [asdict(item) for item in self.rounds], self.projection
        return finite({**record, **scores, "rounds": rounds, "projection": None if plane is None else asdict(plane)})

    def figure(self) -> PILImage.Image:
        """AUC by round, distances by round, the updates of the last round in the plane, and who counted how much."""
        return audit_figure([self])

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``audit.json`` and ``audit.png``."""
        return save_audits([self], Path(folder))


def save_audits(audits: Sequence[Audit], folder: Path) -> list[Path]:
    """``audit.json`` and ``audit.png``, whole or not at all."""
    text = json.dumps([audit.to_dict() for audit in audits], indent=1, allow_nan=False) + "\n"
    picture = io.BytesIO()
    audit_figure(audits).save(picture, format="PNG")
    return [write_file(folder / "audit.json", text), write_file(folder / "audit.png", picture.getvalue())]


_BENIGN, _CONTROLLED, _MEAN, _MALICIOUS = fig.colour(3), fig.colour(7), fig.colour(4), fig.colour(6)
_DASHES = {"none": "-", "lie": "--", "min-max": "-.", "disbelieve": "-"}


def audit_figure(audits: Sequence[Audit]) -> PILImage.Image:
    """A row for each aggregator: AUC by round for every attack; for the last attack distances, updates and weights."""
    by_rule: dict[str, list[Audit]] = {}
    for audit in audits:
        by_rule.setdefault(audit.aggregator, []).append(audit)
    first = audits[0]
    drawing, axes = plots.canvas(
        "the picture of an audit", len(by_rule), 4, size=(18, 3.9 * len(by_rule) + 0.4), widths=(1, 1, 1.25, 1),
        title=f"Simulated federation of {first.clients} clients, {first.share} shared: "
        "how much each aggregator lets an attack through",
    )  # fmt: skip
    for row, (rule, group) in zip(axes, by_rule.items(), strict=True):
        curves = [
            plots.Line(f"{ATTACK_NAMES[audit.attack]} ({audit.score:.2f})", range(len(audit.auc)), audit.auc,
                       ATTACK_COLOURS[audit.attack], _DASHES[audit.attack])
            for audit in group
        ]  # fmt: skip
        title = f"{AGGREGATOR_NAMES[rule]}: AUC of the global model"
        plots.lines(row[0], curves, level=0.5, ylim=(0, 1.02), title=title, x="round", whole=True,
                    legend="lower right", heading="mean of the last 5 rounds")  # fmt: skip
        draw_distances(row[1], group[-1].rounds, f"distances, {ATTACK_NAMES[group[-1].attack]}", (_BENIGN, _MALICIOUS))
        title = f"updates of the last round, {ATTACK_NAMES[group[-1].attack]}"
        draw_plane(row[2], group[-1].projection, title, (_BENIGN, _CONTROLLED, _MEAN, _MALICIOUS))
        empty = "the trimmed mean decides\ncoordinate by coordinate" if rule == "trimmed-mean" else ""
        draw_shares(row[3], group[-1].rounds, first.clients, group[-1].controlled, empty, (_BENIGN, _MALICIOUS))
    return plots.picture(drawing)
