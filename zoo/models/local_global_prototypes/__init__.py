"""Diagnosis of skin lesions by look-alikes: similar images (global prototypes) and similar regions (local ones)."""

from __future__ import annotations

from zoo.diagnoses import ISIC_2019
from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="local-global-prototypes",
    title="Global and local prototypes: skin lesion diagnosis by look-alike images and regions",
    summary="Diagnosis among eight of a dermoscopic image, with the training lesions and patches that it rests on.",
    paper=Paper(
        title="Global and Local Explanations for Skin Cancer Diagnosis Using Prototypes",
        authors=("Carlos Santiago", "Miguel Correia", "Maria Rita Verdelho", "Alceu Bissoto", "Catarina Barata"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_5",
        code="https://github.com/cajosantiago/LocalGlobalPrototypes",
    ),
    task="classification",
    modality="skin: dermoscopy",
    inputs=(
        Input("image", "image", "dermoscopic colour photograph of one lesion", required=True),
        Input(
            "branch",
            "choice",
            "which evidence decides: whole images (global), regions (local) or both (joint); by default all there is",
            choices=("joint", "global", "local"),
        ),
        Input("pruned", "flag", "leave out redundant prototypes", default=False),
        Input("top_k", "integer", "how many look-alikes, and how many regions, to show", default=5, minimum=1,
              maximum=50),
        Input("gallery", "folder", "images to search for look-alikes instead of the training images; a sub-folder for "
              "each class, or metadata.csv with the column label, or neither"),
    ),
    outputs=(
        Output("probabilities", "of the eight classes of ISIC 2019; they add up to 1"),
        Output("contributions", "weight times similarity, for every prototype, to the predicted class"),
        Output("look_alikes", "training images nearest to the input in the cluster of its closest prototype"),
        Output("regions", "for the local prototypes that speak most for the prediction: heatmap, box, source patch"),
    ),
    model="zoo.models.local_global_prototypes.model:LocalGlobalPrototypes",
    labels=tuple(ISIC_2019),
    label_names=ISIC_2019,
    training="zoo.models.local_global_prototypes.training:training",
    claim="zoo.models.local_global_prototypes.claim:claim",
    operators=("prototype_similarity", "cosine_topk"),
    extras=("imaging",),
    weights=WeightsInfo(
        trained_on="phantom:skin-lesion?n=640 (461 procedural images; their thumbnails are the gallery)",
        command='zoo train local-global-prototypes --data "phantom:skin-lesion?n=640" --preset demo --out DIR',
        metrics={
            # zoo evaluate local-global-prototypes --data "phantom:skin-lesion?n=640" --weights DIR
            "balanced accuracy, 128 held-out phantoms": 0.977,
            "accuracy, 128 held-out phantoms": 0.969,
            "F1 (macro), 128 held-out phantoms": 0.969,
        },
    ),
    readings={
        "paper": "as printed: prototypes follow running centroids, class-weighted cross-entropy; the default",
        "released": "as the authors' code: temperature 0.07 in training, sigmoid features, prototypes projected "
        "onto training images every ten epochs, no weights in stage 1, AdamW; no cluster loss, which has no gradient; "
        "feature maps before VGG16's last pooling and DenseNet's last ReLU; each head's best epoch",
    },
    phantom="phantom:skin-lesion",
    licence_notes=(
        "The weights in the package were trained on procedural images only and are Apache-2.0. ISIC 2019 is CC BY-NC "
        "4.0: weights trained on it carry a gallery of its images and are for non-commercial use."
    ),
    departures=(
        Departure(
            "Classes are weighted by 1 / sqrt(frequency) in every cross-entropy.",
            "The paper cites learned sample weights (weighting=low) without describing them; in the authors' "
            "code these stay within 1 % of 1.",
        ),
        Departure(
            "Prototypes start as k-means centres of each class's features.",
            "The paper says nothing of their start.",
        ),
        Departure(
            "The count n of Eq. 2 goes back to 1 with every epoch.",
            "As printed the centroids soon stand still while features move on; centroid_count=cumulative is that.",
        ),
        Departure(
            "Features have no last activation, so that cosines have both signs.",
            "The paper names no activation; the authors' code ends in a sigmoid.",
        ),
        Departure(
            "Softmax has temperature 1.",
            "The paper has none; the authors divide by 0.07 while training.",
            "before the head is tuned no probability of eight classes can pass 0.51",
        ),
        Departure(
            "The best epoch is chosen on validation images.",
            "The paper doesn't say; the authors' code chooses on the images that it reports.",
        ),
        Departure(
            "The released reading projects global prototypes by the best assignment too.",
            "The authors' code exchanges two indices there and takes the first images of each class.",
        ),
        Departure(
            "Shades-of-Gray on the whole image.",
            "Sec. 3 says normalised as in an earlier work, without the method.",
        ),
    ),
)  # fmt: skip
