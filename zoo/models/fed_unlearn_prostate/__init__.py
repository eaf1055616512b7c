"""Federated unlearning on prostate MR: a hospital leaves, and its data are to be forgotten."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="fed-unlearn-prostate",
    title="A benchmark of federated unlearning on collaborative prostate segmentation",
    summary="The prostate on T2 MR by a network that hospitals trained together, before and after one of them is "
    "forgotten.",
    paper=Paper(
        title="Validation of Federated Unlearning on Collaborative Prostate Segmentation",
        authors=("Yann Fraboni", "Lucia Innocenti", "Michela Antonelli", "Richard Vidal", "Laetitia Kameni",
                 "Sébastien Ourselin", "Marco Lorenzi"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        code="https://github.com/Accenture/Labs-Federated-Learning/tree/FU_prostate_segmentation",
    ),
    task="segmentation",
    modality="T2-weighted prostate MR volumes",
    inputs=(
        Input("volume", "volume", "MR volume: NIfTI, MetaImage, DICOM series, or an array with spacing", required=True),
        Input("scheme", "text", "which set of weights decides; default the last stored",
              choices=("full", "scratch", "finetuning", "ifu")),
        Input("compare", "text", "sets of weights to show beside it, with commas between them, or all",
              choices=("all", "full,scratch")),
        Input("reference", "mask", "the true mask, for Dice"),
        Input("largest", "flag", "keep only the largest part; hides what forgetting does to a model", default=False),
        Input("threshold", "number", "probability above which a voxel is prostate", default=0.5, minimum=0, maximum=1),
    ),
    outputs=(
        Output("mask", "prostate (1), on the grid of the input"),
        Output("probability", "of the prostate, in [0, 1], on the grid of the input"),
        Output("volume_ml", "volume of the mask"),
        Output("scheme", "the set of weights that decided"),
        Output("dice NAME", "of each set of weights, where a reference is given"),
    ),
    model="zoo.models.fed_unlearn_prostate.model:FedUnlearnProstate",
    labels=("background", "prostate"),
    training="zoo.models.fed_unlearn_prostate.training:training",
    claim="zoo.models.fed_unlearn_prostate.claim:claim",
    extras=("imaging", "train", "volumes", "federated"),
    weights=WeightsInfo(
        trained_on="phantom:prostate-mr?n=50&size=48&slices=16 (40 procedural volumes of four centres)",
        command="zoo train fed-unlearn-prostate --data 'phantom:prostate-mr?n=50&size=48&slices=16' --preset demo "
        "--out DIR",
        metrics={
            # zoo evaluate NAME --split all --data "phantom:prostate-mr?n=20&size=48&slices=16&seed=20000"
            # and with --with scheme=full or scheme=scratch
            "Dice after forgetting centre b by IFU, 20 other phantoms of all centres": 0.678,
            "Dice after training from scratch without it, the same": 0.673,
            "Dice before forgetting it, the same": 0.873,
        },
    ),
    readings={
        "released": "AdamW in every round; volumes are cropped about their centre and padded to 320 x 320 x 16",
        "paper": "SGD in every round; volumes are resized to 320 x 320 x 16",
    },
    phantom="phantom:prostate-mr?size=48&slices=16",
    example=("compare=full,scratch",),
    licence_notes=(
        "The authors state no licence for their code and publish no weights. The weights in the package were trained "
        "on procedural images only and are Apache-2.0."
    ),
    departures=(
        Departure("The default is the authors' code: AdamW and crop or pad.", "The paper says SGD and resized, names "
                  "neither network nor normalisation, and its tables come from that code."),
        Departure("FedEraser is built as its own paper describes it, by client.", "It isn't in the authors' code for "
                  "this paper, and their other code throws the scaled update away."),
        Departure("UKD ends with training on those who remain, as in the authors' code; nothing is distilled.",
                  "The paper says the server distils on data of its own, and not which, for how long or by what loss.",
                  "recipe=paper distils on 5 % of each remaining centre; subtract=updates subtracts updates alone"),
        Departure("PGA climbs up to 100 steps; ascent=1000 is as released.", "The paper's table says 100."),
        Departure("IFU's guarantee is told with its limits.", "The coordinate-wise bound of the code is no bound on "
                  "the whole, and the one on lengths needs convex losses."),
        Departure("The packaged ifu weights equal training from scratch from a noised first model.", "At epsilon 1 and "
                  "sigma 0.025 the first of the demo's short rounds already passes IFU's budget, so it went back to "
                  "round 0.", "a larger forgetting.sigma or forgetting.epsilon goes back less far"),
        Departure("80 % of all cases train and 20 % test, drawn over all centres together.", "The paper draws them "
                  "centre by centre, which differs by a case or two."),
        Departure("Which cases had an endorectal coil is read from a list that the user gives.", "Neither the paper, "
                  "nor its code, nor a header says it."),
    ),
)  # fmt: skip
