"""What a diagnosis rests on: look-alike images, look-alike regions, and the table of all contributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image as PILImage
from torch import Tensor
from torch.nn.functional import normalize

from zoo import figure as fig
from zoo.data.images import Window, cell_edges, rgb_bytes
from zoo.nn.gallery import Gallery, GalleryConfig, StoredGallery
from zoo.ops import cosine_topk, prototype_similarity
from zoo.prediction import Classification

SHOWN_CASES, SHOWN_REGIONS = 4, 3  # in the figure


@dataclass(frozen=True)
class Contribution:
    """One prototype's part in the logit of the predicted class."""

    prototype: str  # such as "local/MEL/3"
    branch: str
    label: str  # the class of the prototype
    similarity: float
    weight: float
    contribution: float


@dataclass(frozen=True)
class LookAlike:
    """A gallery image of the closest prototype's cluster, or where that holds no other image, the nearest of all."""

    id: str
    label: str | None
    similarity: float
    attached: bool = True  # to the closest prototype


@dataclass(frozen=True)
class Region:
    """What a local prototype found in the image, and the training patch that represents it."""

    prototype: str
    label: str
    contribution: float
    similarity: float
    box: tuple[int, int, int, int]  # of the best cell: left, top, right, bottom in px of the input
    source_id: str | None
    source_box: tuple[float, float, float, float]  # the same of the source, as shares of its centred square
    source_similarity: float
    heatmap: Float[np.ndarray, "h w"]  # cosine with every cell


@dataclass(kw_only=True)
class LookAlikes(Classification):
    """A diagnosis with the cases and regions it was made by."""

    window: Window
    prototype: str | None  # the predicted class's closest global prototype
    look_alikes: tuple[LookAlike, ...]
    regions: tuple[Region, ...]
    contributions: tuple[Contribution, ...]
    pictures: dict[str, PILImage.Image | None] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "window": asdict(self.window),
            "prototype": self.prototype,
            "look_alikes": [asdict(case) for case in self.look_alikes],
            "regions": [{k: v for k, v in asdict(region).items() if k != "heatmap"} for region in self.regions],
            "contributions": [asdict(row) for row in self.contributions],
        }

    def _rows(self) -> tuple[list[fig.Panel], list[fig.Panel]]:
        """Top: the input and its look-alikes. Bottom: each region, with the heatmap, beside its source patch."""
        top = [
            fig.Panel(
                f"input: {self.spelled(self.most_probable)} {self.probabilities[self.most_probable]:.0%}",
                self.image.thumbnail(512),
            ),
            fig.Panel("probabilities", self.bars()),
        ]
        for case in self.look_alikes[:SHOWN_CASES]:
            kind = "unlabelled" if case.label is None else self.label_names.get(case.label, case.label)
            name = f"{kind}, cos {case.similarity:.2f}: {case.id}"
            top.append(fig.Panel(name, self.pictures.get(case.id) or fig.absent(case.id)))
        bottom: list[fig.Panel] = []
        view = self.window.cut(rgb_bytes(self.image))
        # Prototypes that agree on the region and on the patch would fill the row with one picture.
        distinct: dict[Any, Region] = {}
        for region in self.regions:
            distinct.setdefault((region.box, region.source_id, region.source_box), region)
        for region in list(distinct.values())[:SHOWN_REGIONS]:
            box = [(edge - offset) / self.window.side for edge, offset in
                   zip(region.box, (self.window.left, self.window.top) * 2, strict=True)]  # fmt: skip
            low, high = float(region.heatmap.min()), float(region.heatmap.max())
            # what is unlike fades to grey, what is alike glows
            heat = fig.heat_over(view, (region.heatmap - low) / max(high - low, 1e-6))
            bottom.append(fig.Panel(f"this region, cos {region.similarity:.2f}", fig.framed(heat, box)))
            name = region.source_id or "no source image stored"
            source = self.pictures.get(f"source {name}")
            framed = fig.absent(name) if source is None else fig.framed(fig.to_picture(source), region.source_box)
            bottom.append(
                fig.Panel(f"looks like this {self.label_names.get(region.label, region.label)}: {name}", framed)
            )
        return top, bottom

    def panels(self) -> list[fig.Panel]:
        top, bottom = self._rows()
        return [*top, *bottom]

    def figure(self, side: int = 288) -> PILImage.Image:
        """Above the input with its look-alikes, below its regions with the training patches they look like."""
        top, bottom = self._rows()
        heading = "The whole image"
        if self.look_alikes:
            heading += (
                ": images of the closest prototype's cluster"
                if self.look_alikes[0].attached
                else ": no other image is of the closest prototype's cluster, so these are the nearest of all"
            )
        parts = [(heading, top)]
        if bottom:
            heading = "Its regions: where the strongest local prototypes fire, and the patches they stand for"
            parts.append((heading, bottom))
        return fig.rows(parts, title=self.title, footer=self.footer, side=side)


# ---- what it points to ---------------------------------------------------------------------------------------------


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
