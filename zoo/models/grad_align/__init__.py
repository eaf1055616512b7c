"""Gradient self-alignment: private training that keeps the samples whose gradient agrees with the batch."""

from __future__ import annotations

from zoo.plugin import Input, Output, Paper, Plugin, WeightsInfo

DEMO_DATA = "phantom:chest-xray?n=900&size=48"

plugin = Plugin(
    name="grad-align",
    title="Gradient self-alignment: DP-SGD with a cosine-similarity filter",
    summary="Normal, bacterial or viral pneumonia in a child's chest radiograph; trained with differential privacy.",
    paper=Paper(
        title="Gradient Self-alignment in Private Deep Learning",
        authors=("David Bani-Harouni", "Tamara T. Mueller", "Daniel Rueckert", "Georgios Kaissis"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_9",
    ),
    task="classification",
    modality="chest X-ray, paediatric, frontal",
    inputs=(Input("image", "image", "frontal chest radiograph of a child, grey or RGB", required=True),),
    outputs=(
        Output("probabilities", "of normal, bacterial and viral pneumonia, in [0, 1]; they add up to 1"),
        Output("privacy", "epsilon, delta and mechanisms of the training; no epsilon where none is guaranteed"),
    ),
    labels=("normal", "bacterial", "viral"),
    model="zoo.models.grad_align.model:GradAlign",
    training="zoo.models.grad_align.training:training",
    claim="zoo.models.grad_align.claim:claim",
    operators=("cosine_filter",),
    weights=WeightsInfo(
        trained_on=DEMO_DATA,
        command=f'zoo train grad-align --data "{DEMO_DATA}" --preset private --out DIR',
        metrics={
            # zoo evaluate grad-align --data "phantom:chest-xray?n=150&seed=100000&size=48" --split all
            "accuracy, 150 unseen phantoms of three classes": 0.520,
            "AUROC, 150 unseen phantoms": 0.731,
            "epsilon at delta 1e-5, for each training image": 8.0,
        },
    ),
    phantom="phantom:chest-xray",
    licence_notes="The weights in the package were trained on procedural images only and are Apache-2.0.",
)
