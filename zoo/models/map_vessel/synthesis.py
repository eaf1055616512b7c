"""Pseudo-modalities (Sec. 2.2): latent images of networks that were trained alike from different seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.ndimage import binary_dilation
from torch import Tensor, nn

from zoo.models.map_vessel.data import Source, crops
from zoo.models.map_vessel.model import ResidualUNet
from zoo.nn.losses import dice_ce
from zoo.training import Run


@dataclass(frozen=True)
class SynthesisRecipe:
    """Training of the networks f^1, f^2, f^3. The paper takes ready-made ones (Sec. 2.2) and states none of these."""

    channels: tuple[int, ...] = field(default=(8, 32, 32, 64, 64, 16), metadata={"min": 1, "max": 4096})  # as in g
    epochs: int = field(default=50, metadata={"min": 1, "max": 1_000_000})
    lr: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})
    max_correlation: float = field(default=0.9, metadata={"min": 0.0, "max": 1.0})
    """Two latent images that correlate more than this, in absolute value, count as one style."""
    attempts: int = field(default=3, metadata={"min": 1, "max": 1000})
    """Networks trained for one pseudo-modality before the least similar of them is taken."""
    polarity: Literal["bright", "any"] = "bright"
    """``bright``: latent images with dark vessels are turned, because mixtures of both kinds lose the vessels that they
    should keep (Sec. 2.3); ``any``: left as they come."""
    batch_size: int = field(default=10, metadata={"min": 1, "max": 65_536})  # as for g
    crops_per_image: int = field(default=20, metadata={"min": 1, "max": 10_000})  # per epoch


class SynthesisNetwork(nn.Module):
    """f = (f_e, f_d), each a residual U-Net: photograph to latent image of its own size, and from that to vessels."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.encoder = ResidualUNet(3, 1, channels)  # f_e
        self.decoder = ResidualUNet(1, 2, channels)  # f_d

    def latent_image(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
        """x^k, in [0, 1]. Nothing supervises its looks: they differ from seed to seed."""
        return self.encoder(rgb)[0].sigmoid()

    def forward(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2 h w"]:
        return self.decoder(self.latent_image(rgb))[0]


def add_pseudo_modalities(sources: list[Source], recipe: SynthesisRecipe, crop: int, run: Run) -> list[Source]:
    """Train f^1..f^3 on squares of ``crop`` px of the sources, freeze them, and put D^1..D^3 beside D^0."""
    sample = sources[:: max(1, len(sources) // 8)]  # enough to tell two styles apart
    accepted: list[SynthesisNetwork] = []
    for k in (1, 2, 3):
        tries: list[tuple[float, SynthesisNetwork]] = []
        for attempt in range(1, recipe.attempts + 1):
            f = _train_synthesis(f"synthesis-{k}.{attempt}", sources, recipe, crop, run)
            tries.append((max((_likeness(f, other, sample) for other in accepted), default=0.0), f))
            if tries[-1][0] <= recipe.max_correlation:
                break
        accepted.append(min(tries, key=lambda item: item[0])[1])
    turned = [recipe.polarity == "bright" and vessel_contrast(f, sample) < 0 for f in accepted]
    styled = []
    for source in sources:
        latent = [synthesise(f, source.rgb) for f in accepted]
        views = [1 - x if dark else x for x, dark in zip(latent, turned, strict=True)]
        styled.append(replace(source, grey=np.stack([source.grey[0], *views])))
    return styled


def _train_synthesis(
    stage: str, sources: list[Source], recipe: SynthesisRecipe, crop: int, run: Run
) -> SynthesisNetwork:
    run.stage(stage)
    f = SynthesisNetwork(recipe.channels).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    f, adam = run.track(f=f, adam=torch.optim.Adam(f.parameters(), lr=recipe.lr))
    batch = min(recipe.batch_size, len(sources))
    steps = recipe.epochs * max(1, len(sources) * recipe.crops_per_image // batch)
    for step in run.steps(steps, description=stage):
        index = run.indices(len(sources), batch, step, key=stage)
        rng = run.generator(stage, step, run.accelerator.process_index)
        x, y = crops(sources, index, crop, rng, colour=True)
        loss = dice_ce(f(x.to(run.device)), y.to(run.device))
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
    return run.unwrap(f).eval().requires_grad_(False)


@torch.inference_mode()
def synthesise(f: SynthesisNetwork, rgb: Float[np.ndarray, "3 h w"]) -> Float[np.ndarray, "h w"]:
    """The latent image of one photograph, min-max to [0, 1], of either polarity."""
    h, w = rgb.shape[1:]
    stride = f.encoder.stride
    x = torch.from_numpy(np.ascontiguousarray(rgb))[None].to(next(f.parameters()).device)
    x = F.pad(x, (0, -w % stride, 0, -h % stride))
    latent = f.latent_image(x)[0, 0, :h, :w]
    low, high = latent.min(), latent.max()
    return ((latent - low) / (high - low).clamp_min(1e-6)).cpu().numpy()


def _likeness(f: SynthesisNetwork, other: SynthesisNetwork, sources: Sequence[Source]) -> float:
    """Mean absolute correlation of two networks' latent images; a style and its negative count as alike."""
    pairs = ((synthesise(f, source.rgb).ravel(), synthesise(other, source.rgb).ravel()) for source in sources)
    return float(np.mean([abs(np.corrcoef(a, b)[0, 1]) for a, b in pairs]))


def vessel_contrast(f: SynthesisNetwork, sources: Sequence[Source]) -> float:
    """Mean difference of vessels and their surround, 5 px wide, in latent images; below 0: vessels are dark."""
    differences = []
    for source in sources:
        latent, vessel = synthesise(f, source.rgb), source.mask > 0
        around = binary_dilation(vessel, iterations=5) & ~vessel
        if vessel.any() and around.any():
            differences.append(latent[vessel].mean() - latent[around].mean())
    return float(np.mean(differences)) if differences else 0.0
