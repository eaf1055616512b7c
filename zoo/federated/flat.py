"""Models as one vector, for rules that compare what clients send: parameters by name, and back again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.federated.exchange import State, Tensors


def flat(tensors: Iterable[Tensor]) -> Float[Tensor, " d"]:
    """All in one vector, in double precision."""
    return torch.cat([tensor.double().flatten() for tensor in tensors])


def unflat(vector: Float[Tensor, " d"], names: Sequence[str], like: Mapping[str, Tensor]) -> Tensors:
    """The tensors of these names again, in the shapes and number types of ``like``."""
    parts = vector.split([like[name].numel() for name in names])
    return {n: p.reshape(like[n].shape).to(like[n].dtype) for n, p in zip(names, parts, strict=True)}


def adam_step(
    state: State, names: Sequence[str], gradient: Float[Tensor, " d"], lr: float
) -> tuple[Float[Tensor, " d"], dict[str, Any]]:
    """The server's parameters after a step of Adam along ``gradient``, and Adam's state, for ``own["adam"]``."""
    here = nn.Parameter(flat(state.network[name] for name in names))
    adam = torch.optim.Adam([here], lr=lr)
    if "adam" in state.own:
        adam.load_state_dict(state.own["adam"])
    here.grad = gradient
    adam.step()
    return here.detach(), adam.state_dict()
