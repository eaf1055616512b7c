"""Ways to forget a client of a federated training, from what its server kept: where to begin again, and how.

theta^t is the global model that round t starts from, theta_i^t+1 what client i makes of it and
Delta_i^t = theta_i^t+1 - theta^t what it adds; c is who leaves, R who remains, p'_i the shares of R, and T the rounds.

| scheme | begins at | and then |
|---|---|---|
| ``scratch`` | theta^0 | trains on R |
| ``finetuning`` | theta^T | trains on R |
| ``fedaccum`` | sum over R of p'_i theta_i^T (``accumulate=sum``: theta^0 + sum of p'_i Delta_i^t) | trains on R |
| ``federaser`` | theta^0 + sum over R of p'_i Delta_i^0 | trains on R, updates as long as every n-th stored one |
| ``ukd`` | theta^T - p_c sum of theta_c^t+1 (``subtract=updates``: of Delta_c^t) | trains on R, or distils |
| ``pga`` | climbs c's loss within a ball about ``fedaccum``'s model | trains on R |
| ``ifu`` | theta^t* and noise, t* the last round up to which c had added little | trains on R |

``ukd`` with ``distil`` ends at the server, which brings the model's answers on data of its own to those of theta^T.

``sifu`` is ``ifu`` on a training that has forgotten others before: it goes back along all that led to its model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import OptionError
from zoo.federated.contributions import NEEDS, Contributions
from zoo.federated.exchange import Tensors, tensors_of, weighted_mean
from zoo.federated.federation import Federation
from zoo.federated.history import History
from zoo.seeds import derive_seed, seed_torch
from zoo.training import Run

METHODS = (*NEEDS, "sifu")
MethodName = Literal["scratch", "finetuning", "fedaccum", "federaser", "ukd", "pga", "ifu", "sifu"]


@dataclass(frozen=True)
class Settings:
    """How a client is forgotten. The defaults are those of the prostate benchmark's code where it has any."""

    rounds: int | None = field(default=None, metadata={"min": 1, "max": 1_000_000})
    """Of the training on those who remain; none: as many as the whole training had, and 0 after ``distil``."""
    epsilon: float = field(default=1.0, metadata={"min": 1e-6, "max": 1e6})
    delta: float = field(default=0.025, metadata={"min": 1e-12, "max": 0.5})
    sigma: float = field(default=0.025, metadata={"min": 0.0, "max": 1e3})  # of IFU's noise
    metric: Literal["coordinate", "l2"] = "coordinate"
    """What IFU adds up: by how much the mean would move without the client, and of that the weight that moved most; or
    the length of what the client added."""
    interval: int = field(default=1, metadata={"min": 1, "max": 1_000_000})  # FedEraser's: of the stored rounds used
    granularity: Literal["client", "layer"] = "client"  # what FedEraser scales to its stored length as one
    accumulate: Literal["last", "sum"] = "last"  # FedAccum's reading
    subtract: Literal["models", "updates"] = "models"  # UKD's reading
    distil: int = field(default=0, metadata={"min": 0, "max": 10_000_000})
    """Steps of UKD in which the server brings the subtracted model's answers to the old one's; as released there are
    none."""
    distil_lr: float = field(default=1e-3, metadata={"min": 0.0, "max": 10.0})  # of Adam; not stated
    temperature: float = field(default=3.0, metadata={"min": 1e-3, "max": 1e3})  # not stated
    ascent: int = field(default=100, metadata={"min": 1, "max": 1_000_000})  # PGA's steps at most
    ascent_lr: float = field(default=1e-3, metadata={"min": 1e-9, "max": 1e3})
    floor: float = field(default=0.12, metadata={"min": 0.0, "max": 1.0})  # score of c at which PGA stops
    ascent_start: Literal["others", "full"] = "others"


# ---- the equations ---------------------------------------------------------------------------------------------------


def cutoff(epsilon: float, delta: float, sigma: float) -> float:
    """Psi*: how much a client may have added up to the round that IFU goes back to (Gaussian mechanism)."""
    return epsilon * sigma / math.sqrt(2 * math.log(1.25 / delta))


def reached(contributions: Contributions, clients: Sequence[int], metric: str) -> Float[Tensor, " rounds"]:
    """Psi(t), t = 0 .. T (``T + 1`` of them): what the clients together added before round t."""
    if metric == "l2":
        steps = contributions.lengths()[:, list(clients)].sum(1).cumsum(0)
    else:
        steps = torch.stack(contributions.reach)[:, list(clients)].sum(1)
    return torch.cat([torch.zeros(1, dtype=torch.float64), steps])


def restart(reach: Float[Tensor, " rounds"], limit: float, kept: Sequence[int]) -> int:
    """t*: the last kept round before which no more than ``limit`` was added."""
    return max(t for t in kept if t < len(reach) and float(reach[t]) <= limit)


