"""The most similar cell of every prototype, without the table of all similarities."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.ops import _library, _ways
from zoo.ops._rows import inverse_norm, product, refuse_not_finite, sample, unit, widen

Metric = Literal["cosine", "l2", "log"]
Reduce = Literal["max", "none"]

LOG_EPSILON = 1e-4  # of ProtoPNet's activation


def prototype_similarity(
    features: Float[Tensor, "b n d"] | Float[Tensor, "b d h *spatial"],
    prototypes: Float[Tensor, "p d"],
    *,
    metric: Metric = "cosine",
    reduce: Reduce = "max",
) -> tuple[Float[Tensor, "b p *cells"], Int[Tensor, "b p"]]:
    r"""Similarity of every prototype with its best cell, and which cell that is.

    With cells :math:`x_{bn}` and prototypes :math:`p_k` (vectors of length ``d``)

    .. math::
        s_{bk} = \max_n s(x_{bn}, p_k), \qquad j_{bk} = \arg\max_n s(x_{bn}, p_k)

    where, by ``metric``,

    - ``"cosine"``: :math:`s = x \cdot p / (\|x\| \|p\|)`, in [-1, 1] up to rounding. A cell or prototype whose norm is
      at most 1e-8 has similarity 0 with everything and receives no gradient.
    - ``"l2"``: :math:`s = -\|x - p\|^2`, at most 0.
    - ``"log"``: :math:`s = \log((\|x - p\|^2 + 1) / (\|x - p\|^2 + 10^{-4}))`, ProtoPNet's activation, in (0, 9.21].

    Args:
        features: a feature map ``[b, d, *spatial]`` of four or more dimensions, or a set of cells ``[b, n, d]``: a
            tensor of three dimensions is always read as ``[b, n, d]`` (transpose a 1-D map ``[b, d, length]`` first).
            Any strides; float32, float64, float16 or bfloat16. Half precision is accumulated in float32.
        prototypes: ``[p, d]``, of the same dtype and on the same device. Under autocast both are taken as float32.
        metric: how a cell is compared with a prototype.
        reduce: ``"max"`` keeps the best cell and never stores ``b x n x p`` numbers (where PyTorch's product is taken,
            :func:`zoo.ops.ways`, at most 16 M of them at once); ``"none"`` returns the similarity
            of every cell (heatmaps), which is a table of that size by nature and always runs in PyTorch.

    Returns:
        ``(similarity, argmax)``. Similarity is ``[b, p]`` for ``"max"``; for ``"none"`` it is ``[b, p, *spatial]`` (or
        ``[b, p, n]``). ``argmax`` is ``[b, p]`` int64, an index into the flattened cells; of equal similarities the
        lowest. The gradient of ``"max"`` reaches the winning cell alone, and its prototype.

    Raises:
        ValueError: wrong rank, mixed dtype or device, different ``d``, no cell, an unknown option.
        RuntimeError: on CPU, features or prototypes that are not finite. On CUDA, where that check would stall the
            stream, NaN wins the maximum, as in ``torch.max``. Norms are sums of squares in float32 (float64 for
            float64): entries beyond about 1e18 overflow and count as not finite.

    Source: C. Santiago et al., Global and Local Explanations for Skin Cancer Diagnosis Using Prototypes, 2023,
    Sec. 2 (cosine); C. Chen et al., This Looks Like That, 2019, Sec. 2.1 (log activation).
    """
    _refuse(features, prototypes, metric, reduce)
    if _library.autocasts(features.device):
        features, prototypes = features.float(), prototypes.float()  # what autocast does for cosine_similarity
    spatial = features.shape[1:2] if features.dim() == 3 else features.shape[2:]
    cells = features if features.dim() == 3 else features.flatten(2).transpose(1, 2)
    if reduce == "max":
        few = cells.shape[1] * len(prototypes) <= LARGEST_TABLE and 0 not in (*cells.shape, *prototypes.shape)
        arguments = (cells, prototypes, metric)
        found = _ways.take(
            "prototype_similarity", arguments, lambda: sizes(cells, prototypes), {"matmul": by_matmul}, lambda _: few
        )
        if found is not None:
            return found
        if _library.use_compiled("prototype_similarity", cells.device):
            return torch.ops.zoo.prototype_similarity(*arguments)
        return reference(*arguments)
    refuse_not_finite(features=cells, prototypes=prototypes)
    table = _table(cells, prototypes, metric)
    return table.transpose(1, 2).reshape(*table.shape[::2], *spatial), table.detach().argmax(1)


def reference(
    cells: Float[Tensor, "b n d"], prototypes: Float[Tensor, "p d"], metric: Metric = "cosine"
) -> tuple[Float[Tensor, "b p"], Int[Tensor, "b p"]]:
    """The operator in plain PyTorch: find the winners from the whole table, then compare them again, differentiably."""
    refuse_not_finite(features=cells, prototypes=prototypes)
    with torch.no_grad():
        argmax = _table(cells, prototypes, metric, narrow=False).argmax(1)
    return _compare(cells, prototypes, argmax, metric)


def _compare(
    cells: Float[Tensor, "b n d"], prototypes: Float[Tensor, "p d"], argmax: Int[Tensor, "b p"], metric: Metric
) -> tuple[Float[Tensor, "b p"], Int[Tensor, "b p"]]:
    """The winners with their prototypes."""
    winners = _gather(cells, argmax)
    x, p = widen(winners), widen(prototypes)
    similarity = (unit(x) * unit(p)).sum(-1) if metric == "cosine" else _activation((x - p).square().sum(-1), metric)
    return similarity.to(cells.dtype), argmax


LARGEST_TABLE = 2**24
"""Similarities that :func:`by_matmul` holds at once."""


def by_matmul(
    cells: Float[Tensor, "b n d"], prototypes: Float[Tensor, "p d"], metric: Metric = "cosine"
) -> tuple[Float[Tensor, "b p"], Int[Tensor, "b p"]]:
    """The operator by the library's product, some maps at a time; forward alone."""
    refuse_not_finite(features=cells, prototypes=prototypes)
    maps = max(1, LARGEST_TABLE // (cells.shape[1] * len(prototypes)))
    argmax = torch.cat([_winners(part, prototypes, metric) for part in cells.split(maps)])
    return _compare(cells, prototypes, argmax, metric)


def _winners(cells: Float[Tensor, "b n d"], prototypes: Float[Tensor, "p d"], metric: Metric) -> Int[Tensor, "b p"]:
    x, p = widen(cells), widen(prototypes)
    table = product(cells, prototypes.T.expand(len(cells), -1, -1))
    if metric == "cosine":
        return (table * inverse_norm(x) * inverse_norm(p).T).argmax(1)
    distance = x.square().sum(-1, keepdim=True) + p.square().sum(-1) - 2 * table
    return (-distance).argmax(1)


def sizes(cells: Tensor, prototypes: Tensor) -> dict[str, float]:
    """Of a call, as ``ways.json`` names them."""
    b, n, d = cells.shape
    return {"flops": 2.0 * b * n * d * len(prototypes), "columns": d}


def _table(cells: Tensor, prototypes: Tensor, metric: Metric, *, narrow: bool = True) -> Tensor:
    """The similarity of every cell with every prototype, [b n p]."""
    x, p = widen(cells), widen(prototypes)
    if metric == "cosine":
        table = unit(x) @ unit(p).T
    else:
        # |x|^2 + |p|^2 - 2xp: nothing of size b x n x p x d.
        distance = x.square().sum(-1, keepdim=True) + p.square().sum(-1) - 2 * (x @ p.T)
        table = _activation(distance.clamp_min(0), metric) if narrow else -distance
    return table.to(cells.dtype) if narrow else table


def _activation(distance: Tensor, metric: Metric) -> Tensor:
    return -distance if metric == "l2" else torch.log((distance + 1) / (distance + LOG_EPSILON))


def _gather(cells: Float[Tensor, "b n d"], argmax: Int[Tensor, "b p"]) -> Float[Tensor, "b p d"]:
    return cells.gather(1, argmax.unsqueeze(-1).expand(-1, -1, cells.shape[2]))


def _refuse(features: Tensor, prototypes: Tensor, metric: str, reduce: str) -> None:
    if metric not in get_args(Metric):
        raise ValueError(f"metric must be one of {', '.join(get_args(Metric))}, not {metric!r}")
    if reduce not in get_args(Reduce):
        raise ValueError(f"reduce must be one of {', '.join(get_args(Reduce))}, not {reduce!r}")
    if features.dim() < 3:
        raise ValueError(f"features must be [b, n, d] or [b, d, *spatial], not of shape {tuple(features.shape)}")
    if prototypes.dim() != 2:
        raise ValueError(f"prototypes must be [p, d], not of shape {tuple(prototypes.shape)}")
    supported = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    if features.dtype not in supported:
        raise ValueError(f"features must be float32, float64, float16 or bfloat16, not {features.dtype}")
    mixed = _library.autocasts(features.device) and prototypes.dtype in supported
    if features.dtype != prototypes.dtype and not mixed:
        raise ValueError(
            f"features and prototypes must have the same dtype, not {features.dtype} and {prototypes.dtype}"
        )
    if features.device != prototypes.device:
        raise ValueError(
            f"features and prototypes must be on the same device, not {features.device} and {prototypes.device}"
        )
    d = features.shape[2 if features.dim() == 3 else 1]
    if d != prototypes.shape[1]:
        layout = "[b, n, d]" if features.dim() == 3 else "[b, d, *spatial]"
        raise ValueError(f"prototypes have d = {prototypes.shape[1]}, but features, read as {layout}, have d = {d}")
    cells = features.shape[1:2] if features.dim() == 3 else features.shape[2:]
    if 0 in cells:
        raise ValueError(f"features must have at least one cell, not the shape {tuple(features.shape)}")


def _fake(features: Tensor, prototypes: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    shape = (features.shape[0], prototypes.shape[0])
    return features.new_empty(shape), features.new_empty(shape, dtype=torch.int64)


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, Tensor, Metric], output: tuple[Tensor, Tensor]) -> None:
    features, prototypes, ctx.metric = inputs
    ctx.save_for_backward(features, prototypes, output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
    features, prototypes, argmax = ctx.saved_tensors
    # The kernel has no derivative of its own: a backward that is to be differentiated again runs in PyTorch.
    if features.device.type == "cpu" and not torch.is_grad_enabled():
        grad_features, grad_prototypes = torch.ops.zoo.prototype_similarity_backward(
            grad, features, prototypes, argmax, ctx.metric
        )
    else:
        grad_features, grad_prototypes = _backward_reference(grad, features, prototypes, argmax, ctx.metric)
    return grad_features.to(features.dtype), grad_prototypes.to(prototypes.dtype), None


def _backward_reference(
    grad: Tensor, features: Tensor, prototypes: Tensor, argmax: Tensor, metric: Metric
) -> tuple[Tensor, Tensor]:
    """The gradient in plain PyTorch and in the type of accumulation, some batch rows at a time."""
    rows = max(1, 2**24 // max(1, prototypes.numel()))  # at most 16 M gathered numbers
    batches = zip(grad.split(rows), features.split(rows), argmax.split(rows), strict=True)
    parts = [_backward_rows(g, x, prototypes, index, metric) for g, x, index in batches]
    return torch.cat([part[0] for part in parts]), torch.stack([part[1] for part in parts]).sum(0)


def _backward_rows(
    grad: Tensor, features: Tensor, prototypes: Tensor, argmax: Tensor, metric: Metric
) -> tuple[Tensor, Tensor]:
    x, p, g = widen(_gather(features, argmax)), widen(prototypes), widen(grad).unsqueeze(-1)
    if metric == "cosine":
        x_scale, p_scale = inverse_norm(x), inverse_norm(p)
        x_unit, p_unit = x * x_scale, p * p_scale
        cosine = (x_unit * p_unit).sum(-1, keepdim=True)
        grad_x = g * (p_unit - cosine * x_unit) * x_scale
        grad_p = (g * (x_unit - cosine * p_unit) * p_scale).sum(0)
    else:
        difference = x - p
        if metric == "log":
            distance = difference.square().sum(-1, keepdim=True)
            g = g * (1 / (distance + LOG_EPSILON) - 1 / (distance + 1))
        grad_x = -2 * g * difference
        grad_p = -grad_x.sum(0)
    index = argmax.unsqueeze(-1).expand_as(grad_x)
    return torch.zeros_like(features, dtype=grad_x.dtype).scatter_add(1, index, grad_x), grad_p


def _backward_fake(
    grad: Tensor, features: Tensor, prototypes: Tensor, argmax: Tensor, metric: str
) -> tuple[Tensor, Tensor]:
    b, n, d = features.shape
    wide = torch.float64 if features.dtype == torch.float64 else torch.float32
    neighbours = features.stride(1) == 1 and features.stride(2) != 1  # the cells of a feature map
    shape = (b, d, n) if neighbours else (b, n, d)
    grad_features = features.new_empty(shape, dtype=wide)
    return grad_features.transpose(1, 2) if neighbours else grad_features, prototypes.new_empty(
        prototypes.shape, dtype=wide
    )


def _check(device: torch.device) -> tuple[Tensor, ...]:
    """For the comparison of kernel and reference: a map whose cells are neighbours in memory, and sets of cells."""
    found: tuple[Tensor, ...] = ()
    for dtype in (torch.float32, torch.float16):
        features, prototypes = (sample(shape, 0).to(device, dtype) for shape in ((2, 24, 7, 7), (5, 24)))
        for metric in get_args(Metric):
            found += prototype_similarity(features, prototypes, metric=metric)
    return found


def _check_halves(device: torch.device) -> tuple[Tensor, ...]:
    """For the comparison of the library's way: a map and sets, equal cells, cells of no length."""
    found: tuple[Tensor, ...] = ()
    for dtype in (torch.float16, torch.bfloat16):
        features, prototypes = (sample(shape, 0).to(device, dtype) for shape in ((2, 24, 7, 7), (5, 24)))
        features[:, :, 3:5] = features[:, :, :2]
        features[0, :, 6, 6], prototypes[4] = 0, 0
        for metric in get_args(Metric):
            found += prototype_similarity(features, prototypes, metric=metric)
            found += prototype_similarity(features.flatten(2).transpose(1, 2), prototypes, metric=metric)
    return found


if _library.declare("prototype_similarity", _check):
    torch.library.register_fake("zoo::prototype_similarity", _fake)
    torch.library.register_fake("zoo::prototype_similarity_backward", _backward_fake)
    torch.library.register_autograd("zoo::prototype_similarity", _backward, setup_context=_save_for_backward)

_ways.declare("prototype_similarity", "matmul", _check_halves)
