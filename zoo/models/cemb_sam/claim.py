"""CEmb-SAM's headline in miniature: does telling the network the sub-group help, and of which kind of sub-groups?

Images of 64 x 64 px hold two ellipses, T and Q. Two kinds of sub-groups:

- ``appearance``, as in the paper's sets: everywhere the same is to be marked, T (darker than tissue) without Q
  (brighter), but each sub-group is of another machine: speckle, contrast, gain over depth, layers.
- ``rules``: one look, but each sub-group wants something else marked: T without Q where T is dark and Q bright, T
  without Q where it is the other way round, or both together.

Every arm is the plugin's own network on the small SAM that comes with the zoo, with the plugin's own losses and loop,
once as printed and once as released. All get the same images, steps, batches and rate; the threshold of each is the
best on its validation images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter

from zoo.claims import Claim, Comparison, spending
from zoo.claims.types import Verdict
from zoo.config import changed
from zoo.data.case import Case
from zoo.data.features import FeatureCache
from zoo.metrics import dice
from zoo.models.cemb_sam.data import Item, load
from zoo.models.cemb_sam.training import READINGS, CEmbSamRecipe, build, fit, full_logits
from zoo.nn.promptable import Promptable
from zoo.training import Run

SIDE = 64  # px
GROUPS = ("first", "second", "third")
Kind = Literal["appearance", "rules"]
KINDS: tuple[Kind, ...] = ("appearance", "rules")
COUNTS = (64, 24, 48)  # images to train on, to choose the threshold on, and to test on
THRESHOLDS = np.arange(-2, 2.1, 0.25)  # logits
TUNED_ON = (900,)  # size, length and rate of an earlier form of this claim, by time and by its arms without sub-groups

BASE = CEmbSamRecipe(
    sam="demo", image_size=128, working_size=SIDE, epochs=6, batch_size=8, jitter=4, infers=False, lr=1e-3
)
PAPER: dict[str, dict[str, str]] = {"cemb": {}, "m1": {}, "shuffled": {}, "dec": {"method": "decoder-only"}}
ARMS: dict[str, CEmbSamRecipe] = {
    **{arm: changed(BASE, how) for arm, how in PAPER.items()},
    **{
        arm: changed(BASE, {**READINGS["released"], "recipe": "released", "jitter": BASE.jitter})
        for arm in ("released", "released m1")
    },
}


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Dice in percent of every arm on both kinds of sub-groups; all arms start from and see the same."""
    counts = (16, 8, 12) if quick else COUNTS
    scores: dict[str, dict[str, float]] = {arm: {} for arm in ARMS}
    cache = FeatureCache(half=True)  # of the frozen encoder, for all arms
    for number, kind in enumerate(KINDS):
        rng = np.random.default_rng([0xCE3B, seed, number])
        parts = [draw(count, rng, kind) for count in counts]
        for arm, recipe in ARMS.items():
            recipe = replace(recipe, epochs=1 if quick else recipe.epochs)
            with spending(arm):
                scores[arm][kind] = 100 * measured(arm, recipe, parts, cache, seed)["test"]
    return scores


def measured(
    arm: str, recipe: CEmbSamRecipe, parts: Sequence[Sequence[Case]], cache: FeatureCache, seed: int
) -> dict[str, float]:
    """Mean Dice in [0, 1] of validation and test images after the plugin's training, at the validation's threshold."""
    with Run(seed=seed, device="cpu", progress=False) as chance:
        chance.stage("training")
        model = build(recipe, GROUPS[:1] if arm.endswith("m1") else GROUPS)
        model.base = Promptable(model.base.sam, cache=cache)
        groups = replace(model.config, conditions=GROUPS)
        items = [[load(case, groups, soft=recipe.soft_masks) for case in part] for part in parts]
        train, validation, test = (
            told(arm, part, np.random.default_rng([seed, 11, i])) for i, part in enumerate(items)
        )
        fit(model, recipe, train, [], chance)
        found = full_logits(model, validation, batch_size=32), full_logits(model, test, batch_size=32)
    means = [mean_dice(found[0], validation, cut) for cut in THRESHOLDS]
    best = int(np.argmax(means))
    return {"validation": means[best], "test": mean_dice(found[1], test, float(THRESHOLDS[best]))}


