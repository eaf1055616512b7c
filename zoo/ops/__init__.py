"""The hot paths: one Python function per operator, with a C++/CUDA kernel behind it where one is compiled.

Every operator has a plain PyTorch reference that gives the same answer; ``ZOO_OPS=reference`` or ``ZOO_OPS=compiled``
(read once, on import) forces one of the two, :func:`by_reference` the reference for a while, as an export to ONNX does.
:func:`status` tells which is in use, and why. On a GPU the first call of an operator compares the two on a small case,
and where they differ the reference runs; :func:`self_tests` compares them all. Where a kernel of PyTorch's is faster
and gives the same answer, that is taken: :func:`ways` is the table.
"""

from __future__ import annotations

from zoo.ops._library import Status, by_reference, self_tests, status
from zoo.ops._trust import Finding
from zoo.ops._ways import table as ways
from zoo.ops.cosine_filter import Filtered, cosine_filter
from zoo.ops.cosine_topk import cosine_topk
from zoo.ops.icp import Registration, icp
from zoo.ops.masked_attention import masked_attention
from zoo.ops.nearest_neighbors import Neighbors, PointTree, nearest_neighbors
from zoo.ops.prototype_similarity import prototype_similarity

__all__ = [
    "Filtered",
    "Finding",
    "Neighbors",
    "PointTree",
    "Registration",
    "Status",
    "by_reference",
    "cosine_filter",
    "cosine_topk",
    "icp",
    "masked_attention",
    "nearest_neighbors",
    "prototype_similarity",
    "self_tests",
    "status",
    "ways",
]
