"""A procedural colour fundus photograph with exact vessel masks.

The eye is built first, in disc diameters (vessel trees, disc, macula, lesions), then photographed: pigmentation,
choroid, illumination, field of view, optics, sensor and file format vary from seed to seed. Blood is drawn by
Beer-Lambert absorption along the line of sight, so thin vessels are faint and wide ones saturate, as in real eyes.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from zoo.data.case import Case
from zoo.data.phantoms.texture import check_size
from zoo.data.phantoms.vessels import FOVEA, Drawing, draw, grow_tree
from zoo.errors import DataError

DISEASES = ("healthy", "amd", "diabetic")


@dataclass(frozen=True)
class Style:
    """What one kind of camera does to the picture. Pairs are ranges to draw from."""

    field: tuple[float, float]  # diameter of the field of view, DD (7.4 DD is about 45 degrees)
    clip: float  # probability that top and bottom of the circle are cut off
    blur: tuple[float, float]  # standard deviation of the optics, px at 576 px
    noise: tuple[float, float]  # of the sensor, grey levels out of 1
    quality: tuple[int, int]  # JPEG
    shading: tuple[float, float]  # loss of light towards the border
    haze: tuple[float, float]  # stray light
    sharpen: float = 0.0  # probability of in-camera sharpening


STYLES: dict[str, Style] = {
    "clinic": Style((6.8, 8.6), 0.25, (0.4, 0.9), (0.002, 0.010), (85, 97), (0.05, 0.35), (0.0, 0.08), 0.5),
    "screening": Style((6.5, 9.0), 0.6, (0.5, 1.2), (0.006, 0.020), (70, 92), (0.10, 0.50), (0.0, 0.15), 0.4),
    "handheld": Style((4.8, 7.5), 0.1, (0.9, 1.9), (0.010, 0.035), (55, 88), (0.20, 0.60), (0.05, 0.30), 0.2),
    "film": Style((5.2, 8.0), 0.5, (0.7, 1.4), (0.015, 0.040), (75, 95), (0.10, 0.45), (0.0, 0.20), 0.0),
    "wide": Style((8.5, 11.5), 0.1, (0.4, 1.0), (0.004, 0.018), (75, 95), (0.15, 0.55), (0.0, 0.15), 0.4),
}


def fundus(seed: int, *, size: int = 576, style: str | None = None, disease: str | None = None) -> Case:
    """Colour fundus photograph: vessels, optic disc, macula, lesions, five kinds of camera.

    Args:
        seed: the phantom is a pure function of it and the options.
        size: width and height of the square image, px (128 to 2048).
        style: a camera of ``STYLES``; drawn from the seed when not given.
        disease: ``healthy``, ``amd`` (drusen) or ``diabetic`` (haemorrhages, microaneurysms, exudates); drawn from
            the seed when not given, half of the eyes being healthy.

    Returns:
        A case with a uint8 [h w 3] image and uint8 [h w] masks (0 or 1): ``mask`` (all vessels), ``artery``,
        ``vein``, ``disc`` and ``fov``. Vessels are marked inside the field of view only.

    Raises:
        DataError: an option is out of its range.
    """
    check_size("fundus", size, 128, 2048)
    for name, value, known in (("style", style, tuple(STYLES)), ("disease", disease, DISEASES)):
        if value is not None and value not in known:
            raise DataError(f"the fundus phantom has no {name} {value!r}; choose one of {', '.join(known)}")
    rng = np.random.default_rng([0xF0D5, seed])
    style_name, disease_name = str(rng.choice(list(STYLES))), str(rng.choice(DISEASES, p=[0.5, 0.2, 0.3]))
    style_name, disease_name = style or style_name, disease or disease_name

    scene = _Scene(rng, STYLES[style_name], size)
    scene.lay_background()
    scene.lay_disc()
    if disease_name != "healthy":
        scene.lay_lesions(disease_name)
    scene.lay_vessels()
    scene.light()
    image = scene.photograph()

    inside = {name: (drawing.inside > 0) & scene.fov for name, drawing in scene.trees.items()}
    masks = {
        "mask": inside["artery"] | inside["vein"],
        **inside,
        "disc": scene.disc_mask & scene.fov,
        "fov": scene.fov,
    }
    attributes: dict[str, Any] = {
        "patient": f"phantom-{seed}",
        "style": style_name,
        "disease": disease_name,
        "eye": "left" if scene.mirrored else "right",
        "field_dd": round(scene.field, 2),
    }
    return Case(image, f"fundus-{seed}", {k: v.astype(np.uint8) for k, v in masks.items()}, None, attributes)


class _Scene:
    """The eye and its camera while the picture is being made. ``rgb`` is reflected light, float [h w 3]."""

    def __init__(self, rng: np.random.Generator, style: Style, size: int) -> None:
        self.rng, self.style, self.size = rng, style, size
        self.unit = size / 576  # px of the reference size
        self.field = rng.uniform(*style.field)
        self.diameter = size * rng.uniform(0.88, 1.06)
        px_per_dd = self.diameter / self.field
        self.mirrored = bool(rng.random() < 0.5)
        turn = np.exp(1j * rng.normal(0, 0.08))
        # The picture is centred on the macula, between macula and disc, or on the disc; the disc stays in view.
        macula, between, disc = rng.uniform(0.8, 1.15), rng.uniform(0.2, 0.8), rng.uniform(-0.1, 0.2)
        gaze = (
            rng.choice([macula, between, disc], p=[0.5, 0.35, 0.15]) * FOVEA
            + rng.normal(0, 0.2)
            + 1j * rng.normal(0, 0.25)
        )
        gaze *= min(1.0, (self.field / 2 - 0.75) / abs(gaze))
        centre = size / 2 + rng.normal(0, 0.01 * size) + 1j * (size / 2 + rng.normal(0, 0.01 * size))
        flipped = -gaze.conjugate() if self.mirrored else gaze
        self.to_pixel = (complex(centre - px_per_dd * turn * flipped), complex(px_per_dd * turn), self.mirrored)
        y, x = np.mgrid[:size, :size].astype(np.float32)
        pixel = x + np.complex64(1j) * y
        at = (pixel - self.to_pixel[0]) / self.to_pixel[1]
        self.at = -at.conj() if self.mirrored else at  # where each pixel looks, DD
        from_centre = (pixel - complex(centre)) / (self.diameter / 2)
        self.eccentricity = np.abs(from_centre)  # 1 at the border of the field
        self.direction = np.angle(from_centre)
        self.fov = self._field_of_view(from_centre)
        self.trees: dict[str, Drawing] = {}

    def _field_of_view(self, p: np.ndarray) -> np.ndarray:
        rng = self.rng
        fov = np.abs(p) < 1
        if rng.random() < self.style.clip:
            top, bottom = rng.uniform(0.7, 0.97, 2)
            fov &= (p.imag > -top) & (p.imag < bottom)
        if rng.random() < 0.35:  # the tab, or the notch, that tells which way is up
            q = p * np.exp(-1j * rng.uniform(0, 2 * math.pi))
            width, depth = rng.uniform(0.03, 0.06), rng.uniform(0.04, 0.08)
            tab = (np.abs(q.imag) < width) & (q.real > 0.9) & (q.real < 1 + depth)
            fov = fov | tab if rng.random() < 0.6 else fov & ~(tab & (q.real > 1 - depth))
        return fov

    def noise(self, scale: float, octaves: int = 1) -> Float[np.ndarray, "h w"]:
        """Smooth noise of unit variance; ``scale`` is the size of its grains in px at 576 px."""
        total = np.zeros((self.size, self.size), dtype=np.float32)
        for octave in range(octaves):
            n = max(2, round(self.size / (scale * self.unit / 2**octave))) + 2
            coarse = self.rng.standard_normal((n, n)).astype(np.float32)
            fine = np.asarray(Image.fromarray(coarse).resize((self.size, self.size), Image.Resampling.BICUBIC))
            total += fine * 0.6**octave
        return total / max(float(total.std()), 1e-6)

    def lay_background(self) -> None:
        """Retina over pigment epithelium over choroid, and the macula."""
        rng = self.rng
        pigment = rng.uniform(0, 1)  # 0 lightly, 1 heavily pigmented
        red = rng.uniform(0.62, 0.98) * (1 - 0.35 * pigment)
        green = red * rng.uniform(0.30, 0.62) * (1 - 0.15 * pigment)
        base = np.array([red, green, green * rng.uniform(0.25, 0.85)], dtype=np.float32)
        mottle = 0.05 * rng.uniform(0.3, 1.6) * self.noise(120, 2) + 0.02 * rng.uniform(0.2, 1.8) * self.noise(14, 3)
        mottle += 0.02 * rng.uniform(0.0, 1.5) * self.noise(rng.uniform(3, 6))
        tint = 0.03 * self.noise(160)
        rgb = base * (1 + mottle)[..., None]
        rgb[..., 0] *= 1 - tint
        rgb[..., 1] *= 1 + tint
        # Choroidal vessels shine through a thin pigment epithelium: broad, orange, blurred bands.
        show = rng.uniform(0, 0.16) * (1 - pigment) + (0.06 * rng.random() if rng.random() < 0.3 else 0)
        bands = np.exp(-((self.noise(rng.uniform(22, 40)) / 0.35) ** 2)) * np.clip(0.4 + 0.6 * self.noise(150), 0, 1.5)
        outer = np.clip(np.abs(self.at - FOVEA) - 0.9, 0, 1)
        rgb *= 1 + (show * (bands - 0.3) * outer)[..., None] * np.array([0.6, 1.0, 0.6], dtype=np.float32)
        # Nerve fibres: fine bright streaks that leave the disc along the arcades.
        if rng.random() < 0.7:
            rgb += self._nerve_fibres(rng.uniform(0.02, 0.14))[..., None] * np.array([0.5, 1.0, 0.9]) * base[1]
        d2 = np.abs(self.at - FOVEA - complex(*rng.normal(0, 0.05, 2))) ** 2
        dark = rng.uniform(0.1, 0.45) * np.exp(-d2 / (2 * rng.uniform(0.25, 0.5) ** 2))
        dark += rng.uniform(0.0, 0.2) * np.exp(-d2 / (2 * rng.uniform(0.7, 1.2) ** 2))
        rgb *= 1 - dark[..., None] * np.array([0.35, 1.0, 1.0], dtype=np.float32)
        if rng.random() < 0.35:  # reflex of the foveal pit and of its wall in young eyes
            rgb += (rng.uniform(0, 0.12) * np.exp(-d2 / 0.05**2))[..., None]
            ring = np.exp(-(((np.sqrt(d2) - rng.uniform(0.5, 0.75)) / 0.12) ** 2))
            rgb += (rng.uniform(0, 0.05) * ring * np.clip(self.noise(50), 0, 2))[..., None]
        self.rgb = rgb.astype(np.float32)
        self.base = base

    def _nerve_fibres(self, strength: float) -> np.ndarray:
        rng = self.rng
        angle, distance = np.angle(self.at), np.abs(self.at)
        # Fibres curve around the fovea: bend the angle with the distance on the temporal side.
        bent = angle - 0.45 * np.sign(angle) * np.exp(-(np.abs(angle) ** 2)) * np.minimum(distance, 3) / 3
        table = rng.standard_normal((260, 6)).astype(np.float32)
        u = ((bent + math.pi) / (2 * math.pi) * 259).astype(np.float32)
        v = np.clip(distance, 0, 4.9)
        i, j = u.astype(int) % 259, v.astype(int)
        fu, fv = u - np.floor(u), v - np.floor(v)
        streaks = (table[i, j] * (1 - fu) + table[i + 1, j] * fu) * (1 - fv)
        streaks += (table[i, j + 1] * (1 - fu) + table[i + 1, j + 1] * fu) * fv
        poles = np.abs(np.sin(angle)) ** 2
        return strength * np.clip(streaks + 0.6, 0, None) * poles * np.exp(-distance / 1.1)

    def lay_disc(self) -> None:
        """Optic disc with cup, rim, and the changes of the tissue around it."""
        rng = self.rng
        shape = rng.uniform(0.40, 0.56), rng.uniform(0.46, 0.6)
        p = self.at * np.exp(1j * rng.normal(0, 0.15))
        angle = np.angle(p)
        wave = 1 + 0.03 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.02 * np.sin(3 * angle + rng.uniform(0, 6))
        r = np.hypot(p.real / shape[0], p.imag / shape[1]) * wave
        self.disc_mask = r < 1
        edge = rng.uniform(0.025, 0.10)
        base = self.base
        if rng.random() < 0.7:  # bright, or dark, ring or crescent of bare sclera and heaped pigment
            width = rng.uniform(0.08, 0.4)
            facing = 0.5 + 0.5 * np.cos(angle - rng.normal(0, 0.6))
            crescent = _ramp((1 + width * facing - r) / 0.06) * _ramp((r - 0.97) / 0.05)
            self._blend(crescent * rng.uniform(0.1, 0.6), base * rng.uniform(1.1, 1.8) + rng.uniform(0, 0.1))
            if rng.random() < 0.7:
                rim = np.exp(-(((r - 1 - rng.uniform(0.02, 1) * width * facing) / rng.uniform(0.03, 0.10)) ** 2))
                clumps = np.clip(self.noise(rng.uniform(6, 14)) + rng.uniform(-0.6, 1.2), 0, 1.4) * facing**2
                pigment = base * rng.uniform(0.2, 0.6) * np.array([0.8, 1.0, 1.1])
                self._blend(np.clip(rim * clumps * rng.uniform(0.3, 1.0), 0, 0.9), pigment)
        if rng.random() < 0.5:  # halo
            self._blend(rng.uniform(0.05, 0.3) * np.exp(-np.clip(r - 1, 0, None) / 0.35), base * 1.4)
        red = min(1.0, base[0] * rng.uniform(1.02, 1.35))
        rim_colour = np.array([red, red * rng.uniform(0.55, 0.85), red * rng.uniform(0.3, 0.62)])
        self._blend(_ramp((1 - r) / edge) * rng.uniform(0.75, 1.0), rim_colour)
        cup_size = rng.uniform(0.25, 0.75)
        cup = np.hypot(p.real / shape[0] - rng.uniform(0, 0.22), p.imag / shape[1] - rng.normal(0, 0.05)) / cup_size
        cup_colour = np.clip(rim_colour * rng.uniform(1.05, 1.3) + np.array([0, 0.12, 0.15]) * rng.random(), 0, 1.1)
        self._blend(_ramp((1 - cup) / rng.uniform(0.15, 0.7)) * rng.uniform(0.4, 1.0), cup_colour)

    def _blend(self, alpha: np.ndarray, colour: np.ndarray) -> None:
        self.rgb += alpha[..., None].astype(np.float32) * (np.asarray(colour, dtype=np.float32) - self.rgb)

    def lay_vessels(self) -> None:
        """Grow and draw veins, then arteries over them."""
        rng = self.rng
        tortuosity = float(np.clip(rng.lognormal(-0.1, 0.4), 0.3, 2.5))
        density = rng.uniform(0.65, 1.3)
        width = rng.uniform(0.040, 0.056)
        blood = np.array([rng.uniform(0.05, 0.22), rng.uniform(0.5, 1.05), rng.uniform(0.25, 0.8)])
        reach = self.field + 1.5
        px_per_dd = abs(self.to_pixel[1])
        gleam = rng.uniform(0.0, 0.5) if rng.random() < 0.7 else 0.0
        beside = rng.choice([rng.uniform(0.8, 0.93), rng.uniform(1.07, 1.2)])
        for name in ("vein", "artery"):
            artery = name == "artery"
            tree = grow_tree(
                rng,
                radius=width * (rng.uniform(0.62, 0.9) if artery else 1.0),
                tortuosity=tortuosity * (0.8 if artery else 1.0),
                density=density,
                reach=reach,
                r_min=max(0.0075, 0.5 / px_per_dd),
                spread=float(beside) if artery else 1.0,
            )
            drawing = draw(tree, (self.size, self.size), self.to_pixel)
            self.trees[name] = drawing
            depth = (_gauss(drawing.depth, 0.35 * self.unit) / px_per_dd / 0.1) ** 0.75  # 1 for a wide vein
            k = blood * (np.array([0.6, 0.8, 0.7]) if artery else 1.0) * rng.uniform(0.9, 1.1)
            patchy = np.clip(1 + 0.12 * self.noise(40), 0.6, 1.4)
            self.rgb *= np.exp(-(k * (depth * patchy)[..., None])).astype(np.float32)
            # Light thrown back by the blood column: a steady stripe on arteries, broken dashes on veins.
            gleaming = np.clip(0.8 + 0.3 * self.noise(20) if artery else self.noise(9), 0, 2)
            reflex = (gleam * (0.5 if artery else 0.3) * (drawing.ridge * gleaming)).astype(np.float32)
            self.rgb += reflex[..., None] * np.array([0.35, 0.32, 0.2], dtype=np.float32)
            if rng.random() < 0.3:  # bright sheath of the inner limiting membrane beside the vessel
                wall = np.exp(-(((drawing.inside + 1.0) / 0.5) ** 2)) * np.clip(self.noise(12) - 0.3, 0, 2)
                wall *= _gauss((drawing.depth > 3).astype(np.float32), 2)
                self.rgb += (rng.uniform(0, 0.08) * wall)[..., None].astype(np.float32)

    def lay_lesions(self, disease: str) -> None:
        """What disease leaves behind the vessels."""
        rng, base = self.rng, self.base
        yellow = np.clip(base * np.array([1.15, 1.9, 1.5]) + rng.uniform(0, 0.12), 0, 1)
        dark = base * np.array([0.62, 0.30, 0.35]) * rng.uniform(0.8, 1.2)
        if disease == "amd":
            for _ in range(rng.integers(10, 90)):
                self._spot(FOVEA + complex(*rng.normal(0, 0.65, 2)), rng.uniform(0.02, 0.09), yellow, 0.5, soft=0.8)
            if rng.random() < 0.3:
                self._spot(FOVEA + complex(*rng.normal(0, 0.3, 2)), rng.uniform(0.3, 0.8), base * 1.35, 0.5, soft=0.15)
            for _ in range(rng.integers(0, 12)):
                self._spot(FOVEA + complex(*rng.normal(0, 0.6, 2)), rng.uniform(0.02, 0.06), base * 0.4, 0.6, soft=0.6)
            return
        for _ in range(rng.integers(0, 4)):  # exudates come in clusters, often a ring around a leak
            centre, ring = 0.8 * FOVEA + complex(*rng.normal(0, 1.1, 2)), rng.uniform(0.1, 0.45)
            for _ in range(rng.integers(5, 30)):
                spot = centre + ring * np.exp(1j * rng.uniform(0, 6.3)) * rng.uniform(0.7, 1.2)
                self._spot(spot, rng.uniform(0.012, 0.05), yellow, 0.85, soft=0.3)
        for _ in range(rng.integers(0, 4)):  # cotton-wool spots
            spot = complex(*rng.normal(0.6, 1.6, 2))
            self._spot(spot, rng.uniform(0.08, 0.22), np.minimum(base * 1.6 + 0.15, 1), 0.6, soft=0.9)
        for _ in range(rng.integers(3, 60)):  # microaneurysms and dots
            self._spot(complex(*rng.normal(1.2, 1.7, 2)), rng.uniform(0.010, 0.028), dark, 0.75, soft=0.5)
        for _ in range(rng.integers(0, 16)):  # blot haemorrhages
            self._spot(complex(*rng.normal(1.2, 1.7, 2)), rng.uniform(0.03, 0.16), dark, 0.85, soft=0.4)
        for _ in range(rng.integers(0, 10)):  # flame haemorrhages follow the nerve fibres
            spot = complex(*rng.normal(0.3, 1.2, 2))
            self._spot(spot, rng.uniform(0.025, 0.07), dark, 0.8, soft=0.8, length=rng.uniform(2, 6))

    def _spot(
        self, at: complex, radius: float, colour: np.ndarray, alpha: float, *, soft: float, length: float = 1
    ) -> None:
        """A blotch with a ragged outline; ``length`` stretches it away from the disc."""
        origin, scale, mirrored = self.to_pixel
        p = origin + scale * (-at.conjugate() if mirrored else at)
        px = max(radius * abs(scale), 0.6)
        k = int(px * length * 1.8 + 3)
        x0, y0 = int(p.real), int(p.imag)
        if not (k < x0 < self.size - k - 1 and k < y0 < self.size - k - 1):
            return
        window = np.s_[y0 - k : y0 + k + 1, x0 - k : x0 + k + 1]
        q = (self.at[window] - at) * abs(scale) * np.exp(-1j * np.angle(at))
        phase, waves = np.angle(q), self.rng.uniform(0, 6.3, 3)
        ragged = 1 + 0.15 * np.sin(2 * phase + waves[0]) + 0.12 * np.sin(3 * phase + waves[1])
        ragged += 0.08 * np.sin(5 * phase + waves[2])
        r = np.hypot(q.real / length, q.imag) / px * ragged
        weight = alpha * self.rng.uniform(0.5, 1) * _ramp((1 - r) / soft + 0.5)
        self.rgb[window] += weight[..., None].astype(np.float32) * (colour.astype(np.float32) - self.rgb[window])

    def light(self) -> None:
        """Uneven illumination, stray light at the border, ghosts of the lens."""
        rng, style = self.rng, self.style
        slope = rng.uniform(0, 0.3) * self.eccentricity * np.cos(self.direction - rng.uniform(0, 6.3))
        fall = rng.uniform(*style.shading) * self.eccentricity ** rng.uniform(2, 4)
        self.rgb *= np.clip((1 - fall) * (1 + slope) * (1 + 0.06 * self.noise(250)), 0.12, 2)[..., None]
        haze = rng.uniform(*style.haze)
        colour = np.array([rng.uniform(0.6, 1), rng.uniform(0.45, 0.75), rng.uniform(0.3, 0.8)], dtype=np.float32)
        veil = haze * (0.5 + 0.5 * np.clip(self.noise(300), -1, 1.5))
        if rng.random() < 0.45:  # bright crescent where the pupil cuts the light
            side = np.clip(np.cos(self.direction - rng.uniform(0, 6.3)), 0, 1) ** rng.uniform(1, 4)
            veil += rng.uniform(0.1, 0.7) * side * _ramp((self.eccentricity - rng.uniform(0.75, 0.95)) / 0.2)
        if rng.random() < 0.25:
            veil += rng.uniform(0.05, 0.3) * np.exp(-(((1 - self.eccentricity) / rng.uniform(0.01, 0.06)) ** 2))
        self.rgb += np.clip(veil, 0, 0.8)[..., None] * (colour - self.rgb * 0.7)

    def photograph(self) -> np.ndarray:
        """Exposure, optics, sensor and file: uint8 [h w 3]."""
        rng, style = self.rng, self.style
        rgb = np.clip(self.rgb, 0, None)
        blur = rng.uniform(*style.blur) * self.unit
        frame = _gauss(self.fov.astype(np.float32), rng.uniform(0.3, 1.6) * self.unit)[..., None]
        rgb = np.stack([_gauss(rgb[..., c], blur * rng.uniform(0.9, 1.15)) for c in range(3)], -1) * frame
        exposure = rng.uniform(0.75, 1.2) / max(float(np.percentile(rgb[self.fov].max(-1), 97)), 0.2)
        rgb = 1.02 * (rgb * exposure) / (1 + (rgb * exposure) ** 6) ** (1 / 6)  # soft clipping of the sensor
        rgb = rgb ** rng.uniform(0.8, 1.3)
        grey = rgb.mean(-1, keepdims=True)
        rgb = grey + (rgb - grey) * rng.uniform(0.75, 1.15)
        if rng.random() < style.sharpen:
            soft = np.stack([_gauss(rgb[..., c], 1.5 * self.unit) for c in range(3)], -1)
            rgb += rng.uniform(0.2, 0.9) * (rgb - soft)
        grain: np.ndarray = rng.standard_normal((self.size, self.size, 3)).astype(np.float32)
        if rng.random() < 0.5:  # demosaicing correlates neighbours
            grain = 1.8 * np.stack([_gauss(grain[..., c], 0.7) for c in range(3)], -1)
        rgb += rng.uniform(*style.noise) * grain * (0.35 + 0.65 * np.sqrt(np.clip(rgb, 0, 1))) * (0.15 + 0.85 * frame)
        rgb += rng.uniform(0, 0.02) * (1 - frame)
        pixels = np.clip(rgb * 255 + 0.5, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(rng.integers(*style.quality)))
        return np.array(Image.open(buffer).convert("RGB"))


def _ramp(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _gauss(image: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image.astype(np.float32), sigma, truncate=3.0)
