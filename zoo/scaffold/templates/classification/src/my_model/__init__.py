"""My model: the card, read without importing torch."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo

DEMO_DATA = "phantom:my-model?n=80&seed=0"

plugin = Plugin(
    name="my-model",
    title="My model: telling smooth nodules from spiculated ones",
    summary="Whether the nodule in a small grey image is smooth or spiculated.",
    paper=Paper(
        title="The title of the paper",
        authors=("First Author", "Second Author"),
        workshop="Where it appeared",
        year=2025,
    ),
    task="classification",
    modality="any: grey images",
    inputs=(
        Input("image", "image", "2-D image of one nodule, brighter than its surroundings", required=True),
        Input(
            "views", "choice", "average over this many rotations by quarters", default="one", choices=("one", "four")
        ),
    ),
    outputs=(Output("probabilities", "of smooth and spiculated, in [0, 1]; they add up to 1"),),
    labels=("smooth", "spiculated"),
    model="my_model.model:MyModel",
    training="my_model.training:training",
    claim="my_model.claim:claim",
    weights=WeightsInfo(
        trained_on=DEMO_DATA,
        command=f'zoo train my-model --data "{DEMO_DATA}" --preset demo --out runs/demo',
        metrics={"accuracy": 1.0, "auroc": 1.0},  # on phantom:my-model?n=40&seed=1000
    ),
    phantom="phantom:my-model",
)
