"""SurgicalSAM: SAM with low-rank updates and a mask for every class of instrument, and SAM as it is, by prompts."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="surgical-sam-lora",
    title="SurgicalSAM: Segment Anything for robotic surgery, adapted by low-rank updates",
    summary="Instruments on an endoscopic frame, each of its class without any prompt; or what boxes and points mark.",
    paper=Paper(
        title=("SAM Meets Robotic Surgery: An Empirical Study on Generalization, Robustness and Adaptation"),
        authors=("An Wang", "Mobarakol Islam", "Mengya Xu", "Yang Zhang", "Hongliang Ren"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_23",
    ),
    task="segmentation",
    modality="endoscopy: frames of robotic and laparoscopic surgery, colour",
    inputs=(
        Input("image", "image", "endoscopic frame in colour", required=True),
        Input(
            "mode",
            "choice",
            "auto: instruments by class, without prompts; box or point: what the prompts mark, by the plain SAM; amg: "
            "all that the plain SAM can tell apart. When not given: box or point where one is, else auto",
            choices=("auto", "box", "point", "amg"),
        ),
        Input("box", "box", "around an instrument, px of the image; each box is an instrument", many=True),
        Input("point", "point", "on an instrument, px of the image; each point is an instrument", many=True),
        Input("label", "text", "class of each box or point, in their order; numbered when not given", many=True),
    ),
    outputs=(
        Output("mask", "class of each pixel (auto), or number or class of what was marked; size of the input"),
        Output("probability", "of each class, in [0, 1] (auto); of anything marked (box, point); size of the input"),
        Output("quality", "how good the plain SAM expects each mask to be (IoU); box, point and amg"),
    ),
    model="zoo.models.surgical_sam_lora.model:SurgicalSam",
    labels=("background", "grasper", "scissors", "hook"),
    training="zoo.models.surgical_sam_lora.training:training",
    claim="zoo.models.surgical_sam_lora.claim:claim",
    operators=("masked_attention",),
    extras=("imaging", "sam"),
    weights=WeightsInfo(
        trained_on=(
            "phantom:surgical-frame?n=300 (240 procedural frames), on the zoo's small SAM, trained on phantoms too"
        ),
        command="zoo train surgical-sam-lora --data 'phantom:surgical-frame?n=300' --preset demo --out DIR",
        seconds=0,
        metrics={},
    ),
    phantom="phantom:surgical-frame",
    licence_notes="The weights in the package were trained on procedural images only and are Apache-2.0.",
)
