"""What an arm of a claim spends, measured: arms that are compared must have been given the same.

A claim's run wraps the training of each arm::

    with spending("black box", examples=len(images)):
        net = fit_black_box(recipe, images, run)

All steps of all optimisers are counted while it lasts: every stage, every client, and every setting that is tried. A
stage that several arms share names them all. Where a training may stop early, ``at_most`` says how far it may go, and
that is the budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from zoo.claims.types import Claim
from zoo.errors import PluginError


@dataclass
class Spent:
    """Steps of optimisers, and the training examples that they saw at most (0: not said)."""

    updates: int = 0
    examples: int = 0


_ledgers: list[dict[str, Spent]] = []


@contextmanager
def ledger() -> Iterator[dict[str, Spent]]:
    """Collects what the arms spend that run inside."""
    _ledgers.append({})
    try:
        yield _ledgers[-1]
    finally:
        _ledgers.pop()


@contextmanager
def spending(*names: str, examples: int = 0, at_most: int | None = None) -> Iterator[None]:
    """Count what is spent inside for each of these arms; several calls for one arm add up.

    ``examples``: how many training examples it learns from. ``at_most``: steps that it may make, where it may stop
    early. Raises ``PluginError`` if more are made.
    """
    from torch.optim.optimizer import register_optimizer_step_post_hook

    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1

    hook = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        hook.remove()
    if at_most is not None and made > at_most:
        raise PluginError(f"the arm {names[0]} made {made} steps, more than the {at_most} it was given")
    for name in names if _ledgers else ():
        spent = _ledgers[-1].setdefault(name, Spent())
        spent.updates += made if at_most is None else at_most
        spent.examples = max(spent.examples, examples)


def unequal(claim: Claim, budgets: Mapping[int, Mapping[str, Mapping[str, int]]]) -> list[str]:
    """A sentence for each comparison whose arms were given different budgets without a word about it."""
    found: dict[str, None] = {}
    for comparison in claim.comparisons:
        names = (comparison.method, comparison.baseline)
        if set(names) & claim.unequal.keys():
            continue
        for seed, spent in budgets.items():
            if missing := [name for name in names if name not in spent]:
                found[
                    f"the arm {missing[0]} states no budget; wrap its training in zoo.claims.spending({missing[0]!r})"
                ] = None
                break
            a, b = (Spent(**spent[name]) for name in names)
            if a != b:
                said = " and ".join(f"{name} {asdict(one)}" for name, one in zip(names, (a, b), strict=True))
                found[f"{comparison.name}: not the same budget with seed {seed}, {said}"] = None
                break
    return list(found)
