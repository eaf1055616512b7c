"""ConDistFL: one network for all organs, from hospitals that have each annotated one of them."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

CLASSES = ("liver", "liver tumour", "spleen", "pancreas", "pancreas tumour", "kidney", "kidney tumour")
"""In the order of the released weights."""

plugin = Plugin(
    name="condistfl",
    title="ConDistFL: conditional distillation for federated learning from partially annotated data",
    summary="Organs of the abdomen and their tumours in CT, learned from hospitals that have each annotated one organ.",
    paper=Paper(
        title="ConDistFL: Conditional Distillation for Federated Learning from Partially Annotated Data",
        authors=(
            "Pochuan Wang", "Chen Shen", "Weichung Wang", "Masahiro Oda", "Chiou-Shann Fuh", "Kensaku Mori",
            "Holger R. Roth",
        ),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        code="https://github.com/NVIDIA/NVFlare/tree/main/research/condist-fl",
    ),
    task="segmentation",
    modality="CT volumes of the abdomen, in Hounsfield units",
    inputs=(
        Input("volume", "volume", "CT volume: NIfTI, NRRD, DICOM series, or an array with spacing", required=True),
        Input("merge_tumors", "flag", "count tumours as their organ", default=False),
        Input("largest", "flag", "keep of each organ the largest part, its tumours in it; two kidneys", default=False),
    ),
    outputs=(
        Output("mask", "organs and tumours by number, on the grid of the input"),
        Output("volume_ml", "volume of each class"),
    ),
    model="zoo.models.condistfl.model:CondistFL",
    labels=("background", *CLASSES),
    training="zoo.models.condistfl.training:training",
    claim="zoo.models.condistfl.claim:claim",
    extras=("imaging", "train", "volumes", "federated"),
    weights=WeightsInfo(
        trained_on="phantom:abdominal-ct?n=150&size=48&slices=32 (90 procedural volumes on four clients)",
        command="zoo train condistfl --data 'phantom:abdominal-ct?n=150&size=48&slices=32' --preset demo --out DIR",
        metrics={
            # zoo evaluate condistfl --data "phantom:abdominal-ct?n=20&size=48&slices=32&seed=20000" --split all
            "Dice of the liver, 20 other phantoms": 0.871,
            "Dice of the spleen": 0.933,
            "Dice of the pancreas": 0.726,
            "Dice of the kidneys": 0.910,
            "Dice of tumours of the liver, in the 16 that have one": 0.188,
            "Dice of tumours of the pancreas, in the 12 that have one": 0.0,
            "Dice of tumours of the kidneys, in the 16 that have one": 0.241,
        },
    ),
    readings={
        "paper": "temperature 0.5, exact cross-entropy, an empty class costs nothing, 60 rounds of 2,000 steps",
        "released": "temperature 2, cross-entropy of probabilities, an empty class costs 1, 120 rounds of 1,000 steps",
    },
    phantom="phantom:abdominal-ct?size=48&slices=32",
    licence_notes=(
        "The authors' code is under Apache-2.0; their weights state no licence and don't come with the zoo."
    ),
    departures=(
        Departure(
            "Classes, network, clipping, weight decay and the client's momentum are the released code's.",
            "The paper says DynUNet, SGD and a cosine, and no more.",
        ),
        Departure(
            "The conditional probabilities are a softmax over the background alone.",
            "Equal to Eq. 6 without its division by a number near 0; losses.conditional=divided is as released.",
        ),
        Departure(
            "The server's momentum acts on every parameter.",
            "Newer releases of the authors' framework lose it on all that DynUNet lists twice.",
        ),
        Departure(
            "Patches are turned, scaled and blurred after they are cut out of the volume.",
            "As released it's the whole volume, which is many times the work for the same patch.",
        ),
        Departure("The last round's model is kept.", "The released code keeps the best by validation; keep=best does."),
    ),
)  # fmt: skip
