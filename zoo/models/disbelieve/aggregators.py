"""The aggregation rules under audit: Flower's own, and DOS, which Flower lacks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zoo.federated import client_id  # noqa: F401  (first: it says so where Flower is missing)

# isort: split
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedTrimmedAvg, Krum

from zoo.models.disbelieve.attacks import refuse_federation
from zoo.models.disbelieve.screening import dos_weights

AggregatorName = Literal["fedavg", "krum", "trimmed-mean", "dos"]


class DOS(FedAvg):
    """Distance-based outlier suppression: updates far from the others, in length or in direction, count for less.

    The weights of the latest round are in ``weights``, in the order of the replies. None is ever 0, so that an update
    of enormous length still dominates the sum. Options as for ``FedAvg``.

    Source: N. Alkhunaizi et al., Suppressing Poisoning Attacks on Federated Learning for Medical Imaging, 2022.
    """

    weights: Float[Tensor, " n"] | None = None

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        records = [next(iter(message.content.array_records.values())) for message in valid]
        updates = torch.from_numpy(np.stack([flat(record) for record in records]))
        self.weights = dos_weights(updates)
        total = (self.weights @ updates).numpy()
        metrics = self.train_metrics_aggr_fn([message.content for message in valid], self.weighted_by_key)
        return unflat(total, records[0]), metrics


def aggregator(name: AggregatorName, clients: int, attackers: int, **options: Any) -> FedAvg:
    """The Flower strategy of that name, told the true number of attackers where it takes one.

    Raises ``OptionError`` when so many attackers are beyond any rule. Krum's own guarantee needs n > 2 f + 2; fewer
    clients are taken all the same, as in the paper (n = 10, f = 4).
    """
    refuse_federation(clients, attackers)
    if name == "krum":
        return Krum(num_malicious_nodes=attackers, **options)
    if name == "trimmed-mean":
        # Flower drops int(beta n) on each side; the quarter keeps rounding from dropping one less
        return FedTrimmedAvg(beta=(attackers + 0.25) / clients, **options)
    return DOS(**options) if name == "dos" else FedAvg(**options)


def flat(record: ArrayRecord) -> Float[np.ndarray, " d"]:
    """All arrays of a record, in its order, in double precision."""
    return np.concatenate([array.numpy().ravel().astype(np.float64) for array in record.values()])


def unflat(vector: Float[np.ndarray, " d"], like: ArrayRecord) -> ArrayRecord:
    """``vector`` in the names, shapes and types of ``like``."""
    out, start = ArrayRecord(), 0
    for name, array in like.items():
        shape = cast(tuple[int, ...], tuple(array.shape))
        size = int(np.prod(shape))
        out[name] = Array(vector[start : start + size].reshape(shape).astype(array.dtype))
        start += size
    return out
