"""A pytest plugin: ``zoo.ops`` on CPU tensors runs the CUDA kernels, emulated.

Every call of an operator is made in several schedules, whose results must be equal to the bit, on inputs that lie
between guard zones of NaN and must come out unchanged. ``ZOO_SIMT_LIBRARY`` names the compiled library, and
``ZOO_SIMT_EXAMPLES`` how many examples each property test gets at most.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import settings

import zoo.ops  # noqa: F401  (registers the operators whose kernels are replaced)

OPERATORS = (
    "cosine_filter", "cosine_filter_aggregate", "cosine_topk", "icp", "masked_attention", "masked_attention_backward",
    "nearest_neighbors", "prototype_similarity",
)  # fmt: skip
SCHEDULES = range(int(os.environ.get("ZOO_SIMT_SCHEDULES", "2")))
GUARD = 64
calls: dict[str, int] = dict.fromkeys(OPERATORS, 0)


def between_guards(tensor: torch.Tensor) -> torch.Tensor:
    """The same values and strides, with poison around them and in the gaps."""
    span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) if tensor.numel() else 0
    poison: Any = float("nan") if tensor.is_floating_point() else True
    if tensor.dtype in (torch.int8, torch.int32, torch.int64):
        poison = max(torch.iinfo(tensor.dtype).min, -(2**31)) + 1
    memory = torch.full((span + 2 * GUARD,), poison, dtype=tensor.dtype)
    copy = memory.as_strided(tensor.shape, tensor.stride(), GUARD)
    if tensor.numel():
        unique = tensor
        for axis, (n, s) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
            if s == 0 and n > 1:  # expanded: the same place many times
                unique = unique.narrow(axis, 0, 1)
        memory.as_strided(unique.shape, unique.stride(), GUARD).copy_(unique)
    return copy


def bits(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().reshape(-1)
    return torch.cat([flat, flat[:0]]).view(torch.uint8)  # a copy, whose stride is 1 also where there is one number


def emulated(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        calls[name] += 1
        given = [between_guards(a) if isinstance(a, torch.Tensor) else a for a in arguments]
        tensors = [(a, b) for a, b in zip(arguments, given, strict=True) if isinstance(a, torch.Tensor)]
        results = []
        for schedule in SCHEDULES:
            torch.ops.zoo_simt.set_schedule(schedule)
            found = kernel(*given)
            results.append([part.clone() for part in (found if isinstance(found, tuple) else (found,))])
            for before, after in tensors:
                assert bits(before).equal(bits(after)), f"{name} changes its input"
        for place, (first, *others) in enumerate(zip(*results, strict=True)):
            for other in others:
                if name == "masked_attention_backward" and place == 3:  # a shared bias adds up by atomics
                    torch.testing.assert_close(other, first, equal_nan=True)
                else:
                    assert bits(first).equal(bits(other)), (
                        f"{name} depends on the order of its threads (result {place})"
                    )
        return tuple(results[0]) if len(results[0]) > 1 else results[0][0]

    return call


def pytest_configure(config: pytest.Config) -> None:
    torch.ops.load_library(os.environ["ZOO_SIMT_LIBRARY"])
    library = torch.library.Library("zoo", "IMPL")
    for name in OPERATORS:
        library.impl(name, emulated(name, getattr(torch.ops.zoo_simt, name)), "CPU", allow_override=True)
    config.stash[_KEEP] = library


_KEEP = pytest.StashKey[Any]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    most = int(os.environ.get("ZOO_SIMT_EXAMPLES", "0"))
    for item in items if most else ():
        test = getattr(item, "obj", None)
        handle = getattr(test, "hypothesis", None)
        if handle is not None:
            chosen: Any = getattr(test, "_hypothesis_internal_use_settings", None) or settings.default
            test._hypothesis_internal_use_settings = settings(chosen, max_examples=min(most, chosen.max_examples))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    told = ", ".join(f"{name} {count}" for name, count in calls.items())
    terminalreporter.write_line(f"emulated calls: {told}; kernels launched: {torch.ops.zoo_simt.set_schedule(0)}")
