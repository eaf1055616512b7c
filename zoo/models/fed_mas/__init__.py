"""Federated classification with rare classes: clients far from a frozen, label-free prior count more."""

from __future__ import annotations

from zoo.diagnoses import ISIC_2019
from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="fed-mas",
    title="Fed-MAS: federated model aggregation via self-supervised priors",
    summary="Diagnosis among rare and common classes by a network that hospitals trained together without sharing "
    "images.",
    paper=Paper(
        title="Federated Model Aggregation via Self-supervised Priors for Highly Imbalanced Medical Image "
        "Classification",
        authors=("Marawan Elbatel", "Hualiang Wang", "Robert Martí", "Huazhu Fu", "Xiaomeng Li"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_32",
        code="https://github.com/xmed-lab/Fed-MAS",
    ),
    task="classification",
    modality="skin: dermoscopy; endoscopy",
    inputs=(
        Input("image", "image", "dermoscopic or endoscopic colour photograph", required=True),
        Input("ssl_distance", "flag", "also say how far the image is from the frozen prior, 0 to 4", default=False),
        Input("saliency", "flag", "also show where the evidence for the predicted class lies", default=False),
        Input("prior", "file", "weights of the prior, where the model doesn't contain them"),
    ),
    outputs=(
        Output("probabilities", "of the classes; they add up to 1"),
        Output("top", "the five most probable classes"),
        Output("group", "head, medium or tail: how often the predicted class was seen in training"),
        Output("ssl_distance", "2 - 2 cos between the network's projection and the prior's feature, if asked for"),
    ),
    model="zoo.models.fed_mas.model:FedMAS",
    labels=tuple(ISIC_2019),
    label_names=ISIC_2019,
    training="zoo.models.fed_mas.training:training",
    claim="zoo.models.fed_mas.claim:claim",
    extras=("imaging", "federated"),
    weights=WeightsInfo(
        trained_on="phantom:skin-lesion?n=500&prevalence=isic2019&size=64 (350 procedural images on 4 clients)",
        command='zoo train fed-mas --data "phantom:skin-lesion?n=500&prevalence=isic2019&size=64" --preset demo '
        "--out DIR",
        metrics={
            # zoo evaluate fed-mas --data "phantom:skin-lesion?n=160&seed=20000&size=64" --split all
            "balanced accuracy, 160 other phantoms, all diagnoses equally often": 0.619,
            "accuracy, 160 other phantoms": 0.600,
            "AUROC (macro), 160 other phantoms": 0.922,
        },
    ),
    readings={
        "paper": "Rescue factors as printed, so clients of more classes weigh more; one head; the last round.",
        "released": "Rescue factors of normalised distances, so clients of fewer classes weigh more; a second head on "
        "the projection, optimizer state kept by each client, gradients clipped at 5, best validation round; squeezed "
        "and blurred views, which the prior sees in every step.",
    },
    phantom="phantom:skin-lesion",
    licence_notes=(
        "The weights in the package were trained on procedural images only and are Apache-2.0. Public priors have "
        "licences of their own (MoCo v2's weights: CC BY-NC 4.0) and are never part of saved weights. ISIC 2019 is "
        "CC BY-NC 4.0; HyperKvasir is CC BY 4.0."
    ),
    departures=(
        Departure("Rescue factors are sums of products of distances, as printed (Eq. 3).", "The authors' code "
                  "normalises both factors first, which turns round who weighs more.", "see the claim"),
        Departure("The prior sees each image once, without augmentation, and its features are kept.", "The paper "
                  "allows features computed in advance; the authors' code computes them at every step."),
        Departure("The projector is an MLP of 512-2048-2048 without normalisation, with no classifier on it.", "The "
                  "paper says MLP; the authors' has batch normalisation and a second head.", "see the claim"),
        Departure("Batch (32), momentum, weight decay and augmentation are our choice; the optimiser begins anew each "
                  "round, and the model of the last one is kept.", "Not stated; the authors' code keeps the optimiser, "
                  "and the best round on the list that it reports.", "see the claim"),
    ),
)  # fmt: skip
