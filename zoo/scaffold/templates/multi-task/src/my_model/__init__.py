"""My model: the card, read without importing torch."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo

DEMO_DATA = "phantom:my-model?n=80&seed=0"

plugin = Plugin(
    name="my-model",
    title="My model: the kind of a nodule, and where it lies",
    summary="Smooth or spiculated, and a mask of the nodule.",
    paper=Paper(
        title="The title of the paper",
        authors=("First Author", "Second Author"),
        workshop="Where it appeared",
        year=2025,
    ),
    task="multi-task",
    modality="any: grey images",
    inputs=(Input("image", "image", "2-D image of one nodule, brighter than its surroundings", required=True),),
    outputs=(
        Output("diagnosis", "probabilities of smooth and spiculated; they add up to 1"),
        Output("nodule", "mask of the nodule, size of the input"),
    ),
    labels=("smooth", "spiculated", "background", "nodule"),
    model="my_model.model:MyModel",
    training="my_model.training:training",
    claim="my_model.claim:claim",
    weights=WeightsInfo(
        trained_on=DEMO_DATA,
        command=f'zoo train my-model --data "{DEMO_DATA}" --preset demo --out runs/demo',
        metrics={"dice": 0.93},  # on phantom:my-model?n=40&seed=1000
    ),
    phantom="phantom:my-model",
)
