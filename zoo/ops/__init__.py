"""The hot paths: one Python function per operator, with a C++/CUDA kernel behind it where one is compiled.

Every operator has a plain PyTorch reference that gives the same answer; ``ZOO_OPS=reference`` or ``ZOO_OPS=compiled``
(read once, on import) forces one of the two. :func:`status` tells which is in use, and why.
"""

from __future__ import annotations

from zoo.ops._library import Status, status
from zoo.ops.cosine_filter import Filtered, cosine_filter
from zoo.ops.prototype_similarity import prototype_similarity

__all__ = ["Filtered", "Status", "cosine_filter", "prototype_similarity", "status"]
