"""My model: the card, read without importing torch."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo

DEMO_DATA = "phantom:my-model?n=40&seed=0"

plugin = Plugin(
    name="my-model",
    title="My model: an organ in a volume",
    summary="Mask of a bright, roundish organ in a volume, with its size in ml.",
    paper=Paper(
        title="The title of the paper",
        authors=("First Author", "Second Author"),
        workshop="Where it appeared",
        year=2025,
    ),
    task="segmentation",
    modality="any: volumes",
    inputs=(
        Input(
            "volume", "volume", "volume with one bright organ: NIfTI, NRRD, DICOM series, or an array", required=True
        ),
        Input("threshold", "number", "probability from which a voxel is organ", default=0.5, minimum=0.0, maximum=1.0),
    ),
    outputs=(
        Output("mask", "organ (1) or background (0), on the grid of the input"),
        Output("probability", "of organ, in [0, 1], on the grid of the input"),
    ),
    labels=("background", "organ"),
    model="my_model.model:MyModel",
    training="my_model.training:training",
    claim="my_model.claim:claim",
    weights=WeightsInfo(
        trained_on=DEMO_DATA,
        command=f'zoo train my-model --data "{DEMO_DATA}" --preset demo --out runs/demo',
        metrics={"dice": 0.87},  # on phantom:my-model?n=20&seed=1000
    ),
    phantom="phantom:my-model",
)
