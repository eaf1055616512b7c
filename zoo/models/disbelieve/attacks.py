"""The attacks that an aggregator is audited with, as functions of the controlled clients' honest updates.

Threat model (Sec. 2): f of n clients are controlled. The attacker knows their data, parameters and gradients, nothing
of the other clients and nothing of the aggregator, and lets all f send one and the same vector. Everything here is for
federations that are simulated to measure how robust an aggregator is. LIE and Min-Max are in ``zoo.nn.poisoning``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from zoo.errors import DataError, OptionError
from zoo.nn.poisoning import Direction, lie, min_max, spread
from zoo.nn.robust import refuse_majority

Targets = Int[Tensor, " n"] | Float[Tensor, "n c"]  # a class, or 0 and 1 for each of several labels
Data = tuple[Float[Tensor, "n ..."], Targets]
Share = Literal["params", "grads"]
Search = Literal["corrected", "as_printed", "divisor"]
AttackName = Literal["none", "lie", "min-max", "disbelieve"]

SCALES = (0.001, 1000.0)  # where Algorithm 2 looks for its scale
SCALE_WIDTH = 0.01  # and when it stops
LIE_TABLE = {(10, 3): 0.52, (10, 4): 0.84, (50, 5): 0.7054, (50, 8): 0.71904, (50, 10): 0.72575, (50, 12): 0.73891}
"""z of LIE in the released code, by clients and attackers."""
PROBE = 100  # cases, at most, of the released code's one batch


@dataclass(frozen=True)
class AttackSettings:
    """What an attack may choose, whatever its kind. The paper leaves the ascent open."""

    attack: AttackName = "none"
    """Its poisoned global models are kept beside the clean one; ``none`` trains the clean one alone."""
    lie: Literal["formula", "table"] = "formula"
    """z standard deviations below the mean by LIE's formula, or above it by the released table."""
    search: Search = "corrected"
    """Of Algorithm 2's scale sf. The listing moves ``start`` up when the vector is too far, which fits a divisor, and
    multiplies by sf: one of the two is a misprint. ``corrected``: sf multiplies and the branch is turned. ``divisor``:
    sf divides and the branch stays, as released. ``as_printed``: both as printed, which ends at scale 1000."""
    probe: Literal["pooled", "batch"] = "pooled"
    """Algorithm 2's gradient: of all pooled data at the global model; or, as released, of one batch of at most 100 at
    the mean of the attackers' models after a step of Adam of their own."""
    inner_steps: int = field(default=0, metadata={"min": 0, "max": 1_000_000})  # Algorithm 2; 0: at the global model
    landing: Literal["on", "inside", "beyond"] = "on"
    """Algorithm 1: on the sphere, one step before it, or one step beyond, as released."""
    clip: float = field(default=10.0, metadata={"min": 1e-6, "max": 1e9})  # the ascent's loss has no upper bound
    ascent_epochs: int = field(default=50, metadata={"min": 1, "max": 1_000_000})  # Algorithm 1, at most; open
    ascent_batch: int | None = field(default=None, metadata={"min": 1, "max": 65_536})  # none: as the clients
    ascent_lr: float | None = field(default=None, metadata={"min": 0.0, "max": 100.0})  # none: the clients' own
    threshold: Literal["paper", "max", "min", "mean"] = "paper"  # distance that bounds the attack
    direction: Direction = "std"  # Min-Max
    batch_size: int = field(default=32, metadata={"min": 1, "max": 65_536})
    lr: float = field(default=0.01, metadata={"min": 0.0, "max": 100.0})
    server_lr: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})  # of the server's Adam, share=grads


RELEASED = {
    "lie": "table", "search": "divisor", "probe": "batch", "landing": "beyond", "clip": 1e9, "ascent_epochs": 10,
    "ascent_batch": 100, "ascent_lr": 0.1,
}  # fmt: skip
"""The settings of the released code."""


@dataclass(frozen=True)
class Crafted:
    """What the controlled clients send in one round, and how far it may be and is from their mean."""

    vector: Float[Tensor, " d"]
    distance: float  # squared, to the mean of the honest updates of the controlled clients
    threshold: float  # squared
    feasible: bool = True  # whether any vector of the attack's form keeps within the threshold


