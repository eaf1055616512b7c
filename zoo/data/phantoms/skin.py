"""A procedural dermoscopic photograph with exact masks of the lesion and of everything that is not skin.

The skin is built in layers of what absorbs and scatters light: melanin near the surface, melanin deep in the dermis
(which looks blue), blood, scar or scale (white) and keratin (yellow). Each diagnosis lays down its own structures in
these layers; a device then photographs the result, with hair, ruler, ink, gel and dark corners in the way.

Coordinates are in half image sides: the picture spans [-1, 1] in x and y, whatever its size in pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from zoo.data.case import Case
from zoo.data.dermoscopy import DIAGNOSES
from zoo.data.phantoms.texture import check_size
from zoo.errors import DataError

MALIGNANT = ("MEL", "BCC", "SCC")
ISIC2019_COUNTS = (4522, 12875, 3323, 867, 2624, 239, 253, 628)  # images per class of that set
ARTIFACTS = ("hair", "ruler", "ink", "corner", "bubble", "patch")
"""Values 1 to 6 of the artifact mask: hair, ruler marks, skin marker, dark corners, gel bubbles, colour patch."""
SITES = ("anterior torso", "posterior torso", "upper extremity", "lower extremity", "head/neck", "palms/soles")
PREVALENCES = ("equal", "isic2019")

# Absorption per unit of density in red, green and blue; what the light meets first absorbs first.
_MELANIN = np.array([0.55, 0.95, 1.25], np.float32)
_BLOOD = np.array([0.18, 1.05, 0.85], np.float32)
_VEIL = np.array([0.42, 0.47, 0.58], np.float32)  # melanin deep in the dermis
_WHITE = np.array([0.95, 0.90, 0.86], np.float32)  # scar, scale, regression
_KERATIN = np.array([0.86, 0.74, 0.46], np.float32)  # keratin and crust

Map = Float[np.ndarray, "h w"]
Lines = list[tuple[np.ndarray, float]]  # points [n 2] and width of each


@dataclass(frozen=True)
class Device:
    """What one kind of dermatoscope does to the picture. Pairs are ranges to draw from."""

    gain: tuple[float, float, float]  # of red, green, blue
    cast: float  # standard deviation of the gain from picture to picture
    blur: tuple[float, float]  # standard deviation of the optics, in px of a picture of 256 px
    noise: tuple[float, float]  # of the sensor, out of 1
    quality: tuple[int, int]  # JPEG
    shading: tuple[float, float]  # loss of light towards the corners
    corner: float  # probability of dark corners
    artifacts: tuple[float, float, float, float, float]  # probability of hair, ruler, ink, bubble, patch


DEVICES: dict[str, Device] = {
    "polarised": Device((1.00, 1.00, 1.00), 0.03, (0.3, 0.7), (0.005, 0.015), (85, 96), (0.0, 0.15), 0.1,
                        (0.45, 0.15, 0.10, 0.0, 0.0)),
    "contact": Device((1.04, 0.99, 0.94), 0.04, (0.4, 0.9), (0.008, 0.020), (80, 95), (0.1, 0.30), 0.7,
                      (0.50, 0.20, 0.10, 0.35, 0.0)),
    "handheld": Device((1.06, 0.97, 0.88), 0.06, (0.6, 1.3), (0.015, 0.035), (60, 88), (0.2, 0.45), 0.3,
                       (0.50, 0.10, 0.15, 0.10, 0.0)),
    "film": Device((1.02, 0.94, 1.02), 0.06, (0.7, 1.2), (0.012, 0.030), (75, 92), (0.0, 0.25), 0.2,
                         (0.40, 0.45, 0.20, 0.05, 0.25)),
    "cool": Device((0.88, 1.00, 1.14), 0.05, (0.4, 1.0), (0.008, 0.025), (75, 94), (0.1, 0.35), 0.4,
                         (0.45, 0.15, 0.15, 0.15, 0.05)),
}  # fmt: skip


def skin_lesion(
    seed: int,
    *,
    size: int = 256,
    diagnosis: str | None = None,
    prevalence: str = "equal",
    device: str | None = None,
    artifacts: str | None = None,
    tone: float | None = None,
    patient: int | None = None,
) -> Case:
    """Dermoscopic photograph: eight diagnoses or healthy skin; hair, ruler, ink, dark corners; five devices.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and height of the square image, px (32 to 1024).
        diagnosis: one of ``DIAGNOSES``, or ``none`` for healthy skin; drawn from the seed when not given.
        prevalence: how a diagnosis is drawn: ``equal``, or with the class frequencies of ``isic2019``.
        device: one of ``DEVICES``; drawn from the seed when not given.
        artifacts: names from ``ARTIFACTS`` joined by commas, or ``none``; by the device's habits when not given.
        tone: of the skin, 0 (light) to 1 (dark); the patient's own when not given.
        patient: number of the person, who has one skin tone, age, sex and kind of naevus; the seed when not given.

    Returns:
        A case with a uint8 [h w 3] image, the diagnosis as its label, and uint8 [h w] masks: ``mask`` (the lesion, 0 or
        1) and ``artifact`` (0, or the place of the artifact in ``ARTIFACTS`` counted from 1). Attributes: patient, age,
        sex, site, device, tone, the artifacts and the dermoscopic structures that were drawn, and whether the lesion is
        malignant.

    Raises:
        DataError: an option is out of its range.
    """
    chosen_artifacts = _check(size, diagnosis, prevalence, device, artifacts, tone)
    rng = np.random.default_rng([0x5C14, seed])
    person = Person(seed if patient is None else patient)
    shares = np.array(ISIC2019_COUNTS if prevalence == "isic2019" else [1] * len(DIAGNOSES), float)
    drawn = str(rng.choice(DIAGNOSES, p=shares / shares.sum())), str(rng.choice(list(DEVICES)))
    diagnosis, device = diagnosis or drawn[0], device or drawn[1]
    site = str(rng.choice(SITES))

    image, artifact, scene = draw_lesion(rng, person, diagnosis, device, size, tone=tone, artifacts=chosen_artifacts)
    attributes: dict[str, Any] = {
        "patient": f"phantom-{seed if patient is None else patient}",
        "age": person.age,
        "sex": person.sex,
        "site": site,
        "device": device,
        "tone": round(scene.tone, 3),
        "artifacts": [name for place, name in enumerate(ARTIFACTS, start=1) if (artifact == place).any()],
        "structures": scene.structures,
        "malignant": diagnosis in MALIGNANT,
    }
    masks: dict[str, np.ndarray | str] = {"mask": scene.mask.astype(np.uint8), "artifact": artifact}
    return Case(image, f"skin-lesion-{seed}", masks, diagnosis, attributes)


def draw_lesion(
    rng: np.random.Generator,
    person: Person,
    diagnosis: str,
    device: str,
    size: int,
    *,
    tone: float | None = None,
    artifacts: tuple[str, ...] | None = None,
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"], _Scene]:
    """A lesion on a person's skin, photographed: the picture, its artifacts, and the scene with the lesion's mask.

    ``tone``: the person's own when not given; ``artifacts``: by the device's habits.
    """
    scene = _Scene(rng, size, person, person.tone if tone is None else tone)
    if diagnosis != "none":
        scene.outline(*_OUTLINES[diagnosis])
        _LESIONS[diagnosis](scene)
    image, artifact = _photograph(scene, DEVICES[device], artifacts)
    return image, artifact, scene


def _check(
    size: int, diagnosis: str | None, prevalence: str, device: str | None, artifacts: str | None, tone: float | None
) -> tuple[str, ...] | None:
    """The artifacts asked for, or ``None``. Raises ``DataError`` for what can't be drawn."""
    check_size("skin-lesion", size)
    if tone is not None and not 0 <= tone <= 1:
        raise DataError(f"the skin-lesion phantom has tones from 0 to 1, not {tone:g}; choose tone within that range")
    names = None if artifacts is None else tuple(n for n in artifacts.split(",") if n and n != "none")
    for what, values, known in (
        ("diagnosis", (diagnosis,), (*DIAGNOSES, "none")),
        ("prevalence", (prevalence,), PREVALENCES),
        ("device", (device,), tuple(DEVICES)),
        ("artifact", names or (), (*ARTIFACTS, "none")),
    ):
        for value in values:
            if value is not None and value not in known:
                raise DataError(f"the skin-lesion phantom has no {what} {value!r}; choose one of {', '.join(known)}")
    return names


