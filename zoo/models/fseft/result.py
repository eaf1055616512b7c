"""One organ's mask with its volume, the volume that was allowed, and how both came to meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo import figure, media
from zoo.data.volumes import window
from zoo.prediction import Segmentation
from zoo.storage import write_file

SOFT_TISSUE = (-160.0, 240.0)  # HU shown, black to white


@dataclass(kw_only=True)
class OrganSegmentation(Segmentation):
    """A mask of one organ. ``volume_ml`` is None where the size of a voxel isn't known.

    ``prior_ml``: lowest, mean and highest volume that the support allows, where there is one. ``trace``: of a training
    on the spot, by epoch: ``loss``, ``size_ml`` (sum of probabilities) and ``constrained``, whether the size constraint
    was on. ``adapter``: what was trained, as the bytes of a file.
    """

    organ: str
    volume_ml: float
    prior_ml: tuple[float, float, float] | None = None
    trace: Sequence[Mapping[str, float]] = ()
    adapter: bytes | None = None

    def summary(self) -> str:
        if self.unlike:
            return super().summary()
        band = ""
        if self.prior_ml is not None:
            low, _, high = self.prior_ml
            where = "within" if low <= self.volume_ml <= high else "outside of"
            band = f", {where} the {low:.4g} to {high:.4g} ml that its prior allows"
        return f"{self.organ} {self.volume_ml:.4g} ml{band}"

    def to_dict(self) -> dict[str, Any]:
        prior = None if self.prior_ml is None else [round(value, 3) for value in self.prior_ml]
        return {
            **super().to_dict(),
            "organ": self.organ,
            "volume_ml": round(self.volume_ml, 4),
            "prior_ml": prior,
            "trace": [{name: round(float(value), 6) for name, value in one.items()} for one in self.trace],
        }

    def legend(self) -> list[figure.LegendEntry]:
        return [figure.LegendEntry(f"{self.organ} ({self.volume_ml:.4g} ml)", figure.colour(1))]

    def files(self) -> dict[str, Callable[[Path], Path]]:
        if self.adapter is None:
            return super().files()
        stored = self.adapter
        return {**super().files(), "adapter": lambda path: write_file(path.with_suffix(".safetensors"), stored)}

    def panels(self) -> list[figure.Panel]:
        panels = self._planes()
        shown = figure.gauge(f"{self.organ}, ml", self.volume_ml, self.prior_ml)
        panels.append(figure.Panel("predicted volume and allowed band", shown))
        sizes = [one["size_ml"] for one in self.trace if "size_ml" in one]
        if sizes:
            lines = [figure.Curve("size", sizes, figure.colour(5))]
            if self.prior_ml is not None:
                low, _, high = self.prior_ml
                lines += [figure.Curve("low", [low] * len(sizes), figure.colour(3)),
                          figure.Curve("high", [high] * len(sizes), figure.colour(6))]  # fmt: skip
            started = next((k for k, one in enumerate(self.trace) if one.get("constrained")), None)
            when = "never constrained" if started is None else f"constrained from epoch {started}"
            top = max(max(curve.values) for curve in lines)
            chart = figure.curves({"sum of probabilities, ml": lines}, low=0.0, high=top, x="epochs")
            panels.append(figure.Panel(f"size per epoch, {when}", chart))
        return panels

    def _planes(self) -> list[figure.Panel]:
        """Axial, coronal and sagittal slices through the centre of the mask, or of the volume."""
        volume, mask = self.image.axial(self.image.array.reshape(self.image.size)), self.image.axial(self.mask)
        places = np.argwhere(mask)
        z, y, x = (int(c) for c in (places.mean(0).round() if len(places) else np.array(mask.shape) // 2))
        rows, columns = self.image.axial_spacing() or (1.0, 1.0)
        slices = float(np.prod(self.image.spacing or (1.0, 1.0, 1.0))) / (rows * columns)
        cuts: list[tuple[str, tuple[Any, ...], tuple[float, float]]] = [
            (f"axial, slice {z}", (z,), (rows, columns)),
            ("coronal", (slice(None, None, -1), y), (slices, columns)),
            ("sagittal", (slice(None, None, -1), slice(None), x), (slices, rows)),
        ]
        panels = []
        for name, cut, (tall, wide) in cuts:
            grey, inside = window(volume[cut], *SOFT_TISSUE), mask[cut]
            height, width = inside.shape[0] * tall, inside.shape[1] * wide
            picture = figure.to_picture(grey, aspect=width / height)
            shown = figure.overlay(picture, inside.astype(np.uint8), 0.55)
            panels.append(figure.Panel(name, shown, spacing=wide, pixels=inside.shape[1]))
        return panels


def notes_on(
    image: media.Image, organ: str, method: str, trace: Sequence[Mapping[str, float]], mask: np.ndarray, cut: bool
) -> tuple[str, ...]:
    """What a reader of the mask should know. ``cut``: it reaches the first or last slice."""
    notes = []
    if float(image.array.min()) > -200:
        notes.append("no value is below -200, so these may be no Hounsfield units, which fseft takes")
    if not mask.any():
        return (*notes, f"no {organ} was found")
    if cut:
        more = "; the size constraint doesn't hold for it, compare with method=adapter" if trace else ""
        notes.append(f"the {organ} reaches the end of the scan and may be cut off there{more}")
    if method == "adapter-ti" and trace and not any(one["constrained"] for one in trace):
        notes.append("the size constraint never acted: the sizes of the support itself didn't come out within gamma")
    return tuple(notes)
