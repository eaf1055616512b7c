"""Gradient self-alignment: private training that keeps the samples whose gradient agrees with the batch."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

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
            # Its noise is secret: the same command gives other weights.
            # zoo evaluate grad-align --data "phantom:chest-xray?n=150&seed=100000&size=48" --split all
            "accuracy, 150 unseen phantoms of three classes": 0.560,
            "AUROC, 150 unseen phantoms": 0.744,
            "epsilon at delta 1e-5, for each training image": 8.0,
        },
    ),
    phantom="phantom:chest-xray",
    licence_notes="The weights in the package were trained on procedural images only and are Apache-2.0.",
    departures=(
        Departure(
            "With an epsilon, accounting is strict: noise on similarities is matched to all that one image can change.",
            "The paper counts one similarity; an image moves those of the whole batch.",
            "nothing of the filter's gain is left, see the claim",
        ),
        Departure(
            "Raw gradients are never averaged.",
            "Algorithm 1 prints the mean of raw gradients, which no noise protects.",
        ),
        Departure(
            "One draw of noise serves the batch.",
            "As the formula can be read each sample gets its own, which averages out; noise=literal_independent"
            " is that.",
        ),
        Departure(
            "Above 100,000 parameters similarities are those of clipped gradients without noise.",
            "In a long vector the noise hides every single gradient.",
        ),
        Departure(
            "Images are normalised each by itself.",
            "Statistics of the training set would leak it.",
        ),
        Departure(
            "Sigma, tau, lambda, and delta for radiographs, are our choice.",
            "Not stated.",
        ),
    ),
)
