"""CEmb-SAM: one promptable segmenter for several sub-groups of ultrasound images."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="cemb-sam",
    title="CEmb-SAM: Segment Anything with a condition embedding, for joint learning from heterogeneous sets",
    summary="Mask of what lies in a box on an ultrasound image, told which sub-group (such as diagnosis) it is of.",
    paper=Paper(
        title=(
            "CEmb-SAM: Segment Anything Model with Condition Embedding for Joint Learning from Heterogeneous Datasets"
        ),
        authors=("Dongik Shin", "Beomsuk Kim", "Seungjun Baek"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_27",
        code="https://github.com/DongDong500/CEmb-SAM",
    ),
    task="segmentation",
    modality="B-mode ultrasound: breast lesions, peripheral nerves",
    inputs=(
        Input("image", "image", "2-D ultrasound image, grey or RGB", required=True),
        Input("box", "box", "around the object, px of the image; each box is an object", required=True, many=True),
        Input("point", "point", "a place inside the object of the one box", many=True),
        Input("background", "point", "a place outside of it", many=True),
        Input("mask", "mask", "a rough mask of the object, above 0 inside, of the image's size"),
        Input(
            "condition",
            "text",
            "sub-group of the image, by name or number (from 0), among those the weights know; inferred when not given",
            choices=("benign", "malignant", "normal"),
        ),
        Input("threshold", "number", "probability from which a pixel counts", default=0.5, minimum=0.0, maximum=1.0),
    ),
    outputs=(
        Output("mask", "object (1) or background (0), size of the input; of several boxes all together"),
        Output("probability", "of the object, in [0, 1], size of the input"),
        Output("condition", "the sub-group that was used, and whether it was inferred"),
        Output("quality", "how good the network expects each mask to be (IoU)"),
    ),
    model="zoo.models.cemb_sam.model:CEmbSam",
    labels=("background", "object"),
    training="zoo.models.cemb_sam.training:training",
    claim="zoo.models.cemb_sam.claim:claim",
    operators=("masked_attention",),
    extras=("imaging", "sam"),
    weights=WeightsInfo(
        trained_on=(
            "phantom:ultrasound?n=400&style=both (256 procedural images of many looks), on the small SAM, "
            "which was trained on phantoms too"
        ),
        command="zoo train cemb-sam --data 'phantom:ultrasound?n=400&style=both' --preset demo --out DIR",
        seconds=180,
        metrics={
            # zoo evaluate cemb-sam --data "phantom:ultrasound?n=45&seed=20000&style=both" --split all
            "Dice in %, 30 other phantoms with a lesion": 84.5,
            "Dice in %, benign": 81.1,
            "Dice in %, malignant": 87.9,
            "pixel accuracy in %, 45 other phantoms": 99.2,
        },
    ),
    phantom="phantom:ultrasound",
    example=("box=80,104,160,157",),
    readings={
        "paper": "one embedding each for scale and shift through shared matrices without biases, 1 added to the scale",
        "released": (
            "one embedding and one MLP with biases for both, SAM fed 0 to 255 without its normalisation, bilinear soft "
            "masks, weight decay 1e-3, batch 8, the rate by plateau, the last epoch's network, logits cut at 0.5"
        ),
    },
    licence_notes=(
        "The weights in the package were trained on procedural images only and are Apache-2.0. On BUSI the sub-group "
        "is the diagnosis: results with it given assume that it is known."
    ),
    departures=(
        Departure(
            "The block starts as plain instance normalisation: 1 is added to gamma.",
            "As printed, gamma starts near 0 and the block near nothing; gamma_offset=0 is the formula.",
        ),
        Departure(
            "Features of the frozen SAM are computed at the encoder's 1024 px from the 256 px square.",
            "SAM's positions are those of a 1024 px image; the paper doesn't say how 256 px enter.",
        ),
        Departure(
            "Gamma and beta of a normalisation share their first layer, the two normalisations don't.",
            "Eq. 1 has one set of matrices; the text calls the layers independent.",
        ),
        Departure(
            "Images without a lesion train with the whole image as box and an empty mask.",
            "The paper counts BUSI's normal images and says nothing of their box.",
        ),
        Departure("Epochs (100), batch (16) and early stopping are our choice.", "Not stated."),
        Departure(
            "A sub-group that isn't told is inferred by a small head on frozen features, which may say 'not known'.",
            "The paper always knows it; on BUSI it is the diagnosis. Sub-groups without objects are never inferred.",
            "see the notes on which sub-group",
        ),
        Departure(
            "In the demo a quarter of the logits is the frozen SAM's own; how much is chosen on the validation cases.",
            "Where the decoder learnt little, SAM's own mask is the better one. Not part of the paper's preset.",
            "see the notes on the small SAM",
        ),
        Departure(
            "A mask is cut off a tenth of the box's sides beyond its box.",
            "What lies far from the box is not what was asked for. Not part of the training.",
        ),
    ),
)
