"""A classifier taken apart at its last feature map: what each channel saw where, and the answers from some channels.

    apart = Timm(net)                    # any network with timm's forward_features and forward_head
    apart = Hooked(model.answer, model.backbone, log=True)        # any other, at a module that gives the map
    maps, logits = apart(x, choose)      # choose(maps) gives masks [m b c]; logits are [m b k], one row for each mask

The trunk runs once, whatever the number of masks. A transformer's tokens are laid out as a map without its class token,
which a mask reaches too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import OptionError

Choose = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "m b c"]]
Apart = Callable[[Tensor, Choose], tuple[Tensor, Tensor]]
"""A classifier that can be taken apart: from images to the last map, and its logits under each mask of channels."""

Layout = Literal["bchw", "bhwc", "tokens"]


class Timm:
    """A network with ``forward_features`` and ``forward_head``, as timm's have and as :class:`Pooled` has.

    Raises ``OptionError`` for one whose features have no places, such as an MLP's, once it is asked.
    """

    def __init__(self, net: Any) -> None:
        self.net = net

    def __call__(
        self, x: Float[Tensor, "b 3 s s"], choose: Choose
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "m b k"]]:
        raw = self.net.forward_features(x)
        layout = self._layout(raw)
        maps = self._on_grid(raw, layout)
        logits = [self.net.forward_head(_muted(raw, mask, layout)) for mask in choose(maps)]
        return maps, torch.stack(logits)

    def _layout(self, raw: Any) -> Layout:
        if isinstance(raw, Tensor) and raw.ndim == 4:
            return "bhwc" if str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC") else "bchw"
        if isinstance(raw, Tensor) and raw.ndim == 3:
            return "tokens"
        raise OptionError(f"{type(self.net).__name__} gives no map with places before its classifier; choose another")

    def _on_grid(self, raw: Tensor, layout: Layout) -> Float[Tensor, "b c h w"]:
        if layout == "bchw":
            return raw
        if layout == "bhwc":
            return raw.movedim(-1, 1)
        places = raw[:, int(getattr(self.net, "num_prefix_tokens", 0)) :]
        stated = getattr(getattr(self.net, "patch_embed", None), "grid_size", None)
        side = math.isqrt(places.shape[1])
        h, w = (int(stated[0]), int(stated[1])) if stated else (side, side)
        if h * w != places.shape[1]:
            raise OptionError(f"{type(self.net).__name__} has {places.shape[1]} tokens, which are no grid")
        return places.transpose(1, 2).unflatten(2, (h, w))


class Hooked:
    """Any network at the module ``layer``, whose output is the last map that is looked at.

    ``answer``: from images to logits, or to probabilities, of which ``log`` takes the logarithm. It is asked once for
    each mask, the first time with the trunk; afterwards ``layer`` gives the map that it gave then. Not for several
    threads at once.
    """

    def __init__(self, answer: Callable[[Tensor], Tensor], layer: nn.Module, *, log: bool = False) -> None:
        self.answer, self.layer, self.log = answer, layer, log

    def __call__(
        self, x: Float[Tensor, "b 3 s s"], choose: Choose
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "m b k"]]:
        seen: list[Tensor] = []
        masks: list[Tensor] = []

        def first(_: nn.Module, __: Any, maps: Any) -> Tensor:
            if not isinstance(maps, Tensor) or maps.ndim != 4 or seen:
                raise OptionError(f"{type(self.layer).__name__} doesn't give one map [b c h w] for each image")
            seen.append(maps)
            masks.extend(choose(maps))
            return _muted(maps, masks[0], "bchw")

        handle = self.layer.register_forward_hook(first)
        try:
            found = [self.answer(x)]
        finally:
            handle.remove()
        if not seen:
            raise OptionError(f"{type(self.layer).__name__} takes no part in the answer")
        for mask in masks[1:]:
            with _giving(self.layer, _muted(seen[0], mask, "bchw")):
                found.append(self.answer(x))
        logits = torch.stack(found)
        return seen[0], logits.clamp(min=1e-38).log() if self.log else logits


@contextmanager
def _giving(layer: nn.Module, maps: Tensor) -> Iterator[None]:
    """``layer`` gives these maps, whatever it is given."""
    layer.forward = lambda *_, **__: maps  # type: ignore[method-assign]
    try:
        yield
    finally:
        del layer.forward


class Pooled(nn.Module):
    """A backbone that gives maps of so many channels, their mean over places, one linear layer: with timm's names."""

    def __init__(self, backbone: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(channels, classes)

    def forward_features(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.backbone(x)

    def forward_head(
        self, maps: Float[Tensor, "b c h w"], pre_logits: bool = False
    ) -> Float[Tensor, "b k"] | Float[Tensor, "b c"]:
        """Logits, or with ``pre_logits`` what the linear layer gets."""
        pooled = maps.mean((2, 3))
        return pooled if pre_logits else self.head(pooled)

    def get_classifier(self) -> nn.Linear:
        return self.head

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        return self.forward_head(self.forward_features(x))


def _muted(raw: Tensor, mask: Float[Tensor, "b c"], layout: Layout) -> Tensor:
    """The channels times their mask, at every place."""
    shape = {"bchw": (*mask.shape, 1, 1), "bhwc": (len(mask), 1, 1, -1), "tokens": (len(mask), 1, -1)}[layout]
    return raw * mask.view(shape)
