"""What the references of several operators do with rows of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-8  # a norm up to here counts as zero


def widen(x: Tensor) -> Tensor:
    """In the type of accumulation: float32 for half precision, else its own."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit(x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Rows scaled to unit length; a row of no length becomes zero and has no gradient."""
    return x * inverse_norm(x)


def inverse_norm(x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n 1"]:
    """1 over the length of each row, 0 for a row of no length."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    there = ~(norm <= EPSILON)  # a NaN stays
    return torch.where(there, 1 / torch.where(there, norm, 1), 0)


def product(x: Float[Tensor, "*b n d"], y: Float[Tensor, "*b d m"]) -> Float[Tensor, "*b n m"]:
    """Of two matrices, or batches of them, in the type of accumulation; half precision isn't widened first on a GPU."""
    if x.dtype in (torch.float16, torch.bfloat16) and x.is_cuda:
        multiply = torch.mm if x.dim() == 2 else torch.bmm
        return multiply(x, y, out_dtype=torch.float32)
    return widen(x) @ widen(y)


def refuse_not_finite(**rows: Float[Tensor, "... _"]) -> None:
    """``RuntimeError`` that names a tensor on CPU with a row whose square is not finite."""
    for name, x in rows.items():
        # Not while tracing (a data-dependent branch), and not on devices that a look at the data would stall.
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            continue
        if not torch.isfinite(widen(x).square().sum(-1)).all():
            raise RuntimeError(f"{name} must be finite (and small enough to be squared)")


def sample(shape: Sequence[int], seed: int) -> Tensor:
    """Numbers of a normal distribution, on the CPU; always the same, and from no generator that others draw from."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device="cpu")
