"""CEmb-SAM's headline in miniature: does telling the network the sub-group help where sub-groups want different things?

Images of 64 x 64 px hold two ellipses, T and Q. What is to be marked depends on the sub-group: T without Q where T is
dark and Q bright, T without Q where it is the other way round, or both together. The control are images of one rule
whose sub-group is drawn at random: there nothing is to be gained, and what is gained all the same is capacity.

Every arm is the plugin's own network on the small SAM that comes with the zoo, with the plugin's own losses and loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from zoo.claims import Claim, Comparison
from zoo.data.case import Case
from zoo.data.features import FeatureCache
from zoo.models.cemb_sam.training import CEmbSamRecipe, Item, build, dice_of, fit, load
from zoo.nn.promptable import Promptable
from zoo.training import Run

SIDE = 64  # px
GROUPS = ("first without second", "second's opposite", "both together")
Arm = Literal["cemb", "dec", "m1", "shuffled"]
ARMS: tuple[Arm, ...] = ("cemb", "dec", "m1", "shuffled")

# Size and length were chosen on seed 900, by time (a minute a seed on one core) and by what "dec" and "m1" learn on the
# control within it (Dice 93 % each); the heterogeneous images were not looked at.
RECIPE = CEmbSamRecipe(sam="demo", image_size=128, working_size=SIDE, lr=1e-3, epochs=6, batch_size=8, jitter=4)
COUNTS = (160, 80)  # images to train on, and to test on


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Dice in percent of every arm on both kinds of data; all arms start from and see the same."""
    recipe, counts = (replace(RECIPE, epochs=1), (16, 12)) if quick else (RECIPE, COUNTS)
    cache = FeatureCache(half=True)
    scores: dict[str, dict[str, float]] = {arm: {} for arm in ARMS}
    for kind in ("heterogeneous", "homogeneous"):
        rng = np.random.default_rng([0xCE3B, seed, kind == "homogeneous"])
        cases = [draw(count, rng, homogeneous=kind == "homogeneous") for count in counts]
        train, test = ([load(case, GROUPS, SIDE) for case in part] for part in cases)
        for arm in ARMS:
            dice = 100 * train_and_test(arm, recipe, train, test, cache, seed)
            scores[arm][kind] = float(dice.mean())
            if kind == "heterogeneous":
                for g in range(len(GROUPS)):
                    scores[arm][f"sub-group {g}"] = float(dice[[item.condition == g for item in test]].mean())
    return scores


def train_and_test(
    arm: Arm, recipe: CEmbSamRecipe, train: list[Item], test: list[Item], cache: FeatureCache, seed: int
) -> Float[np.ndarray, " n"]:
    """Dice in [0, 1] of every test image, after the plugin's training. ``cache``: features of the frozen encoder."""
    recipe = replace(recipe, method="decoder-only" if arm == "dec" else "cemb-sam")
    train, test = (told(arm, part, np.random.default_rng([seed, 11, i])) for i, part in enumerate((train, test)))
    with Run(seed=seed, device="cpu", progress=False) as chance:
        chance.stage("training")
        model = build(recipe, GROUPS[:1] if arm == "m1" else GROUPS)
        model.base = Promptable(model.base.sam, cache=cache)
        fit(model, recipe, train, [], chance)
        return dice_of(model, test, batch_size=32)


def told(arm: Arm, items: Sequence[Item], rng: np.random.Generator) -> list[Item]:
    """The images with the sub-group that the arm is told: their own, another image's, or one for all."""
    groups: Int[np.ndarray, " n"] = np.array([item.condition for item in items])
    if arm == "m1":
        groups = np.zeros_like(groups)
    if arm == "shuffled":
        groups = rng.permutation(groups)
    return [replace(item, condition=int(group)) for item, group in zip(items, groups, strict=True)]


# ---- data ------------------------------------------------------------------------------------------------------------


def draw(count: int, rng: np.random.Generator, *, homogeneous: bool) -> list[Case]:
    """Images of the three rules, or all of the first with random sub-groups."""
    made = [_one(rng, 0 if homogeneous else int(rng.integers(len(GROUPS)))) for _ in range(count)]
    groups = rng.integers(len(GROUPS), size=count) if homogeneous else [group for _, _, group in made]
    return [
        Case(image, str(i), {"mask": target}, attributes={"condition": GROUPS[group]})
        for i, ((image, target, _), group) in enumerate(zip(made, groups, strict=True))
    ]


