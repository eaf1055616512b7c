"""SplitFed U-Net: components of a human embryo, by a network cut between clients and a server over a lossy link."""

from __future__ import annotations

from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="splitfed-embryo",
    title="SplitFed resilience to packet loss: where to split, that is the question",
    summary="Components of a blastocyst (zona pellucida, trophectoderm, blastocoel, inner cell mass), by a U-Net that "
    "clients and a server train together over a link that loses packets; predict shows what a loss does.",
    paper=Paper(
        title="SplitFed Resilience to Packet Loss: Where to Split, that is the Question",
        authors=("Chamani Shiranthika", "Zahra Hafezi Kafshgari", "Parvaneh Saeedi", "Ivan V. Bajić"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
    ),
    task="segmentation",
    modality="microscopy of human embryos at the blastocyst stage",
    inputs=(
        Input("image", "image", "2-D microscopy image of one embryo, grey or colour", required=True),
        Input("packet_loss", "number", "share of packets (rows of feature maps) that the link loses", default=0.0,
              minimum=0.0, maximum=1.0),
        Input("split", "choice", "where the network is cut; the weights are the same", default="trained",
              choices=("trained", "deep", "shallow")),
        Input("seed", "integer", "which packets are lost", default=0, minimum=0),
        Input("reference", "mask", "the true classes, 0 to 4, of the image's size, to compare with"),
        Input("link_tensors", "flag", "also write what crossed the link, before and after the loss", default=False),
    ),
    outputs=(
        Output("mask", "0 background, 1 ZP, 2 TE, 3 BL, 4 ICM, size of the input"),
        Output("probability", "of every class, in [0, 1], size of the input"),
        Output("area_fraction", "share of the image that each component covers"),
        Output("changed_share", "with packet_loss: share of the pixels that are called otherwise without it"),
        Output("jaccard", "with reference: of each component, and their mean (MJI)"),
    ),
    model="zoo.models.splitfed_embryo.model:SplitFedEmbryo",
    labels=("background", "ZP", "TE", "BL", "ICM"),
    label_names={
        "ZP": "zona pellucida", "TE": "trophectoderm", "BL": "blastocoel", "ICM": "inner cell mass",
    },
    training="zoo.models.splitfed_embryo.training:training",
    claim="zoo.models.splitfed_embryo.claim:claim",
    extras=("imaging", "federated"),
    weights=WeightsInfo(
        trained_on="phantom:embryo?n=160&size=64 (146 procedural embryos on 3 clients), half of all packets lost",
        command='zoo train splitfed-embryo --data "phantom:embryo?n=160&size=64" --preset demo --out DIR',
        metrics={
            # zoo evaluate splitfed-embryo --data "phantom:embryo?n=40&seed=20000&size=64" --split all
            "MJI in %, 40 other phantoms, nothing lost": 84.9,
            "Jaccard in %, inner cell mass, 40 other phantoms": 79.8,
        },
    ),
    readings={
        "paper": "As printed: every row is lost by itself and anew, images are mirrored, the last local epoch is sent; "
        "batches of one image and the up-sampling are as in the same authors' later code.",
        "released": "As the same authors' later code, for this paper's own was never released: fixed masks of exactly "
        "floor(P_L h) rows that never lose the first, no mirroring or shuffling, classes that a batch lacks count as "
        "Dice loss 0, the best local epoch is sent, the test is lossless. leak=true adds the gradients that it leaks.",
    },
    phantom="phantom:embryo",
    licence_notes=(
        "The weights in the package were trained on procedural images only and are Apache-2.0. The authors' images are "
        "theirs to give; their later code states no licence."
    ),
    departures=(
        Departure("Up-sampling is one transposed convolution of 2 x 2 (7.76 M parameters); network.up=upsampled is "
                  "the other reading (8.64 M).", "The text says up-sampling and a transposed convolution; the same "
                  "authors' later code has one layer."),
        Departure("Convolutions have no bias, batches one image.", "Not stated; the later code's."),
        Departure("Gradients are lost by masks of their own, drawn anew.", "Not stated whether they share the "
                  "features' masks; the later code's fixed masks differ too."),
        Departure("The formulas of Fed-NCL V2 and V4 and of Auto-FedAvg are ours.", "Described in words only; the "
                  "text's \"proportional to their divergence\" is literal_ncl=true."),
        Departure("Class 3 is blastocoel, 4 the inner cell mass.", "The text lists them the other way round; the later "
                  "code's masks have this order."),
    ),
)  # fmt: skip
