"""What the plugin gives back: the registered cloud, how each layer was moved, and pictures and files of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from zoo import figure as fig
from zoo.data.rigid import Motion
from zoo.figure import points as drawing
from zoo.models.pointcloud_recon3d.registration import LayerReport
from zoo.prediction import Prediction

FIXED, MOVING, SELECTED = (240, 130, 180), (60, 160, 80), (30, 60, 190)  # Fig. 3: pink, green, blue


@dataclass(frozen=True)
class Neighbours:
    """Two layers in the frame of the stack, before and after the upper one was moved; x and y in pixels."""

    lower: int
    fixed: Float[np.ndarray, "n 2"]
    before: Float[np.ndarray, "m 2"]
    after: Float[np.ndarray, "m 2"]
    selected: Bool[np.ndarray, " m"]


@dataclass(kw_only=True)
class PointCloud(Prediction):
    """A specimen as points.

    ``points``: ``[n 3]``, x and y as in the first section, z upwards through the stack, in ``unit``; ``label``: 1 for
    tumour, 0 for tissue; ``layer``: the section that a point comes from; ``density``: share of positive cells around.
    ``to_scanner``: from there to mm of the patient, RAS+, where the input states it; files are written in those.
    ``transforms``: ``[layers 3]``, angle in degrees about the middle of the section, x towards y, and the shift in x
    and y in pixels of the section. ``tumour_masks``: by layer, at the resolution the section was segmented at.
    """

    kind: ClassVar[str] = "point cloud"
    withholds: ClassVar[bool] = False

    points: Float[np.ndarray, "n 3"]
    label: UInt8[np.ndarray, " n"]
    layer: Int[np.ndarray, " n"]
    density: Float[np.ndarray, " n"]
    transforms: Float[np.ndarray, "layers 3"]
    layers: tuple[LayerReport, ...]
    motions: tuple[Motion, ...]
    sizes: tuple[tuple[int, int], ...]
    unit: str
    pitch: float  # of neighbouring points, in ``unit``
    spacing: tuple[float, float, float]  # pixel width and height, and distance of layers, in ``unit``
    to_scanner: Float[np.ndarray, "4 4"] | None = None
    meshes: dict[str, drawing.Mesh] = field(default_factory=dict)
    tumour_masks: tuple[UInt8[np.ndarray, "_ _"], ...] = field(default=(), repr=False)
    sought: bool = True  # whether tumour could be told at all
    picture: UInt8[np.ndarray, "_ _ ..."] = field(repr=False)  # one section, small
    pictured: str = ""  # which
    neighbours: Neighbours | None = None
    orbit: int = 0  # views to save
    animated: bool = False

    def summary(self) -> str:
        tumour, tissue = int((self.label == 1).sum()), int((self.label == 0).sum())
        found = f"{tumour} tumour and {tissue} tissue points" if self.sought else f"{tissue} tissue points"
        text = f"{len(self.layers)} layers, {found}"
        known = [report.rmse_all for report in self.layers if report.rmse_all is not None]
        if known:
            text += f", RMSE {float(np.mean(known)):.3g} px"
        flagged = sum(bool(report.flags) for report in self.layers)
        return text + (f", {flagged} layers flagged" if flagged else "")

    def quantities(self) -> dict[str, Any]:
        points = {"layers": len(self.layers), "points_tissue": int((self.label == 0).sum())}
        if self.sought:
            points["points_tumour"] = int((self.label == 1).sum())
        return {**points, **super().quantities()}

    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "unit": self.unit,
            "spacing": list(self.spacing),
            "files_in": "mm of the patient (RAS+)" if self.to_scanner is not None else f"{self.unit} of the stack",
            "to_scanner": None if self.to_scanner is None else self.to_scanner.round(6).tolist(),
            "points": {
                "tumour": int((self.label == 1).sum()) if self.sought else None,
                "tissue": int((self.label == 0).sum()),
            },
            "layers": [_plain(report) for report in self.layers],
            "meshes": {name: {"vertices": len(m.vertices), "faces": len(m.faces)} for name, m in self.meshes.items()},
        }

    def true_error(self, moved: Sequence[Sequence[float]]) -> tuple[float, float]:
        """Root mean square distance, in pixels, of the sections from where they belong, as found and as registered.

        ``moved``: for each layer the angle (degrees) and the shift (x, y) that it was displaced by, about its middle.
        Counted on the points of a grid within the ellipse of 0.8 of each section's width and height.
        """
        before, after = [], []
        for (angle, dx, dy), motion, (h, w) in zip(moved, self.motions, self.sizes, strict=True):
            centre = np.array([(w - 1) / 2, (h - 1) / 2])
            y, x = np.mgrid[-1:1:21j, -1:1:21j]
            disc = np.column_stack([x[x**2 + y**2 <= 1], y[x**2 + y**2 <= 1]]) * (0.4 * w, 0.4 * h)
            c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            displaced = disc @ np.array([[c, -s], [s, c]]).T + centre + (dx, dy)
            home = disc + centre
            before.append(((displaced - home) ** 2).sum(1))
            after.append(((displaced @ motion.R.T + motion.t - home) ** 2).sum(1))
        return float(np.sqrt(np.mean(before))), float(np.sqrt(np.mean(after)))

    def placed(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Points of the cloud in mm of the patient where the input says where it lay, else as they are."""
        if self.to_scanner is None:
            return points
        return (points @ self.to_scanner[:3, :3].T + self.to_scanner[:3, 3]).astype(np.float32)

    # ---- pictures: tumour red, tissue blue (Sec. 3), the darker the denser (Fig. 2) ------------------------------

    def view(self, azimuth: float = -35.0, elevation: float = 32.0, side: int = fig.PANEL_SIDE) -> np.ndarray:
        """The cloud from one side; angles in degrees, see :func:`zoo.figure.points.view`."""
        return drawing.view(
            self.points, self.label, self.density, pitch=self.pitch, azimuth=azimuth, elevation=elevation, side=side
        )

    def legend(self) -> list[fig.LegendEntry]:
        names = {"tumour (darker: denser)": drawing.SOLID} if (self.label == 1).any() else {}
        names |= {"tissue": drawing.HAZE}
        if self.neighbours is not None:
            names |= {"lower layer": FIXED, "upper layer": MOVING, "its points that registration uses": SELECTED}
        return [fig.LegendEntry(name, colour) for name, colour in names.items()]

    def panels(self) -> list[fig.Panel]:
        panels = [fig.Panel(f"input: {self.pictured}", self.picture)]
        if len(self.layers) > 1:
            panels.append(fig.Panel("3-D view", self.view()))
        else:
            kinds = [(self.points[self.label == k, :2], ink) for k, ink in ((0, drawing.HAZE), (1, drawing.SOLID))]
            panels.append(fig.Panel("points of the layer", fig.point_overlay(kinds)))
        if self.neighbours is not None:
            pair = self.neighbours
            every = np.concatenate([pair.fixed, pair.before, pair.after])
            low, high = every.min(0), every.max(0)
            margin = 0.03 * float((high - low).max())
            for what, moving in (("before", pair.before), ("after", pair.after)):
                sets = ((pair.fixed, FIXED), (moving[~pair.selected], MOVING), (moving[pair.selected], SELECTED))
                picture = fig.point_overlay(sets, [*(low - margin).tolist(), *(high + margin).tolist()])
                panels.append(fig.Panel(f"layers {pair.lower + 1} and {pair.lower + 2}, {what} registration", picture))
        if any(report.rmse_all is not None for report in self.layers):
            upper = self.layers[1:]
            series = {
                "all points (px)": [r.rmse_all for r in upper],
                "selected pairs": [r.rmse_selected for r in upper],
            }
            chart = fig.columns([str(report.layer + 1) for report in upper], series, x="layer")
            panels.append(fig.Panel("distance to the layer below, RMSE", chart))
        return panels

    def files(self) -> dict[str, Callable[[Path], Path]]:
        more = {"label": self.label, "layer": self.layer, "density": self.density}
        colours = drawing.solid_and_haze(self.label, self.density)
        cloud = partial(drawing.write_cloud, points=self.placed(self.points), rgb=colours, more=more)
        files: dict[str, Callable[[Path], Path]] = {"cloud": cloud}
        for name, found in self.meshes.items():
            mesh = replace(found, vertices=self.placed(found.vertices))
            files[f"{name}_mesh"] = partial(drawing.write_ply, mesh=mesh)
            files[f"{name}_surface"] = partial(drawing.write_obj, mesh=mesh)
        for k in range(self.orbit):
            view = partial(self.view, -35.0 + 360.0 * k / self.orbit)
            files[f"view{k + 1:02}"] = partial(drawing.write_views, views=[view])
        if self.animated:
            count = self.orbit if self.orbit > 1 else 24
            turns = [partial(self.view, -35.0 + 360.0 * k / count, side=320) for k in range(count)]
            files["orbit"] = partial(drawing.write_views, views=turns)
        return files


def _plain(report: LayerReport) -> dict[str, Any]:
    """A layer's report with numbers rounded to what they mean."""
    plain: dict[str, Any] = {}
    for key, value in asdict(report).items():
        if isinstance(value, float):
            value = round(value, 4 if key in ("seconds", "inliers") else 6)
        elif isinstance(value, tuple):
            value = [round(v, 6) if isinstance(v, float) else v for v in value]
        plain[key] = value
    return plain
