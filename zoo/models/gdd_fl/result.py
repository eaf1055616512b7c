"""What a prediction shows: the probability, whether it may be believed as one, and the images behind it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from zoo import figure as fig
from zoo.figure import plots
from zoo.prediction import Classification
from zoo.storage import write_file

UNCALIBRATED = (
    "not calibrated: the network was trained on synthetic classes of equal size, so its score ranks images and is no "
    "probability; no diagnosis is stated"
)
Shown = Mapping[tuple[int, int], UInt8[np.ndarray, "s s 3"]]
MOST_COLUMNS = 10


@dataclass(kw_only=True)
class SyntheticClassification(Classification):
    """Class probabilities of a network that was trained on synthetic images.

    ``calibrated``: whether they were fitted to validation images; otherwise they only rank, and ``label`` is None.
    ``synthetic``: of the images that the network was trained on, one for each (client, class).
    """

    calibrated: bool = False
    synthetic: Shown = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.calibrated:
            self.notes = (*self.notes, UNCALIBRATED)

    @property
    def label(self) -> str | None:
        return super().label if self.calibrated else None

    def summary(self) -> str:
        if self.calibrated:
            return super().summary()
        last = list(self.probabilities)[-1]
        return f"score of {self.spelled(last)} {self.probabilities[last]:.3f} (ranks images only: not calibrated)"

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "calibrated": self.calibrated}

    def panels(self) -> list[fig.Panel]:
        what = "probabilities" if self.calibrated else "scores (not calibrated)"
        panels = [fig.Panel("input", self.image.thumbnail(fig.PANEL_SIDE)), fig.Panel(what, self.bars())]
        if self.synthetic:
            panels.append(fig.Panel("trained on these: one synthetic image per client and class", self._grid()))
        return [*panels, *self.extra_panels]

    def _grid(self) -> Any:
        names = [self.spelled(label) for label in self.probabilities]
        return grid(self.synthetic, names)


def grid(some: Shown, names: Sequence[str]) -> Any:
    """A column for each client and a row for each class (Fig. 2); a class that a client lacks stays grey."""
    clients = sorted({client for client, _ in some})[:MOST_COLUMNS]
    side = next(iter(some.values())).shape[0]
    lacking = np.full((side, side, 3), 225, np.uint8)
    tiles = [
        fig.Tile(some.get((client, k), lacking), (f"client {client}", name if (client, k) in some else "sent none"))
        for k, name in enumerate(names)
        for client in clients
    ]
    return fig.tiles(tiles, columns=len(clients))


# ---- arms of a federation --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """What one way of training the server's network came to. ``up`` and ``down``: bytes of all clients and rounds."""

    method: str
    auc: float  # on the test images; NaN where there are none of both classes
    up: int
    down: int
    rounds: int
    images: int  # that the server's network was trained on
    lr: float = math.nan  # of the distilled pixels

    @property
    def bytes(self) -> int:
        return self.up + self.down


ARM_NAMES = {
    "gdd": "GDD", "dm": "DM", "dm-doubled": "DM, loss doubled", "random": "random real images", "fedavg": "FedAvg",
    "full": "all real images",
}  # fmt: skip
_MARKS = {"gdd": "o", "dm": "s", "dm-doubled": "D", "random": "^", "fedavg": "P"}


def save_arms(arms: Sequence[Arm], network_bytes: int, out: Path) -> list[Path]:
    """``comparison.json`` and ``comparison.png``: AUC against the bytes that went over the wire."""
    rows = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(arm).items()}
            for arm in arms]  # fmt: skip
    record = {"arms": rows, "fedavg_bytes_per_client_and_round": 2 * network_bytes}
    written = [write_file(out / "comparison.json", json.dumps(record, indent=1) + "\n")]
    if any(math.isfinite(arm.auc) and arm.method != "full" for arm in arms):
        written.append(write_file(out / "comparison.png", arms_figure(arms)))
    return written


def arms_figure(arms: Sequence[Arm]) -> bytes:
    """A point for each arm; all real images, which nobody may send, are a line."""
    drawing, axes = plots.canvas("the figure of a comparison", size=(7.4, 4.2))
    axis = axes[0, 0]
    sent = [arm for arm in arms if arm.method != "full" and math.isfinite(arm.auc)]
    sets = [
        plots.Points(f"{ARM_NAMES[arm.method]} ({arm.auc:.2f})", [(arm.bytes, arm.auc)],
                     plots.INKS[i % len(plots.INKS)], _MARKS.get(arm.method, "o"), 80)
        for i, arm in enumerate(sent)
    ]  # fmt: skip
    for arm in arms:
        if arm.method == "full" and math.isfinite(arm.auc):
            plots.lines(axis, [], level=arm.auc, target=f"{ARM_NAMES['full']}, pooled ({arm.auc:.2f})")
    low = math.floor(math.log10(min(arm.bytes for arm in sent)))
    high = math.log10(max(arm.bytes for arm in sent))
    decades = range(low, max(math.ceil(high), low + 1) + 1)
    axis.set_xscale("log")
    axis.set_xticks([10.0**k for k in decades], [_spelled(k) for k in decades])
    axis.minorticks_off()
    aucs = [arm.auc for arm in arms if math.isfinite(arm.auc)]
    plots.scatter(
        axis, sets, title="AUC on test images against what was sent", x="sent by all clients in all rounds, both ways",
        y="AUC", xlim=(10.0 ** decades[0], 10.0 ** decades[-1]), ylim=(min(0.45, min(aucs) - 0.03), 1.0),
        legend="outside",
    )  # fmt: skip
    return plots.png(drawing)


def _spelled(decade: int) -> str:
    """10^3 bytes as 1 kB."""
    unit, rest = min(decade // 3, 4), decade - 3 * min(decade // 3, 4)
    return f"{10**rest} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}"
