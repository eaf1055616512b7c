"""What a training may be told, and its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo import media
from zoo.data.case import Case
from zoo.data.images import label_index
from zoo.models.grad_align import plugin
from zoo.models.grad_align.accounting import Accounting
from zoo.models.grad_align.model import GradAlignConfig, prepare
from zoo.models.grad_align.result import Filter

OWN = "or name your own: --set network.labels=a,b,c"


@dataclass(frozen=True)
class GradAlignRecipe:
    """The paper's training on radiographs (Sec. 4.1, Table 1), and how much privacy it shall give."""

    network: GradAlignConfig = field(default_factory=GradAlignConfig)
    filter: Filter = "cov"
    """``none``: plain DP-SGD; ``cs``: similarity over all coordinates; ``magnitude``, ``std``, ``cov``: over those
    that vary most; ``random``: keep a random share, the control."""
    accounting: Accounting | None = None
    """``nonprivate``: similarities without noise, as in Table 1, and no guarantee; ``paper``: its accounting, which is
    not proven; ``strict``: corrected sensitivities. None: ``strict`` if ``epsilon`` is given, else ``nonprivate``."""
    epsilon: float | None = field(default=None, metadata={"min": 1e-6, "max": 50.0})
    """Training stops before it would spend more."""
    delta: float = field(default=1e-5, metadata={"min": 1e-15, "max": 0.1})  # not stated for radiographs
    sigma: float | None = field(default=None, metadata={"min": 0.0, "max": 1e6})
    """Noise multiplier of the gradients; not stated. None: such that all steps fit into ``epsilon``, else 0.8."""
    # of the similarities; not stated, fits epsilon 7.46
    tau: float = field(default=0.8, metadata={"min": 1e-6, "max": 1e6})
    cs_clip: float = field(default=0.05, metadata={"min": 1e-6, "max": 2.0})  # lambda; not stated
    threshold: float = field(default=0.0, metadata={"min": -1.0, "max": 1.0})  # psi, Table 1; -1 filters nothing
    quantile: float | None = field(default=None, metadata={"min": 0.0, "max": 1.0})
    """Instead of a threshold: drop this share of the batch. Without a guarantee only."""
    percentile: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})  # gamma, Table 1
    keep: float = field(default=0.4, metadata={"min": 0.0, "max": 1.0})  # share that filter=random keeps
    cs_on: Literal["noisy", "clipped"] | None = None
    """Similarity of the noisy gradient, as printed, or of the clipped one. None: ``clipped`` above 100,000 parameters
    and for ``strict``, which needs it."""
    noise: Literal["shared", "literal_independent"] = "shared"
    """One draw for the batch, or one per sample as the formula can be read. The latter gives no guarantee."""
    denominator: Literal["printed", "kept", "expected"] | None = None
    """Of the step; see ``zoo.ops.cosine_filter``. None: ``expected`` for ``strict``, else ``printed``."""
    clip_norm: float = field(default=1.0, metadata={"min": 1e-6, "max": 1e6})  # C, Sec. 4.1
    batch_size: int = field(default=64, metadata={"min": 1, "max": 65_536})  # L, expected, Sec. 4.1
    epochs: int = field(default=20, metadata={"min": 1, "max": 1_000_000})  # Sec. 4.1
    lr: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})  # Sec. 4.1
    momentum: float = field(default=0.1, metadata={"min": 0.0, "max": 0.999})  # Sec. 4.1
    physical_batch: int = field(default=64, metadata={"min": 1, "max": 65_536})
    """Samples that go through the network at once; changes memory, not the result."""
    gradients: Literal["each", "ghost"] = "each"
    """``each``: all per-sample gradients at once, the fastest; ``ghost``: their norms and products alone, in the memory
    of training without privacy and three passes through the network. With ``filter`` of ``none`` or ``cs``."""
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def load(cases: Sequence[Case], network: GradAlignConfig) -> tuple[Float[Tensor, "n i side side"], Int[Tensor, " n"]]:
    """Images and class numbers. Raises ``DataError`` for a label that the network doesn't have."""
    pictures = (media.read(case.image).require_2d(plugin.name) for case in cases)
    x = np.stack([prepare(picture, network.side, network.colour) for picture in pictures])
    y = [label_index(case.label, network.labels, f"case {case.id}", OWN) for case in cases]
    return torch.from_numpy(x), torch.tensor(y)
