"""The attacks that an aggregator is audited with, as functions of the controlled clients' honest updates.

Threat model (Sec. 2): f of n clients are controlled. The attacker knows their data, parameters and gradients, nothing
of the other clients and nothing of the aggregator, and lets all f send one and the same vector. Everything here is for
federations that are simulated to measure how robust an aggregator is.

DISBELIEVE is Algorithms 1 and 2 of the paper; those it's compared with are in ``baselines``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from zoo.errors import DataError, OptionError
from zoo.federated import State, weighted_mean
from zoo.models.disbelieve.baselines import Direction, lie, min_max
from zoo.models.disbelieve.screening import Share, Tensors, pair_distances, refuse_majority
from zoo.seeds import derive_seed

Targets = Int[Tensor, " n"] | Float[Tensor, "n c"]  # a class, or 0 and 1 for each of several labels
Data = tuple[Float[Tensor, "n ..."], Targets]
Search = Literal["corrected", "as_printed"]
AttackName = Literal["none", "lie", "min-max", "disbelieve"]

SCALES = (0.001, 1000.0)  # where Algorithm 2 looks for its scale
SCALE_WIDTH = 0.01  # and when it stops


@dataclass(frozen=True)
class Crafted:
    """What the controlled clients send in one round, and how far it may be and is from their mean."""

    vector: Float[Tensor, " d"]
    distance: float  # squared, to the mean of the honest updates of the controlled clients
    threshold: float  # squared; NaN for attacks without one
    feasible: bool = True  # whether any vector of the attack's form keeps within the threshold


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


# ---- DISBELIEVE on parameters (Algorithm 1) ------------------------------------------------------------------------


@dataclass(frozen=True)
class Ascent:
    """How the malicious model climbs the loss. The paper leaves all of it open; rate and batch are the clients' own."""

    lr: float = 0.01
    batch_size: int = 32
    epochs: int = 50  # at most
    clip: float = 10.0  # norm of a step's gradient; minus cross-entropy has no lower bound
    project: bool = True  # land on the sphere; else stop one step before it


def disbelieve_parameters(
    updates: Float[Tensor, "f d"],
    network: nn.Module,
    x: Float[Tensor, "m ..."],
    y: Targets,
    ascent: Ascent,
    rng: np.random.Generator,
    metric: Literal["max", "min", "mean"] = "max",
) -> Crafted:
    """Algorithm 1: from the mean of the controlled models, climb the loss until the ball of their spread ends.

    ``updates``: parameters of the honestly trained controlled clients; ``network`` is trained in place, in the order
    of ``network.parameters()``, so that its buffers are the malicious model's afterwards; ``x, y``: their pooled data.
    The printed stop rule ("until the distance is at most P_dist") holds before the first step and is read as "while".
    ``metric`` replaces P_dist, the largest squared distance of two controlled clients, for the ablation.
    """
    mean = updates.mean(0)
    p_dist = spread(updates, metric)
    current = mean
    parameters = list(network.parameters())
    network.train()
    for _ in range(ascent.epochs):
        for rows in torch.from_numpy(rng.permutation(len(y))).split(ascent.batch_size):
            step = ascent.lr * _clipped(_ascent_gradient(network, parameters, current, x[rows], y[rows]), ascent.clip)
            following = current + step.to(current)
            distance = float((following - mean).square().sum())
            if not math.isfinite(distance) or distance > p_dist:
                if ascent.project and math.isfinite(distance):
                    current = mean + (following - mean) * math.sqrt(p_dist / distance)
                return _landed(network, current, mean, p_dist)
            current = following
    return _landed(network, current, mean, p_dist)


def _landed(network: nn.Module, vector: Tensor, mean: Tensor, p_dist: float) -> Crafted:
    _load(network, vector)
    return Crafted(vector, float((vector - mean).square().sum()), p_dist)


