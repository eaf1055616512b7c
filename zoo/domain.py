"""What the training images of weights were like, and whether an image is one of their kind.

A network answers whatever it is shown. So weights carry a ``domain.json``: mean and shrunk covariance of cheap
statistics, textures and colours of the training images (:mod:`zoo.media.appearance`) and, where the model gives them,
of the network's features. How far new images of the same kind lie from these is measured on images that the mean and
covariance were not made of.

A kind of many looks has a wide cloud, in which strangers lie too. So its images are also compared with pictures of
anything (:mod:`zoo.training.strangers`): which of the two an image is more likely of, by all that can be seen of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from zoo import media
from zoo.errors import MediaError, WeightsError
from zoo.media import Image
from zoo.media.appearance import BANDS, COLOURS, FINE_SIDE, GREY_BANDS, MEASURES
from zoo.media.doubts import require_content
from zoo.text import listed, strict_json

SHARE = 0.001  # of the images of the training's kind that are called unlike them
SLICES = 5  # of a volume
AXES = 32  # of features, at most; what lies beside them counts by its length
FOLDS = 10
MINIMUM = 20  # images: from fewer nothing is said
CONTRASTED = 200  # images: from fewer one can't tell how a hundred numbers go together
BEND = 3.0  # standard deviations, beyond which a number counts by its logarithm
SHRUNK = 0.02  # the covariance of numbers of standard deviation 1 towards the identity
MAX_BYTES = 16 << 20
KINDS = ("statistics", "textures", "colours", "features")  # all but the first two where they are stated
CONTRAST = "contrast"
IN_UNITS = ("statistics", "colours")  # of what one would see
FORMAT = 1  # another one wherever MEASURES change

REASONS = {  # of what has no name for each number
    "textures": "texture",
    "colours": "colour",
    "features": "what the network makes of it",
    CONTRAST: "how its details are made",
}

FLOOR = (
    0.1  # of a difference that one would see: no kind is narrower, so that a tint doesn't make a grey image a stranger
)


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


# A row for each image: statistics, textures, colours, bands, fine bands, the shorter side, and perhaps features.
Measured = Mapping[str, Float[np.ndarray, "_ _"]]


class Scale:
    """How far out a vector lies, against held-out ones of the kind; what ``distance`` is is its subclasses' affair.

    Beyond the distance ``start`` lies a tenth of the held-out vectors, ``scale`` further on average (taken at the upper
    end of its 95 % interval, so that few images make the limit wide). ``farthest``: the distance of all but ``SHARE``
    of them.
    """

    start: float
    scale: float
    farthest: float

    def distance(self, x: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        raise NotImplementedError

    def farther(self, x: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        """The share of images of the kind that lie farther out, by an exponential tail; 1 / 10 for the nearer ones.

        Whatever the tail says, not less than ``SHARE`` for what lies no farther than held-out images did.
        """
        away = self.distance(x)
        share = 0.1 * np.exp(-np.clip((away - self.start) / self.scale, 0, 700))
        return np.where(away <= self.farthest, np.maximum(share, SHARE), share)


S = TypeVar("S", "Cloud", "Contrast")


def calibrated(make: Callable[[Float[np.ndarray, "n p"]], S], x: Float[np.ndarray, "n p"]) -> S:
    """``make`` of all vectors, its tail by those that each of ``FOLDS`` others was not made of."""
    places = np.arange(len(x)) % FOLDS
    away = np.concatenate([make(x[places != k]).distance(x[places == k]) for k in range(FOLDS)])
    start = float(np.quantile(away, 0.9))
    beyond = away[away > start] - start
    m = max(len(beyond), 1)
    # the 5 % point of chi-squared with 2m degrees, by Wilson and Hilferty
    chi2 = 2 * m * (1 - 1 / (9 * m) - 1.645 / (3 * math.sqrt(m))) ** 3
    farthest = float(np.sort(away)[len(away) - 1 - int(len(away) * SHARE)])
    return replace(make(x), start=start, scale=2 * float(beyond.sum()) / chi2 + 1e-6, farthest=farthest)


@dataclass(frozen=True)
class Cloud(Scale):
    """Vectors by mean and shrunk covariance.

    ``axes``: orthonormal, each with its standard deviation in ``spread``; ``rest``: the standard deviation along all
    others.
    """

    mean: Float[np.ndarray, " p"]
    axes: Float[np.ndarray, "k p"]
    spread: Float[np.ndarray, " k"]
    rest: float
    start: float = 0.0
    scale: float = 0.0
    farthest: float = 0.0

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
        return calibrated(lambda part: cls.of(part, floor), x)

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


@dataclass(frozen=True)
class Contrast(Scale):
    """By how much vectors are likelier of others than of the kind, if both are normal: a quadratic form.

    Each number is brought to standard deviation 1 about its ``median`` (by ``unit``), and beyond ``BEND`` of them it
    counts by its logarithm, so that one odd number doesn't make a stranger. Then ``form``, ``line`` and ``level`` are
    the difference of two squared Mahalanobis distances, over the number of dimensions. ``looks``: whose numbers.
    """

    median: Float[np.ndarray, " p"]
    unit: Float[np.ndarray, " p"]
    form: Float[np.ndarray, " p*(p+1)/2"]  # its upper triangle by rows
    line: Float[np.ndarray, " p"]
    level: float
    looks: tuple[str, ...] = ()
    start: float = 0.0
    scale: float = 0.0
    farthest: float = 0.0

    @classmethod
    def of(cls, x: Float[np.ndarray, "n p"], others: Float[np.ndarray, "m p"], looks: tuple[str, ...] = ()) -> Contrast:
        """Not yet calibrated."""
        median, unit = np.median(x, axis=0), np.sqrt(x.var(0) + FLOOR**2)
        form, line, level = np.zeros((x.shape[1],) * 2), np.zeros(x.shape[1]), 0.0
        for sign, vectors in ((1, x), (-1, others)):
            z = _bent(vectors, median, unit)
            spread = np.sqrt(z.var(0) + FLOOR**2)
            correlation = np.cov((z / spread).T)
            precision = np.linalg.inv((1 - SHRUNK) * correlation + SHRUNK * np.eye(len(spread)))
            precision = precision / np.outer(spread, spread) * sign / x.shape[1]
            form, line = form + precision, line - 2 * precision @ z.mean(0)
            level += float(z.mean(0) @ precision @ z.mean(0))
        return cls(median, unit, form[np.triu_indices(len(form))], line, level, looks)

    def distance(self, x: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        z = _bent(x, self.median, self.unit)
        half = np.zeros((len(self.line),) * 2)
        half[np.triu_indices(len(half))] = self.form
        form = half + np.triu(half, 1).T
        return np.einsum("ij,ij->i", z @ form, z) + z @ self.line + self.level


def _bent(x: Float[np.ndarray, "n p"], median: np.ndarray, unit: np.ndarray) -> Float[np.ndarray, "n p"]:
    return BEND * np.arcsinh((x - median) / unit / BEND)


def looks(measured: Measured) -> tuple[str, ...]:
    """What a contrast looks at: colour where there is any, else details as fine as all the images have."""
    if measured["colours"].std(0).max() >= FLOOR:
        return "statistics", "bands", "colours"
    fine = "side" in measured and measured["side"].min() >= FINE_SIDE
    return ("statistics", "bands", "fine") if fine else ("statistics", "bands")


def together(measured: Measured, names: Sequence[str]) -> Float[np.ndarray, "n p"]:
    """All of that, a row for each image."""
    width = None if "colours" in names else GREY_BANDS
    return np.hstack([measured[name][:, :width] for name in names])


@dataclass(frozen=True)
class Domain:
    """The kind of images that weights were trained on: a cloud for each measure, and how many images it's known by."""

    clouds: Mapping[str, Cloud]
    images: int
    contrast: Contrast | None = None

    @classmethod
    def of(cls, measured: Measured, others: Measured | None = None) -> Domain | None:
        """From what was measured on each image, and on pictures of anything; ``None`` for fewer than ``MINIMUM``."""
        count = len(measured["statistics"])
        if count < MINIMUM:
            return None
        kinds = {name: measured[name] for name in KINDS if name in measured}
        if "colours" in kinds and kinds["colours"].std(0).max() < FLOOR:  # grey images; a slight tint is no other kind
            del kinds["colours"]
        clouds = {name: Cloud.calibrated(x, FLOOR if name in IN_UNITS else 0.0) for name, x in kinds.items()}
        contrast = None
        if others is not None and count >= CONTRASTED and "bands" in measured:
            names = looks(measured)
            strange = together(others, names)
            contrast = calibrated(lambda part: Contrast.of(part, strange, names), together(measured, names))
        return cls(clouds, count, contrast)

    def judge(self, measured: Measured) -> Verdict:
        """Of the images of one case. The more there are, the farther out the farthest may lie."""
        shares = {}
        for name, cloud in self.clouds.items():
            x = measured.get(name)
            if x is None or x.shape[1] != len(cloud.mean):
                raise WeightsError("the domain stated beside these weights is of another network; get the files again")
            shares[name] = cloud.farther(x)
        if self.contrast is not None:
            shares[CONTRAST] = self.contrast.farther(together(measured, self.contrast.looks))
        # the one in a thousand is shared by all that may tell, half of it by the contrast alone
        parts = {name: len(self.clouds) * (1 if self.contrast is None else 2) for name in self.clouds}
        shares = {name: found * parts.get(name, 2) for name, found in shares.items()}
        share = np.min(list(shares.values()), axis=0)
        odd, worst = np.flatnonzero(share * len(share) < SHARE), int(share.argmin())
        # statistics have names, so they tell where they can
        named = shares["statistics"][worst] < SHARE
        told_by = "statistics" if named else min(shares, key=lambda name: shares[name][worst])
        reason = REASONS.get(told_by)
        if reason is None:
            cloud = self.clouds[told_by]
            away = np.abs(measured[told_by][worst] - cloud.mean) / np.sqrt(np.maximum(cloud.variances(), FLOOR**2))
            reason = MEASURES[int(away.argmax())][1]
        return Verdict(tuple((odd + 1).tolist()), len(share), reason, self.images)

    def to_json(self) -> str:
        record = {"format": FORMAT, "images": self.images}
        scales: dict[str, Scale] = {**self.clouds}
        if self.contrast is not None:
            scales[CONTRAST] = self.contrast
        return json.dumps({**record, **{name: _plain(one) for name, one in scales.items()}}) + "\n"


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
        clouds = {name: _cloud(record[name]) for name in KINDS if name in record}
        if len(clouds["statistics"].mean) != len(MEASURES):
            raise ValueError("it measures other things")
        contrast = _contrast(record[CONTRAST]) if CONTRAST in record else None
        return Domain(clouds, int(record["images"]), contrast)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WeightsError(f"{path} doesn't state the domain of weights: {error}; get the file again") from error


