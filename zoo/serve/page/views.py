"""What the thread of the desk does for the page: previews, and answers to clicks. Torch comes with it."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from zoo import figure as fig
from zoo import media
from zoo.media.doubts import require_content
from zoo.serve.answers import expanded
from zoo.serve.pool import Pool
from zoo.serve.uploads import Asked

SIDE = 1024  # px of a preview, at most
SESSIONS = 4  # conversations that are kept


@dataclass(frozen=True)
class View:
    """A picture of an input: PNG, the size of the image itself (px), and what it shows of what was given."""

    picture: bytes
    width: int
    height: int
    note: str = ""


def preview(pool: Pool, asked: Asked) -> View:
    """The input as one picture: of a volume the middle slice, of several images the first.

    Raises ``MediaError`` for an input that can't be read.
    """
    model = pool.get(asked.model)
    found = expanded(model, asked.inputs)
    case: Any = model._read(found[0])
    note = f"the first of {len(found)} inputs" if len(found) > 1 else ""
    if not isinstance(case, media.Image):
        given = found[0] if isinstance(found[0], list) else [found[0]]
        images = [one.image for one in getattr(case, "images", ())] or given
        note = f"the first of {len(images)} images" if len(images) > 1 else ""
        case = media.read(images[0])
    require_content(case)
    height, width = case.axial(case.array).shape[1:3] if case.ndim_spatial == 3 else case.size
    note = note or ("the middle slice" if case.ndim_spatial == 3 else "")
    return View(_png(case.thumbnail(SIDE)), width, height, note)


class Sessions:
    """Conversations about images: each image is encoded once, and every click is answered by the decoder alone."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Any] = OrderedDict()

    def answer(self, pool: Pool, asked: Asked, key: str, clicks: Sequence[Sequence[float]]) -> bytes | None:
        """The mask after these clicks as a picture to lay over the input; None for a model that holds no conversation.

        Raises as ``session.click`` does.
        """
        model: Any = pool.get(asked.model)
        if not hasattr(model, "session"):
            return None
        if key not in self._held:
            (image,) = expanded(model, asked.inputs)[:1]
            self._held[key] = model.session(image)
            while len(self._held) > SESSIONS:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        session = self._held[key]
        wanted = [(float(x), float(y), float(label) == 1) for x, y, label in clicks]
        done = [(point.x, point.y, point.inside) for point in session.clicks]
        while done != wanted[: len(done)]:
            session.undo()
            done.pop()
        for x, y, inside in wanted[len(done) :]:
            session.click(x, y, int(inside))
        return _layer(session.mask) if wanted else b""


def _layer(mask: np.ndarray) -> bytes:
    """A mask [h w] as a transparent PNG: the colour of the figures' first label, with an edge that shows in grey."""
    inside = mask.astype(bool)
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[inside] = (*fig.colour(1), 110)
    layer[inside & ~core] = (0, 0, 0, 255)
    return _png(PILImage.fromarray(layer))


def mask_picture(path: Path) -> PILImage.Image | None:
    """A mask's file as a picture for people, labels in colours; None where it is no 2-D image."""
    if path.suffix != ".png":
        return None
    values = np.asarray(PILImage.open(path))
    if values.ndim != 2:
        return PILImage.open(path)
    labels = (values > 0).astype(np.uint8) if set(np.unique(values)) <= {0, 255} else values
    colours = np.array([fig.colour(int(one)) if one else (0, 0, 0) for one in range(int(labels.max()) + 1)], np.uint8)
    return PILImage.fromarray(colours[labels])


def _png(picture: PILImage.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "png", compress_level=1)
    return stream.getvalue()
