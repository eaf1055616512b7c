"""Images with objects to point at: what the small SAM learns from and is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from zoo.data.augment import turned
from zoo.data.case import Case
from zoo.data.images import resize
from zoo.data.phantoms import PHANTOMS
from zoo.nn.promptable.prompts import Box, Point, box_around
from zoo.training.shapes import shapes

MIXTURE: dict[str, tuple[str, ...]] = {  # which masks of a phantom hold objects
    "skin-lesion": ("mask",),
    "fundus": ("disc", "fov"),
    "he-tile": ("nuclei", "tumour"),
    "chest-xray": ("lungs", "heart", "mask"),
    "ultrasound": ("mask",),
    "ct-slice": ("mask", "lesions"),
    "surgical-frame": ("instances", "parts"),
}
SHAPES = "shapes"  # no phantom
SONOGRAM = "ultrasound of any look"
WIDE = tuple(name for one in (*MIXTURE, SONOGRAM) for name in (one, SHAPES))
SMALLEST = 24  # px of an object at the size of the network's input
MOST = 16  # objects kept of one image
HELD_OUT = 1_000_000  # seeds from here on are for testing


@dataclass(frozen=True)
class Sample:
    image: UInt8[np.ndarray, "h w 3"]
    objects: list[Bool[np.ndarray, "h w"]]
    phantom: str


def objects_of(case: Case, names: tuple[str, ...]) -> list[np.ndarray]:
    """Connected parts of the masks of a phantom that are large enough to point at."""
    from scipy.ndimage import label

    found = []
    for name in names:
        values = np.asarray(case.masks[name])
        for value in np.unique(values[values > 0]):
            parts, count = label(values == value)
            sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
            found += [parts == k + 1 for k in np.flatnonzero(sizes >= SMALLEST)]
    return found


def sample(phantom: str, seed: int, size: int) -> Sample:
    """One image of a name of ``WIDE`` with up to ``MOST`` of its objects, at the size of the network's input."""
    if phantom == SHAPES:
        image, found = shapes(seed, size)
        objects = [one for one in found if one.sum() >= SMALLEST]
    else:
        wide = phantom == SONOGRAM
        name, more = ("ultrasound", {"style": "any"}) if wide else (phantom, {})
        case = PHANTOMS[name].load()(seed, size=size, **more)
        image = np.asarray(case.image)
        image = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        objects = objects_of(case, MIXTURE[name])
    chosen = np.random.default_rng(seed).permutation(len(objects))[:MOST]
    return Sample(image, [objects[k] for k in chosen], phantom)


def samples(size: int, first_seed: int, count: int, names: Sequence[str] = tuple(MIXTURE)) -> Iterator[Sample]:
    """``count`` images with at least one object each, of the ``names`` by turns."""
    seed = first_seed
    made = 0
    while made < count:
        one = sample(names[made % len(names)], seed, size)
        seed += 1
        if one.objects:
            made += 1
            yield one


