"""What a diagnosis rests on: look-alike images, look-alike regions, and the table of all contributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image as PILImage
from torch import Tensor
from torch.nn.functional import normalize

from zoo import figure as fig
from zoo import media
from zoo.ops import cosine_topk, prototype_similarity
from zoo.prediction import Classification

if TYPE_CHECKING:
    from zoo.models.local_global_prototypes.gallery import Gallery
    from zoo.models.local_global_prototypes.model import Evidence, LocalGlobalPrototypes

SHOWN_CASES, SHOWN_REGIONS = 4, 3  # in the figure


@dataclass(frozen=True)
class Window:
    """The square of an image that the network sees, in px."""

    top: int
    left: int
    side: int

    def cut(self, array: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "s s *c"]:
        return array[self.top : self.top + self.side, self.left : self.left + self.side]


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
    """A gallery image of the closest prototype's cluster."""

    id: str
    label: str | None
    similarity: float


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
        regions = [{k: v for k, v in asdict(region).items() if k != "heatmap"} for region in self.regions]
        return {
            **super().to_dict(),
            "window": asdict(self.window),
            "prototype": self.prototype,
            "look_alikes": [asdict(case) for case in self.look_alikes],
            "regions": [{**region, "box": list(region["box"]), "source_box": list(region["source_box"])}
                        for region in regions],
            "contributions": [asdict(row) for row in self.contributions],
        }  # fmt: skip

    # ---- the picture --------------------------------------------------------------------------------------------

    def _rows(self) -> tuple[list[fig.Panel], list[fig.Panel]]:
        """Top: the input and its look-alikes. Bottom: each region, with the heatmap, beside its source patch."""
        top = [
            fig.Panel(f"input: {self.label} ({self.probabilities[self.label]:.0%})", self.image.thumbnail(512)),
            fig.Panel("probabilities", fig.bars(self.probabilities)),
        ]
        for case in self.look_alikes[:SHOWN_CASES]:
            name = f"{case.label or 'unlabelled'}, cos {case.similarity:.2f}: {case.id}"
            top.append(fig.Panel(name, self.pictures.get(case.id) or fig.absent(case.id)))
        bottom: list[fig.Panel] = []
        view = self.window.cut(np.round(self.image.rgb() * 255).astype(np.uint8))
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
            bottom.append(fig.Panel(f"looks like this {region.label}: {name}", framed))
        return top, bottom

    def panels(self) -> list[fig.Panel]:
        top, bottom = self._rows()
        return [*top, *bottom]

    def figure(self, side: int = 288) -> PILImage.Image:
        """Above the input with its look-alikes, below its regions with the training patches they look like."""
        top, bottom = self._rows()
        parts = [("The whole image: training images of the closest prototype's cluster", top)]
        if bottom:
            heading = "Its regions: where the strongest local prototypes fire, and the patches they stand for"
            parts.append((heading, bottom))
        return fig.rows(parts, title=self.title, footer=self.footer, side=side)


def explain(
    model: LocalGlobalPrototypes,
    image: media.Image,
    window: Window,
    digest: int,
    gallery: Gallery,
    probabilities: Float[np.ndarray, " c"],
    options: dict[str, Any],
    evidence: dict[str, Evidence],
) -> LookAlikes:
    """Everything there is to say about one image; ``evidence`` is of a batch of one. Ties go to the lowest index."""
    config = model.config
    choice, pruned, top_k = options["branch"], options["pruned"], options["top_k"]
    predicted = int(np.argmax(probabilities))
    head = model.head(choice, pruned)
    alive: Tensor = head.mask > 0  # type: ignore[assignment]
    similarity = torch.cat([evidence[name].similarity[0].flatten() for name in config.branches])
    weight = head.effective[predicted]
    contribution = weight * similarity
    names = [(b, label, k) for b in config.branches for label in config.labels for k in range(config.prototypes)]

    notes = []
    if not bool(model.tuned):
        bound = np.e / (np.e + (len(config.labels) - 1) / np.e)
        notes.append(
            f"the head isn't tuned: mean cosines at temperature {config.tau:g} keep probabilities low (below "
            f"{bound:.2f} at temperature 1)"
        )
    prototype: str | None = None
    look_alikes: tuple[LookAlike, ...] = ()
    pictures: dict[str, PILImage.Image | None] = {}
    if choice in ("joint", "global"):
        prototype, look_alikes, pictures = _look_alikes(
            model, evidence["global"], predicted, alive, digest, gallery, top_k
        )
        if not look_alikes:
            notes.append("no look-alikes: the gallery has no other image of the closest prototype's cluster")
    regions: tuple[Region, ...] = ()
    if choice in ("joint", "local"):
        regions, sources = _regions(model, evidence["local"], contribution, alive, window, names, top_k)
        pictures |= sources
    order = torch.argsort(contribution, descending=True, stable=True).tolist()
    return LookAlikes(
        options=options,
        notes=tuple(notes),
        image=image,
        probabilities={name: float(p) for name, p in zip(config.labels, probabilities, strict=True)},
        window=window,
        prototype=prototype,
        look_alikes=look_alikes,
        regions=regions,
        contributions=tuple(
            Contribution("/".join(map(str, names[t])), names[t][0], names[t][1], *(
                round(float(v[t]), 6) for v in (similarity, weight, contribution)))
            for t in order if alive[t]
        ),
        pictures=pictures,
    )  # fmt: skip


