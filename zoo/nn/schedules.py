"""Schedules of the learning rate that torch and timm lack as plain functions of the step."""

from __future__ import annotations

import math

import torch


def cosine(step: float, steps: float, *, warmup: int = 0, floor: float = 0.0) -> float:
    """Share of the highest rate at ``step``, from 0: down in half a wave, from 1 to ``floor`` after ``steps``.

    ``warmup``: so many steps are also scaled up in a line. Torch's ``CosineAnnealingLR`` has no line and turns up again
    after its end; this stays at ``floor``.
    """
    share = 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
    up = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return up * (floor + (1 - floor) * share)


def cosine_schedule(
    optimizer: torch.optim.Optimizer, steps: int, *, warmup: int = 0, floor: float = 0.0
) -> torch.optim.lr_scheduler.LambdaLR:
    """:func:`cosine` of every group's own rate; call ``step()`` after each step of ``optimizer``."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, steps, warmup=warmup, floor=floor))
