"""The headline in miniature: does the network need to look around a pixel?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zoo.claims import Claim, Comparison, spending
from zoo.training import Run

from .data import METRIC, score
from .model import ChangeFinderConfig
from .phantom import draw
from .training import ChangeFinderRecipe, fit

RECIPE = ChangeFinderRecipe(network=ChangeFinderConfig(channels=8), steps=150)


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Train every arm on the same images; the mean score on images that neither has seen."""
    recipe = replace(RECIPE, steps=5) if quick else RECIPE
    first = 100_000 * (seed + 1)  # no image is shared between seeds, or between training and test
    source = [draw(first + i) for i in range(8 if quick else 60)]
    unseen = [draw(first + 1000 + i) for i in range(4 if quick else 30)]
    scores = {}
    for arm, kernel_size in (("context", 3), ("pixelwise", 1)):
        with spending(arm, examples=len(source)), Run(seed=seed, device="cpu") as arm_run:
            model = fit(replace(recipe, network=replace(recipe.network, kernel_size=kernel_size)), source, arm_run)
        scores[arm] = {METRIC: float(np.mean([score(model, case, {})[METRIC] for case in unseen]))}
    return scores


claim = Claim(
    statement="A network that looks around each pixel does better than one that sees pixels alone.",
    data="phantom:change-finder, 60 cases for training and 30 unseen ones per seed",
    arms={"context": "the method", "pixelwise": "the same network with convolutions of one pixel"},
    run="change_finder.claim:run",
    primary=Comparison(
        "context",
        "pixelwise",
        METRIC,
        margin=0.02,
        readings={
            "supported": "Looking around each pixel helps.",
            "not supported": "Single pixels do as well.",
            "inconclusive": "These seeds do not tell the two apart.",
        },
    ),
    falsified_if={"the method is not better than the baseline": (f"context vs. pixelwise, {METRIC}",)},
)
