"""My model: the card, read without importing torch."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo

DEMO_DATA = "phantom:my-model?n=80&seed=0"

plugin = Plugin(
    name="my-model",
    title="My model: nodules that look alike lie together",
    summary="A vector for a nodule; smooth ones lie near smooth ones.",
    paper=Paper(
        title="The title of the paper",
        authors=("First Author", "Second Author"),
        workshop="Where it appeared",
        year=2025,
    ),
    task="embedding",
    modality="any: grey images",
    inputs=(Input("image", "image", "2-D image of one nodule, brighter than its surroundings", required=True),),
    outputs=(Output("vector", "of length 1; the cosine of two of them says how alike they are"),),
    labels=("smooth", "spiculated"),
    model="my_model.model:MyModel",
    training="my_model.training:training",
    claim="my_model.claim:claim",
    weights=WeightsInfo(
        trained_on=DEMO_DATA,
        command=f'zoo train my-model --data "{DEMO_DATA}" --preset demo --out runs/demo',
        metrics={"nearest_is_own": 0.97},  # on phantom:my-model?n=40&seed=1000
    ),
    phantom="phantom:my-model",
)
