"""The headline in miniature: four centres of drawn glands, one of them with the bright flare of an endorectal coil.

Images of 32 x 32 px are volumes of one slice, so that the plugin's own network, loss, federation and schemes run.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from zoo import media
from zoo.claims import Claim, Comparison, Verdict, spending
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.federated import HistoryPolicy, Outcome, Settings, federate
from zoo.federated.unlearning import MethodName, cutoff, reached
from zoo.models.fed_unlearn_prostate.model import ProstateConfig
from zoo.models.fed_unlearn_prostate.training import ProstateRecipe, build, forgotten
from zoo.training import Run
from zoo.unlearning import rounds_to

SIDE, TESTED, SHARE, SIGMA = 32, 20, 0.1, 0.01
WINDOW = 3  # measurements over which utility is averaged before rounds are counted
TRAINED = {"C1": 22, "C2": 16, "C3": 18, "C4": 44}  # a tenth of which is the server's
LEAVER, STAY = "C2", ("C1", "C3", "C4")
RECIPE = ProstateRecipe(
    network=ProstateConfig(channels=(8, 16, 32), units=1, dropout=0.0, size=(SIDE, SIDE, 1)), optimizer="sgd", lr=0.3,
    momentum=0.9, local_steps=6, batch_size=8, rounds=20, control=0.1, measure_every=2, leaver=LEAVER, learned=0.9,
)  # fmt: skip
# What is run beside full: a scheme and the settings in which it differs.
SCHEMES: dict[str, tuple[MethodName, dict[str, Any]]] = {
    "SCRATCH": ("scratch", {}),
    "FINE-TUNING": ("finetuning", {}),
    "FEDACCUM": ("fedaccum", {}),
    "FEDERASER": ("federaser", {}),
    "UKD": ("ukd", {}),
    "UKD, distilled": ("ukd", {"distil": RECIPE.rounds * RECIPE.local_steps}),
    "PGA": ("pga", {}),
    "SCRATCH plus noise": ("ifu", {"metric": "l2", "sigma": SIGMA, "epsilon": 1e-6}),
    "IFU": ("ifu", {"metric": "l2", "sigma": SIGMA}),
}


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Utility and residual of every arm after its last round, and the rounds until it was as useful as SCRATCH is then.

    Raises ``DataError`` where the model of all centres hasn't learned every one of them: nothing is compared then.
    """
    recipe = replace(RECIPE, rounds=2, learned=0.0) if quick else RECIPE
    data = centres(seed, 3 if quick else TESTED, {name: 4 for name in TRAINED} if quick else TRAINED)
    policy = HistoryPolicy(dtype="float32", schemes=tuple(dict.fromkeys(scheme for scheme, _ in SCHEMES.values())))
    seen = len(data.train)
    scores: dict[str, dict[str, float]] = {}
    outcomes: dict[str, Outcome] = {}
    with Run(None, seed=seed, device="cpu", progress=False, history=policy) as one, spending("full", examples=seen):
        outcomes["full"] = full = federate(build, recipe, data, one)
    assert full.history is not None
    whole = float(reached(full.history.contributions(), [1], "l2")[-1])
    epsilon = SHARE * whole / cutoff(1.0, Settings().delta, SIGMA)
    for arm, (scheme, changes) in SCHEMES.items():
        settings = Settings(**({"epsilon": epsilon} if scheme == "ifu" else {}) | changes)
        settings = replace(settings, ascent=2, distil=min(settings.distil, 2)) if quick else settings
        with Run(None, seed=seed, device="cpu", progress=False) as one, spending(arm, examples=seen):
            outcomes[arm] = forgotten(recipe, data, one, full, [scheme], settings)[scheme]
    curves = {arm: useful(outcome) for arm, outcome in outcomes.items()}
    target = float(np.mean([utility for _, utility, _ in curves["SCRATCH"][-WINDOW:]]))
    for arm, curve in curves.items():
        last, utility, residual = curve[-1]
        scores[arm] = {"utility": utility, "residual": residual}
        if arm != "full" and last:
            scores[arm]["rounds"] = float(rounds_to(curve, target, WINDOW) or last + recipe.measure_every)
    return scores


