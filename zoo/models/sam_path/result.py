"""What SAM-Path answers: a class for every pixel, and how much of the image each class takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from zoo import figure
from zoo.nn.promptable.drawing import draw_prompts
from zoo.nn.promptable.prompts import Prompt
from zoo.prediction import Segmentation


@dataclass(kw_only=True)
class ClassMap(Segmentation):
    """A segmentation into classes of tissue. ``probability``: of each class in ``names``; None in vanilla mode."""

    names: tuple[str, ...]
    probability: Float[np.ndarray, "k h w"] | None = None
    quality: Mapping[str, float] = field(default_factory=dict)  # expected IoU, where it was trained
    prompts: Sequence[Prompt] = ()

    def class_areas(self) -> dict[str, float]:
        """Share of the image that each class takes, background included, in [0, 1]."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.labels))
        return {name: float(counts[self.labels.index(name)] / self.mask.size) for name in self.names}

    def sizes(self) -> dict[str, float]:
        """mm² of each class, of the first too where it is one; nothing where the spacing is unknown."""
        if (pixel := self._voxel()) is None:
            return {}
        return {name: share * self.mask.size * pixel for name, share in self.class_areas().items()}

    def summary(self) -> str:
        return ", ".join(f"{name} {share:.1%}" for name, share in self.class_areas().items())

    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "class_areas": {name: round(share, 6) for name, share in self.class_areas().items()},
            "expected_iou": {name: round(value, 4) for name, value in self.quality.items()},
        }

    def panels(self) -> list[figure.Panel]:
        picture = self.image.thumbnail(figure.PANEL_SIDE)
        spacing = self.image.spacing[-1] if self.image.spacing else None
        shown = draw_prompts(picture, self.prompts, self.mask.shape) if self.prompts else picture
        found = figure.contour(figure.overlay(picture, self.mask, opacity=0.45), self.mask)
        panels = [
            figure.Panel("input and points" if self.prompts else "input", shown, spacing, self.mask.shape[1]),
            figure.Panel("SAM's own masks" if self.prompts else "class of every pixel", found),
        ]
        if self.probability is not None:
            tiles = [
                figure.Tile(figure.heatmap(one), [name, *self._expectation(name)])
                for name, one in zip(self.names, self.probability, strict=True)
            ]
            unsure = -(self.probability * np.log(self.probability + 1e-8)).sum(0) / np.log(len(self.names))
            tiles.append(figure.Tile(figure.heatmap(unsure), ["uncertainty"]))
            panels.append(figure.Panel("probability of each class (yellow: 1), and uncertainty", figure.tiles(tiles)))
        return panels

    def _expectation(self, name: str) -> list[str]:
        return [f"expected IoU {self.quality[name]:.2f}"] if name in self.quality else []
