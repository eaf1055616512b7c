"""Classification by likeness to training patches: ProtoPNet on any backbone, heads on similarities, k-means.

How it is trained is left to the caller: what is replaced by patches when, and which costs are paid.

Source: C. Chen et al., This Looks Like That, 2019.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.data.images import ImageSet, normalise
from zoo.ops import prototype_similarity


class PatchNetwork(nn.Module):
    """Backbone, two 1 x 1 convolutions with a sigmoid at the end, and prototypes compared by squared distance."""

    def __init__(self, backbone: nn.Module, channels: int, width: int, prototypes: int) -> None:
        super().__init__()
        self.backbone = backbone  # to a feature map of so many channels
        hidden = nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width)
        self.add_on = nn.Sequential(*hidden, nn.Sigmoid())
        self.prototypes = nn.Parameter(torch.rand(prototypes, width))

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


class ProtoPNet(PatchNetwork):
    """Log-similarity to patches of each class, and a linear layer that starts at +1 own class, -0.5 others."""

    def __init__(self, backbone: nn.Module, channels: int, width: int, classes: int, k: int) -> None:
        super().__init__(backbone, channels, width, classes * k)
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


class MaskedHead(nn.Module):
    """``(M * W) s`` of similarities s, without bias; M zeroes the columns of prototypes that don't take part."""

    def __init__(self, mask: Bool[Tensor, " t"], own: Bool[Tensor, "c t"], scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(own.float() * scale)  # for the prototypes of the class
        self.mask: Tensor
        self.register_buffer("mask", mask.float())

    @torch.no_grad()
    def share_among_kept(self, k: int) -> None:
        """Weights of 1 / K become 1 / the prototypes left of each k, those of a class in a branch."""
        kept = self.mask.view(-1, k).sum(1).clamp(min=1)
        self.weight.mul_(k / kept.repeat_interleave(k))

    @property
    def effective(self) -> Float[Tensor, "c t"]:
        return self.weight * self.mask

    def forward(self, s: Float[Tensor, "b t"]) -> Float[Tensor, "b c"]:
        return s @ self.effective.T


class HeadBank(nn.Module):
    """Several heads on the same similarities; their losses don't meet, so one optimiser trains them all."""

    def __init__(self, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, s: Float[Tensor, "b t"]) -> list[Float[Tensor, "b c"]]:
        return [head(s) for head in self.heads.values()]


def keep_nearest(similarity: Float[Tensor, "c k"], image: Int[Tensor, "c k"]) -> Bool[Tensor, "c k"]:
    """Pruning: of the prototypes that share a nearest image, only the closest stays, the first if two are.

    True stays. A prototype whose class has no image does too: nothing says that it's redundant.
    """
    flat, places = similarity.flatten().tolist(), image.flatten().tolist()
    closest: dict[int, int] = {}
    for t, place in enumerate(places):
        if place not in closest or flat[t] > flat[closest[place]]:
            closest[place] = t
    keep = [place < 0 or closest[place] == t for t, place in enumerate(places)]
    return torch.tensor(keep).view(similarity.shape)


def cluster_centres(found: Float[np.ndarray, "n d"], k: int, rng: np.random.Generator) -> Float[np.ndarray, "k d"]:
    """Where k-means finds the centres of ``found``; of k or fewer, they themselves, and again with a little noise."""
    from scipy.cluster.vq import kmeans2

    if len(found) <= k:
        repeated = found[np.arange(k) % len(found)]
        return repeated + 0.01 * repeated.std() * rng.standard_normal(repeated.shape)
    return kmeans2(found.astype(np.float64), k, iter=20, minit="++", seed=rng)[0]
