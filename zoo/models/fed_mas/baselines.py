"""The methods that Fed-MAS is compared with: what each is made of, their losses, and CReFF's work on the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.errors import OptionError
from zoo.federated import State, Update, average
from zoo.models.fed_mas.model import Network
from zoo.nn.long_tail import balanced_softmax_loss, effective_number_weights, ldam_loss, logit_calibrated_loss

Loss = Literal["ce", "bsm", "ldam", "fedlc"]
Aggregation = Literal["samples", "uniform", "mas"]
MethodName = Literal["fedavg", "fedprox", "moon", "ldam", "bsm", "creff", "fedlc", "kd", "fed-mas"]


@dataclass(frozen=True)
class Plan:
    """What a method is made of: the supervised loss, the terms beside it, and how clients are weighted."""

    loss: Loss = "ce"
    distil: bool = False  # + lambda_f L_f (Eq. 4)
    aggregation: Aggregation = "samples"
    proximal: bool = False
    contrastive: bool = False
    federated_features: bool = False

    @property
    def weights(self) -> str:
        """As ``Federation.weights``: by samples, equally, or by the clients' rescue factors (Eq. 5)."""
        return "metric:rescue_factor" if self.aggregation == "mas" else self.aggregation


PLANS: dict[str, Plan] = {
    "fedavg": Plan(),
    "fedprox": Plan(proximal=True),
    "moon": Plan(contrastive=True),
    "ldam": Plan("ldam"),
    "bsm": Plan("bsm"),
    "creff": Plan(federated_features=True),
    "fedlc": Plan("fedlc"),
    "kd": Plan("bsm", distil=True),
    "fed-mas": Plan("bsm", distil=True, aggregation="mas"),
}


def planned(method: MethodName, loss: str, kd: str, aggregation: str) -> Plan:
    """The plan of a method with its parts replaced, unless they're ``method``. Raises ``OptionError``."""
    plan = PLANS[method]
    plan = plan if loss == "method" else replace(plan, loss=cast(Loss, loss))
    plan = plan if kd == "method" else replace(plan, distil=kd == "on")
    plan = plan if aggregation == "method" else replace(plan, aggregation=cast(Aggregation, aggregation))
    if plan.aggregation == "mas" and not plan.distil:
        raise OptionError("aggregation=mas needs distillation, which trains the projector; set kd=on")
    if plan.federated_features and plan.loss == "ldam":
        raise OptionError("method=creff re-trains a linear classifier, and loss=ldam needs one of cosines")
    return plan


