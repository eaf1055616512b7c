"""What the prototypes are compared with: a black box and ProtoPNet, on the same backbone and data.

They take the same recipe, so stages, epochs, rates, batches, augmentation and class weights are alike: after the whole
network, what decides is trained alone, all else frozen. ProtoPNet's own: it replaces its prototypes by training patches
and pays for clusters and separation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from zoo.data.images import ImageSet, normalise, over_images
from zoo.models.local_global_prototypes.model import build_backbone
from zoo.models.local_global_prototypes.training import LocalGlobalRecipe, augmented, optimiser, rates, weigher
from zoo.nn.backbones import LinearClassifier
from zoo.nn.part_prototypes import PatchNetwork, ProtoPNet
from zoo.training import Run
from zoo.training.fit import descend, loss_on_images


def on_images(
    loss_of: Callable[[Tensor, Tensor], Tensor], images: ImageSet, recipe: LocalGlobalRecipe, run: Run
) -> Callable[[np.ndarray, int], Tensor]:
    """A loss of images, augmented and normalised, and of their labels, for :func:`descend`."""
    return loss_on_images(loss_of, images, run.device, lambda x, step: normalise(augmented(x, recipe, run, step)))


def backbone_of(recipe: LocalGlobalRecipe) -> tuple[nn.Module, int]:
    """As the recipe starts it, and its channels."""
    pretrained = recipe.pretrained and recipe.network.backbone != "small"
    return build_backbone(recipe.network, pretrained=pretrained), recipe.network.channels


def tune_head(
    head: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    evidence: Float[Tensor, "n t"],
    recipe: LocalGlobalRecipe,
    images: ImageSet,
    run: Run,
    stage: str,
) -> None:
    """Stage 2: the last layer alone, on what the frozen network gives for the training images."""
    evidence, y = evidence.to(run.device), images.y.to(run.device)
    adam = optimiser([{"params": list(head.parameters()), "lr": recipe.lr_head}], recipe)
    batch, n = recipe.head_batch_size, len(y)
    loss = lambda index, step: loss_of(evidence[index], y[index])  # noqa: E731
    descend(run, head, adam, loss, n, batch, stage=stage, epochs=recipe.stage2_epochs, key="heads")


def fit_black_box(recipe: LocalGlobalRecipe, images: ImageSet, run: Run) -> LinearClassifier:
    classes = len(recipe.network.labels)
    net = LinearClassifier(*backbone_of(recipe), classes).to(run.device)
    adam = optimiser(rates(recipe, net.backbone, net.head.parameters()), recipe)
    weigh = weigher(recipe, images.y, classes, run.device)
    loss = on_images(lambda x, y: weigh(net(x), y), images, recipe, run)
    descend(run, net, adam, loss, len(images), recipe.batch_size, stage="black-box", epochs=recipe.epochs)
    weigh = weigher(recipe, images.y, classes, run.device, heads=True)
    seen = over_images(net, net.pooled, images, run.device)
    tune_head(net.head, lambda s, y: weigh(net.head(s), y), seen, recipe, images, run, "black-box-head")
    return net.eval()


# ---- ProtoPNet -----------------------------------------------------------------------------------------------------

CLUSTER_COST, SEPARATION_COST, L1_COST = 0.8, 0.08, 1e-4
WARM_UP_EPOCHS, PUSH_EVERY = 5, 10


def fit_protopnet(recipe: LocalGlobalRecipe, images: ImageSet, run: Run) -> ProtoPNet:
    """Warm-up with a frozen backbone (a pretrained one only), pushes, and at last the linear layer alone."""
    classes, width = len(recipe.network.labels), recipe.network.embedding_width
    net = ProtoPNet(*backbone_of(recipe), width, classes, recipe.network.prototypes).to(run.device)
    net.head.requires_grad_(False)
    weigh = weigher(recipe, images.y, classes, run.device)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        distance = net.distances(x)
        cluster, separation, _ = net.costs(distance, y)
        return weigh(net.logits(distance), y) + CLUSTER_COST * cluster - SEPARATION_COST * separation

    def after_epoch(epoch: int) -> None:
        if epoch % PUSH_EVERY == 0 or epoch == recipe.epochs:
            net.push(images, run.device, net.owner)

    loss, n = on_images(loss_of, images, recipe, run), len(images)
    if recipe.pretrained and recipe.network.backbone != "small":
        warm = optimiser(groups(net, recipe)[1:], recipe)
        descend(run, net, warm, loss, n, recipe.batch_size, stage="protopnet-warm-up", epochs=WARM_UP_EPOCHS)
    adam = optimiser(groups(net, recipe), recipe)
    descend(
        run, net, adam, loss, n, recipe.batch_size, stage="protopnet", epochs=recipe.epochs, after_epoch=after_epoch
    )

    weigh = weigher(recipe, images.y, classes, run.device, heads=True)
    distance = over_images(net, net.distances, images, run.device)
    net.head.requires_grad_(True)
    tune_head(net.head, lambda d, y: weigh(net.logits(d), y) + L1_COST * net.costs(d, y)[2], distance, recipe, images,
              run, "protopnet-head")  # fmt: skip
    return net.eval()


def groups(net: PatchNetwork, recipe: LocalGlobalRecipe) -> list[dict[str, Any]]:
    return rates(recipe, net.backbone, net.add_on.parameters(), [net.prototypes])
