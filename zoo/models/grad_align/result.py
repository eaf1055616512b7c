"""What a prediction carries besides its classes: the privacy statement of the weights; and the chart of a training."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image as PILImage

from zoo import figure
from zoo.figure import plots
from zoo.models.grad_align import plugin
from zoo.prediction import Classification

Filter = Literal["none", "cs", "magnitude", "std", "cov", "random"]


@dataclass(frozen=True)
class Privacy:
    """What the training of these weights guarantees for each image it used."""

    accounting: Literal["untrained", "nonprivate", "paper", "strict"] = "untrained"
    # at the end of the training
    epsilon: float = field(default=math.inf, metadata={"min": 0.0, "max": 1e9, "infinite": True})
    delta: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    filter: Filter = "none"
    sigma: float = field(default=0.0, metadata={"min": 0.0, "max": 1e6})  # noise multiplier of the gradients
    # noise multiplier of the similarities; none: they were not private, or not used
    tau: float | None = field(default=None, metadata={"min": 0.0, "max": 1e6})
    cs_clip: float | None = field(default=None, metadata={"min": 0.0, "max": 1e3})  # lambda
    threshold: float | None = field(default=None, metadata={"min": -1.0, "max": 1.0})  # psi
    sample_rate: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})  # of the Poisson sampling
    steps: int = field(default=0, metadata={"min": 0, "max": 1_000_000_000})
    batch_cap: int | None = field(default=None, metadata={"min": 1, "max": 65_536})
    secret: bool = False  # batches and noise came from the system's randomness; whoever knows a seed can subtract them

    @property
    def guaranteed(self) -> bool:
        """Whether there is an epsilon to state."""
        return self.accounting in ("paper", "strict") and math.isfinite(self.epsilon) and self.secret

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What each step released."""
        if self.accounting == "untrained":
            return ()
        gradient = f"Gaussian on the sum of clipped gradients, noise multiplier {self.sigma:g}"
        if self.filter == "none":
            return (gradient,)
        if self.tau is None:
            return (gradient, "selection of samples without noise")
        cap = f", batches of at most {self.batch_cap}" if self.batch_cap else ""
        return (gradient, f"Gaussian on the clipped cosine similarities, noise multiplier {self.tau:g}{cap}")

    def sentence(self) -> str:
        """The statement in words; an epsilon appears only where there is one."""
        if self.accounting == "untrained":
            return "untrained weights: there is nothing to protect"
        if self.accounting != "nonprivate" and not self.secret:
            return "no privacy guarantee: the noise came from a seed that was given, so that anyone can draw it again"
        if not self.guaranteed:
            why = "the samples were selected without noise" if self.filter != "none" else "trained without accounting"
            return f"no privacy guarantee: {why}, so no epsilon is stated"
        told = f"({self.epsilon:.2f}, {self.delta:g})-differentially private"
        if self.accounting == "paper" and self.filter != "none":
            return f"{told} only by the paper's accounting, whose sensitivity argument is not proven"
        return f"{told} for each training image"

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``epsilon`` is ``None`` where nothing is guaranteed."""
        return {
            "epsilon": round(self.epsilon, 6) if self.guaranteed else None,
            "delta": self.delta if self.guaranteed else None,
            "accounting": self.accounting,
            "mechanisms": list(self.mechanisms),
            "filter": self.filter,
            "sigma": self.sigma,
            "tau": self.tau,
            "lambda": self.cs_clip,
            "psi": self.threshold,
            "sample_rate": self.sample_rate,
            "steps": self.steps,
            "statement": self.sentence(),
        }


@dataclass(kw_only=True)
class PrivateClassification(Classification):
    """Class probabilities, and what the training of the weights guarantees."""

    privacy: Privacy

    def summary(self) -> str:
        return f"{super().summary()}; {self.privacy.sentence()}"

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "privacy": self.privacy.to_dict()}

    def panels(self) -> list[figure.Panel]:
        return [
            *super().panels(),
            figure.Panel("privacy of the training images: it says nothing about the diagnosis", badge(self.privacy)),
        ]


def badge(privacy: Privacy) -> PILImage.Image:
    """The privacy statement as a picture: grey with an epsilon, for it approves of no diagnosis; orange without one."""
    proven = privacy.guaranteed and (privacy.accounting == "strict" or privacy.filter == "none")
    headline = f"epsilon {privacy.epsilon:.2f}" if privacy.guaranteed else "no guarantee"
    under = f"delta {privacy.delta:g}" if privacy.guaranteed else "no epsilon is stated"
    if privacy.guaranteed and not proven:
        under += ", not proven"
    names = {"none": "none (plain DP-SGD)", "cs": "cosine similarity", "random": "random share"}
    facts = {
        "accounting": privacy.accounting,
        "filter": names.get(privacy.filter, f"cosine similarity, {privacy.filter}"),
        "noise on gradients": f"sigma {privacy.sigma:g}",
        "noise on similarities": "none" if privacy.tau is None else f"tau {privacy.tau:g}",
        "threshold": "none" if privacy.threshold is None else f"psi {privacy.threshold:g}",
        "sampling rate": f"{privacy.sample_rate:.4f}",
        "steps": f"{privacy.steps}",
    }
    if privacy.accounting == "untrained":
        headline, under, facts = "untrained", "nothing to protect", {}
    fill, ink = ((225, 225, 225) if proven else figure.colour(1)), (0, 0, 0)
    return figure.statement(headline, under, facts, fill=fill, ink=ink)


def chart(table: Path, privacy: Privacy, length: int, target: float | None) -> bytes:
    """A PNG of a training, epochs of ``length`` steps: alignment, share kept, and epsilon with its ``target``."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("alignment")]
    columns = {name: np.array([float(row[name]) for row in rows]) for name in ("step", "alignment", "kept", "epsilon")}
    epoch = (columns["step"] // length).astype(int)
    epochs = np.unique(epoch)
    means = {name: [columns[name][epoch == e].mean() for e in epochs] for name in ("alignment", "kept")}
    drawing, axes = plots.canvas(
        "the chart of a training", 1, 3, size=(11, 3.4),
        title=f"{plugin.name}: filter {privacy.filter}, accounting {privacy.accounting}",
    )  # fmt: skip
    blue, orange, green = plots.INKS[0], plots.INKS[3], plots.INKS[2]
    look: dict[str, Any] = {"x": "epoch", "xlim": (0, epochs[-1] + 1.5)}
    title = "alignment: cosine of the step\nto the batch gradient without noise"
    line = plots.Line("", epochs + 1, means["alignment"], blue, marker="o")
    plots.lines(axes[0, 0], [line], level=0, title=title, **look)
    line = plots.Line("", epochs + 1, means["kept"], orange, marker="s")
    plots.lines(axes[0, 1], [line], title="share of the samples kept", ylim=(0, 1.02), **look)
    title = f"epsilon spent (delta {privacy.delta:g})"
    if np.isfinite(columns["epsilon"]).all():
        most = max(columns["epsilon"].max(), target or 0)
        line = plots.Line("", (columns["step"] + 1) / length, columns["epsilon"], green)
        plots.lines(axes[0, 2], [line], level=target, target="target", title=title, ylim=(0, 1.15 * most), **look)
    else:
        plots.message(axes[0, 2], "infinite:\nno guarantee", title=title)
    return plots.png(drawing, dpi=130)
