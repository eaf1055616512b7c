"""Test-time augmentation whose geometry the points follow.

Points and matrices count from -1 to 1 between the edges of the view, x to the right and y down.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zoo.data.augment import warped

Views = Literal["whole", "crops"]
HUE = 0.1  # of a turn, either way
AREA, TURN = (0.75, 1.0), 45.0  # of crops: share that stays, and degrees either way; as the classifier was trained
TRIES = 10


class Replicas(NamedTuple):
    """Augmented copies of one image, and where its points went."""

    x: Float[Tensor, "r 3 s s"]  # in [0, 1]; the first is the image as it is
    positive: Float[Tensor, "r p 2"]
    negative: Float[Tensor, "r n 2"]
    there: tuple[Bool[Tensor, "r p"], Bool[Tensor, "r n"]]  # which of them lie in the copy


def replicas(
    view: Float[Tensor, "3 s s"],
    positive: Float[np.ndarray, "p 2"],
    negative: Float[np.ndarray, "n 2"],
    count: int,
    how: Views,
    rng: np.random.Generator,
) -> Replicas:
    """The image as it is, then ``count`` copies mirrored both ways and shifted in hue at random.

    ``crops`` also turns and cuts them. Points that leave a copy don't count in it; where one sign would lose all of
    its points, the geometry is drawn again, and after ten times the copy is whole.
    """
    matrices = np.stack([_IDENTITY, *(_geometry(positive, negative, how, rng) for _ in range(count))])
    shifts = np.concatenate([[0.0], rng.uniform(-HUE, HUE, count)])
    x = hue_shifted(view[None], torch.from_numpy(shifts).to(view))
    if how == "whole":  # mirrored exactly, without looking up anything
        for axis, row in ((3, 0), (2, 1)):
            mirrored = torch.from_numpy(matrices[:, row, row] < 0).to(x.device).view(-1, 1, 1, 1)
            x = torch.where(mirrored, x.flip(axis), x)
    else:
        x = torch.cat([x[:1], warped(x[1:], matrices[1:])])
    moved = [torch.from_numpy(follow(points, matrices)).float().to(view.device) for points in (positive, negative)]
    return Replicas(x, moved[0], moved[1], (_inside(moved[0]), _inside(moved[1])))


def follow(points: Float[np.ndarray, "p 2"], matrices: Float[np.ndarray, "r 2 3"]) -> Float[np.ndarray, "r p 2"]:
    """Where points of the image lie in copies that were looked up at ``matrix @ (x, y, 1)``: the way back."""
    back = np.linalg.inv(matrices[:, :, :2])
    return np.einsum("rij,rpj->rpi", back, points[None] - matrices[:, None, :, 2])


def hue_shifted(x: Float[Tensor, "#r 3 s s"], turns: Float[Tensor, " r"]) -> Float[Tensor, "r 3 s s"]:
    """Images in [0, 1], or copies of one, with the hue (of hue, saturation, value) moved by a share of a turn each."""
    value, brightest = x.max(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    r, g, b = x.unbind(1)
    sixth = torch.stack([g - b, b - r, r - g], 1).gather(1, brightest) / chroma.clamp(min=1e-12)
    k = (x.new_tensor([5.0, 3.0, 1.0]).view(3, 1, 1) + sixth + 2 * brightest + 6 * turns.view(-1, 1, 1, 1)) % 6
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def training_views(x: Float[Tensor, "b 3 s s"], rng: np.random.Generator) -> Float[Tensor, "b 3 s s"]:
    """Each image mirrored, turned, cut and shifted in hue at random, as the classifier is trained."""
    nothing = np.zeros((0, 2))
    matrices = np.stack([_geometry(nothing, nothing, "crops", rng) for _ in range(len(x))])
    return warped(hue_shifted(x, torch.from_numpy(rng.uniform(-HUE, HUE, len(x))).to(x)), matrices)


_IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])


def _geometry(positive: np.ndarray, negative: np.ndarray, how: Views, rng: np.random.Generator) -> np.ndarray:
    mirror = rng.choice([-1.0, 1.0], 2)
    whole = _IDENTITY * mirror[:, None]
    if how == "whole":
        return whole
    for _ in range(TRIES):
        angle, side = np.deg2rad(rng.uniform(-TURN, TURN)), np.sqrt(rng.uniform(*AREA))
        cos, sin = side * np.cos(angle), side * np.sin(angle)
        shift = rng.uniform(-1, 1, 2) * (1 - side)
        matrix = np.array([[mirror[0] * cos, -mirror[1] * sin, shift[0]], [mirror[0] * sin, mirror[1] * cos, shift[1]]])
        if all(not len(p) or _inside(follow(p, matrix[None])).any() for p in (positive, negative)):
            return matrix
    return whole


def _inside(points: Any) -> Any:
    return (abs(points) < 1).all(-1)