def _one(rng: np.random.Generator, group: int) -> tuple[np.ndarray, np.ndarray, int]:
    y, x = np.mgrid[:SIDE, :SIDE]
    while True:
        cx, cy = rng.uniform(20, 44, 2)
        t = _ellipse(x, y, cx, cy, rng.uniform(10, 16), rng.uniform(8, 12), rng.uniform(0, math.pi))
        direction, far = rng.uniform(0, 2 * math.pi), rng.uniform(10, 16)
        qx, qy = cx + far * math.cos(direction), cy + far * math.sin(direction)
        q = _ellipse(x, y, qx, qy, rng.uniform(8, 14), rng.uniform(6, 12), rng.uniform(0, math.pi))
        if (t & ~q).sum() > 80:
            break
    sign_t, sign_q = ((-1.0, 1.0), (1.0, -1.0), tuple(rng.choice([-1.0, 1.0], 2)))[group]
    image = np.where(q, sign_q, np.where(t, sign_t, 0.0)) * rng.uniform(0.7, 1.1)
    image = image + rng.normal(0, 0.5, image.shape)
    target = (t | q) if group == 2 else (t & ~q)
    return np.clip(np.round(128 + 40 * image), 0, 255).astype(np.uint8), target.astype(np.uint8), group


def _ellipse(
    x: np.ndarray, y: np.ndarray, cx: float, cy: float, a: float, b: float, angle: float
) -> Bool[np.ndarray, "s s"]:
    u, v = x - cx, y - cy
    along, across = u * math.cos(angle) + v * math.sin(angle), v * math.cos(angle) - u * math.sin(angle)
    return (along / a) ** 2 + (across / b) ** 2 <= 1


claim = Claim(
    statement=(
        "Where sub-groups want different things marked, a segmenter that is told the sub-group (CEmb) beats the same "
        "block without that knowledge; where they want the same, knowing it gains nothing."
    ),
    data=(
        f"{SIDE} x {SIDE} px images of two ellipses, {COUNTS[0]} to train on and {COUNTS[1]} to test on; three "
        "sub-groups with different targets, and a control with one rule"
    ),
    arms={
        "cemb": "condition-embedding block, told the sub-group",
        "dec": "no block: the decoder alone is trained",
        "m1": "the same block with one condition for all",
        "shuffled": "the block, told the sub-group of another image",
    },
    run="zoo.models.cemb_sam.claim:run",
    primary=Comparison(
        "cemb",
        "m1",
        "heterogeneous",
        margin=3.0,
        readings={
            "supported": "Knowing the sub-group helps, beyond what the block's size brings.",
            "not supported": "What the block gains here is capacity, not knowledge of the sub-group.",
            "inconclusive": "These seeds do not tell knowledge of the sub-group from capacity.",
        },
    ),
    secondary=(
        Comparison(
            "cemb",
            "dec",
            "heterogeneous",
            margin=5.0,
            readings={
                "supported": "The conditioned block beats fine-tuning the decoder alone.",
                "not supported": "Fine-tuning the decoder alone does as well.",
                "inconclusive": "The conditioned block and fine-tuning the decoder are not told apart.",
            },
        ),
        Comparison(
            "cemb",
            "shuffled",
            "heterogeneous",
            readings={
                "supported": "It has to be the right sub-group.",
                "not supported": "Any sub-group would do.",
                "inconclusive": "Whether it has to be the right sub-group stays open.",
            },
        ),
        Comparison(
            "m1",
            "dec",
            "heterogeneous",
            headline=True,
            readings={
                "supported": "Part of the gain over fine-tuning is capacity, which the paper doesn't separate.",
                "not supported": "The block without conditions gains nothing over fine-tuning.",
                "inconclusive": "What the block gains without conditions stays open.",
            },
        ),
        Comparison(
            "cemb",
            "m1",
            "homogeneous",
            readings={
                "supported": "Conditions help even where sub-groups agree, so what they bring is not knowledge.",
                "not supported": "Where sub-groups agree, knowing them gains nothing, as it should.",
                "inconclusive": "Where sub-groups agree, no gain of knowing them is seen.",
            },
        ),
    ),
    # Table 1, Dice on BUSI's three sub-groups: CEmb-SAM, and the decoder fine-tuned on the same images
    paper={"cemb": {"heterogeneous": 89.35}, "dec": {"heterogeneous": 85.95}},
    seeds=(30, 31, 32, 33, 34),  # named before any of them was run; earlier ones had another claim
    falsified_if={
        "on sub-groups that differ, the block told the sub-group is not above the block with one condition": (
            "cemb vs. m1, heterogeneous",
        )
    },
)
