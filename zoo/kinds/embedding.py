"""A vector that stands for an image: what foundation models give, to search and to train small heads on."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from zoo import figure as fig
from zoo import media
from zoo.prediction import Prediction
from zoo.storage import write_file


@dataclass(kw_only=True)
class Embedding(Prediction):
    """``vector``: ``[d]``, finite; ``space``: the name of what it lies in, so that unlike vectors aren't compared."""

    kind: ClassVar[str] = "embedding"
    withholds: ClassVar[bool] = False  # it states nothing about the patient

    image: media.Image
    vector: Float[np.ndarray, " d"]
    space: str
    extra_panels: Sequence[fig.Panel] = ()

    def __post_init__(self) -> None:
        if self.vector.ndim != 1 or not np.isfinite(self.vector).all():
            raise ValueError("an embedding is one vector of finite numbers")

    def similarity(self, other: Embedding) -> float:
        """Cosine of the angle between two embeddings, in [-1, 1]. Raises ``ValueError`` for those of other spaces."""
        if other.space != self.space or other.vector.shape != self.vector.shape:
            raise ValueError(f"embeddings of {self.space} and {other.space} can't be compared")
        lengths = np.linalg.norm(self.vector) * np.linalg.norm(other.vector)
        return float(self.vector @ other.vector / lengths) if lengths > 0 else 0.0

    def summary(self) -> str:
        return f"{self.vector.size} numbers of {self.space}, length {np.linalg.norm(self.vector):.4g}"

    def to_dict(self) -> dict[str, Any]:
        vector = [float(f"{v:.7g}") for v in self.vector]
        return {**super().to_dict(), "space": self.space, "dimensions": int(self.vector.size), "vector": vector}

    def quantities(self) -> dict[str, Any]:
        length = round(float(np.linalg.norm(self.vector)), 6)
        return {"space": self.space, "dimensions": int(self.vector.size), "length": length, **super().quantities()}

    def known_panels(self) -> list[fig.Panel]:
        return [fig.Panel("input", self.image.thumbnail(fig.PANEL_SIDE))]

    def panels(self) -> list[fig.Panel]:
        side = int(np.ceil(np.sqrt(self.vector.size)))
        top = max(float(np.abs(self.vector).max()), 1e-12)
        cells = np.full(side * side, np.nan)
        cells[: self.vector.size] = (self.vector / top + 1) / 2
        shown = fig.heatmap(cells.reshape(side, side)).resize((fig.PANEL_SIDE,) * 2, 0)
        return [*self.known_panels(), fig.Panel(f"the vector, row by row, -{top:.3g} to {top:.3g}", shown),
                *self.extra_panels]  # fmt: skip

    def files(self) -> dict[str, Callable[[Path], Path]]:
        """``_vector.npy``: float32 ``[d]``."""
        return {"vector": self._write_vector}

    def _write_vector(self, path: Path) -> Path:
        stream = io.BytesIO()
        np.save(stream, self.vector.astype(np.float32), allow_pickle=False)
        return write_file(path.with_name(path.name + ".npy"), stream.getvalue())
