"""Continual-GEN: one network that learns skin-lesion domains one after another, without being told which is which."""

from __future__ import annotations

from zoo.diagnoses import ISIC_2019
from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

HAM = ("AK", "BCC", "BKL", "DF", "NV", "MEL", "VASC")  # in the order of the authors' study
DEMO_DATA = "phantom:skin-domains?n=1200&size=48"

plugin = Plugin(
    name="continual-gen",
    title="Continual-GEN: continual learning of unknown domains by subnetworks and ensembles of clusters",
    summary="Diagnosis among seven of a skin lesion, by the subnetwork whose training images are most like it.",
    paper=Paper(
        title="Continual-GEN: Continual Group Ensembling for Domain-agnostic Skin Lesion Classification",
        authors=("Nourhan Bayasi", "Siyi Du", "Ghassan Hamarneh", "Rafeef Garbi"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_1",
        code="https://github.com/nourhanb/Continual-GEN",
    ),
    task="classification",
    modality="skin: dermoscopic and clinical photographs",
    inputs=(
        Input("image", "image", "colour photograph of one skin lesion", required=True),
        Input("subnetwork", "integer", "which subnetwork answers, counted from 1; by default the nearest", minimum=1),
        Input("limit", "number", "an image is out of domain where it is farther from every subnetwork than so many "
              "times what is usual for its training images", default=2.0, minimum=0.0, maximum=1000.0),
    ),
    outputs=(
        Output("probabilities", "of the classes; they add up to 1"),
        Output("subnetwork", "which one answered, counted from 1, and the domains it learned"),
        Output("ess", "distance of the image to the clusters of every subnetwork; less is nearer"),
        Output("out_of_domain", "whether the image is beyond the limit of every subnetwork"),
    ),
    model="zoo.models.continual_gen.model:ContinualGen",
    labels=HAM,
    label_names={name: ISIC_2019[name] for name in HAM},
    training="zoo.models.continual_gen.training:training",
    claim="zoo.models.continual_gen.claim:claim",
    extras=("imaging", "train"),
    weights=WeightsInfo(
        trained_on=DEMO_DATA,
        command=f'zoo train continual-gen --data "{DEMO_DATA}" --preset demo --out DIR',
        metrics={
            # zoo evaluate continual-gen --data "phantom:skin-domains?n=160&size=48&seed=50000" --split all
            "balanced accuracy with routing, 160 other phantoms of four cameras": 0.953,
            "accuracy with routing, the same phantoms": 0.950,
            # of each case's prediction, "subnetwork" and "out_of_domain" against the camera
            "answered by the subnetwork of their camera, the same phantoms": 0.988,
            "called out of domain, the same phantoms": 0.019,
        },
    ),
    phantom="phantom:skin-domains?size=48",
    licence_notes=(
        "The weights in the package were trained on procedural images only and are Apache-2.0. HAM10000 and ISIC 2019 "
        "are CC BY-NC 4.0: weights trained on them are for non-commercial use."
    ),
    departures=(
        Departure("A domain is in-distribution where its ESS is at most the threshold.",
                  "The text says exceeds, but averages distances, and takes the smallest everywhere else."),
        Departure("The threshold is twice the ESS of the domain's own validation images, at least 0.5 (selfess), or "
                  "twice the mean distance of its training images to their clusters (threshold=member).",
                  "Twice the mean of all clusters, as printed, is no distance."),
        Departure("ESS has 2 M scores, those of groups with as many clusters, in both directions; pairs=all has M x M.",
                  "Text and formula count differently."),
        Departure("Units are removed by how much more they do on errors, in standard deviations.",
                  "The score is cited, not given."),
        Departure("Subnetworks share no units and see none of each other's.",
                  "How much later ones use frozen units is not said; this way nothing is ever forgotten."),
        Departure("A subnetwork is trained for 30 more epochs after pruning.",
                  "Not stated; without it the removal of four units in five destroys it."),
        Departure("Features are reduced to 64 principal components, and covariances shrunk by 0.1.",
                  "A few KBytes of memory, as stated, exclude covariances of 2048 features."),
        Departure("Clusters have at least five images; those of a smaller one go to the nearest other.",
                  "Not stated; fewer come close to storing features, and left out they would be strangers at home."),
        Departure("An updated subnetwork keeps the clusters of its earlier domains (stats=append).",
                  "The paper overwrites them (stats=replace), so that routing forgets the earlier domain."),
        Departure("A single image is out of domain by a limit of its own: twice what is usual for training images.",
                  "The threshold of domains compares means of clusters, beyond which nearly every single image lies."),
        Departure("Where no unit is left a new domain updates the nearest subnetwork, and the decision says so.",
                  "The paper begins again with more pruning."),
        Departure("Seven classes, those of HAM10000; squamous cell carcinoma counts as AK, which holds its early form.",
                  "The paper doesn't name its classes; the authors' study has these seven."),
        Departure("Running statistics of batch norm are measured anew after each training.",
                  "Not stated; those of a pruned subnetwork lag behind its few steps."),
        Departure("Adam, ImageNet weights, and turns, flips and mild changes of colour.", "Not stated."),
    ),
)  # fmt: skip
