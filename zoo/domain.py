"""What the training images of weights were like, and whether an image is one of their kind.

A network answers whatever it is shown. So weights carry a ``domain.json``: mean and shrunk covariance of cheap
statistics, textures and colours of the training images (:mod:`zoo.media.appearance`) and, where the model gives them,
of the network's features. How far new images of the same kind lie from these is measured on images that the mean and
covariance were not made of.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from zoo import media
from zoo.errors import MediaError, WeightsError
from zoo.media import Image
from zoo.media.appearance import MEASURES
from zoo.media.doubts import require_content
from zoo.text import listed, strict_json

SHARE = 0.001  # of the images of the training's kind that are called unlike them
SLICES = 5  # of a volume
AXES = 32  # of features, at most; what lies beside them counts by its length
FOLDS = 10
MINIMUM = 20  # images: from fewer nothing is said
MAX_BYTES = 16 << 20
KINDS = ("statistics", "textures", "colours", "features")  # all but the first two where they are stated
IN_UNITS = ("statistics", "colours")  # of what one would see
FORMAT = 1  # another one wherever MEASURES change

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


@dataclass(frozen=True)
class Cloud:
    """Vectors by mean and shrunk covariance, and how far held-out ones lie from it.

    ``axes``: orthonormal, each with its standard deviation in ``spread``; ``rest``: the standard deviation along all
    others. Beyond the distance ``start`` lies a tenth of the held-out vectors, ``scale`` further on average (taken at
    the upper end of its 95 % interval, so that few images make the limit wide). ``farthest``: the distance of all but
    ``SHARE`` of them.
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
        """Of all vectors, its tail by those that each of ``FOLDS`` clouds was not made of."""
        places = np.arange(len(x)) % FOLDS
        away = np.concatenate([cls.of(x[places != k], floor).distance(x[places == k]) for k in range(FOLDS)])
        start = float(np.quantile(away, 0.9))
        beyond = away[away > start] - start
        m = max(len(beyond), 1)
        # the 5 % point of chi-squared with 2m degrees, by Wilson and Hilferty
        chi2 = 2 * m * (1 - 1 / (9 * m) - 1.645 / (3 * math.sqrt(m))) ** 3
        farthest = float(np.quantile(away, 1 - SHARE, method="higher"))
        return replace(cls.of(x, floor), start=start, scale=2 * float(beyond.sum()) / chi2 + 1e-6, farthest=farthest)

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
        """The share of images of the kind that lie farther out, by an exponential tail; 1 / 10 for the nearer ones.

        Whatever the tail says, not less than ``SHARE`` for what lies no farther than held-out images did.
        """
        away = self.distance(x)
        share = 0.1 * np.exp(-np.clip((away - self.start) / self.scale, 0, 700))
        return np.where(away <= self.farthest, np.maximum(share, SHARE), share)


# A row for each image: statistics, textures, colours and perhaps features.
Measured = Mapping[str, Float[np.ndarray, "n p"]]


@dataclass(frozen=True)
class Domain:
    """The kind of images that weights were trained on: a cloud for each measure, and how many images it's known by."""

    clouds: Mapping[str, Cloud]
    images: int

    @classmethod
    def of(cls, measured: Measured) -> Domain | None:
        """From what was measured on each image; ``None`` for fewer than ``MINIMUM``."""
        if len(measured["statistics"]) < MINIMUM:
            return None
        kinds = dict(measured)
        if "colours" in kinds and kinds["colours"].std(0).max() < FLOOR:  # grey images; a slight tint is no other kind
            del kinds["colours"]
        clouds = {name: Cloud.calibrated(x, FLOOR if name in IN_UNITS else 0.0) for name, x in kinds.items()}
        return cls(clouds, len(measured["statistics"]))

    def judge(self, measured: Measured) -> Verdict:
        """Of the images of one case. The more there are, the farther out the farthest may lie."""
        shares = {}
        for name, cloud in self.clouds.items():
            x = measured.get(name)
            if x is None or x.shape[1] != len(cloud.mean):
                raise WeightsError("the domain stated beside these weights is of another network; get the files again")
            shares[name] = cloud.farther(x)
        share = np.min(list(shares.values()), axis=0) * len(shares)
        odd, worst = np.flatnonzero(share * len(share) < SHARE), int(share.argmin())
        # statistics have names, so they tell where they can
        named = shares["statistics"][worst] * len(shares) < SHARE
        told_by = "statistics" if named else min(shares, key=lambda name: shares[name][worst])
        reason = {"textures": "texture", "colours": "colour", "features": "what the network makes of it"}.get(told_by)
        if reason is None:
            cloud = self.clouds[told_by]
            away = np.abs(measured[told_by][worst] - cloud.mean) / np.sqrt(np.maximum(cloud.variances(), FLOOR**2))
            reason = MEASURES[int(away.argmax())][1]
        return Verdict(tuple((odd + 1).tolist()), len(share), reason, self.images)

    def to_json(self) -> str:
        record = {"format": FORMAT, "images": self.images}
        return json.dumps({**record, **{name: _plain(cloud) for name, cloud in self.clouds.items()}}) + "\n"


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
        return Domain(clouds, int(record["images"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WeightsError(f"{path} doesn't state the domain of weights: {error}; get the file again") from error


def _plain(cloud: Cloud) -> dict[str, Any]:
    """Five digits are plenty, and keep the file small."""

    def rounded(value: Any) -> Any:
        return [rounded(one) for one in value] if np.ndim(value) else float(f"{float(value):.5g}")

    return {name: rounded(getattr(cloud, name)) for name in Cloud.__dataclass_fields__}


def _cloud(record: Any) -> Cloud:
    mean, axes, spread = (np.array(record[name], np.float64) for name in ("mean", "axes", "spread"))
    rest, start, scale, farthest = (float(record[name]) for name in ("rest", "start", "scale", "farthest"))
    numbers = np.concatenate([mean.ravel(), axes.ravel(), spread.ravel(), [rest, start, scale, farthest]])
    if mean.ndim != 1 or axes.shape != (len(spread), len(mean)) or spread.ndim != 1:
        raise ValueError("its shapes don't fit")
    if (
        not np.isfinite(numbers).all()
        or np.abs(numbers).max() > 1e12
        or min(spread.min(), rest, scale) <= 0
        or start < 0
    ):
        raise ValueError("its numbers are out of range")
    return Cloud(mean, axes, spread, rest, start, scale, farthest)
