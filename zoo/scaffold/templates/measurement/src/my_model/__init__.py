"""My model: the card, read without importing torch."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo

DEMO_DATA = "phantom:my-model?n=80&seed=0"

plugin = Plugin(
    name="my-model",
    title="My model: the diameter of a nodule, and how sure it is",
    summary="Diameter of one bright nodule with its interval.",
    paper=Paper(
        title="The title of the paper",
        authors=("First Author", "Second Author"),
        workshop="Where it appeared",
        year=2025,
    ),
    task="measurement",
    modality="any: grey images",
    inputs=(Input("image", "image", "2-D image of one nodule, brighter than its surroundings", required=True),),
    outputs=(Output("diameter", "of a disc of the nodule's area, px of the image, with an interval of 95 %"),),
    labels=("diameter",),
    model="my_model.model:MyModel",
    training="my_model.training:training",
    claim="my_model.claim:claim",
    weights=WeightsInfo(
        trained_on=DEMO_DATA,
        command=f'zoo train my-model --data "{DEMO_DATA}" --preset demo --out runs/demo',
        metrics={"closeness": 0.93},  # on phantom:my-model?n=40&seed=1000
    ),
    phantom="phantom:my-model",
)
