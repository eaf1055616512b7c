"""SurgicalSAM: SAM with low-rank updates and a mask for every class of instrument, and SAM as it is, by prompts."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

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
            "phantom:surgical-frame?n=300&rings=true (240 frames whose instruments bear rings of their kind's "
            "colour), on the small SAM, trained on phantoms too"
        ),
        command="zoo train surgical-sam-lora --data 'phantom:surgical-frame?n=300&rings=true' --preset demo --out DIR",
        seconds=289,  # of one core
        metrics={
            # zoo evaluate surgical-sam-lora --data "phantom:surgical-frame?n=40&seed=20000&rings=true" --split all
            "instrument IoU, 40 other phantoms": 0.712,
            "binary IoU, 40 other phantoms": 0.752,
            # without rings=true, with --with mode=box and --with mode=point, for which nothing was trained
            "instrument IoU, boxes given": 0.782,
            "instrument IoU, points given": 0.681,
        },
    ),
    phantom="phantom:surgical-frame?rings=true",
    departures=(
        Departure(
            "Updates sit on the queries and values of every layer; keys have none.",
            "The paper doesn't say which layers; this is SAMed's choice, and it gives the 18.28 MB of trained values.",
        ),
        Departure(
            "Of the prompt encoder only the embedding for no prompt is kept and trained.",
            "Without prompts nothing else of it is ever read, so nothing else could be trained.",
            "none",
        ),
        Departure(
            "After the warm-up the rate falls by SAMed's polynomial of degree 0.9; decay=exponential is a true one.",
            "The paper says exponential, and so does SAMed of its polynomial.",
        ),
        Departure(
            "Frames are squashed to the square, labels are brought to the decoder's grid by the nearest pixel.",
            "The paper says resized, and nothing of the grid; both are SAMed's way.",
        ),
        Departure(
            "Boxes for measuring are tight ones around each instrument of the masks.",
            "The authors drew theirs by hand and did not publish them.",
        ),
        Departure(
            "A point takes the mask of which SAM expects most among three; a box takes SAM's single mask.",
            "Not stated; it is the way SAM's authors advise.",
        ),
        Departure(
            "Frost is a made-up texture of ice, and glass blur swaps pixels in another order.",
            "The published photographs of frost may not be shipped; pixels are swapped many at a time.",
        ),
    ),
    licence_notes="The weights in the package were trained on procedural images only and are Apache-2.0.",
)