def craft(
    updates: Float[Tensor, "f d"],
    network: nn.Module,
    data: Data,
    mode: Share,
    *,
    clients: int,
    settings: AttackSettings,
    rng: np.random.Generator,
) -> Crafted:
    """The vector that all controlled clients send: ``updates`` are theirs, ``data`` is what they hold together.

    ``network`` holds the global parameters, and is changed in parameter mode. Raises ``OptionError`` for too few or too
    many attackers, ``DataError`` for updates that are not finite or don't fit the network.
    """
    refuse_federation(clients, len(updates), settings.attack)
    count = sum(p.numel() for p in network.parameters())
    if updates.dim() != 2 or updates.shape[1] != count:
        raise DataError(f"updates of shape {tuple(updates.shape)} don't fit a network of {count} parameters")
    if not torch.isfinite(updates).all():
        raise DataError("an update of a controlled client is not finite; lower the clients' learning rate")
    x, y = data
    if not len(y):
        raise DataError("the controlled clients hold no data to craft an attack from; give them cases")
    if settings.attack == "disbelieve" and mode == "params":
        return disbelieve_parameters(updates, network, x, y, settings, rng)
    if settings.attack == "disbelieve":
        return disbelieve_gradients(updates, network, x, y, settings, rng)
    if settings.attack == "none":
        raise OptionError("attack=none crafts nothing; choose lie, min-max or disbelieve")
    if settings.attack == "min-max":
        vector = min_max(updates, settings.direction)
    else:
        vector = released_lie(updates, clients) if settings.lie == "table" else lie(updates, clients)
    return _crafted(vector, updates, spread(updates, "max"))


def _crafted(vector: Tensor, updates: Tensor, threshold: float, feasible: bool = True) -> Crafted:
    return Crafted(vector, float((vector - updates.mean(0)).square().sum()), threshold, feasible)


def class_loss(logits: Float[Tensor, "b c"], y: Targets) -> Float[Tensor, ""]:
    """L_class: cross-entropy, or binary cross-entropy of every label where a case may have several."""
    return F.binary_cross_entropy_with_logits(logits, y) if y.is_floating_point() else F.cross_entropy(logits, y)


def refuse_federation(clients: int, attackers: int, attack: AttackName = "none") -> None:
    """Raises ``OptionError`` unless 1 < f < n/2 (f may be 0 or 1 where nobody attacks)."""
    refuse_majority(clients, attackers)
    if attack != "none" and attackers < 2:
        raise OptionError(
            f"the attack {attack} measures distances between the attackers' clients, so it needs at least 2 attackers, "
            f"not {attackers}; raise attackers or choose attack=none"
        )


def released_lie(updates: Float[Tensor, "f d"], clients: int) -> Float[Tensor, " d"]:
    """LIE as released: above the mean, by the table's z. Raises ``OptionError`` for what the table doesn't have."""
    if (clients, len(updates)) not in LIE_TABLE:
        known = ", ".join(f"{f} of {n}" for n, f in LIE_TABLE)
        raise OptionError(
            f"the released table of LIE has no z for {len(updates)} attackers of {clients} clients, only for {known}; "
            "choose lie=formula"
        )
    return updates.mean(0) + LIE_TABLE[clients, len(updates)] * updates.std(0)


# ---- Algorithm 1, on parameters ------------------------------------------------------------------------------------


def disbelieve_parameters(
    updates: Float[Tensor, "f d"], network: nn.Module, x: Float[Tensor, "m ..."], y: Targets,
    settings: AttackSettings, rng: np.random.Generator,
) -> Crafted:  # fmt: skip
    """From the mean of the controlled models, climb the loss until the ball of their spread ends.

    ``updates``: parameters of the honestly trained controlled clients; ``network`` is trained in place, in the order
    of ``network.parameters()``, so that its buffers are the malicious model's afterwards; ``x, y``: their pooled data.
    The printed stop rule ("until the distance is at most P_dist") holds before the first step and is read as "while".
    ``settings.threshold`` may replace P_dist, the largest squared distance of two controlled clients.
    ``landing=beyond``: the distance is looked at before a step and not after it, so the last step leaves the ball.
    """
    p_dist = spread(updates, "max" if settings.threshold == "paper" else settings.threshold)
    current = mean = updates.mean(0)
    network.train()
    epochs = (torch.from_numpy(rng.permutation(len(y))) for _ in range(settings.ascent_epochs))
    size, lr = settings.ascent_batch or settings.batch_size, settings.lr if (r := settings.ascent_lr) is None else r
    for rows in (rows for epoch in epochs for rows in epoch.split(size)):
        if settings.landing == "beyond" and float((current - mean).square().sum()) >= p_dist:
            break
        step = lr * _clipped(_ascent_gradient(network, current, x[rows], y[rows]), settings.clip)
        following = current + step.to(current)
        distance = float((following - mean).square().sum())
        if not math.isfinite(distance):
            break
        if distance > p_dist and settings.landing != "beyond":
            if settings.landing == "on":
                current = mean + (following - mean) * math.sqrt(p_dist / distance)
            break
        current = following
    _load(network, current)
    return _crafted(current, updates, p_dist)


