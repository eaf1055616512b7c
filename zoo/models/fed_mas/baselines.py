"""The methods that Fed-MAS is compared with: what each is made of, and their losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo.errors import OptionError
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
