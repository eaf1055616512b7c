"""Classifiers that change with the images they are asked about: Tent and T3A.

Networks have timm's names (``forward_features``, ``forward_head``, ``get_classifier``), as ``zoo.nn.last_map.Pooled``.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import OptionError


class Tent:
    """Entropy minimisation: batch norm by the batch's statistics, one step of Adam on its scales and shifts per batch.

    The network given stays as it is. ``episodic``: answer after the step, and forget it, so that no image changes the
    next one's answer. Else, as released, answer before the step and never forget.

    Raises ``OptionError`` for a network without batch norm.

    Source: D. Wang et al., Tent: Fully Test-Time Adaptation by Entropy Minimization, ICLR 2021. As released: as
    github.com/alceubissoto/skin-tts uses it, whose rates these are.
    """

    @torch.inference_mode(False)
    def __init__(self, net: Any, *, episodic: bool, lr: float = 1e-3, weight_decay: float = 1e-3) -> None:
        self.net, self.episodic = copy.deepcopy(net).requires_grad_(False), episodic
        norms = [one for one in self.net.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
        if not norms:
            raise OptionError("Tent adapts batch norm, which this classifier doesn't have; choose another method")
        for one in norms:
            one.train().requires_grad_(True)
            one.track_running_stats, one.running_mean, one.running_var = False, None, None
        self.parameters = [p for one in norms for p in one.parameters()]
        self.adam = torch.optim.Adam(self.parameters, lr=lr, weight_decay=weight_decay)
        self._start = [p.detach().clone() for p in self.parameters], self.adam.state_dict()

    @torch.inference_mode(False)
    @torch.enable_grad()
    def __call__(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b k"]:
        """Logits of a batch, here the replicas of one image."""
        x = x.clone()
        logits = self.net(x)
        loss = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        if self.episodic:
            with torch.no_grad():
                logits = self.net(x)
                for parameter, before in zip(self.parameters, self._start[0], strict=True):
                    parameter.copy_(before)
            self.adam.load_state_dict(copy.deepcopy(self._start[1]))
        return logits.detach()


class T3A:
    """Class templates that follow the test images: means of the ``supports`` least entropic features of each class.

    Features are what the last, linear layer gets; its rows are the first supports. ``reset`` forgets what was seen.

    Source: Y. Iwasawa and Y. Matsuo, Test-Time Classifier Adjustment Module for Model-Agnostic Domain Generalization,
    NeurIPS 2021; 20 supports as github.com/alceubissoto/skin-tts has it.
    """

    def __init__(self, net: Any, *, supports: int = 20) -> None:
        self.net, self.most = net, supports
        head = net.get_classifier()
        if not isinstance(head, nn.Linear):
            raise OptionError("T3A needs a classifier that ends in a linear layer; choose another method")
        self.head = head
        self.reset()

    def reset(self) -> None:
        self.supports = self.head.weight.detach().clone()
        first = self.head(self.supports)
        self.labels, self.entropy = first.argmax(1), _entropy(first)

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b k"]:
        """Dot products of a batch's features with the templates, the batch itself among the supports."""
        z = self.net.forward_head(self.net.forward_features(x), pre_logits=True)
        logits = self.head(z)
        self.supports = torch.cat([self.supports, z])
        self.labels = torch.cat([self.labels, logits.argmax(1)])
        self.entropy = torch.cat([self.entropy, _entropy(logits)])
        kept = torch.cat([
            places[self.entropy[places].argsort(stable=True)[: self.most]]
            for places in (torch.nonzero(self.labels == c)[:, 0] for c in range(self.head.out_features))
        ])  # fmt: skip
        self.supports, self.labels, self.entropy = self.supports[kept], self.labels[kept], self.entropy[kept]
        member = F.one_hot(self.labels, self.head.out_features).to(z)
        templates = F.normalize(F.normalize(self.supports, dim=1).T @ member, dim=0)
        return z @ templates


def _entropy(logits: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
