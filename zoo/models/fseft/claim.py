"""The headline in miniature: four organs as ellipses, a new scanner, five annotated images, and the size of an organ.

Images of 48 x 48 px are volumes of one slice, so that the plugin's own network, pretraining, adaptation and size
constraint run on them. The foundation learns from three sets that annotate different organs of another scanner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from zoo import media
from zoo.claims import Claim, Comparison, Verdict, spending
from zoo.data.case import Case
from zoo.data.scans import Scan, View, read_case
from zoo.data.support import Annotation
from zoo.data.volumes import largest_component
from zoo.metrics import dice
from zoo.models.fseft.adaptation import RELEASED, Adaptation, Method, probabilities
from zoo.models.fseft.model import Fseft, Known
from zoo.models.fseft.training import FseftRecipe, build, pretrain
from zoo.training import Run

SIDE, SHOTS, QUERIES, STEPS = 48, 5, 2, 120  # steps by the time that they take, on seed 900
ORGANS = ("a", "b", "c", "d")
CENTRES = ((14, 14), (14, 34), (34, 14), (34, 33))
RADII = ((7, 6), (5, 5), (5, 7), (4, 4))
GREY = (0.62, 0.48, 0.70, 0.55)
SETS = (("a", "b"), ("c",), ("a", "d"))  # what each source annotates
RECIPE = FseftRecipe(
    backbone="unet", channels=(8, 16, 32), flat=True, patch=(SIDE, SIDE, 1), view=View((1, 1, 1), (0, 1)),
    classes=ORGANS, epochs=7, warmup=1, lr=2e-3, batch_size=6, patches=1, turns=0.0,
)  # fmt: skip
# Five whole images a step. Rates are the card's; those of the released arms are the authors'.
PAPER = Adaptation(epochs=STEPS, volumes=SHOTS, patches=1, shift=0.0, lr_ft=1e-3, overlap=0.0)
AS_RELEASED = replace(PAPER, **{**RELEASED, "overlap": 0.0})


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Dice in percent of an organ in images of the new scanner; every arm has the same images."""
    rng = np.random.default_rng([0xF5EF7, seed])
    per_set, shots, queries, steps = (4, 2, 1, 2) if quick else (60, SHOTS, QUERIES, STEPS)
    sources = [draw(rng, some, target=False) for some in SETS for _ in range(per_set)]
    with Run(seed=seed, device="cpu", progress=False) as chance:
        chance.stage("foundation")
        model = build(replace(RECIPE, epochs=1) if quick else RECIPE, ORGANS)
        pretrain(model, RECIPE if not quick else replace(RECIPE, epochs=1), sources, chance)
    model.eval()
    scores: dict[str, list[float]] = {arm: [] for arm in claim.arms}
    organ = ORGANS[seed % len(ORGANS)]
    wanted = {organ: Annotation(organ, ())}
    scans = [read_case(draw(rng, ORGANS, target=True), RECIPE.view, wanted, "fseft") for _ in range(shots + queries)]
    measure(model, scans[:shots], scans[shots:], organ, seed, steps, scores)
    return {arm: {"Dice": 100 * float(np.mean(values))} for arm, values in scores.items()}


def measure(
    model: Fseft, supports: Sequence[Scan], queries: Sequence[Scan], organ: str, seed: int, steps: int,
    scores: dict[str, list[float]],
) -> None:  # fmt: skip
    """Adds the Dice of each arm on each query."""

    def adapted(arm: str, method: Method, how: Adaptation) -> list[Known]:
        how = replace(how, epochs=steps)
        with spending(arm, examples=len(supports)):
            found = model.adapt(supports, queries, organ, method, how, seed, traced=False)
        for query, known in zip(queries, found, strict=True):
            scores[arm].append(overlap(prediction(known, query), query, organ, how.threshold))
        return found

    for arm in ("no adaptation", "adapter, threshold by size"):
        with spending(arm, examples=len(supports)):
            pass
    for query in queries:
        scores["no adaptation"].append(overlap(prediction(model.foundation(organ), query), query, organ, 0.5))
    adapted("FT", "ft", PAPER)
    adapted("linear probe", "linear-probe", PAPER)
    plain = adapted("adapter", "adapter", PAPER)
    adapted("adapter + TI", "adapter-ti", PAPER)
    adapted("adapter, released", "adapter", AS_RELEASED)
    adapted("adapter + TI, released", "adapter-ti", AS_RELEASED)
    size = float(np.mean([scan.size(organ) for scan in supports]))
    for query, known in zip(queries, plain, strict=True):
        found = prediction(known, query)
        threshold = threshold_for(found, (1 - 0.15) * size, (1 + 0.15) * size)
        scores["adapter, threshold by size"].append(overlap(found, query, organ, threshold))


def prediction(known: Known, scan: Scan) -> np.ndarray:
    return probabilities(known.network, scan, RECIPE.patch, 0.0).float().numpy()


def overlap(found: np.ndarray, scan: Scan, organ: str, threshold: float) -> float:
    return dice(largest_component(found > threshold), scan.y[organ].numpy())


def threshold_for(found: np.ndarray, low: float, high: float) -> float:
    """One half, or the nearest threshold that brings the number of voxels above it between ``low`` and ``high``."""
    count = int((found > 0.5).sum())
    wanted = int(min(max(count, np.ceil(low)), np.floor(high)))
    ordered = np.sort(found, axis=None)[::-1]
    return 0.5 if wanted == count else float((ordered[wanted - 1] + ordered[wanted]) / 2)


