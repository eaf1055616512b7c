"""What a diagnosis rests on: look-alike images, look-alike regions, and the table of all contributions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image as PILImage

from zoo import figure as fig
from zoo.data.images import Window, rgb_bytes
from zoo.prediction import Classification

SHOWN_CASES, SHOWN_REGIONS = 4, 3  # in the figure


@dataclass(frozen=True)
class Contribution:
    """One prototype's part in the logit of the predicted class."""

    prototype: str  # such as "local/MEL/3"
    branch: str
    label: str  # the class of the prototype
    similarity: float
    weight: float
    contribution: float


@dataclass(frozen=True)
class LookAlike:
    """A gallery image of the closest prototype's cluster, or where that holds no other image, the nearest of all."""

    id: str
    label: str | None
    similarity: float
    attached: bool = True  # to the closest prototype


@dataclass(frozen=True)
class Region:
    """What a local prototype found in the image, and the training patch that represents it."""

    prototype: str
    label: str
    contribution: float
    similarity: float
    box: tuple[int, int, int, int]  # of the best cell: left, top, right, bottom in px of the input
    source_id: str | None
    source_box: tuple[float, float, float, float]  # the same of the source, as shares of its centred square
    source_similarity: float
    heatmap: Float[np.ndarray, "h w"]  # cosine with every cell


@dataclass(kw_only=True)
class LookAlikes(Classification):
    """A diagnosis with the cases and regions it was made by."""

    window: Window
    prototype: str | None  # the predicted class's closest global prototype
    look_alikes: tuple[LookAlike, ...]
    regions: tuple[Region, ...]
    contributions: tuple[Contribution, ...]
    pictures: dict[str, PILImage.Image | None] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "window": asdict(self.window),
            "prototype": self.prototype,
            "look_alikes": [asdict(case) for case in self.look_alikes],
            "regions": [{k: v for k, v in asdict(region).items() if k != "heatmap"} for region in self.regions],
            "contributions": [asdict(row) for row in self.contributions],
        }

    def _rows(self) -> tuple[list[fig.Panel], list[fig.Panel]]:
        """Top: the input and its look-alikes. Bottom: each region, with the heatmap, beside its source patch."""
        top = [
            fig.Panel(
                f"input: {self.spelled(self.most_probable)} {self.probabilities[self.most_probable]:.0%}",
                self.image.thumbnail(512),
            ),
            fig.Panel("probabilities", self.bars()),
        ]
        for case in self.look_alikes[:SHOWN_CASES]:
            kind = "unlabelled" if case.label is None else self.label_names.get(case.label, case.label)
            name = f"{kind}, cos {case.similarity:.2f}: {case.id}"
            top.append(fig.Panel(name, self.pictures.get(case.id) or fig.absent(case.id)))
        bottom: list[fig.Panel] = []
        view = self.window.cut(rgb_bytes(self.image))
        # Prototypes that agree on the region and on the patch would fill the row with one picture.
        distinct: dict[Any, Region] = {}
        for region in self.regions:
            distinct.setdefault((region.box, region.source_id, region.source_box), region)
        for region in list(distinct.values())[:SHOWN_REGIONS]:
            box = [(edge - offset) / self.window.side for edge, offset in
                   zip(region.box, (self.window.left, self.window.top) * 2, strict=True)]  # fmt: skip
            low, high = float(region.heatmap.min()), float(region.heatmap.max())
            # what is unlike fades to grey, what is alike glows
            heat = fig.heat_over(view, (region.heatmap - low) / max(high - low, 1e-6))
            bottom.append(fig.Panel(f"this region, cos {region.similarity:.2f}", fig.framed(heat, box)))
            name = region.source_id or "no source image stored"
            source = self.pictures.get(f"source {name}")
            framed = fig.absent(name) if source is None else fig.framed(fig.to_picture(source), region.source_box)
            bottom.append(
                fig.Panel(f"looks like this {self.label_names.get(region.label, region.label)}: {name}", framed)
            )
        return top, bottom

    def panels(self) -> list[fig.Panel]:
        top, bottom = self._rows()
        return [*top, *bottom]

    def figure(self, side: int = 288) -> PILImage.Image:
        """Above the input with its look-alikes, below its regions with the training patches they look like."""
        top, bottom = self._rows()
        heading = "The whole image"
        if self.look_alikes:
            heading += (
                ": images of the closest prototype's cluster"
                if self.look_alikes[0].attached
                else ": no other image is of the closest prototype's cluster, so these are the nearest of all"
            )
        parts = [(heading, top)]
        if bottom:
            heading = "Its regions: where the strongest local prototypes fire, and the patches they stand for"
            parts.append((heading, bottom))
        return fig.rows(parts, title=self.title, footer=self.footer, side=side)