def _ascent_gradient(network: nn.Module, at: Tensor, x: Tensor, y: Tensor) -> Float[Tensor, " d"]:
    """Of the class loss at the parameters ``at``."""
    _load(network, at)
    gradients = torch.autograd.grad(class_loss(network(x), y), list(network.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


def _load(network: nn.Module, vector: Tensor) -> None:
    with torch.no_grad():
        vector_to_parameters(vector.to(next(network.parameters())), network.parameters())


def _clipped(gradient: Tensor, limit: float) -> Tensor:
    return gradient * min(1.0, limit / max(float(gradient.norm()), 1e-12))


# ---- Algorithm 2, on gradients -------------------------------------------------------------------------------------


def disbelieve_gradients(
    updates: Float[Tensor, "f d"], network: nn.Module, x: Float[Tensor, "m ..."], y: Targets,
    settings: AttackSettings, rng: np.random.Generator,
) -> Crafted:  # fmt: skip
    """The gradient of minus the loss, rescaled to lie near the mean of the controlled gradients.

    ``updates``: their honest gradients at the global parameters, which ``network`` holds. With ``inner_steps`` above
    0 the model climbs so many steps of SGD, and the gradients along the way add up.
    """
    probe = _probed_gradient if settings.probe == "batch" else _malicious_gradient
    malicious = probe(network, x, y, settings, updates, rng).to(updates)
    length, mean = malicious.norm(), updates.mean(0)
    g_dist = spread(updates, "min" if settings.threshold == "paper" else settings.threshold)
    direction = malicious / length if length > 0 else -mean / mean.norm().clamp_min(1e-12)
    feasible = closed_form_scale(direction, mean, g_dist) is not None
    return _crafted(search_scale(direction, mean, g_dist, settings.search) * direction, updates, g_dist, feasible)


def search_scale(
    direction: Float[Tensor, " d"], mean: Float[Tensor, " d"], g_dist: float, search: Search = "corrected"
) -> float:
    r"""The binary search for the scale sf in [0.001, 1000] with :math:`\|sf\,u - \mu\|^2 \le G_{dist}`.

    ``corrected`` halves towards the largest feasible scale, ``divisor`` towards the smallest feasible divisor, whose
    inverse is that scale; its steps are coarse above a scale of 1, and what it returns is the last middle, feasible or
    not. ``as_printed`` moves up when the vector is too far; the distance grows with the scale, so it ends near 1000.
    """
    along, square = float(direction @ mean), float(mean.square().sum())
    start, end = SCALES
    middle = start
    while end - start > SCALE_WIDTH:
        middle = (start + end) / 2
        sf = 1 / middle if search == "divisor" else middle
        too_far = sf * sf - 2 * sf * along + square > g_dist
        if too_far == (search == "corrected"):
            end = middle
        else:
            start = middle
    return 1 / middle if search == "divisor" else start


def closed_form_scale(direction: Float[Tensor, " d"], mean: Float[Tensor, " d"], g_dist: float) -> float | None:
    """The largest scale within the threshold; ``None`` where no positive one is."""
    along, square = float(direction @ mean), float(mean.square().sum())
    root = along**2 - square + g_dist
    if root < 0:
        return None
    largest = along + math.sqrt(root)
    return largest if largest > 0 else None


def _probed_gradient(
    network: nn.Module, x: Tensor, y: Tensor, settings: AttackSettings, updates: Tensor, rng: np.random.Generator
) -> Float[Tensor, " d"]:
    """g_M as released: of one batch, where the attackers' models are on average after their own first step of Adam."""
    network.train()
    home = parameters_to_vector(network.parameters()).detach().clone()
    steps = (updates / (updates.abs() + 1e-8)).mean(0).to(home)  # a fresh Adam moves by the rate, whatever the length
    rows = torch.from_numpy(rng.permutation(len(y))[:PROBE])
    gradient = -_ascent_gradient(network, home - settings.server_lr * steps, x[rows], y[rows])
    _load(network, home)
    return gradient


def _malicious_gradient(
    network: nn.Module, x: Tensor, y: Tensor, settings: AttackSettings, *_: object
) -> Float[Tensor, " d"]:
    """g_M, of minus the class loss: one pass over the pooled data at fixed parameters, or summed along an ascent."""
    network.train()
    home = parameters_to_vector(network.parameters()).detach().clone()
    total, current = torch.zeros_like(home), home
    batches = torch.arange(len(y)).split(settings.batch_size)
    for step in range(settings.inner_steps or len(batches)):
        rows = batches[step % len(batches)]
        gradient = -_ascent_gradient(network, current, x[rows], y[rows])
        total += gradient * (1 if settings.inner_steps else len(rows) / len(y))
        if settings.inner_steps:
            current = current - settings.lr * _clipped(gradient, settings.clip)
    _load(network, home)
    return total
