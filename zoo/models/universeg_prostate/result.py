"""A mask with what taught it: the labelled slices that went with each slice, and how far several draws agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from zoo import figure
from zoo.data.volumes import Grid, volumes_ml
from zoo.models.universeg_prostate import plugin
from zoo.models.universeg_prostate.support import Scan, Support
from zoo.prediction import Segmentation

SHOWN = 9  # slices of a volume in the figure
STRIP = 9  # supports


class Used(NamedTuple):
    """Which supports went with each slice."""

    support: Support
    chosen: Int[np.ndarray, "t q k"]
    weights: Float[np.ndarray, "q n"]  # by which they were drawn; each row adds up to 1


@dataclass(kw_only=True)
class InContextSegmentation(Segmentation):
    """``spread``: standard deviation of the probability over the draws of the support set, of the image's shape."""

    roi: str
    spread: Float32[np.ndarray, "*grid"]
    used: Used
    scan: Scan
    slice_areas: Float[np.ndarray, " q"]  # of every slice, foot to head: mm2, or px where the spacing isn't known
    unit: str

    @classmethod
    def of(
        cls, scan: Scan, mask: Bool[np.ndarray, "*grid"], probability: Float32[np.ndarray, "*grid"],
        spread: Float32[np.ndarray, "*grid"], used: Used, roi: str, grid: Grid | None, notes: tuple[str, ...],
    ) -> InContextSegmentation:  # fmt: skip
        turned = scan.turned(mask) if mask.ndim == 3 else mask[None]
        spacing = scan.grids[1].spacing if scan.grids else scan.image.spacing
        pixel = float(spacing[-1] * spacing[-2]) if spacing else 1.0
        areas = turned.sum((1, 2)) * pixel
        measured: dict[str, float] = {}
        if grid is not None and grid.measured:
            measured["volume ml"] = round(volumes_ml(mask, grid, {1: roi})[roi], 3)
        elif spacing:
            measured["area mm2"] = round(float(areas[0]), 2)
        if mask.any():
            measured["mean spread inside"] = round(float(spread[mask].mean()), 4)
        return cls(
            image=scan.image,
            mask=mask.astype(np.uint8),
            labels=plugin.labels,
            probability=probability,
            notes=notes,
            measurements=measured,
            roi=roi,
            spread=spread,
            used=used,
            scan=scan,
            slice_areas=areas,
            unit="mm2" if spacing else "px",
        )

    def summary(self) -> str:
        if "volume ml" in self.measurements and not self.unlike:
            return f"{self.roi} {self.measurements['volume ml']:.1f} ml"
        return super().summary()

    def legend(self) -> list[figure.LegendEntry]:
        if "volume ml" not in self.measurements or self.unlike:
            return super().legend()
        return [figure.LegendEntry(f"{self.roi} ({self.measurements['volume ml']:.1f} ml)", figure.colour(1))]

    def to_dict(self) -> dict[str, Any]:
        support, index, w = self.used
        per_slice = [
            {
                "slice": q,
                f"area_{self.unit}": round(float(area), 2),
                "support": [[int(i) for i in draw] for draw in index[:, q]],
                "weights": [[round(float(w[q, i]), 6) for i in draw] for draw in index[:, q]],
            }
            for q, area in enumerate(self.slice_areas)
        ]
        pool = support.names(range(len(support)))
        return {**super().to_dict(), "roi": self.roi, "support_pool": pool, "slices": per_slice}

    def panels(self) -> list[figure.Panel]:
        slices, mask = self.scan.slices, self.scan.labels(self.mask > 0, self.scan.slices.shape[-1])
        present = np.flatnonzero(mask.any((1, 2)))
        first, last = (present[0], present[-1]) if len(present) else (0, len(slices) - 1)
        places = np.unique(np.linspace(max(0, first - 1), min(len(slices) - 1, last + 1), SHOWN).round().astype(int))
        montage = [figure.Tile(_outlined(slices[q], mask[q]), [f"slice {q}"]) for q in places]
        panels = [figure.Panel(f"{self.roi} from foot to head", figure.tiles(montage))]
        if self.used.chosen.shape[-1]:
            panels.append(figure.Panel("support of the middle slice", self._strip(int(places[len(places) // 2]))))
        if len(slices) > 1:
            line = figure.Curve("area", self.slice_areas.tolist(), figure.colour(5))
            top = max(1.0, float(self.slice_areas.max()))
            chart = figure.curves({f"area, {self.unit}": [line]}, low=0.0, high=top, x="slices")
            panels.append(figure.Panel("area by slice", chart))
        q = int(self.slice_areas.argmax())
        spread = self.scan.turned(self.spread)[q] if self.spread.ndim == 3 else self.spread
        if spread.max() > 0:
            heat = figure.heat_over(figure.to_picture(slices[q]), spread / spread.max())
            panels.append(figure.Panel(f"spread over draws, slice {q}: 0 to {spread.max():.2f}", heat))
        return panels

    def _strip(self, q: int) -> Any:
        """The supports of one slice that count most, and their labels."""
        support, index, w = self.used
        row = index[0, q]
        best = np.sort(row[np.argsort(-w[q, row], kind="stable")[:STRIP]])
        names = [name.replace("-mr-", " ") for name in support.names(best.tolist())]
        pictures = [_outlined(support.images[i], support.labels[i]) for i in best]
        return figure.tiles([figure.Tile(picture, [name]) for picture, name in zip(pictures, names, strict=True)])


def _outlined(grey: Float32[np.ndarray, "s s"], mask: Bool[np.ndarray, "s s"]) -> Any:
    picture = figure.to_picture(grey)
    return figure.contour(picture, mask.astype(np.uint8), figure.colour(1)) if mask.any() else picture
