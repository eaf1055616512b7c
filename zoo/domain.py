"""What the training images of weights were like, and whether an image is one of their kind.

A network answers whatever it is shown. So weights carry a ``domain.json``: mean and shrunk covariance of cheap
statistics of the training images (:func:`statistics`) and, where the model gives them, of the network's features. How
far new images of the same kind lie from these is measured on images that the mean and covariance were not made of.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image as PILImage

from zoo import media
from zoo.errors import MediaError, WeightsError
from zoo.media import Image
from zoo.media.doubts import require_content
from zoo.text import listed, strict_json

SHARE = 0.001  # of the images of the training's kind that are called unlike them
SIDE = 32  # px: statistics are of the picture at this size, so that resolution hardly matters
SLICES = 5  # of a volume
AXES = 32  # of features, at most; what lies beside them counts by its length
FOLDS = 10
MINIMUM = 20  # images: from fewer nothing is said
MAX_BYTES = 16 << 20
FORMAT = 1  # another one wherever MEASURES change

# What is measured, what a person calls it, and the size of a difference that one would see.
MEASURES: tuple[tuple[str, str, float], ...] = (
    ("luminance", "brightness", 0.1),
    ("dark end", "brightness", 0.1),
    ("bright end", "brightness", 0.1),
    ("black share", "black and white areas", 0.1),
    ("white share", "black and white areas", 0.1),
    ("contrast", "contrast", 0.3),
    ("red to green", "colour", 0.1),
    ("blue to green", "colour", 0.1),
    ("spread of red against green", "colour", 0.02),
    ("spread of blue against yellow", "colour", 0.02),
    ("saturation", "colour", 0.1),
    ("border", "border and ground", 0.1),
    ("corners", "border and ground", 0.1),
    ("spread of the border", "border and ground", 0.1),
    ("centre", "border and ground", 0.1),
    ("coarse structure", "texture", 0.3),
    ("middling structure", "texture", 0.3),
    ("fine structure", "texture", 0.3),
    ("sharpness", "sharpness", 0.3),
    ("edges", "sharpness", 0.3),
    ("direction", "texture", 0.3),
    ("left and right alike", "shape", 0.2),
    ("top and bottom alike", "shape", 0.2),
)
FLOOR = 0.1  # in these differences: no kind of image is narrower, so that a tint doesn't make a grey image a stranger


def statistics(image: Image) -> Float[np.ndarray, " p"]:
    """The ``MEASURES`` of a 2-D image, each in units of a difference that one would see."""
    step = max(1, min(image.size) // (8 * SIDE))
    rgb = np.round(255 * replace(image, array=image.array[::step, ::step]).rgb()).astype(np.uint8)
    picture = PILImage.fromarray(rgb).resize((SIDE, SIDE), PILImage.Resampling.BOX)
    rgb = np.asarray(picture, np.float32) / 255
    grey = rgb.mean(-1)
    red, blue = rgb[..., 0] - rgb[..., 1], rgb[..., 2] - rgb[..., :2].mean(-1)
    edge = SIDE // 16
    inner = np.zeros((SIDE, SIDE), bool)
    inner[edge:-edge, edge:-edge] = True
    border, corner = grey[~inner], np.concatenate([grey[y, x] for y in _ENDS for x in _ENDS], None)
    middle = grey[SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4]
    power = np.abs(np.fft.fft2((grey - grey.mean()) * _WINDOW)) ** 2 / SIDE**2
    rings = [float(power[(low <= _RADIUS) & (high > _RADIUS)].mean()) for low, high in ((1, 3), (3, 6), (6, 11))]
    dy, dx = np.abs(np.diff(grey, axis=0)), np.abs(np.diff(grey, axis=1))
    low, high = np.percentile(grey, (5, 95))
    values = [
        grey.mean(), low, high, math.sqrt((grey < 0.04).mean()), math.sqrt((grey > 0.96).mean()), _log(grey.std()),
        *(_log(rgb[..., c].mean()) - _log(rgb[..., 1].mean()) for c in (0, 2)),
        red.std(), blue.std(), (rgb.max(-1) - rgb.min(-1)).mean(),
        border.mean(), corner.mean(), border.std(), middle.mean() - border.mean(),
        *(_log(math.sqrt(ring)) for ring in rings),
        _log(dx.mean() + dy.mean()), _log(np.percentile(dx, 99) + np.percentile(dy, 99)),
        _log(dx.mean()) - _log(dy.mean()), _alike(grey, grey[:, ::-1]), _alike(grey, grey[::-1]),
    ]  # fmt: skip
    return np.array(values, np.float64) / np.array([unit for _, _, unit in MEASURES])


_ENDS = (slice(None, SIDE // 8), slice(-SIDE // 8, None))
_HANN = np.hanning(SIDE + 2)[1:-1]
_WINDOW = np.outer(_HANN, _HANN)
_RADIUS = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIDE, 1 / SIDE)] * 2))


def _log(value: Any) -> float:
    return math.log(float(value) + 0.003)  # about a level of 8 bits


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a - a.mean()) * (b - b.mean())).mean() / (a.var() + 1e-4))


def pictures(case: Any) -> Iterator[Image]:
    """The 2-D images of an image, a volume (``SLICES`` of it) or a case; those that show nothing are left out."""
    if isinstance(case, Image):
        if case.ndim_spatial == 2:
            yield case
            return
        volume = Image(case.axial(case.unit()), case.source, ndim_spatial=3)
        for z in np.unique(np.linspace(0, volume.size[0] - 1, SLICES + 2).round().astype(int)[1:-1]):
            yield volume.plane(int(z))
        return
    for one in getattr(case, "images", ()):
        try:
            yield require_content(media.read(one.image).require_2d())
        except MediaError:  # the plugin says so
            continue


@dataclass(frozen=True)
class Cloud:
    """Vectors by mean and shrunk covariance, and how far held-out ones lie from it.

    ``axes``: orthonormal, each with its standard deviation in ``spread``; ``rest``: the standard deviation along all
    others. Beyond the distance ``start`` lies a tenth of the held-out vectors, ``scale`` further on average (taken at
    the upper end of its 95 % interval, so that few images make the limit wide).
    """

    mean: Float[np.ndarray, " p"]
    axes: Float[np.ndarray, "k p"]
    spread: Float[np.ndarray, " k"]
    rest: float
    start: float = 0.0
    scale: float = 0.0

    @classmethod
    def of(cls, x: Float[np.ndarray, "n p"], floor: float) -> Cloud:
        """Mean and covariance, shrunk to its mean variance as the number of images asks for; not yet calibrated."""
        n, p = x.shape
        mean = x.mean(0)
        _, values, axes = np.linalg.svd(x - mean, full_matrices=False)
        variance = values**2 / max(n - 1, 1)
        total, k = variance.sum() / p, min(AXES, p, max(1, n // 4))
        weight = min(1.0, k / (k + n))
        rest = (variance[k:].sum() / (p - k)) if p > k else 0.0
        spread = (1 - weight) * variance[:k] + weight * total
        small = max(floor**2, 1e-3 * total, 1e-12)
        return cls(mean, axes[:k], np.sqrt(spread + small), math.sqrt(rest + small))

    @classmethod
    def calibrated(cls, x: Float[np.ndarray, "n p"], floor: float) -> Cloud:
        """Of all vectors, its tail by those that each of ``FOLDS`` clouds was not made of."""
        places = np.arange(len(x)) % FOLDS
        away = np.concatenate([cls.of(x[places != k], floor).distance(x[places == k]) for k in range(FOLDS)])
        start = float(np.quantile(away, 0.9))
        beyond = away[away > start] - start
        m = max(len(beyond), 1)
        # the 5 % point of chi-squared with 2m degrees, by Wilson and Hilferty
        chi2 = 2 * m * (1 - 1 / (9 * m) - 1.645 / (3 * math.sqrt(m))) ** 3
        return replace(cls.of(x, floor), start=start, scale=2 * float(beyond.sum()) / chi2 + 1e-6)

    def distance(self, x: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        """Mahalanobis', over the root of the number of dimensions."""
        d = x - self.mean
        along = d @ self.axes.T
        beside = np.clip((d**2).sum(1) - (along**2).sum(1), 0, None) / self.rest**2
        if len(self.axes) == x.shape[1]:
            beside = np.zeros(len(x))
        return np.sqrt((((along / self.spread) ** 2).sum(1) + beside) / x.shape[1])

    def variances(self) -> Float[np.ndarray, " p"]:
        """Along each dimension."""
        inside = (self.axes**2).sum(0)
        return (self.axes**2 * self.spread[:, None] ** 2).sum(0) + np.clip(1 - inside, 0, None) * self.rest**2

    def farther(self, x: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        """The share of images of the kind that lie farther out, by an exponential tail; 1 / 10 for the nearer ones."""
        return 0.1 * np.exp(-np.clip((self.distance(x) - self.start) / self.scale, 0, 700))


@dataclass(frozen=True)
class Domain:
    """The kind of images that weights were trained on. ``images``: how many it is known by."""

    statistics: Cloud
    features: Cloud | None
    images: int

    @classmethod
    def of(cls, statistics: Float[np.ndarray, "n p"], features: Float[np.ndarray, "n f"] | None) -> Domain | None:
        """From what was measured on each image; ``None`` for fewer than ``MINIMUM``."""
        if len(statistics) < MINIMUM:
            return None
        clouds = Cloud.calibrated(statistics, FLOOR), None if features is None else Cloud.calibrated(features, 0.0)
        return cls(*clouds, len(statistics))

    def judge(self, statistics: Float[np.ndarray, "n p"], features: Float[np.ndarray, "n f"] | None) -> Verdict:
        """Of the images of one case. The more there are, the farther out the farthest may lie."""
        shares = [self.statistics.farther(statistics)]
        if self.features is not None and features is not None:
            if features.shape[1] != len(self.features.mean):
                raise WeightsError("the domain stated beside these weights is of another network; get the files again")
            shares.append(self.features.farther(features))
        share = np.min(shares, axis=0) * len(shares)
        odd = np.flatnonzero(share * len(share) < SHARE)
        cloud, worst = self.statistics, int(share.argmin())
        steps = np.abs(statistics[worst] - cloud.mean) / np.sqrt(np.maximum(cloud.variances(), FLOOR**2))
        by_statistics = shares[0][worst] <= shares[-1][worst]
        reason = MEASURES[int(steps.argmax())][1] if by_statistics else "what the network makes of it"
        return Verdict(tuple((odd + 1).tolist()), len(share), reason, self.images)

    def to_json(self) -> str:
        clouds = {"statistics": self.statistics, "features": self.features}
        record = {"format": FORMAT, "images": self.images, **{k: v and _plain(v) for k, v in clouds.items()}}
        return json.dumps(record) + "\n"


@dataclass(frozen=True)
class Verdict:
    """Whether the images of one case are of the kind that weights were trained on.

    ``odd``: the numbers, from 1, of those that are not, among ``count``; ``reason``: what the strangest differs in
    most; ``images``: how many images the kind is known by.
    """

    odd: tuple[int, ...]
    count: int
    reason: str
    images: int

    @property
    def unlike(self) -> bool:
        return bool(self.odd)

    def sentence(self) -> str:
        """What a person is told of an unlike case."""
        which = "" if self.count == 1 else f"{listed([str(n) for n in self.odd[:8]], 'and')} of {self.count} images: "
        far = f"beyond {1 - SHARE:.1%} of them"
        if self.images < 1 / SHARE:
            far += f", extrapolated from {self.images}"
        return f"{which}unlike the training images ({far}), most in {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "unlike_training_images": self.unlike,
            "beyond_share_of_them": 1 - SHARE,
            "known_by_images": self.images,
            "images": self.count,
            "odd_images": list(self.odd),
            "differs_most_in": self.reason if self.unlike else None,
        }


