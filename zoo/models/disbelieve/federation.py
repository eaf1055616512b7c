"""One federation on Flower: what a client does in a round, and a strategy that audits an aggregator.

The strategy stands between the replies and the aggregator. It replaces the replies of the controlled clients by the
crafted vector, hands all to the aggregator as flat vectors in double precision, and keeps what happened: distances,
who was picked, what weighed how much. The aggregator is any Flower strategy and knows of no attack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.federated import client_device, client_generator, client_id, client_of, reply

# isort: split
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from zoo.errors import DataError
from zoo.metrics import classification_scores
from zoo.models.disbelieve.aggregators import DOS
from zoo.models.disbelieve.attacks import AttackSettings, Crafted, Data, Share, Targets, class_loss, craft
from zoo.models.disbelieve.screening import pair_distances
from zoo.seeds import derive_seed


@dataclass(frozen=True)
class ClientSettings:
    """What every client does in a round."""

    share: Share = "params"
    local_epochs: int = 3  # of SGD without momentum, where parameters are shared
    batch_size: int = 890
    lr: float = 0.01


# ---- the client ----------------------------------------------------------------------------------------------------


def client_app(
    make_network: Callable[[], nn.Module], shards: Callable[[int], Data], settings: ClientSettings
) -> ClientApp:
    """A Flower app whose client i trains on ``shards(i)``, and sends its parameters or one gradient.

    A client whose own training diverges sends back what it got (or a gradient of 0), so that an audit of an attack
    that breaks the global model still comes to its end.
    """
    app = ClientApp()
    made: list[nn.Module] = []  # on first use; clients of one process take turns

    @app.train()
    def train(message: Message, context: Context) -> Message:
        device = client_device(context)
        if not made:
            made.append(make_network().to(device))
        network = made[0]
        start = message.content.array_records["arrays"].to_torch_state_dict()
        network.load_state_dict(start)
        rng = client_generator(message, context)
        x, y = (part.to(device) for part in shards(client_id(context)))
        if settings.share == "params":
            loss = train_locally(network, x, y, settings, rng)
            if not _all_finite(network.state_dict().values()):  # from a global model that an attack drove off
                network.load_state_dict(start)
            return reply(message, network.state_dict(), num_examples=len(y), loss=loss)
        gradient, loss = local_gradient(network, x, y, settings.batch_size, rng)
        if not _all_finite(gradient.values()):
            gradient = {name: torch.zeros_like(part) for name, part in gradient.items()}
        return reply(message, {**network.state_dict(), **gradient}, num_examples=len(y), loss=loss)

    return app


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def train_locally(
    network: nn.Module, x: Float[Tensor, n *shape], y: Targets, settings: ClientSettings,
    rng: np.random.Generator,
) -> float:  # fmt: skip
    """Some epochs of SGD in place; returns the mean loss of the last one."""
    network.train()
    parameters: list[Tensor] = list(network.parameters())
    total = 0.0
    for _ in range(settings.local_epochs):
        total = 0.0
        for rows in torch.from_numpy(rng.permutation(len(y))).split(settings.batch_size):
            loss = class_loss(network(x[rows]), y[rows])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                torch._foreach_add_(parameters, gradients, alpha=-settings.lr)
            total += float(loss.detach()) * len(rows)
    return total / len(y)


def local_gradient(
    network: nn.Module, x: Float[Tensor, n * shape], y: Targets, batch_size: int, rng: np.random.Generator
) -> tuple[dict[str, Tensor], float]:
    """The gradient of one mini-batch at the global parameters, by name, and its loss."""
    network.train()
    rows = torch.from_numpy(rng.permutation(len(y))[:batch_size])
    loss = class_loss(network(x[rows]), y[rows])
    names = [name for name, _ in network.named_parameters()]
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return dict(zip(names, gradients, strict=True)), float(loss.detach())


# ---- the server ----------------------------------------------------------------------------------------------------


@dataclass
class RoundRecord:
    """What one round showed. Distances are squared; NaN or empty where there is nothing to tell."""

    round: int
    loss: float  # mean over clients, of their own data
    spread: tuple[float, float, float]  # least, mean and largest distance of two honest clients
    distance: float = math.nan  # of the malicious vector to the mean of the controlled clients' honest updates
    threshold: float = math.nan
    feasible: bool = True
    picked: int | None = None  # Krum's choice, by client
    weights: tuple[float, ...] = ()  # DOS, by client
    excluded: tuple[int, ...] = ()  # clients whose update wasn't finite
    auc: float = math.nan
    accuracy: float = math.nan
    diverged: bool = False  # the global model gave numbers that aren't finite; its AUC then counts as 0.5


@dataclass
class Attacker:
    """What the attacker has: its clients, their pooled data, and a network to work in."""

    settings: AttackSettings
    controlled: tuple[int, ...]
    data: Data
    network: nn.Module


@dataclass
class Projection:
    """The updates of the last round in the plane of their two main directions, for a picture; the mean is the origin.

    ``radius`` is that of the threshold around the mean. A projection only shortens distances.
    """

    clients: list[int]
    sent: list[list[float]]
    controlled: list[int]
    honest: list[list[float]]  # what the controlled clients would have sent
    radius: float


class AuditedStrategy(Strategy):
    """``aggregator`` with an attack in front of it and a record behind it.

    ``parameters``: names of the trainable arrays; the others are buffers, which are kept out of all distances. After
    aggregation they're the picked client's under Krum, else the mean of all. In gradient sharing the aggregated
    gradient goes through Adam with the rate ``server_lr``.
    """

    def __init__(
        self,
        aggregator: FedAvg,
        parameters: Sequence[str],
        *,
        rounds: int,
        share: Share = "params",
        server_lr: float = 1e-3,
        attacker: Attacker | None = None,
        seed: int = 0,
    ) -> None:
        self.aggregator = aggregator
        self.parameters = list(parameters)
        self.share = share
        self.attacker = attacker
        self.seed = seed
        self.last_round = rounds
        self.adam = Adam(server_lr)
        self.rounds: list[RoundRecord] = []
        self.projection: Projection | None = None
        self._arrays: ArrayRecord | None = None

    def summary(self) -> None:
        self.aggregator.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._arrays = arrays
        return self.aggregator.configure_train(server_round, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self.aggregator.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return self.aggregator.aggregate_evaluate(server_round, replies)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        assert self._arrays is not None
        replies = list(replies)
        good = sorted((reply for reply in replies if not reply.has_error()), key=client_of)
        clients = tuple(client_of(reply) for reply in good)
        excluded = tuple(sorted(client_of(reply) for reply in replies if reply.has_error()))
        if not good:
            self.rounds.append(RoundRecord(server_round, math.nan, (math.nan,) * 3, excluded=excluded))
            return None, None
        updates = torch.from_numpy(np.stack([self._vector(reply) for reply in good]))
        record = RoundRecord(server_round, _mean_loss(good), _spread_of(updates), excluded=excluded)
        states = [{name: array for name, array in _arrays_of(reply).items()} for reply in good]

        sent, honest, crafted = self._attack(server_round, updates, clients, states)
        if crafted is not None:
            record.distance, record.threshold, record.feasible = crafted.distance, crafted.threshold, crafted.feasible
        if server_round == self.last_round:
            controlled = self.attacker.controlled if crafted is not None and self.attacker else ()
            self.projection = project(sent, honest, clients, controlled, record.threshold)

        total, metrics = self._aggregate(server_round, good, sent)
        if total is None:
            self.rounds.append(record)
            return None, metrics
        chosen = (sent == total).all(1).nonzero().flatten().tolist()
        picks = type(self.aggregator).__name__ == "Krum"
        if picks and chosen:
            record.picked = clients[chosen[0]]
        if isinstance(self.aggregator, DOS) and self.aggregator.weights is not None:
            record.weights = tuple(self.aggregator.weights.tolist())
        self.rounds.append(record)
        buffers = [states[chosen[0]]] if picks and chosen else states
        return self._next(total, buffers), metrics

    def _vector(self, reply: Message) -> Float[np.ndarray, " d"]:
        arrays = _arrays_of(reply)
        return np.concatenate([arrays[name].numpy().ravel().astype(np.float64) for name in self.parameters])

    def _attack(
        self, server_round: int, updates: Tensor, clients: tuple[int, ...], states: list[dict[str, Array]]
    ) -> tuple[Tensor, Tensor, Crafted | None]:
        """The updates with those of the controlled clients replaced; their honest ones; what was crafted."""
        attacker = self.attacker
        if attacker is None:
            return updates, updates[:0], None
        rows = [row for row, client in enumerate(clients) if client in attacker.controlled]
        honest = updates[rows]
        if len(rows) < 2 or attacker.settings.name == "none":  # too few of them replied in this round
            return updates, honest, None
        start = {name: torch.from_numpy(array.numpy().copy()) for name, array in self._arrays.items()}  # type: ignore[union-attr]
        for name in start.keys() - set(self.parameters):
            start[name] = torch.from_numpy(_mean_buffer([states[row][name] for row in rows], start[name].shape))
        attacker.network.load_state_dict(start)
        rng = np.random.default_rng(derive_seed(self.seed, "attack", server_round))
        crafted = craft(
            honest, attacker.network, attacker.data, self.share, clients=max(len(clients), 2 * len(rows) + 1),
            settings=attacker.settings, rng=rng,
        )  # fmt: skip
        sent = updates.clone()
        sent[rows] = crafted.vector.to(sent)
        if attacker.settings.name == "disbelieve":
            state = attacker.network.state_dict()
            for row in rows:
                for name in state.keys() - set(self.parameters):
                    states[row][name] = Array(state[name].cpu().numpy())
        return sent, honest, crafted

    def _aggregate(
        self, server_round: int, replies: list[Message], sent: Float[Tensor, "n d"]
    ) -> tuple[Float[Tensor, " d"] | None, MetricRecord | None]:
        """What the aggregator makes of the vectors; it sees one flat array of each client."""
        shown = []
        for answer, vector in zip(replies, sent, strict=True):
            metrics = next(iter(answer.content.metric_records.values()))
            content = RecordDict({"arrays": ArrayRecord({"update": Array(vector.numpy().copy())}), "metrics": metrics})
            shown.append(Message(content=content, metadata=answer.metadata))  # type: ignore[call-overload]
        arrays, aggregated = self.aggregator.aggregate_train(server_round, shown)
        return (None if arrays is None else torch.from_numpy(arrays["update"].numpy().copy())), aggregated

    def _next(self, total: Float[Tensor, " d"], states: list[dict[str, Array]]) -> ArrayRecord:
        """The next global model: aggregated parameters, or a step of Adam along the aggregated gradient."""
        assert self._arrays is not None
        before = {name: array.numpy() for name, array in self._arrays.items()}
        if self.share == "grads":
            here = np.concatenate([before[name].ravel().astype(np.float64) for name in self.parameters])
            total = torch.from_numpy(here) - self.adam.step(total)
        out, start = ArrayRecord(), 0
        for name, old in before.items():
            if name in self.parameters:
                continue
            out[name] = Array(_mean_buffer([state[name] for state in states], old.shape).astype(old.dtype))
        for name in self.parameters:
            old = before[name]
            out[name] = Array(total[start : start + old.size].numpy().reshape(old.shape).astype(old.dtype))
            start += old.size
        return ArrayRecord({name: out[name] for name in before})

    # ---- resuming ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a resumed server needs: the moments of Adam and the rounds so far."""
        projection = None if self.projection is None else asdict(self.projection)
        rounds = [asdict(record) for record in self.rounds]
        return {"adam": self.adam.state_dict(), "rounds": rounds, "projection": projection}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        self.projection = None if state["projection"] is None else Projection(**state["projection"])
        tuples = ("spread", "weights", "excluded")
        self.rounds = []
        for stored in state["rounds"]:
            fields: dict[str, Any] = {key: tuple(value) if key in tuples else value for key, value in stored.items()}
            self.rounds.append(RoundRecord(**fields))