def draw(rng: np.random.Generator, annotated: Sequence[str], *, target: bool) -> Case:
    """Four organs that vary in place and size, bright discs that are none, and the noise of one of two scanners."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    image = 0.35 + 0.05 * np.sin(rows / 7 + rng.uniform(0, 6)) * np.cos(columns / 9 + rng.uniform(0, 6))
    taken = np.zeros((SIDE, SIDE), bool)
    masks = {}
    for organ, (y, x), radii, grey in zip(ORGANS, CENTRES, RADII, GREY, strict=True):
        dy, dx = rng.uniform(-4, 4, 2)
        a, b = np.array(radii) * rng.uniform(0.85, 1.15, 2)
        inside = ((rows - y - dy) / a) ** 2 + ((columns - x - dx) / b) ** 2 < 1
        inside &= ~taken
        taken |= inside
        image[inside] = grey
        masks[organ] = inside.astype(np.uint8)[None]
    wanted = int(rng.integers(2, 5) if target else rng.integers(0, 2))
    for _ in range(40):
        y, x, radius = *rng.uniform(4, SIDE - 4, 2), rng.uniform(2, 4.5)
        disc = np.hypot(rows - y, columns - x) < radius
        if wanted and not (disc & taken).any():
            image[disc] = rng.choice(GREY) + rng.normal(0, 0.03)
            taken |= disc
            wanted -= 1
    image = 0.1 + 0.8 * np.maximum(image, 0) ** 1.3 if target else image
    image = image + rng.normal(0, 0.09 if target else 0.05, image.shape)
    picture = media.Image(image.astype(np.float32)[None], spacing=(1.0, 1.0, 1.0), ndim_spatial=3)
    return Case(picture, "drawn", masks={organ: masks[organ] for organ in annotated})


def _readings(yes: str, no: str, open_: str) -> dict[Verdict, str]:
    return {"supported": yes, "not supported": no, "inconclusive": open_}


claim = Claim(
    statement=(
        "With five annotated images of a new scanner, an adapter on a frozen foundation that is also held to the size "
        "of the organ in the query beats the adapter alone and full fine-tuning."
    ),
    data=(
        f"{SIDE} x {SIDE} px images of four elliptic organs: three partly annotated sources of 60 for the foundation; "
        f"{SHOTS} annotated images and {QUERIES} queries of another scanner, with distractors; one organ"
    ),
    arms={
        "no adaptation": "the foundation's own head",
        "FT": "the whole network, from the foundation's weights",
        "linear probe": "a new logit on frozen features",
        "adapter": "three convolutions on frozen features",
        "adapter + TI": "the same, with the size constraint in the last half, and the gate",
        "adapter, threshold by size": "the adapter, whose threshold moves until its mask has an allowed size",
        "adapter, released": "the authors' block of two convolutions, Dice alone, their learning rate",
        "adapter + TI, released": "the same with their constraint: weight 0.1, gamma 0.3, half resolution, own steps",
    },
    run="zoo.models.fseft.claim:run",
    primary=Comparison(
        "adapter + TI",
        "adapter",
        "Dice",
        recipe="paper",
        readings=_readings(
            "Holding the adapter to the organ's size makes masks better.",
            "Holding the adapter to the organ's size makes masks no better.",
            "Whether the size constraint makes masks better stays open.",
        ),
    ),
    secondary=(
        Comparison(
            "adapter + TI, released",
            "adapter, released",
            "Dice",
            recipe="released",
            readings=_readings(
                "As released, the size constraint makes masks better.",
                "As released, the size constraint makes masks no better.",
                "Whether the size constraint as released makes masks better stays open.",
            ),
        ),
        Comparison(
            "adapter + TI",
            "FT",
            "Dice",
            readings=_readings(
                "It beats fine-tuning the whole network.",
                "Fine-tuning the whole network does as well.",
                "It and fine-tuning the whole network are not told apart.",
            ),
        ),
        Comparison(
            "adapter + TI",
            "adapter, threshold by size",
            "Dice",
            equivalence=1.0,
            headline=True,
            readings=_readings(
                "It beats a threshold that gives the adapter's mask an allowed size.",
                "A threshold that gives the adapter's mask an allowed size does as well.",
                "It and a threshold moved to an allowed size are not told apart.",
            ),
        ),
        Comparison(
            "adapter",
            "linear probe",
            "Dice",
            readings=_readings(
                "The spatial adapter beats a linear probe.",
                "A linear probe does as well as the spatial adapter.",
                "The spatial adapter and a linear probe are not told apart.",
            ),
        ),
    ),
    # Table 1, 5-shot and the first row, mean of nine organs
    paper={
        "no adaptation": {"Dice": 70.1},
        "FT": {"Dice": 49.3},
        "linear probe": {"Dice": 72.0},
        "adapter": {"Dice": 74.8},
        "adapter + TI": {"Dice": 75.9},
    },
    seeds=(70, 71, 72, 73, 74, 75, 76, 77),  # named before any of them was run
    tuned_on=(900, 60),
    tuning="Steps were set by the time they take, alike for all arms; no arm's rate was searched.",
    changes="Seed 60 showed that FT never left the bias of -4; it starts as torch does now, and the seeds are new.",
    unequal={
        "no adaptation": "the foundation as it is",
        "adapter, threshold by size": "the adapter's own training, and no more",
        "adapter + TI": "its last half is made once for each query, so that each adapter saw as many steps",
        "adapter + TI, released": "as the other, with a step of its own for the constraint after each epoch",
    },
    falsified_if={
        "the size constraint makes masks no better": ("adapter + TI vs. adapter, Dice",),
        "full fine-tuning does as well": ("adapter + TI vs. FT, Dice",),
    },
)
