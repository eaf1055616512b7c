"""SAM-Path: classes of tissue from SAM beside a pathology encoder, without clicks."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="sam-path",
    title="SAM-Path: a Segment Anything Model for semantic segmentation in digital pathology",
    summary="A class for every pixel of an H&E image of any size, from SAM's and a pathology encoder's features.",
    paper=Paper(
        title="SAM-Path: A Segment Anything Model for Semantic Segmentation in Digital Pathology",
        authors=(
            "Jingwei Zhang",
            "Ke Ma",
            "Saarthak Kapse",
            "Joel Saltz",
            "Maria Vakalopoulou",
            "Prateek Prasanna",
            "Dimitris Samaras",
        ),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_16",
        code="https://github.com/cvlab-stonybrook/SAMPath",
    ),
    task="segmentation",
    modality="H&E histology: tissue classes (BCSS), glands (CRAG)",
    inputs=(
        Input("image", "image", "2-D H&E image, of any size", required=True),
        Input(
            "mode",
            "choice",
            "vanilla: SAM's own masks at the points, which know no class",
            default="sam-path",
            choices=("sam-path", "vanilla"),
        ),
        Input("point", "point", "of vanilla: a place inside an object, px of the image", many=True),
        Input("drop_large", "flag", "of vanilla: leave out masks of more than half the image", default=False),
        Input(
            "overlap",
            "number",
            "of neighbouring tiles, as a share of their side",
            default=0.5,
            minimum=0.0,
            maximum=0.9,
        ),
        Input(
            "mpp",
            "number",
            "micrometres per pixel of the image; it is scaled to those of training",
            minimum=0.01,
            maximum=100.0,
        ),
    ),
    outputs=(
        Output("mask", "the class of every pixel by its number, size of the input"),
        Output("probability", "of every class, in [0, 1], size of the input"),
        Output("class_areas", "share of the image that each class takes"),
        Output("quality", "the IoU that the network expects of each class, where that was trained"),
    ),
    model="zoo.models.sam_path.model:SamPath",
    labels=("unlabelled", "stroma", "tumour", "nucleus"),
    training="zoo.models.sam_path.training:training",
    claim="zoo.models.sam_path.claim:claim",
    operators=("masked_attention",),
    extras=("imaging", "sam", "volumes"),
    weights=WeightsInfo(
        trained_on="phantom:he-tile?n=30 (19 procedural tiles), on the zoo's small SAM, trained on phantoms too",
        command="zoo train sam-path --data 'phantom:he-tile?n=30' --preset demo --out DIR",
        metrics={
            # zoo evaluate sam-path --data "phantom:he-tile?n=12&seed=20000" --split all
            "pixel accuracy in %, 12 other phantoms, pooled": 95.1,
            "Dice in %, stroma, pooled": 97.2,
            "Dice in %, tumour, pooled": 92.8,
            "Dice in %, nuclei, pooled": 93.8,
        },
    ),
    phantom="phantom:he-tile",
    departures=(
        Departure(
            "All classes are drawn in one pass by mask tokens of their own.",
            "The authors' code does so; the text can be read as one prompt and one pass for each (prompts=single).",
        ),
        Departure(
            "Pixels that nobody labelled are left out of every term of the loss.",
            "The authors' code sets their logits to 0 and counts them in Dice's denominator and the focal mean.",
        ),
        Departure(
            "Without the pathology encoder the neck is trained as it is with it; frozen_neck=true is the authors' way.",
            "Their comparison freezes the neck in one arm alone, so it measures that too.",
        ),
        Departure(
            "The default pathology encoder is DINO's ViT-S; pathology=PATH.safetensors takes HIPT's file.",
            "HIPT's weights are a PyTorch checkpoint under a licence of their own and can't be fetched as safetensors.",
        ),
        Departure(
            "Patients stay together when a validation part is drawn.",
            "The released split draws tiles, and 105 of 106 cases are then in training and validation.",
        ),
    ),
    readings={
        "paper": "SAM's neck moved behind both encoders; the loss of Eq. 3 on probabilities, summed over the classes",
        "released": "a new neck, means with a sigmoid focal term, and a map for what nobody labelled",
    },
    licence_notes=(
        "The weights in the package were trained on procedural images only and are Apache-2.0. HIPT's weights have a "
        "licence of their own; get them from its authors."
    ),
)
