"""The images that explanations point to: embeddings, names, labels and thumbnails, stored with the weights.

All of it is tensors in the safetensors file and names in config.json: the thumbnails are one tensor of bytes, JPEG
after JPEG.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image as PILImage
from torch import Tensor, nn

from zoo.errors import DataError, MediaError


@dataclass(frozen=True)
class GalleryConfig:
    """How large the stored gallery is; its tensors are checked against this when they're loaded."""

    ids: tuple[str, ...] = ()
    jpeg_bytes: int = dataclass_field(default=0, metadata={"min": 0, "max": 1 << 31})


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
        n = len(config.ids)
        self.register_buffer("embeddings", torch.zeros(n, width))  # f^G, unit length
        self.register_buffer("labels", torch.zeros(n, dtype=torch.int64))
        self.register_buffer("digests", torch.zeros(n, dtype=torch.int64))
        self.register_buffer("jpeg", torch.zeros(config.jpeg_bytes, dtype=torch.uint8))
        self.register_buffer("ends", torch.zeros(n, dtype=torch.int64))  # of each JPEG, in bytes
        self.register_buffer("source", torch.full((prototypes,), -1, dtype=torch.int64))  # place in the gallery, or -1
        self.register_buffer("cell", torch.zeros(prototypes, dtype=torch.int64))
        self.register_buffer("similarity", torch.zeros(prototypes))

    def cases(self, config: GalleryConfig) -> Gallery:
        return Gallery(config.ids, self.embeddings, self.labels, self.digests, self.thumbnail)

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


Embed = Callable[[Any], tuple[Tensor, int, PILImage.Image]]


def from_folder(folder: Any, labels: Sequence[str]) -> tuple[Any, Callable[[Embed], Gallery]]:
    """A user's own images: what tells whether they changed, and how to make a gallery of them.

    Files that can't be read are left out. Raises ``DataError`` when the folder holds no image that can be.
    """
    from zoo.data.sets import load_dataset

    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"the gallery {folder} is not a folder; give a folder of images")
    dataset = load_dataset(f"folder:{root}")
    cases = list(dataset)
    stamps = [(case.id, path.stat().st_mtime_ns, path.stat().st_size)
              for case in cases if (path := Path(str(case.image))).is_file()]  # fmt: skip

    def make(embed: Embed) -> Gallery:
        found = []
        for case in cases:
            try:
                found.append((case, *embed(case.image)))
            except MediaError:
                continue
        if not found:
            raise DataError(f"none of the {len(cases)} images of the gallery {folder} can be read")
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

    return (str(root.resolve()), tuple(stamps)), make