def noised(network: Tensors, names: Sequence[str], sigma: float, seed: int | None) -> Tensors:
    """Normal noise of deviation ``sigma`` on the parameters ``names``; without a seed nobody can draw it again."""
    generator = torch.Generator()
    generator.manual_seed(seed % 2**63) if seed is not None else generator.seed()
    noise = {n: torch.randn(network[n].shape, generator=generator).to(network[n].dtype) * sigma for n in names}
    return {name: tensor + noise[name] if name in noise else tensor for name, tensor in network.items()}


def calibrated(
    model: Tensors, before: Tensors, names: Sequence[str], stored: Float[Tensor, " k"], granularity: str
) -> Tensors:
    """FedEraser: the update of ``model`` as long as the stored one was, its direction its own.

    ``stored``: lengths of the stored update in each of the k tensors ``names``.
    """
    away = {name: model[name] - before[name] for name in names}
    new = torch.stack([away[name].double().norm() for name in names])
    if granularity == "layer":
        scale = stored / new.clamp(min=1e-12)
    else:
        scale = (stored.norm() / new.norm().clamp(min=1e-12)).expand(len(names))
    moved = {n: before[n] + away[n] * s.to(away[n].dtype) for n, s in zip(names, scale, strict=True)}
    return {**model, **moved}


def ascend(
    network: nn.Module, data: Any, objective: Callable[..., tuple[Tensor, float]], centre: Tensors, radius: float,
    settings: Settings, rng: np.random.Generator,
) -> int:  # fmt: skip
    """PGA, in place: climbs the loss within ``radius`` of ``centre`` until the score falls below the floor.

    Returns the steps that were made.
    """
    named = dict(network.named_parameters())
    optimizer = torch.optim.AdamW(named.values(), lr=settings.ascent_lr, maximize=True)
    network.train()
    for step in range(settings.ascent):
        loss, score = objective(network, data, rng)
        if score < settings.floor:
            return step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            away = {name: p - centre[name].to(p.device) for name, p in named.items()}
            length = math.sqrt(sum(float(a.double().square().sum()) for a in away.values()))
            if length > radius:
                for name, p in named.items():
                    p.copy_(centre[name].to(p.device) + away[name] * (radius / length))
    return settings.ascent


def distilled(
    whole: Federation, student: Tensors, teacher: Tensors, leaving: Sequence[int], settings: Settings, run: Run
) -> Tensors:
    """UKD's second half, a stage of ``run``: the server brings the subtracted model's answers to the old model's."""
    assert whole.distil is not None
    old, network = whole.model(), whole.model()
    old.load_state_dict(teacher)
    network.load_state_dict(student)
    old.to(run.device).eval().requires_grad_(False)
    net, optimizer = run.track(network=network, optimizer=torch.optim.Adam(network.parameters(), lr=settings.distil_lr))
    for step in run.steps(settings.distil):
        net.train()
        loss = whole.distil(net, old, run.generator("distillation", step), leaving, settings.temperature)
        optimizer.zero_grad()
        run.backward(loss)
        optimizer.step()
        run.log(loss=loss)
    return tensors_of(network)


# ---- where each scheme begins ----------------------------------------------------------------------------------------


@dataclass
class Beginning:
    """The model to begin at, the rounds that follow, how many came before, and facts for the report."""

    network: Tensors
    rounds: int
    before: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


def beginning(
    method: str, whole: Federation, history: History, first: Tensors, leaving: Sequence[int], settings: Settings,
    seed: int, noise: int | None, device: torch.device,
) -> Beginning:  # fmt: skip
    """Where ``method`` begins to forget the clients ``leaving`` of the training that left ``history``.

    ``first``: theta^0. Raises ``OptionError`` where the history lacks what the method needs.
    """
    total, full = history.last()
    rounds = settings.rounds or whole.rounds
    if method == "scratch":
        return Beginning(first, rounds)
    if method == "finetuning":
        return Beginning(full, rounds)
    known = history.contributions()
    require(method, known, whole, settings.distil)
    names, left = known.names, [c for c in range(known.clients) if c not in leaving]

    def moved(base: Tensors, by: Tensor) -> Tensors:
        parts = by.split([base[name].numel() for name in names])
        new = {n: base[n] + p.reshape(base[n].shape).to(base[n].dtype) for n, p in zip(names, parts, strict=True)}
        return {**base, **new}

    def mean(vectors: Mapping[int, Tensor], shares: Tensor) -> Tensor:
        there = [c for c in left if c in vectors and float(shares[c])]
        if not there:
            raise OptionError(f"{method} can't begin: nobody who remains took part in the round that it begins with")
        weights = [float(shares[c]) for c in there]
        return weighted_mean([{"v": vectors[c]} for c in there], weights)["v"]

    def others() -> Tensors:
        return moved(full, mean(known.vectors["last"], known.shares[-1]) - known.vector(full))

    if method == "fedaccum":
        if settings.accumulate == "sum":
            return Beginning(moved(first, mean(known.vectors["sum"], known.shares[-1])), rounds)
        return Beginning(others(), rounds)
    if method == "federaser":
        again = math.ceil(total / settings.interval) - 1
        if again < 1:
            raise OptionError(f"interval must leave two rounds or more of {total}, not {settings.interval}")
        begin = moved(first, mean(known.vectors["first"], known.shares[0]))
        return Beginning(begin, again, facts={"stored_rounds_used": again + 1})
    if method == "ukd":
        model = full
        for client in leaving:
            taken = known.vectors["sum"].get(client)
            taken = torch.zeros(()) if taken is None else taken
            if settings.subtract == "models":
                taken = taken + known.vectors["path"][0]
            share = float(torch.stack(known.shares)[:, client].mean())
            model = moved(model, (-share * taken).expand_as(known.vector(full)))
        return Beginning(model, (settings.rounds or 0) if settings.distil else rounds)
    if method == "pga":
        return _climbed(whole, others(), full, rounds, leaving, settings, seed, device)
    return _gone_back(history, known, full, total, rounds, leaving, settings, noise)


