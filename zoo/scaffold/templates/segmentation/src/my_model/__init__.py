"""My model: the card, read without importing torch."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo

DEMO_DATA = "phantom:my-model?n=80&seed=0"

plugin = Plugin(
    name="my-model",
    title="My model: finding bright lesions under uneven light",
    summary="Mask of bright, roundish lesions in a grey image.",
    paper=Paper(
        title="The title of the paper",
        authors=("First Author", "Second Author"),
        workshop="Where it appeared",
        year=2025,
    ),
    task="segmentation",
    modality="any: grey images",
    inputs=(
        Input("image", "image", "2-D image with lesions brighter than their surroundings", required=True),
        Input("threshold", "number", "probability from which a pixel is lesion", default=0.5, minimum=0.0, maximum=1.0),
    ),
    outputs=(
        Output("mask", "lesion (1) or background (0), size of the input"),
        Output("probability", "of lesion, in [0, 1], size of the input"),
    ),
    labels=("background", "lesion"),
    model="my_model.model:MyModel",
    training="my_model.training:training",
    claim="my_model.claim:claim",
    weights=WeightsInfo(
        trained_on=DEMO_DATA,
        command=f'zoo train my-model --data "{DEMO_DATA}" --preset demo --out runs/demo',
        metrics={"dice": 0.912, "auroc": 0.997},  # on phantom:my-model?n=40&seed=1000
    ),
    phantom="phantom:my-model",
)
