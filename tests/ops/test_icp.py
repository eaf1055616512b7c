from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.ops import PointTree, icp, status
from zoo.ops.icp import Registration, reference

COMPILED = status().operators["icp"]["cpu"] == "compiled"
needs_compiled = pytest.mark.skipif(not COMPILED, reason="the operator is not compiled")


def rotation(d: int, angle: float, axis: tuple[float, ...] = (0.3, -0.5, 0.8)) -> torch.Tensor:
    if d == 2:
        c, s = math.cos(angle), math.sin(angle)
        return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    v = torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0) * angle
    skew = torch.tensor([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(skew)


def surface(n: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [n, d] of a bumpy closed curve or surface of radius about 1, float64, and their unit normals."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)
    v.requires_grad_()
    waves = torch.tensor([[3.0, 1, 2], [-1, 4, 2], [2, -3, 5]], dtype=torch.float64)[:, :d]

    def radius(u: torch.Tensor) -> torch.Tensor:
        return 1 + 0.12 * torch.sin(u @ waves.T + 0.5).sum(-1) + 0.3 * u[:, 0].square()

    # Where r(v / |v|) = |v|: the normal is the gradient of |p| - r(p / |p|).
    p = (v * radius(v).unsqueeze(1)).detach().requires_grad_()
    level = p.norm(dim=1) - radius(torch.nn.functional.normalize(p, dim=1))
    (normal,) = torch.autograd.grad(level.sum(), p)
    return p.detach(), torch.nn.functional.normalize(normal, dim=1)


def moved_back(target: torch.Tensor, R: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The source that (R, t) takes to the target."""
    return (target - t) @ R


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("planes", [False, True])
def test_finds_the_motion_between_copies_of_a_cloud(dtype, d, planes):
    target, normals = surface(3000, d)
    R, t = rotation(d, 0.05), torch.linspace(0.02, -0.03, d, dtype=torch.float64)
    source = moved_back(target, R, t)[torch.randperm(3000)]
    found = icp(
        source.to(dtype), target.to(dtype), target_normals=normals.to(dtype) if planes else None, tolerance=1e-9
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-8
    torch.testing.assert_close(found.R, R.to(dtype), rtol=0, atol=tolerance)
    torch.testing.assert_close(found.t, t.to(dtype), rtol=0, atol=tolerance)
    assert found.converged
    assert found.fitness == 1
    assert found.rmse < tolerance
    torch.testing.assert_close(found.apply(source.to(dtype)), (source @ R.T + t).to(dtype), rtol=0, atol=2 * tolerance)


@settings(max_examples=60)
@given(
    n=st.sampled_from([1, 2, 5, 16, 17, 300, 900]),
    m=st.sampled_from([1, 2, 17, 300, 1000]),
    d=st.sampled_from([2, 3]),
    kind=st.sampled_from(["surface", "noise", "line", "one place", "duplicates"]),
    reach=st.sampled_from([None, 0.5, 0.1]),
    trim=st.sampled_from([None, 0.2, 0.5]),
    planes=st.booleans(),
    iterations=st.sampled_from([0, 1, 7]),
    seed=st.integers(0, 10_000),
)
def test_agrees_with_the_reference_step_by_step(n, m, d, kind, reach, trim, planes, iterations, seed):
    generator = torch.Generator().manual_seed(seed)
    target, normals = surface(m, d, seed)
    source = surface(n, d, seed + 1)[0]
    if kind == "noise":
        source, target = (torch.randn(s, d, generator=generator, dtype=torch.float64) for s in (n, m))
    elif kind == "line":
        source, target = source[:, :1].expand(n, d), target[:, :1].expand(m, d)
    elif kind == "one place":
        source, target = torch.full_like(source, 0.25), torch.full_like(target, 0.5)
    elif kind == "duplicates":
        source, target = source[torch.randint(n, (n,), generator=generator) // 2], target.mul(4).round() / 4
    R, t = rotation(d, 0.1), torch.full((d,), 0.05, dtype=torch.float64)
    options = (reach or math.inf, iterations, 0.0, trim or 0.0)
    expected = reference(source, target, normals if planes else None, R, t, *options)
    found = icp(
        source,
        target,
        target_normals=normals if planes else None,
        init=(R, t),
        max_distance=reach,
        max_iterations=iterations,
        tolerance=0.0,
        trim=trim,
    )
    torch.testing.assert_close(found.R @ found.R.T, torch.eye(d, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.linalg.det(found.R) > 0
    assert found.iterations == expected.iterations
    if kind in ("surface", "noise") and min(n, m) >= 300:
        # Well posed: the same pairs all along, so the same motion.
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    # Ill posed clouds leave turns open, and rounding breaks their ties; each result must hold for its own motion.
    again = reference(source, target, None, found.R, found.t, options[0], 0, 0.0, options[3])
    if abs(again.fitness - found.fitness) < 1e-9:
        torch.testing.assert_close(again.rmse, found.rmse, rtol=1e-6, atol=1e-9, equal_nan=True)
    else:  # a pair at the limit
        assert abs(again.fitness - found.fitness) <= 0.05 + 2 / n or kind in ("line", "one place", "duplicates")


@pytest.mark.parametrize("plane", [(0, 1), (1, 2), (0, 2)])
def test_planar_clouds_in_space_turn_in_their_plane_and_are_never_mirrored(plane):
    flat, _ = surface(2000, 2)
    R, t = rotation(2, 0.2), torch.tensor([0.03, -0.05], dtype=torch.float64)
    other = moved_back(flat, R, t)
    height = [axis for axis in range(3) if axis not in plane]
    source, target = torch.zeros(2, 2000, 3, dtype=torch.float64)
    source[:, plane], target[:, plane] = other, flat
    source[:, height], target[:, height] = 1.0, 4.0
    found = icp(source, target, tolerance=1e-9)
    in_space = torch.eye(3, dtype=torch.float64)
    in_space[torch.tensor(plane)[:, None], torch.tensor(plane)] = R
    torch.testing.assert_close(found.R, in_space, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.t[height], torch.tensor([3.0], dtype=torch.float64), rtol=0, atol=1e-8)
    in_plane = icp(other, flat, tolerance=1e-9)
    torch.testing.assert_close(found.t[list(plane)], in_plane.t, rtol=0, atol=1e-8)


@pytest.mark.parametrize("d", [2, 3])
def test_a_mirrored_cloud_is_not_mirrored_back(d):
    target, _ = surface(1500, d)
    mirror = target * torch.tensor([-1.0] + [1.0] * (d - 1), dtype=torch.float64)
    found = icp(mirror, target)
    torch.testing.assert_close(torch.linalg.det(found.R), torch.tensor(1.0, dtype=torch.float64))
    assert found.rmse > 1e-3


@pytest.mark.parametrize("d", [2, 3])
def test_what_the_pairs_leave_open_stays_as_it_was(d):
    R = rotation(d, 0.4)
    one = torch.ones(1, d, dtype=torch.float64)
    found = icp(one, 3 * one, init=(R, torch.zeros(d, dtype=torch.float64)))
    torch.testing.assert_close(found.R, R)
    torch.testing.assert_close(found.R @ one[0] + found.t, 3 * one[0])
    # Sliding along a plane of equal normals.
    target = torch.randn(400, d, dtype=torch.float64)
    target[:, 0] = 0
    normals = torch.zeros_like(target)
    normals[:, 0] = 1
    source = target + torch.tensor([0.1, 5.0, -4.0][:d], dtype=torch.float64)
    found = icp(source, target, target_normals=normals, max_iterations=5)
    torch.testing.assert_close(found.t, torch.tensor([-0.1, 0.0, 0.0][:d], dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.R, torch.eye(d, dtype=torch.float64), rtol=0, atol=1e-9)


def test_points_on_a_line_turn_onto_the_line_by_the_shortest_way():
    line = torch.linspace(-1, 1, 201, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0, 0], dtype=torch.float64)
    R = rotation(3, 0.05, (0.0, 0.0, 1.0))
    found = icp(line @ R, line, tolerance=1e-12)
    torch.testing.assert_close(found.R, R, rtol=0, atol=1e-6)


def test_points_far_from_the_origin_register_as_well_as_near_it():
    target, _ = surface(3000, 3)
    R, t = rotation(3, 0.04), torch.tensor([0.02, -0.01, 0.03], dtype=torch.float64)
    source = moved_back(target, R, t)
    near = icp(source.float(), target.float())
    shift = torch.tensor([3000.0, -2000.0, 1000.0], dtype=torch.float64)
    far = icp((source + shift).float(), (target + shift).float())
    # Coordinates of some 3,000 are rounded to 2e-4 themselves.
    torch.testing.assert_close(far.R, near.R, rtol=0, atol=1e-4)
    assert far.rmse < 5e-4


@pytest.mark.parametrize("d", [2, 3])
def test_max_distance_and_trim_withstand_outliers(d):
    target, _ = surface(4000, d)
    R, t = rotation(d, 0.02), torch.full((d,), 0.01, dtype=torch.float64)
    clean = moved_back(target[:1000], R, t)
    source = torch.cat((clean, clean[:250] * 1.6 + 0.4))  # a fifth is elsewhere
    by_distance = icp(source, target, max_distance=0.1, tolerance=1e-10)
    by_trim = icp(source, target, trim=0.25, tolerance=1e-10)
    plain = icp(source, target, tolerance=1e-10)
    for found in (by_distance, by_trim):
        assert (found.R - R).abs().max() < 5e-3
        assert (found.R - R).abs().max() < 0.5 * (plain.R - R).abs().max() or (found.t - t).norm() < (
            plain.t - t
        ).norm()
    assert by_distance.fitness < 0.95
    assert by_trim.fitness == pytest.approx(0.75, abs=1e-2)


def test_without_a_pair_it_stops_and_says_so():
    far = icp(torch.zeros(5, 3), torch.full((5, 3), 9.0), max_distance=1.0)
    assert (far.fitness.item(), far.iterations.item(), far.converged.item()) == (0.0, 0, False)
    assert far.rmse.isnan()
    torch.testing.assert_close(far.R, torch.eye(3))


def test_the_stopping_rule():
    target, _ = surface(2000, 3)
    source = moved_back(surface(1500, 3, 1)[0], rotation(3, 0.1), torch.zeros(3, dtype=torch.float64))
    loose, tight = icp(source, target, tolerance=1e-3), icp(source, target, tolerance=1e-7)
    assert loose.converged
    assert tight.converged
    assert loose.iterations < tight.iterations
    last = icp(source, target, tolerance=0.0, max_iterations=int(tight.iterations))
    before = icp(source, target, tolerance=0.0, max_iterations=int(tight.iterations) - 1)
    earlier = icp(source, target, tolerance=0.0, max_iterations=int(tight.iterations) - 2)
    assert not last.converged
    torch.testing.assert_close(last.R, tight.R, rtol=0, atol=0)
    assert abs(last.rmse - before.rmse) < 1e-7
    assert abs(before.rmse - earlier.rmse) >= 1e-7
    measured = icp(source, target, max_iterations=0)
    assert measured.iterations == 0
    torch.testing.assert_close(measured.R, torch.eye(3, dtype=torch.float64))


def test_a_registration_is_where_the_next_may_start():
    target, _ = surface(2000, 2)
    source = moved_back(surface(2000, 2, 1)[0], rotation(2, 0.3), torch.zeros(2, dtype=torch.float64))
    first = icp(source, target, max_iterations=10)
    second = icp(source, target, init=first, max_iterations=200)
    whole = icp(source, target, max_iterations=210)
    torch.testing.assert_close(second.R, whole.R, rtol=0, atol=1e-6)
    assert isinstance(first, Registration)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("planes", [False, True])
def test_a_tree_may_be_the_target_of_many(dtype, d, planes):
    target, normals = (x.to(dtype) for x in surface(1500, d))
    tree = PointTree(target)
    for seed in (1, 2):
        source = surface(1000, d, seed)[0].to(dtype)
        options = {"max_distance": 0.5, "trim": 0.1, "target_normals": normals if planes else None}
        torch.testing.assert_close(icp(source, tree, **options), icp(source, target, **options), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_registered_in_float32(dtype):
    target, source = surface(800, 3)[0].to(dtype), surface(700, 3, 1)[0].to(dtype)
    found = icp(source, target)
    assert found.R.dtype == found.t.dtype == torch.float32
    torch.testing.assert_close(found, icp(source.float(), target.float()), rtol=0, atol=0)
    assert found.apply(source).dtype == dtype


def test_any_strides():
    target, source = surface(800, 3)[0], surface(700, 3, 1)[0]
    wide = torch.full((1400, 6), 100.0, dtype=torch.float64)
    wide[::2, ::2] = source
    found = icp(wide[::2, ::2], target.T.contiguous().T)
    torch.testing.assert_close(found, icp(source, target), rtol=0, atol=0)


def test_the_result_is_the_same_bit_for_bit_for_any_number_of_threads():
    target, normals = (x.float() for x in surface(6000, 3))
    source = surface(5000, 3, 1)[0].float()
    before = torch.get_num_threads()
    try:
        for options in ({}, {"trim": 0.2}, {"target_normals": normals}):
            results = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(icp(source, target, max_distance=0.3, **options))
            for other in results[1:]:
                tolerance = {"rtol": 0, "atol": 0} if COMPILED else {"rtol": 1e-5, "atol": 1e-6}
                torch.testing.assert_close(other, results[0], **tolerance)
    finally:
        torch.set_num_threads(before)


def test_the_result_carries_no_gradient():
    target, source = surface(100, 3)[0].requires_grad_(), surface(100, 3, 1)[0].requires_grad_()
    assert not any(part.requires_grad for part in icp(source, target))


@needs_compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("d", [2, 3])
def test_opcheck(dtype, d):
    target, normals = (x.to(dtype) for x in surface(90, d))
    source = surface(80, d, 1)[0].to(dtype).T.contiguous().T
    R, t = torch.eye(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    for planes in (None, normals):
        torch.library.opcheck(
            torch.ops.zoo.icp.default, (source, target, planes, R, t, math.inf, 20, 1e-6, 0.1), test_utils=CHECKS
        )


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


AS_ONE_GRAPH = """
import torch
from zoo.ops import icp

draw = torch.Generator().manual_seed(0)
target = 5 * torch.randn(500, 3, dtype=torch.float64, generator=draw)
source = target[:400] + 0.05 * torch.randn(400, 3, dtype=torch.float64, generator=draw)


def registered(s, t):
    return icp(s * 2, t * 2, max_distance=1.0).apply(s * 2) + 1


compiled = torch.compile(registered, fullgraph=True, backend="aot_eager")
torch.testing.assert_close(compiled(source, target), registered(source, target))
"""


@needs_compiled
def test_compiles_as_one_graph():
    """In a process of its own, for what checks annotations in this one is no part of a graph."""
    done = subprocess.run([sys.executable, "-c", AS_ONE_GRAPH], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


S, T = surface(5, 3)[0], surface(6, 3, 1)[0]
EYE, ZERO = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("source", "target", "options", "message"),
    [
        (S[0], T, {}, "source must be"),
        (S, T[:, :2], {}, "same number of coordinates"),
        (S.float(), T, {}, "same dtype"),
        (S.long(), T.long(), {}, "source must be float32"),
        (S, T.to("meta"), {}, "same device"),
        (S[:0], T, {}, "source must have at least one point"),
        (S, T[:0], {}, "target must have at least one point"),
        (S, T, {"target_normals": T[:4]}, "target_normals must have the shape of the target"),
        (S, T, {"target_normals": T.float()}, "same dtype"),
        (S, T, {"max_distance": -1.0}, "max_distance must be positive"),
        (S, T, {"max_iterations": -1}, "max_iterations must be at least 0"),
        (S, T, {"tolerance": -1e-3}, "tolerance must be at least 0"),
        (S, T, {"tolerance": math.nan}, "tolerance must be at least 0"),
        (S, T, {"trim": 1.0}, "trim must be from 0 to less than 1"),
        (S, T, {"trim": -0.1}, "trim must be from 0 to less than 1"),
        (S, T, {"init": (EYE[:2, :2], ZERO)}, "init must be"),
        (S, T, {"init": (2 * EYE, ZERO)}, "R of init must be a proper rotation"),
        (S, T, {"init": (-EYE, ZERO)}, "R of init must be a proper rotation"),
        (S, T, {"init": (EYE, ZERO / 0)}, "t of init must be finite"),
        (S[:, :2], PointTree(T), {}, "source has 2 coordinates, but the tree has 3"),
        (S, PointTree(T), {"target_normals": T[:4]}, "target_normals must have the shape of the target"),
    ],
)
def test_bad_input_is_refused_by_name(source, target, options, message):
    with pytest.raises(ValueError, match=message):
        icp(source, target, **options)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
@pytest.mark.parametrize("which", ["source", "target", "target_normals"])
def test_values_that_are_not_finite_are_refused_by_name(which, value):
    arguments = {"source": S.clone(), "target": T.clone(), "target_normals": T.clone()}
    arguments[which][-1, -1] = value
    with pytest.raises(RuntimeError, match=f"{which} must be finite"):
        icp(**arguments)
    if which != "target":
        arguments["target"] = PointTree(T)
        with pytest.raises(RuntimeError, match=f"{which} must be finite"):
            icp(**arguments)


@needs_compiled
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: S[0]}, r"source must be \[n 2\] or \[n 3\]"),
        ({0: S[:0]}, "source must have at least one point"),
        ({1: T[:, :2]}, "same number of coordinates"),
        ({1: T.float()}, "same dtype"),
        ({2: T[:4]}, "one normal per target point"),
        ({3: EYE[:2]}, r"R of init must be \[3 3\]"),
        ({4: ZERO.float()}, "init must be float64"),
        ({5: 0.0}, "max_distance must be positive"),
        ({8: 1.0}, "trim must be"),
    ],
)
def test_the_kernel_itself_refuses_bad_input(change, message):
    arguments = [S, T, None, EYE, ZERO, math.inf, 5, 1e-6, 0.0]
    for position, value in change.items():
        arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.zoo.icp(*arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("trim", [None, 0.2])
@pytest.mark.parametrize("reach", [None, 0.3])
def test_cuda_agrees_with_cpu(dtype, d, planes, trim, reach):
    target, normals = (x.to(dtype) for x in surface(3000, d))
    source = moved_back(surface(2500, d, 1)[0], rotation(d, 0.05), torch.zeros(d, dtype=torch.float64)).to(dtype)
    for iterations in (0, 1, 30):
        options = {"max_distance": reach, "trim": trim, "max_iterations": iterations}
        expected = icp(source, target, target_normals=normals if planes else None, **options)
        found = icp(source.cuda(), target.cuda(), target_normals=normals.cuda() if planes else None, **options)
        assert all(part.is_cuda for part in found)
        torch.testing.assert_close(found.R.cpu(), expected.R, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.t.cpu(), expected.t, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.rmse.cpu(), expected.rmse, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.fitness.cpu(), expected.fitness, rtol=0, atol=2e-3)


@pytest.mark.gpu
def test_cuda_edges_opcheck_and_points_that_are_not_finite():
    target, source = surface(300, 3)[0].cuda(), surface(200, 3, 1)[0].cuda()
    R, t = EYE.cuda(), ZERO.cuda()
    arguments = (source, target, None, R, t, math.inf, 20, 1e-6, 0.0)
    torch.library.opcheck(torch.ops.zoo.icp.default, arguments, test_utils=CHECKS)
    far = icp(source, target + 100, max_distance=1.0)
    assert (far.fitness.item(), far.iterations.item(), far.converged.item()) == (0.0, 0, False)
    one = icp(source[:1], target[:1])
    torch.testing.assert_close(one.t, target[0] - source[0])
    broken = torch.cat((source, torch.full((1, 3), math.nan, dtype=source.dtype, device="cuda")))
    clean = icp(source, target)
    torch.testing.assert_close(icp(broken, target).R, clean.R, rtol=0, atol=1e-9)
    assert icp(broken, target).fitness == pytest.approx(200 / 201)
