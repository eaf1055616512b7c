"""What an audit found, and its picture."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from zoo.errors import MissingExtraError
from zoo.models.disbelieve.pictures import AGGREGATOR_NAMES, ATTACK_COLOURS, ATTACK_NAMES
from zoo.models.disbelieve.result import Projection, RoundRecord

if TYPE_CHECKING:
    from PIL import Image as PILImage

LAST = 5  # rounds whose mean is the score of a federation; the paper doesn't say which round it reports


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
        record = {
            "aggregator": self.aggregator,
            "attack": self.attack,
            "share": self.share,
            "clients": self.clients,
            "controlled": list(self.controlled),
            "score": self.score,
            "feasible": self.feasible,
            "picked_malicious": self.picked_malicious,
            "auc": self.auc,
            "accuracy": self.accuracy,
            "rounds": [asdict(item) for item in self.rounds],
            "projection": None if self.projection is None else asdict(self.projection),
        }
        return _finite(record)

    def figure(self) -> PILImage.Image:
        """AUC by round, distances by round, the updates of the last round in the plane, and who counted how much."""
        return audit_figure([self])

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``audit.json`` and ``audit.png``."""
        return save_audits([self], Path(folder))


def save_audits(audits: Sequence[Audit], folder: Path) -> list[Path]:
    """``audit.json`` and ``audit.png``, whole or not at all."""
    from zoo.storage import write_file

    text = json.dumps([audit.to_dict() for audit in audits], indent=1, allow_nan=False) + "\n"
    picture = io.BytesIO()
    audit_figure(audits).save(picture, format="PNG")
    return [write_file(folder / "audit.json", text), write_file(folder / "audit.png", picture.getvalue())]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- drawing -------------------------------------------------------------------------------------------------------

_BENIGN, _CONTROLLED, _MEAN, _MALICIOUS = "#009E73", "#CC79A7", "#F0E442", "#D55E00"


