"""Concept bottleneck with visual concept filtering: a diagnosis by phrases, of which only those that show are kept."""

from __future__ import annotations

from zoo.diagnoses import ISIC_2019
from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

DEMO_DATA = "phantom:skin-lesion?n=600&size=96"

plugin = Plugin(
    name="cbvc",
    title="CBVC: a concept bottleneck that keeps only phrases one can see",
    summary="Diagnosis of a dermoscopic image from its likeness to phrases, with the phrases that speak for it.",
    paper=Paper(
        title="Concept Bottleneck with Visual Concept Filtering for Explainable Medical Image Classification",
        authors=("Injae Kim", "Jongha Kim", "Joonmyung Choi", "Hyunwoo J. Kim"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.48550/arXiv.2308.11920",
    ),
    task="classification",
    modality="skin: dermoscopy",
    inputs=(
        Input("image", "image", "dermoscopic colour photograph of one lesion", required=True),
        Input("top_k", "integer", "how many phrases to name for each class", default=5, minimum=1, maximum=50),
        Input("explain_class", "text", "the class whose phrases stand beside those of the predicted one; by default "
              "the second most probable", choices=tuple(ISIC_2019)),
    ),
    outputs=(
        Output("probabilities", "of the classes that have candidate phrases; they add up to 1"),
        Output("concepts", "phrases of most influence on the class and on another: influence, how far it is above the "
               "mean of all classes, similarity, visual score and its rank, classes whose candidate it was"),
        Output("influence", "similarity times weight of every phrase for every class"),
    ),
    model="zoo.models.cbvc.model:Cbvc",
    labels=tuple(ISIC_2019),
    label_names=ISIC_2019,
    training="zoo.models.cbvc.training:training",
    claim="zoo.models.cbvc.claim:claim",
    extras=("sam",),
    weights=WeightsInfo(
        trained_on=DEMO_DATA,
        command=f'zoo train cbvc --data "{DEMO_DATA}" --preset demo --out DIR',
        metrics={
            # zoo evaluate cbvc --data "phantom:skin-lesion?n=160&size=96&seed=50000" --split all; a constant answer
            # has balanced accuracy 0.125
            "accuracy, 160 unseen phantoms": 0.988,
            "balanced accuracy, 160 unseen phantoms": 0.988,
            "AUROC, 160 unseen phantoms": 1.000,
        },
    ),
    readings={
        "paper": "as printed, with features of length 1, D as negative entropy, and W trained in 500 steps on all "
        "shots; the default",
        "released": "as the code of LaBo, whose settings the paper follows, with V added: features as CLIP gives them, "
        "mutual information for D, a repeated phrase for the first class alone, LaBo's rates, batches, epochs and "
        "initial W for each number of shots",
    },
    phantom="phantom:skin-lesion",
    licence_notes=(
        "The weights in the package, and the small CLIP behind them, were trained on procedural images only and are "
        "Apache-2.0. HAM10000 is CC BY-NC 4.0; LaBo's phrases have no licence and are not in the package."
    ),
    departures=(
        Departure(
            "D and V are standardised and coverage is scaled within a class before alpha, beta and gamma, all 1.",
            "The paper prints none of the three, and its terms live on different scales.",
        ),
        Departure(
            "Features have length 1.",
            "LaBo's code leaves CLIP's lengths, by which long phrases get high visual scores; the released reading.",
        ),
        Departure(
            "The softmax runs over concepts.",
            "The text says so and LaBo's code does; the printed formula sums over classes.",
        ),
        Departure(
            "Logits are multiplied by 100.",
            "CLIP's scale and LaBo's code; the paper prints none, and without it nothing trains.",
        ),
        Departure(
            "W is trained in 500 steps at most on all shots at once, and the best of every tenth step is kept.",
            "The paper refers to LaBo, whose table belongs to features of CLIP's length; the released reading.",
        ),
        Departure(
            "Phrases that contain a class's name are refused.",
            "LaBo removes names by hand; with them the bottleneck spells the labels. class_names=keep lets them in.",
        ),
        Departure(
            "Repeated phrases count for every class that has them.",
            "The paper takes the union; LaBo's code gives them to the first class.",
        ),
    ),
)  # fmt: skip
