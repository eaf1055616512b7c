"""The reconstruction beside the truth, five-fold errors, and the searched cell as a graph."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float
from PIL import Image as PILImage
from PIL import ImageDraw

from zoo import figure as fig
from zoo.errors import MissingExtraError
from zoo.kinds import Reconstruction
from zoo.models.fedautomri.cell import EDGES
from zoo.storage import write_file

MAGNIFIED = 5  # errors in the figure, as in the paper's Fig. 3
KERNEL = 11  # px of SSIM's window


@dataclass(kw_only=True)
class MRReconstruction(Reconstruction):
    """``parts``: real and imaginary part of all slices; ``output`` is the magnitude of the one at ``place``.

    ``sampled``: the samples that were measured. ``steps``: magnitudes of the iterations of that slice.
    """

    parts: Float[np.ndarray, "z h w 2"]
    sampled: Bool[np.ndarray, "h w"]
    place: int = 0
    genotype: tuple[tuple[str, ...], ...] = ()
    steps: Float[np.ndarray, "j h w"] | None = None

    @property
    def complex(self) -> Complex[np.ndarray, "z h w"]:
        """The slices as complex images."""
        return (self.parts[..., 0] + 1j * self.parts[..., 1]).astype(np.complex64)

    def picture_rows(self) -> list[tuple[str, list[fig.Panel]]]:
        """Rows: images, then errors of both and the cell (the paper's Fig. 3), then the iterations."""
        truth, width = self.reference, self.output.shape[1]
        first = [] if truth is None else [fig.Panel("truth", self._grey(truth))]
        first += [
            fig.Panel("zero-filled", self._grey(self.start), pixels=width),
            fig.Panel("reconstruction", self._grey(self.output)),
        ]
        second = [fig.Panel("the cell", cell_picture(self.genotype))] if self.genotype else []
        second.append(fig.Panel("lines that were measured", self.sampled.astype(np.float32)))
        if truth is not None:
            top = max(float(truth.max()), 1e-12)
            errors = [np.abs(one - truth) * MAGNIFIED / top for one in (self.start, self.output)]
            second = [
                second[0],
                fig.Panel(f"|error| of zero-filled, x {MAGNIFIED}", fig.heatmap(errors[0])),
                fig.Panel(f"|error| of the reconstruction, x {MAGNIFIED}", fig.heatmap(errors[1])),
                fig.Panel("colours of the errors", colour_bar(top / MAGNIFIED)),
            ]
            first.append(fig.Panel("lines that were measured", self.sampled.astype(np.float32)))
        third = [] if self.steps is None else [
            fig.Panel(f"iteration {j}", self._grey(one)) for j, one in enumerate(self.steps, start=1)
        ]  # fmt: skip
        return [("", row) for row in (first, second, third) if row]

    def panels(self) -> list[fig.Panel]:
        return [panel for _, row in self.picture_rows() for panel in row]

    def figure(self) -> PILImage.Image:
        """In rows."""
        return fig.rows(self.picture_rows(), legend=self.legend(), title=self.title, footer=self.footer)

    def to_dict(self) -> dict[str, object]:
        sampled = float(self.sampled.mean())
        cell = [list(edge) for edge in self.genotype]
        return {**super().to_dict(), "slices": len(self.parts), "slice": self.place, "sampled": sampled, "cell": cell}

    def files(self) -> dict[str, Callable[[Path], Path]]:
        """``_complex.npy``: complex64 ``[z h w]``, beside the magnitude of the slice that is shown."""
        return {**super().files(), "complex": self._write_complex}

    def _write_complex(self, path: Path) -> Path:
        stream = io.BytesIO()
        np.save(stream, self.complex, allow_pickle=False)
        return write_file(path.with_name(path.name + ".npy"), stream.getvalue())


def quality(
    found: Float[np.ndarray, "z h w"], start: Float[np.ndarray, "z h w"], truth: Float[np.ndarray, "z h w"] | None
) -> dict[str, float]:
    """PSNR and SSIM of magnitudes by torchmetrics, of the zero-filled image too: peak of each true slice, mean over
    slices; slices smaller than SSIM's window have none, and those whose truth is empty are left out."""
    if truth is None:
        return {}
    try:
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
    except ImportError:
        raise MissingExtraError("PSNR and SSIM", "torchmetrics", "train") from None
    rows: dict[str, list[float]] = {}
    for z, true in enumerate(truth):
        peak = float(true.max())
        if peak <= 0:
            continue
        for name, image in (("", found[z]), (" zero-filled", start[z])):
            x, y = (torch.from_numpy(np.ascontiguousarray(one, np.float32))[None, None] for one in (image, true))
            psnr = float(peak_signal_noise_ratio(x, y, data_range=peak))
            rows.setdefault(f"psnr{name}", []).append(min(psnr, 200.0))  # an exact one is infinite
            if min(true.shape) >= KERNEL:
                ssim: Any = structural_similarity_index_measure(x, y, data_range=peak)
                rows.setdefault(f"ssim{name}", []).append(float(ssim))
    return {name: float(np.mean(values)) for name, values in rows.items()}


def cell_picture(genotype: Sequence[Sequence[str]], side: int = fig.PANEL_SIDE) -> PILImage.Image:
    """The nodes from above to below, their edges, and beside them what each edge does."""
    picture = PILImage.new("RGB", (side, side), "white")
    pairs = next(edges for edges in EDGES.values() if len(edges) == len(genotype))
    few = len(pairs) < 4
    draw, font, small = ImageDraw.Draw(picture), fig.font(side // 18), fig.font(side // (18 if few else 27))
    nodes, r, ink = pairs[-1][1] + 1, side // 18, (40, 40, 40)
    at = [(0.24 * side, (0.1 + 0.8 * node / (nodes - 1)) * side) for node in range(nodes)]
    for a, b in pairs:
        (x, y), (_, end) = at[a], at[b]
        bow = x - (b - a - 1) * 0.2 * side / max(1, nodes - 2)
        turns = np.linspace(0, np.pi, 25)
        draw.line([(x + (bow - x) * np.sin(s), y + (end - y) * (1 - np.cos(s)) / 2) for s in turns], fill=ink, width=2)
    for node, (x, y) in enumerate(at):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fig.colour(1 + node), outline=ink, width=2)
        draw.text((x, y), f"P{node}", fill="black", font=font, anchor="mm")
    for place, ((a, b), edge) in enumerate(zip(pairs, genotype, strict=True)):
        y = (place + 0.5) / len(pairs) * side
        told = f"P{a} to P{b}\n" + (" +\n" if few else " + ").join(edge)
        draw.multiline_text((0.36 * side, y), told, fill=ink, font=small, anchor="lm", spacing=4)
    return picture


def colour_bar(top: float, side: int = fig.PANEL_SIDE) -> PILImage.Image:
    """The colours of an error map from 0 to ``top``, below to above, with their numbers."""
    picture = PILImage.new("RGB", (side, side), "white")
    ramp = np.repeat(np.linspace(1, 0, side - side // 5)[:, None], side // 6, 1)
    picture.paste(fig.heatmap(ramp), (side // 6, side // 10))
    draw, font = ImageDraw.Draw(picture), fig.font(side // 16)
    for share in (0.0, 0.5, 1.0):
        y = side // 10 + (1 - share) * (side - side // 5)
        draw.text((side * 0.4, y), f"{share * top:.2g}", fill=(40, 40, 40), font=font, anchor="lm")
    return picture
