"""MAP: retinal vessel segmentation that carries over to other cameras, diseases and modalities."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="map-vessel",
    title="MAP: domain generalization via meta-learning on anatomy-consistent pseudo-modalities",
    summary="Vessel mask of a fundus photograph, OCT or fluorescein angiogram; trained on fundus photographs alone.",
    paper=Paper(
        title="MAP: Domain Generalization via Meta-Learning on Anatomy-Consistent Pseudo-Modalities",
        authors=("Dewei Hu", "Hao Li", "Han Liu", "Xing Yao", "Jiacheng Wang", "Ipek Oguz"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_18",
        code="https://github.com/DeweiHu/MAP",
    ),
    task="segmentation",
    modality="retina: colour fundus, OCT angiography, fluorescein angiography",
    inputs=(
        Input("image", "image", "2-D retinal image: colour fundus, OCT-A or FA", required=True),
        Input(
            "modality",
            "choice",
            "what the image is; auto takes colour and dark lines for fundus, grey with bright lines for an angiogram",
            default="auto",
            choices=("auto", "fundus", "octa", "fa"),
        ),
        Input("fov_mask", "mask", "image of the same size, above 0 inside the field of view; estimated for fundus"),
        Input("threshold", "number", "probability from which a pixel is vessel", default=0.5, minimum=0.0, maximum=1.0),
        Input("tile", "integer", "segment at full resolution in overlapping tiles of this many pixels", minimum=32),
    ),
    outputs=(
        Output("mask", "vessel (1) or background (0), size of the input"),
        Output("probability", "of vessel, in [0, 1], size of the input"),
    ),
    model="zoo.models.map_vessel.model:MapVessel",
    labels=("background", "vessel"),
    training="zoo.models.map_vessel.training:training",
    claim="zoo.models.map_vessel.claim:claim",
    operators=("prototype_similarity",),  # nearest anchors while training
    extras=("imaging",),
    weights=WeightsInfo(
        trained_on="phantom:fundus (28 procedural photographs)",
        command="zoo train map-vessel --data phantom:fundus --preset demo --out DIR",
        metrics={
            # zoo evaluate map-vessel --data phantom:fundus
            "Dice, 8 held-out phantoms": 0.652,
            "sensitivity, 8 held-out phantoms": 0.557,
            "specificity, 8 held-out phantoms": 0.985,
            "AUROC, 8 held-out phantoms": 0.902,
            # the same preset with --set recipe=released; see the notes
            "Dice of the released reading, 8 held-out phantoms": 0.354,
            # python benchmarks/retina_agreement.py
            "Dice with the Sato ridge filter, sample:retina": 0.803,
            "Dice with the Frangi ridge filter, sample:retina": 0.723,
        },
    ),
    readings={
        "paper": "as printed: every step is an episode, a meta-train and a meta-test update; the default",
        "released": "as the authors' code: its network, an epoch of meta-train, then one of meta-test with frozen "
        "anchors, nine views, cross-entropy, CLAHE at native resolution, BatchNorm by the test image's own statistics",
    },
    sample="sample:retina",
    phantom="phantom:fundus",
    licence_notes="The weights in the package were trained on procedural images only and are Apache-2.0.",
    departures=(
        Departure(
            "The two steps of an episode alternate batch by batch, to first order, each with an Adam of its own.",
            "The paper gives two rates and a figure, not how the steps are coupled; the authors' code "
            "alternates epochs.",
        ),
        Departure(
            "The networks that synthesise pseudo-modalities are trained here.",
            "The paper takes ready-made ones and states nothing of their training.",
        ),
        Departure(
            "Latent images with dark vessels are turned.",
            "Nothing supervises their polarity, and mixtures of bright and dark vessels lose them.",
        ),
        Departure(
            "The vector z is the flattened deepest map, and the anchor's is not differentiated.",
            "Only a figure tells.",
        ),
        Departure(
            "Three mixtures for each image.",
            "The paper leaves M open; the authors' code has nine views.",
        ),
        Departure(
            "Crops of 256 px, 20 of each image in an epoch; eyes are scaled to DRIVE's width.",
            "Not stated; the authors' code takes 40 crops at native resolution.",
        ),
        Departure(
            "BatchNorm uses its running statistics at test time.",
            "The paper doesn't say; the authors' code never leaves training mode, so that each test image "
            "normalises itself.",
            "see the claim",
        ),
    ),
)