def audit_figure(audits: Sequence[Audit]) -> PILImage.Image:
    """A row for each aggregator: AUC by round for every attack; for the last attack distances, updates and weights."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("the picture of an audit", "matplotlib", "train") from error
    from PIL import Image as PILImage

    by_rule: dict[str, list[Audit]] = {}
    for audit in audits:
        by_rule.setdefault(audit.aggregator, []).append(audit)
    canvas = Figure(figsize=(18, 3.9 * len(by_rule) + 0.4), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots(len(by_rule), 4, squeeze=False, width_ratios=(1, 1, 1.25, 1))
    for row, (rule, group) in zip(axes, by_rule.items(), strict=True):
        shown = group[-1]
        _draw_curves(row[0], AGGREGATOR_NAMES[rule], group)
        _draw_distances(row[1], shown)
        _draw_plane(row[2], shown)
        _draw_shares(row[3], shown)
    first = audits[0]
    canvas.suptitle(
        f"Simulated federation of {first.clients} clients, {first.share} shared: "
        "how much each aggregator lets an attack through"
    )
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=100)
    return PILImage.open(file).convert("RGB")


def _rgb(attack: str) -> tuple[float, ...]:
    return tuple(part / 255 for part in ATTACK_COLOURS[attack])


def _draw_curves(axis: Any, rule: str, group: Sequence[Audit]) -> None:
    styles = {"none": "-", "lie": "--", "min-max": "-.", "disbelieve": "-"}
    for audit in group:
        label = f"{ATTACK_NAMES[audit.attack]} ({audit.score:.2f})"
        width = 2.2 if audit.attack in ("none", "disbelieve") else 1.5
        axis.plot(audit.auc, color=_rgb(audit.attack), linestyle=styles[audit.attack], linewidth=width, label=label)
    axis.axhline(0.5, color="0.7", linewidth=0.8, zorder=0)
    axis.set_ylim(0, 1.02)
    axis.set_title(f"{rule}: AUC of the global model", size=11)
    axis.set_xlabel("round")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=8, loc="lower right", title="mean of the last 5 rounds", title_fontsize=8)
    _plain(axis)


def _draw_distances(axis: Any, audit: Audit) -> None:
    rounds = [record.round for record in audit.rounds]
    least, mean, most = (np.sqrt([record.spread[i] for record in audit.rounds]) for i in range(3))
    axis.fill_between(rounds, least, most, color=_BENIGN, alpha=0.2, label="honest pairs, least to largest")
    axis.plot(rounds, mean, color=_BENIGN, label="honest pairs, mean")
    if audit.attack != "none":
        threshold = np.sqrt([record.threshold for record in audit.rounds])
        distance = np.sqrt([record.distance for record in audit.rounds])
        axis.plot(rounds, threshold, color="black", linestyle=":", label="threshold")
        axis.plot(rounds, distance, color=_MALICIOUS, linewidth=1.6, label="malicious to the attackers' mean")
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(_round_number)
    axis.yaxis.set_minor_formatter(_round_number)
    axis.set_title(f"distances, {ATTACK_NAMES[audit.attack]}", size=11)
    axis.set_xlabel("round")
    axis.xaxis.get_major_locator().set_params(integer=True)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high * (high / low) ** 0.55)  # room for the names
    axis.legend(fontsize=8, loc="upper right")
    _plain(axis)


def _draw_plane(axis: Any, audit: Audit) -> None:
    axis.set_title(f"updates of the last round, {ATTACK_NAMES[audit.attack]}", size=11)
    plane = audit.projection
    if plane is None:
        axis.text(0.5, 0.5, "no update in the last round", ha="center", va="center", transform=axis.transAxes)
        axis.set_axis_off()
        return
    sent = np.array(plane.sent)
    benign = sent[[client not in plane.controlled for client in plane.clients]]
    axis.scatter(*benign.T, s=46, color=_BENIGN, edgecolors="black", linewidths=0.6, label="benign client")
    if plane.controlled:
        malicious = sent[plane.clients.index(plane.controlled[0])]
        if math.isfinite(plane.radius):
            from matplotlib.patches import Circle

            axis.add_patch(Circle((0, 0), plane.radius, fill=False, linestyle=":", color="black"))
            axis.plot([], [], linestyle=":", color="black", label="threshold\naround the mean")
        if plane.honest:
            axis.scatter(*np.array(plane.honest).T, s=46, marker="s", color=_CONTROLLED, edgecolors="black",
                         linewidths=0.6, label="controlled client,\nhonest update")  # fmt: skip
        axis.scatter(0, 0, s=70, marker="P", color=_MEAN, edgecolors="black", linewidths=0.8, label="their mean")
        axis.scatter(*malicious, s=130, marker="X", color=_MALICIOUS, edgecolors="black", linewidths=0.8,
                     label="malicious vector,\nsent by all of them")  # fmt: skip
    shown = [*sent, *np.array(plane.honest).reshape(-1, 2)]
    if math.isfinite(plane.radius):
        shown += [np.array([plane.radius, plane.radius]), np.array([-plane.radius, -plane.radius])]
    low, high = np.min(shown, axis=0), np.max(shown, axis=0)
    centre, half = (low + high) / 2, 0.55 * float(max(*(high - low), 1e-12))
    axis.set_xlim(centre[0] - half, centre[0] + half)
    axis.set_ylim(centre[1] - half, centre[1] + half)
    axis.set_aspect("equal")
    handles, labels = axis.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    axis.legend(named.values(), named.keys(), fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    axis.set_xlabel("first main direction")
    axis.set_ylabel("second")
    axis.spines[["top", "right"]].set_visible(False)


def _draw_shares(axis: Any, audit: Audit) -> None:
    """What share of the aggregate each client has: DOS's weights, or how often Krum took it."""
    from matplotlib.patches import Patch

    counts = np.zeros(audit.clients)
    rounds = [record for record in audit.rounds if record.weights or record.picked is not None]
    for record in rounds:
        if record.picked is not None:
            counts[record.picked] += 1 / len(rounds)
        else:
            present = [client for client in range(audit.clients) if client not in record.excluded]
            counts[present] += np.array(record.weights) / len(rounds)
    if not rounds:
        rule = AGGREGATOR_NAMES[audit.aggregator]
        text = {"trimmed-mean": "the trimmed mean decides\ncoordinate by coordinate,\nnot client by client"}
        axis.text(0.5, 0.5, text.get(audit.aggregator, f"{rule} weighs clients\nby their cases"), ha="center",
                  va="center", transform=axis.transAxes, color="0.3")  # fmt: skip
        axis.set_axis_off()
        return
    colours = [_MALICIOUS if client in audit.controlled else _BENIGN for client in range(audit.clients)]
    bars = axis.bar(range(audit.clients), counts, color=colours, edgecolor="black", linewidth=0.6)
    for bar, client in zip(bars, range(audit.clients), strict=True):
        bar.set_hatch("//" if client in audit.controlled else "")
    picked = rounds[0].picked is not None
    axis.set_title(
        "how often Krum picked a client\n(equal updates: the first of them)"
        if picked
        else "mean weight that DOS gave a client",
        size=11,
    )
    axis.set_xticks(range(audit.clients))
    axis.set_xlabel("client")
    axis.set_ylim(0, max(counts) * 1.3)
    entries = [Patch(facecolor=_BENIGN, edgecolor="black", label="benign")]
    if audit.controlled:
        entries.append(Patch(facecolor=_MALICIOUS, edgecolor="black", hatch="//", label="controlled by the attacker"))
    axis.legend(handles=entries, fontsize=8, loc="upper right")
    _plain(axis)


def _round_number(value: float, _: int) -> str:
    """1, 2 and 5 times powers of ten are named on a logarithmic axis, and nothing else."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""


def _plain(axis: Any) -> None:
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="0.93")
