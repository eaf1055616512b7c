"""What the audit looks like: a prediction beside its poisoned copies, and AUC over rounds. Drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image as PILImage
from PIL import ImageDraw

from zoo import figure as fig
from zoo.models.disbelieve.result import Curve
from zoo.prediction import Classification

ATTACK_COLOURS = {"none": fig.colour(5), "lie": fig.colour(1), "min-max": fig.colour(7), "disbelieve": fig.colour(6)}
ATTACK_NAMES = {"none": "no attack", "lie": "LIE", "min-max": "Min-Max", "disbelieve": "DISBELIEVE"}
AGGREGATOR_NAMES = {"fedavg": "FedAvg", "krum": "Krum", "trimmed-mean": "trimmed mean", "dos": "DOS"}
_CLASSES_SHOWN = 5


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
            panels.append(fig.Panel("AUC of the global model, by round of training", curves_chart(self.curves)))
        return panels

    def _bars(self) -> PILImage.Image:
        models = {"clean": self.probabilities}
        for name, found in self.attacked.items():
            _, aggregator = split_name(name)
            models[f"{AGGREGATOR_NAMES[aggregator]}, poisoned"] = found
        return grouped_bars(models)

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


def grouped_bars(models: Mapping[str, Mapping[str, float]], side: int = fig.PANEL_SIDE) -> PILImage.Image:
    """A block for each class, most probable first, with a bar for each model; the first model is the clean one."""
    peak = {label: max(found[label] for found in models.values()) for label in next(iter(models.values()))}
    shown = sorted(peak, key=lambda label: -peak[label])
    # a bar needs 15 px to be read
    fit = max(1, min(_CLASSES_SHOWN, (side - 20) // (26 + 15 * len(models))))
    shown = shown[:fit]
    step = min(22, ((side - 20) // len(shown) - 30) // len(models))
    image = PILImage.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    size = max(11, min(14, step - 2))
    indent = 18 + max(int(draw.textlength(name, font=fig.font(size))) for name in models)
    top = 2
    for label in shown:
        draw.text((8, top), label, fill="black", font=fig.font(16))
        top += 22
        for place, (name, found) in enumerate(models.items()):
            colour = ATTACK_COLOURS["none"] if place == 0 else ATTACK_COLOURS["disbelieve"]
            draw.text((indent - 6, top), name, fill=(60, 60, 60), font=fig.font(size), anchor="ra")
            right = side - 62
            end = indent + (right - indent) * found[label]
            draw.rectangle((indent, top + 1, right, top + step - 4), outline=(205, 205, 205))
            if found[label] > 0:
                draw.rectangle((indent, top + 1, max(indent + 1, end), top + step - 4), fill=colour)
            draw.text((side - 8, top), f"{found[label]:.1%}", fill="black", font=fig.font(size), anchor="ra")
            top += step
        top += 8
    if len(peak) > len(shown):
        draw.text((8, side - 16), f"{len(peak) - len(shown)} less probable classes not shown", fill=(90, 90, 90),
                  font=fig.font(13))  # fmt: skip
    return image


def curves_chart(curves: Sequence[Curve], side: int = fig.PANEL_SIDE) -> PILImage.Image:
    """AUC over rounds, one chart for each aggregator, one line for each attack, named at its end."""
    names = list(dict.fromkeys(curve.aggregator for curve in curves))
    scale = 2  # drawn large and shrunk, for smooth lines
    image = PILImage.new("RGB", (side * scale, side * scale), "white")
    draw = ImageDraw.Draw(image)
    height = side * scale / len(names)
    low = min((value for curve in curves for value in curve.auc), default=0.5)
    low = min(0.4, math.floor(low * 10) / 10)
    for row, name in enumerate(names):
        box = (44 * scale, row * height + 24 * scale, (side - 112) * scale, (row + 1) * height - 20 * scale)
        _chart(draw, box, [curve for curve in curves if curve.aggregator == name], low, scale)
        title = AGGREGATOR_NAMES.get(name, name)
        draw.text((44 * scale, row * height + 2 * scale), title, fill="black", font=fig.font(14 * scale))
    return image.resize((side, side), PILImage.Resampling.LANCZOS)


def _chart(
    draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], curves: Sequence[Curve], low: float, scale: int
) -> None:
    left, top, right, bottom = box
    rounds = max(max(len(curve.auc) for curve in curves) - 1, 1)

    def at(step: float, value: float) -> tuple[float, float]:
        return left + (right - left) * step / rounds, bottom - (bottom - top) * (value - low) / (1 - low)

    for value in (0.5, 0.75, 1.0):
        y = at(0, value)[1]
        draw.line((left, y, right, y), fill=(225, 225, 225), width=scale)
        draw.text((left - 6 * scale, y), f"{value:g}", fill=(90, 90, 90), font=fig.font(11 * scale), anchor="rm")
    draw.line((left, top, left, bottom, right, bottom), fill=(120, 120, 120), width=scale)
    for step in (0, rounds):
        draw.text((at(step, low)[0], bottom + 4 * scale), f"round {step}" if step else "0", fill=(90, 90, 90),
                  font=fig.font(11 * scale), anchor="ma" if not step else "ra")  # fmt: skip
    ends: list[tuple[float, str, tuple[int, int, int]]] = []
    for curve in curves:
        colour = ATTACK_COLOURS[curve.attack]
        draw.line([at(step, value) for step, value in enumerate(curve.auc)], fill=colour, width=2 * scale)
        ends.append((at(rounds, curve.auc[-1])[1], f"{ATTACK_NAMES[curve.attack]} {curve.auc[-1]:.2f}", colour))
    for y, text, colour in _apart(ends, 13 * scale, top, bottom):
        draw.text((right + 6 * scale, y), text, fill=colour, font=fig.font(12 * scale), anchor="lm")


def _apart(
    ends: list[tuple[float, str, tuple[int, int, int]]], gap: float, top: float, bottom: float
) -> list[tuple[float, str, tuple[int, int, int]]]:
    """The labels at their heights, moved so far that none covers another."""
    placed: list[tuple[float, str, tuple[int, int, int]]] = []
    for y, text, colour in sorted(ends):
        placed.append((max(y, placed[-1][0] + gap) if placed else y, text, colour))
    overshoot = max(0.0, placed[-1][0] - bottom) if placed else 0.0
    return [(y - overshoot, text, colour) for y, text, colour in placed]
