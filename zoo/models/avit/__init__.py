"""AViT: a frozen vision transformer with adapters and a convolutional prompt, for small sets of skin lesions."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin

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
    extras=("imaging", "backbones"),
    phantom="phantom:skin-lesion",
)
