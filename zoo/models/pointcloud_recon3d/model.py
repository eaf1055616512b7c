"""From a stack of sections to one registered cloud: segment, make points, register, stack, fill in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from zoo import figure
from zoo.errors import MediaError, OptionError
from zoo.model import Model
from zoo.models.pointcloud_recon3d import plugin, render
from zoo.models.pointcloud_recon3d.clouds import (
    Band,
    BandMode,
    Layer,
    cloud_of,
    dense_mask,
    grid_of,
    planes_between,
    tissue_mask,
)
from zoo.models.pointcloud_recon3d.network import SegmenterConfig, segmenter
from zoo.models.pointcloud_recon3d.registration import (
    IDENTITY,
    LayerReport,
    Rule,
    Selection,
    about,
    register_stack,
    select,
)
from zoo.models.pointcloud_recon3d.result import Neighbours, PointCloud
from zoo.models.pointcloud_recon3d.sections import Section, Stack, is_mask, open_masks, open_stack, positive

BATCH = 8  # patches through the network together
FINEST = 1250  # cells of a layer's longer side: 20,000 pixels down-sampled by 16


@dataclass(frozen=True)
class Recon3DConfig:
    """Only the segmenter has anything to configure that weights depend on."""

    network: SegmenterConfig = field(default_factory=SegmenterConfig)


class Masks(NamedTuple):
    """A section, segmented at the resolution it was read at."""

    tumour: Bool[np.ndarray, "h w"]
    tissue: Bool[np.ndarray, "h w"]
    picture: UInt8[np.ndarray, "h w *c"]
    note: str = ""


class PointCloudRecon3D(Model[PointCloud]):
    """The segmenter is the only part with weights; points, registration and rendering have none."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = Recon3DConfig

    def __init__(self, config: Recon3DConfig | None = None) -> None:
        super().__init__(config)
        self.network = segmenter(self.config.network)

    def forward(self, x: Float[Tensor, "b 3 p p"]) -> Float[Tensor, "b 2 p p"]:
        """Logits of other tissue and tumour for patches in [0, 1]; ``p`` is ``config.network.patch``."""
        return self.network(x)

    def _read(self, given: Any) -> Stack:
        return open_stack(given)

    def _predict(self, stacks: Sequence[Stack], **chosen: Any) -> list[PointCloud]:
        """Reconstruct each specimen."""
        return [self._reconstructed(stack, **chosen) for stack in stacks]

    def _reconstructed(
        self,
        stack: Stack,
        *,
        masks: Any,
        spacing: Sequence[float] | None,
        threshold: float,
        register: bool | None,
        band: str,
        band_mode: BandMode,
        d_max: float | None,
        reference: Literal["chain", "rolling"],
        allow_flip: bool,
        downsample: int | None,
        max_points: int,
        z_factor: int,
        interpolate: bool,
        mesh: bool,
        views: int,
        gif: bool,
        working_size: int,
    ) -> PointCloud:
        """One specimen.

        Args:
            masks: a tumour mask for each layer, in any form that a stack may have; the network is then not used.
            spacing: width and height of a pixel and distance of layers in µm; two numbers are pixel and distance, one
                is all three. Without it that of the files, else pixels, with layers ``z_factor`` pixels apart.
            register: ``None`` registers all but DICOM and NIfTI volumes, whose slices lie where they were.
            band: ``auto``, ``all``, ``random``, or four numbers ``u_min,u_max,v_min,v_max`` in pixels.
            band_mode: ``or`` takes the points in either band, ``and`` those in both.
            d_max: in pixels; ``None`` is 5 % of the diagonal of a layer's bounding box.
            reference: ``chain`` moves a layer onto the one below, ``rolling`` onto the last three together.
            allow_flip: tries each layer turned over as well and keeps the better fit.
            downsample: pixels per cell of the grid that points are made from; ``None``: the least power of two that
                leaves at most 1,250 cells along the longer side.
            max_points: of each kind and layer.
            z_factor: planes per layer.
            interpolate: fills the planes between two layers with the nearer one's points.
            mesh, views, gif: further files of :meth:`PointCloud.save`.
            working_size: sections with a longer side are read at a reduced size, in pixels.

        Raises:
            MediaError: no layer shows tissue.
            OptionError: ``masks`` don't fit the layers, or ``band`` or ``spacing`` can't be read.
        """
        from zoo.progress import Bar, track

        selection = _selection(band)
        notes = list(stack.notes)
        scale = _scale(spacing, stack, z_factor)
        given = None if masks is None else open_masks(masks, stack)
        count = len(stack.sections)
        longest = max(max(section.size) for section in stack.sections)
        factor = max(1, -(-longest // working_size))
        step = downsample or _least_power_of_two(longest / FINEST)
        if step < factor:
            notes.append(f"sections are read at 1/{factor} of their size, so points lie {factor} pixels apart")
        cells = max(1, round(step / factor))  # of the section as read
        step = cells * factor
        if factor > 1:
            notes.append(f"sections are segmented at 1/{factor} of their size; raise working_size to see more detail")

        use_register = (not stack.scanned) if register is None else register
        layers, kept = [], []
        picture = np.zeros((1, 1), np.uint8)
        middle = count // 2
        for i in track(range(count), "reading sections", enabled=count > 1):
            found = self._masks(stack.sections[i], None if given is None else given[i], factor, threshold)
            if found.note and found.note not in notes:
                notes.append(found.note)
            layers.append(_layer(stack.sections[i], found, cells, factor, max_points, i, use_register))
            kept.append(found.tumour.astype(np.uint8))
            if i == middle:
                picture = np.asarray(figure.to_picture(found.picture))
        if not any(len(layer.tumour) or len(layer.tissue) for layer in layers):
            raise MediaError(
                f"no tissue was found in {stack.source}; check that it shows stained sections or give masks"
            )

        aspect = scale[1] / scale[0]  # pixels need not be square: registration is in pixel widths
        squared = [_stretched(layer, aspect) for layer in layers]
        names = [section.name for section in stack.sections]
        rule = Rule(
            select=selection, mode=band_mode, d_max=d_max, reference=reference, allow_flip=allow_flip,
        )  # fmt: skip
        if use_register and count > 1:
            with Bar("registering layers", count) as bar:
                motions, reports = register_stack(
                    squared, rule, names=names, device=self.device, progress=lambda i: bar.update(i + 1)
                )
        else:
            motions, reports = [IDENTITY] * count, [_unmoved(i, name, squared[i]) for i, name in enumerate(names)]
        flagged = [report for report in reports if report.flags]
        if flagged:
            notes.append(
                f"{len(flagged)} of {count} layers are flagged, such as {flagged[0].name}: {flagged[0].flags[0]}"
            )

        moved = [_moved(layer, motion) for layer, motion in zip(squared, motions, strict=True)]
        heights = [i * scale[2] for i in range(count)]
        planes = planes_between(heights, z_factor) if interpolate else list(enumerate(heights))
        points, label, number, density = _stacked(moved, planes, scale[0])
        pitch = scale[2] / z_factor if interpolate else scale[2]
        meshes = _meshes(points, label, [z for _, z in planes], step * scale[0], pitch) if mesh else {}
        return PointCloud(
            source=stack.source,
            options={
                "band": band, "band_mode": band_mode,
                "register": use_register, "reference": reference, "allow_flip": allow_flip, "d_max": d_max,
                "downsample": step, "max_points": max_points, "z_factor": z_factor, "interpolate": interpolate,
                "threshold": threshold, "masks": masks is not None, "reduced_by": factor,
            },
            notes=tuple(notes),
            measurements=_measurements(reports),
            points=points,
            label=label,
            layer=number,
            density=density,
            transforms=np.array([_transform(m, layer) for m, layer in zip(motions, squared, strict=True)]),
            layers=tuple(reports),
            motions=tuple(motions),
            sizes=tuple(section.size for section in stack.sections),
            unit=stack.unit if spacing is None else "µm",
            pitch=max(step * scale[0], pitch),
            spacing=scale,
            meshes=meshes,
            tumour_masks=tuple(kept),
            picture=picture,
            pictured=names[middle] if count == 1 else f"layer {middle + 1} of {count}",
            neighbours=_neighbours(squared, motions, reports, rule),
            orbit=views,
            animated=gif,
        )  # fmt: skip

    def _masks(self, section: Section, mask: Section | None, factor: int, threshold: float) -> Masks:
        """Tumour and tissue of one section, read at 1 / ``factor`` of its size."""
        pixels = section.load(factor)
        if mask is not None:
            tumour = positive(mask.load(factor))
            tissue = tissue_mask(pixels) if pixels.ndim == 3 else _dense(pixels)
            return Masks(tumour, tissue | tumour, pixels)
        if pixels.ndim == 3:
            tissue = tissue_mask(pixels)
            return Masks((self.segment(pixels, tissue) >= max(threshold, 1e-6)) & tissue, tissue, pixels)
        if is_mask(pixels):
            tumour = positive(pixels)
            return Masks(tumour, tumour, tumour.astype(np.uint8) * 255, "layers of two grey values are taken for masks")
        note = "grey images have no stain to tell tumour by: what is dense is shown as tissue; give masks for more"
        return Masks(np.zeros(pixels.shape, bool), _dense(pixels), pixels, note)

    @torch.inference_mode()
    def segment(
        self, rgb: UInt8[np.ndarray, "h w 3"], tissue: Bool[np.ndarray, "h w"] | None = None
    ) -> Float[np.ndarray, "h w"]:
        """Probability of tumour, patch by patch without overlap; patches without ``tissue`` are 0."""
        size = self.config.network.patch
        h, w = rgb.shape[:2]
        padded = np.pad(rgb, ((0, -h % size), (0, -w % size), (0, 0)), mode="edge")
        corners = [
            (top, left)
            for top in range(0, h, size)
            for left in range(0, w, size)
            if tissue is None or tissue[top : top + size, left : left + size].any()
        ]
        out = np.zeros(padded.shape[:2], np.float32)
        for first in range(0, len(corners), BATCH):
            some = corners[first : first + BATCH]
            patches = np.stack([padded[t : t + size, s : s + size] for t, s in some])
            x = torch.from_numpy(patches).to(self.device).permute(0, 3, 1, 2).float() / 255
            for (top, left), patch in zip(some, self(x).softmax(1)[:, 1].float().cpu().numpy(), strict=True):
                out[top : top + size, left : left + size] = patch
        return out[:h, :w]


# ---- options ------------------------------------------------------------------------------------------------------


def _selection(band: str) -> Selection:
    if band in ("auto", "all", "random"):
        return band  # type: ignore[return-value]
    try:
        values = [float(v) for v in band.split(",")]
        u_min, u_max, v_min, v_max = values
    except ValueError:
        raise OptionError(f"option band must be auto, all, random or UMIN,UMAX,VMIN,VMAX, not {band!r}") from None
    if not (np.isfinite(values).all() and u_min < u_max and v_min < v_max):
        raise OptionError(f"option band must have UMIN below UMAX and VMIN below VMAX, not {band!r}")
    return Band(u_min, u_max, v_min, v_max)


def _scale(spacing: Sequence[float] | None, stack: Stack, z_factor: int) -> tuple[float, float, float]:
    """Width and height of a pixel and distance of layers."""
    if spacing is not None:
        values = [float(v) for v in spacing]
        if len(values) > 3:
            raise OptionError(f"option spacing must be one to three numbers above 0 in µm, not {len(values)}")
        x, z = values[0], values[-1]
        return x, (values[1] if len(values) == 3 else x), z
    if stack.spacing is None:
        return 1.0, 1.0, float(z_factor)  # Sec. 3: the layer's number times 4
    x, y, between = stack.spacing
    return x, y, (x * z_factor if between is None else between)


def _least_power_of_two(ratio: float) -> int:
    power = 1
    while power < ratio:
        power *= 2
    return power


# ---- layers -------------------------------------------------------------------------------------------------------


def _dense(pixels: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Dense structure of a grey image; what is darker, where the border is bright."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return dense_mask(pixels, dark=float(np.median(border)) > 127)


def _layer(section: Section, masks: Masks, cells: int, factor: int, most: int, number: int, jitter: bool) -> Layer:
    """Clouds in pixels of the scanned section. Tissue is what is no tumour."""
    tumour, tissue = grid_of(masks.tumour, cells), grid_of(masks.tissue, cells)
    rngs = [np.random.default_rng([number, kind]) for kind in range(2)]
    h, w = section.size
    return Layer(
        cloud_of(tumour, cells * factor, rngs[0], most, jitter),
        cloud_of(tissue & ~tumour, cells * factor, rngs[1], most, jitter),
        ((w - 1) / 2, (h - 1) / 2),
        section.size,
    )


def _stretched(layer: Layer, aspect: float) -> Layer:
    if aspect == 1:
        return layer
    by = np.array([1.0, aspect], np.float32)
    tumour, tissue = (replace(cloud, points=cloud.points * by) for cloud in (layer.tumour, layer.tissue))
    return replace(layer, tumour=tumour, tissue=tissue, centre=(layer.centre[0], layer.centre[1] * aspect))


def _moved(layer: Layer, motion: Any) -> Layer:
    """The transform is estimated from some points and applied to all of them, tumour and tissue."""
    clouds = (replace(cloud, points=motion.apply(cloud.points)) for cloud in (layer.tumour, layer.tissue))
    tumour, tissue = clouds
    return replace(layer, tumour=tumour, tissue=tissue)


def _unmoved(number: int, name: str, layer: Layer) -> LayerReport:
    none: dict[str, Any] = {"rmse_selected": None, "rmse_all": None, "inliers": None, "iterations": 0}
    return LayerReport(number, name, 0.0, (0.0, 0.0), False, "nothing", len(layer.tumour), 0, **none)


def _transform(motion: Any, layer: Layer) -> tuple[float, float, float]:
    angle, (dx, dy), _ = about(motion, layer.centre)
    return angle, dx, dy


def _stacked(
    layers: Sequence[Layer], planes: Sequence[tuple[int, float]], width: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points, labels, layers and densities of all planes, z set anew."""
    parts = []
    for i, z in planes:
        for label, cloud in ((1, layers[i].tumour), (0, layers[i].tissue)):
            n = len(cloud)
            xyz = np.column_stack([cloud.points * np.float32(width), np.full(n, z, np.float32)])
            parts.append((xyz, np.full(n, label, np.uint8), np.full(n, i, np.int32), cloud.density))
    points, labels, numbers, densities = (np.concatenate(column) for column in zip(*parts, strict=True))
    return points.astype(np.float32), labels, numbers, densities


def _meshes(
    points: np.ndarray, label: np.ndarray, heights: Sequence[float], step: float, pitch: float
) -> dict[str, render.Mesh]:
    extent = float(np.ptp(points[:, :2], axis=0).max())
    meshes = {}
    for value, name in ((1, "tumour"), (0, "tissue")):
        cloud = points if value == 0 else points[label == 1]  # the specimen's outline encloses its tumour
        planes = max(1, len(set(heights)))
        area = max(1.0, extent**2 * planes / max(len(cloud), 1)) ** 0.5
        cell = max(step, min(area, extent / 16), extent / 400)
        found = render.surface(cloud, heights if len(heights) > 1 else [0.0], cell)
        if found is not None:
            meshes[name] = found
    return meshes


def _measurements(reports: Sequence[LayerReport]) -> dict[str, float]:
    measured = [report for report in reports if report.rmse_all is not None]
    if not measured:
        return {}
    return {
        "rmse_all_px": float(np.mean([report.rmse_all for report in measured])),
        "inliers": float(np.mean([report.inliers for report in measured if report.inliers is not None])),
    }


def _neighbours(
    layers: Sequence[Layer], motions: Sequence[Any], reports: Sequence[LayerReport], rule: Rule
) -> Neighbours | None:
    """The pair of layers that registration changed most."""
    registered = [r.layer for r in reports if r.registered_on in ("tumour", "tissue")]
    if not registered:
        return None

    def gain(i: int) -> float:
        here, below = motions[i], motions[i - 1]
        corners = np.array([[0.0, 0.0], [2 * layers[i].centre[0], 2 * layers[i].centre[1]]])
        return float(np.linalg.norm(here.apply(corners) - below.apply(corners)))

    i = max(registered, key=gain)
    kind = reports[i].registered_on
    moving = getattr(layers[i], kind).points
    return Neighbours(
        lower=i - 1,
        fixed=motions[i - 1].apply(getattr(layers[i - 1], kind).points),
        before=motions[i - 1].apply(moving),
        after=motions[i].apply(moving),
        selected=select(moving, rule, i),
    )