def _plain(scale: Any) -> dict[str, Any]:
    """Five digits are plenty, and keep the file small."""

    def rounded(value: Any) -> Any:
        if isinstance(value, str):
            return value
        return [rounded(one) for one in value] if np.ndim(value) else float(f"{float(value):.5g}")

    return {name: rounded(getattr(scale, name)) for name in scale.__dataclass_fields__}


def _cloud(record: Any) -> Cloud:
    mean, axes, spread = _arrays(record, "mean", "axes", "spread")
    rest, tail = _numbers(record, "rest"), _numbers(record, "start", "scale", "farthest")
    if mean.ndim != 1 or axes.shape != (len(spread), len(mean)) or spread.ndim != 1:
        raise ValueError("its shapes don't fit")
    if min(spread.min(), rest[0], tail[1]) <= 0 or tail[0] < 0:
        raise ValueError("its numbers are out of range")
    return Cloud(mean, axes, spread, rest[0], *tail)


def _contrast(record: Any) -> Contrast:
    median, unit, form, line = _arrays(record, "median", "unit", "form", "line")
    level, start, scale, farthest = _numbers(record, "level", "start", "scale", "farthest")
    names, p = tuple(record["looks"]), len(median)
    widths = {"statistics": len(MEASURES), "bands": BANDS if "colours" in names else GREY_BANDS}
    widths |= {"fine": GREY_BANDS, "colours": COLOURS}
    if p != sum(widths[name] for name in names) or not median.shape == unit.shape == line.shape == (p,):
        raise ValueError("its shapes don't fit")
    if form.shape != (p * (p + 1) // 2,):
        raise ValueError("its shapes don't fit")
    if min(unit.min(), scale) <= 0:
        raise ValueError("its numbers are out of range")
    return Contrast(median, unit, form, line, level, names, start, scale, farthest)


def _arrays(record: Any, *names: str) -> list[np.ndarray]:
    arrays = [np.array(record[name], np.float64) for name in names]
    _check(np.concatenate([one.ravel() for one in arrays]))
    return arrays


def _numbers(record: Any, *names: str) -> list[float]:
    numbers = [float(record[name]) for name in names]
    _check(np.array(numbers))
    return numbers


def _check(numbers: np.ndarray) -> None:
    if not np.isfinite(numbers).all() or np.abs(numbers).max(initial=0) > 1e12:
        raise ValueError("its numbers are out of range")
