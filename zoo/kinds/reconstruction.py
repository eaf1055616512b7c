"""An image made of its input: less noise, more resolution, fewer measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from zoo import figure as fig
from zoo import media
from zoo.prediction import Prediction


@dataclass(kw_only=True)
class Reconstruction(Prediction):
    """``output`` beside its input, both ``[h w]`` in the same unit, and the error where ``reference`` is the truth.

    ``start``: what the input shows by itself, on the grid of the output (a zero-filled image, an upsampled one).
    ``scores``: of the output against the reference, by name. ``image``: what was read, which names the file and says
    where pixels lie; its grid is the output's, or it is of another kind (k-space) and says only the former.
    """

    kind: ClassVar[str] = "reconstruction"
    withholds: ClassVar[bool] = False  # it is an image, which is marked

    image: media.Image
    output: Float[np.ndarray, "h w"]
    start: Float[np.ndarray, "h w"]
    reference: Float[np.ndarray, "h w"] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    extra_panels: Sequence[fig.Panel] = ()

    def __post_init__(self) -> None:
        for name, array in (("start", self.start), ("reference", self.reference)):
            if array is not None and array.shape != self.output.shape:
                raise ValueError(f"the {name} is {array.shape}, the output {self.output.shape}")

    def error(self) -> Float[np.ndarray, "h w"] | None:
        """Absolute difference from the reference."""
        return None if self.reference is None else np.abs(self.output - self.reference)

    def summary(self) -> str:
        said = ", ".join(f"{name} {value:.4g}" for name, value in self.scores.items())
        size = f"{self.output.shape[0]} x {self.output.shape[1]} pixels"
        return f"{size}, {said}" if said else f"{size}, truth not known"

    def to_dict(self) -> dict[str, Any]:
        scores = {name: round(float(value), 6) for name, value in self.scores.items()}
        low, high = float(self.output.min()), float(self.output.max())
        more = {"shape": list(self.output.shape), "range": [round(low, 6), round(high, 6)], "scores": scores}
        return {**super().to_dict(), **more}

    def quantities(self) -> dict[str, Any]:
        return {**{name: round(float(v), 6) for name, v in self.scores.items()}, **super().quantities()}

    def known_panels(self) -> list[fig.Panel]:
        return [fig.Panel("input", self._grey(self.start))]

    def _grey(self, array: np.ndarray) -> np.ndarray:
        """One window for all pictures, that of the truth, else of the output."""
        of = self.output if self.reference is None else self.reference
        low, high = (float(v) for v in np.percentile(of, (0.5, 99.5)))
        return np.clip((array - low) / max(high - low, 1e-12), 0, 1)

    def panels(self) -> list[fig.Panel]:
        spacing = self.image.spacing[-1] if self.image.spacing and self.image.size == self.output.shape else None
        panels = [
            fig.Panel("input", self._grey(self.start), spacing=spacing, pixels=self.output.shape[1]),
            fig.Panel("reconstruction", self._grey(self.output)),
        ]
        error = self.error()
        if error is None or self.reference is None:
            return [*panels, *self.extra_panels]
        before = np.abs(self.start - self.reference)
        top = max(float(np.percentile(before, 99.5)), 1e-12)  # both maps on one scale
        return [
            *panels,
            fig.Panel("truth", self._grey(self.reference)),
            fig.Panel(f"error of the input, yellow is {top:.3g}", fig.heatmap(before / top)),
            fig.Panel("error of the reconstruction, same scale", fig.heatmap(error / top)),
            *self.extra_panels,
        ]

    def files(self) -> dict[str, Callable[[Path], Path]]:
        """``_output``: float32, as NIfTI where the input has a place in the patient, else TIFF."""
        return {"output": lambda path: media.write_image(path, self.output.astype(np.float32), like=self.image)}
