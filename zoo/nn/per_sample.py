"""Gradients of each sample by itself, for methods that clip, compare or weigh them. Opacus computes them.

with per_sample_gradients(network, needed_by="my-model") as gradients:
    grads, loss = gradients(x, y, physical_batch=64)  # [b f] in the order of network.parameters()
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import MissingExtraError, OptionError

Gradients = Callable[..., tuple[Tensor, float]]


@contextmanager
def per_sample_gradients(network: nn.Module, needed_by: str) -> Iterator[Gradients]:
    """Within it: ``(x, y, physical_batch, backward=None)`` to gradients ``[b f]`` and the mean cross-entropy.

    Columns follow ``network.parameters()``; ``physical_batch`` samples go through the network at once, and ``backward``
    is called with their summed loss. Opacus' hooks leave when the block ends. Raises ``MissingExtraError``.
    """
    try:
        from opacus import GradSampleModule
    except ImportError as error:
        raise MissingExtraError(needed_by, "opacus", "privacy") from error
    parameters = list(network.parameters())
    hooked = GradSampleModule(network, loss_reduction="sum")
    widths = [p.numel() for p in parameters]

    def gradients(
        x: Tensor, y: Tensor, physical_batch: int, backward: Callable[[Tensor], None] | None = None
    ) -> tuple[Tensor, float]:
        grads = torch.empty(len(x), sum(widths), device=x.device)
        losses = []
        for first in range(0, len(x), physical_batch):
            part = slice(first, first + physical_batch)
            each = F.cross_entropy(hooked(x[part]), y[part], reduction="none")
            (backward or Tensor.backward)(each.sum())
            for p, column in zip(parameters, grads[part].split(widths, dim=1), strict=True):
                column.copy_(p.grad_sample.flatten(1))  # type: ignore[attr-defined]
                p.grad_sample = p.grad = None  # type: ignore[attr-defined]
            losses.append(each.detach())
        found = torch.cat(losses) if losses else torch.zeros(0)
        return grads, float(found[found.isfinite()].mean()) if found.isfinite().any() else 0.0

    try:
        with warnings.catch_warnings():
            # the input of a network needs no gradient, which torch remarks on for the hooks of its first layer
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield gradients
    finally:
        hooked.to_standard_module()


def refuse_layers(network: nn.Module, needed_by: str) -> None:
    """Raise ``OptionError`` naming the layers that mix samples or that Opacus has no per-sample gradients for."""
    try:
        from opacus.grad_sample import GradSampleModule
        from opacus.validators import ModuleValidator
    except ImportError as error:
        raise MissingExtraError(needed_by, "opacus", "privacy") from error
    bad = [
        f"{name or 'the network'} ({type(layer).__name__})"
        for name, layer in network.named_modules()
        if any(p.requires_grad for p in layer.parameters(recurse=False))
        and (
            (type(layer) in ModuleValidator.VALIDATORS and ModuleValidator.VALIDATORS[type(layer)](layer))
            or any(True for _ in layer.buffers(recurse=False))
        )
    ]
    if bad or GradSampleModule.validate(network):
        named = ", ".join(bad) or "a layer with buffers"
        raise OptionError(f"no per-sample gradients for {named}; use layers without batch statistics or buffers")
