"""Several answers to one input, each a prediction of its own kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from zoo import figure as fig
from zoo import media
from zoo.prediction import Prediction

_SHARED = ("source", "provenance", "label_names", "label_codes", "domain", "prompted", "form")


@dataclass(kw_only=True)
class MultiTask(Prediction):
    """``parts`` by name, such as ``diagnosis`` and ``lesion``; every column, key and file carries its part's name."""

    kind: ClassVar[str] = "multi-task"
    withholds: ClassVar[bool] = False  # each part does as its kind does

    image: media.Image
    parts: Mapping[str, Prediction]

    def _filled(self) -> dict[str, Prediction]:
        """The parts, told what ``Model.predict`` told the whole."""
        for part in self.parts.values():
            for name in _SHARED:
                if name not in ("label_names", "label_codes") or not getattr(part, name):
                    setattr(part, name, getattr(self, name))
        return dict(self.parts)

    def temper(self, temperature: float) -> None:
        for part in self.parts.values():
            part.temper(temperature)

    def summary(self) -> str:
        return "; ".join(f"{name}: {_said(part)}" for name, part in self._filled().items())

    def to_dict(self) -> dict[str, Any]:
        whole = super().to_dict()
        parts = {
            name: {key: value for key, value in part.to_dict().items() if key not in whole or key == "kind"}
            for name, part in self._filled().items()
        }
        return {**whole, "parts": parts}

    def quantities(self) -> dict[str, Any]:
        found = {
            f"{name}.{column}": value
            for name, part in self._filled().items()
            for column, value in part.quantities().items()
        }
        return {**found, **super().quantities()}

    def findings(self) -> list[media.Finding]:
        return [finding for part in self._filled().values() for finding in part.findings()]

    def files(self) -> dict[str, Callable[[Path], Path]]:
        return {f"{name}_{key}": write for name, part in self._filled().items() for key, write in part.files().items()}

    def legend(self) -> list[fig.LegendEntry]:
        shown = [part for part in self._filled().values() if not (part.unlike and part.withholds)]
        return [entry for part in shown for entry in part.legend()]

    def known_panels(self) -> list[fig.Panel]:
        return [fig.Panel("input", self.image.thumbnail(fig.PANEL_SIDE))]

    def panels(self) -> list[fig.Panel]:
        panels = self.known_panels()
        for name, part in self._filled().items():
            shown = [] if part.unlike and part.withholds else part.panels()
            own = [panel for panel in shown if not panel.title.startswith("input")]
            panels += [fig.Panel(f"{name}: {one.title}", one.picture, one.spacing, one.pixels) for one in own]
        return panels


def _said(part: Prediction) -> str:
    """The summary of a part without the marks that the whole carries."""
    if part.unlike and part.withholds:
        return "withheld"
    vars(part)["_inside"] = True
    try:
        return part.summary()
    finally:
        del vars(part)["_inside"]
