"""The headline in miniature: do a patient's other lesions help to find melanomas, and when do they not?

Procedural patients. Half of the melanomas show what they are by themselves, the others are drawn as naevi. In one
world the naevi of a patient resemble each other, so that these others are ugly ducklings; in the control they don't,
and all that can be known of a lesion is in its own image. Everything is trained from scratch, all arms of a world on
the same features.

The risk is the same at every age. Were it not, a patient's other melanomas would betray a risky age, and context would
gain from that in both worlds, which says nothing about ugly ducklings.
"""

from __future__ import annotations

from dataclasses import replace

from zoo.claims import Claim, Comparison
from zoo.data.case import Case
from zoo.data.phantoms.patients import patients
from zoo.metrics import auroc, balanced_accuracy, youden
from zoo.models.meldd.data import Lesions
from zoo.models.meldd.model import MelDD, MelddConfig, udtr_adapted
from zoo.models.meldd.network import ContextConfig, Sets, VariantName
from zoo.models.meldd.training import MelddRecipe, extract, fit, fit_variant, scores_of
from zoo.training import Run

SIZE = 32  # px
PATIENTS = (320, 80, 160)  # to train on, to stop and to set operating points by, to test on
RISK = 0.2  # share of melanomas: ten times the archive's, for a set of this size
RECIPE = MelddRecipe(
    network=MelddConfig(
        variants=("V0", "V1", "V2"), backbone="small", image_size=SIZE, small_channels=(16, 32, 64),
        context=ContextConfig(width=32, ffn=128),
    ),
    pretrained=False,
    backbone_epochs=10,
    backbone_lr=2e-3,  # from scratch
    epochs=100,  # fewer are too few for context to be learned at all: 40 were tried on seed 1, 100 on seed 900
    lr=1e-3,  # 10 steps an epoch here, some 40 in the paper
)  # fmt: skip
FIXED = 4  # lesions that UDTR-Adapted takes at a time; patients have about 10


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Train every arm in both worlds; balanced accuracy at the validation patients' operating point, and AUC."""
    recipe, counts = RECIPE, PATIENTS
    if quick:
        recipe, counts = replace(RECIPE, backbone_epochs=1, epochs=1), (12, 8, 12)
    scores = world(seed, recipe, counts, signature=True, variants=("V0", "V1", "V2"), fixed=True)
    control = world(seed, recipe, counts, signature=False, variants=("V0", "V1"), fixed=False)
    return scores | {f"{arm}, control": found for arm, found in control.items()}


def world(
    seed: int,
    recipe: MelddRecipe,
    counts: tuple[int, int, int],
    *,
    signature: bool,
    variants: tuple[VariantName, ...],
    fixed: bool,
) -> dict[str, dict[str, float]]:
    """Draw patients, train the arms, and test them."""
    train, validation, test = draw(seed, counts, signature)
    recipe = replace(recipe, network=replace(recipe.network, variants=variants))
    with Run(seed=seed, device="cpu", progress=False) as arms:
        model = fit(recipe, train, validation, arms)
        lesions = [Lesions(members, SIZE) for members in (train, validation, test)]
        sets = extract(model, lesions, arms)
        found: dict[str, dict[str, float]] = {
            name: measure(model, name, sets[2], lesions[2], arms) for name in variants
        }
    if fixed:
        with Run(seed=seed, device="cpu", progress=False) as arm:
            udtr = MelDD(udtr_adapted(recipe.network, FIXED))
            args = (sets[0], lesions[0].y, sets[1], lesions[1].y)
            fit_variant(udtr, "V1", replace(recipe, network=udtr.config), *args, arm)
            found["UDTR-Adapted"] = measure(udtr, "V1", sets[2], lesions[2], arm)
    return found


