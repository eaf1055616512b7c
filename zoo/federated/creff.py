"""CReFF: FedAvg for the network, and a classifier that the server re-trains on features of its own making.

A client sends ``class_gradients`` as the model ``classes`` beside its network, whose second classifier is called
``balanced``; ``CReFF`` is the federation's ``aggregate``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.federated.exchange import State, Update, average


@torch.no_grad()
def class_gradients(
    encode: Callable[[Tensor], Float[Tensor, "b d"]], balanced: nn.Linear, x: Tensor, y: Int[Tensor, " n"]
) -> dict[str, Tensor]:
    """Mean gradient of the cross-entropy w.r.t. the re-trained classifier, for each class that the client holds.

    ``encode``: some of the images ``x`` to features, in evaluation mode. ``gradients`` is [k, k, d + 1] (the last
    column belongs to the bias), ``present`` [k] 0 or 1.
    """
    classes, width = balanced.weight.shape
    total = torch.zeros(classes, classes, width + 1)
    counts = torch.bincount(y, minlength=classes)
    for places in torch.arange(len(y)).split(128):
        z = encode(x[places])
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
