"""The federation's network and ``predict``, over a link that may lose packets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zoo import media
from zoo.data.images import resize, to_tensor
from zoo.errors import OptionError
from zoo.federated import Link
from zoo.metrics.pixels import counts
from zoo.model import Model
from zoo.models.splitfed_embryo import plugin
from zoo.models.splitfed_embryo.data import jaccard, mean_of, nearest, view
from zoo.models.splitfed_embryo.network import Split, SplitFedConfig, SplitUNet
from zoo.models.splitfed_embryo.result import Crossing, EmbryoSegmentation


class Passed(NamedTuple):
    """What came out, and what was on either side of the link."""

    logits: Float[Tensor, "b k s s"]
    up: tuple[Tensor, Tensor]  # features sent by the client, and as they arrived at the server
    down: tuple[Tensor, Tensor]  # features sent by the server, and as they arrived at the client


def across_link(network: SplitUNet, x: Float[Tensor, "b 3 s s"], link: Link, step: int) -> Passed:
    """Client, link, server, link, client."""
    features = network.front(x)
    arrived = link.across(features.up, "features-up", step)
    given = network.server(arrived)
    back = link.across(given, "features-down", step)
    return Passed(network.back(back, features.skip), (features.up, arrived), (given, back))


class SplitFedEmbryo(Model[EmbryoSegmentation]):
    """Components of a blastocyst, by the network of both clients and server."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = SplitFedConfig

    def __init__(self, config: SplitFedConfig | None = None) -> None:
        super().__init__(config)
        self.network = SplitUNet(self.config)

    def forward(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b k s s"]:
        """Logits over a link that loses nothing; ``x`` in [0, 1]."""
        return self.network(x)

    def _predict(
        self, images: Sequence[media.Image], *, packet_loss: float, split: str, seed: int, reference: Any,
        link_tensors: bool,
    ) -> list[EmbryoSegmentation]:  # fmt: skip
        """The class of every pixel of the whole picture, which is squeezed to the network's square.

        ``packet_loss``: share of the rows that are lost on the way up and down, by draws from ``seed``; ``split``: at
        which cut. Raises ``OptionError`` for a ``reference`` of another size or with other classes.
        """
        network = self.network if split in ("trained", self.config.split) else self._cut_at(split)
        truth = None if reference is None else media.read_labels(reference).require_2d("reference").array
        return [self._segmented(image, network, packet_loss, seed, truth, link_tensors) for image in images]

    def _segmented(
        self, image: media.Image, network: SplitUNet, rate: float, seed: int, truth: np.ndarray | None, tensors: bool
    ) -> EmbryoSegmentation:
        labels = self.config.labels
        x = to_tensor([view(image, self.config)], self.device)
        passed = across_link(network, x, Link(rate, seed, 0, 0), 0)
        p = passed.logits[0].softmax(0).cpu().numpy()
        small = p.argmax(0)
        mask = nearest(small, image.size)
        found: dict[str, float] = {}
        clean = None
        if rate > 0:
            unharmed = network(x)[0].argmax(0).cpu().numpy()
            clean = nearest(unharmed, image.size)
            found["changed_share"] = float((clean != mask).mean())
        if truth is not None:
            if truth.shape != mask.shape:
                raise OptionError(f"reference is {truth.shape}, and the image {mask.shape}; give one of its size")
            if truth.max(initial=0) >= len(labels):
                raise OptionError(f"reference has the class {truth.max()}; its values are 0 to {len(labels) - 1}")
            each = jaccard(counts(mask, truth, len(labels)))[1:]
            named = {f"jaccard_{n}": float(v) for n, v in zip(labels[1:], each, strict=True) if not np.isnan(v)}
            found |= named | ({"MJI": mean_of(each)} if named else {})
        shown = rate > 0 or tensors
        crossing = Crossing(_maps(passed.up), _maps(passed.down), network.split) if shown else None
        return EmbryoSegmentation(
            options={"split": network.split},
            image=image,
            mask=mask,
            labels=labels,
            probability=np.clip(resize(np.moveaxis(p, 0, 2), image.size, "bilinear"), 0, 1).transpose(2, 0, 1),
            measurements=found,
            crossing=crossing,
            clean=clean,
            rate=rate,
            tensors=tensors,
        )

    def _cut_at(self, split: str) -> SplitUNet:
        """The same network with its link elsewhere."""
        cut: Split = "deep" if split == "deep" else "shallow"
        other = SplitUNet(replace(self.config, split=cut)).to(self.device).eval()
        other.load_state_dict(self.network.state_dict())
        return other

    def _network_features(self, images: Sequence[media.Image]) -> Float[Tensor, "n c"]:
        x = to_tensor([view(image, self.config) for image in images], self.device)
        z = self.network.server(self.network.front(x).up)
        return torch.cat([z.mean((2, 3)), z.std((2, 3))], 1)


def _maps(pair: tuple[Tensor, Tensor]) -> tuple[Float[np.ndarray, "c h w"], Float[np.ndarray, "c h w"]]:
    sent, arrived = (z[0].cpu().numpy().astype(np.float32) for z in pair)
    return sent, arrived
