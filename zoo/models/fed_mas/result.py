"""What ``predict`` gives back: class probabilities with head, medium and tail classes told apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as PILImage
from PIL import ImageDraw

from zoo import figure as fig
from zoo.prediction import Classification

GROUP_COLOURS = {"head": fig.colour(5), "medium": fig.colour(2), "tail": fig.colour(6)}
TOP = 5


@dataclass(kw_only=True)
class LongTailClassification(Classification):
    """Class probabilities, and how often the predicted class was seen in training.

    ``groups``: head, medium or tail by class, empty where unknown. ``view``: the part of the image that was used.
    ``saliency``: [h w] in [0, 1], the evidence for the predicted class.
    """

    groups: Mapping[str, str] = field(default_factory=dict)
    view: UInt8[np.ndarray, "s s 3"] | None = None
    saliency: Float[np.ndarray, "h w"] | None = None

    @property
    def top(self) -> dict[str, float]:
        """The five most probable classes, the first one first."""
        return dict(sorted(self.probabilities.items(), key=lambda item: -item[1])[:TOP])

    def to_dict(self) -> dict[str, Any]:
        record = super().to_dict()
        record["top"] = [{"label": name, "probability": round(p, 6)} for name, p in self.top.items()]
        if self.groups:
            record["group"] = self.groups[self.label]
            record["groups"] = dict(self.groups)
        return record

    def summary(self) -> str:
        text = super().summary()
        if self.groups:
            text += f" ({self.groups[self.label]} class)"
        if "ssl_distance" in self.measurements:
            text += f"; distance to the prior {self.measurements['ssl_distance']:.2f} of 4"
        return text

    def legend(self) -> list[fig.LegendEntry]:
        meaning = {"head": "head: often seen in training", "medium": "medium", "tail": "tail: rarely seen in training"}
        there = set(self.groups.values())
        return [fig.LegendEntry(meaning[name], colour) for name, colour in GROUP_COLOURS.items() if name in there]

    def panels(self) -> list[fig.Panel]:
        panels = [fig.Panel("input", self.image.thumbnail(fig.PANEL_SIDE))]
        if self.saliency is not None and self.view is not None:
            panels.append(fig.Panel(f"evidence for {self.label} (brighter: more)", self._blended()))
        panels.append(fig.Panel("probabilities", self._bars()))
        return [*panels, *self.extra_panels]

    def _blended(self) -> PILImage.Image:
        assert self.saliency is not None
        assert self.view is not None
        side = fig.PANEL_SIDE
        picture = fig.to_picture(self.view, side)
        coarse = PILImage.fromarray((np.clip(self.saliency, 0, 1) * 255).astype(np.uint8))
        smooth = np.asarray(coarse.resize((side, side), PILImage.Resampling.BICUBIC), np.float32) / 255
        return PILImage.blend(picture, fig.heatmap(smooth), 0.45)

    def _bars(self) -> PILImage.Image:
        """As ``zoo.figure.bars``, each bar in the colour of its group."""
        side = fig.PANEL_SIDE
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])[:12]
        image = PILImage.new("RGB", (side, side), "white")
        draw = ImageDraw.Draw(image)
        height = min(56, side // max(len(ranked), 1))
        thick = max(6, height // 4)
        for row, (name, probability) in enumerate(ranked):
            top = row * height + 2
            draw.text((8, top), name, fill="black", font=fig.font(16))
            draw.text((side - 8, top), f"{probability:.1%}", fill="black", font=fig.font(16), anchor="ra")
            box = (8, top + 21, side - 8, top + 21 + thick)
            draw.rectangle(box, outline=(190, 190, 190))
            if probability > 0:
                colour = GROUP_COLOURS[self.groups[name]] if self.groups else fig.colour(5)
                draw.rectangle((8, top + 21, 8 + max(1, (side - 16) * probability), top + 21 + thick), fill=colour)
        return image
