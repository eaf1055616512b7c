"""Registration of the images themselves: what stands in for the pipelines that the paper is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from zoo.data.phantoms.serial_sections import move
from zoo.data.rigid import IDENTITY, Motion, turn


def register_images(pictures: Sequence[Float[np.ndarray, "h w"]]) -> list[Motion]:
    """Each picture onto the registered one below it, by the spectra of both: motions to the first one's frame.

    The angle is the shift, along the angle, between the magnitudes of the Fourier transforms in log-polar coordinates,
    for these don't change when a picture is shifted; the shift follows from the turned picture.
    """
    motions, below = [IDENTITY], pictures[0]
    middle = (np.array(below.shape[::-1]) - 1) / 2
    for picture in pictures[1:]:
        angle, dx, dy = _between(below, picture)
        below = move(picture[..., None].astype(np.float32), angle, dx, dy)[..., 0]
        motions.append(turn(angle, middle, (dx, dy)))
    return motions


def _between(
    fixed: Float[np.ndarray, "h w"], moving: Float[np.ndarray, "h w"], most: float = 30.0
) -> tuple[float, float, float]:
    from skimage.filters import window
    from skimage.registration import phase_cross_correlation
    from skimage.transform import warp_polar

    h, w = fixed.shape
    steps = 720  # over half a turn: a spectrum of a real picture repeats itself after that
    polar: list[np.ndarray] = []
    for picture in (fixed, moving):
        spectrum = np.abs(np.fft.fftshift(np.fft.fft2((picture - picture.mean()) * window("hann", (h, w)))))
        grid = warp_polar(np.log1p(spectrum), radius=min(h, w) / 4, output_shape=(2 * steps, w), scaling="log")
        polar.append(grid[:steps, w // 4 :])
    shift, _, _ = phase_cross_correlation(*polar, upsample_factor=10, normalization=None)
    angle = float((shift[0] * 180 / steps + 90) % 180 - 90)
    angle = float(np.clip(angle, -most, most))
    turned = move(moving[..., None].astype(np.float32), angle, 0, 0)[..., 0]
    (dy, dx), _, _ = phase_cross_correlation(fixed, turned, upsample_factor=10, normalization=None)
    return angle, float(dx), float(dy)
