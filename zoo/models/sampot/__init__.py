"""SAMPOT: a frozen SAM whose click climbs to where a learned score says that the mask is best."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin

plugin = Plugin(
    name="sampot",
    title="SAMPOT: evolving the click of a frozen Segment Anything by a learned score of the mask",
    summary="Left lung of a chest radiograph from one click, which is moved to where a score says the mask is best.",
    paper=Paper(
        title="Task-Driven Prompt Evolution for Foundation Models",
        authors=("Rachana Sathish", "Rahul Venkataramani", "K. S. Shriram", "Prasad Sudhakar"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_25",
    ),
    task="segmentation",
    modality="frontal chest radiographs; after training, any 2-D image with one object",
    inputs=(
        Input("image", "image", "2-D image, such as a frontal chest radiograph", required=True),
        Input("point", "point", "a click x,y inside the object, px; without it the best of a grid of clicks"),
        Input("steps", "integer", "how often the click is moved", default=50, minimum=0, maximum=1000),
        Input(
            "step_size", "number", "of Adam, px where the longer side is 1024", default=10.0, minimum=0.0, maximum=500
        ),
        Input("search", "choice", "how the click moves", default="gradient", choices=("gradient", "random")),
        Input("multistart", "integer", "clicks that start near the given one", default=1, minimum=1, maximum=64),
        Input(
            "safeguard",
            "choice",
            "overlap: keep the first mask if the last one is suspicious",
            default="none",
            choices=("none", "overlap"),
        ),
        Input(
            "grid",
            "integer",
            "clicks a side that are scored for the map and for the start",
            default=8,
            minimum=2,
            maximum=64,
        ),
        Input("gt", "mask", "the true region, of the image's size, to compare with"),
    ),
    outputs=(
        Output("mask", "object (1) or background (0) at the evolved click, size of the input"),
        Output("probability", "of the object at the evolved click, in [0, 1], size of the input"),
        Output("trajectory", "where the click went, with the score (estimated Dice) at each step"),
        Output("suspicious", "whether the mask has moved to something else than what was clicked on"),
    ),
    model="zoo.models.sampot.model:Sampot",
    labels=("background", "object"),
    training="zoo.models.sampot.training:training",
    claim="zoo.models.sampot.claim:claim",
    operators=("masked_attention",),
    extras=("imaging", "sam"),
    phantom="phantom:chest-xray",
)
