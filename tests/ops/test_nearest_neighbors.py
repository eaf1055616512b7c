from __future__ import annotations

import copy
import gc
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.ops import PointTree, nearest_neighbors, status
from zoo.ops.nearest_neighbors import reference_nearest_neighbors as reference

COMPILED = status().operators["nearest_neighbors"]["cpu"] == "compiled"
needs_compiled = pytest.mark.skipif(not COMPILED, reason="the operator is not compiled")

TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
KINDS = ("random", "grid", "duplicates", "line", "cluster and outlier", "one place")


def cloud(n: int, d: int, kind: str = "random", dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Points [n, d] of one of several shapes that an index must cope with."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "grid":
        x = torch.randint(-4, 5, (n, d), generator=generator).double()
    elif kind == "duplicates":
        x = torch.randn(max(1, n // 10), d, generator=generator, dtype=torch.float64)
        x = x[torch.randint(len(x), (n,), generator=generator)]
    elif kind == "line":
        x = torch.randn(n, 1, generator=generator, dtype=torch.float64).expand(n, d).contiguous()
    elif kind == "one place":
        x = torch.full((n, d), 0.75, dtype=torch.float64)
    else:
        x = torch.randn(n, d, generator=generator, dtype=torch.float64)
        if kind == "cluster and outlier" and n:
            x = 1e-3 * x
            x[-1] = 5e3
    return x.to(dtype)


def distances_of(query: torch.Tensor, points: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    difference = query.double().unsqueeze(1) - points.double()[index.clamp_min(0)]
    return difference.norm(dim=-1).masked_fill(index < 0, math.inf)


@settings(max_examples=150)
@given(
    n=st.sampled_from([0, 1, 2, 15, 16, 17, 100, 300]),
    m=st.sampled_from([1, 2, 15, 16, 17, 255, 256, 257, 700]),
    d=st.sampled_from([2, 3]),
    k=st.sampled_from([1, 2, 3, 8, 9, 16, 40]),
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    dtype=st.sampled_from(list(TOLERANCE)),
    reach=st.sampled_from([None, 0.25, 1.0, 1e-3]),
    strided=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_agrees_with_the_reference_for_any_cloud(n, m, d, k, kinds, dtype, reach, strided, seed):
    k = min(k, m)
    query, points = cloud(n, d, kinds[0], dtype, seed), cloud(m, d, kinds[1], dtype, seed + 1)
    if strided:
        query, points = query.T.contiguous().T, points.repeat_interleave(2, 0)[::2]
    found = nearest_neighbors(query, points, k, reach)
    expected = reference(query, points, k, reach or math.inf)
    assert found.distances.shape == found.indices.shape == (n, k)
    assert found.distances.dtype == dtype
    assert found.indices.dtype == torch.int64
    tolerance = TOLERANCE[dtype]
    if reach is not None:  # a point at the limit may fall on either side of it
        edge = (found.indices < 0) != (expected.indices < 0)
        at = torch.where(found.indices < 0, expected.distances, found.distances)[edge]
        torch.testing.assert_close(at.double(), torch.full_like(at, reach).double(), rtol=1e-2, atol=0)
        found = found._replace(distances=found.distances.masked_fill(edge, 0))
        expected = expected._replace(distances=expected.distances.masked_fill(edge, 0))
    torch.testing.assert_close(found.distances, expected.distances, rtol=tolerance, atol=1e-12)
    # Two points may tie within rounding, so an index is judged by its own distance, from the definition.
    own = distances_of(query, points, found.indices)
    kept = found.indices >= 0
    torch.testing.assert_close(
        own[kept], distances_of(query, points, expected.indices)[kept], rtol=max(tolerance, 1e-6), atol=1e-12
    )
    assert all(len(set(row)) == len(row) for row in ([i for i in row if i >= 0] for row in found.indices.tolist()))


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("kind", ["grid", "duplicates", "one place"])
@pytest.mark.parametrize("k", [1, 4, 20])
def test_of_equal_distances_the_lowest_index_comes_first(d, kind, k):
    # Coordinates of few bits: every distance is exact, and ties are many.
    query, points = cloud(500, d, "grid"), cloud(2000, d, kind)
    if kind == "duplicates":
        points = points.mul(4).round()
    assert nearest_neighbors(query, points, k).indices.equal(reference(query, points, k).indices)


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_large_clouds_of_any_shape_are_exact(d, kind):
    query, points = cloud(400, d, kind, seed=1), cloud(20_000, d, kind, seed=2)
    found = nearest_neighbors(query, points, 3)
    torch.testing.assert_close(found.distances, reference(query, points, 3).distances, rtol=1e-6, atol=1e-12)


def test_a_point_of_the_reference_finds_itself_at_distance_zero_far_from_the_origin():
    points = 1e4 + torch.randn(5000, 3)
    found = nearest_neighbors(points, points)
    assert found.distances.eq(0).all()
    assert points[found.indices[:, 0]].equal(points)


def test_max_distance_is_inclusive_and_missing_neighbours_are_marked():
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    found = nearest_neighbors(points[:1], points, 3, max_distance=5.0)
    assert found.indices.tolist() == [[0, 1, -1]]
    assert found.distances.tolist() == [[0.0, 5.0, math.inf]]


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("reach", [None, 0.8])
def test_the_gradient_is_the_numerical_one(d, reach):
    query = cloud(7, d, dtype=torch.float64, seed=1).requires_grad_()
    points = cloud(9, d, dtype=torch.float64, seed=2).requires_grad_()
    found = nearest_neighbors(query, points, 3, reach)
    assert not found.indices.requires_grad

    def distances(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return nearest_neighbors(q, p, 3, reach).distances.nan_to_num(posinf=0.0)

    assert torch.autograd.gradcheck(distances, (query, points), fast_mode=False)


def test_the_gradient_equals_the_references_and_is_zero_at_distance_zero():
    query = cloud(50, 3).requires_grad_()
    points = torch.cat((cloud(30, 3, seed=1), query.detach()[:5])).requires_grad_()
    weight = torch.randn(50, 2)
    found = torch.autograd.grad((nearest_neighbors(query, points, 2).distances * weight).sum(), (query, points))
    expected = torch.autograd.grad((reference(query, points, 2).distances * weight).sum(), (query, points))
    torch.testing.assert_close(found, expected)
    nearest = nearest_neighbors(query, points).distances
    assert torch.autograd.grad(nearest[:5].sum(), query)[0].eq(0).all()


@needs_compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck(dtype):
    for d in (2, 3):
        needs_grad = dtype == torch.float64
        query = cloud(9, d, dtype=dtype, seed=1).requires_grad_(needs_grad)
        points = cloud(20, d, dtype=dtype, seed=2).T.contiguous().T.requires_grad_(needs_grad)
        torch.library.opcheck(torch.ops.zoo.nearest_neighbors.default, (query, points, 2, math.inf))


@needs_compiled
def test_compiles_as_one_graph_with_its_backward():
    def loss(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return nearest_neighbors(q, p, 2).distances.square().sum()

    query, points = cloud(20, 3).requires_grad_(), cloud(30, 3, seed=1).requires_grad_()
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(query, points), (query, points))
    torch.testing.assert_close(found, torch.autograd.grad(loss(query, points), (query, points)))


def test_the_result_is_the_same_for_any_number_of_threads():
    query, points = cloud(5000, 3, seed=1), cloud(30_000, 3, seed=2)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(nearest_neighbors(query, points, 2))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert other.distances.equal(results[0].distances)
        assert other.indices.equal(results[0].indices)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("d", [2, 3])
def test_a_tree_answers_like_the_operator_again_and_again(dtype, d):
    points = cloud(400, d, dtype=dtype, seed=1)
    tree = PointTree(points)
    assert len(tree) == 400
    for seed, k, reach in ((2, 1, None), (3, 5, None), (4, 3, 0.2)):
        query = cloud(100, d, dtype=dtype, seed=seed)
        found, expected = tree.query(query, k, reach), nearest_neighbors(query, points, k, reach)
        assert found.indices.equal(expected.indices)
        assert found.distances.equal(expected.distances)


def test_a_tree_owns_its_points():
    points = cloud(100, 3)
    tree = PointTree(points)
    query = points.clone()
    points.zero_()
    assert tree.query(query).distances.eq(0).all()


Q, P = cloud(5, 3), cloud(6, 3, seed=1)


@pytest.mark.parametrize(
    ("query", "points", "options", "message"),
    [
        (Q[0], P, {}, r"query must be \[n, 2\] or \[n, 3\]"),
        (Q, P[:, :2], {}, "same number of coordinates"),
        (Q, P[:, :1], {}, "reference must be"),
        (torch.zeros(3, 4), torch.zeros(3, 4), {}, "query must be"),
        (Q.double(), P, {}, "same dtype"),
        (Q.long(), P.long(), {}, "query must be float32"),
        (Q, P.to("meta"), {}, "same device"),
        (Q, P[:0], {}, "reference must have at least one point"),
        (Q, P, {"k": 0}, "k must be from 1"),
        (Q, P, {"k": 7}, r"reference points \(6\), not 7"),
        (Q, P, {"max_distance": 0.0}, "max_distance must be positive"),
        (Q, P, {"max_distance": math.nan}, "max_distance must be positive"),
    ],
)
def test_bad_input_is_refused_by_name(query, points, options, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbors(query, points, **options)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("which", ["query", "reference"])
def test_values_that_are_not_finite_are_refused_by_name(which, value):
    clouds = {"query": Q.clone(), "reference": P.clone()}
    clouds[which][-1, -1] = value
    with pytest.raises(RuntimeError, match=f"{which} must be finite"):
        nearest_neighbors(**clouds)


def test_a_tree_refuses_bad_input_by_name():
    with pytest.raises(ValueError, match="points must be"):
        PointTree(P[0])
    with pytest.raises(ValueError, match="points must have at least one point"):
        PointTree(P[:0])
    with pytest.raises(RuntimeError, match="points must be finite"):
        PointTree(P * math.nan)
    tree = PointTree(P)
    with pytest.raises(ValueError, match="query has 2 coordinates, but the tree has 3"):
        tree.query(Q[:, :2])
    with pytest.raises(ValueError, match="k must be from 1"):
        tree.query(Q, 7)
    with pytest.raises(RuntimeError, match="query must be finite"):
        tree.query(Q / 0)


def test_copies_of_a_tree_outlive_it():
    tree = PointTree(P)
    copies = [copy.deepcopy(tree), pickle.loads(pickle.dumps(tree))]
    expected = tree.query(Q, 2)
    del tree
    for one in copies:
        assert one.query(Q, 2).indices.equal(expected.indices)


@needs_compiled
def test_a_tree_is_dropped_with_its_object():
    tree = PointTree(P)
    number = tree.tree
    assert torch.ops.zoo.point_tree_query(Q, number, 1, 1.0)[1].shape == (5, 1)
    del tree
    gc.collect()
    with pytest.raises(RuntimeError, match=f"there is no point tree {number}"):
        torch.ops.zoo.point_tree_query(Q, number, 1, 1.0)


@needs_compiled
def test_trees_are_asked_from_several_threads():
    points, query = cloud(2000, 3, seed=1), cloud(200, 3, seed=2)
    expected, shared = nearest_neighbors(query, points, 3).indices, PointTree(points)

    def work(_):
        return all(one.query(query, 3).indices.equal(expected) for one in (PointTree(points), shared))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(12)))


@needs_compiled
def test_the_compiled_tree_refuses_bad_tensors_by_name():
    ops = torch.ops.zoo
    for points, message in (
        (P.half(), "points must be float32 or float64"), (P[0], r"points must be \[n 2\] or \[n 3\]"),
        (P[:0], "at least one point"), (P / 0, "points must be finite"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=message):
            ops.point_tree(points)
    tree = PointTree(P)
    for query, k, message in (
        (Q.double(), 1, "query must be float32, as the tree"), (Q[:, :2], 1, r"query must be \[n 3\]"),
        (Q, 0, "k must be from 1"), (Q / 0, 1, "query must be finite"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=message):
            ops.point_tree_query(query, tree.tree, k, 1.0)
    R, t = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for source, normals, rotation, message in (
        (Q[:0], None, R, "source must have from 1"), (Q, P[:4], R, "one normal per target point"),
        (Q, None, R[:2, :2], "R of init must be"), (Q, None, R.float(), "init must be float64"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=message):
            ops.point_tree_icp(source, tree.tree, normals, rotation, t, 1.0, 5, 0.0, 0.0)


@needs_compiled
@pytest.mark.parametrize(
    ("query", "points", "k", "reach", "message"),
    [
        (Q[0], P, 1, 1.0, r"query must be \[n 2\] or \[n 3\]"),
        (Q, P[:, :2], 1, 1.0, "same number of coordinates"),
        (Q, P[:0], 1, 1.0, "at least one point"),
        (Q.double(), P, 1, 1.0, "same dtype"),
        (Q.long(), P.long(), 1, 1.0, "query must be float32"),
        (Q, P, 7, 1.0, "k must be from 1"),
        (Q, P, 1, -1.0, "max_distance must be positive"),
    ],
)
def test_the_kernel_itself_refuses_bad_input(query, points, k, reach, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.zoo.nearest_neighbors(query, points, k, reach)


@pytest.mark.gpu
@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(
    ("n", "m", "k"), [(0, 5, 1), (1, 1, 1), (33, 31, 1), (300, 1025, 1), (300, 2000, 40), (70, 40_000, 3)]
)
def test_cuda_agrees_with_the_reference(d, kind, dtype, n, m, k):
    query, points = cloud(n, d, kind, dtype, 1).cuda(), cloud(m, d, kind, dtype, 2).cuda()
    for reach in (None, 0.25):
        found, expected = nearest_neighbors(query, points, k, reach), reference(query, points, k, reach or math.inf)
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(found.distances, expected.distances, rtol=tolerance, atol=1e-12)
        own = distances_of(query, points, found.indices)
        torch.testing.assert_close(own.to(dtype), found.distances, rtol=max(tolerance, 1e-6), atol=1e-12)


@pytest.mark.gpu
def test_cuda_ties_gradient_opcheck_and_points_that_are_not_finite():
    query, points = cloud(500, 3, "grid").cuda(), cloud(3000, 3, "grid", seed=1).cuda()
    for k in (1, 20):
        found, expected = nearest_neighbors(query, points, k), reference(query.cpu(), points.cpu(), k)
        assert found.indices.cpu().equal(expected.indices)
    small = [cloud(9, 3, dtype=torch.float64, seed=s).cuda().requires_grad_() for s in (1, 2)]
    torch.library.opcheck(torch.ops.zoo.nearest_neighbors.default, (*small, 2, math.inf))
    assert torch.autograd.gradcheck(lambda q, p: nearest_neighbors(q, p, 2).distances, small)
    query[3], points[5] = math.nan, math.inf
    found = nearest_neighbors(query, points, 2)
    assert found.indices[3].eq(-1).all()
    assert found.distances[3].isinf().all()
    assert found.indices.ne(5).all()


@pytest.mark.gpu
def test_cuda_follows_the_current_stream():
    query, points = cloud(5000, 3).cuda(), cloud(5000, 3, seed=1).cuda()
    expected = nearest_neighbors(query, points)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        busy = torch.randn(4096, 4096, device="cuda")
        for _ in range(10):
            busy = busy @ busy / 64
        found = nearest_neighbors(query + busy[0, 0] * 0, points)
    stream.synchronize()
    assert found.indices.equal(expected.indices)
