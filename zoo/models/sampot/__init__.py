"""SAMPOT: a frozen SAM whose click climbs to where a learned score says that the mask is best."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

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
        Input("steps", "integer", "how often the click is moved", default=50, minimum=0, maximum=200),
        Input(
            "step_size", "number", "of Adam, px where the longer side is 1024", default=10.0, minimum=0.0, maximum=500
        ),
        Input("search", "choice", "how the click moves", default="gradient", choices=("gradient", "random")),
        Input("multistart", "integer", "clicks that start near the given one", default=1, minimum=1, maximum=16),
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
            maximum=32,
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
    weights=WeightsInfo(
        trained_on="phantom:chest-xray?n=122 (41 procedural radiographs, left lung), on the zoo's small SAM",
        command="zoo train sampot --data 'phantom:chest-xray?n=122' --preset demo --out DIR",
        metrics={
            # zoo evaluate sampot --data "phantom:chest-xray?n=6&seed=20000" --split all --with steps=25
            "Dice at the centre, 6 other phantoms (the small SAM knows such lungs)": 0.965,
            "Dice at the evolved click": 0.964,
            "error of the expected Dice there": 0.007,
            # the least of the column validation_error of metrics/training.csv, its root
            "error of the expected Dice (RMS), 616 masks of the 28 phantoms that the epoch was chosen on": 0.037,
        },
    ),
    phantom="phantom:chest-xray",
    departures=(
        Departure(
            "The regressor has 16, 32, 64 and 128 channels, strides of 2, and a mean over places before the sigmoid.",
            "The paper says five convolutions with batch normalisation, leaky ReLU and a sigmoid.",
        ),
        Departure(
            "The sigmoid before the regressor has slope 5, and Adam an epsilon of 1e-12.",
            "The paper says 'steeper'; what is left of the gradient would drown in Adam's own epsilon.",
        ),
        Departure(
            "A step is 10 px where SAM's longer side is 1024, and there are 50 of them.",
            "The paper says 10 without a frame, and no number of steps.",
        ),
        Departure(
            "The first click counts as a step, so the score never falls below its own.",
            "The paper takes the best point of the path.",
        ),
        Departure(
            "Without a click the best of a grid starts; random search stands beside the gradient.",
            "Neither is in the paper; the claim says what the gradient adds.",
            "see the claim",
        ),
        Departure(
            "Eight masks too large and eight too small an image, their Dice spread evenly over 0.30 to 0.97.",
            "With the six of clicks they give the number of samples that the paper states; it names no levels.",
        ),
    ),
)
