"""Prototypes of images or of regions, the centroids they are drawn to, and the head on all similarities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from zoo.nn.part_prototypes import cluster_centres
from zoo.ops import prototype_similarity

START_CELLS = 4000  # of a class, for its first prototypes


class Evidence(NamedTuple):
    """What one branch saw. Cells: the j positions of the feature map; the global branch has one, the whole image."""

    similarity: Float[Tensor, "b c k"]  # s(p_ck, f), of the best cell: global max pooling
    cells: Float[Tensor, "b j d"]  # f^G, or f_j^L; not normalised
    winner: Int[Tensor, "b c k"]  # j*, the best cell


class PrototypeBranch(nn.Module):
    """Two layers on every cell, and K prototypes for each class: the global (Sec. 2.2) or local branch (Sec. 2.3)."""

    def __init__(
        self, channels: int, width: int, classes: int, prototypes: int, pooled: bool, sigmoid: bool = False
    ) -> None:
        super().__init__()
        self.pooled = pooled  # the global branch: one cell, the mean of all (GAP)
        # On one cell these are fully connected layers, on many they're 1 x 1 convolutions.
        self.embed = nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width))
        if sigmoid:
            self.embed.append(nn.Sigmoid())
        self.prototypes = nn.Parameter(torch.randn(classes, prototypes, width))
        self.centroids: Tensor
        self.counts: Tensor
        self.used: Tensor
        self.register_buffer("centroids", self.prototypes.detach().clone())  # f̄
        self.register_buffer("counts", torch.ones(classes, prototypes))  # n
        self.register_buffer("used", torch.zeros(classes, prototypes))  # samples in this epoch

    def forward(self, features: Float[Tensor, "b c h w"]) -> Evidence:
        cells = features.flatten(2).transpose(1, 2)
        cells = self.embed(cells.mean(1, keepdim=True) if self.pooled else cells)
        similarity, winner = prototype_similarity(cells, self.prototypes.flatten(0, 1))
        shape = (cells.shape[0], *self.prototypes.shape[:2])  # len() would fix it in an exported graph
        return Evidence(similarity.view(shape), cells, winner.view(shape))

    def cluster_loss(self) -> Float[Tensor, ""]:
        """L_cluster: mean distance of the prototypes to their centroids, which receive no gradient (Eq. 3)."""
        return (self.centroids - self.prototypes).norm(dim=-1).mean()

    @torch.no_grad()
    def assign(
        self, evidence: Evidence, y: Int[Tensor, " b"], every_cell: bool = False
    ) -> tuple[Float[Tensor, "c k d"], Float[Tensor, "c k"]]:
        """Sum and number of the samples that the batch gives to each prototype; only those of their own class compete.

        An image goes to its most similar prototype, and a region likewise with ``every_cell``. Otherwise each local
        prototype takes the cell that it won, because the others don't enter the classification.
        """
        cells = evidence.cells.detach()
        c, k, d = self.prototypes.shape
        if self.pooled or every_cell:
            table = torch.einsum("bjd,bkd->bjk", normalize(cells, dim=-1), normalize(self.prototypes[y], dim=-1))
            samples, nearest = cells.flatten(0, 1), table.argmax(-1).flatten()
            column = y.repeat_interleave(cells.shape[1]) * k + nearest
        else:
            won = evidence.winner[torch.arange(len(y), device=y.device), y]  # [b k], of the own class
            samples = cells.gather(1, won[..., None].expand(-1, -1, d)).flatten(0, 1)
            column = (y[:, None] * k + torch.arange(k, device=y.device)).flatten()
        sums = samples.new_zeros(c * k, d).index_add_(0, column, samples)
        counts = samples.new_zeros(c * k).index_add_(0, column, torch.ones_like(column, dtype=samples.dtype))
        return sums.view(c, k, d), counts.view(c, k)

    @torch.no_grad()
    def absorb(self, sums: Float[Tensor, "c k d"], counts: Float[Tensor, "c k"]) -> None:
        """Move the centroids: the running mean of Eq. 2 for a whole batch, f̄ <- (n f̄ + sum f) / (n + m)."""
        total = self.counts + counts
        self.centroids.copy_((self.counts[..., None] * self.centroids + sums) / total[..., None])
        self.counts.copy_(total)
        self.used += counts

    @torch.no_grad()
    def start(self, label: int, cells: Float[Tensor, "n d"], rng: np.random.Generator) -> None:
        """Prototypes of a class where k-means finds the centres of its cells."""
        found = cells.cpu().numpy()
        found = found[rng.permutation(len(found))[:START_CELLS]]
        self.prototypes[label] = torch.from_numpy(cluster_centres(found, self.prototypes.shape[1], rng)).to(cells)

    @torch.no_grad()
    def restart(self, label: int, cells: Float[Tensor, "n d"]) -> None:
        """Put the prototypes of a class that no sample chose where the others represent a cell worst."""
        empty = torch.nonzero(self.used[label] == 0).flatten()
        cosine = normalize(cells, dim=-1) @ normalize(self.prototypes[label], dim=-1).T
        cosine[:, empty] = -2
        worst = cosine.max(1).values.argsort(stable=True)[: len(empty)]
        empty = empty[: len(worst)]
        self.prototypes[label, empty] = cells[worst]
        self.centroids[label, empty] = cells[worst]
        self.counts[label, empty] = 1
