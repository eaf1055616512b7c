"""Fed-CoT: MS lesions on FLAIR, learned by clinics that have annotated a quarter of their scans."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="fed-cot",
    title="Fed-CoT: co-teachers for federated semi-supervised MS lesion segmentation",
    summary="MS lesions on FLAIR, learned together by clinics that have marked them in a quarter of their scans only.",
    paper=Paper(
        title="Fed-CoT: Co-teachers for Federated Semi-supervised MS Lesion Segmentation",
        authors=("Geng Zhan", "Jiajun Deng", "Mariano Cabezas", "Wanli Ouyang", "Michael Barnett", "Chenyu Wang"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
    ),
    task="segmentation",
    modality="FLAIR MR volumes of the brain, without the skull",
    inputs=(
        Input("volume", "volume", "FLAIR volume: NIfTI, DICOM series, or an array with spacing", required=True),
        Input("network", "choice", "whose answer: the student's, or the sync-teacher's", default="student",
              choices=("student", "sync")),
        Input("threshold", "number", "probability above which a voxel is lesion", default=0.5, minimum=0, maximum=1),
        Input("brain_mask", "mask", "the brain, where the volume isn't 0 outside of it"),
        Input("least", "integer", "voxels that a lesion must have", default=1, minimum=1, maximum=1000),
        Input("reference", "mask", "the true mask, for Dice"),
    ),
    outputs=(
        Output("mask", "lesion (1), on the grid of the input"),
        Output("probability", "of a lesion, in [0, 1], on the grid of the input"),
        Output("lesions", "how many there are: parts whose voxels touch, corners too"),
        Output("load_ml", "volume of all of them"),
        Output("lesions[].ml", "volume of each, with its voxels and its middle"),
        Output("dice", "where a reference is given"),
    ),
    model="zoo.models.fed_cot.model:FedCoT",
    labels=("background", "lesion"),
    training="zoo.models.fed_cot.training:training",
    unlabelled=True,
    claim="zoo.models.fed_cot.claim:claim",
    extras=("imaging", "train", "volumes", "federated"),
    weights=WeightsInfo(
        trained_on="phantom:flair?n=48&size=48&slices=40 (24 procedural volumes of three sites, 6 of them with masks)",
        command="zoo train fed-cot --data 'phantom:flair?n=48&size=48&slices=40' --preset demo --out DIR",
        metrics={
            # zoo evaluate fed-cot --data "phantom:flair?n=20&size=48&slices=40&seed=20000" --split all
            "Dice of the student, 20 other phantoms": 0.945,
        },
    ),
    phantom="phantom:flair?size=48&slices=40",
    licence_notes=(
        "There is no released code. The weights in the package were trained on procedural images only and are "
        "Apache-2.0. MSSEG-16 may not be passed on; its layout reads what you have downloaded yourself."
    ),
    departures=(
        Departure("The teachers' targets are cut-mixed by the boxes of the student's crops.",
                  "The paper says only that teachers see whole crops; unmixed targets would be of other anatomy."),
        Departure("Eq. 2 compares probabilities and is a mean over voxels.",
                  "The paper writes soft logits and a squared norm, which would be a million times the cross-entropy."),
        Departure("Lambda is 1 with a ramp over 300 steps, alpha1 0.99 in the first round and 0.999 later, alpha2 0.5.",
                  "The paper states none of them.", "lam, ramp_iters, alpha1 and alpha2 set others"),
        Departure("Crops of 64 voxels, half of the labelled ones about a lesion, flipped and of changed intensity.",
                  "The paper states neither their size nor augmentation of labelled scans.", "network.patch, augment"),
        Departure("The network is MONAI's BasicUNet with group normalisation.",
                  "The paper states no width.", "preset=cicek is the cited network, of 19.07 million parameters"),
        Departure("Half of all cases train and half test, drawn over all sites together.",
                  "The paper draws them site by site, which differs by a case or two."),
    ),
)  # fmt: skip
