"""MelDD: melanoma among all lesions of a patient, with body site, age and sex as further evidence."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="meldd",
    title="MelDD: melanoma as the ugly duckling among a patient's lesions",
    summary="Probability of melanoma for every lesion of a patient, judged against the patient's other lesions.",
    paper=Paper(
        title="Evidence-Driven Differential Diagnosis of Malignant Melanoma",
        authors=("Naren Akash R J", "Anirudh Kaushik", "Jayanthi Sivaswamy"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_6",
        code="https://github.com/narenakash/meldd",
    ),
    task="classification",
    modality="skin: dermoscopy, several lesions of one patient",
    inputs=(
        Input("lesions", "images", "dermoscopic photographs of one patient, a lesion each; or a CSV table with the "
              "columns image, site, age, sex, patient", required=True),
        Input("site", "choice", "where each lesion lies, in the order of the images; one site stands for all",
              choices=("head-neck", "palms-soles", "oral-genital", "lower-extremity", "upper-extremity", "torso",
                       "unknown"), many=True),
        Input("age", "number", "of the patient, in years", minimum=0, maximum=120),
        Input("sex", "choice", "of the patient", choices=("female", "male")),
        Input("variant", "choice", "which evidence decides: V0 the lesion alone, V1 with the other lesions, V2 also "
              "site, V3 also age and sex, V4 all; auto takes what is known", default="auto",
              choices=("auto", "V0", "V1", "V2", "V3", "V4")),
    ),
    outputs=(
        Output("probability", "of melanoma, for each lesion, in [0, 1]"),
        Output("malignant", "for each lesion, whether its probability reaches the operating point"),
        Output("raised", "how far the patient's other lesions raise a lesion's logit: the ugly-duckling score"),
        Output("received", "attention from the other lesions, 1 on average; it doesn't tell ugly ducklings"),
        Output("attention", "weights of every layer and head between the lesions, of patients with up to 128 lesions"),
        Output("evidence", "probabilities of each lesion by every variant whose evidence is known"),
    ),
    model="zoo.models.meldd.model:MelDD",
    labels=("benign", "melanoma"),
    training="zoo.models.meldd.training:training",
    claim="zoo.models.meldd.claim:claim",
    operators=("masked_attention",),
    extras=("imaging",),
    weights=WeightsInfo(
        trained_on="phantom:patients?n=500&size=64&risk=0.2 (320 procedural patients)",
        command='zoo train meldd --data "phantom:patients?n=500&size=64&risk=0.2" --preset demo --out DIR',
        seconds=226,
        metrics={
            # zoo evaluate meldd --data "phantom:patients?n=500&size=64&risk=0.2" --weights DIR
            "AUC, 1181 lesions of 100 held-out phantoms": 0.967,
            "balanced accuracy, 1181 lesions of 100 held-out phantoms": 0.923,
            "sensitivity, 1181 lesions of 100 held-out phantoms": 0.917,
            "specificity, 1181 lesions of 100 held-out phantoms": 0.929,
        },
    ),
    phantom="phantom:patients",
    licence_notes=(
        "The weights in the package were trained on procedural images only and are Apache-2.0. SIIM-ISIC 2020 is CC "
        "BY-NC 4.0: weights trained on it are for non-commercial use."
    ),
    departures=(
        Departure(
            "The backbone is trained for each fold, as a classifier of single lesions.",
            "The text can be read as one backbone for all folds, which would have seen the test lesions.",
        ),
        Departure(
            "The operating point is Youden's on validation patients; that of the test patients is reported "
            "beside it.",
            "The paper doesn't say on which data it was taken.",
        ),
        Departure(
            "Products of queries and keys are divided by sqrt(D), and the block has one residual.",
            "As printed; the usual ones are options (scale=head, block=preln).",
        ),
        Departure(
            "FFN width (256), dropout (0.1), patience (20) and all of the backbone's training are our choice.",
            "Not stated.",
        ),
        Departure(
            "A patient has one age token: the median over the images, by year.",
            "Ages differ between images of a patient in the archive; the paper doesn't say.",
        ),
        Departure(
            "UDTR-Full is rebuilt from what this paper says of it.",
            "Its own paper is another; numbers of it are no reproduction.",
        ),
    ),
)  # fmt: skip