def _look_alikes(
    model: LocalGlobalPrototypes,
    seen: Evidence,
    predicted: int,
    alive: Tensor,
    digest: int,
    gallery: Gallery,
    top_k: int,
) -> tuple[str | None, tuple[LookAlike, ...], dict[str, PILImage.Image | None]]:
    """The nearest gallery images that are attached to the predicted class's closest prototype; never the input."""
    config, branch = model.config, model.branch("global")
    c, k = len(config.labels), config.prototypes
    open_ = alive[: c * k].view(c, k)
    mine = seen.similarity[0, predicted].masked_fill(~open_[predicted], -2)
    closest = int(mine.argmax())
    name = f"global/{config.labels[predicted]}/{closest}"
    if not bool(open_[predicted].any()):
        return None, (), {}
    if not len(gallery.ids):
        return name, (), {}
    table = normalize(gallery.embeddings, dim=-1) @ normalize(branch.prototypes.flatten(0, 1), dim=-1).T
    table = table.view(-1, c, k).masked_fill(~open_, -2)
    labels = gallery.labels
    unlabelled = labels < 0
    allowed = unlabelled[:, None] | (labels[:, None] == torch.arange(c, device=labels.device))
    attached = table.masked_fill(~allowed[..., None], -3).flatten(1).argmax(1)  # class and prototype of each
    cluster = torch.nonzero((attached == predicted * k + closest) & (gallery.digests != digest)).flatten()
    if not len(cluster):
        return name, (), {}
    found, place = cosine_topk(seen.cells[0], gallery.embeddings[cluster], min(top_k, len(cluster)))
    look_alikes: list[LookAlike] = []
    pictures: dict[str, PILImage.Image | None] = {}
    for similarity, i in zip(found[0].tolist(), cluster[place[0]].tolist(), strict=True):
        label = config.labels[int(labels[i])] if labels[i] >= 0 else None
        look_alikes.append(LookAlike(gallery.ids[i], label, round(similarity, 6)))
        pictures[gallery.ids[i]] = gallery.thumbnail(i)
    return name, tuple(look_alikes), pictures


def _regions(
    model: LocalGlobalPrototypes,
    seen: Evidence,
    contribution: Tensor,
    alive: Tensor,
    window: Window,
    names: Sequence[tuple[str, str, int]],
    top_k: int,
) -> tuple[tuple[Region, ...], dict[str, PILImage.Image | None]]:
    """The local prototypes that speak most for the predicted class; only likeness counts, not being unlike."""
    config, branch, gallery = model.config, model.branch("local"), model.gallery
    first = model.prototype_count - len(config.labels) * config.prototypes  # of the local columns
    flat = seen.similarity[0].flatten()
    score = contribution[first:].masked_fill(~alive[first:] | (flat <= 0), -torch.inf)
    order = torch.argsort(score, descending=True, stable=True)[:top_k]
    order = order[score[order] > 0]
    if not len(order):
        return (), {}
    side = round(len(seen.cells[0]) ** 0.5)  # the network sees squares
    heat, _ = prototype_similarity(seen.cells, branch.prototypes.flatten(0, 1)[order], reduce="none")
    regions: list[Region] = []
    pictures: dict[str, PILImage.Image | None] = {}
    for i, t in enumerate(order.tolist()):
        row, column = divmod(int(seen.winner[0].flatten()[t]), side)
        edges = _edges(row, column, side)
        offsets = (window.left, window.top, window.left, window.top)
        box = tuple(round(o + e * window.side) for o, e in zip(offsets, edges, strict=True))
        place = int(gallery.source[first + t])
        known = 0 <= place < len(config.gallery.ids)
        source_id = config.gallery.ids[place] if known else None
        if source_id is not None:
            pictures[f"source {source_id}"] = gallery.thumbnail(place)
        source_row, source_column = divmod(int(gallery.cell[first + t]), side)
        name = names[first + t]
        regions.append(
            Region(
                prototype="/".join(map(str, name)),
                label=name[1],
                contribution=round(float(score[t]), 6),
                similarity=round(float(flat[t]), 6),
                box=box,  # type: ignore[arg-type]
                source_id=source_id,
                source_box=(
                    source_column / side,
                    source_row / side,
                    (source_column + 1) / side,
                    (source_row + 1) / side,
                ),
                source_similarity=round(float(gallery.similarity[first + t]), 6),
                heatmap=heat[0, i].view(side, side).float().cpu().numpy(),
            )
        )
    return tuple(regions), pictures


def _edges(row: int, column: int, side: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a cell, as shares of the square."""
    return column / side, row / side, (column + 1) / side, (row + 1) / side