def useful(outcome: Outcome) -> list[tuple[int, float, float]]:
    """Round, mean test Dice of those who stay, and Dice on the leaver's training images, at every measurement."""
    measured = [row for row in outcome.rows if f"global/train-{LEAVER}" in row]
    utility = [float(np.mean([row[f"global/test-{name}"] for name in STAY])) for row in measured]
    return [(int(row["round"]), u, row[f"global/train-{LEAVER}"]) for row, u in zip(measured, utility, strict=True)]


def centres(seed: int, tested: int, trained: dict[str, int]) -> TrainData:
    """Training and test images of the four centres."""
    rng = np.random.default_rng([0x0B1, seed])
    parts: dict[str, list[Entry]] = {"train": [], "test": []}
    for name, count in trained.items():
        for place in range(count + tested):
            case = draw(rng, name, f"{name}-{place}")
            parts["train" if place < count else "test"].append(Entry(case.id, case))
    train, test = (Dataset("drawn", parts[part]) for part in ("train", "test"))
    return TrainData(train, train.subset([]), test)


def draw(rng: np.random.Generator, centre: str, name: str) -> Case:
    """An elliptic gland with two dark discs, under an uneven gain."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    cy, cx = rng.uniform(12, 20, 2)
    inside = ((y - cy) / rng.uniform(5, 8)) ** 2 + ((x - cx) / rng.uniform(4, 7)) ** 2 < 1
    image = np.where(inside, rng.uniform(0.60, 0.70), 0.30)
    for _ in range(2):
        dy, dx = rng.uniform(0, SIDE, 2)
        image[(y - dy) ** 2 + (x - dx) ** 2 < rng.uniform(2, 4) ** 2] = rng.uniform(0.1, 0.2)
    slope, phase = rng.uniform(0.1, 0.25, 2), rng.uniform(0, 2 * math.pi)
    image = image * (1 + 0.1 * np.sin(slope[0] * y + slope[1] * x + phase)) + rng.normal(0, 0.06, image.shape)
    if centre == "C2":
        image = image * (1 + 3 * np.exp(-(SIDE - 1 - y) / 8))  # the coil lies below
    elif centre == "C3":
        image = image * 0.8 + 0.1
    elif centre == "C4":
        image = image * 1.2
    picture = media.Image(image.astype(np.float32)[None], spacing=(1.0, 1.0, 1.0), ndim_spatial=3)
    return Case(picture, name, masks={"gland": inside.astype(np.uint8)[None]}, attributes={"centre": centre})


def _readings(yes: str, no: str, open_: str) -> dict[Verdict, str]:
    return {"supported": yes, "not supported": no, "inconclusive": open_}


def _forgets(arm: str, **more: Any) -> Comparison:
    readings = _readings(f"{arm} leaves no more of the leaver than training from scratch does, within 0.1.",
                         f"{arm} leaves more of the leaver than training from scratch does.",
                         f"Whether {arm} leaves more than training from scratch does stays open.")  # fmt: skip
    return Comparison(arm, "SCRATCH", "residual", "less", tolerance=0.10, readings=readings, **more)


def _remembers(arm: str, **more: Any) -> Comparison:
    readings = _readings(f"{arm} doesn't forget: it keeps over 0.2 more of the leaver than training from scratch.",
                         f"{arm} forgets, too, here.", f"Whether {arm} forgets stays open.")  # fmt: skip
    return Comparison(arm, "SCRATCH", "residual", margin=0.20, readings=readings, **more)


def _useful(arm: str) -> Comparison:
    return Comparison(arm, "SCRATCH", "utility", tolerance=0.05)


def _ruins(arm: str) -> Comparison:
    readings = _readings(f"{arm} ruins the model: it costs over 0.2 of utility.", f"{arm} doesn't ruin the model here.",
                         f"Whether {arm} ruins the model stays open.")  # fmt: skip
    return Comparison(arm, "SCRATCH", "utility", "less", margin=0.20, readings=readings)


def _sooner(arm: str, other: str) -> Comparison:
    readings = _readings(f"{arm} is as useful as training from scratch becomes in fewer rounds than {other} needs.",
                         f"{arm} needs no fewer rounds than {other}, counted by the same rule.",
                         f"Whether {arm} needs fewer rounds than {other} stays open.")  # fmt: skip
    return Comparison(arm, other, "rounds", "less", readings=readings)


claim = Claim(
    statement=(
        "Fine-tuning without a client doesn't forget it; schemes that retrain, FedEraser and IFU, do, at the utility "
        "of training from scratch."
    ),
    data=(
        f"{SIDE} x {SIDE} px images of an elliptic gland at four centres ({', '.join(map(str, TRAINED.values()))} to "
        f"train on, of which the server has a tenth, {TESTED} each to test on); the leaver's have the flare of a coil. "
        "Utility: mean test Dice of the others; residual: Dice on the leaver's training images; rounds: until utility, "
        f"measured every other round and averaged over {WINDOW} measurements, is that of SCRATCH at its end, the next "
        "measurement where it never is."
    ),
    arms={
        "full": "all four centres",
        "SCRATCH": "the three others from the first model: what forgetting means",
        "FINE-TUNING": "the three others from the last model",
        "FEDACCUM": "the three others from the mean of their own last models, as released",
        "FEDERASER": "the three others from the first model, every new update as long as the stored one",
        "UKD": "the three others from the last model less the leaver's share of all its models, as released",
        "UKD, distilled": "from there, too, but the server brings its answers to the last model's, as the paper says",
        "PGA": "the three others from where the leaver's loss has been climbed",
        "SCRATCH plus noise": f"as SCRATCH, but the first model has IFU's noise of {SIGMA}: what noise alone does",
        "IFU": f"from the last round before which the leaver had added {SHARE:.0%} of its whole, and noise of {SIGMA}; "
        "no budget that guarantees anything allows as much",
    },
    run="zoo.models.fed_unlearn_prostate.claim:run",
    primary=_remembers("FINE-TUNING", headline=True),
    secondary=(
        _forgets("FEDERASER", headline=True),
        _forgets("IFU", headline=True),
        _forgets("SCRATCH plus noise"),
        _remembers("FEDACCUM"),
        _remembers("PGA"),
        *(_useful(arm) for arm in ("FINE-TUNING", "FEDERASER", "IFU")),
        *(_ruins(arm) for arm in ("UKD", "UKD, distilled")),
        *(_sooner("IFU", other) for other in ("SCRATCH", "SCRATCH plus noise")),
    ),
    # Table 2, as shares
    paper={
        "SCRATCH": {"utility": 0.847, "residual": 0.622},
        "FINE-TUNING": {"utility": 0.850, "residual": 0.845},
        "FEDACCUM": {"utility": 0.849, "residual": 0.844},
        "FEDERASER": {"utility": 0.846, "residual": 0.605},
        "UKD": {"utility": 0.345, "residual": 0.240},
        "PGA": {"utility": 0.851, "residual": 0.835},
        "IFU": {"utility": 0.846, "residual": 0.583},
    },
    falsified_if={
        "fine-tuning forgets by itself": ("FINE-TUNING vs. SCRATCH, residual",),
        "FedEraser doesn't forget": ("FEDERASER vs. SCRATCH, residual",),
        "IFU doesn't forget": ("IFU vs. SCRATCH, residual",),
        "FedEraser costs utility": ("FEDERASER vs. SCRATCH, utility",),
        "IFU costs utility": ("IFU vs. SCRATCH, utility",),
    },
    seeds=tuple(range(5301, 5309)),  # named before any of them was run
    tuned_on=(900, 901, 902, 903),
    tuning=(
        "On seeds of its own: the rate and the rounds let the model of all centres learn every one of them with room "
        f"to the {RECIPE.learned:g} below which nothing is compared (on the four of them Dice of 0.97 or more on the "
        "leaver's training images and 0.92 or more on test images elsewhere); alike in all arms. IFU's share is that "
        "of 0.1, 0.2 and 0.3 which left least more than SCRATCH on the first of them (0.14, 0.17, 0.26), as the paper "
        "takes the best budget of nine. Everything else of a scheme is as released."
    ),
    unequal={
        "FEDERASER": "one round fewer: the first stored updates are taken as they are",
        "UKD, distilled": "steps of the server alone, as many as a client makes elsewhere",
        "PGA": "the climb comes before the same rounds",
    },
    changes=(
        "An earlier form compared after 11 rounds, where its guard was 0.85 in place of the 0.9 that its design asks "
        "for, on seeds 3101 to 3108, with a share of 0.2 and without FedAccum, UKD and PGA. A second had 14 rounds and "
        "ended without a result at its guard: 0.898 on the leaver of one of the seeds 5201 to 5208. Seeds are new."
    ),
)  # fmt: skip
