"""What a diagnosis points to: the gallery images nearest to a prototype's cluster, and the regions it was made by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image as PILImage
from torch import Tensor
from torch.nn.functional import normalize

from zoo.data.images import Window, cell_edges
from zoo.models.local_global_prototypes.result import LookAlike, Region
from zoo.nn.gallery import Gallery, GalleryConfig, StoredGallery
from zoo.ops import cosine_topk, prototype_similarity


class Sources(StoredGallery):
    """The training images of these weights, and for each prototype the one that represents it."""

    source: Tensor
    cell: Tensor
    similarity: Tensor

    def __init__(self, config: GalleryConfig, width: int, prototypes: int) -> None:
        super().__init__(config, width)
        self.register_buffer("source", torch.full((prototypes,), -1, dtype=torch.int64))  # place in the gallery, or -1
        self.register_buffer("cell", torch.zeros(prototypes, dtype=torch.int64))
        self.register_buffer("similarity", torch.zeros(prototypes))


Pictures = dict[str, PILImage.Image | None]


@dataclass(frozen=True)
class Seen:
    """What one branch saw of one image, and which of its prototypes may decide. Ties go to the lowest index."""

    similarity: Float[Tensor, "c k"]
    cells: Float[Tensor, "j d"]
    winner: Int[Tensor, "c k"]  # best cell
    prototypes: Float[Tensor, "c k d"]
    alive: Bool[Tensor, "c k"]  # neither pruned nor of a branch that doesn't decide
    contribution: Float[Tensor, "c k"]  # to the predicted class: weight times similarity


def look_alikes(
    seen: Seen, predicted: int, digest: int, gallery: Gallery | StoredGallery, labels: Sequence[str], top_k: int
) -> tuple[str | None, tuple[LookAlike, ...], Pictures]:
    """Sec. 2.5, global: the nearest images attached to the predicted class's closest prototype; never the input.

    Where none but the input is attached to it, the nearest of the whole gallery, marked as such.
    """
    c, k = seen.alive.shape
    if not bool(seen.alive[predicted].any()):
        return None, (), {}
    closest = int(seen.similarity[predicted].masked_fill(~seen.alive[predicted], -2).argmax())
    name = f"global/{labels[predicted]}/{closest}"
    if not len(gallery.ids):
        return name, (), {}
    table = normalize(gallery.embeddings, dim=-1) @ normalize(seen.prototypes.flatten(0, 1), dim=-1).T
    table = table.view(-1, c, k).masked_fill(~seen.alive, -2)
    own = gallery.labels[:, None] == torch.arange(c, device=table.device)
    allowed = (gallery.labels < 0)[:, None] | own  # an image without a label may be attached to any class
    attached = table.masked_fill(~allowed[..., None], -3).flatten(1).argmax(1)  # class and prototype of each
    others = gallery.digests != digest
    inside = (attached == predicted * k + closest) & others
    cluster = torch.nonzero(inside if bool(inside.any()) else others).flatten()
    if not len(cluster):
        return name, (), {}
    found, place = cosine_topk(seen.cells, gallery.embeddings[cluster], min(top_k, len(cluster)))
    places = cluster[place[0]].tolist()
    return (
        name,
        tuple(
            LookAlike(gallery.ids[i], labels[int(gallery.labels[i])] if gallery.labels[i] >= 0 else None, round(s, 6),
                      bool(inside[i]))
            for s, i in zip(found[0].tolist(), places, strict=True)
        ),
        {gallery.ids[i]: gallery.thumbnail(i) for i in places},
    )  # fmt: skip


def regions(
    seen: Seen, gallery: Sources, labels: Sequence[str], window: Window, top_k: int
) -> tuple[tuple[Region, ...], Pictures]:
    """Sec. 2.5, local: the prototypes that speak most for the predicted class; only likeness counts."""
    flat = seen.similarity.flatten()
    score = seen.contribution.flatten().masked_fill(~seen.alive.flatten() | (flat <= 0), -torch.inf)
    order = torch.argsort(score, descending=True, stable=True)[:top_k]
    order = order[score[order] > 0]
    if not len(order):
        return (), {}
    side = round(len(seen.cells) ** 0.5)  # the network sees squares
    heat, _ = prototype_similarity(seen.cells[None], seen.prototypes.flatten(0, 1)[order], reduce="none")
    first = len(gallery.source) - len(flat)  # of the local columns
    found: list[Region] = []
    pictures: Pictures = {}
    for i, t in enumerate(order.tolist()):
        edges = cell_edges(int(seen.winner.flatten()[t]), side)
        left, top, right, bottom = (round(o + e * window.side) for o, e in zip(
            (window.left, window.top) * 2, edges, strict=True))  # fmt: skip
        source = gallery.ids[place] if 0 <= (place := int(gallery.source[first + t])) < len(gallery.ids) else None
        if source is not None:
            pictures[f"source {source}"] = gallery.thumbnail(place)
        label, k = divmod(t, seen.alive.shape[1])
        found.append(
            Region(
                prototype=f"local/{labels[label]}/{k}",
                label=labels[label],
                contribution=round(float(score[t]), 6),
                similarity=round(float(flat[t]), 6),
                box=(left, top, right, bottom),
                source_id=source,
                source_box=cell_edges(int(gallery.cell[first + t]), side),
                source_similarity=round(float(gallery.similarity[first + t]), 6),
                heatmap=heat[0, i].view(side, side).float().cpu().numpy(),
            )
        )
    return tuple(found), pictures