class Person:
    """What all pictures of one patient share; naevi of one person resemble each other."""

    def __init__(self, number: int) -> None:
        rng = np.random.default_rng([0x9E50, number])
        self.tone = float(rng.beta(1.3, 3.0))
        self.age = int(np.clip(rng.normal(54, 18), 5, 90) // 5 * 5)
        self.sex = str(rng.choice(["female", "male"]))
        self.naevus_density = float(rng.uniform(0.45, 0.95))
        self.naevus_grain = float(rng.uniform(0.075, 0.12))  # size of the network's meshes
        self.naevus_globular = bool(rng.random() < 0.35)


class _Scene:
    """The skin while it's being made: one map for each absorber or scatterer, float [h w]."""

    def __init__(self, rng: np.random.Generator, size: int, person: Person, tone: float) -> None:
        self.rng, self.size, self.person, self.tone = rng, size, person, tone
        ticks = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
        self.x, self.y = np.meshgrid(ticks, ticks)
        self.melanin = 0.10 + 0.75 * tone + 0.03 * self.noise(0.5) + 0.02 * self.noise(0.09)
        self.blood = 0.06 + 0.03 * self.noise(0.35)
        self.veil, self.white, self.keratin = (np.zeros((size, size), np.float32) for _ in range(3))
        self.mask: Bool[np.ndarray, "h w"] = np.zeros((size, size), bool)
        self.structures: list[str] = []
        self.typical = float(rng.uniform(0.35, 1.0))  # how clearly the lesion shows what its diagnosis is known by
        self._skin_lines()

    # ---- drawing ------------------------------------------------------------------------------------------------

    def noise(self, grain: float, octaves: int = 2) -> Map:
        """Smooth noise of unit variance with grains of the given size."""
        total = np.zeros((self.size, self.size), np.float32)
        for octave in range(octaves):
            n = max(2, round(2 / grain * 2**octave)) + 2
            coarse = self.rng.standard_normal((n, n)).astype(np.float32)
            fine = Image.fromarray(coarse).resize((self.size, self.size), Image.Resampling.BICUBIC)
            total += np.asarray(fine) * 0.5**octave
        return total / max(float(total.std()), 1e-6)

    def cells(self, grain: float, jitter: float = 0.9) -> tuple[Map, Map]:
        """Distance to the nearest of many scattered points, and to the border with the next one, in grains."""
        n = math.ceil(1 / grain) + 2
        offsets = self.rng.uniform(-0.5, 0.5, (2 * n + 1, 2 * n + 1, 2)).astype(np.float32) * jitter
        u, v = self.x / grain, self.y / grain
        column, row = np.rint(u).astype(int), np.rint(v).astype(int)
        near = np.full_like(u, np.inf)
        second = np.full_like(u, np.inf)
        for i in (-1, 0, 1):  # a point leaves its place in the lattice by half a grain at most
            for j in (-1, 0, 1):
                offset = offsets[row + i + n, column + j + n]
                distance = np.hypot(column + j + offset[..., 0] - u, row + i + offset[..., 1] - v)
                second = np.minimum(second, np.maximum(near, distance))
                near = np.minimum(near, distance)
        return near, second - near

    def strokes(self, lines: Lines) -> Map:
        """Coverage in [0, 1] by lines: points [n 2] and width each, in half sides; drawn at three times the size."""
        scale = 3 * self.size
        picture = Image.new("L", (scale, scale))
        draw = ImageDraw.Draw(picture)
        for points, width in lines:
            px = (np.asarray(points) + 1) * scale / 2
            draw.line([tuple(p) for p in px.tolist()], fill=255, width=max(1, round(width * scale / 2)), joint="curve")
        small = picture.resize((self.size, self.size), Image.Resampling.BOX)
        return np.asarray(small, np.float32) / 255

    def spots(self, where: Bool[np.ndarray, "h w"], count: int, radius: tuple[float, float], soft: float = 0.5) -> Map:
        """Round spots at random places of ``where``, in [0, 1]."""
        total = np.zeros((self.size, self.size), np.float32)
        rows, columns = np.nonzero(where)
        if not len(rows):
            return total
        for _ in range(count):
            k = self.rng.integers(len(rows))
            r = self.rng.uniform(*radius)
            distance = np.hypot(self.x - self.x[rows[k], columns[k]], self.y - self.y[rows[k], columns[k]])
            np.maximum(total, _ramp((1 - distance / r) / soft + 0.5), out=total)
        return total

    def _skin_lines(self) -> None:
        _, border = self.cells(0.16, 1.0)
        self.melanin -= 0.05 * self.rng.uniform(0.3, 1) * np.exp(-((border / 0.10) ** 2))

    def outline(self, radius: tuple[float, float], ragged: float, asymmetry: float, soft: float) -> None:
        """Place the lesion: its mask, ``inside`` (soft, in [0, 1]), ``depth`` (0 at the border, 1 in the middle)."""
        rng = self.rng
        cx, cy = rng.uniform(-0.14, 0.14, 2)
        stretch, turn = 1 + rng.uniform(0, 0.25 + 0.5 * asymmetry), rng.uniform(0, math.pi)
        u, v = self.x - cx, self.y - cy
        u, v = u * math.cos(turn) + v * math.sin(turn), -u * math.sin(turn) + v * math.cos(turn)
        u, v = u / math.sqrt(stretch), v * math.sqrt(stretch)
        self.angle = np.arctan2(v, u)
        self.r = np.hypot(u, v) / rng.uniform(*radius)
        border = np.ones_like(self.r)
        for k in (2, 3, 4, 5, 7, 9):
            border += ragged * rng.normal(0, 1) / math.sqrt(k) * np.cos(k * self.angle + rng.uniform(0, 2 * math.pi))
        border += asymmetry * 0.35 * np.cos(self.angle - rng.uniform(0, 2 * math.pi))
        border += 0.5 * ragged * self.noise(0.12)
        border = np.clip(border, 0.45, 1.6)
        self.depth = np.clip(1 - self.r / border, -1, 1)
        self.inside = _ramp(self.depth / soft + 0.5)
        self.mask = self.inside > 0.5
        self.centre = (cx, cy)

    def rim(self, width: float = 0.3) -> Map:
        """1 along the border of the lesion, fading towards the middle."""
        return self.inside * np.exp(-((np.clip(self.depth, 0, 1) / width) ** 2))

    def core(self, share: float) -> Map:
        """1 in the middle of the lesion."""
        return _ramp((self.depth - (1 - share)) / 0.25 + 0.5)

    def add(self, layer: str, amount: Map | float, structure: str | None = None) -> None:
        """Put more of something into a layer; ``structure`` names what a dermatologist would call it."""
        value = getattr(self, layer)
        value += amount if structure is None else amount * self.typical
        if structure and structure not in self.structures:
            self.structures.append(structure)

    # ---- structures ---------------------------------------------------------------------------------------------

    def network(self, grain: float, strength: float | Map, width: float, jitter: float, name: str) -> None:
        """Brown meshes: dark lines between lighter holes."""
        _, border = self.cells(grain, jitter)
        lines = np.exp(-((border / width) ** 2))
        self.add("melanin", self.inside * strength * (lines - 0.25), name)

    def globules(self, count: int, radius: tuple[float, float], strength: float, name: str, rim: bool = False) -> None:
        where = self.mask & (self.depth < 0.35) if rim else self.mask
        self.add("melanin", strength * self.spots(where, count, radius), name)

    def vessels(self, count: int, length: float, width: float, branches: int, name: str) -> None:
        """Red lines that wander, and branch where asked to; strongest in the lesion."""
        lines: Lines = []
        rows, columns = np.nonzero(self.mask)
        for _ in range(count if len(rows) else 0):
            k = self.rng.integers(len(rows))
            start = np.array([self.x[rows[k], columns[k]], self.y[rows[k], columns[k]]])
            self._grow(lines, start, self.rng.uniform(0, 2 * math.pi), length, width, branches)
        self.add("blood", 1.5 * self.strokes(lines) * _ramp(self.inside + 0.2), name)

    def _grow(
        self,
        lines: Lines,
        at: np.ndarray,
        heading: float,
        length: float,
        width: float,
        more: int,
    ) -> None:
        n = 9
        headings = heading + np.cumsum(self.rng.normal(0, 0.28, n))
        steps = np.stack([np.cos(headings), np.sin(headings)], 1) * length / n
        path = np.concatenate([at[None], at + np.cumsum(steps, 0)])
        lines.append((path, width))
        for _ in range(2 if more else 0):
            k = self.rng.integers(3, n)
            side = self.rng.choice([-1, 1]) * self.rng.uniform(0.4, 0.9)
            self._grow(lines, path[k], headings[k] + side, 0.7 * length, 0.7 * width, more - 1)

    def coil(self, count: int, radius: float, name: str) -> None:
        """Small rings or loops of blood: glomerular and hairpin vessels."""
        lines = []
        rows, columns = np.nonzero(self.mask)
        angle = np.linspace(0, 1.7 * math.pi, 10)
        for _ in range(count if len(rows) else 0):
            k = self.rng.integers(len(rows))
            centre = np.array([self.x[rows[k], columns[k]], self.y[rows[k], columns[k]]])
            spin = angle + self.rng.uniform(0, 6.3)
            lines.append(
                (centre + radius * self.rng.uniform(0.7, 1.2) * np.stack([np.cos(spin), np.sin(spin)], 1), 0.012)
            )
        self.add("blood", 1.3 * self.strokes(lines), name)


# ---- the diagnoses: (radius, raggedness, asymmetry, softness of the border) and their structures -------------------

_OUTLINES: dict[str, tuple[tuple[float, float], float, float, float]] = {
    "MEL": ((0.50, 0.75), 0.11, 0.60, 0.10),
    "NV": ((0.36, 0.58), 0.03, 0.05, 0.22),
    "BCC": ((0.42, 0.64), 0.06, 0.20, 0.14),
    "AK": ((0.50, 0.78), 0.10, 0.25, 0.50),
    "BKL": ((0.44, 0.68), 0.05, 0.20, 0.05),
    "DF": ((0.36, 0.52), 0.02, 0.05, 0.35),
    "VASC": ((0.34, 0.56), 0.05, 0.10, 0.06),
    "SCC": ((0.46, 0.70), 0.06, 0.20, 0.16),
}


def _melanoma(s: _Scene) -> None:
    """Asymmetric, ragged, of many colours; broad irregular network, blots, streaks, veil and regression."""
    rng = s.rng
    s.add("melanin", s.inside * rng.uniform(0.7, 1.1))
    s.add("melanin", s.inside * 0.75 * np.clip(s.noise(0.55), -0.9, 1.6))
    s.network(rng.uniform(0.13, 0.19), 0.9 * np.clip(0.5 + 0.8 * s.noise(0.5), 0, 1.6), 0.34, 1.0, "atypical network")
    s.globules(int(rng.integers(6, 16)), (0.02, 0.06), 1.3, "irregular blotches")
    direction = rng.uniform(0, 2 * math.pi)
    if rng.random() < 0.7:
        streaks = np.clip(np.cos(rng.integers(26, 40) * s.angle + 0.6 * s.noise(0.4)), 0, 1) ** 2
        sector = np.clip(np.cos(s.angle - direction) * 1.6, 0, 1)
        s.add("melanin", 1.3 * streaks * sector * _ramp((s.depth + 0.16) / 0.16) * (1 - s.core(0.8)), "streaks")
    offset = np.hypot(s.x - s.centre[0] - 0.2 * math.cos(direction), s.y - s.centre[1] - 0.2 * math.sin(direction))
    if rng.random() < 0.8:
        s.add("veil", 0.9 * s.inside * _ramp((0.32 - offset) / 0.25 + 0.3 + 0.2 * s.noise(0.3)), "blue-white veil")
    if rng.random() < 0.5:
        far = np.hypot(s.x - s.centre[0] + 0.3 * math.cos(direction), s.y - s.centre[1] + 0.3 * math.sin(direction))
        s.add("white", 0.5 * s.inside * _ramp((0.22 - far) / 0.2 + 0.3), "regression")


def _naevus(s: _Scene) -> None:
    """Round, symmetric, of one brown; regular fine network or globules, as on all naevi of the person."""
    person, rng = s.person, s.rng
    s.add("melanin", s.inside * person.naevus_density * (0.75 + 0.25 * s.core(0.9)) * rng.uniform(0.9, 1.1))
    if person.naevus_globular:
        near, _ = s.cells(person.naevus_grain, 0.6)
        s.add("melanin", 0.75 * s.inside * _ramp((0.33 - near) / 0.2 + 0.5), "regular globules")
    else:
        s.network(person.naevus_grain, 0.75 * (0.4 + 0.6 * s.rim(0.5)), 0.26, 0.7, "regular network")


def _basal_cell(s: _Scene) -> None:
    """Pearly pink with branching vessels in focus, blue-grey nests and small ulcers."""
    rng = s.rng
    s.add("blood", s.inside * rng.uniform(0.25, 0.45))
    s.add("white", s.inside * (0.22 + 0.06 * s.noise(0.3)))
    s.vessels(int(rng.integers(3, 6)), 0.55, 0.030, 2, "arborising vessels")
    s.add("veil", 0.9 * s.spots(s.mask & (s.depth < 0.55), int(rng.integers(3, 9)), (0.05, 0.12)), "blue-grey nests")
    if rng.random() < 0.5:
        ulcer = s.spots(s.mask & (s.depth > 0.2), int(rng.integers(1, 4)), (0.05, 0.10), 0.3)
        s.add("keratin", 0.5 * ulcer)
        s.add("blood", 1.0 * ulcer, "ulceration")


def _actinic(s: _Scene) -> None:
    """Ill-defined red patch whose follicles stay pale (strawberry), with flakes of scale."""
    rng = s.rng
    near, _ = s.cells(rng.uniform(0.14, 0.18), 0.6)
    follicle = _ramp((0.26 - near) / 0.12 + 0.5)
    s.add("blood", s.inside * rng.uniform(0.45, 0.7) * (1 - 0.8 * follicle) * (1 + 0.2 * s.noise(0.12)))
    s.add("white", 0.35 * s.inside * follicle, "strawberry pattern")
    flakes = s.inside * _ramp((s.noise(0.13) - 1.0) / 0.5)
    s.add("white", 0.55 * flakes, "scale")
    s.add("keratin", 0.25 * flakes)


def _benign_keratosis(s: _Scene) -> None:
    """Sharply cut, waxy brown; ridges and fissures, white cysts and dark plugs."""
    rng = s.rng
    s.add("melanin", s.inside * rng.uniform(0.4, 0.75))
    s.add("keratin", 0.28 * s.inside)
    ridges = np.cos(2 * math.pi * s.noise(0.35, 1) * rng.uniform(0.9, 1.3))
    s.add("melanin", s.inside * 0.45 * np.clip(-ridges, -0.2, 1) ** 3, "ridges and fissures")
    s.add("white", 0.8 * s.spots(s.mask, int(rng.integers(10, 24)), (0.018, 0.035), 0.7), "milia-like cysts")
    s.globules(int(rng.integers(8, 20)), (0.02, 0.05), 1.1, "comedo-like openings")


def _dermatofibroma(s: _Scene) -> None:
    """A white scar in the middle of a faint brown ring with a delicate network."""
    rng = s.rng
    s.add("melanin", s.inside * rng.uniform(0.25, 0.4))
    s.add("blood", s.inside * rng.uniform(0.1, 0.25))
    s.network(0.085, 0.6 * (1 - s.core(0.7)), 0.24, 0.7, "delicate peripheral network")
    s.add("white", (0.7 + 0.1 * s.noise(0.2)) * s.core(rng.uniform(0.5, 0.7)), "central white patch")


def _vascular(s: _Scene) -> None:
    """Red, purple and almost black lakes of blood, parted by pale septa."""
    rng = s.rng
    near, border = s.cells(rng.uniform(0.20, 0.28), 0.9)
    lake = _ramp((border - 0.10) / 0.15)
    depth = np.clip(1.2 + 0.6 * s.noise(0.35), 0.4, 2.4)
    s.add("blood", s.inside * (0.4 + 1.2 * lake * depth), "lacunae")
    s.add("veil", 0.35 * s.inside * lake * np.clip(s.noise(0.4), 0, 1))
    s.add("white", 0.35 * s.inside * (1 - lake) * _ramp((0.8 - near) / 0.5 + 0.5), "whitish septa")


def _squamous(s: _Scene) -> None:
    """Red with a yellow-white mass of keratin in the middle, white circles and coiled vessels around it."""
    rng = s.rng
    s.add("blood", s.inside * rng.uniform(0.4, 0.65))
    s.add("white", 0.15 * s.inside)
    mass = s.core(rng.uniform(0.45, 0.65)) * np.clip(0.8 + 0.25 * s.noise(0.12), 0, 1)
    s.add("keratin", 0.85 * mass, "keratin mass")
    s.add("blood", 0.8 * s.spots(s.mask & (s.depth > 0.3), int(rng.integers(1, 5)), (0.03, 0.07), 0.3) * mass)
    near, _ = s.cells(0.17, 0.8)
    circles = np.exp(-(((near - 0.30) / 0.08) ** 2)) * s.inside * (1 - s.core(0.6))
    s.add("white", 0.7 * circles, "white circles")
    s.coil(int(rng.integers(14, 30)), 0.035, "coiled vessels")


_LESIONS: dict[str, Callable[[_Scene], None]] = {
    "MEL": _melanoma,
    "NV": _naevus,
    "BCC": _basal_cell,
    "AK": _actinic,
    "BKL": _benign_keratosis,
    "DF": _dermatofibroma,
    "VASC": _vascular,
    "SCC": _squamous,
}


# ---- the photograph ----------------------------------------------------------------------------------------------


def _reflectance(s: _Scene) -> Float[np.ndarray, "h w 3"]:
    """The colour of the skin: scatterers in the dermis, seen through blood and melanin."""
    rgb = np.broadcast_to(np.array([0.93, 0.78, 0.69], np.float32), (s.size, s.size, 3))
    veil = np.clip(s.veil, 0, 1)[..., None]
    rgb = rgb * (1 - veil) + _VEIL * veil
    rgb = rgb * np.exp(-np.clip(s.blood, 0, 4)[..., None] * _BLOOD)
    rgb = rgb * np.exp(-np.clip(s.melanin, 0, 4)[..., None] * _MELANIN * (1 - 0.55 * veil))
    for layer, colour in ((s.keratin, _KERATIN), (s.white, _WHITE)):
        share = np.clip(layer, 0, 0.9)[..., None]
        rgb = rgb * (1 - share) + colour * share * (1 - 0.35 * s.tone)
    return rgb


def _photograph(s: _Scene, device: Device, wanted: tuple[str, ...] | None) -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 [h w 3], and the mask of artifacts, uint8 [h w]."""
    rng, size = s.rng, s.size
    rgb = _reflectance(s)
    rates = dict(zip(("hair", "ruler", "ink", "bubble", "patch"), device.artifacts, strict=True)) | {
        "corner": device.corner
    }
    artifact = np.zeros((size, size), np.uint8)
    # Every artifact has its own numbers, so that asking for one doesn't move another.
    streams = dict(zip(ARTIFACTS, rng.spawn(len(ARTIFACTS)), strict=True))
    lens = rng.spawn(1)[0]
    for name, draw in (("patch", _patch), ("ink", _ink), ("ruler", _ruler), ("hair", _hair), ("bubble", _bubbles)):
        stream = streams[name]
        if (stream.random() < rates[name]) if wanted is None else name in wanted:
            colour, cover = draw(s, stream)
            rgb = rgb * (1 - cover[..., None]) + colour * cover[..., None]
            artifact[cover > 0.25] = ARTIFACTS.index(name) + 1
    radius = np.hypot(s.x, s.y)
    rgb = rgb * (1 - lens.uniform(*device.shading) * (radius / math.sqrt(2)) ** 2)[..., None]
    rgb = rgb * (1 + 0.06 * (s.x * lens.normal() + s.y * lens.normal()))[..., None]
    gain = np.array(device.gain) * np.exp(lens.normal(0, device.cast, 3)) * lens.uniform(0.88, 1.08)
    rgb = rgb * gain.astype(np.float32)
    corner = streams["corner"]
    if (corner.random() < rates["corner"]) if wanted is None else "corner" in wanted:
        edge = corner.uniform(0.98, 1.18)
        dark = _ramp((radius - edge) / corner.uniform(0.03, 0.15) + 0.5)
        rgb = rgb * (1 - dark[..., None]) + 0.03 * dark[..., None]
        artifact[dark > 0.5] = ARTIFACTS.index("corner") + 1
    blur = lens.uniform(*device.blur) * size / 256
    rgb = np.stack([_gauss(rgb[..., c], blur) for c in range(3)], -1)
    rgb += lens.uniform(*device.noise) * lens.standard_normal(rgb.shape).astype(np.float32)
    file = io.BytesIO()
    picture = Image.fromarray((np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8))
    picture.save(file, "JPEG", quality=int(lens.integers(*device.quality)))
    return np.array(Image.open(file).convert("RGB")), artifact


Cover = tuple[np.ndarray, Map]  # colour [3] or [h w 3], and coverage in [0, 1]


def _hair(s: _Scene, rng: np.random.Generator) -> Cover:
    """Dark or fair arcs that cross the picture."""
    lines = []
    lean = rng.uniform(0, 2 * math.pi)
    for _ in range(int(rng.integers(4, 22))):
        start, heading = rng.uniform(-1.1, 1.1, 2), lean + rng.normal(0, 0.6)
        bend, length = rng.normal(0, 0.9), rng.uniform(0.5, 1.8)
        t = np.linspace(0, 1, 20)
        angle = heading + bend * t
        path = start + np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1), 0) * length / 20
        lines.append((path, rng.uniform(0.010, 0.020)))
    fair = rng.random() < 0.15
    colour = np.array([0.75, 0.66, 0.50] if fair else [0.10, 0.07, 0.06], np.float32)
    return colour, 0.85 * s.strokes(lines)


def _ruler(s: _Scene, rng: np.random.Generator) -> Cover:
    """Ticks along one side, every fifth longer."""
    pitch, inset = rng.uniform(0.07, 0.12), rng.uniform(0.80, 0.95)
    lines: Lines = [(np.array([[-1.2, inset], [1.2, inset]]), 0.012)]
    first = rng.uniform(0, pitch)
    for k in range(round(2.4 / pitch)):
        x = -1.2 + first + k * pitch
        lines.append((np.array([[x, inset], [x, inset - (0.15 if k % 5 == 0 else 0.08)]]), 0.014))
    turn = int(rng.integers(4)) * math.pi / 2 + rng.normal(0, 0.04)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return np.array([0.10, 0.10, 0.12], np.float32), 0.9 * s.strokes([(p @ rotation, w) for p, w in lines])


def _ink(s: _Scene, rng: np.random.Generator) -> Cover:
    """Strokes of a surgical marker, beside or around the lesion."""
    lines = []
    for _ in range(int(rng.integers(1, 4))):
        start = (
            rng.uniform(0.5, 0.95) * np.array([rng.choice([-1, 1]), rng.uniform(-1, 1)])[:: int(rng.choice([-1, 1]))]
        )
        heading, t = rng.uniform(0, 2 * math.pi), np.linspace(0, rng.uniform(0.3, 0.9), 16)[:, None]
        wave = np.cumsum(rng.normal(0, 0.012, (16, 2)), 0)
        path = start + t * np.array([math.cos(heading), math.sin(heading)]) + wave
        lines.append((path, rng.uniform(0.05, 0.09)))
    colour = np.array([[0.30, 0.18, 0.55], [0.12, 0.22, 0.55], [0.10, 0.38, 0.40]][int(rng.integers(3))], np.float32)
    return colour, rng.uniform(0.6, 0.85) * s.strokes(lines)


def _bubbles(s: _Scene, rng: np.random.Generator) -> Cover:
    """Air in the gel: bright rings."""
    cover = np.zeros((s.size, s.size), np.float32)
    for _ in range(int(rng.integers(2, 9))):
        cx, cy = rng.uniform(-1, 1, 2)
        radius = rng.uniform(0.03, 0.10)
        distance = np.hypot(s.x - cx, s.y - cy)
        cover = np.maximum(cover, np.exp(-(((distance - radius) / 0.014) ** 2)))
    return np.array([0.97, 0.95, 0.93], np.float32), 0.7 * cover


def _patch(s: _Scene, rng: np.random.Generator) -> Cover:
    """A coloured sticker at the side of the picture."""
    turn = rng.uniform(0, 2 * math.pi)
    cx, cy = 1.05 * math.cos(turn), 1.05 * math.sin(turn)
    colour = np.array([[0.15, 0.55, 0.75], [0.90, 0.75, 0.15], [0.25, 0.65, 0.30], [0.85, 0.35, 0.20]], np.float32)
    disc = _ramp((rng.uniform(0.25, 0.42) - np.hypot(s.x - cx, s.y - cy)) / 0.02 + 0.5)
    return colour[int(rng.integers(4))], disc


def _ramp(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0, 1).astype(np.float32)
    return x * x * (3 - 2 * x)


def _gauss(image: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image.astype(np.float32), sigma, truncate=3.0)
