"""What a diagnosis points to: the stored training images or a user's folder, and what is nearest among them.

All that is stored is tensors in the safetensors file and names in config.json: the thumbnails are one tensor of bytes,
JPEG after JPEG.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image as PILImage
from torch import Tensor, nn
from torch.nn.functional import normalize

from zoo.data.case import Case
from zoo.data.sets import load_dataset
from zoo.errors import DataError, MediaError
from zoo.models.local_global_prototypes.result import LookAlike, Region, Window
from zoo.ops import cosine_topk, prototype_similarity


@dataclass(frozen=True)
class GalleryConfig:
    """How large the stored gallery is; its tensors are checked against this when they're loaded."""

    ids: tuple[str, ...] = ()
    jpeg_bytes: int = field(default=0, metadata={"min": 0, "max": 1 << 31})


@dataclass(frozen=True)
class Gallery:
    """Images to search: ``labels`` is -1 where an image has none, ``digests`` tell equal pictures."""

    ids: tuple[str, ...]
    embeddings: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    digests: Int[Tensor, " n"]
    thumbnail: Callable[[int], PILImage.Image | None]


class StoredGallery(nn.Module):
    """The training images of these weights, and for each prototype the one that represents it."""

    embeddings: Tensor
    labels: Tensor
    digests: Tensor
    jpeg: Tensor
    ends: Tensor
    source: Tensor
    cell: Tensor
    similarity: Tensor

    def __init__(self, config: GalleryConfig, width: int, prototypes: int) -> None:
        super().__init__()
        self.ids, n = config.ids, len(config.ids)
        self.register_buffer("embeddings", torch.zeros(n, width))  # f^G, unit length
        self.register_buffer("labels", torch.zeros(n, dtype=torch.int64))
        self.register_buffer("digests", torch.zeros(n, dtype=torch.int64))
        self.register_buffer("jpeg", torch.zeros(config.jpeg_bytes, dtype=torch.uint8))
        self.register_buffer("ends", torch.zeros(n, dtype=torch.int64))  # of each JPEG, in bytes
        self.register_buffer("source", torch.full((prototypes,), -1, dtype=torch.int64))  # place in the gallery, or -1
        self.register_buffer("cell", torch.zeros(prototypes, dtype=torch.int64))
        self.register_buffer("similarity", torch.zeros(prototypes))

    def cases(self) -> Gallery:
        return Gallery(self.ids, self.embeddings, self.labels, self.digests, self.thumbnail)

    def thumbnail(self, place: int) -> PILImage.Image | None:
        """A picture of the gallery; ``None`` where the weights hold names only, or a damaged picture."""
        end = int(self.ends[place])
        start = int(self.ends[place - 1]) if place else 0
        if not 0 <= start < end <= len(self.jpeg):
            return None
        data = self.jpeg[start:end].cpu().numpy().tobytes()
        try:
            with PILImage.open(io.BytesIO(data), formats=["JPEG"]) as picture:
                if max(picture.size) > 1024:
                    return None
                return picture.convert("RGB")
        except (OSError, ValueError, PILImage.DecompressionBombError):
            return None


def pack(pictures: Sequence[PILImage.Image], quality: int = 80) -> tuple[Tensor, Tensor]:
    """Pictures as one tensor of bytes, and where each ends."""
    parts = []
    for picture in pictures:
        file = io.BytesIO()
        picture.convert("RGB").save(file, "JPEG", quality=quality, optimize=True)
        parts.append(file.getvalue())
    ends = torch.tensor([len(part) for part in parts], dtype=torch.int64).cumsum(0)
    joined = bytearray(b"".join(parts))
    return (torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.zeros(0, dtype=torch.uint8)), ends


def read_folder(folder: Any) -> tuple[Any, list[Case]]:
    """A user's own images: what tells whether they changed, and the images. Raises ``DataError``."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"the gallery {folder} is not a folder; give a folder of images")
    cases = list(load_dataset(f"folder:{root}"))
    files = [(case.id, Path(str(case.image))) for case in cases]
    stamps = [(name, path.stat().st_mtime_ns, path.stat().st_size) for name, path in files if path.is_file()]
    return (str(root.resolve()), tuple(stamps)), cases


def gallery_of(
    cases: Sequence[Case], labels: Sequence[str], embed: Callable[[Any], tuple[Tensor, int, PILImage.Image]]
) -> Gallery:
    """A gallery of images that aren't stored; those that can't be read are left out.

    ``embed``: embedding f^G, digest and thumbnail of an image. Raises ``DataError`` when none can be read.
    """
    found = []
    for case in cases:
        with suppress(MediaError):
            found.append((case, *embed(case.image)))
    if not found:
        raise DataError(f"none of the {len(cases)} images of the gallery can be read; choose another folder")
    known = [labels.index(str(case.label)) if str(case.label) in labels else -1 for case, *_ in found]
    pictures = [picture for *_, picture in found]
    device = found[0][1].device
    return Gallery(
        ids=tuple(case.id for case, *_ in found),
        embeddings=torch.stack([embedding for _, embedding, _, _ in found]),
        labels=torch.tensor(known, device=device),
        digests=torch.tensor([digest for *_, digest, _ in found], device=device),
        thumbnail=lambda place: pictures[place],
    )


# ---- what is nearest -------------------------------------------------------------------------------------------------

Pictures = dict[str, PILImage.Image | None]


@dataclass(frozen=True)
class Seen:
    """What one branch saw of one image, and which of its prototypes may decide. Ties go to the lowest index."""

    cells: Float[Tensor, "j d"]
    similarity: Float[Tensor, "c k"]
    winner: Int[Tensor, "c k"]  # best cell
    prototypes: Float[Tensor, "c k d"]
    alive: Bool[Tensor, "c k"]
    contribution: Float[Tensor, "c k"]  # to the predicted class: weight times similarity


def look_alikes(
    seen: Seen, predicted: int, digest: int, gallery: Gallery, labels: Sequence[str], top_k: int
) -> tuple[str | None, tuple[LookAlike, ...], Pictures]:
    """The nearest gallery images that are attached to the predicted class's closest prototype; never the input."""
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
    cluster = torch.nonzero((attached == predicted * k + closest) & (gallery.digests != digest)).flatten()
    if not len(cluster):
        return name, (), {}
    found, place = cosine_topk(seen.cells, gallery.embeddings[cluster], min(top_k, len(cluster)))
    places = cluster[place[0]].tolist()
    return (
        name,
        tuple(
            LookAlike(gallery.ids[i], labels[int(gallery.labels[i])] if gallery.labels[i] >= 0 else None, round(s, 6))
            for s, i in zip(found[0].tolist(), places, strict=True)
        ),
        {gallery.ids[i]: gallery.thumbnail(i) for i in places},
    )


def regions(
    seen: Seen, gallery: StoredGallery, labels: Sequence[str], window: Window, top_k: int
) -> tuple[tuple[Region, ...], Pictures]:
    """The local prototypes that speak most for the predicted class; only likeness counts, not being unlike."""
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


def cell_edges(cell: int, side: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a cell, as shares of the square."""
    row, column = divmod(cell, side)
    return column / side, row / side, (column + 1) / side, (row + 1) / side
