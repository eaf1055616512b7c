"""What the method is compared with where weights travel: FedAvg of the same network, with the server's own recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.data.images import ImageSet
from zoo.federated import Context, Update
from zoo.models.gdd_fl.model import to_network
from zoo.models.gdd_fl.siamese import siamese
from zoo.training.fit import batches


def averaging_client(
    network: nn.Module, images: ImageSet, rng: np.random.Generator, context: Context, recipe: Any
) -> Update:
    """Some local epochs of the server's SGD; the weights go back."""
    sgd = make_sgd(network, recipe)
    network.train()
    weight = balance(images.y, len(recipe.network.labels)).to(context.device) if recipe.class_weighted else None
    losses = []
    for _ in range(recipe.local_epochs):
        for places in batches(images.y, recipe.batch_size, rng):
            x, y = images.batch(places, context.device)
            change = siamese(rng, recipe.augment if recipe.server_augment else ())
            loss = F.cross_entropy(network(change(to_network(x))), y, weight)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses.append(float(loss.detach()))
    return Update({"network": network}, num_examples=len(images), loss=float(np.mean(losses)))


def make_sgd(network: nn.Module, recipe: Any) -> torch.optim.SGD:
    """Of the server, and of FedAvg's clients."""
    return torch.optim.SGD(
        network.parameters(), recipe.server_lr, momentum=recipe.server_momentum, weight_decay=recipe.weight_decay
    )


def balance(y: Tensor, classes: int) -> Float[Tensor, " k"]:
    """n / (k n_c), as the authors' FedAvg has it; 0 for a class without images."""
    counts = torch.bincount(y, minlength=classes).float()
    return torch.where(counts > 0, len(y) / (classes * counts.clamp(min=1)), 0.0)