def mean_dice(logits: Sequence[Float[np.ndarray, "s s"]], items: Sequence[Item], cut: float) -> float:
    return float(np.mean([dice(one > cut, item.mask) for one, item in zip(logits, items, strict=True)]))


def told(arm: str, items: Sequence[Item], rng: np.random.Generator) -> list[Item]:
    """The images with the sub-group that the arm is told: their own, another image's, or one for all."""
    groups: Int[np.ndarray, " n"] = np.array([item.condition for item in items])
    if arm.endswith("m1"):
        groups = np.zeros_like(groups)
    if arm == "shuffled":
        groups = rng.permutation(groups)
    return [replace(item, condition=int(group)) for item, group in zip(items, groups, strict=True)]


# ---- data ------------------------------------------------------------------------------------------------------------


def draw(count: int, rng: np.random.Generator, kind: Kind) -> list[Case]:
    """Images with their sub-groups, drawn at random."""
    made = []
    for i in range(count):
        group = int(rng.integers(len(GROUPS)))
        image, target = _look(*_scene(rng, 0), group, rng) if kind == "appearance" else _plain(*_scene(rng, group), rng)
        pixels = np.clip(np.round(image), 0, 255).astype(np.uint8)
        made.append(Case(pixels, str(i), {"mask": target.astype(np.uint8)}, attributes={"condition": GROUPS[group]}))
    return made


def _scene(rng: np.random.Generator, group: int) -> tuple[np.ndarray, np.ndarray]:
    """How bright T and Q are, from -1 to 1, and what is to be marked by the rule of a group."""
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
    return np.where(q, sign_q, np.where(t, sign_t, 0.0)), (t | q) if group == 2 else (t & ~q)