@dataclass
class Adam:
    """The server's optimiser on flat gradients (D. Kingma and J. Ba, 2015), with the usual moments' rates."""

    lr: float
    steps: int = 0
    first: Tensor | None = field(default=None, repr=False)
    second: Tensor | None = field(default=None, repr=False)

    def step(self, gradient: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """What to subtract from the parameters."""
        if self.first is None or self.second is None:
            self.first, self.second = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient.square()
        corrected = (self.second / (1 - 0.999**self.steps)).sqrt() + 1e-8
        return self.lr * self.first / (1 - 0.9**self.steps) / corrected

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "first": self.first, "second": self.second}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.first, self.second = state["steps"], state["first"], state["second"]


def project(
    sent: Float[Tensor, "n d"], honest: Float[Tensor, "f d"], clients: Sequence[int], controlled: Sequence[int],
    threshold: float,
) -> Projection:  # fmt: skip
    """Principal components of all updates, around the mean of what the controlled clients would have sent."""
    mean = honest.mean(0) if len(honest) else sent.mean(0)
    rows = torch.cat([sent, honest]) - mean
    values, vectors = torch.linalg.eigh(rows @ rows.T)  # few updates, many coordinates: the small Gram matrix
    places = vectors[:, -2:].flip(1) * values[-2:].flip(0).clamp_min(0).sqrt()
    points = places.tolist()
    return Projection(
        list(clients), points[: len(sent)], list(controlled), points[len(sent) :],
        math.sqrt(threshold) if threshold >= 0 else math.nan,
    )  # fmt: skip


