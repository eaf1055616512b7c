"""The headline in miniature: does the network need to look around a pixel?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zoo.claims import Claim, Comparison, spending
from zoo.metrics import segmentation_scores
from zoo.training import Run

from .model import SpotFinderConfig
from .phantom import draw
from .training import SpotFinderRecipe, fit

RECIPE = SpotFinderRecipe(network=SpotFinderConfig(channels=8), steps=250)


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Train every arm on the same images; Dice in percent on images that neither has seen."""
    recipe = replace(RECIPE, steps=5) if quick else RECIPE
    first = 100_000 * (seed + 1)  # no image is shared between seeds, or between training and test
    source = [draw(first + i) for i in range(8 if quick else 40)]
    unseen = [draw(first + 1000 + i) for i in range(2 if quick else 20)]
    scores = {}
    for arm, kernel_size in (("context", 3), ("pixelwise", 1)):
        with spending(arm, examples=len(source)), Run(seed=seed, device="cpu") as arm_run:
            model = fit(replace(recipe, network=replace(recipe.network, kernel_size=kernel_size)), source, arm_run)
        dice = [segmentation_scores(model.predict(case.image).mask, case.masks["mask"])["dice"] for case in unseen]
        scores[arm] = {"dice": 100 * float(np.mean(dice))}
    return scores


claim = Claim(
    statement="Under uneven light, a network that looks around each pixel finds lesions that single pixels can't show.",
    data="phantom:spot-finder, 40 images for training and 20 unseen ones per seed",
    arms={"context": "the method", "pixelwise": "the same network with 1 x 1 convolutions"},
    run="spot_finder.claim:run",
    primary=Comparison(
        "context",
        "pixelwise",
        "dice",
        margin=5.0,
        readings={
            "supported": "Looking around each pixel helps.",
            "not supported": "Single pixels do as well.",
            "inconclusive": "These seeds do not tell the two apart.",
        },
    ),
    falsified_if={"the method is not better than the baseline": ("context vs. pixelwise, dice",)},
)
