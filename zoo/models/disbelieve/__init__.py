"""A robustness audit of federated aggregators: how much worse does a simulated attack make the global model?"""

from __future__ import annotations

from zoo.diagnoses import ISIC_2019
from zoo.plugin import Departure, Input, Output, Paper, Plugin, WeightsInfo

plugin = Plugin(
    name="disbelieve",
    title="DISBELIEVE: a robustness audit of federated aggregators",
    summary=(
        "Trains a classifier in a simulated federation, unattacked and under model poisoning, and shows what each "
        "aggregation rule lets through. For designers and auditors of federations: it acts on simulations only."
    ),
    paper=Paper(
        title=(
            "DISBELIEVE: Distance Between Client Models Is Very Essential for Effective Local Model Poisoning Attacks"
        ),
        authors=("Indu Joshi", "Priyank Upadhya", "Gaurav Kumar Nayak", "Peter Schüffler", "Nassir Navab"),
        workshop="MICCAI 2023 Workshops (LNCS 14393)",
        doi="10.1007/978-3-031-47401-9_29",
    ),
    task="classification",
    modality="skin: dermoscopy; chest X-ray, histology and other single images",
    inputs=(
        Input("image", "image", "grey or colour image of the kind the weights were trained on", required=True),
        Input("compare", "flag", "also show what poisoned global models would say; they never decide", default=True),
    ),
    outputs=(
        Output("probabilities", "of the clean global model; they add up to 1 unless the labels are independent"),
        Output("attacked", "for each aggregator audited: the probabilities of its poisoned global model"),
        Output("flipped", "whether any poisoned model names another class than the clean one"),
    ),
    model="zoo.models.disbelieve.model:Disbelieve",
    labels=tuple(ISIC_2019),
    label_names=ISIC_2019,
    training="zoo.models.disbelieve.training:training",
    claim="zoo.models.disbelieve.claim:claim",
    operators=("prototype_similarity",),
    extras=("imaging",),
    weights=WeightsInfo(
        trained_on="phantom:skin-lesion?n=400&size=64 (280 procedural images, drawn from by 10 simulated clients)",
        command='zoo train disbelieve --data "phantom:skin-lesion?n=400&size=64" --preset demo --out DIR',
        metrics={
            # zoo evaluate disbelieve --data "phantom:skin-lesion?n=160&seed=20000&size=64" --split all
            "balanced accuracy, 160 other phantoms, all diagnoses equally often": 0.393,
            "AUROC (macro), 160 other phantoms": 0.875,
        },
    ),
    readings={
        "paper": "Algorithm 2's scale is a factor, as printed, its gradient of all pooled data; Algorithm 1 ends on "
        "the sphere; LIE by its formula; the trimmed mean drops the true share.",
        "released": "The scale is a divisor, the gradient of one batch, at the attackers' mean; Algorithm 1 ends a "
        "step beyond the sphere; LIE above the mean, by a table; the trimmed mean drops a tenth.",
    },
    phantom="phantom:skin-lesion",
    licence_notes=(
        "The weights in the package were trained on procedural images only and are Apache-2.0. Their poisoned copies "
        "exist to be compared with, carry names that end in -poisoned, and decide nothing."
    ),
    departures=(
        Departure("The scale search on gradients is made consistent.", "Algorithm 2 multiplies by the scale and has a "
                  "branch that fits a divisor; the authors' code divides.", "none: the same scale on a finer grid"),
        Departure("The ascent on parameters ends on the sphere of the distance bound.", "Algorithm 1 is printed with a "
                  "condition that holds at its start; the authors' code ends a step beyond.", "see the claim"),
        Departure("Clients of unlike classes are drawn by Dirichlet(0.5); BreakHis is split by patient.", "The paper "
                  "says non-iid; the authors' code splits by image, which puts a patient on both sides."),
        Departure("AUC is of probabilities, macro one-vs-rest.", "Not stated; the authors' code scores hard "
                  "predictions, which the audit has beside it."),
        Departure("Krum and the trimmed mean are told the true number of attackers.", "Not stated; the authors' code "
                  "trims a tenth."),
    ),
)  # fmt: skip
