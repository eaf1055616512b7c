"""AViT: a frozen vision transformer with adapters and a convolutional prompt, for small sets of skin lesions."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="avit",
    title="AViT: adapting vision transformers for small skin lesion segmentation datasets",
    summary="Outline of a skin lesion, from a frozen transformer with adapters and a shallow CNN beside it.",
    paper=Paper(
        title="AViT: Adapting Vision Transformers for Small Skin Lesion Segmentation Datasets",
        authors=("Siyi Du", "Nourhan Bayasi", "Ghassan Hamarneh", "Rafeef Garbi"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_3",
        code="https://github.com/siyi-wind/AViT",
    ),
    task="segmentation",
    modality="skin: dermoscopic and clinical photographs",
    inputs=(
        Input("image", "image", "2-D colour photograph of a skin lesion", required=True),
        Input("threshold", "number", "probability from which a pixel is lesion", default=0.5, minimum=0.0, maximum=1.0),
        Input("gt", "mask", "the true lesion, of the image's size, to compare with"),
    ),
    outputs=(
        Output("mask", "lesion (1) or background (0), size of the input"),
        Output("probability", "of lesion, in [0, 1], size of the input"),
        Output("area_px", "pixels of the lesion, and its share of the image"),
        Output("bounding_box", "x0, y0, x1, y1 of the lesion, px"),
    ),
    model="zoo.models.avit.model:Avit",
    labels=("background", "lesion"),
    training="zoo.models.avit.training:training",
    claim="zoo.models.avit.claim:claim",
    converter="zoo.models.avit.released:convert",
    extras=("imaging", "backbones"),
    weights=WeightsInfo(
        trained_on="phantom:skin-lesion?n=200 (160 procedural photographs), on a tiny ViT that was pretrained on "
        "coloured shapes; no public transformer fits into the package",
        command="zoo train avit --data 'phantom:skin-lesion?n=200' --preset demo --out DIR",
        metrics={
            # zoo evaluate avit --data "phantom:skin-lesion?n=40&seed=50000" --split all
            "Dice of each image, 40 other phantoms": 0.952,
            "IoU of each image, 40 other phantoms": 0.909,
            # of the same run, dice_by_5 and iou_by_5
            "Dice of every five images' pixels, at 96 px": 0.951,
            "IoU of every five images' pixels, at 96 px": 0.907,
        },
    ),
    readings={
        "paper": "as printed, and as the authors' code where the paper is silent; the last epoch is kept; the default",
        "released": "as the authors' code: images are first brought to 512 px, and the epoch that is best on the test "
        "fold is kept, which makes that fold's numbers too good",
    },
    phantom="phantom:skin-lesion",
    licence_notes=(
        "The weights in the package were trained on procedural images only and are Apache-2.0. The authors state no "
        "licence for their trained models; the public transformers have licences of their own."
    ),
    departures=(
        Departure(
            "Adapters have a skip of their own and start silent; skip=false is as printed.",
            "The formula has none, and at random nothing of the pretrained features would be left; the authors' code "
            "has it.",
            "see the claim",
        ),
        Departure(
            "The transformer's last layer norm is trained but never applied.",
            "The text takes the last layer's output; so does the authors' code, which counts the norm all the same.",
        ),
        Departure(
            "The head has batch norm, ASPP and the prompt have dropout of 0.1, training has stochastic depth of 0.2.",
            "The paper states none; these are the authors' code's.",
        ),
        Departure(
            "Dice is of all pixels of a batch, with squares; AdamW's weight decay is 0.05.",
            "The paper states neither; both are the authors' code's.",
        ),
        Departure(
            "The last epoch is kept.",
            "The paper doesn't say; the authors' code keeps the epoch that is best on the test fold (recipe=released).",
        ),
        Departure(
            "Images are brought to 224 px at once, with antialiasing.",
            "Sec. 3 says 224 px; the authors' code takes stored images of 512 px and doesn't antialias.",
        ),
        Departure(
            "AViT without adapters still trains the layer norms.",
            "The paper's parameter count fits both, and nothing but adapters is then left out.",
        ),
    ),
)
