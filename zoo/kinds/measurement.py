"""Values with their unit and how sure they are: what a regression or a ruler gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo import figure as fig
from zoo import media
from zoo.prediction import Prediction


@dataclass(frozen=True)
class Quantity:
    """A value in its unit (UCUM, such as ``mm``, ``mL``, ``%``; ``1`` without one).

    ``interval``: lowest and highest value that hold the truth with probability ``level``. ``normal``: what is usual.
    Raises ``ValueError`` for numbers that are not finite and an interval upside down.
    """

    value: float
    unit: str
    interval: tuple[float, float] | None = None
    level: float = 0.95
    normal: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        pairs = [pair for pair in (self.interval, self.normal) if pair is not None]
        if not all(math.isfinite(v) for v in (self.value, *(v for pair in pairs for v in pair))):
            raise ValueError("a quantity and its interval must be finite")
        if any(low > high for low, high in pairs):
            raise ValueError("an interval goes from the lower to the higher value")

    def __str__(self) -> str:
        unit = "" if self.unit == "1" else f" {self.unit}"
        span = "" if self.interval is None else f" ({self.interval[0]:.4g} to {self.interval[1]:.4g})"
        return f"{self.value:.4g}{unit}{span}"


@dataclass(kw_only=True)
class Measurement(Prediction):
    """Named quantities of one image or volume; ``image`` is None where the input is none."""

    kind: ClassVar[str] = "measurement"

    image: media.Image | None
    values: Mapping[str, Quantity]
    extra_panels: Sequence[fig.Panel] = ()

    def summary(self) -> str:
        return ", ".join(f"{self.spelled(name)} {value}" for name, value in self.values.items())

    def to_dict(self) -> dict[str, Any]:
        values = {
            name: {
                "value": round(float(one.value), 6),
                "unit": one.unit,
                "interval": None if one.interval is None else [round(float(v), 6) for v in one.interval],
                "level": None if one.interval is None else one.level,
                "normal": None if one.normal is None else list(one.normal),
            }
            for name, one in self.values.items()
        }
        return {**super().to_dict(), "values": values}

    def quantities(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, one in self.values.items():
            column = name if one.unit == "1" else f"{name}_{one.unit}"
            found[column] = round(float(one.value), 6)
            if one.interval is not None:
                found[f"{column}_low"], found[f"{column}_high"] = (round(float(v), 6) for v in one.interval)
        return {**found, **super().quantities()}

    def findings(self) -> list[media.Finding]:
        if self.unlike:
            return []
        return [
            media.Finding(self.label_names.get(name, name), self._code(name),
                          (media.Measured(media.own("value", f"Value of {name}"), one.value, one.unit),))
            for name, one in self.values.items()
        ]  # fmt: skip

    def known_panels(self) -> list[fig.Panel]:
        return [] if self.image is None else [input_panel(self.image)]

    def panels(self) -> list[fig.Panel]:
        spans = {
            self.spelled(name): fig.Span(one.value, "" if one.unit == "1" else one.unit, one.interval, one.normal)
            for name, one in self.values.items()
        }
        levels = {f"{one.level:.0%}" for one in self.values.values() if one.interval is not None}
        title = "values" + (f" with {', '.join(sorted(levels))} intervals" if levels else "")
        return [*self.known_panels(), fig.Panel(title, fig.spans(spans)), *self.extra_panels]


def input_panel(image: media.Image) -> fig.Panel:
    """The input as it is: a 2-D image, or slices of a volume."""
    if image.ndim_spatial == 3:
        return fig.Panel("input, slices", fig.slices(image.axial(image.unit())))
    spacing = image.spacing[-1] if image.spacing else None
    return fig.Panel("input", image.thumbnail(fig.PANEL_SIDE), spacing=spacing, pixels=image.size[1])