def supervised(
    loss: Loss, counts: Float[Tensor, " k"], *, absent: float, tau: float, scale: float, deferred: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """L_sup of logits and labels, for a client with so many images of each class.

    ``absent``: what a class of no images counts in balanced softmax; ``tau``: of FedLC; ``scale``: of LDAM's cosines,
    whose classes are weighted in the ``deferred`` rounds (DRW).
    """
    if loss == "bsm":
        return lambda logits, y: balanced_softmax_loss(logits, y, counts, absent)
    if loss == "fedlc":
        return lambda logits, y: logit_calibrated_loss(logits, y, counts, tau)
    if loss == "ldam":
        weight = effective_number_weights(counts).to(counts.device) if deferred else None
        return lambda logits, y: ldam_loss(logits, y, counts, scale=scale, weight=weight)
    return lambda logits, y: F.cross_entropy(logits, y)


# ---- CReFF -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def class_gradients(
    network: Network, x: Tensor, y: Int[Tensor, " n"], classes: int, prepare: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Mean gradient of the cross-entropy w.r.t. the re-trained classifier, for each class that the client holds.

    ``gradients`` is [k, k, d + 1] (the last column belongs to the bias), ``present`` [k] 0 or 1.
    """
    network.eval()
    balanced = network.balanced
    assert balanced is not None
    device, width = next(network.parameters()).device, balanced.weight.shape[1]
    total = torch.zeros(classes, classes, width + 1)
    counts = torch.bincount(y, minlength=classes)
    for places in torch.arange(len(y)).split(128):
        z = network.encoder(prepare(x[places].to(device)))
        error = (balanced(z).softmax(1).cpu() - F.one_hot(y[places], classes)).float()
        rows = torch.einsum("bk,bd->bkd", error, F.pad(z.cpu(), (0, 1), value=1.0))
        total.index_add_(0, y[places], rows)
    mean = total / counts.clamp(min=1)[:, None, None]
    return {"gradients": mean, "present": (counts > 0).float()}


@dataclass(frozen=True)
class CReFF:
    """FedAvg for the network; the classifier ``balanced`` is the server's own work.

    The server learns features whose classifier gradients match the clients', and re-trains a classifier on them. All
    numbers are the publication's.

    Source: X. Shang et al., Federated Learning on Heterogeneous and Long-Tailed Data via Classifier Re-Training with
    Federated Features, 2022.
    """

    seed: int = 0
    features_per_class: int = 100
    match_steps: int = 100
    match_lr: float = 0.1
    retrain_steps: int = 300
    retrain_lr: float = 0.01

    def __call__(self, updates: Sequence[Update], state: State) -> State:
        # the classifier that the gradients refer to
        sent = {name: state.network[f"balanced.{name}"] for name in ("weight", "bias")}
        found = [update.models["classes"] for update in updates]
        present = torch.stack([classes["present"] for classes in found]).sum(0)
        total = torch.stack([c["gradients"] * c["present"][:, None, None] for c in found]).sum(0)
        mean = total / present.clamp(min=1)[:, None, None]
        there = present.nonzero().flatten()
        features = state.own.get("features", None)
        if features is None:
            features = self.initial(*sent["weight"].shape)
        features = match_features(features, sent, mean, there, self.match_steps, self.match_lr)
        balanced = retrain(features, sent, there, self.retrain_steps, self.retrain_lr)
        averaged = average(updates, state).network
        network = {**averaged, **{f"balanced.{name}": value for name, value in balanced.items()}}
        return state.updated({"features": features}, network=network)

    def initial(self, classes: int, width: int) -> Float[Tensor, "k m d"]:
        rng = np.random.default_rng([0xC2EF, self.seed])
        return torch.from_numpy(rng.standard_normal((classes, self.features_per_class, width)).astype(np.float32))


def match_features(
    features: Float[Tensor, "k m d"],
    classifier: dict[str, Tensor],
    target: Float[Tensor, "k k d1"],
    present: Int[Tensor, " c"],
    steps: int,
    lr: float,
) -> Float[Tensor, "k m d"]:
    """Features whose mean classifier gradient by class points where the clients' does (cosine distance by row)."""
    features = features.clone().requires_grad_(True)
    optimizer = torch.optim.SGD([features], lr=lr)
    eye = torch.eye(len(target))
    with torch.enable_grad():
        for _ in range(steps):
            z = features[present]
            error = F.linear(z, classifier["weight"], classifier["bias"]).softmax(-1) - eye[present][:, None]
            gradient = torch.einsum("cmk,cmd->ckd", error, F.pad(z, (0, 1), value=1.0)) / z.shape[1]
            loss = (1 - F.cosine_similarity(gradient, target[present], dim=-1)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return features.detach()


def retrain(
    features: Float[Tensor, "k m d"], start: dict[str, Tensor], present: Int[Tensor, " c"], steps: int, lr: float
) -> dict[str, Tensor]:
    """The classifier's weight and bias after training on as many features of every class that somebody holds."""
    linear = nn.Linear(features.shape[-1], len(features))
    linear.load_state_dict(start)
    optimizer = torch.optim.SGD(linear.parameters(), lr=lr)
    z, y = features[present].flatten(0, 1), present.repeat_interleave(features.shape[1])
    with torch.enable_grad():
        for _ in range(steps):
            loss = F.cross_entropy(linear(z), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: value.detach() for name, value in linear.state_dict().items()}
