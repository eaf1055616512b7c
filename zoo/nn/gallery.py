"""Images that a prediction may point to: the training images, stored with the weights, or those of a user's folder.

All that is stored is tensors in the safetensors file and names in config.json: the thumbnails are one tensor of bytes,
JPEG after JPEG. :class:`StoredGallery` and :class:`Gallery` are searched alike: by ``ids``, ``embeddings``, ``labels``
(-1: none), ``digests`` (they tell equal pictures) and ``thumbnail(place)``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image as PILImage
from torch import Tensor, nn

from zoo.data.case import Case
from zoo.data.sets import load_dataset
from zoo.errors import DataError, MediaError
from zoo.storage import user_path


@dataclass(frozen=True)
class GalleryConfig:
    """How large the stored gallery is; its tensors are checked against this when they're loaded."""

    ids: tuple[str, ...] = ()
    jpeg_bytes: int = field(default=0, metadata={"min": 0, "max": 1 << 31})


@dataclass(frozen=True)
class Gallery:
    """Images to search, in memory: ``labels`` is -1 where an image has none, ``digests`` tell equal pictures."""

    ids: tuple[str, ...]
    embeddings: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    digests: Int[Tensor, " n"]
    thumbnail: Callable[[int], PILImage.Image | None]


class StoredGallery(nn.Module):
    """The training images of these weights: unit embeddings, labels, digests of the pixels, and small pictures."""

    embeddings: Tensor
    labels: Tensor
    digests: Tensor
    jpeg: Tensor
    ends: Tensor

    def __init__(self, config: GalleryConfig, width: int) -> None:
        super().__init__()
        self.ids, n = config.ids, len(config.ids)
        self.register_buffer("embeddings", torch.zeros(n, width))  # unit length
        self.register_buffer("labels", torch.zeros(n, dtype=torch.int64))
        self.register_buffer("digests", torch.zeros(n, dtype=torch.int64))
        self.register_buffer("jpeg", torch.zeros(config.jpeg_bytes, dtype=torch.uint8))
        self.register_buffer("ends", torch.zeros(n, dtype=torch.int64))  # of each JPEG, in bytes

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
    root = user_path(folder)
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

    ``embed``: embedding, digest and thumbnail of an image. Raises ``DataError`` when none can be read.
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