def _ascent_gradient(
    network: nn.Module, parameters: list[nn.Parameter], at: Tensor, x: Tensor, y: Tensor
) -> Float[Tensor, " d"]:
    """Of the class loss at the parameters ``at``."""
    _load(network, at)
    loss = class_loss(network(x), y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def _load(network: nn.Module, vector: Tensor) -> None:
    first = next(network.parameters())
    with torch.no_grad():
        vector_to_parameters(vector.to(first), network.parameters())


def _clipped(gradient: Tensor, limit: float) -> Tensor:
    return gradient * min(1.0, limit / max(float(gradient.norm()), 1e-12))


def spread(updates: Float[Tensor, "f d"], metric: Literal["max", "min", "mean"]) -> float:
    """The largest (P_dist), smallest (G_dist) or mean squared distance of two different updates."""
    if len(updates) < 2:
        raise DataError(f"distances need at least 2 updates, not {len(updates)}; give those of 2 or more clients")
    pairs = pair_distances(updates)
    return float(pairs.max() if metric == "max" else pairs.min() if metric == "min" else pairs.mean())


# ---- DISBELIEVE on gradients (Algorithm 2) -------------------------------------------------------------------------


def disbelieve_gradients(
    updates: Float[Tensor, "f d"],
    network: nn.Module,
    x: Float[Tensor, "m ..."],
    y: Targets,
    *,
    batch_size: int = 32,
    search: Search = "corrected",
    inner_steps: int = 0,
    lr: float = 0.01,
    clip: float = 10.0,
    metric: Literal["max", "min", "mean"] = "min",
) -> Crafted:
    """Algorithm 2: the gradient of minus the loss, rescaled to lie near the mean of the controlled gradients.

    ``updates``: their honest gradients at the global parameters, which ``network`` holds. With ``inner_steps`` above
    0 the model climbs so many steps of SGD, and the gradients along the way add up.
    """
    malicious = _malicious_gradient(network, x, y, batch_size, inner_steps, lr, clip).to(updates)
    length = malicious.norm()
    mean = updates.mean(0)
    g_dist = spread(updates, metric)
    direction = malicious / length if length > 0 else -mean / mean.norm().clamp_min(1e-12)
    scale = search_scale(direction, mean, g_dist, search)
    vector = scale * direction
    return Crafted(
        vector, float((vector - mean).square().sum()), g_dist, closed_form_scale(direction, mean, g_dist) is not None
    )


def search_scale(
    direction: Float[Tensor, " d"], mean: Float[Tensor, " d"], g_dist: float, search: Search = "corrected"
) -> float:
    r"""The binary search for the scale sf in [0.001, 1000] with :math:`\|sf\,u - \mu\|^2 \le G_{dist}`.

    ``corrected`` halves towards the largest feasible scale. ``as_printed`` moves up when the vector is too far, as the
    paper's listing has it; the distance grows with the scale, so that it ends near 1000.
    """
    along, square = float(direction @ mean), float(mean.square().sum())
    start, end = SCALES
    while end - start > SCALE_WIDTH:
        sf = (start + end) / 2
        too_far = sf * sf - 2 * sf * along + square > g_dist
        if too_far == (search == "corrected"):
            end = sf
        else:
            start = sf
    return start


def closed_form_scale(direction: Float[Tensor, " d"], mean: Float[Tensor, " d"], g_dist: float) -> float | None:
    """The largest scale within the threshold; ``None`` where no positive one is."""
    along, square = float(direction @ mean), float(mean.square().sum())
    root = along**2 - square + g_dist
    if root < 0:
        return None
    largest = along + math.sqrt(root)
    return largest if largest > 0 else None


def _malicious_gradient(
    network: nn.Module, x: Tensor, y: Tensor, batch_size: int, inner_steps: int, lr: float, clip: float
) -> Float[Tensor, " d"]:
    """g_M, of minus the class loss: one pass over the pooled data at fixed parameters, or summed along an ascent."""
    network.train()
    parameters = list(network.parameters())
    home = parameters_to_vector(parameters).detach().clone()
    total, current = torch.zeros_like(home), home
    batches = torch.arange(len(y)).split(batch_size)
    for step in range(inner_steps or len(batches)):
        rows = batches[step % len(batches)]
        gradient = -_ascent_gradient(network, parameters, current, x[rows], y[rows])
        total += gradient * (1 if inner_steps else len(rows) / len(y))
        if inner_steps:
            current = current - lr * _clipped(gradient, clip)
    _load(network, home)
    return total


# ---- one name for all ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttackSettings:
    """What an attack may choose, whatever its kind."""

    name: AttackName = "none"
    direction: Direction = "std"  # Min-Max
    ascent: Ascent = Ascent()
    search: Search = "corrected"
    inner_steps: int = 0
    threshold: Literal["paper", "max", "min", "mean"] = "paper"  # largest distance of parameters, smallest of gradients


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

    Raises ``OptionError`` for too few or too many attackers, ``DataError`` for updates that are not finite or don't
    fit the network.
    """
    refuse_federation(clients, len(updates), settings.name)
    count = sum(p.numel() for p in network.parameters())
    if updates.dim() != 2 or updates.shape[1] != count:
        raise DataError(f"updates of shape {tuple(updates.shape)} don't fit a network of {count} parameters")
    if not torch.isfinite(updates).all():
        raise DataError("an update of a controlled client is not finite; lower the clients' learning rate")
    x, y = data
    if not len(y):
        raise DataError("the controlled clients hold no data to craft an attack from; give them cases")
    mean = updates.mean(0)
    if settings.name == "disbelieve" and mode == "params":
        metric = "max" if settings.threshold == "paper" else settings.threshold
        return disbelieve_parameters(updates, network, x, y, settings.ascent, rng, metric)
    if settings.name == "disbelieve":
        metric = "min" if settings.threshold == "paper" else settings.threshold
        return disbelieve_gradients(
            updates, network, x, y, batch_size=settings.ascent.batch_size, search=settings.search,
            inner_steps=settings.inner_steps, lr=settings.ascent.lr, clip=settings.ascent.clip, metric=metric,
        )  # fmt: skip
    if settings.name == "lie":
        vector = lie(updates, clients)
    elif settings.name == "min-max":
        vector = min_max(updates, settings.direction)
    else:
        raise OptionError("attack=none crafts nothing; choose lie, min-max or disbelieve")
    return Crafted(vector, float((vector - mean).square().sum()), spread(updates, "max"))


@dataclass(frozen=True)
class Attacker:
    """What the attacker has: its clients, their pooled data, and a network to work in."""

    settings: AttackSettings
    controlled: tuple[int, ...]
    data: Data
    network: nn.Module
    share: Share = "params"
    seed: int = 0

    def __call__(
        self, updates: Float[Tensor, "n d"], clients: Sequence[int], buffers: list[Tensors], state: State
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "f d"], Crafted | None]:
        """The updates with those of the controlled clients replaced; their honest ones; what was crafted.

        Where the attack trains a model, the malicious one's ``buffers`` replace theirs too.
        """
        rows = [row for row, client in enumerate(clients) if client in self.controlled]
        honest = updates[rows]
        if len(rows) < 2:  # too few of them replied in this round
            return updates, honest, None
        mean = weighted_mean([buffers[row] for row in rows], [1] * len(rows))
        self.network.load_state_dict({**state.network, **mean})
        rng = np.random.default_rng(derive_seed(self.seed, "attack", state.round))
        crafted = craft(
            honest, self.network, self.data, self.share, clients=max(len(clients), 2 * len(rows) + 1),
            settings=self.settings, rng=rng,
        )  # fmt: skip
        sent = updates.clone()
        sent[rows] = crafted.vector.to(sent)
        if self.settings.name == "disbelieve":
            malicious = self.network.state_dict()
            for row in rows:
                buffers[row] = {name: malicious[name].clone() for name in mean}
        return sent, honest, crafted


def craft_vector(
    updates: Float[Tensor, "f d"],
    model: nn.Module,
    data: Data,
    mode: Share = "params",
    *,
    clients: int | None = None,
    attack: AttackName = "disbelieve",
    seed: int = 0,
    **settings: Any,
) -> Float[Tensor, " d"]:
    """The vector that all controlled clients of a user's own simulation send.

    ``updates``: what they would honestly send, one flat row each in the order of ``model.parameters()``; ``model``:
    the network, holding the global parameters (it is changed in parameter mode); ``data``: inputs and targets that
    they hold together. ``clients``: of the whole federation, by default the fewest that make f a minority.
    ``settings``: of :class:`AttackSettings`, such as ``search`` or ``ascent``.

    Raises ``OptionError`` and ``DataError`` as :func:`craft`.
    """
    try:
        chosen = AttackSettings(attack, **settings)
    except TypeError:
        wrong = next(name for name in settings if name not in AttackSettings.__dataclass_fields__)
        raise OptionError(
            f"craft has no option {wrong!r}; it has {', '.join(list(AttackSettings.__dataclass_fields__)[1:])}"
        ) from None
    n = clients if clients is not None else 2 * len(updates) + 1
    rng = np.random.default_rng(seed)
    wide = torch.as_tensor(updates).double()
    return craft(wide, model, data, mode, clients=n, settings=chosen, rng=rng).vector.to(updates.dtype)
