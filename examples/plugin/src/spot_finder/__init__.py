"""Spot finder: the card, read without importing torch."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo

DEMO_DATA = "phantom:spot-finder?n=80&seed=0"

plugin = Plugin(
    name="spot-finder",
    title="Spot finder: lesions told from uneven light",
    summary="Mask of bright, roundish lesions in a grey image.",
    paper=Paper(
        title="Spot finder: lesions told from uneven light",
        authors=("Ada Example", "Ben Example"),
        workshop="Workshop on Examples",
        year=2026,
    ),
    task="segmentation",
    modality="any: grey images",
    inputs=(
        Input("image", "image", "2-D image with lesions brighter than their surroundings", required=True),
        Input("threshold", "number", "probability from which a pixel is lesion", default=0.5, minimum=0.0, maximum=1.0),
        Input("minimum_area", "integer", "lesions of fewer pixels are left out", default=0, minimum=0),
    ),
    outputs=(
        Output("mask", "lesion (1) or background (0), size of the input"),
        Output("probability", "of lesion, in [0, 1], size of the input"),
    ),
    labels=("background", "lesion"),
    model="spot_finder.model:SpotFinder",
    training="spot_finder.training:training",
    claim="spot_finder.claim:claim",
    weights=WeightsInfo(
        trained_on=DEMO_DATA,
        command=f'zoo train spot-finder --data "{DEMO_DATA}" --preset demo --out runs/demo',
        metrics={"dice": 0.912, "auroc": 0.997},  # on phantom:spot-finder?n=40&seed=1000
    ),
    phantom="phantom:spot-finder",
)
