"""The 3-D finding in miniature: slices without the region belong into the support set.

As in the paper, UniverSeg's weights are fixed, and what is drawn anew is who is labelled and who is tested: here the
demo weights, whose training showed the region in every image, and the whole gland, which was none of its tasks, of
phantoms that it never saw. What an ROI-agnostic pool adds may be the examples of absence or the mere number of
supports: an arm with the inclusive pool's slices repeated to that number stands beside it. Two U-Nets are trained on
the one labelled volume, one of the size of the small UniverSeg, and a larger one by nnU-Net's recipe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32

from zoo import loading
from zoo.claims import Claim, Comparison, Verdict, spending
from zoo.data.phantoms.prostate_mr import prostate_mr
from zoo.errors import DataError
from zoo.metrics import dice
from zoo.models.universeg_prostate.baselines import NnUNetRecipe, fit_unet, unet, unet_probability
from zoo.models.universeg_prostate.model import UniverSegProstate
from zoo.models.universeg_prostate.support import Support, drawn, labelled, weights
from zoo.training import Run

# SHA-256 of the demo weights, which the numbers of a record belong to
WEIGHTS = "5ace90c2b3f80370ac564be1cf41cf497071e83fee85277147ea0e75934e7506"
SAME_SIZE, LARGER = (7, 15, 31), (15, 30, 62)  # widths; the small UniverSeg has 26,601 parameters
UNET = NnUNetRecipe(folds=1, steps=160, batch_size=4, lr=0.05, momentum=0.9, augment=False)
# Sizes were chosen on seed 900 by time: about half a minute a seed.
SIZE = 16  # supports
TESTS = 3
VOLUMES = (1, 2)  # N
FIRST = 100_000  # phantoms from here on are nobody's


class Scanned(NamedTuple):
    """The slices of a volume as the network sees them, with the gland."""

    slices: Float32[np.ndarray, "z s s"]
    truth: Bool[np.ndarray, "z s s"]


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Dice in percent, of volumes and of the slices that show the gland, for 1 and 2 labelled volumes."""
    unet_recipe, tests = (replace(UNET, steps=3), 1) if quick else (UNET, TESTS)
    model = fixed()
    side = model.config.side
    cases = [prostate_mr(FIRST + 100 * seed + i) for i in range(max(VOLUMES) + tests)]
    parts = [labelled(case, "gland", side, "percentiles") for case in cases]
    tested = [Scanned(part.images, part.labels) for part in parts[max(VOLUMES) :]]
    with spending("agnostic", "inclusive", "uniform", "repeated"):
        pass  # nothing is trained
    found: dict[str, dict[str, float]] = {}
    for n in VOLUMES:
        whole = together(parts[:n])
        inclusive = whole.pooled("inclusive")
        again = inclusive.chosen(np.resize(np.arange(len(inclusive)), len(whole)))
        ways = {
            "agnostic": (whole, "z-weighted"),
            "inclusive": (inclusive, "z-weighted"),
            "uniform": (whole, "random"),
            "repeated": (again, "z-weighted"),
        }
        for arm, (pool, select) in ways.items():
            predicted = [segmented(model, one.slices, pool, select, [seed, n, i]) for i, one in enumerate(tested)]
            found.setdefault(arm, {}).update(measured(predicted, tested, n))
    for arm, widths in (("U-Net", SAME_SIZE), ("nnU-Net", LARGER)):
        larger = arm == "nnU-Net"
        with spending(arm, examples=1), Run(seed=seed, device="cpu", progress=False) as chance:
            chance.stage("network")
            net = unet(widths)
            how = replace(unet_recipe, augment=larger)
            fit_unet(net, parts[0].images, parts[0].labels, how, chance, None, "training")
        nets = torch.nn.ModuleList([net])
        found[arm] = measured([unet_probability(nets, one.slices, tta=larger) for one in tested], tested, 1)
    return found


def fixed() -> UniverSegProstate:
    """The demo weights. Raises ``DataError`` where they aren't those of the claim."""
    file = Path(__file__).parent / "demo" / "model.safetensors"
    if hashlib.sha256(file.read_bytes()).hexdigest() != WEIGHTS:
        raise DataError("the demo weights of universeg-prostate aren't those of its claim; state theirs in claim.py")
    return loading.load_into(UniverSegProstate, "demo", "cpu")


def together(parts: Sequence[Support]) -> Support:
    """All slices of some volumes."""
    names = ("images", "labels", "z", "depth")
    arrays = {name: np.concatenate([getattr(one, name) for one in parts]) for name in names}
    return Support(**arrays, case=tuple(name for one in parts for name in one.case))


