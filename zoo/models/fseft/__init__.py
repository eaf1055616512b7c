"""FSEFT: a frozen 3-D foundation model, a small adapter for one organ, and the size that the organ should have."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

METHODS = ("generalization", "linear-probe", "adapter", "adapter-ti", "ft-last", "ft")

plugin = Plugin(
    name="fseft",
    title="FSEFT: few-shot adapters on a frozen volumetric foundation model, with a size constraint on the query",
    summary="One organ of a CT volume; adapts to a new organ or scanner from a few annotated volumes on the spot.",
    paper=Paper(
        title=(
            "Towards Foundation Models and Few-Shot Parameter-Efficient Fine-Tuning for Volumetric Organ Segmentation"
        ),
        authors=("Julio Silva-Rodríguez", "Jose Dolz", "Ismail Ben Ayed"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        code="https://github.com/jusiro/fewshot-finetuning",
    ),
    task="segmentation",
    modality="CT volumes of the trunk, in Hounsfield units",
    inputs=(
        Input("volume", "volume", "CT volume: NIfTI, NRRD, DICOM series, or an array with spacing", required=True),
        Input(
            "organ",
            "text",
            "what to segment; by default the first organ of the weights, or that of the support",
            choices=("liver", "spleen", "kidney", "stomach", "aorta", "pancreas"),
        ),
        Input(
            "support",
            "images",
            "annotated volumes to adapt to: a folder with images/ and masks/, or pairs",
            choices=("phantom:abdominal-ct?n=1&size=32&slices=16&seed=5",),
        ),
        Input("method", "choice", "how; by default the stored adapter, and adapter-ti with a support", choices=METHODS),
        Input("adapter", "file", "an adapter that an earlier prediction saved"),
        Input("recipe", "choice", "adapt as described or as the released code does", choices=("paper", "released")),
        Input("gamma", "number", "half width of the band about the support's size, as a share", minimum=0, maximum=10),
        Input("lam", "number", "weight of the size constraint", minimum=0, maximum=1000),
        Input("epochs", "integer", "of an adaptation", minimum=1, maximum=10_000),
        Input("seed", "integer", "of an adaptation", default=0, minimum=0, maximum=2**31 - 1),
        Input("prior_size_ml", "number", "the size that the organ should have", minimum=0.001, maximum=100_000),
    ),
    outputs=(
        Output("mask", "the organ (1), on the grid of the input"),
        Output("probability", "of the organ, in [0, 1], on the grid of the input"),
        Output("volume_ml", "volume of the mask"),
        Output("prior_ml", "lowest, mean and highest volume that the support allows"),
        Output("trace", "loss and size in each epoch of an adaptation"),
        Output("adapter", "what was trained, a file below 1 MB"),
    ),
    model="zoo.models.fseft.model:Fseft",
    labels=("background", "organ"),
    training="zoo.models.fseft.training:training",
    claim="zoo.models.fseft.claim:claim",
    converter="zoo.models.fseft.training:convert",
    extras=("imaging", "train", "volumes"),
    weights=WeightsInfo(
        trained_on="phantom:abdominal-ct?n=40&size=48&slices=32 (34 procedural volumes)",
        command="zoo train fseft --data 'phantom:abdominal-ct?n=40&size=48&slices=32' --preset demo --out DIR",
        metrics={
            # zoo evaluate fseft --data "phantom:abdominal-ct?n=6&size=48&slices=32&seed=20000" --split all
            "Dice of the liver by its adapter, 6 other phantoms": 0.924,
            "Dice of the liver adapted on the spot from one volume, 8 other phantoms": 0.904,
            "Dice of the spleen by the foundation's own head (organ=spleen)": 0.953,
        },
    ),
    readings={
        "paper": "an adapter of three convolutions, Dice and cross-entropy, and a size constraint of weight 1",
        "released": "an adapter of two convolutions, Dice alone, and a constraint of weight 0.1 in steps of its own",
    },
    phantom="phantom:abdominal-ct",
    licence_notes=(
        "The authors state no licence for their code and weights. They don't come with the zoo: "
        "zoo convert fseft FILE makes the weights loadable."
    ),
    departures=(
        Departure(
            "The adapter is three convolutions with batch normalisation and a skip: 186,961 parameters with its head.",
            "The text describes it so; the 209.6 K of its table are the decoder's last block (block=up_block), "
            "and the released one has 124,465 (block=resblock).",
        ),
        Departure(
            "The size constraint is divided by the expected size.",
            "In voxels, a weight of 1 would drown a Dice loss in [0, 1]; adaptation.error=voxels is as printed.",
        ),
        Departure(
            "The constraint waits until the sizes of the support itself come out within gamma.",
            "Faint probabilities all over a volume add up to more than an organ, and shrinking them shrinks the mask.",
            "see the negative trial in the notes",
        ),
        Departure(
            "Learning rates are 0.005 for the adapter and 0.05 for the probe.",
            "The paper prints 0.5, which unsettles the head; the released commands say 0.01 and 0.1.",
        ),
        Departure("gamma is 0.15.", "The paper shows a sweep and states none; the released commands say 0.3."),
        Departure(
            "The support's loss is Dice and cross-entropy, and the size is summed over the whole query.",
            "The paper names one loss in each of two places, and does not say how a size comes from patches.",
        ),
        Departure(
            "The new logit begins with a bias of -4; running statistics are taken again after the last step.",
            "An organ is about a hundredth of a volume; six patches a step leave poor running means.",
        ),
        Departure(
            "Pretraining turns patches in the axial plane, one in ten.", "The paper says rotations of 90 degrees."
        ),
    ),
)
