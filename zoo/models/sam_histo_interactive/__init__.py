"""SAM with a decoder that refines locally: tumour regions of an H&E patch, click by click."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="sam-histo-interactive",
    title="SAM with a refinement decoder for interactive segmentation of histopathology",
    summary="Tumour region of an H&E patch, corrected click by click; the image is encoded once.",
    paper=Paper(
        title=(
            "Evaluation and Improvement of Segment Anything Model for Interactive Histopathology Image Segmentation"
        ),
        authors=("SeungKyu Kim", "Hyun-Jic Oh", "Seonghui Min", "Won-Ki Jeong"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_24",
        code="https://github.com/hvcl/SAM_Interactive_Histopathology",
    ),
    task="segmentation",
    modality="H&E patches: liver cancer, breast cancer in lymph nodes; 5x and 10x",
    inputs=(
        Input("image", "image", "2-D H&E patch, RGB", required=True),
        Input(
            "click",
            "click",
            "x,y,label in px of the image, in the order they were made: label 1 in the tumour, 0 outside of it",
            required=True,
            many=True,
            unless="simulate_gt",
        ),
        Input("previous", "mask", "a mask to start from, above 0 inside, of the image's size"),
        Input(
            "simulate_gt",
            "mask",
            "the true region, of the image's size: clicks are measured, and simulated ones follow",
        ),
        Input("most", "integer", "clicks of the simulated user at most", default=20, minimum=1, maximum=100),
        Input("threshold", "number", "probability above which a pixel counts", default=0.5, minimum=0.01, maximum=0.99),
    ),
    outputs=(
        Output("mask", "tumour (1) or not (0) after the last click, size of the input"),
        Output("probability", "of tumour after the last click, in [0, 1], size of the input"),
        Output("clicks", "the clicks; simulated ones with the IoU and the seconds after each, and NoC and NoF"),
    ),
    model="zoo.models.sam_histo_interactive.model:SamHistoInteractive",
    labels=("background", "tumour"),
    training="zoo.models.sam_histo_interactive.training:training",
    claim="zoo.models.sam_histo_interactive.claim:claim",
    operators=("masked_attention",),
    extras=("imaging", "sam"),
    weights=WeightsInfo(
        trained_on="phantom:he-tile?n=100&size=128 (81 procedural tiles), on the zoo's small SAM at 128 px",
        command="zoo train sam-histo-interactive --data 'phantom:he-tile?n=100&size=128' --preset demo --out DIR",
        metrics={
            # zoo evaluate sam-histo-interactive --data "phantom:he-tile?n=10&size=128&seed=20000" --split all
            "IoU after 1 click, 10 other phantoms": 0.925,
            "IoU after 5 clicks": 0.927,
            "NoC@85": 1.0,
            "NoC@90": 3.0,
        },
    ),
    phantom="phantom:he-tile",
    example=("click=60,128,1",),
    licence_notes="The paper's code is not released; the details of the decoder that it leaves open are ours.",
    departures=(
        Departure(
            "A block is two convolutions, the second to half the channels, a 1x1 convolution as shortcut, then the "
            "up-convolution.",
            "The paper states parts and halving but no order; this is the only one with a well-defined shortcut.",
        ),
        Departure(
            "The global self-attention has 8 heads, normalises first, knows positions and has no further layer.",
            "The paper says 'a global self-attention layer'; this is the lightest.",
        ),
        Departure(
            "Loss and simulated clicks live on the decoder's grid, a quarter of SAM's input.",
            "At the size of the patch they would take longer than the decoder; the paper doesn't say where they live.",
        ),
        Departure(
            "Patches are only turned and mirrored, and the embeddings of these eight views are kept.",
            "RITM's scaling, cropping and colours would need the frozen encoder at every step.",
        ),
        Departure(
            "The answer that is fed back is held within -10 and 10.",
            "A decoder without SAM's own heads gives logits that its prompt encoder has never seen.",
        ),
        Departure(
            "RITM, FocalClick and SimpleClick are not among the arms.",
            "They have code of their own; SAM zero-shot, its three fine-tunings and a control of equal size are here.",
        ),
    ),
)
