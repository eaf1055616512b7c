"""Serial sections of one specimen: 3-D tissue and tumour, cut, stained, and laid on slides a little askew."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from zoo.data.case import Case
from zoo.errors import DataError

# Optical densities of the two stains in red, green and blue (Ruifrok and Johnston, 2001).
HAEMATOXYLIN = np.array([0.650, 0.704, 0.286])
EOSIN = np.array([0.072, 0.990, 0.105])


def serial_sections(
    seed: int,
    *,
    layers: int = 8,
    size: int = 128,
    max_angle: float = 8.0,
    max_shift: float = 0.06,
    folds: bool = False,
    tears: bool = False,
) -> Case:
    """Stack of stained tissue sections with tumour, each moved on its slide; folds and tears as options.

    ``image`` is ``[layers size size 3]`` uint8. Masks ``mask`` (tumour) and ``tissue``, ``[layers size size]``, are of
    the sections as they lie on the slide. ``attributes["transforms"]`` holds, for each layer, the angle (degrees) and
    the shift (x, y in pixels) by which it was moved about the centre of the image.

    Args:
        layers: number of sections, 1 to 400.
        size: side of a section in pixels, 64 to 2048.
        max_angle: angles are uniform within this many degrees either way.
        max_shift: shifts are uniform within this share of ``size`` either way, in x and in y.
        folds: in about half of the sections an edge of the tissue is folded over.
        tears: in about half of the sections an edge is torn off and lies apart.

    Raises:
        DataError: an option is out of its range.
    """
    if not (1 <= layers <= 400 and 64 <= size <= 2048):
        raise DataError("serial sections need 1 to 400 layers of 64 to 2048 pixels")
    if not (0 <= max_angle <= 180 and 0 <= max_shift <= 0.5):
        raise DataError("max_angle must lie between 0 and 180 degrees and max_shift between 0 and 0.5 of the size")
    rng = np.random.default_rng([seed, 20_231])
    tissue, tumour = specimen(rng, layers, size)
    transforms = np.zeros((layers, 3))
    transforms[1:, 0] = rng.uniform(-max_angle, max_angle, layers - 1)
    transforms[1:, 1:] = rng.uniform(-max_shift, max_shift, (layers - 1, 2)) * size
    images, masks, tissues = [], [], []
    for z in range(layers):
        density = stain(rng, tissue[z], tumour[z])
        planes = np.dstack([density, tissue[z], tumour[z]]).astype(np.float32)
        if folds and rng.random() < 0.5:
            planes = _fold(rng, planes)
        if tears and rng.random() < 0.5:
            planes = _tear(rng, planes)
        moved = move(planes, *transforms[z])
        tissues.append(moved[..., 3] > 0.5)
        masks.append((moved[..., 4] > 0.5) & tissues[-1])
        images.append(_photograph(rng, moved[..., :3]))
    return Case(
        np.stack(images),
        f"serial-sections-{seed}",
        masks={"mask": np.stack(masks).astype(np.uint8), "tissue": np.stack(tissues).astype(np.uint8)},
        attributes={"transforms": transforms.tolist()},
    )


def specimen(
    rng: np.random.Generator, layers: int, size: int
) -> tuple[Bool[np.ndarray, "z h w"], Bool[np.ndarray, "z h w"]]:
    """Tissue and, inside it, tumour.

    Tumour is smooth noise above a threshold; the outline is an ellipse whose edge wobbles with a second smooth field.
    """
    scale = size / 400
    smooth = (3.0, 14 * scale, 14 * scale)
    texture = _field(rng, (layers, size, size), smooth)
    wobble = _field(rng, (layers, size, size), (4.0, 45 * scale, 45 * scale))
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) / size
    tissue = (x / 0.42) ** 2 + (y / 0.36) ** 2 + 0.10 * wobble < 0.85
    return tissue, tissue & (texture > 0.25)


def _field(rng: np.random.Generator, shape: tuple[int, ...], sigma: tuple[float, ...]) -> Float[np.ndarray, "z h w"]:
    """White noise through a Gaussian filter, to unit variance. Made with a margin in z, so that no layer is special."""
    margin = math.ceil(3 * sigma[0])
    noise = rng.standard_normal((shape[0] + 2 * margin, *shape[1:]), dtype=np.float32)
    field = ndimage.gaussian_filter(noise, sigma, mode="wrap")[margin : margin + shape[0]]
    return field / field.std()


def stain(
    rng: np.random.Generator, tissue: Bool[np.ndarray, "h w"], tumour: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w 3"]:
    """Optical density of a section: eosin in all tissue, haematoxylin in nuclei, which tumour has many of."""
    size = tissue.shape[0]

    def smooth(sigma: float) -> np.ndarray:
        field = ndimage.gaussian_filter(rng.standard_normal(tissue.shape, dtype=np.float32), sigma, mode="wrap")
        return field / field.std()

    fibres, inflamed, grain = smooth(size / 40), smooth(size / 18), smooth(0.8)
    nuclei = np.where(tumour, 0.50 + 0.16 * grain, 0.16 + 0.10 * grain + 0.14 * np.clip(inflamed - 1.1, 0, 1))
    cytoplasm = np.where(tumour, 0.28, 0.42) + 0.07 * fibres + 0.05 * grain
    strength_h, strength_e = rng.uniform(0.85, 1.2, 2)  # no two baths stain alike
    amounts = np.clip(np.stack([strength_h * nuclei, strength_e * cytoplasm]), 0, None) * tissue
    return np.einsum("khw,kc->hwc", amounts, np.stack([HAEMATOXYLIN, EOSIN])).astype(np.float32)


def move(planes: Float[np.ndarray, "h w c"], angle: float, dx: float, dy: float) -> Float[np.ndarray, "h w c"]:
    """Turn by ``angle`` degrees about the centre (x to y), then shift by ``dx``, ``dy`` pixels; zeros come in."""
    if angle == dx == dy == 0:
        return planes
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    back = np.array([[c, -s], [s, c]])  # of (row, column): the inverse turn
    centre = (np.array(planes.shape[:2]) - 1) / 2
    offset = centre - back @ (centre + np.array([dy, dx]))
    moved = [ndimage.affine_transform(planes[..., k], back, offset, order=1) for k in range(planes.shape[-1])]
    return np.stack(moved, axis=-1)


def _edge(rng: np.random.Generator, size: int) -> tuple[np.ndarray, tuple[float, float], float]:
    """A line near the outline: signed distance to it (positive outside), its normal (row, column), a width."""
    towards = rng.uniform(0, 2 * math.pi)
    normal = (math.sin(towards), math.cos(towards))
    radius = math.hypot(0.36 * normal[0], 0.42 * normal[1]) * rng.uniform(0.5, 0.75) * size
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return y * normal[0] + x * normal[1] - radius, normal, rng.uniform(0.02, 0.05) * size


def _fold(rng: np.random.Generator, planes: np.ndarray) -> np.ndarray:
    """What lies beyond a line slides inwards, over the rest: there densities add."""
    distance, normal, width = _edge(rng, planes.shape[0])
    slid = ndimage.shift(planes, (-width * normal[0], -width * normal[1], 0), order=1)
    out = np.where(distance[..., None] > -width, slid, planes)
    strip = (distance > -width) & (distance <= 0)
    out[strip] = np.concatenate([slid[strip, :3] + planes[strip, :3], np.maximum(slid, planes)[strip, 3:]], axis=-1)
    return out


def _tear(rng: np.random.Generator, planes: np.ndarray) -> np.ndarray:
    """What lies beyond a line slides outwards and leaves a gap of glass."""
    distance, normal, width = _edge(rng, planes.shape[0])
    slid = ndimage.shift(planes, (width * normal[0], width * normal[1], 0), order=1)
    out = np.where(distance[..., None] > width, slid, planes)
    out[(distance > 0) & (distance <= width)] = 0
    return out


def _photograph(rng: np.random.Generator, density: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Light through the section (Beer and Lambert), with the camera's noise."""
    light = rng.uniform(0.93, 0.97) * 10.0 ** (-np.clip(density, 0, None))
    light += 0.012 * rng.standard_normal(light.shape)
    return (np.clip(light, 0, 1) * 255).round().astype(np.uint8)