def augmented(one: Sample, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """The image turned, mirrored, in other colours and contrast; and its objects."""
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))

    def moved(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(turned(array, turns, mirror))

    image = moved(one.image) / 255
    image = image ** np.exp(rng.normal(0, 0.25)) * rng.uniform(0.8, 1.2, 3) + rng.uniform(-0.1, 0.1)
    if rng.uniform() < 0.2:  # grey
        image = np.repeat(image.mean(2, keepdims=True), 3, axis=2)
    return 255 * np.clip(image, 0, 1).astype(np.float32), [moved(found) for found in one.objects]


def zoomed(one: Sample, rng: np.random.Generator) -> Sample:
    """A square part of the image at the full size, around one of the objects; as it is, if nothing remains to be asked.

    What of an object reaches out is cut off; parts too small to point at are dropped.
    """
    size = len(one.image)
    side = int(size * rng.uniform(0.35, 1.0))
    rows, columns = np.nonzero(one.objects[int(rng.integers(len(one.objects)))])
    k = int(rng.integers(len(rows)))
    top, left = (int(np.clip(at - rng.integers(side), 0, size - side)) for at in (rows[k], columns[k]))
    place = (np.arange(size) * side) // size
    objects = [found[top + place][:, left + place] for found in one.objects]
    objects = [found for found in objects if found.sum() >= SMALLEST and not found.all()]
    if not objects:
        return one
    return Sample(resize(one.image[top : top + side, left : left + side], size, "bilinear"), objects, one.phantom)


def spoilt(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blurred, noisy or inverted, now and then; on 0 to 255."""
    from scipy.ndimage import gaussian_filter

    if rng.random() < 0.15:
        image = 255 - image
    if rng.random() < 0.25:
        image = gaussian_filter(image, (*2 * [rng.uniform(0.5, 2.0)], 0))
    if rng.random() < 0.25:
        image = image + rng.uniform(3, 15) * rng.standard_normal((*image.shape[:2], 1))
    return np.clip(image, 0, 255).astype(np.float32)


def some(objects: list[np.ndarray], count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """``count`` of the objects; some twice if there are fewer."""
    return [objects[k] for k in rng.choice(len(objects), count, replace=len(objects) < count)]


def loose_box(target: np.ndarray, rng: np.random.Generator, looseness: float = 0.1) -> Box:
    """The box around ``target`` with each side moved by noise of a tenth of its length, at most 20 px (SAM)."""
    height, width = target.shape
    box = box_around(target)
    dx = np.clip(rng.normal(0, looseness * (box.x1 - box.x0), 2), -20, 20)
    dy = np.clip(rng.normal(0, looseness * (box.y1 - box.y0), 2), -20, 20)
    x0, x1 = np.clip([box.x0 + dx[0], box.x1 + dx[1]], 0, width)
    y0, y1 = np.clip([box.y0 + dy[0], box.y1 + dy[1]], 0, height)
    return Box(float(x0), float(y0), float(max(x1, x0 + 1)), float(max(y1, y0 + 1)))


def click(region: np.ndarray, rng: np.random.Generator) -> Point:
    rows, columns = np.nonzero(region)
    k = int(rng.integers(len(rows)))
    return Point(float(columns[k]), float(rows[k]))


def deep_click(region: np.ndarray) -> Point:
    """The place farthest from the border of the largest connected part, as a person would click."""
    from scipy.ndimage import distance_transform_edt, label

    parts, _ = label(region)
    largest = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    box = box_around(largest)
    top, left = int(box.y0), int(box.x0)
    depth = distance_transform_edt(np.pad(largest[top : int(box.y1), left : int(box.x1)], 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return Point(float(left + x), float(top + y))


def correction(target: np.ndarray, answer: np.ndarray, rng: np.random.Generator, *, deep: bool = False) -> Point | None:
    """A click where the answer is wrong: in what it missed, or (a background click) in what it has too much."""
    wrong = target != answer
    if not wrong.any():
        return None
    point = deep_click(wrong) if deep else click(wrong, rng)
    return Point(point.x, point.y, bool(target[int(point.y), int(point.x)]))


def rough(target: Bool[np.ndarray, "h w"], rng: np.random.Generator) -> Bool[np.ndarray, "h w"]:
    """The mask as a hasty hand would draw it: moved, grown or shrunk, its corners rounded; never empty."""
    from scipy.ndimage import gaussian_filter

    size = len(target)
    extent = float(np.sqrt(target.sum()))
    moved = np.roll(target, tuple(np.round(rng.normal(0, 0.06 * extent, 2)).astype(int)), axis=(0, 1))
    soft = gaussian_filter(moved.astype(np.float32), rng.uniform(0.02, 0.15) * extent + 0.01 * size)
    found = soft > rng.uniform(0.25, 0.75) * soft.max()
    return found if found.any() else target
