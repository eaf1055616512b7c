"""Exact nearest neighbours among points of the plane or of space."""

from __future__ import annotations

import math
import weakref
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.ops import _library
from zoo.ops._rows import sample, widen

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Neighbors(NamedTuple):
    """The ``k`` nearest reference points of each query, nearest first."""

    distances: Float[Tensor, "n k"]  # of the query's dtype; infinity where there is none within max_distance
    indices: Int[Tensor, "n k"]  # int64 rows of the reference; -1 where there is none


def nearest_neighbors(
    query: Float[Tensor, "n d"],
    reference: Float[Tensor, "m d"],
    k: int = 1,
    max_distance: float | None = None,
) -> Neighbors:
    r"""The ``k`` reference points nearest to each query, by Euclidean distance. Exact.

    .. math::
        \text{indices}_i = \text{the } k \text{ least } j \text{ by } (\|q_i - r_j\|, j), \qquad
        \text{distances}_{il} = \|q_i - r_{\text{indices}_{il}}\| \le \text{max\_distance}

    Of equal distances the lowest index comes first. Distances are sums of squares of differences in float32 (float64
    for float64), so what is equal is decided in that arithmetic: differences below about 1e-19 (float32) are zero.

    The compiled kernel sorts the reference along a Hilbert curve into a tree of bounding boxes; use
    :class:`PointTree` to build it once for many queries.

    Args:
        query: ``[n, d]`` with ``d`` of 2 or 3; ``n`` may be 0. Any strides; float32, float64, float16 or bfloat16.
        reference: ``[m, d]`` of the same dtype, on the same device.
        k: neighbours per query, from 1 to ``m``.
        max_distance: neighbours farther away than this don't count. In the units of the points; ``None`` for no limit.

    Returns:
        ``Neighbors(distances, indices)``, both ``[n, k]``. ``distances`` are differentiable once with respect to both
        clouds, the choice of neighbours held fixed; at distance 0, and where there is no neighbour, the gradient is 0.

    Raises:
        ValueError: wrong rank or number of coordinates, mixed dtype or device, ``k`` out of range, an empty reference,
            a ``max_distance`` that is not positive.
        RuntimeError: on CPU, coordinates that are not finite or too large to be squared (beyond 1e18 in float32). On
            CUDA, where that check would stall the stream, such a point is nobody's neighbour and has none.

    Source: J. Skilling, Programming the Hilbert curve, 2004 (the order); the search is a plain branch and bound.
    """
    refuse_clouds(query=query, reference=reference)
    reach = _refuse(reference.shape[0], k, max_distance)
    if _library.use_compiled("nearest_neighbors", query.device):
        return Neighbors(*torch.ops.zoo.nearest_neighbors(query, reference, k, reach))
    return reference_nearest_neighbors(query, reference, k, reach)


def reference_nearest_neighbors(
    query: Float[Tensor, "n d"], reference: Float[Tensor, "m d"], k: int = 1, max_distance: float = math.inf
) -> Neighbors:
    """The operator in plain PyTorch: all distances, some queries at a time."""
    refuse_not_finite(query=query, reference=reference)
    with torch.no_grad():
        rows = max(1, 2**22 // reference.shape[0])
        q, r = widen(query), widen(reference)
        chosen = [_nearest(chunk, r, k) for chunk in q.split(rows)] or [q.new_empty((0, k), dtype=torch.int64)]
        index = torch.cat(chosen)
        near = _squares(q.unsqueeze(1), r[index]) <= torch.tensor(max_distance, dtype=q.dtype).square()
        index = torch.where(near, index, -1)
    difference = widen(query).unsqueeze(1) - widen(reference)[index.clamp_min(0)]
    square = difference.square().sum(-1)
    apart = (index >= 0) & (square > 0)
    distance = torch.where(apart, torch.where(apart, square, 1).sqrt(), 0)  # no gradient of sqrt at zero
    return Neighbors(distance.masked_fill(index < 0, math.inf).to(query.dtype), index)


def _nearest(query: Float[Tensor, "n d"], reference: Float[Tensor, "m d"], k: int) -> Int[Tensor, "n k"]:
    square = _squares(query.unsqueeze(1), reference.unsqueeze(0))
    if k == 1:
        return square.argmin(1, keepdim=True)  # the first of equals
    return square.sort(dim=1, stable=True).indices[:, :k]


def _squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1)


