"""UniverSeg's network: one image, and a set of labelled ones that say what is to be segmented in it.

Supports only meet the query through a mean over all of them, so any number of them may be given, in any order. The
cross convolution is linear before that mean (the released v1 has no activation there), and three savings rest on it:

* ``Conv(cat(u, v_i)) = Conv_u(u) + Conv_v(v_i)``: nothing is concatenated, and the query's half is computed once;
* at the last block only the query's output is used, and ``mean_i Conv_v(v_i) = Conv_v(mean_i v_i)``;
* at the first level ``Conv_s(Conv_u(u) + Conv_v(v_i)) = Conv_s(Conv_u(u)) + Conv_s(Conv_v(v_i))``, whose second part
  doesn't depend on the query: it is kept (:meth:`UniverSeg.known`) across all slices of a volume.

:func:`plain` is the network as it is drawn, without any of this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import WeightsError

SLOPE = 0.01  # of the leaky ReLU, as released
AT_ONCE = 8  # supports whose maps of full size are in memory at a time


class CrossBlock(nn.Module):
    """Query u and supports v_i: z_i = Conv(u, v_i); u' = LeakyReLU(Conv(mean_i z_i)), v_i' = LeakyReLU(Conv'(z_i))."""

    def __init__(self, query: int, support: int, width: int) -> None:
        super().__init__()
        self.cross = nn.Conv2d(query + support, width, 3, padding=1)  # the query's channels first
        self.query = nn.Conv2d(width, width, 3, padding=1)
        self.support = nn.Conv2d(width, width, 3, padding=1)
        self.split = query
        nn.init.kaiming_normal_(self.cross.weight, nonlinearity="linear")
        for convolution in (self.query, self.support):
            nn.init.kaiming_normal_(convolution.weight, a=SLOPE)
        for convolution in (self.cross, self.query, self.support):
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]

    def of_query(self, u: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """The query's half of the cross convolution; the bias belongs to the sum once and is here."""
        return F.conv2d(u, self.cross.weight[:, : self.split], self.cross.bias, padding=1)

    def of_support(self, v: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        return F.conv2d(v, self.cross.weight[:, self.split :], padding=1)


class UniverSeg(nn.Module):
    """``channels``: of the encoder's blocks, from the top; the decoder mirrors all but the last of them.

    The released network is ``(64, 64, 64, 64)`` with 1,182,785 parameters.
    """

    def __init__(self, channels: Sequence[int] = (64, 64, 64, 64)) -> None:
        super().__init__()
        down = list(channels)
        inputs = [(1, 2), *((c, c) for c in down[:-1])]
        encoder = nn.ModuleList(CrossBlock(*taken, c) for taken, c in zip(inputs, down, strict=True))
        self.encoder = cast(Sequence[CrossBlock], encoder)
        up = down[-2::-1]
        taken = [below + skip for below, skip in zip([down[-1], *up[:-1]], up, strict=True)]
        decoder = nn.ModuleList(CrossBlock(n, n, c) for n, c in zip(taken, up, strict=True))
        self.decoder = cast(Sequence[CrossBlock], decoder)
        self.out = nn.Conv2d(up[-1], 1, 1)
        nn.init.kaiming_normal_(self.out.weight, nonlinearity="linear")
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def known(self, pairs: Float[Tensor, "n 2 h w"]) -> Float[Tensor, "n c h w"]:
        """What the first level makes of supports (image, label) whatever the query is; to be kept."""
        block = self.encoder[0]
        return F.conv2d(block.of_support(pairs), block.support.weight, padding=1)

    def forward(
        self,
        query: Float[Tensor, "b 1 h w"],
        images: Float[Tensor, "b s 1 h w"],
        labels: Float[Tensor, "b s 1 h w"],
    ) -> Float[Tensor, "b 1 h w"]:
        """Logits. Images in [0, 1], labels 0 or 1; h and w divisible by 2 to the power of (levels - 1)."""
        pairs = torch.cat([images, labels], 2)
        known = self.known(pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2])
        return self.query(query, pairs.mean(1), known)

    def query(
        self,
        query: Float[Tensor, "b 1 h w"],
        mean_pair: Float[Tensor, "b 2 h w"],
        known: Float[Tensor, "b s c h w"],
    ) -> Float[Tensor, "b 1 h w"]:
        """Logits from what is :meth:`known` of the supports, and the mean of their images and labels."""
        first, size = self.encoder[0], known.shape[:2]
        mine = first.of_query(query)
        u = F.leaky_relu(first.query(mine + first.of_support(mean_pair)), SLOPE)
        add, total, pooled = first.support(mine), torch.zeros_like(u), []
        for some in known.split(AT_ONCE, 1):
            full = F.leaky_relu(add[:, None] + some, SLOPE)
            total = total + full.sum(1)
            pooled.append(F.max_pool2d(full.flatten(0, 1), 2).unflatten(0, full.shape[:2]))
        # of the topmost skip only the mean is needed, by the last block
        skips: list[tuple[Tensor, Tensor]] = [(u, total[:, None] / size[1])]
        v = torch.cat(pooled, 1)
        for depth, block in enumerate(self.encoder[1:], start=2):
            u, v = _crossed(block, F.max_pool2d(u, 2), v)
            if depth < len(self.encoder):
                skips.append((u, v))
                v = F.max_pool2d(v.flatten(0, 1), 2).unflatten(0, size)
        for block in self.decoder:
            beside, theirs = skips.pop()
            last = not skips
            v = v.mean(1, keepdim=True) if last else v
            u = torch.cat([_larger(u), beside], 1)
            v = torch.cat([_larger(v.flatten(0, 1)).unflatten(0, v.shape[:2]), theirs], 2)
            if last:
                u = F.leaky_relu(block.query(block.of_query(u) + block.of_support(v[:, 0])), SLOPE)
            else:
                u, v = _crossed(block, u, v)
        return self.out(u)


def _crossed(
    block: CrossBlock, u: Float[Tensor, "b c h w"], v: Float[Tensor, "b s c2 h w"]
) -> tuple[Float[Tensor, "b d h w"], Float[Tensor, "b s d h w"]]:
    mine, theirs = block.of_query(u), block.of_support(v.flatten(0, 1)).unflatten(0, v.shape[:2])
    u = F.leaky_relu(block.query(mine + theirs.mean(1)), SLOPE)
    z = (mine[:, None] + theirs).flatten(0, 1)
    return u, F.leaky_relu(block.support(z), SLOPE).unflatten(0, v.shape[:2])


def _larger(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
    """Twice the size. The corners are aligned, as in the released network: otherwise its weights give other maps."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def plain(
    net: UniverSeg,
    query: Float[Tensor, "b 1 h w"],
    images: Float[Tensor, "b s 1 h w"],
    labels: Float[Tensor, "b s 1 h w"],
) -> Float[Tensor, "b 1 h w"]:
    """The network as it is drawn: the query is concatenated with every support. The reference of ``forward``."""

    def each(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def crossed(block: CrossBlock, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        z = each(block.cross, torch.cat([u[:, None].expand(-1, v.shape[1], -1, -1, -1), v], 2))
        return F.leaky_relu(block.query(z.mean(1)), SLOPE), F.leaky_relu(each(block.support, z), SLOPE)

    pool, larger = nn.MaxPool2d(2), nn.UpsamplingBilinear2d(scale_factor=2)
    u, v, skips = query, torch.cat([images, labels], 2), []
    for depth, block in enumerate(net.encoder, start=1):
        u, v = crossed(block, u, v)
        if depth < len(net.encoder):
            skips.append((u, v))
            u, v = pool(u), each(pool, v)
    for block in net.decoder:
        beside, theirs = skips.pop()
        u, v = crossed(block, torch.cat([larger(u), beside], 1), torch.cat([each(larger, v), theirs], 2))
    return net.out(u)


# ---- the released weights --------------------------------------------------------------------------------------------

_PARTS = {"cross.cross_conv": "cross", "target.vmapped.conv": "query", "support.vmapped.conv": "support"}
_KEY = re.compile(rf"(enc|dec)_blocks\.(\d+)\.({'|'.join(map(re.escape, _PARTS))})\.(weight|bias)")


def renamed(released: Mapping[str, Tensor]) -> tuple[tuple[int, ...], dict[str, Tensor]]:
    """Channels and state of a :class:`UniverSeg` from tensors that are called as in ``universeg_v1_nf64_ss64_STA.pt``.

    Raises ``WeightsError`` for a name that isn't of that layout, one that is missing, and a shape that doesn't fit.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in released.items():
        found = _KEY.fullmatch(name)
        if found:
            state[f"{found[1]}oder.{found[2]}.{_PARTS[found[3]]}.{found[4]}"] = tensor
        elif name in ("out_conv.conv.weight", "out_conv.conv.bias"):
            state[f"out.{name.rpartition('.')[2]}"] = tensor
        else:
            raise WeightsError(f"the tensor {name[:60]!r} is none of UniverSeg's; give the weights of its release")
    channels: list[int] = []
    while (key := f"encoder.{len(channels)}.cross.weight") in state:
        channels.append(len(state[key]))
    if len(channels) < 2 or max(channels) > 4096:
        raise WeightsError("these are no weights of UniverSeg: they lack enc_blocks.1; give those of its release")
    with torch.device("meta"):
        expected = UniverSeg(channels).state_dict()
    lacking = [name for name in expected if name not in state]
    wrong = [name for name, tensor in state.items() if name not in expected or expected[name].shape != tensor.shape]
    if lacking or wrong:
        what = f"{lacking[0]} is missing" if lacking else f"{wrong[0]} has shape {list(state[wrong[0]].shape)}"
        raise WeightsError(f"these weights of UniverSeg don't fit together: {what}; get the file again")
    return tuple(channels), state