def segmented(
    model: UniverSegProstate, slices: Float32[np.ndarray, "z s s"], pool: Support, select: str, key: list[int]
) -> Float32[np.ndarray, "z s s"]:
    """Probability of every slice, from one draw of supports."""
    w = weights(pool, np.arange(len(slices), dtype=float), len(slices), select, "index")
    return model.segment(slices, pool, drawn(w, SIZE, 1, np.random.default_rng(key)), progress=False)[0]


def measured(predicted: Sequence[Float32[np.ndarray, "z s s"]], tested: Sequence[Scanned], n: int) -> dict[str, float]:
    """Mean over volumes, and over all slices that show the gland; in the network's square, as in the paper."""
    masks = [(p > 0.5, one.truth) for p, one in zip(predicted, tested, strict=True)]
    flat = [dice(a, b) for mask, truth in masks for a, b in zip(mask, truth, strict=True) if b.any()]
    solid = [dice(mask, truth) for mask, truth in masks]
    return {f"3-D Dice, N={n}": 100 * float(np.mean(solid)), f"2-D Dice, N={n}": 100 * float(np.mean(flat))}


def _against(arm: str, n: int, yes: str, no: str, headline: bool = False) -> Comparison:
    readings: dict[Verdict, str] = {
        "supported": yes,
        "not supported": no,
        "inconclusive": f"It stays open: {yes[0].lower()}{yes[1:]}",
    }
    return Comparison("agnostic", arm, f"3-D Dice, N={n}", readings=readings, headline=headline)


HEADLINE = _against(
    "inclusive", 1, "With one labelled volume, slices without the region make whole volumes better.",
    "With one labelled volume, slices without the region don't make whole volumes better.",
)  # fmt: skip
OTHERS = (
    _against("inclusive", 2, "With two, too, such slices help.", "With two such slices don't help."),
    _against("repeated", 2, "It is what they show, not their number.", "As many that all show the region do as well."),
    _against("uniform", 2, "Choosing supports by height helps.", "Choosing supports by height doesn't help."),
    _against("U-Net", 1, "With one labelled volume it beats a U-Net of its size that is trained on it.",
             "A U-Net of its size that is trained on the one labelled volume does as well.", headline=True),
    _against("nnU-Net", 1, "It beats a larger U-Net with augmentation, too.",
             "A larger U-Net with augmentation does as well.", headline=True),
)  # fmt: skip

claim = Claim(
    statement=(
        "Support slices without the region make the segmentation of whole volumes better, although the network was "
        "taught with tasks that always show it."
    ),
    data=(
        f"Prostate phantoms of 24 slices: 1 and 2 are labelled, {TESTS} tested, all new for every seed; the gland, "
        f"which was no task of the training; {SIZE} supports a slice; the demo weights"
    ),
    arms={
        "agnostic": "all labelled slices, drawn by height",
        "inclusive": "labelled slices that show the gland, drawn by height",
        "uniform": "all labelled slices, drawn alike",
        "repeated": "those that show the gland, repeated to as many as all labelled slices are",
        "U-Net": "of the small UniverSeg's size, trained on the labelled volume",
        "nnU-Net": "a larger U-Net, trained on it with nnU-Net's augmentation, mirrored when it predicts",
    },
    run="zoo.models.universeg_prostate.claim:run",
    primary=HEADLINE,
    secondary=OTHERS,
    # Table 3, prostate gland; Table 2 has U-Nets in 2-D alone
    paper={
        "agnostic": {"3-D Dice, N=1": 59.6, "3-D Dice, N=2": 69.0},
        "inclusive": {"3-D Dice, N=1": 48.1, "3-D Dice, N=2": 48.8},
    },
    seeds=(50, 51, 52, 53, 54, 55, 56, 57),  # named before any of them was run
    tuned_on=(900,),
    tuning=(
        "The arms of support sets look at one trained network and have nothing to tune. Rate, momentum and steps of "
        "the U-Nets were chosen on seed 900, so that the smaller one learns within 160 steps."
    ),
    unequal={
        "U-Net": "is trained on the labelled volume, which a UniverSeg with fixed weights only looks at",
        "nnU-Net": "is trained on the labelled volume, which a UniverSeg with fixed weights only looks at",
    },
    falsified_if={
        "slices without the region don't help": (
            "agnostic vs. inclusive, 3-D Dice, N=1",
            "agnostic vs. inclusive, 3-D Dice, N=2",
        ),
        "as many supports that show it do as well": ("agnostic vs. repeated, 3-D Dice, N=2",),
    },
)