def _arrays_of(reply: Message) -> ArrayRecord:
    return next(iter(reply.content.array_records.values()))


def _mean_loss(replies: Sequence[Message]) -> float:
    records = [next(iter(reply.content.metric_records.values())) for reply in replies]
    return float(np.mean([float(record["loss"]) for record in records]))  # type: ignore[arg-type]


def _spread_of(updates: Tensor) -> tuple[float, float, float]:
    if len(updates) < 2:
        return (math.nan,) * 3
    pairs = pair_distances(updates)
    return float(pairs.min()), float(pairs.mean()), float(pairs.max())


def _mean_buffer(arrays: Sequence[Array], shape: tuple[int, ...]) -> np.ndarray:
    stacked = np.stack([array.numpy().reshape(shape) for array in arrays])
    return np.asarray(stacked.mean(0)).astype(stacked.dtype)


# ---- measuring -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def measure(network: nn.Module, x: Float[Tensor, n * shape], y: Targets) -> tuple[float, float, bool]:
    """AUC (macro, one against rest), accuracy, and whether any number isn't finite: that model counts as chance.

    Raises ``DataError`` when the cases are of one class.
    """
    network.eval()
    logits = torch.cat([network(part) for part in x.split(256)]).double().cpu()
    if not torch.isfinite(logits).all():
        return 0.5, (0.5 if y.is_floating_point() else 1 / logits.shape[1]), True
    if y.is_floating_point():
        return label_auc(logits, y), float(((logits > 0) == (y > 0.5)).double().mean()), False
    scores = classification_scores(logits.softmax(1).numpy(), y.cpu().numpy())
    if math.isnan(scores["auroc"]):
        raise DataError("the cases to measure AUC on are all of one class; at least two are needed")
    return scores["auroc"], scores["accuracy"], False


def label_auc(logits: Float[Tensor, "n c"], y: Float[Tensor, "n c"]) -> float:
    """Mean AUC over the labels that some cases have and others lack. Raises ``DataError`` when there is none."""
    from torchmetrics.functional.classification import binary_auroc

    truth = y.cpu() > 0.5
    known = [c for c in range(truth.shape[1]) if 0 < int(truth[:, c].sum()) < len(truth)]
    if not known:
        raise DataError("no label tells the cases to measure AUC on apart; some must have it and others lack it")
    return float(np.mean([float(binary_auroc(logits[:, c], truth[:, c].long())) for c in known]))
