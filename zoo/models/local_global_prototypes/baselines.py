"""What the prototypes are compared with: a black box, ProtoPNet and ProtoTree, on the same backbone and data.

They take the same recipe, so rates, batches, augmentation and class weights are alike. Differences that belong to the
methods: ProtoPNet and ProtoTree replace their prototypes by training patches, ProtoPNet pays for clusters and
separation, and ProtoTree learns its leaves without gradients.

Sources: C. Chen et al., This Looks Like That, 2019; M. Nauta et al., Neural Prototype Trees, 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.data.images import ImageSet, normalise, over_images
from zoo.models.local_global_prototypes.model import LocalGlobalConfig, build_backbone
from zoo.models.local_global_prototypes.training import LocalGlobalRecipe, augmented, rates, weigher
from zoo.nn.losses import class_counts, root_weights
from zoo.ops import prototype_similarity
from zoo.training import Run
from zoo.training.fit import descend


def on_images(
    loss_of: Callable[[Tensor, Tensor], Tensor], images: ImageSet, recipe: LocalGlobalRecipe, run: Run
) -> Callable[[np.ndarray, int], Tensor]:
    """A loss of images, augmented and normalised, and of their labels, for :func:`descend`."""

    def loss(index: np.ndarray, step: int) -> Tensor:
        x, y = images.batch(index, run.device)
        return loss_of(normalise(augmented(x, recipe, run, step)), y)

    return loss


class BlackBox(nn.Module):
    """Backbone, global average pooling, one linear layer."""

    def __init__(self, config: LocalGlobalConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(config)
        self.head = nn.Linear(config.channels, len(config.labels))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.head(self.backbone(x).mean((2, 3)))

    def probabilities(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self(x).softmax(1)


def fit_black_box(recipe: LocalGlobalRecipe, images: ImageSet, run: Run) -> BlackBox:
    net = BlackBox(recipe.network).to(run.device)
    adam = torch.optim.Adam(rates(recipe, net.backbone, net.head.parameters()))
    weigh = weigher(recipe, images.y, len(recipe.network.labels), run.device)
    loss = on_images(lambda x, y: weigh(net(x), y), images, recipe, run)
    descend(run, net, adam, loss, len(images), recipe.batch_size, stage="black-box", epochs=recipe.epochs)
    return net


class PatchNetwork(nn.Module):
    """Backbone, two 1 x 1 convolutions with a sigmoid at the end, and prototypes compared by squared distance."""

    def __init__(self, config: LocalGlobalConfig, prototypes: int) -> None:
        super().__init__()
        d = config.embedding_width
        self.backbone = build_backbone(config)
        self.add_on = nn.Sequential(nn.Linear(config.channels, d), nn.ReLU(), nn.Linear(d, d), nn.Sigmoid())
        self.prototypes = nn.Parameter(torch.rand(prototypes, d))

    def cells(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b j d"]:
        return self.add_on(self.backbone(x).flatten(2).transpose(1, 2))

    def distances(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p"]:
        """Squared distance of each prototype to its nearest cell."""
        return -prototype_similarity(self.cells(x), self.prototypes, metric="l2")[0]

    @torch.no_grad()
    def push(self, images: ImageSet, device: torch.device, owner: Int[Tensor, " p"] | None = None) -> None:
        """Replace every prototype by the nearest training patch; ``owner``: of its own class only."""
        training = self.training
        self.eval()
        best = torch.full((len(self.prototypes),), torch.inf, device=device)
        patches = self.prototypes.clone()
        for index in torch.arange(len(images)).split(64):
            x, y = images.batch(index, device)
            cells = self.cells(normalise(x))
            similarity, winner = prototype_similarity(cells, self.prototypes, metric="l2")
            distance = -similarity
            if owner is not None:
                distance = distance.masked_fill(y[:, None] != owner, torch.inf)
            nearest, row = distance.min(0)
            better = nearest < best
            found = cells[row, winner.gather(0, row[None])[0]]
            patches = torch.where(better[:, None], found, patches)
            best = torch.where(better, nearest, best)
        self.prototypes.copy_(patches)
        self.train(training)

    def groups(self, recipe: LocalGlobalRecipe) -> list[dict[str, Any]]:
        return rates(recipe, self.backbone, self.add_on.parameters(), [self.prototypes])


# ---- ProtoPNet -----------------------------------------------------------------------------------------------------

CLUSTER_COST, SEPARATION_COST, L1_COST = 0.8, 0.08, 1e-4
WARM_UP_EPOCHS, PUSH_EVERY = 5, 10


class ProtoPNet(PatchNetwork):
    """Log-similarity to patches of each class, and a linear layer that starts at +1 own class, -0.5 others."""

    def __init__(self, config: LocalGlobalConfig) -> None:
        classes, k = len(config.labels), config.prototypes
        super().__init__(config, classes * k)
        self.owner: Tensor
        self.register_buffer("owner", torch.arange(classes).repeat_interleave(k))
        own = self.owner == torch.arange(classes)[:, None]
        self.head = nn.Linear(classes * k, classes, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.where(own, 1.0, -0.5))

    def logits(self, distance: Float[Tensor, "b p"]) -> Float[Tensor, "b c"]:
        return self.head(torch.log((distance + 1) / (distance + 1e-4)))

    def probabilities(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.logits(self.distances(x)).softmax(1)

    def costs(self, distance: Float[Tensor, "b p"], y: Int[Tensor, " b"]) -> tuple[Tensor, Tensor, Tensor]:
        """Cluster and separation cost, and the L1 norm of the weights between classes."""
        own = y[:, None] == self.owner
        cluster = distance.masked_fill(~own, torch.inf).min(1).values.mean()
        separation = distance.masked_fill(own, torch.inf).min(1).values.mean()
        other = self.owner != torch.arange(len(self.head.weight), device=y.device)[:, None]
        return cluster, separation, (self.head.weight * other).abs().sum()


def fit_protopnet(recipe: LocalGlobalRecipe, images: ImageSet, run: Run) -> ProtoPNet:
    """Warm-up with a frozen backbone (a pretrained one only), pushes, and at last the linear layer alone."""
    net = ProtoPNet(recipe.network).to(run.device)
    net.head.requires_grad_(False)
    weigh = weigher(recipe, images.y, len(recipe.network.labels), run.device)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        distance = net.distances(x)
        cluster, separation, _ = net.costs(distance, y)
        return weigh(net.logits(distance), y) + CLUSTER_COST * cluster - SEPARATION_COST * separation

    def after_epoch(epoch: int) -> None:
        if epoch % PUSH_EVERY == 0 or epoch == recipe.epochs:
            net.push(images, run.device, net.owner)

    loss, n = on_images(loss_of, images, recipe, run), len(images)
    if recipe.pretrained and recipe.network.backbone != "small":
        warm = torch.optim.Adam(net.groups(recipe)[1:])
        descend(run, net, warm, loss, n, recipe.batch_size, stage="protopnet-warm-up", epochs=WARM_UP_EPOCHS)
    adam = torch.optim.Adam(net.groups(recipe))
    descend(
        run, net, adam, loss, n, recipe.batch_size, stage="protopnet", epochs=recipe.epochs, after_epoch=after_epoch
    )

    distance = over_images(net, net.distances, images, run.device).to(run.device)
    net.head.requires_grad_(True)
    y = images.y.to(run.device)

    def head_loss(index: np.ndarray, step: int) -> Tensor:
        d, labels = distance[index], y[index]
        return weigh(net.logits(d), labels) + L1_COST * net.costs(d, labels)[2]

    adam = torch.optim.Adam(net.head.parameters(), lr=recipe.lr_head)
    descend(
        run,
        net,
        adam,
        head_loss,
        n,
        recipe.batch_size,
        stage="protopnet-head",
        epochs=recipe.stage2_epochs,
        key="heads",
    )
    return net


class ProtoTree(PatchNetwork):
    """A soft decision tree: an image goes right at a node with probability exp(-distance to the node's patch).

    The minimal form: leaves are not pruned, and prototypes become training patches once, at the end.
    """

    def __init__(self, config: LocalGlobalConfig, depth: int = 9) -> None:
        super().__init__(config, 2**depth - 1)
        nn.init.normal_(self.prototypes, 0.5, 0.1)  # near what a sigmoid gives: no node starts with its mind made up
        self.depth = depth
        self.leaves: Tensor
        self.register_buffer("leaves", torch.ones(2**depth, len(config.labels)))  # unnormalised distributions

    @property
    def distributions(self) -> Float[Tensor, "l c"]:
        return self.leaves / self.leaves.sum(1, keepdim=True)

    def paths(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b l"]:
        """Probability of reaching every leaf; rows add up to 1."""
        right = torch.exp(-self.distances(x).clamp(min=0))
        reach = right.new_ones(len(right), 1)
        for level in range(self.depth):
            go = right[:, 2**level - 1 : 2 ** (level + 1) - 1]
            reach = torch.stack([reach * (1 - go), reach * go], -1).flatten(1)
        return reach

    def probabilities(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.paths(x) @ self.distributions

    @torch.no_grad()
    def update_leaves(
        self, reach: Float[Tensor, "b l"], y: Int[Tensor, " b"], weight: Float[Tensor, " b"], share: float
    ) -> None:
        """A batch's part of the fixed-point update: each leaf collects the samples that it explains, by class.

        ``share``: of an epoch that the batch is; so much of the old leaf is forgotten.
        """
        d = self.distributions
        predicted = (reach @ d).gather(1, y[:, None]).clamp(min=1e-8)
        credit = reach * d[:, y].T / predicted * weight[:, None]
        update = torch.zeros_like(self.leaves).index_add_(1, y, credit.T)
        self.leaves.mul_(1 - share).add_(update).clamp_(min=1e-6)


def fit_prototree(recipe: LocalGlobalRecipe, images: ImageSet, run: Run, depth: int = 9) -> ProtoTree:
    net = ProtoTree(recipe.network, depth).to(run.device)
    weight = root_weights(class_counts(images.y, len(recipe.network.labels))).to(run.device)
    share = recipe.batch_size / max(len(images), recipe.batch_size)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        reach = net.paths(x)
        probability = (reach @ net.distributions).clamp(min=1e-8)
        net.update_leaves(reach.detach(), y, weight[y], share)
        return F.nll_loss(probability.log(), y, weight)

    loss = on_images(loss_of, images, recipe, run)
    adam = torch.optim.Adam(net.groups(recipe))
    descend(run, net, adam, loss, len(images), recipe.batch_size, stage="prototree", epochs=recipe.epochs)
    net.push(images, run.device)
    return net.eval()
