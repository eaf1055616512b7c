"""Federated classification from synthetic images: each client distils its own once, the server trains on them alone."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="gdd-fl",
    title="GDD-FL: federated classification with generalizable dataset distillation",
    summary="Melanoma or benign by a network that saw only a few synthetic images, which each hospital made of its own "
    "and sent once.",
    paper=Paper(
        title="Communication-Efficient Federated Skin Lesion Classification with Generalizable Dataset Distillation",
        authors=("Yuchen Tian", "Jiacheng Wang", "Yueming Jin", "Liansheng Wang"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        code="https://github.com/Yearsflow/GDD-FL",
    ),
    task="classification",
    modality="skin: dermoscopy",
    inputs=(
        Input("image", "image", "dermoscopic colour photograph of one lesion", required=True),
        Input("distilled", "flag", "also show the synthetic images that the network was trained on", default=True),
    ),
    outputs=(
        Output("probabilities", "of benign and melanoma; they add up to 1, and only rank where not calibrated"),
        Output("calibrated", "whether they were fitted to real validation images; if not, no diagnosis is stated"),
        Output("synthetic", "in the figure: one synthetic image for each client and class"),
    ),
    model="zoo.models.gdd_fl.model:GDDFL",
    labels=("benign", "melanoma"),
    training="zoo.models.gdd_fl.training:training",
    claim="zoo.models.gdd_fl.claim:claim",
    extras=("imaging", "federated"),
    weights=WeightsInfo(
        trained_on="phantom:skin-lesion?n=900&size=64",
        command='zoo train gdd-fl --data "phantom:skin-lesion?n=900&size=64" --preset demo --out DIR',
        metrics={
            # zoo evaluate gdd-fl --data "phantom:skin-lesion?n=400&seed=20000&size=64" --split all; without carcinomas
            "AUROC, 293 other phantoms": 0.958,
            "balanced accuracy, 293 other phantoms": 0.892,
            "sensitivity to melanoma, 293 other phantoms": 0.870,
            "specificity, 293 other phantoms": 0.915,
        },
    ),
    readings={
        "paper": "Algorithm 1: real images are shifted before the network, which is drawn anew in each iteration; "
        "L_ST + L_U of a ConvNet's features; server ResNet-18 with batch normalisation; the default.",
        "released": "Shift after every convolution, of real and synthetic images alike, in one fixed ResNet-18 with "
        "instance normalisation; one distance of the logits of this and a plain network.",
    },
    phantom="phantom:skin-lesion",
    licence_notes=(
        "The weights in the package were trained on procedural images only and are Apache-2.0. The authors' code is "
        "GPL-3.0 and none of it is here. ISIC 2020 and 2019 are CC BY-NC 4.0. That synthetic images reveal no patient "
        "is argued in the paper and not proven: there is no differential privacy."
    ),
    departures=(
        Departure("x_hat = sigma_hat (x - mu) / sigma + mu_hat.", "The printed formula exchanges mean and deviation, "
                  "and would not give x back without a shift; the authors' code has this order.", "see the claim"),
        Departure("300 iterations, each with one batch of each class.", "The paper says 300 epochs; the authors' code "
                  "makes 300 (later 100) such steps."),
        Departure("The shift's noise is one draw for a batch, not for an image.", "Not stated. Noise of its own for "
                  "each image averages out in the mean that is matched; shift=instance has it."),
        Departure("The server makes 1,000 steps at least, with the clients' augmentation, momentum 0.9 and a cosine.",
                  "50 epochs of 20 images are 50 steps; the rest is not stated."),
        Departure("Sets are sent as bytes.", "Table 1's 2.88 MB fit nothing else; message=float32 sends four times as "
                  "much."),
        Departure("A class of fewer than two images is skipped, and nothing is sent for it.", "Not stated; the "
                  "authors' code sends the noise that it began with."),
        Departure("Of the compared methods DM, random selection, FedAvg and all data are here; DC and DSA aren't.",
                  "They match gradients, which is another algorithm."),
    ),
)  # fmt: skip
