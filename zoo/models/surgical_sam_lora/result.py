"""What SurgicalSAM answers: the class of every pixel, or a mask for each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo import figure
from zoo.nn.promptable.drawing import draw_prompts
from zoo.nn.promptable.prompts import Prompt
from zoo.prediction import Segmentation

MOST_NAMED = 8  # labels that a legend has room for


@dataclass(kw_only=True)
class Instruments(Segmentation):
    """``mode``: how it was asked. ``quality``: the IoU that the plain SAM expects of each of its masks."""

    mode: str
    prompts: Sequence[Prompt] = ()
    quality: Mapping[str, float] = field(default_factory=dict)

    def summary(self) -> str:
        if self.mode == "amg":
            return f"{len(self.labels) - 1} masks of all that can be told apart"
        found = {name: share for name, share in self.areas().items() if share > 0}
        return ", ".join(f"{name} {share:.1%}" for name, share in found.items()) or "no instrument"

    def to_dict(self) -> dict[str, Any]:
        boxes = [[p.box.x0, p.box.y0, p.box.x1, p.box.y1] for p in self.prompts if p.box is not None]
        points = [[point.x, point.y] for p in self.prompts for point in p.points]
        expected = {name: round(value, 4) for name, value in self.quality.items()}
        return {**super().to_dict(), "mode": self.mode, "boxes": boxes, "points": points, "expected_iou": expected}

    def legend(self) -> list[figure.LegendEntry]:
        shown = [
            figure.LegendEntry(f"{name} ({share:.1%})", figure.colour(i))
            for i, (name, share) in enumerate(self.areas().items(), start=1)
            if share > 0
        ]
        return shown if self.mode != "amg" and len(shown) <= MOST_NAMED else []

    def panels(self) -> list[figure.Panel]:
        picture = self.image.thumbnail(figure.PANEL_SIDE)
        asked = draw_prompts(picture, self.prompts, self.mask.shape) if self.prompts else picture
        spacing = self.image.spacing[-1] if self.image.spacing else None
        title = {"auto": "instruments by class", "amg": "all that can be told apart"}.get(self.mode, "what was marked")
        return [
            figure.Panel("input and prompts" if self.prompts else "input", asked, spacing=spacing,
                         pixels=self.mask.shape[1]),
            figure.Panel(title, figure.overlay(picture, self.mask, opacity=0.55)),
        ]  # fmt: skip