def _plain(scene: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return 128 + 40 * (scene * rng.uniform(0.7, 1.1) + rng.normal(0, 0.5, scene.shape)), target


def _look(scene: np.ndarray, target: np.ndarray, group: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The same scene on one of three machines: fine speckle that fades with depth, coarse and pale, or on layers."""
    depth = np.linspace(-1, 1, SIDE)[:, None]
    grain, contrast, level, gain, layers = ((0.5, 40, 110, -35, 0), (1.2, 38, 165, 10, 0), (0.8, 45, 90, 35, 18))[group]
    speckle = np.hypot(*(gaussian_filter(rng.standard_normal(scene.shape), (grain, 1.5 * grain)) for _ in "xy"))
    bands = np.sin(2 * math.pi * (depth * rng.uniform(2, 4) + rng.random() + 0.1 * rng.normal() * depth.T))
    tissue = level + contrast * rng.uniform(0.7, 1.1) * scene + gain * depth + layers * bands
    return np.clip(tissue, 5, None) * (speckle / speckle.mean()) ** (0.5, 0.25, 0.25)[group], target


def _ellipse(
    x: np.ndarray, y: np.ndarray, cx: float, cy: float, a: float, b: float, angle: float
) -> Bool[np.ndarray, "s s"]:
    u, v = x - cx, y - cy
    along, across = u * math.cos(angle) + v * math.sin(angle), v * math.cos(angle) - u * math.sin(angle)
    return (along / a) ** 2 + (across / b) ** 2 <= 1


def _compare(method: str, baseline: str, metric: str, *, yes: str, no: str, open: str, **more: Any) -> Comparison:
    """With what each verdict means."""
    readings: dict[Verdict, str] = {"supported": yes, "not supported": no, "inconclusive": open}
    return Comparison(method, baseline, metric, readings=readings, **more)


claim = Claim(
    statement=(
        "Joint training on sub-groups that differ in appearance gains from telling the network the sub-group (CEmb), "
        "beyond the same block without that knowledge."
    ),
    data=(
        f"{SIDE} x {SIDE} px images of two ellipses, {COUNTS[0]} to train on, {COUNTS[1]} for thresholds, {COUNTS[2]} "
        "to test on; three sub-groups of one rule and three looks, and three of one look and three rules"
    ),
    arms={
        "cemb": "condition-embedding block as printed, told the sub-group",
        "m1": "the same block with one condition for all",
        "shuffled": "the block as printed, told the sub-group of another image",
        "dec": "no block: the decoder alone is trained",
        "released": "block, loss, masks and encoder's input as in the authors' code, told the sub-group",
        "released m1": "the same with one condition for all",
    },
    run="zoo.models.cemb_sam.claim:run",
    primary=_compare(
        "cemb", "m1", "appearance", margin=1.0, equivalence=1.0, recipe="paper",
        yes="Where sub-groups differ in appearance, knowing them helps.",
        no="Where sub-groups differ in appearance alone, knowing them gains less than a point.",
        open="Whether knowing sub-groups of other appearance helps stays open.",
    ),
    secondary=(
        _compare(
            "released", "released m1", "appearance", margin=1.0, equivalence=1.0, recipe="released", headline=True,
            yes="As released, knowing sub-groups of other appearance helps.",
            no="As released, knowing sub-groups of other appearance gains less than a point, too.",
            open="As released, whether it helps stays open.",
        ),
        _compare(
            "cemb", "m1", "rules", margin=3.0, recipe="paper", headline=True,
            yes="Where sub-groups want different things marked, knowing them helps.",
            no="Not even where sub-groups want different things marked does knowing them help.",
            open="Whether knowing them helps where they want different things stays open.",
        ),
        _compare(
            "released", "released m1", "rules", margin=3.0, recipe="released",
            yes="As released, knowing sub-groups that want different things helps.",
            no="As released, knowing sub-groups that want different things gains less than 3 points.",
            open="As released, whether knowing sub-groups that want different things helps stays open.",
        ),
        _compare(
            "cemb", "dec", "appearance", margin=1.0,
            yes="The conditioned block beats fine-tuning the decoder alone.",
            no="Fine-tuning the decoder alone does as well.",
            open="The conditioned block and fine-tuning the decoder are not told apart.",
        ),
        _compare(
            "cemb", "shuffled", "rules",
            yes="Where rules differ it has to be the right sub-group.",
            no="Any sub-group would do.",
            open="Whether it has to be the right sub-group stays open.",
        ),
    ),
    # Table 1, Dice on BUSI's three sub-groups: CEmb-SAM, and the decoder fine-tuned on the same images
    paper={"cemb": {"appearance": 89.35}, "dec": {"appearance": 85.95}},
    seeds=(50, 51, 52, 53, 54, 55, 56, 57),  # named before any of them was run
    tuned_on=TUNED_ON,
    tuning=(
        "All arms have one rate, length and batch, and primary rivals start from the same weights; an earlier form"
        " of the claim settled them, by time and by what the arms without sub-groups learned. All else is the "
        "paper's, or the authors' code's."
    ),
    changes=(
        "Primary are now sub-groups that differ in appearance, as the paper's do; the earlier form had sub-groups of "
        "different rules, which are its secondary comparison and still gain. The authors' code is an arm; its block "
        "starts with embeddings that are nearly alike, and the 48 steps of the miniature hardly tell them apart. "
        "Thresholds are chosen on validation images. Eight fresh seeds instead of five, with fewer images and without "
        "the control of one rule, for the time they take."
    ),
    falsified_if={
        "on sub-groups of other appearance, being told the sub-group gains the block less than a point of Dice": (
            "cemb vs. m1, appearance",
        )
    },
)  # fmt: skip
