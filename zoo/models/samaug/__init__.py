"""SAMAug: segmentation from an image that was augmented with what a frozen SAM sees in it."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="samaug",
    title="SAMAug: input augmentation with the Segment Anything Model",
    summary="Nuclei, glands or polyps, from the image and the masks that a frozen SAM finds in it on its own.",
    paper=Paper(
        title="Input Augmentation with SAM: Boosting Medical Image Segmentation with Segmentation Foundation Model",
        authors=("Yizhe Zhang", "Tao Zhou", "Shuo Wang", "Peixian Liang", "Yejia Zhang", "Danny Z. Chen"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        code="https://github.com/yizhezhang2000/SAMAug",
    ),
    task="segmentation",
    modality="H&E histology (nuclei, glands); colonoscopy (polyps)",
    inputs=(
        Input("image", "image", "2-D image, colour or grey", required=True),
        Input(
            "strategy",
            "choice",
            "aug: from the augmented image; mean: from the sum of both inputs' logits; entropy: from the input that "
            "the network is surer of; as trained when not given",
            choices=("aug", "mean", "entropy"),
        ),
        Input("priors", "file", "NAME_priors.safetensors of an earlier prediction on this image, in place of SAM"),
        Input("sam_masks", "file", "JSON of the masks that Segment Anything found in this image, in place of SAM"),
        Input("threshold", "number", "probability from which a pixel counts", default=0.5, minimum=0.0, maximum=1.0),
    ),
    outputs=(
        Output("mask", "object (1) or background (0), size of the input"),
        Output("probability", "of object, in [0, 1], size of the input"),
        Output("instances", "a number for each nucleus or gland, size of the input"),
        Output("priors", "the segmentation and the boundary prior, size of the input"),
        Output("chosen", "what the mask was made from: raw, aug or mean, and the entropy of raw and aug"),
    ),
    model="zoo.models.samaug.model:Samaug",
    labels=("background", "object"),
    training="zoo.models.samaug.training:training",
    claim="zoo.models.samaug.claim:claim",
    operators=("masked_attention",),
    extras=("imaging", "sam", "volumes"),
    weights=WeightsInfo(
        trained_on="phantom:he-tile?n=30 (24 procedural tiles), on the zoo's small SAM, trained on phantoms too",
        command="zoo train samaug --data 'phantom:he-tile?n=30' --preset demo --out DIR",
        metrics={
            # zoo evaluate samaug --data "phantom:he-tile?n=6&seed=20000" --split all
            "pixel F1 in %, 6 other phantoms": 99.7,
            "AJI in %, 6 other phantoms": 94.2,
            "object F1 in %, 6 other phantoms": 98.9,
            "object Dice in %, 6 other phantoms": 97.9,
        },
    ),
    phantom="phantom:he-tile",
    departures=(
        Departure(
            "Where masks overlap their stability is added; compose=max takes the largest.",
            "The text says that masks are drawn; the authors' code adds.",
        ),
        Departure(
            "SAM is ViT-H with thresholds of 0.5 for quality and doubles.",
            "The paper states neither; these are the authors' code's, and SAM's own leave tissue almost blank.",
        ),
        Departure(
            "Nuclei and glands are three classes: background, object, and a rim of 1 px (3 px of glands).",
            "Sec. 3.2 argues with a class for borders, and AJI needs objects; the number of classes isn't stated.",
        ),
        Departure(
            "Crops are turned and mirrored (turns=false: not).",
            "The paper states random crops alone; 30 images are few.",
        ),
        Departure(
            "Polyps are trained as HSNet's code then stood; --preset polyp-released is as the authors' own script.",
            "The paper says that HSNet's setup was not changed; the script has other rates, losses and another choice.",
        ),
        Departure(
            "Instances are connected parts of the object class, given back their rim.",
            "The paper doesn't say how pixels become objects.",
        ),
    ),
    licence_notes=(
        "The weights in the package were trained on procedural images only and are Apache-2.0. MoNuSeg is CC BY-NC-SA "
        "4.0; HSNet's authors ask for permission before commercial use of their code and weights, of which there are "
        "none here."
    ),
)
