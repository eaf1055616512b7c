"""UniverSeg on prostate MR: a support set of labelled slices says what is to be segmented, no weight is trained."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

DEMO_SUPPORT = "phantom:prostate-mr?n=2&seed=9000&slices=12"
"""The support set that comes with the zoo: two phantoms that no weights were trained on."""

INPUTS = (
    Input("image", "volume", "T2-weighted MR volume, or one axial slice", required=True),
    Input("support", "images", "labelled examples: a folder with images/ and masks/, a table, pairs (image, mask)",
          required=True, choices=(DEMO_SUPPORT,)),
    Input("roi", "text", "which region of the masks: a mask's name, a label's name or number; gland is all labels",
          default="gland", choices=("gland",)),
    Input("select", "choice", "how supports are chosen for a slice", default="z-weighted",
          choices=("z-weighted", "random", "all")),
    Input("pool", "choice", "agnostic: all labelled slices; inclusive: those that show the region",
          default="agnostic", choices=("agnostic", "inclusive")),
    Input("size", "integer", "supports for a slice", default=64, minimum=1, maximum=4096),
    Input("ensemble", "integer", "draws of supports that are averaged, where there are more than size", default=5,
          minimum=1, maximum=64),
    Input("seed", "integer", "of the draws", default=0, minimum=0),
    Input("threshold", "number", "probability above which a voxel is inside", default=0.5, minimum=0, maximum=1),
    Input("scaling", "choice", "what becomes 0 and 1: percentiles 0.5 and 99.5, or minimum and maximum",
          default="percentiles", choices=("percentiles", "min-max")),
    Input("z", "choice", "height of a slice: its index, or its share of the volume", default="index",
          choices=("index", "relative")),
    Input("slice", "integer", "index of a single slice in its volume, from the foot", minimum=0, maximum=100000),
    Input("tta", "flag", "average over mirrored images", default=False),
)  # fmt: skip

plugin = Plugin(
    name="universeg-prostate",
    title="UniverSeg on prostate MRI: in-context segmentation with support slices chosen by their height",
    summary="Gland or zone of the prostate on T2 MR from a handful of labelled slices or volumes, without training.",
    paper=Paper(
        title="Empirical Analysis of a Segmentation Foundation Model in Prostate Imaging",
        authors=("Heejong Kim", "Victor Ion Butoi", "Adrian V. Dalca", "Mert R. Sabuncu"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_14",
    ),
    task="segmentation",
    modality="T2-weighted prostate MR, volumes or axial slices; any 2-D task that a support set shows",
    inputs=INPUTS,
    outputs=(
        Output("mask", "region (1) or background (0), on the grid of the input"),
        Output("probability", "of the region, in [0, 1], mean over draws"),
        Output("spread", "standard deviation of the probability over draws, 0 where there is one"),
        Output("slices", "area of every slice in mm², with the supports that went with it and their weights"),
        Output("volume ml", "of the region, where the spacing is known"),
    ),
    model="zoo.models.universeg_prostate.model:UniverSegProstate",
    labels=("background", "region"),
    training="zoo.models.universeg_prostate.training:training",
    claim="zoo.models.universeg_prostate.claim:claim",
    converter="zoo.models.universeg_prostate.model:convert",
    extras=("imaging", "volumes"),
    weights=WeightsInfo(
        trained_on="phantom:prostate-mr?n=20&size=48 (zones of 14 procedural volumes), and 40 images of objects",
        command="zoo train universeg-prostate --data 'phantom:prostate-mr?n=20&size=48' --preset demo --out DIR",
        seconds=52.0,
        metrics={
            # zoo evaluate universeg-prostate --data "phantom:prostate-mr?n=6&seed=20000&slices=12" --split all
            "3-D Dice of the gland, 6 other phantoms (the gland was no task of the training)": 0.408,
            "2-D Dice there, 32 slices that show it": 0.597,
        },
    ),
    phantom="phantom:prostate-mr?slices=12",
    licence_notes=(
        "The released weights of UniverSeg (github.com/JJGO/UniverSeg) are under OpenRAIL++-M, for research only; its "
        "code is Apache-2.0. They don't come with the zoo: zoo convert universeg-prostate FILE makes them loadable."
    ),
    departures=(
        Departure(
            "Grey values between the percentiles 0.5 and 99.5 of the volume become 0 to 1; scaling=min-max: all.",
            "The paper says normalised to [0, 1]; an endorectal coil's bright spot would leave the rest dark.",
        ),
        Departure(
            "Supports are drawn without replacement, and all are used where there are no more than size.",
            "A support set is a set; the paper doesn't say.",
        ),
        Departure(
            "Slices count from the foot; the last of several draws' means is cut at 0.5.",
            "The paper's index has no direction and its five predictions no rule.",
        ),
        Departure(
            "The size-matched U-Net has the widths 8, 16, 32, 64, 128, 128.",
            "The appendix with its details is missing; these give the 1.3 M parameters that the text states.",
        ),
        Departure(
            "nnU-Net is MONAI's DynUNet with nnU-Net's recipe, whose convolutions have no biases (20.61 M parameters).",
            "The framework would bring its own command line and folders.",
        ),
        Departure(
            "A UniverSeg can be trained here, on the regions of a data set and made-up tasks.",
            "The paper uses the released weights; the demo weights need a recipe.",
        ),
    ),
)
