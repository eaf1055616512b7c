"""My model: the card, read without importing torch."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo

DEMO_DATA = "phantom:my-model?n=80&seed=0"

plugin = Plugin(
    name="my-model",
    title="My model: an image without its noise",
    summary="The image with less noise, and its error where the truth is known.",
    paper=Paper(
        title="The title of the paper",
        authors=("First Author", "Second Author"),
        workshop="Where it appeared",
        year=2025,
    ),
    task="reconstruction",
    modality="any: grey images",
    inputs=(
        Input("image", "image", "2-D image with noise", required=True),
        Input("reference", "image", "the image without noise, of the same size, to compare with"),
    ),
    outputs=(
        Output("output", "the image with less noise, grey values in [0, 1]"),
        Output("error", "distance from the reference, where one is given"),
    ),
    model="my_model.model:MyModel",
    training="my_model.training:training",
    claim="my_model.claim:claim",
    weights=WeightsInfo(
        trained_on=DEMO_DATA,
        command=f'zoo train my-model --data "{DEMO_DATA}" --preset demo --out runs/demo',
        metrics={"gain": 0.67},  # on phantom:my-model?n=40&seed=1000
    ),
    phantom="phantom:my-model",
)