class PointTree:
    """Points, indexed once to be asked many times.

    The tree lives on the host: points are copied from wherever they are, and answers go back to the device of the
    question. It is the ``target`` of several calls of :func:`zoo.ops.icp`, or the reference of several queries.

    Args:
        points: ``[m, d]`` with ``d`` of 2 or 3 and ``m`` at least 1. Half precision is kept as float32.

    Raises:
        ValueError: wrong rank, number of coordinates or dtype, no point.
        RuntimeError: coordinates that are not finite.
    """

    def __init__(self, points: Float[Tensor, "m d"]) -> None:
        refuse_clouds(points=points)
        if points.shape[0] == 0:
            raise ValueError("points must have at least one point")
        self.points = widen(points.detach()).cpu().contiguous()
        refuse_not_finite(points=self.points)
        self.tree: int | None = None  # the number that the compiled library keeps it under
        if _library.use_compiled("nearest_neighbors", self.points.device):
            self.tree = torch.ops.zoo.point_tree(self.points)
            weakref.finalize(self, torch.ops.zoo.point_tree_drop, self.tree).atexit = False

    def __len__(self) -> int:
        return self.points.shape[0]

    def __reduce__(self) -> tuple[type[PointTree], tuple[Tensor]]:
        """A copy, or the same tree in another process, is built anew."""
        return PointTree, (self.points,)

    def query(self, query: Float[Tensor, "n d"], k: int = 1, max_distance: float | None = None) -> Neighbors:
        """As :func:`nearest_neighbors` against the points of this tree; not differentiable.

        Raises:
            ValueError: as there. The dtype of the query need not be that of the tree: it is converted.
            RuntimeError: coordinates that are not finite, whatever their device.
        """
        refuse_clouds(query=query)
        if query.shape[1] != self.points.shape[1]:
            raise ValueError(f"query has {query.shape[1]} coordinates, but the tree has {self.points.shape[1]}")
        reach = _refuse(len(self), k, max_distance)
        host = self.host(query)
        refuse_not_finite(query=host)
        if self.tree is None:
            found = reference_nearest_neighbors(host, self.points, k, reach)
        else:
            found = Neighbors(*torch.ops.zoo.point_tree_query(host, self.tree, k, reach))
        return Neighbors(found.distances.to(query), found.indices.to(query.device))

    def host(self, points: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Points as the tree takes them: contiguous, on the host, of its dtype."""
        return points.detach().to("cpu", self.points.dtype).contiguous()


def refuse_clouds(**clouds: Tensor) -> None:
    """``ValueError`` unless all are clouds ``[n, 2 or 3]`` of one dtype, one device, one number of coordinates."""
    first_name, first = next(iter(clouds.items()))
    for name, cloud in clouds.items():
        if cloud.dim() != 2 or cloud.shape[1] not in (2, 3):
            raise ValueError(f"{name} must be [n, 2] or [n, 3], not of shape {tuple(cloud.shape)}")
        if cloud.dtype not in DTYPES:
            raise ValueError(f"{name} must be float32, float64, float16 or bfloat16, not {cloud.dtype}")
        if cloud.dtype != first.dtype:
            raise ValueError(f"{first_name} and {name} must have the same dtype, not {first.dtype} and {cloud.dtype}")
        if cloud.device != first.device:
            raise ValueError(
                f"{first_name} and {name} must be on the same device, not {first.device} and {cloud.device}"
            )
        if cloud.shape[1] != first.shape[1]:
            raise ValueError(
                f"{first_name} and {name} must have the same number of coordinates, "
                f"not {first.shape[1]} and {cloud.shape[1]}"
            )


def refuse_not_finite(**clouds: Tensor) -> None:
    # Not while tracing (a data-dependent branch), and not on devices that a look at the data would stall.
    for name, cloud in clouds.items():
        if cloud.device.type != "cpu" or torch.compiler.is_compiling():
            continue
        largest = 1e150 if cloud.dtype == torch.float64 else 1e18
        if not (widen(cloud).abs() <= largest).all():
            raise RuntimeError(f"{name} must be finite (and small enough to be squared)")


def refuse_max_distance(max_distance: float | None) -> float:
    if max_distance is None:
        return math.inf
    if not max_distance > 0:
        raise ValueError(f"max_distance must be positive, not {max_distance}")
    return float(max_distance)


def _refuse(points: int, k: int, max_distance: float | None) -> float:
    if points == 0:
        raise ValueError("reference must have at least one point")
    if not 1 <= k <= points:
        raise ValueError(f"k must be from 1 to the number of reference points ({points}), not {k}")
    return refuse_max_distance(max_distance)


def _fake(query: Tensor, reference: Tensor, k: int, max_distance: float) -> tuple[Tensor, Tensor]:
    shape = (query.shape[0], k)
    return query.new_empty(shape), query.new_empty(shape, dtype=torch.int64)


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, Tensor, int, float], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, None, None]:
    query, reference, index = ctx.saved_tensors
    row = index.clamp_min(0)
    difference = widen(query).unsqueeze(1) - widen(reference)[row]
    length = torch.linalg.vector_norm(difference, dim=-1, keepdim=True)
    apart = (length > 0) & (index >= 0).unsqueeze(-1)
    step = torch.where(apart, widen(grad).unsqueeze(-1) * difference / torch.where(apart, length, 1), 0)
    grad_reference = torch.zeros_like(reference, dtype=step.dtype).index_add(0, row.flatten(), -step.flatten(0, 1))
    return step.sum(1).to(query.dtype), grad_reference.to(reference.dtype), None, None


def _check(device: torch.device) -> tuple[Tensor, ...]:
    """For the comparison of kernel and reference: space and plane, one and several, with and without a limit."""
    found: tuple[Tensor, ...] = ()
    for d, k, reach in ((3, 1, None), (2, 5, 0.3)):
        query, cloud = (sample((rows, d), seed).to(device) for seed, rows in enumerate((60, 500)))
        found += nearest_neighbors(query, cloud, k, reach)
    return found


if _library.declare("nearest_neighbors", _check):
    torch.library.register_fake("zoo::nearest_neighbors", _fake)
    torch.library.register_autograd("zoo::nearest_neighbors", _backward, setup_context=_save_for_backward)
