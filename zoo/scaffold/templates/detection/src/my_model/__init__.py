"""My model: the card, read without importing torch."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo

DEMO_DATA = "phantom:my-model?n=80&seed=0"

plugin = Plugin(
    name="my-model",
    title="My model: where nodules lie, and of which kind",
    summary="Boxes around smooth and spiculated nodules.",
    paper=Paper(
        title="The title of the paper",
        authors=("First Author", "Second Author"),
        workshop="Where it appeared",
        year=2025,
    ),
    task="detection",
    modality="any: grey images",
    inputs=(
        Input("image", "image", "2-D image of one nodule, brighter than its surroundings", required=True),
        Input("threshold", "number", "score from which a box is shown", default=0.5, minimum=0.0, maximum=1.0),
    ),
    outputs=(Output("boxes", "class, score in [0, 1], and corners in px of the image"),),
    labels=("smooth", "spiculated"),
    model="my_model.model:MyModel",
    training="my_model.training:training",
    claim="my_model.claim:claim",
    weights=WeightsInfo(
        trained_on=DEMO_DATA,
        command=f'zoo train my-model --data "{DEMO_DATA}" --preset demo --out runs/demo',
        metrics={"iou": 0.76},  # on phantom:my-model?n=40&seed=1000
    ),
    phantom="phantom:my-model",
)