def read(path: Path) -> Domain | None:
    """The domain beside weights; ``None`` where there is none. Raises ``WeightsError`` for one that can't be read."""
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
        record = strict_json(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError("it is of another release")
        statistics = _cloud(record["statistics"])
        features = None if record["features"] is None else _cloud(record["features"])
        if len(statistics.mean) != len(MEASURES):
            raise ValueError("it measures other things")
        return Domain(statistics, features, int(record["images"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WeightsError(f"{path} doesn't state the domain of weights: {error}; get the file again") from error


def _plain(cloud: Cloud) -> dict[str, Any]:
    """Five digits are plenty, and keep the file small."""

    def rounded(value: Any) -> Any:
        return [rounded(one) for one in value] if np.ndim(value) else float(f"{float(value):.5g}")

    return {name: rounded(getattr(cloud, name)) for name in Cloud.__dataclass_fields__}


def _cloud(record: Any) -> Cloud:
    mean, axes, spread = (np.array(record[name], np.float64) for name in ("mean", "axes", "spread"))
    rest, start, scale = (float(record[name]) for name in ("rest", "start", "scale"))
    numbers = np.concatenate([mean.ravel(), axes.ravel(), spread.ravel(), [rest, start, scale]])
    if mean.ndim != 1 or axes.shape != (len(spread), len(mean)) or spread.ndim != 1:
        raise ValueError("its shapes don't fit")
    if (
        not np.isfinite(numbers).all()
        or np.abs(numbers).max() > 1e12
        or min(spread.min(), rest, scale) <= 0
        or start < 0
    ):
        raise ValueError("its numbers are out of range")
    return Cloud(mean, axes, spread, rest, start, scale)
