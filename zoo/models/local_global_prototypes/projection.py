"""Prototypes and the training images they lie near: where they start, what they become, and who stands for them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zoo.data.images import ImageSet, over_images
from zoo.models.local_global_prototypes.model import LocalGlobalPrototypes
from zoo.training import Run

START_IMAGES = 500  # of a class, for its first prototypes


@torch.no_grad()
def start_prototypes(model: LocalGlobalPrototypes, images: ImageSet, run: Run, identity: bool = False) -> None:
    """k-means on each class's first features, or rows of the identity; the centroids start where the prototypes do."""
    for name in model.config.branches:
        branch = model.branch(name)
        if identity:
            c, k, d = branch.prototypes.shape
            branch.prototypes.copy_(torch.eye(c * k, d).view(c, k, d))
        for label in [] if identity else range(len(model.config.labels)):
            rng = run.generator("k-means", name, label)
            places = torch.nonzero(images.y == label).flatten()
            if len(places):
                places = places[torch.from_numpy(rng.permutation(len(places))[:START_IMAGES])]
                branch.start(label, cells_of(model, name, images, run.device, places), rng)
        branch.centroids.copy_(branch.prototypes)
        branch.counts.fill_(1)


@torch.no_grad()
def project(model: LocalGlobalPrototypes, images: ImageSet, device: torch.device) -> None:
    """Every prototype becomes a feature of an image of its class, each another image: the assignment of most likeness.

    Of a class with fewer images than prototypes, some stay as they are.
    """
    from scipy.optimize import linear_sum_assignment

    similarity, winner = best_cells(model, images, device)
    for b, name in enumerate(model.config.branches):
        branch = model.branch(name)
        for label in range(len(model.config.labels)):
            places = torch.nonzero(images.y == label).flatten()
            if not len(places):
                continue
            image, k = map(torch.from_numpy, linear_sum_assignment(similarity[places, b, label], maximize=True))
            chosen = places[image]
            cells = cells_of(model, name, images, device, chosen).unflatten(0, (len(chosen), -1))
            branch.prototypes[label, k] = cells[torch.arange(len(chosen)), winner[chosen, b, label, k].long()]


def cells_of(
    model: LocalGlobalPrototypes,
    name: str,
    images: ImageSet,
    device: torch.device,
    places: Int[Tensor, " m"] | None = None,
) -> Float[Tensor, "n d"]:
    """A branch's cells of all images or of those at ``places``, without augmentation and in eval mode."""
    branch = model.branch(name)
    cells = over_images(model, lambda x: branch(model.backbone(x)).cells, images, device, places)
    return cells.flatten(0, 1).to(device)


class Nearest(NamedTuple):
    """Of every branch (here b), class and prototype: the image of its own class that is most similar to it."""

    similarity: Float[Tensor, "b c k"]
    image: Int[Tensor, "b c k"]  # place in the set; -1 where the class has none
    cell: Int[Tensor, "b c k"]  # of that image, the one most similar

    def places(self, by_cell: bool = True) -> Int[Tensor, "b c k"]:
        """A number for each image, or for each cell of each image; -1 where there is none."""
        cells = int(self.cell.max()) + 1
        return torch.where(self.image < 0, -1, self.image * cells + self.cell) if by_cell else self.image


def best_cells(
    model: LocalGlobalPrototypes, images: ImageSet, device: torch.device
) -> tuple[Float[Tensor, "n b c k"], Float[Tensor, "n b c k"]]:
    """Similarity of every image to every prototype, and its cell that is most similar (there are few: a float)."""

    def found(x: Tensor) -> Float[Tensor, "n 2 b c k"]:
        return torch.stack([torch.stack([e.similarity, e.winner.float()], 1) for e in model(x).values()], 2)

    similarity, winner = over_images(model, found, images, device).unbind(1)
    return similarity, winner


def survey(
    model: LocalGlobalPrototypes, images: ImageSet, device: torch.device
) -> tuple[Float[Tensor, "n t"], Nearest]:
    """All similarities of all images, and who is nearest to which prototype."""
    similarity, winner = best_cells(model, images, device)
    other = F.one_hot(images.y, similarity.shape[2])[:, None, :, None] == 0
    best, image = similarity.masked_fill(other, -2).max(0)
    there = best > -2
    cell = torch.where(there, winner.long().gather(0, image[None])[0], 0)
    return similarity.flatten(1), Nearest(best, torch.where(there, image, -1), cell)
