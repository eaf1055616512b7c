"""Change finder: the card, read without importing torch."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo

DEMO_DATA = "phantom:change-finder?n=120&seed=0"

plugin = Plugin(
    name="change-finder",
    title="Change finder: what is new since the image before",
    summary="Boxes around nodules that an earlier image of the same place doesn't show.",
    paper=Paper(
        title="The title of the paper",
        authors=("First Author", "Second Author"),
        workshop="Where it appeared",
        year=2025,
    ),
    task="detection",
    modality="any: grey images",
    inputs=(
        Input("current", "image", "2-D image of today", required=True),
        Input("prior", "image", "image of the same place and size before", required=True),
        Input("threshold", "number", "score from which a box is shown", default=0.5, minimum=0.0, maximum=1.0),
    ),
    outputs=(Output("boxes", "class, score in [0, 1], and corners in px of the image"),),
    labels=("new nodule",),
    model="change_finder.model:ChangeFinder",
    training="change_finder.training:training",
    claim="change_finder.claim:claim",
    weights=WeightsInfo(
        trained_on=DEMO_DATA,
        command=f'zoo train change-finder --data "{DEMO_DATA}" --preset demo --out runs/demo',
        metrics={"found": 1.0, "false": 0.0},  # on phantom:change-finder?n=40&seed=1000
    ),
    phantom="phantom:change-finder",
)
