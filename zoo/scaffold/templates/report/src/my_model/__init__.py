"""My model: the card, read without importing torch."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo

DEMO_DATA = "phantom:my-model?n=80&seed=0"

plugin = Plugin(
    name="my-model",
    title="My model: a sentence about a nodule",
    summary="One sentence on the size and the outline of a nodule.",
    paper=Paper(
        title="The title of the paper",
        authors=("First Author", "Second Author"),
        workshop="Where it appeared",
        year=2025,
    ),
    task="report",
    modality="any: grey images",
    inputs=(Input("image", "image", "2-D image of one nodule, brighter than its surroundings", required=True),),
    outputs=(
        Output("text", "a sentence on size and outline"),
        Output("findings", "probability that the nodule is large, and that it is spiculated"),
    ),
    model="my_model.model:MyModel",
    training="my_model.training:training",
    claim="my_model.claim:claim",
    weights=WeightsInfo(
        trained_on=DEMO_DATA,
        command=f'zoo train my-model --data "{DEMO_DATA}" --preset demo --out runs/demo',
        metrics={"right_words": 0.96},  # on phantom:my-model?n=40&seed=1000
    ),
    phantom="phantom:my-model",
)
