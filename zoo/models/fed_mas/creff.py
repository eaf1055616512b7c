"""CReFF: the server learns features whose classifier gradients match the clients', and re-trains a classifier on them.

Source: X. Shang et al., Federated Learning on Heterogeneous and Long-Tailed Data via Classifier Re-Training with
Federated Features, 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from zoo.models.fed_mas.client import Shard
    from zoo.models.fed_mas.model import Network

GRADIENTS, PRESENT = "class_gradients", "class_present"


@torch.no_grad()
def class_gradients(
    network: Network, shard: Shard, classes: int, prepare: Callable[[Tensor], Tensor]
) -> dict[str, np.ndarray]:
    """Mean gradient of the cross-entropy w.r.t. the re-trained classifier, for each class that the client holds.

    ``class_gradients`` is [k, k, d + 1] (the last column belongs to the bias), ``class_present`` [k] 0 or 1.
    """
    network.eval()
    balanced = network.balanced
    assert balanced is not None
    device, width = next(network.parameters()).device, balanced.weight.shape[1]
    total = torch.zeros(classes, classes, width + 1)
    counts = torch.bincount(shard.y, minlength=classes)
    for places in torch.arange(len(shard.y)).split(128):
        z = network.encoder(prepare(shard.x[places].to(device)))
        error = (balanced(z).softmax(1).cpu() - F.one_hot(shard.y[places], classes)).float()
        rows = torch.einsum("bk,bd->bkd", error, F.pad(z.cpu(), (0, 1), value=1.0))
        total.index_add_(0, shard.y[places], rows)
    mean = total / counts.clamp(min=1)[:, None, None]
    return {GRADIENTS: mean.numpy(), PRESENT: (counts > 0).float().numpy()}


class CReFF(FedAvg):
    """FedAvg for the network; the classifier ``balanced`` is the server's own work.

    ``features_per_class``, ``match_steps``, ``retrain_steps`` and the rates are the publication's.
    """

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        seed: int = 0,
        features_per_class: int = 100,
        match_steps: int = 100,
        match_lr: float = 0.1,
        retrain_steps: int = 300,
        retrain_lr: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.classes, self.width, self.per_class = classes, width, features_per_class
        self.match_steps, self.match_lr = match_steps, match_lr
        self.retrain_steps, self.retrain_lr = retrain_steps, retrain_lr
        rng = np.random.default_rng([0xC2EF, seed])
        self.features = rng.standard_normal((classes, features_per_class, width)).astype(np.float32)
        self.sent: ArrayRecord | None = None  # the classifier that the gradients refer to

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Iterable[Message]:
        self.sent = ArrayRecord({name: arrays[name] for name in ("balanced.weight", "balanced.bias")})
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        target, present = np.zeros((self.classes, self.classes, self.width + 1), np.float32), np.zeros(self.classes)
        for message in replies:
            if not message.has_content():
                continue
            record = message.content.array_records["arrays"]
            gradients, here = record.pop(GRADIENTS).numpy(), record.pop(PRESENT).numpy()
            target += gradients * here[:, None, None]
            present += here
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None or self.sent is None:
            return arrays, metrics
        mean = torch.from_numpy(target / np.maximum(present, 1)[:, None, None].astype(np.float32))
        start = {name.removeprefix("balanced."): torch.from_numpy(a.numpy()) for name, a in self.sent.items()}
        features = match_features(
            torch.from_numpy(self.features), start, mean, np.flatnonzero(present > 0), self.match_steps, self.match_lr
        )
        self.features = features.numpy()
        for name, value in retrain(features, start, np.flatnonzero(present > 0), self.retrain_steps, self.retrain_lr):
            arrays[f"balanced.{name}"] = Array(value.numpy())
        return arrays, metrics


def match_features(
    features: Float[Tensor, "k m d"],
    classifier: dict[str, Tensor],
    target: Float[Tensor, "k k d1"],
    present: np.ndarray,
    steps: int,
    lr: float,
) -> Float[Tensor, "k m d"]:
    """Features whose mean classifier gradient by class points where the clients' does (cosine distance by row)."""
    features = features.clone().requires_grad_(True)
    optimizer = torch.optim.SGD([features], lr=lr)
    classes = torch.from_numpy(present)
    eye = torch.eye(len(target))
    with torch.enable_grad():
        for _ in range(steps):
            z = features[classes]
            error = F.linear(z, classifier["weight"], classifier["bias"]).softmax(-1) - eye[classes][:, None]
            gradient = torch.einsum("cmk,cmd->ckd", error, F.pad(z, (0, 1), value=1.0)) / z.shape[1]
            loss = (1 - F.cosine_similarity(gradient, target[classes], dim=-1)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return features.detach()


def retrain(
    features: Float[Tensor, "k m d"], start: dict[str, Tensor], present: np.ndarray, steps: int, lr: float
) -> list[tuple[str, Tensor]]:
    """The classifier's weight and bias after training on as many features of every class that somebody holds."""
    classes = torch.from_numpy(present)
    linear = nn.Linear(features.shape[-1], len(features))
    linear.load_state_dict(start)
    optimizer = torch.optim.SGD(linear.parameters(), lr=lr)
    z, y = features[classes].flatten(0, 1), classes.repeat_interleave(features.shape[1])
    with torch.enable_grad():
        for _ in range(steps):
            loss = F.cross_entropy(linear(z), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [(name, value.detach()) for name, value in linear.state_dict().items()]
