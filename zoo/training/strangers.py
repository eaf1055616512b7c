"""Pictures of anything, drawn, against which ``zoo.domain`` tells images of a kind: noise of every spectrum, and shapes
of all sizes that hide each other, alone or both, grey or in colour, sharp or blurred.

Images of the world are like that in how their details are distributed: A. B. Lee, D. Mumford and J. Huang, Occlusion
Models for Natural Images, IJCV 2001. Drawing them takes longer than a small training, so what is measured on them
comes with the package; ``write()`` makes it.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from zoo import media
from zoo.media.appearance import bands, colours, fine_bands, statistics

COUNT, SIDE = 800, 128
STORED = Path(__file__).with_name("strangers.safetensors")
MEASURED = {"statistics": statistics, "bands": bands, "fine": fine_bands, "colours": colours}


def strangers() -> dict[str, Float[np.ndarray, "n p"]]:
    """What is measured on them, a row for each."""
    from safetensors.numpy import load_file

    return {name: rows.astype(np.float64) for name, rows in load_file(STORED).items()}


def stranger(seed: int, side: int = SIDE) -> UInt8[np.ndarray, "s s *c"]:
    """One of them, a pure function of its seed."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng([0x57A6E, seed])
    channels = int(rng.choice([1, 3]))
    mix = np.ones((channels, channels)) + np.eye(channels) * rng.uniform(0, 0.6)
    mix /= np.linalg.norm(mix, axis=1, keepdims=True)
    kind = str(rng.choice(["noise", "shapes", "both"], p=[0.3, 0.3, 0.4]))
    noise = np.stack([_noise(side, rng.uniform(0.5, 3.0), rng) for _ in range(channels)], -1) @ mix
    if kind == "noise":
        x = noise
    else:
        shape = _shapes(side, rng)
        x = (rng.normal(0, 1, (shape.max() + 1, channels)) @ mix)[shape]
        if kind == "both":
            x = x + np.exp(rng.normal(-1.5, 0.7, shape.max() + 1))[shape][..., None] * noise
            x = x + rng.uniform(0, 0.7) * _noise(side, 2.5, rng)[..., None]
    if rng.random() < 0.5:
        blur = rng.uniform(0, 1.5)
        x = gaussian_filter(x, (blur, blur, 0))
    x = x / x.std() * rng.uniform(0.08, 0.35) + rng.uniform(0.2, 0.8) + rng.normal(0, 0.1, channels)
    x = x + rng.normal(0, rng.uniform(0, 0.04), x.shape)
    if rng.random() < 0.15:  # a black border
        edge = int(rng.integers(5, 30))
        x[:edge] = x[-edge:] = 0
        if rng.random() < 0.5:
            x[:, :edge] = x[:, -edge:] = 0
    x = np.clip(x, 0, 1) ** math.exp(rng.normal(0, 0.3))
    return (255 * (x[..., 0] if channels == 1 else x)).astype(np.uint8)


def _noise(side: int, power: float, rng: np.random.Generator) -> Float[np.ndarray, "s s"]:
    """Amplitude falls with the frequency's power, more across than along a direction."""
    fy, fx = np.meshgrid(*[np.fft.fftfreq(side)] * 2, indexing="ij")
    angle, stretch = rng.uniform(0, math.pi), math.exp(rng.normal(0, 0.3))
    along, across = fx * math.cos(angle) + fy * math.sin(angle), fy * math.cos(angle) - fx * math.sin(angle)
    frequency = np.hypot(along * stretch, across / stretch)
    frequency[0, 0] = 1
    x = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) * frequency**-power).real
    return (x - x.mean()) / x.std()


def _shapes(side: int, rng: np.random.Generator) -> Int[np.ndarray, "s s"]:
    """The number of the topmost shape at each place, 0 for the ground."""
    y, x = np.mgrid[:side, :side] / side * 2 - 1
    top = np.zeros((side, side), int)
    for number in range(1, 1 + int(math.exp(rng.uniform(math.log(5), math.log(400))))):
        radius = min(0.045 * rng.pareto(2.0) + 0.02, 0.9)
        v, u = rng.uniform(-1, 1, 2)
        angle, stretch = rng.uniform(0, math.pi), math.exp(rng.normal(0, 0.5))
        along = (y - v) * math.cos(angle) + (x - u) * math.sin(angle)
        across = (x - u) * math.cos(angle) - (y - v) * math.sin(angle)
        along, across = abs(along * stretch), abs(across / stretch)
        size = np.maximum(along, across) if rng.random() < 0.4 else np.hypot(along, across)
        top[size < radius] = number
    return top


def write() -> None:
    """Draw and measure them anew, where what is measured has changed."""
    from safetensors.numpy import save_file

    pictures = [media.read(stranger(seed)) for seed in range(COUNT)]
    measured = {name: np.array([of(one) for one in pictures]) for name, of in MEASURED.items()}
    save_file({name: rows.astype(np.float16) for name, rows in measured.items()}, STORED)
