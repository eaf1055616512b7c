"""From a user's k-space, or from an image with lines left out of its k-space, through the network and back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from zoo import media
from zoo.data import phantoms
from zoo.data.kspace import SUFFIXES, Convention, KSpace, read_array, read_kspace, simulate, to_image, to_kspace
from zoo.errors import MediaError, OptionError
from zoo.media.doubts import require_content
from zoo.model import Model
from zoo.models.fedautomri import plugin
from zoo.models.fedautomri.baselines import build_network
from zoo.models.fedautomri.data import from_image
from zoo.models.fedautomri.network import FedAutoMRIConfig
from zoo.models.fedautomri.result import MRReconstruction, quality
from zoo.spec import is_kind

JUDGED = 4  # slices of a stack by which its kind is told


@dataclass(frozen=True)
class Scan:
    """What a user gave, not yet read as k-space: that needs the options. ``image``: magnitudes, where it is that."""

    given: Any
    source: str
    image: media.Image | None = None

    def kspace(self, content: str = "auto", convention: Convention = "auto", mask: Any = None) -> KSpace:
        """Raises ``MediaError`` where it isn't k-space after all, ``OptionError`` for options that don't go with it."""
        if self.image is not None or isinstance(self.given, KSpace):
            if mask is not None:
                raise OptionError(
                    f"a mask goes with k-space, and {self.source} is none that was measured; leave it out"
                )
            return from_image(self.image) if self.image is not None else self.given
        if content != "image":
            return replace(read_kspace(self.given, convention=convention, mask=mask), source=self.source)
        if mask is not None:
            raise OptionError("a mask goes with k-space, not with content=image; leave it out")
        array = read_array(self.given) if isinstance(self.given, str | os.PathLike) else np.asarray(self.given)
        if array.dtype.kind != "c" or array.ndim not in (2, 3) or not np.isfinite(array).all():
            raise MediaError(f"{self.source} is no complex image [h w] or [z h w] of finite numbers")
        images = array.reshape(-1, *array.shape[-2:]).astype(np.complex64)
        whole = np.ones(images.shape[-2:], bool)
        return KSpace(to_kspace(images), whole, images, self.source, ("k-space is simulated from a complex image",))


class FedAutoMRI(Model[MRReconstruction]):
    """``network`` is the server's, ``personal`` those of the clients that have their own."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = FedAutoMRIConfig

    def __init__(self, config: FedAutoMRIConfig | None = None) -> None:
        super().__init__(config)
        self.network = build_network(self.config)
        self.personal = nn.ModuleDict({name: build_network(self.config) for name in self.config.clients})

    def forward(self, x0: Float[Tensor, "b 2 h w"], mask: Float[Tensor, "b _ w"]) -> Float[Tensor, "b 2 h w"]:
        """Real and imaginary part of the reconstruction; ``mask`` has frequency 0 in the corner."""
        return self.network(x0, mask)

    def _read(self, given: Any) -> Scan:
        """Complex numbers stay as they are, everything else is read as magnitudes."""
        if isinstance(given, KSpace):
            return Scan(given, given.source)
        if isinstance(given, str) and is_kind(given, "phantom"):
            case = phantoms.make(given)
            if (k := case.attributes.get("kspace")) is not None:
                return Scan(replace(read_kspace(k, convention="centre"), source=given), given)
        if isinstance(given, str | os.PathLike) and os.fspath(given).lower().endswith(SUFFIXES):
            return Scan(given, os.fspath(given))
        if isinstance(given, Tensor) and given.is_complex():
            given = given.detach().cpu().numpy()
        if isinstance(given, np.ndarray) and given.dtype.kind == "c":
            return Scan(given, "array")
        image = require_content(media.read(given))
        if image.channels != 1:
            image = replace(image.require_2d(plugin.name), array=image.grey())
        return Scan(given, image.source, image)

    def _pictures(self, case: Scan, **chosen: Any) -> Iterator[media.Image]:
        """What the network gets: zero-filled magnitudes, by one mask where all lines are there."""
        k = case.kspace(chosen.get("content", "auto"), chosen.get("convention", "auto"), chosen.get("mask"))
        if k.coils > 1:
            return
        k = simulate(k, 3.0, 0.08, np.random.default_rng(0)) if k.full else k
        for z in np.unique(np.linspace(0, len(k.data) - 1, JUDGED + 2).round().astype(int)[1:-1]):
            x = np.abs(to_image(k.data[z]))
            yield media.Image((x / max(float(x.max()), 1e-12)).astype(np.float32), k.source, ndim_spatial=2)

    def _predict(self, scans: Sequence[Scan], **chosen: Any) -> list[MRReconstruction]:
        """Every slice of each scan."""
        return [self._reconstruct(scan, **chosen) for scan in scans]

    def _reconstruct(
        self, scan: Scan, *, content: str, convention: Convention, mask: Any, maps: Any, acceleration: float,
        center_fraction: float, seed: int, client: str, slice: int | None, return_intermediate: bool,
    ) -> MRReconstruction:  # fmt: skip
        network = self._network_of(client)
        k = scan.kspace(content, convention, mask)
        coils = _coils(k, maps)
        notes = list(k.notes)
        if k.full:
            k = simulate(k, acceleration, center_fraction, np.random.default_rng(seed))
            notes.append(
                f"all lines were there; of {k.mask.shape[1]}, {int(k.mask[0].sum())} were kept by a simulated mask "
                f"(acceleration {acceleration:g}, seed {seed})"
            )
        if slice is not None and slice >= len(k.data):
            raise OptionError(f"there is no slice {slice}; {k.source} has {len(k.data)}, from 0")
        steps: list[np.ndarray] = []
        start = np.stack([_adjoint(one, coils) for one in k.data])
        found = np.stack([self._slice(network, x0, k.mask, coils, steps) for x0 in start])
        place = len(k.data) // 2 if slice is None else slice
        count = self.config.unroll if steps else 0
        shown = steps[place * count : (place + 1) * count]
        image = media.Image(np.abs(start[place]), k.source, "array", ndim_spatial=2)
        image = scan.image if scan.image is not None and scan.image.ndim_spatial == 2 else image
        scores = quality(np.abs(found), np.abs(start), None if k.truth is None else np.abs(k.truth))
        return MRReconstruction(
            image=image, output=np.abs(found[place]), start=np.abs(start[place]),
            reference=None if k.truth is None else np.abs(k.truth[place]).astype(np.float32), scores=scores,
            parts=np.stack([found.real, found.imag], -1), sampled=k.mask, place=place, source=k.source,
            notes=tuple(notes),
            genotype=self.config.kept if self.config.denoiser == "cell" else (),
            steps=np.abs(np.stack(shown)) if return_intermediate and shown else None,
            options={"convention": k.convention, "slice": place},
        )  # fmt: skip

    def _network_of(self, client: str) -> nn.Module:
        if client == "global":
            return self.network
        if client not in self.personal:
            there = ", ".join(["global", *self.personal])
            raise OptionError(f"these weights have no client {client!r}; there is {there}")
        return self.personal[client]

    def _slice(
        self, network: nn.Module, x0: Complex[np.ndarray, "h w"], mask: np.ndarray, coils: np.ndarray | None,
        steps: list[np.ndarray],
    ) -> Complex[np.ndarray, "h w"]:  # fmt: skip
        """One slice, on the scale on which the zero-filled image is 1 at most."""
        scale = max(float(np.abs(x0).max()), 1e-30)
        x = torch.from_numpy(np.stack([x0.real, x0.imag])[None] / scale).float().to(self.device)
        corner = torch.from_numpy(np.fft.ifftshift(mask).astype(np.float32))[None].to(self.device)
        maps = None if coils is None else torch.from_numpy(coils)[None].to(self.device)
        made: list[Tensor] = []
        out = network(x, corner, maps, made)[0].cpu().numpy() * scale
        steps += [np.asarray((one[0, 0] + 1j * one[0, 1]).cpu()) * scale for one in made]
        return (out[0] + 1j * out[1]).astype(np.complex64)


def _coils(k: KSpace, maps: Any) -> Complex[np.ndarray, "c h w"] | None:
    """The coil maps that go with the k-space. Raises ``OptionError`` where one of the two is there alone."""
    if k.coils == 1 and k.data.ndim == 3:
        if maps is not None:
            raise OptionError("maps go with k-space of several coils, [z c h w]; leave them out")
        return None
    if maps is None:
        raise OptionError(f"{k.source} has {k.coils} coils; give their maps, or k-space that is coil-combined")
    array = read_array(maps)
    if array.dtype.kind != "c" or array.shape != k.data.shape[1:] or not np.isfinite(array).all():
        raise OptionError(
            f"maps must be finite complex numbers of shape {list(k.data.shape[1:])}, not {list(array.shape)}"
        )
    return array.astype(np.complex64)


def _adjoint(k: np.ndarray, coils: np.ndarray | None) -> Complex[np.ndarray, "h w"]:
    """A^H k of one slice: zero-filled, coils combined by their maps."""
    return to_image(k) if coils is None else (coils.conj() * to_image(k)).sum(0)
