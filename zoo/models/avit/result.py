"""What AViT answers: the lesion's outline on the photograph, with the true one where it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from zoo import figure, media
from zoo.data.images import resize
from zoo.errors import OptionError
from zoo.metrics import dice, iou
from zoo.models.avit import plugin
from zoo.prediction import Segmentation

FOUND, TRUTH = figure.colour(6), figure.colour(3)  # red and green in the paper's Fig. 2


@dataclass(kw_only=True)
class Lesion(Segmentation):
    """A lesion. ``small``: its probability at the network's own size, where the paper measures."""

    small: Float[np.ndarray, "s s"]
    truth: Bool[np.ndarray, "h w"] | None = None

    @classmethod
    def of(
        cls, picture: media.Image, small: Float[np.ndarray, "s s"], threshold: float, truth: media.Image | None
    ) -> Lesion:
        """Raises ``OptionError`` for a ``truth`` of another size than the picture."""
        probability = np.clip(resize(small, picture.size, "bilinear"), 0, 1)
        mask = probability >= max(threshold, 1e-6)
        notes, measured, wanted = [], {}, None
        if not mask.any():
            notes.append("no lesion was found")
        if truth is not None:
            wanted = truth.array > 0
            if wanted.shape != picture.size:
                raise OptionError(
                    f"gt is {wanted.shape[0]} x {wanted.shape[1]} px but {picture.source} is {picture.size[0]} x "
                    f"{picture.size[1]}; give a mask of the image's size"
                )
            notes += truth.notes
            measured = {"Dice": round(dice(mask, wanted), 4), "IoU": round(iou(mask, wanted), 4)}
        return cls(
            image=picture, mask=mask.astype(np.uint8), labels=plugin.labels, probability=probability, small=small,
            truth=wanted, notes=tuple(notes), measurements=measured,
        )  # fmt: skip

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """x0, y0, x1, y1 of the smallest box around the lesion, px, the last two beyond it; None without a lesion."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        if not len(rows):
            return None
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    def to_dict(self) -> dict[str, Any]:
        area, box = int(self.mask.sum()), self.box
        return {**super().to_dict(), "area_px": area, "bounding_box": None if box is None else list(box)}

    def quantities(self) -> dict[str, Any]:
        return {**super().quantities(), "area_px": int(self.mask.sum())}

    def legend(self) -> list[figure.LegendEntry]:
        (found,) = super().legend()
        entries = [figure.LegendEntry(found.name, FOUND)]
        return entries if self.truth is None else [*entries, figure.LegendEntry("ground truth", TRUTH)]

    def panels(self) -> list[figure.Panel]:
        """The photograph, the outlines on it (Fig. 2), and the probability."""
        picture = self.image.thumbnail(figure.PANEL_SIDE)
        spacing = self.image.spacing[-1] if self.image.spacing else None
        outlined = picture
        for mask, ink in ((self.truth, TRUTH), (self.mask, FOUND)):
            if mask is not None:
                outlined = figure.contour(outlined, mask.astype(np.uint8), ink)
        assert self.probability is not None
        return [
            figure.Panel("input", picture, spacing=spacing, pixels=self.mask.shape[1]),
            figure.Panel("contours", outlined),
            figure.Panel("lesion probability", figure.heatmap(self.probability)),
        ]