def draw(seed: int, counts: tuple[int, int, int], signature: bool) -> tuple[list[Case], list[Case], list[Case]]:
    """Patients to train on, to validate with and to test on; no two seeds share any."""
    first = 10_000 * (seed + 1)
    cases = [
        patients(
            first + i, size=SIZE, risk=RISK, risk_by_age=False, outliers=0.5, signature=signature, artifacts="none"
        )
        for i in range(sum(counts))
    ]
    a, b = counts[0], counts[0] + counts[1]
    return cases[:a], cases[a:b], cases[b:]


def measure(model: MelDD, name: str, sets: Sets, lesions: Lesions, run: Run) -> dict[str, float]:
    """BACC: at the operating point of the validation patients; "test-optimal": at the test patients' own."""
    logits, y = scores_of(model, name, sets, run), lesions.y.long().numpy()
    called = logits >= float(model.threshold[model.config.variants.index(name)])  # type: ignore[arg-type]
    return {"BACC": balanced_accuracy(called, y), "BACC, test-optimal": youden(logits, y)[1], "AUC": auroc(logits, y)}


claim = Claim(
    statement=(
        "Comparing a lesion with the patient's other lesions (V1) raises the balanced accuracy over judging it alone "
        "(V0) where some melanomas are ugly ducklings; it does not where all there is to see is in the lesion itself. "
        "Knowing the body site adds to it (V2)."
    ),
    data=(
        f"phantom:patients at {SIZE} px, {'/'.join(map(str, PATIENTS))} patients for training, validation and test; "
        "half of the melanomas look like naevi, but not like the patient's; in the control naevi share nothing"
    ),
    arms={
        "V0": "the lesion alone",
        "V1": "all lesions of the patient as context",
        "V2": "context and body site",
        "UDTR-Adapted": f"context of exactly {FIXED} lesions, drawn again or left out",
        "V0, control": "the lesion alone, where that is all there is",
        "V1, control": "context, where there is nothing to compare",
    },
    run="zoo.models.meldd.claim:run",
    seeds=(11, 12, 13, 14, 15),  # fresh: none of them was used to choose anything
    primary=Comparison(
        "V1",
        "V0",
        "BACC",
        margin=0.02,
        readings={
            "supported": "The other lesions of a patient help to find its ugly ducklings.",
            "not supported": "The other lesions of a patient don't help here.",
            "inconclusive": "Whether the other lesions of a patient help stays open.",
        },
    ),
    secondary=(
        Comparison(
            "V0, control",
            "V1, control",
            "BACC",
            tolerance=0.02,
            readings={
                "supported": "Where there is nothing to compare, context brings no gain of 0.02, as it should.",
                "not supported": "Context gains even where there is nothing to compare; its gain above proves little.",
                "inconclusive": "Whether context gains where there is nothing to compare stays open.",
            },
        ),
        Comparison(
            "V2",
            "V1",
            "BACC",
            readings={
                "supported": "Knowing the site of each lesion adds to comparing them.",
                "not supported": "Knowing the site of each lesion adds nothing here.",
                "inconclusive": "Whether knowing the site of each lesion adds anything stays open.",
            },
        ),
        Comparison("V1", "V0", "AUC", margin=0.03),
        Comparison("V2", "V1", "AUC", margin=0.02),
        Comparison(
            "V1",
            "UDTR-Adapted",
            "BACC",
            readings={
                "supported": "All lesions at once serve better than a fixed number of them.",
                "not supported": "A fixed number of lesions does as well.",
                "inconclusive": "All lesions and a fixed number of them are not told apart.",
            },
        ),
    ),
    # Table 1, SIIM-ISIC 2020, mean of five folds
    paper={
        "V0": {"BACC": 0.7649, "AUC": 0.8371},
        "V1": {"BACC": 0.7841, "AUC": 0.8558},
        "V2": {"BACC": 0.7904, "AUC": 0.8612},
        "UDTR-Adapted": {"BACC": 0.7094, "AUC": 0.7634},
    },
    falsified_if={
        "V1 is not above V0 in balanced accuracy where melanomas are ugly ducklings": ("V1 vs. V0, BACC",),
    },
)
