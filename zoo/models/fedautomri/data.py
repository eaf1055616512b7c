"""What a client trains on: fully sampled slices in memory, of which every batch leaves other lines out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from zoo import media
from zoo.data.case import Case
from zoo.data.kspace import KSpace, lines, read_kspace, to_image, to_kspace
from zoo.errors import DataError

FAINT = 0.05  # slices whose brightest pixel is below this share of the volume's show nothing and are left out


@dataclass(frozen=True)
class Sampling:
    """How lines are left out: 1 / ``acceleration`` stay, the ``centre`` (a share, or a count of lines) always.

    ``noise``: deviation of each part of a sample of k-space, as a share of the image's greatest magnitude.
    """

    acceleration: float
    centre: float | int
    noise: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Zero-filled images, their masks (frequency 0 in the corner) and the truth, on one scale: max |x0| is 1."""

    x0: Float[Tensor, "b 2 h w"]
    mask: Float[Tensor, "b 1 w"]
    truth: Float[Tensor, "b 2 h w"]

    def to(self, device: torch.device) -> Batch:
        return Batch(self.x0.to(device), self.mask.to(device), self.truth.to(device))


@dataclass(frozen=True)
class Slices:
    """Complex images of one size, each of greatest magnitude 1."""

    images: Complex[Tensor, "n h w"]
    sampling: Sampling

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, count: int, rng: np.random.Generator) -> Batch:
        """Slices drawn without replacement as far as they reach, each with a mask of its own."""
        return self.taken(rng.permutation(len(self))[:count], rng)

    def taken(self, rows: Sequence[int] | np.ndarray, rng: np.random.Generator) -> Batch:
        x, how = self.images[torch.as_tensor(np.asarray(rows))], self.sampling
        h, w = x.shape[-2:]
        columns = np.stack([lines((1, w), how.acceleration, how.centre, rng)[0] for _ in range(len(x))])
        mask = torch.from_numpy(np.fft.ifftshift(columns, -1).astype(np.float32))[:, None]
        k = torch.fft.fft2(x, norm="ortho")
        if how.noise:
            real, imaginary = torch.from_numpy(how.noise * rng.normal(size=(2, len(x), h, w)).astype(np.float32))
            k = k + torch.complex(real, imaginary)
        x0 = torch.fft.ifft2(mask * k, norm="ortho")
        scale = x0.abs().amax((-2, -1), keepdim=True).clamp_min(1e-12)
        parts = [torch.stack([(one / scale).real, (one / scale).imag], 1) for one in (x0, x)]
        return Batch(parts[0], mask, parts[1])

    def divided(self, share: float) -> tuple[Slices, Slices]:
        """The first slices, and the last ``share`` of them, one at least."""
        last = min(max(1, round(share * len(self))), len(self) - 1)
        return Slices(self.images[:-last], self.sampling), Slices(self.images[-last:], self.sampling)


def kspace_of(case: Case) -> KSpace:
    """The measured slices of a case: its own k-space, or that of its file. Raises ``MediaError``, ``DataError``."""
    if "kspace" in case.attributes:
        return read_kspace(case.attributes["kspace"], convention="centre")
    if isinstance(case.image, str) and case.image.lower().endswith((".npy", ".h5", ".hdf5")):
        return read_kspace(case.image, convention=case.attributes.get("convention", "auto"))
    return from_image(media.read(case.image))


def from_image(image: media.Image) -> KSpace:
    """k-space that is simulated from magnitudes, and says so. Raises ``MediaError`` for colours."""
    values = image.unit() if image.ndim_spatial == 3 else image.grey()[None]
    x = values.astype(np.complex64)
    note = "its k-space is simulated from magnitudes, which have no phase or noise of a scan, so results flatter"
    return KSpace(to_kspace(x), np.ones(x.shape[-2:], bool), x, image.source, (*image.notes, note))


def load_slices(cases: Iterable[Case], size: int, sampling: Sampling) -> Slices:
    """All slices of fully sampled cases, cut or padded with zeros to ``size``. Raises ``DataError`` for others."""
    found = []
    for case in cases:
        k = kspace_of(case)
        if k.coils > 1:
            raise DataError(f"case {case.id} has {k.coils} coils; training takes one, or coil-combined k-space")
        if not k.full:
            raise DataError(f"case {case.id} isn't fully sampled, so that nothing is known to learn from")
        images = fitted(to_image(k.data), size)
        peaks = np.abs(images).max((-2, -1))
        kept = peaks > FAINT * peaks.max()
        found.append(images[kept] / peaks[kept, None, None])
    return Slices(torch.from_numpy(np.concatenate(found)), sampling)


def fitted(x: Complex[np.ndarray, "z h w"], size: int) -> Complex[np.ndarray, "z size size"]:
    """Each side cut about its middle, or padded with zeros around it."""
    for axis in (-2, -1):
        n = x.shape[axis]
        if n > size:
            x = np.take(x, range((n - size) // 2, (n - size) // 2 + size), axis)
        elif n < size:
            before = (size - n) // 2
            border = [(0, 0)] * x.ndim
            border[axis] = (before, size - n - before)
            x = np.pad(x, border)
    return x