def _climbed(
    whole: Federation, centre: Tensors, full: Tensors, rounds: int, leaving: Sequence[int], settings: Settings,
    seed: int, device: torch.device,
) -> Beginning:  # fmt: skip
    assert whole.objective is not None
    network = whole.model()
    parameters = [name for name, _ in network.named_parameters()]
    distances = []
    for place in range(10):
        seed_torch(derive_seed(seed, "ball", place))
        drawn = dict(whole.model().named_parameters())
        away = sum(float((drawn[n].detach().double() - centre[n].double()).square().sum()) for n in parameters)
        distances.append(math.sqrt(away))
    radius = float(np.mean(distances)) / 3
    seed_torch(derive_seed(seed, "ascent"))
    network.load_state_dict(centre if settings.ascent_start == "others" else full)
    steps, rng = [], np.random.default_rng(derive_seed(seed, "ascent"))
    for client in leaving:
        data = whole.data(client)
        steps.append(ascend(network.to(device), data, whole.objective, centre, radius, settings, rng))
    begin = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
    return Beginning(begin, rounds, facts={"radius": radius, "ascent_steps": sum(steps)})


def _gone_back(
    history: History, known: Contributions, full: Tensors, total: int, rounds: int, leaving: Sequence[int],
    settings: Settings, noise: int | None,
) -> Beginning:  # fmt: skip
    reach, limit = reached(known, leaving, settings.metric), cutoff(settings.epsilon, settings.delta, settings.sigma)
    kept = sorted({*history.rounds, total})
    t = restart(reach, limit, kept)
    base = full if t == total else {n: x.to(full[n].dtype) for n, x in history.network(t).items()}
    factor = math.sqrt(2 * math.log(1.25 / settings.delta))
    spent = float(reach[t]) * factor
    facts: dict[str, Any] = {
        "restart_round": t, "last_allowed_round": restart(reach, limit, range(total + 1)), "rounds_known": total,
        "contribution": float(reach[t]), "contribution_whole": float(reach[-1]), "cutoff": limit,
        "epsilon_asked": settings.epsilon, "delta": settings.delta, "sigma": settings.sigma, "metric": settings.metric,
        "epsilon_reached": spent / settings.sigma if settings.sigma else (0.0 if spent == 0 else math.inf),
    }  # fmt: skip
    facts["guarantee"] = guarantee(t, total, float(facts["epsilon_reached"]), settings, noise is not None)
    return Beginning(noised(base, known.names, settings.sigma, noise), rounds, before=t, facts=facts)


def guarantee(t: int, total: int, epsilon: float, settings: Settings, seeded: bool) -> str:
    """What IFU's noise guarantees in the end, in one sentence or two."""
    if t == 0:
        return (
            "It went back to the beginning, so this equals training from scratch, from a noised beginning: nothing of "
            "the client is in it."
        )
    where = "It never went back, so this equals fine-tuning from a noised model. " if t == total else ""
    if settings.epsilon > 1:
        return f"{where}No guarantee: the bound of the Gaussian mechanism holds for epsilon up to 1."
    if seeded:
        return f"{where}No guarantee: the noise can be drawn again from the seed; leave it out."
    each = " for each weight by itself, not for all together" if settings.metric == "coordinate" else ""
    return (
        f"{where}(epsilon, delta) = ({epsilon:.3g}, {settings.delta:g}){each}, if local training brings no two models "
        "further apart, which convex losses see to and a network's doesn't."
    )


def require(method: str, known: Contributions, whole: Federation, distil: int = 0) -> None:
    """Raises ``OptionError`` with how to train where a history lacks what a method needs."""
    if method not in known.schemes:
        kept = ", ".join(dict.fromkeys(("scratch", "finetuning", *known.schemes)))
        raise OptionError(f"this run kept what {kept} need; for {method} train it with --history {method}")
    if not known.rounds or not float(torch.stack(known.shares).sum()):
        raise OptionError(f"the clients of this run send no network, so {method} has no updates of theirs to go by")
    if method == "pga" and whole.objective is None:
        raise OptionError("pga climbs a client's loss, and this model's federation states no objective to climb")
    if method == "ukd" and distil and whole.distil is None:
        raise OptionError(
            "ukd distils on data of the server's own, and this training's server has none; leave out distil, or see "
            "the model's notes for how its server gets some"
        )
