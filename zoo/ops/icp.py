"""Rigid registration of two point clouds by iterative closest points."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.ops import _library
from zoo.ops._rows import sample, widen
from zoo.ops.nearest_neighbors import (
    PointTree,
    reference_nearest_neighbors,
    refuse_clouds,
    refuse_max_distance,
    refuse_not_finite,
)

FACTS = (torch.float64, torch.float64, torch.int64, torch.bool)  # of rmse, fitness, iterations, converged


class Registration(NamedTuple):
    """The rigid motion ``y = R x + t`` that takes the source to the target, and how well it does.

    All are tensors on the device of the source, so that nothing waits for the GPU until it is looked at.
    """

    R: Float[Tensor, "d d"]  # a proper rotation; float64 for float64 clouds, else float32
    t: Float[Tensor, " d"]  # in the units of the points
    rmse: Float[Tensor, ""]  # float64: root mean square distance of the pairs under (R, t); NaN without pairs
    fitness: Float[Tensor, ""]  # float64 in [0, 1]: pairs over source points
    iterations: Int[Tensor, ""]  # int64: how often the motion was solved for
    converged: Bool[Tensor, ""]  # whether the stopping rule was met

    def apply(self, points: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """``R x + t`` for every point, in the dtype of the points."""
        return (points.to(self.R.dtype) @ self.R.T + self.t).to(points.dtype)


def icp(
    source: Float[Tensor, "n d"],
    target: Float[Tensor, "m d"] | PointTree,
    *,
    target_normals: Float[Tensor, "m d"] | None = None,
    max_distance: float | None = None,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
    init: tuple[Float[Tensor, "d d"], Float[Tensor, " d"]] | Registration | None = None,
    trim: float | None = None,
) -> Registration:
    r"""Moves ``source`` rigidly onto ``target``.

    Repeats, from the motion :math:`(R, t)` of ``init``:

    1. pair each moved source point with its nearest target point (exactly, of equals the lowest index), keep the pairs
       no farther apart than ``max_distance``, and of these drop the fraction ``trim`` of the greatest distance;
    2. solve for the motion over the pairs :math:`(x_i, y_i)`:

       - point to point: :math:`\arg\min_{R, t} \sum_i \|R x_i + t - y_i\|^2` over proper rotations, in closed form: the
         angle :math:`\operatorname{atan2}(S_{xy} - S_{yx}, S_{xx} + S_{yy})` of the cross-covariance :math:`S` in 2-D,
         the largest eigenvector of Horn's quaternion matrix in 3-D. Neither can reflect, and a planar cloud in space
         stays in its plane. What the pairs leave open (points on a line, one pair) stays as it was;
       - point to plane, with ``target_normals``: one Gauss-Newton step on :math:`\sum_i (n_i \cdot (R x_i + t -
         y_i))^2`; directions that the normals leave open, such as sliding along one plane, don't move.

    It stops when between two iterations both the RMSE and the fitness change by less than ``tolerance``, after
    ``max_iterations``, or when there is no pair. RMSE and fitness are those of the returned motion, over the pairs kept
    (for point to plane, too, RMSE is the distance between points).

    Not differentiable: the result carries no gradient. On CPU a point searches again only when its neighbour can have
    changed, so iterations become cheap as the clouds settle; the pairs are those of a full search.

    Args:
        source: ``[n, d]``, ``d`` of 2 or 3. Any strides; float32, float64, float16 or bfloat16 (half precision is
            registered in float32). Motions are solved for in float64 whatever the dtype.
        target: ``[m, d]`` of the same dtype and device, or a :class:`~zoo.ops.PointTree` to register several sources to
            one target; a tree registers on the host, in its own dtype.
        target_normals: ``[m, d]``, unit normals of the target, for point to plane.
        max_distance: in the units of the points; ``None`` for no limit.
        max_iterations: the most solves; 0 only measures ``init``.
        tolerance: of the stopping rule: for RMSE in the units of the points, for fitness a fraction; 0 never stops
            early.
        init: ``(R, t)`` to start from, for instance an earlier :class:`Registration`; the identity by default. ``R``
            must be a proper rotation.
        trim: the fraction of the pairs to drop, in [0, 1); of distances equal to the last one kept, all are kept.

    Raises:
        ValueError: wrong rank, number of coordinates, mixed dtype or device, an empty cloud, normals that don't match
            the target, an option out of range, an ``init`` that is not a rotation (looked at on CPU only).
        RuntimeError: on CPU, coordinates that are not finite or too large to be squared (beyond 1e18 in float32). On
            CUDA such points take no part.

    Source: P. J. Besl and N. D. McKay, A method for registration of 3-D shapes, 1992; B. K. P. Horn, Closed-form
    solution of absolute orientation using unit quaternions, 1987; Y. Chen and G. Medioni, Object modelling by
    registration of multiple range images, 1992; D. Chetverikov et al., The trimmed iterative closest point algorithm,
    2002; stopping rule of Q. Wu et al., A General Computationally-Efficient 3D Reconstruction Pipeline for Multiple
    Images with Point Clouds, 2023, and of Open3D.
    """
    points = target.points if isinstance(target, PointTree) else target
    if isinstance(target, PointTree):
        refuse_clouds(source=source)
        if source.shape[1] != points.shape[1]:
            raise ValueError(f"source has {source.shape[1]} coordinates, but the tree has {points.shape[1]}")
    else:
        refuse_clouds(source=source, target=target)
    if target_normals is not None:
        if not isinstance(target, PointTree):
            refuse_clouds(target=target, target_normals=target_normals)
        if target_normals.shape != points.shape:
            raise ValueError(
                f"target_normals must have the shape of the target, {tuple(points.shape)}, "
                f"not {tuple(target_normals.shape)}"
            )
    for name, cloud in (("source", source), ("target", points)):
        if cloud.shape[0] == 0:
            raise ValueError(f"{name} must have at least one point")
    reach = refuse_max_distance(max_distance)
    if max_iterations < 0:
        raise ValueError(f"max_iterations must be at least 0, not {max_iterations}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, not {tolerance}")
    trim = trim or 0.0
    if not 0 <= trim < 1:
        raise ValueError(f"trim must be from 0 to less than 1, not {trim}")
    R, t = _start(init, source)

    with torch.no_grad():
        options = (reach, max_iterations, float(tolerance), float(trim))
        if isinstance(target, PointTree):
            return _with_tree(source, target, target_normals, R, t, options)
        if _library.use_compiled("icp", source.device):
            return Registration(*torch.ops.zoo.icp(source, target, target_normals, R, t, *options))
        return reference(source, target, target_normals, R, t, *options)


def _start(init: tuple[Tensor, ...] | None, source: Tensor) -> tuple[Tensor, Tensor]:
    d = source.shape[1]
    if init is None:
        eye = torch.eye(d, dtype=torch.float64, device=source.device)
        return eye, torch.zeros(d, dtype=torch.float64, device=source.device)
    R, t = (part.detach().to(source.device, torch.float64) for part in init[:2])
    if R.shape != (d, d) or t.shape != (d,):
        raise ValueError(
            f"init must be (R [{d}, {d}], t [{d}]), not of the shapes {tuple(R.shape)} and {tuple(t.shape)}"
        )
    if R.device.type == "cpu" and not torch.compiler.is_compiling():
        if not torch.isfinite(t).all():
            raise ValueError("t of init must be finite")
        error = (R @ R.T - torch.eye(d, dtype=R.dtype)).abs().max()
        if not error < 1e-3 or torch.linalg.det(R) < 0:
            raise ValueError("R of init must be a proper rotation (orthogonal, with determinant 1)")
    return R, t


def _with_tree(
    source: Tensor,
    target: PointTree,
    normals: Tensor | None,
    R: Tensor,
    t: Tensor,
    options: tuple[float, int, float, float],
) -> Registration:
    moving, planes = target.host(source), None if normals is None else target.host(normals)
    refuse_not_finite(source=moving)
    if planes is not None:
        refuse_not_finite(target_normals=planes)
    if target.tree is None:
        result = reference(moving, target.points, planes, R.cpu(), t.cpu(), *options)
    else:
        result = Registration(*torch.ops.zoo.point_tree_icp(moving, target.tree, planes, R.cpu(), t.cpu(), *options))
    return Registration(*(part.to(source.device) for part in result))


def reference(
    source: Float[Tensor, "n d"],
    target: Float[Tensor, "m d"],
    target_normals: Float[Tensor, "m d"] | None,
    R: Float[Tensor, "d d"],
    t: Float[Tensor, " d"],
    max_distance: float = math.inf,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
    trim: float = 0.0,
) -> Registration:
    """The operator in plain PyTorch. Its loop looks at the data, so it is no part of a compiled graph."""
    refuse_not_finite(source=source, target=target)
    if target_normals is not None:
        refuse_not_finite(target_normals=target_normals)
    narrow = widen(source).dtype
    points, x, y = widen(target), widen(source).double(), widen(target).double()

    def match() -> tuple[Tensor, Tensor, float, float]:
        moved = (x @ R.T + t).to(narrow)
        distance, index = (column.squeeze(1) for column in reference_nearest_neighbors(moved, points, 1, max_distance))
        rows = (index >= 0).nonzero().squeeze(1)
        squares = distance[rows].double().square()
        if trim > 0 and len(rows) > 0:
            kept = len(rows) - int(trim * len(rows))
            within = squares <= squares.kthvalue(kept).values
            rows, squares = rows[within], squares[within]
        return rows, index[rows], squares.mean().sqrt().item(), len(rows) / len(x)

    rows, index, rmse, fitness = match()
    low, high = y.amin(0), y.amax(0)
    middle, radius = (low + high) / 2, ((high - low).max() / 2).item() or 1.0
    iterations, converged = 0, False
    while len(rows) > 0 and not converged and iterations < max_iterations:
        if target_normals is None:
            R, t = _solve_points(x[rows], y[index], R)
        else:
            normals = widen(target_normals).double()[index]
            turn, slide = _solve_planes(x[rows] @ R.T + t - middle, y[index] - middle, normals, radius)
            R, t = turn @ R, turn @ (t - middle) + slide + middle
        iterations += 1
        before = rmse, fitness
        rows, index, rmse, fitness = match()
        converged = abs(rmse - before[0]) < tolerance and abs(fitness - before[1]) < tolerance

    facts = zip((rmse, fitness, iterations, converged), FACTS, strict=True)
    return Registration(R.to(narrow), t.to(narrow), *(torch.tensor(x, dtype=y, device=source.device) for x, y in facts))


def _solve_points(x: Tensor, y: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    x_mean, y_mean = x.mean(0), y.mean(0)
    S = (x - x_mean).T @ (y - y_mean)
    if x.shape[1] == 2:
        turn = torch.stack((S[0, 0] + S[1, 1], S[0, 1] - S[1, 0]))  # cosine and sine, times a length
        length = turn.norm()
        if length > 1e-12 * S.abs().sum():
            c, s = turn / length
            R = torch.stack((torch.stack((c, -s)), torch.stack((s, c))))
    elif S.abs().max() > 0:
        R = _rotation(_best_quaternion(S, _quaternion(R)))
    return R, y_mean - R @ x_mean


def _horn(S: Float[Tensor, "3 3"]) -> Float[Tensor, "4 4"]:
    """The symmetric matrix N with q^T N q = trace(R(q) S) for unit quaternions q."""
    eye = torch.eye(3, dtype=S.dtype, device=S.device)
    skew = torch.stack((S[1, 2] - S[2, 1], S[2, 0] - S[0, 2], S[0, 1] - S[1, 0]))
    lower = torch.cat((skew.unsqueeze(1), S + S.T - S.trace() * eye), 1)
    return torch.cat((torch.cat((S.trace().view(1), skew)).unsqueeze(0), lower))


def _best_quaternion(S: Tensor, now: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(_horn(S))
    top = vectors[:, values >= values[-1] - 1e-12 * values.abs().max()]  # several, when the pairs leave a turn open
    q = top @ (top.T @ now)
    return q / q.norm() if q.norm() > 1e-6 else vectors[:, -1]


def _quaternion(R: Tensor) -> Tensor:
    return torch.linalg.eigh(_horn(R.T)).eigenvectors[:, -1]  # R maximises trace(R R^T)


def _rotation(q: Tensor) -> Tensor:
    w, v = q[0], q[1:]
    cross = torch.linalg.cross(v.expand(3, 3), torch.eye(3, dtype=q.dtype, device=q.device)).T  # cross @ x = v cross x
    return torch.eye(3, dtype=q.dtype, device=q.device) + 2 * (w * cross + cross @ cross)


def _solve_planes(moved: Tensor, y: Tensor, normals: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """The turn about the origin, and the slide after it, that the linearised distances to the planes ask for."""
    d = moved.shape[1]
    if d == 2:
        turns = (moved[:, 0] * normals[:, 1] - moved[:, 1] * normals[:, 0]).unsqueeze(1)
    else:
        turns = torch.linalg.cross(moved, normals)
    J = torch.cat((turns / radius, normals), 1)
    residual = (normals * (moved - y)).sum(1)
    values, vectors = torch.linalg.eigh(J.T @ J)
    inverse = torch.where(values > 1e-9 * values[-1], 1 / values, 0)  # what the normals leave open doesn't move
    step = -vectors @ (inverse * (vectors.T @ (J.T @ residual)))
    w, slide = step[:-d] / radius, step[-d:]
    if d == 2:
        c, s = w.cos(), w.sin()
        return torch.stack((torch.cat((c, -s)), torch.cat((s, c)))), slide
    cross = torch.linalg.cross(w.expand(3, 3), torch.eye(3, dtype=w.dtype, device=w.device)).T
    return torch.linalg.matrix_exp(cross), slide


def _fake(
    source: Tensor,
    target: Tensor,
    target_normals: Tensor | None,
    init_R: Tensor,
    init_t: Tensor,
    max_distance: float,
    max_iterations: int,
    tolerance: float,
    trim: float,
) -> tuple[Tensor, ...]:
    d, wide = source.shape[1], torch.float64 if source.dtype == torch.float64 else torch.float32
    motion = source.new_empty((d, d), dtype=wide), source.new_empty((d,), dtype=wide)
    return *motion, *(source.new_empty((), dtype=dtype) for dtype in FACTS)


def _check(device: torch.device) -> tuple[Tensor, ...]:
    """For the comparison of kernel and reference: by points and by planes, a few steps."""
    target = sample((300, 3), 0).to(device)
    c, s = math.cos(0.05), math.sin(0.05)
    turn = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], device=device)
    source = target[:200] @ turn.T + 0.02
    normals = torch.nn.functional.normalize(sample((300, 3), 1), dim=1).to(device)
    found: tuple[Tensor, ...] = ()
    for planes in (None, normals):
        motion = icp(source, target, target_normals=planes, max_iterations=3, tolerance=0, trim=0.1)
        found += (motion.R, motion.t, motion.fitness, motion.iterations)
    return found


if _library.declare("icp", _check):
    torch.library.register_fake("zoo::icp", _fake)
