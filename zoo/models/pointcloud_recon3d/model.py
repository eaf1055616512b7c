"""From a stack of sections to one registered cloud: segment, make points, register, stack, fill in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from zoo import figure, media
from zoo.data.rigid import IDENTITY, Motion, about
from zoo.data.stacks import Section, Stack, is_mask, open_masks, open_stack, positive
from zoo.data.tissue import dense_mask, tissue_mask
from zoo.errors import MediaError, OptionError
from zoo.figure.points import surface
from zoo.model import Model
from zoo.models.pointcloud_recon3d import plugin
from zoo.models.pointcloud_recon3d.data import Layer, cloud_of, grid_of, planes_between
from zoo.models.pointcloud_recon3d.network import SegmenterConfig, segmenter
from zoo.models.pointcloud_recon3d.registration import BandMode, LayerReport, Rule, register_stack, select, selection
from zoo.models.pointcloud_recon3d.result import Neighbours, PointCloud
from zoo.nn.windows import by_patches
from zoo.progress import Bar, track

BATCH = 8  # patches through the network together
UNSTAINED = "grey images have no stain to tell tumour by: what is dense is shown as tissue; give masks for more"
JUDGED = 5  # sections by which it's told whether a stack is of the training's kind
FINEST = 1250  # cells of a layer's longer side: 20,000 pixels down-sampled by 16


@dataclass(frozen=True)
class Recon3DConfig:
    """Only the segmenter has anything to configure that weights depend on."""

    network: SegmenterConfig = field(default_factory=SegmenterConfig)


class Wanted(NamedTuple):
    """The options of a prediction; ``None`` leaves them to the stack."""

    masks: Any  # a tumour mask for each layer, in any form that a stack may have, in place of the network's
    spacing: Sequence[float] | None  # µm: pixel width, height, distance of layers; or pixel, distance; or all alike
    threshold: float
    register: bool | None  # None: all but DICOM and NIfTI volumes, whose slices lie where they were
    band: str  # auto, all, random, or u_min,u_max,v_min,v_max in pixels
    band_mode: BandMode
    d_max: float | None  # px; None: 5 % of the diagonal of a layer's bounding box
    reference: Literal["chain", "rolling"]
    allow_flip: bool
    downsample: int | None  # pixels per point and axis; None: least power of two with at most FINEST cells a side
    max_points: int  # of each kind and layer
    z_factor: int  # planes per layer
    interpolate: bool
    mesh: bool
    views: int
    gif: bool
    working_size: int  # px; sections with a longer side are read at a reduced size


class Scale(NamedTuple):
    """How lengths in the sections become lengths in the cloud, and how far sections are reduced on the way."""

    spacing: tuple[float, float, float]  # width and height of a pixel, distance of layers
    factor: int  # sections are read at 1 / factor of their size
    cells: int  # pixels of a section as read, per cell of the grid that points are made from

    @property
    def step(self) -> int:
        """Pixels of a section as scanned, per point and axis."""
        return self.factor * self.cells


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
        return open_stack(given, plugin.name)

    def _pictures(self, case: Stack, **chosen: Any) -> Iterator[media.Image]:
        """Some of the sections in colour; where masks are given the network isn't asked."""
        if chosen.get("masks") is not None:
            return
        for section in case.sections[:: -(-len(case.sections) // JUDGED)]:
            pixels = section.load(max(1, max(section.size) // 512))
            if pixels.ndim == 3:
                yield media.Image(pixels, section.name, ndim_spatial=2)

    def _predict(self, stacks: Sequence[Stack], **chosen: Any) -> list[PointCloud]:
        return [self._reconstruct(stack, Wanted(**chosen)) for stack in stacks]

    def _reconstruct(self, stack: Stack, wanted: Wanted) -> PointCloud:
        """One specimen. Raises ``MediaError`` if no layer shows tissue, ``OptionError`` if options don't fit it."""
        rule = Rule(
            select=selection(wanted.band), mode=wanted.band_mode, d_max=wanted.d_max, reference=wanted.reference,
            allow_flip=wanted.allow_flip,
        )  # fmt: skip
        scale, notes = _scale(stack, wanted)
        register = (not stack.scanned) if wanted.register is None else wanted.register
        layers, tumour_masks, picture = self._layers(stack, wanted, scale, register, notes)
        motions, reports = self._register(layers, [section.name for section in stack.sections], rule, register)
        if flagged := [report for report in reports if report.flags]:
            first = f"{flagged[0].name}: {flagged[0].flags[0]}"
            notes.append(f"{len(flagged)} of {len(layers)} layers are flagged, such as {first}")

        width, _, between = scale.spacing
        heights = [i * between for i in range(len(layers))]
        planes = planes_between(heights, wanted.z_factor) if wanted.interpolate else list(enumerate(heights))
        moved = [layer.mapped(motion.apply) for layer, motion in zip(layers, motions, strict=True)]
        points, label, number, density = stacked(moved, planes, width)
        outlined = {"tumour": points[label == 1], "tissue": points} if wanted.mesh else {}
        extent = float(np.ptp(points[:, :2], axis=0).max())
        levels = [z for _, z in planes]
        found = {name: surface(some, levels, scale.step * width, extent) for name, some in outlined.items()}
        turns = [about(motion, layer.centre) for motion, layer in zip(motions, layers, strict=True)]
        middle, count = len(layers) // 2, len(layers)
        return PointCloud(
            source=stack.source,
            options={"register": register, "downsample": scale.step, "masks": wanted.masks is not None,
                     "reduced_by": scale.factor},
            notes=tuple(notes),
            measurements=_measurements(reports),
            points=points, label=label, layer=number, density=density,
            transforms=np.array([(angle, *shift) for angle, shift, _ in turns]),
            layers=tuple(reports),
            motions=tuple(motions),
            sizes=tuple(section.size for section in stack.sections),
            unit=stack.unit if wanted.spacing is None else "µm",
            pitch=max(scale.step * width, between / (wanted.z_factor if wanted.interpolate else 1)),
            spacing=scale.spacing,
            to_scanner=None if stack.affine is None else stack.affine @ np.diag([*(1 / s for s in scale.spacing), 1.0]),
            meshes={name: mesh for name, mesh in found.items() if mesh is not None},
            tumour_masks=tuple(tumour_masks),
            sought=UNSTAINED not in notes,
            picture=picture,
            pictured=reports[0].name if count == 1 else f"layer {middle + 1} of {count}",
            neighbours=_neighbours(layers, motions, reports, rule),
            orbit=wanted.views,
            animated=wanted.gif,
        )  # fmt: skip

    def _layers(
        self, stack: Stack, wanted: Wanted, scale: Scale, jitter: bool, notes: list[str]
    ) -> tuple[list[Layer], list[UInt8[np.ndarray, "_ _"]], UInt8[np.ndarray, "_ _ 3"]]:
        """Every section as points, in pixel widths; its tumour mask; and the picture of the middle one.

        Sections are read and let go one by one: a stack need not fit into memory.
        """
        given = None if wanted.masks is None else open_masks(wanted.masks, stack)
        count, layers, kept = len(stack.sections), [], []
        picture = np.zeros((1, 1, 3), np.uint8)
        for i in track(range(count), "reading sections", enabled=count > 1):
            section = stack.sections[i]
            found = self._masks(section, None if given is None else given[i], scale.factor, wanted.threshold)
            if found.note and found.note not in notes:
                notes.append(found.note)
            layers.append(_layer(section, found, scale, wanted.max_points, i, jitter))
            kept.append(found.tumour.astype(np.uint8))
            if i == count // 2:
                picture = np.asarray(figure.to_picture(found.picture))
        if not any(len(layer.tumour) or len(layer.tissue) for layer in layers):
            raise MediaError(
                f"no tissue was found in {stack.source}; check that it shows stained sections or give masks"
            )
        return layers, kept, picture

    def _masks(self, section: Section, mask: Section | None, factor: int, threshold: float) -> Masks:
        """Tumour and tissue of one section, read at 1 / ``factor`` of its size."""
        pixels = section.load(factor)
        if mask is not None:
            tumour = positive(mask.load(factor))
            tissue = tissue_mask(pixels) if pixels.ndim == 3 else dense_mask(pixels)
            return Masks(tumour, tissue | tumour, pixels)
        if pixels.ndim == 3:
            tissue = tissue_mask(pixels)
            return Masks((self.segment(pixels, tissue) >= max(threshold, 1e-6)) & tissue, tissue, pixels)
        if is_mask(pixels):
            tumour = positive(pixels)
            return Masks(tumour, tumour, tumour.astype(np.uint8) * 255, "layers of two grey values are taken for masks")
        return Masks(np.zeros(pixels.shape, bool), dense_mask(pixels), pixels, UNSTAINED)

    def _register(
        self, layers: Sequence[Layer], names: Sequence[str], rule: Rule, wanted: bool
    ) -> tuple[list[Motion], list[LayerReport]]:
        if not wanted or len(layers) < 2:
            reports = [LayerReport.unmoved(i, name, layers[i], "nothing") for i, name in enumerate(names)]
            return [IDENTITY] * len(layers), reports
        with Bar("registering layers", len(layers)) as bar:
            return register_stack(layers, rule, names=names, device=self.device, progress=lambda i: bar.update(i + 1))

    def segment(
        self, rgb: UInt8[np.ndarray, "h w 3"], tissue: Bool[np.ndarray, "h w"] | None = None
    ) -> Float[np.ndarray, "h w"]:
        """Probability of tumour, from patches that overlap by half; those without ``tissue`` are 0."""
        return by_patches(
            lambda x: self(x).softmax(1)[:, 1], rgb, self.config.network.patch, inside=tissue, batch=BATCH,
            device=self.device,
        )  # fmt: skip


# ---- options ------------------------------------------------------------------------------------------------------


def _scale(stack: Stack, wanted: Wanted) -> tuple[Scale, list[str]]:
    """And the stack's notes, with those about its reduction."""
    notes = list(stack.notes)
    longest = max(max(section.size) for section in stack.sections)
    factor = max(1, -(-longest // wanted.working_size))
    step = wanted.downsample or 1 << max(0, (-(-longest // FINEST) - 1).bit_length())
    if step < factor:
        notes.append(f"sections are read at 1/{factor} of their size, so points lie {factor} pixels apart")
    if factor > 1:
        notes.append(f"sections are segmented at 1/{factor} of their size; raise working_size to see more detail")
    return Scale(_spacing(stack, wanted), factor, max(1, round(step / factor))), notes


def _spacing(stack: Stack, wanted: Wanted) -> tuple[float, float, float]:
    """Width and height of a pixel and distance of layers."""
    if wanted.spacing is not None:
        values = [float(v) for v in wanted.spacing]
        if len(values) > 3:
            raise OptionError(f"option spacing must be one to three numbers above 0 in µm, not {len(values)}")
        x, z = values[0], values[-1]
        return x, (values[1] if len(values) == 3 else x), z
    if stack.spacing is None:
        return 1.0, 1.0, float(wanted.z_factor)  # Sec. 3: the layer's number times 4
    x, y, between = stack.spacing
    return x, y, (x * wanted.z_factor if between is None else between)


# ---- layers -------------------------------------------------------------------------------------------------------


def _layer(section: Section, masks: Masks, scale: Scale, most: int, number: int, jitter: bool) -> Layer:
    """Clouds in pixels of the scanned section. Tissue is what is no tumour."""
    tumour, tissue = grid_of(masks.tumour, scale.cells), grid_of(masks.tissue, scale.cells)
    rngs = [np.random.default_rng([number, kind]) for kind in range(2)]
    h, w = section.size
    layer = Layer(
        cloud_of(tumour, scale.step, rngs[0], most, jitter),
        cloud_of(tissue & ~tumour, scale.step, rngs[1], most, jitter),
        ((w - 1) / 2, (h - 1) / 2),
        section.size,
    )
    aspect = scale.spacing[1] / scale.spacing[0]  # pixels need not be square: registration is in pixel widths
    if aspect == 1:
        return layer
    by = np.array([1.0, aspect], np.float32)
    return replace(layer.mapped(lambda points: points * by), centre=(layer.centre[0], layer.centre[1] * aspect))


def stacked(
    layers: Sequence[Layer], planes: Sequence[tuple[int, float]], width: float
) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Points, labels, layers and densities of all planes, z set anew."""
    parts = []
    for i, z in planes:
        for label, cloud in ((1, layers[i].tumour), (0, layers[i].tissue)):
            n = len(cloud)
            xyz = np.column_stack([cloud.points * np.float32(width), np.full(n, z, np.float32)])
            parts.append((xyz, np.full(n, label, np.uint8), np.full(n, i, np.int32), cloud.density))
    points, labels, numbers, densities = (np.concatenate(column) for column in zip(*parts, strict=True))
    return points.astype(np.float32), labels, numbers, densities


def _measurements(reports: Sequence[LayerReport]) -> dict[str, float]:
    measured = [report for report in reports if report.rmse_all is not None]
    if not measured:
        return {}
    return {
        "rmse_all_px": float(np.mean([report.rmse_all for report in measured])),
        "inliers": float(np.mean([report.inliers for report in measured if report.inliers is not None])),
    }


def _neighbours(
    layers: Sequence[Layer], motions: Sequence[Motion], reports: Sequence[LayerReport], rule: Rule
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
