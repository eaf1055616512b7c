"""A scan slice by slice: the support set that goes with each slice, the network, and the mean over several draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor, nn

from zoo import media
from zoo.data.volumes import voxels
from zoo.errors import OptionError
from zoo.model import Model
from zoo.models.universeg_prostate import plugin
from zoo.models.universeg_prostate.baselines import unet, unet_probability
from zoo.models.universeg_prostate.network import UniverSeg, renamed
from zoo.models.universeg_prostate.result import InContextSegmentation, Used
from zoo.models.universeg_prostate.support import HOW, Scan, Support, drawn, read_support, weights
from zoo.progress import Bar

KEPT = 2**30  # bytes of first-level features of supports that are kept for a volume
Method = Literal["universeg", "nnunet", "nnunet-small"]


@dataclass(frozen=True)
class UniverSegConfig:
    """The released network by default; or one of the U-Nets that the paper compares it with."""

    method: Method = "universeg"
    channels: tuple[int, ...] = field(default=(64, 64, 64, 64), metadata={"min": 1, "max": 1024})
    side: int = field(default=128, metadata={"min": 16, "max": 1024})  # px of the square; Sec. 3.1
    networks: int = field(default=1, metadata={"min": 1, "max": 16})  # folds, of the U-Nets alone


class UniverSegProstate(Model[InContextSegmentation]):
    plugin: ClassVar = plugin
    config_class: ClassVar[type] = UniverSegConfig

    def __init__(self, config: UniverSegConfig | None = None) -> None:
        super().__init__(config)
        channels, side = self.config.channels, self.config.side
        if not 2 <= len(channels) <= 8 or side % 2 ** (len(channels) - 1):
            n = len(channels)
            many = f"side={side} px can't be halved {n - 1} times, as {n} levels (2 to 8) do; choose a multiple of"
            raise OptionError(f"{many} {2 ** (min(n, 9) - 1)}")
        if self.config.method != "universeg" and (len(channels) < 3 or side < 2 ** len(channels)):
            raise OptionError(
                f"a U-Net has 3 levels or more, and of {len(channels)} levels it needs side={2 ** len(channels)} px or "
                f"more, not {side}"
            )
        if self.config.method == "universeg":
            self.net: nn.Module = UniverSeg(channels)
        else:
            self.net = nn.ModuleList(unet(channels) for _ in range(self.config.networks))

    def forward(self, query: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Logits ``[b 1 s s]`` of queries ``[b 1 s s]`` with their supports ``[b n 1 s s]``."""
        return self.net(query, images, labels)

    def _read(self, given: Any) -> media.Image:
        """A volume of one channel or a 2-D image; a volume of one slice is that slice."""
        image = media.read(given)
        if image.ndim_spatial == 3 and 1 in image.size and image.channels == 1:
            return image.require_2d(plugin.name)
        return image if image.ndim_spatial == 2 else image.require_3d(plugin.name)

    def _predict(
        self, images: Sequence[media.Image], *, support: Any, roi: str, select: str,
        pool: Literal["agnostic", "inclusive"],
        size: int, ensemble: int, seed: int, threshold: float, scaling: Literal["percentiles", "min-max"],
        z: Literal["index", "relative"], slice: int | None, tta: bool,
    ) -> list[InContextSegmentation]:  # fmt: skip
        if support is None:
            raise OptionError(f"{plugin.name} needs a support set that shows what to segment; {HOW}")
        taught = read_support(support, roi, self.config.side, scaling).pooled(pool)
        return [
            self._one(image, taught, roi=roi, select=select, size=size, ensemble=ensemble, seed=seed,
                      threshold=threshold, scaling=scaling, z=z, at=slice, tta=tta)
            for image in images
        ]  # fmt: skip

    def _one(
        self, image: media.Image, support: Support, *, roi: str, select: str, size: int, ensemble: int, seed: int,
        threshold: float, scaling: Literal["percentiles", "min-max"], z: Literal["index", "relative"], at: int | None,
        tta: bool,
    ) -> InContextSegmentation:  # fmt: skip
        scan = Scan.of(image, self.config.side, scaling)
        notes = []
        known_place = image.ndim_spatial == 3 or at is not None
        if select == "z-weighted" and not (known_place and (support.z >= 0).all()):
            select = "random"
            notes.append("the place of a slice in its volume isn't known, so all supports are drawn alike")
        if self.config.method == "universeg":
            places = np.arange(len(scan.slices), dtype=float) if image.ndim_spatial == 3 else np.full(1, float(at or 0))
            w = weights(support, places, len(scan.slices), select, z)
            rng = np.random.default_rng([0x5E6, seed])
            index = drawn(w, len(support) if select == "all" else size, ensemble, rng)
            mean, spread = self.segment(scan.slices, support, index, tta=tta)
        else:
            notes.append("these weights are of a U-Net, which needs no support set: the one given wasn't looked at")
            index, w = np.zeros((1, len(scan.slices), 0), int), np.zeros((len(scan.slices), 0))
            mean = unet_probability(self.net, scan.slices, tta=True)
            spread = np.zeros_like(mean)
        probability = scan.back(mean)
        mask = probability > threshold
        grid = voxels(image)[1] if image.ndim_spatial == 3 else None
        used = Used(support, index, w)
        return InContextSegmentation.of(scan, mask, probability, scan.back(spread), used, roi, grid, tuple(notes))

    @torch.no_grad()
    def segment(
        self, slices: Float32[np.ndarray, "q s s"], support: Support, index: Int[np.ndarray, "t q k"], *,
        tta: bool = False, progress: bool = True,
    ) -> tuple[Float32[np.ndarray, "q s s"], Float32[np.ndarray, "q s s"]]:  # fmt: skip
        """Mean and standard deviation over ``t`` draws of the probability, for every slice (Sec. 3.2).

        What the first level makes of the supports is kept across slices, as far as it fits into ``KEPT``.
        """
        net, device = self.net, self.device
        assert isinstance(net, UniverSeg)
        pairs = torch.from_numpy(np.stack([support.images, support.labels.astype(np.float32)], 1))
        fits = len(pairs) * self.config.channels[0] * self.config.side**2 * 4 <= KEPT
        known = net.known(pairs.to(device)) if fits else None
        means, spreads = (np.empty(slices.shape, np.float32) for _ in range(2))
        with Bar("slices", len(slices), enabled=progress) as bar:
            for q, grey in enumerate(slices):
                x = torch.from_numpy(np.ascontiguousarray(grey))[None, None].to(device)
                views = [(), (2,), (3,), (2, 3)] if tta else [()]
                found = []
                for row in index[:, q]:
                    chosen = pairs[row].to(device)
                    whole = known is not None and len(row) == len(known)
                    theirs = known if whole else net.known(chosen) if known is None else known[row]
                    assert theirs is not None
                    mean_pair = chosen.mean(0, keepdim=True)
                    logits = [net.query(x.flip(v), mean_pair, theirs[None]).flip(v) for v in views]
                    found.append(torch.stack([one.sigmoid() for one in logits]).mean(0)[0, 0])
                stack = torch.stack(found)
                means[q], spreads[q] = stack.mean(0).cpu().numpy(), stack.std(0, correction=0).cpu().numpy()
                bar.update(q + 1)
        return means, spreads


def convert(released: Mapping[str, Tensor]) -> UniverSegProstate:
    """The model with the tensors of ``universeg_v1_nf64_ss64_STA.pt``. Raises ``WeightsError`` for any other layout."""
    channels, state = renamed(released)
    model = UniverSegProstate(UniverSegConfig(channels=channels))
    model.net.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model.eval()
