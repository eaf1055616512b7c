"""Objects in an image, each by a box."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from zoo import figure as fig
from zoo import media
from zoo.prediction import Prediction
from zoo.storage import write_file

NAMED = 12  # boxes whose name is written beside them


@dataclass(frozen=True)
class Box:
    """``x0 y0 x1 y1``: left, top, right and bottom in pixels of the image; right and bottom lie outside of the box.

    ``score``: in [0, 1]. Raises ``ValueError`` for a box without an area and a score out of range.
    """

    label: str
    score: float
    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        if not (self.x1 > self.x0 and self.y1 > self.y0):
            raise ValueError(f"a box from {self.x0:g}, {self.y0:g} to {self.x1:g}, {self.y1:g} has no area")
        if not 0 <= self.score <= 1:
            raise ValueError(f"the score of a box must lie in [0, 1], not {self.score:g}")


@dataclass(kw_only=True)
class Detection(Prediction):
    """Boxes in a 2-D image, best first. ``labels``: every class that could have been found."""

    kind: ClassVar[str] = "detection"
    withholds: ClassVar[bool] = False  # a wrong box shows itself

    image: media.Image
    boxes: Sequence[Box]
    labels: tuple[str, ...]
    extra_panels: Sequence[fig.Panel] = ()

    def __post_init__(self) -> None:
        self.boxes = tuple(sorted(self.boxes, key=lambda box: -box.score))
        strange = {box.label for box in self.boxes} - set(self.labels)
        if strange:
            raise ValueError(f"a box is called {', '.join(sorted(strange))}, which is none of {', '.join(self.labels)}")

    def counts(self) -> dict[str, int]:
        """Boxes of each class."""
        return {label: sum(box.label == label for box in self.boxes) for label in self.labels}

    def summary(self) -> str:
        found = [f"{count} {self.spelled(label)}" for label, count in self.counts().items() if count]
        best = f" (best score {self.boxes[0].score:.2f})" if self.boxes else ""
        return (", ".join(found) or "nothing found") + best

    def _millimetres(self, box: Box) -> list[float] | None:
        spacing = self.image.spacing
        if spacing is None or len(spacing) != 2:
            return None
        return [round((box.x1 - box.x0) * spacing[1], 3), round((box.y1 - box.y0) * spacing[0], 3)]

    def to_dict(self) -> dict[str, Any]:
        boxes = [
            {
                "label": box.label,
                "score": round(float(box.score), 6),
                "box": [round(float(v), 2) for v in (box.x0, box.y0, box.x1, box.y1)],
                "size_mm": self._millimetres(box),
            }
            for box in self.boxes
        ]
        return {**super().to_dict(), "labels": list(self.labels), "shape": list(self.image.size), "boxes": boxes}

    def quantities(self) -> dict[str, Any]:
        best = {label: [box.score for box in self.boxes if box.label == label] for label in self.labels}
        found: dict[str, Any] = {f"count_{label}": count for label, count in self.counts().items()}
        found |= {f"score_{label}": round(scores[0], 6) if scores else None for label, scores in best.items()}
        return {**found, **super().quantities()}

    def findings(self) -> list[media.Finding]:
        made = []
        for box in () if self.unlike else self.boxes:
            numbers = [media.Measured(media.own("score"), box.score)]
            if size := self._millimetres(box):
                numbers += [media.Measured(media.own("width"), size[0], "mm"),
                            media.Measured(media.own("height"), size[1], "mm")]  # fmt: skip
            name = self.label_names.get(box.label, box.label)
            made.append(media.Finding(name, self._code(box.label), tuple(numbers)))
        return made

    def legend(self) -> list[fig.LegendEntry]:
        return [
            fig.LegendEntry(self.spelled(label) if self.unlike else f"{self.spelled(label)}: {count}", self._ink(label))
            for label, count in self.counts().items()
        ]

    def _ink(self, label: str) -> tuple[int, int, int]:
        return fig.colour(1 + self.labels.index(label))

    def known_panels(self) -> list[fig.Panel]:
        return [fig.Panel("input", self.image.thumbnail(fig.PANEL_SIDE))]

    def panels(self) -> list[fig.Panel]:
        height, width = self.image.size
        picture = shown = fig.to_picture(self.image.thumbnail(fig.PANEL_SIDE))
        for k, box in reversed(list(enumerate(self.boxes))):
            shares = (box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height)
            name = f"{box.score:.2f}" if k < NAMED and not self.unlike else ""
            shown = fig.framed(shown, [min(max(v, 0.0), 1.0) for v in shares], self._ink(box.label), name)
        spacing = self.image.spacing[-1] if self.image.spacing else None
        return [
            fig.Panel("input", picture, spacing=spacing, pixels=width),
            fig.Panel("boxes and their scores", shown),
            *self.extra_panels,
        ]

    def files(self) -> dict[str, Callable[[Path], Path]]:
        """``_boxes.csv``: a line for each box."""
        return {"boxes": self._write_boxes}

    def _write_boxes(self, path: Path) -> Path:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["label", "score", "x0", "y0", "x1", "y1"])
        rows.writerows(
            [b.label, round(b.score, 6), *(round(v, 2) for v in (b.x0, b.y0, b.x1, b.y1))] for b in self.boxes
        )
        return write_file(path.with_name(path.name + ".csv"), text.getvalue().encode())
