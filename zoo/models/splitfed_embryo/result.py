"""A segmentation with what crossed the link, drawn as in the paper's Fig. 3, and the curves of a training."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as PILImage

from zoo import figure as fig
from zoo.prediction import Segmentation
from zoo.storage import write_file

Maps = Float[np.ndarray, "c h w"]


class Crossing(NamedTuple):
    """Features on both ways, each as it was sent and as it arrived, and the cut at which that was."""

    up: tuple[Maps, Maps]
    down: tuple[Maps, Maps]
    split: str

    def lost(self) -> float:
        """Share of the rows with anything in them that arrived empty."""
        full = np.concatenate([np.abs(sent).max(2).ravel() > 0 for sent, _ in (self.up, self.down)])
        gone = np.concatenate([np.abs(arrived).max(2).ravel() == 0 for _, arrived in (self.up, self.down)])
        return float((full & gone).sum() / max(int(full.sum()), 1))


@dataclass(kw_only=True)
class EmbryoSegmentation(Segmentation):
    """Components of an embryo. ``clean``: the mask without loss, where packets were lost at ``rate``."""

    crossing: Crossing | None = None
    clean: UInt8[np.ndarray, "h w"] | None = None
    rate: float = 0.0
    tensors: bool = False

    def summary(self) -> str:
        text = super().summary()
        if "MJI" in self.measurements:
            text += f"; MJI {self.measurements['MJI']:.1%}"
        if self.clean is None:
            return text
        changed = self.measurements["changed_share"]
        return f"{text}; {self.rate:.0%} of packets lost, {changed:.1%} of pixels called otherwise"

    def to_dict(self) -> dict[str, Any]:
        link = {} if self.crossing is None else {"rows_lost": round(self.crossing.lost(), 4)}
        return {**super().to_dict(), "split": self.options.get("split"), **link}

    def panels(self) -> list[fig.Panel]:
        picture = self.image.thumbnail(fig.PANEL_SIDE)
        spacing = self.image.spacing[-1] if self.image.spacing else None

        def drawn(mask: np.ndarray) -> PILImage.Image:
            return fig.contour(fig.overlay(picture, mask, opacity=0.5), mask)

        panels = [fig.Panel("input", picture, spacing=spacing, pixels=self.mask.shape[1])]
        if self.clean is None:
            panels.append(fig.Panel("components", drawn(self.mask)))
        else:
            panels.append(fig.Panel("components, nothing lost", drawn(self.clean)))
            panels.append(fig.Panel(f"components, {self.rate:.0%} of packets lost", drawn(self.mask)))
        values = {n.removeprefix("jaccard_"): v for n, v in self.measurements.items() if n.startswith("jaccard_")}
        if values:
            bars = fig.bars({**values, "mean (MJI)": self.measurements["MJI"]})
            panels.append(fig.Panel("Jaccard with the reference", bars))
        return [*panels, *self.extra_panels]

    def figure(self) -> PILImage.Image:
        """Components above; below, where packets were lost, a feature map on either side of the link."""
        if self.crossing is None or self.clean is None:
            return super().figure()
        parts = [("", self.panels()), (f"on the link, {self.crossing.split} cut", self.link_panels())]
        return fig.rows(parts, legend=self.legend(), title=self.title, footer=self.footer)

    def link_panels(self) -> list[fig.Panel]:
        """The liveliest map up and the liveliest down, as sent and as arrived: rows that were lost are black."""
        assert self.crossing is not None
        panels = []
        ways = (("client sends", "server gets", self.crossing.up), ("server sends", "client gets", self.crossing.down))
        for sends, gets, (sent, arrived) in ways:
            channel = int(sent.std((1, 2)).argmax())
            low, high = float(sent[channel].min()), max(float(sent[channel].max()), 1e-12)
            size = "x".join(map(str, sent.shape))
            for name, maps in ((f"{sends} {size}: channel {channel}", sent), (gets, arrived)):
                shown = np.array(fig.heatmap((maps[channel] - low) / max(high - low, 1e-12)))
                gone = (np.abs(maps[channel]).max(1) == 0) & (np.abs(sent[channel]).max(1) > 0)
                shown[gone] = 0
                if maps is arrived:
                    name = f"{gets}: {int(gone.sum())} of {len(gone)} rows lost"
                big = PILImage.fromarray(shown).resize((fig.PANEL_SIDE,) * 2, PILImage.Resampling.NEAREST)
                panels.append(fig.Panel(name, big))
        return panels

    def files(self) -> dict[str, Callable[[Path], Path]]:
        """With ``link_tensors`` also ``_link.npz``: ``up_sent``, ``up_arrived``, ``down_sent``, ``down_arrived``."""
        return {**super().files(), **({"link": self._write_link} if self.tensors else {})}

    def _write_link(self, path: Path) -> Path:
        assert self.crossing is not None
        stream = io.BytesIO()
        (up, up_there), (down, down_there), _ = self.crossing
        np.savez_compressed(stream, up_sent=up, up_arrived=up_there, down_sent=down, down_arrived=down_there)
        return write_file(path.with_name(path.name + ".npz"), stream.getvalue())


def loss_curves(rates: Sequence[float], curves: Mapping[str, Sequence[float]], trained: str) -> bytes:
    """MJI of one network over the loss of its test pass, at either cut, as a PNG."""
    from zoo.figure import plots

    some = [
        plots.Line(f"{split} cut" + (" (trained)" if split == trained else ""), list(rates), list(values), marker="o")
        for split, values in curves.items()
    ]
    drawing, axes = plots.canvas("the figures of a training", size=(6.0, 4.0))
    plots.lines(axes[0, 0], some, title="Mean Jaccard index over the loss of the test pass", x="packets lost",
                y="MJI", ylim=(0, 1), legend="lower left")  # fmt: skip
    return plots.png(drawing)
