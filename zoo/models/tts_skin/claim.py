"""The headline in miniature: where an artifact betrayed the label and now belies it, do a few points undo the harm?

A ruler lies beside 95 % of striped discs and 5 % of plain ones in training, and the other way round in the test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zoo.claims import Claim, Comparison, spending
from zoo.claims.types import Verdict
from zoo.config import changed
from zoo.data.images import ImageSet, normalise, to_tensor
from zoo.data.ruled_discs import SIZE, RuledDiscs
from zoo.metrics import auroc
from zoo.models.tts_skin.data import ALPHA, ALPHA_ARTIFACTS, Window, draw, no_points, noise_crop
from zoo.models.tts_skin.model import Classifier
from zoo.models.tts_skin.replicas import Replicas, replicas
from zoo.models.tts_skin.selection import as_mask, averaged, best_channels, by_all_channels, channel_scores, counted
from zoo.models.tts_skin.selection import random_channels as draw_channels
from zoo.models.tts_skin.training import TtsSkinRecipe, fit, training
from zoo.nn.test_time import T3A, Tent
from zoo.training import Run

TRAIN, TEST, BIAS = 600, 120, 0.95
COPIES, KEEP = 4, 0.1  # copies: 50 in the paper; 13 of 128 channels
# From scratch, so at a higher rate; all else as printed, but for the size of network and schedule.
RECIPE: TtsSkinRecipe = changed(
    training.configure("paper"),
    {
        "network": {"backbone": "small", "image_size": SIZE, "small_channels": (24, 48, 128),
                    "small_strides": (1, 2, 2)},
        "pretrained": False, "epochs": 6, "batch_size": 64, "lr": 1e-2,
    },
)  # fmt: skip


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """A classifier for each bias of the training; all arms ask it about the same copies of the same test images."""
    n, m, recipe = (96, 24, replace(RECIPE, epochs=1)) if quick else (TRAIN, TEST, RECIPE)
    nothing = ImageSet.of([], [], empty=(3, SIZE, SIZE))
    scores: dict[str, dict[str, float]] = {}
    for part, (bias, names) in enumerate(((BIAS, BIASED), (0.5, ("plain", "TTS, 20 pairs")))):
        arms = [name + (", no bias" if bias == 0.5 else "") for name in names]
        seen = RuledDiscs(n, bias, np.random.default_rng([seed, 1, part]))
        with spending(*arms, examples=n), Run(seed=seed, device="cpu") as arm_run:
            classifier = fit(recipe, seen.images, nothing, arm_run).classifier()
        for metric, share in {"AUC": 1 - bias, "AUC, even": 0.5}.items():
            unseen = RuledDiscs(m, share, np.random.default_rng([seed, 2, part, len(metric)]))
            said = asked(classifier, unseen, seed, names)
            for arm, name in zip(arms, names, strict=True):
                scores.setdefault(arm, {})[metric] = auroc(said[name], unseen.y)
    return scores


def asked(
    classifier: Classifier, unseen: RuledDiscs, seed: int, names: Sequence[str]
) -> dict[str, Float[np.ndarray, " n"]]:
    """The probability that a disc is striped, by every arm; what adapts goes from image to image."""
    adapting = {name: STREAMS[name](classifier.net) for name in names if name in STREAMS}
    said: dict[str, list[float]] = {name: [] for name in names}
    for i in range(len(unseen.y)):
        answers = selected(classifier, unseen, i, seed, names)
        x = answers.pop("copies")
        if "NoiseCrop" in names:
            alone = noise_crop(unseen.views[i], unseen.lesion[i])
            answers["NoiseCrop"] = by_all_channels(classifier, copies_of(alone, no_points(), no_points(), seed, i).x)
        answers = {name: answers[name][counted(x)] for name in names if name in answers}
        answers |= {name: adapt(normalise(x[counted(x)])) for name, adapt in adapting.items()}
        for name in names:
            said[name].append(float(averaged(answers[name])[1]))
    return {name: np.array(p) for name, p in said.items()}


# ---- arms ----------------------------------------------------------------------------------------------------------

SELECTED: Mapping[str, Mapping[str, Any]] = {
    "random points": {"source": "nowhere"},
    "TTS, 1 pair": {"pairs": 1},
    "TTS, 10 pairs": {"pairs": 10},
    "TTS, 20 pairs": {},
    "TTS, 20 pairs, released": {"lookup": "cell"},
    "TTS, 1 pair, artifacts": {"pairs": 1, "source": "artifact"},
    "TTS, 20 pairs, artifacts": {"source": "artifact"},
}
STREAMS: Mapping[str, Any] = {
    "Tent": partial(Tent, episodic=False),
    "Tent, forgetting": partial(Tent, episodic=True),
    "T3A": T3A,
}
"""What goes on from image to image with what it has become."""

BIASED = ("plain", "random channels", *SELECTED, "NoiseCrop", *STREAMS)


def copies_of(view: UInt8[np.ndarray, "s s 3"], plus: np.ndarray, minus: np.ndarray, seed: int, i: int) -> Replicas:
    """The same copies of an image for every arm, with this one's points."""
    window, rng = Window(0, 0, SIZE, SIZE), np.random.default_rng([seed, 3, i])
    return replicas(to_tensor([view])[0], window.grid(plus), window.grid(minus), COPIES, "whole", rng)


def selected(
    classifier: Classifier, data: RuledDiscs, i: int, seed: int, names: Sequence[str]
) -> dict[str, Float[Tensor, "r ..."]]:
    """Logits of the copies of an image by all channels, by random ones and by those of each arm; and the ``copies``."""
    rng = np.random.default_rng([seed, 4, i])
    lesion, everywhere = data.lesion[i], np.ones_like(data.lesion[i])
    some = {}
    for name, how in SELECTED.items():
        source, pairs = how.get("source", "mask"), how.get("pairs", 20)
        plus = draw(everywhere if source == "nowhere" else lesion, pairs, rng)
        against = {"mask": ~lesion, "artifact": data.ruler[i], "nowhere": everywhere}[source]
        some[name] = copies_of(data.views[i], plus, draw(against, pairs, rng), seed, i)
    whole = copies_of(data.views[i], no_points(), no_points(), seed, i)
    chosen = [name for name in SELECTED if name in names]

    def choose(maps: Tensor) -> Tensor:
        drawn = draw_channels((1, maps.shape[1]), KEEP, rng).expand(len(maps), -1)
        masks = [torch.ones_like(drawn), drawn]
        for name in chosen:
            alpha = ALPHA_ARTIFACTS if SELECTED[name].get("source") == "artifact" else ALPHA
            lookup = SELECTED[name].get("lookup", RECIPE.network.lookup)
            scores = channel_scores(maps, some[name].positive, some[name].negative, alpha, lookup)
            masks.append(best_channels(scores, KEEP))
        return as_mask(torch.stack(masks))

    with torch.no_grad():
        logits = classifier(whole.x, choose)[1]
    return {"copies": whole.x, **dict(zip(["plain", "random channels", *chosen], logits, strict=True))}


def _compare(
    method: str, baseline: str, metric: str = "AUC", *, yes: str, no: str, open: str, **more: Any
) -> Comparison:
    """With what each verdict means."""
    readings: dict[Verdict, str] = {"supported": yes, "not supported": no, "inconclusive": open}
    return Comparison(method, baseline, metric, readings=readings, **more)


claim = Claim(
    statement=(
        "Where training ties an artifact to the label and the test reverses it, keeping a tenth of the channels by "
        "points on the lesion and beside it restores the AUC of a trained classifier; one pair of points is enough for "
        "much of it, random channels do nothing, and 20 pairs do as well as replacing the whole background (NoiseCrop)."
    ),
    data=f"procedural discs of {SIZE} px with or without a ruler, {TRAIN} to train on, {TEST} to test; AUC where the "
    "test reverses the ruler's bias, and AUC, even, where the ruler tells nothing: a method that only turns the short "
    "cut round gains in the first alone",
    arms={
        "plain": f"all channels, mean of {COPIES} copies",
        "random channels": "a tenth of them, drawn for every image",
        "random points": "test-time selection by 20 pairs of points that lie anywhere",
        "NoiseCrop": "the lesion on one noise image, by its whole mask",
        "TTS, 1 pair": "one point in the lesion's mask and one outside",
        "TTS, 10 pairs": "ten of each",
        "TTS, 20 pairs": "twenty of each, maps read between cells",
        "TTS, 20 pairs, released": "the same, maps read by the cell, as in the authors' code",
        "TTS, 1 pair, artifacts": "the negative point on the ruler, none where there is no ruler; alpha 0.2",
        "TTS, 20 pairs, artifacts": "twenty of each, so too",
        "Tent": "batch statistics and entropy steps, never forgotten, as released",
        "Tent, forgetting": "answers after its step and forgets it",
        "T3A": "templates that follow the stream of test images",
        "plain, no bias": "trained and tested where rulers tell nothing",
        "TTS, 20 pairs, no bias": "so too, with 20 pairs",
    },
    run="zoo.models.tts_skin.claim:run",
    seeds=(301, 302, 303, 304, 305, 306, 307, 308),
    tuned_on=(0,),
    tuning=(
        "All arms ask the same trained classifier, so there is nothing to tune for one and not for another. On seed 0 "
        "the stripes' amplitude was chosen: at 0.10 the network learns them too seldom for any arm to find (NoiseCrop "
        "0.52), at 0.13 it does (0.99) and arms are told apart."
    ),
    primary=_compare(
        "TTS, 20 pairs", "plain", margin=0.15, recipe="paper",
        yes="Points undo most of the harm that the artifact does.",
        no="Points don't undo the harm that the artifact does.",
        open="Whether points undo the harm that the artifact does stays open.",
    ),
    secondary=(
        _compare(
            "TTS, 20 pairs, released", "plain", margin=0.15, recipe="released",
            yes="Read by cells, as in the authors' code, points do so too.",
            no="Read by cells, as in the authors' code, points don't.",
            open="Whether points do so when maps are read by cells stays open.",
        ),
        _compare(
            "TTS, 1 pair", "plain", margin=0.10,
            yes="One pair of points is enough for a large part.",
            no="One pair of points is not enough.",
            open="Whether one pair of points is enough stays open.",
        ),
        _compare(
            "TTS, 1 pair", "random channels", margin=0.10,
            yes="It is the choice of channels that helps, not that they are few.",
            no="Random channels do nearly as well.",
            open="Whether it is the choice of channels that helps stays open.",
        ),
        _compare(
            "TTS, 20 pairs", "random points", margin=0.05,
            yes="It matters where the points lie.",
            no="Points that lie anywhere do as well.",
            open="Whether it matters where the points lie stays open.",
        ),
        _compare(
            "TTS, 20 pairs", "plain", "AUC, even", headline=True,
            yes="It helps also where rulers tell nothing in the test, so it isn't a short cut the other way round.",
            no="Where rulers tell nothing in the test it doesn't help.",
            open="Whether it helps where rulers tell nothing in the test stays open.",
        ),
        _compare(
            "TTS, 20 pairs", "NoiseCrop",
            yes="Twenty pairs of points beat a mask of the whole lesion.",
            no="Twenty pairs of points don't beat a mask of the whole lesion (NoiseCrop).",
            open="Points and a mask of the whole lesion (NoiseCrop) are not told apart.",
        ),
        _compare(
            "TTS, 20 pairs, artifacts", "TTS, 20 pairs",
            yes="Points on the artifact help more than points on the background.",
            no="Points on the artifact don't help more than points on the background.",
            open="Points on the artifact and on the background are not told apart.",
        ),
        _compare(
            "TTS, 20 pairs, no bias", "plain, no bias", tolerance=0.05,
            yes="Where artifacts tell nothing, selection costs little.",
            no="Where artifacts tell nothing, selection costs accuracy.",
            open="Whether selection costs accuracy where artifacts tell nothing stays open.",
        ),
    ),
    # Table 2: training bias 1.0, AUC
    paper={
        "plain": {"AUC": 0.584}, "T3A": {"AUC": 0.567}, "Tent": {"AUC": 0.541}, "NoiseCrop": {"AUC": 0.727},
        "TTS, 1 pair": {"AUC": 0.682}, "TTS, 10 pairs": {"AUC": 0.729}, "TTS, 20 pairs": {"AUC": 0.733},
        "TTS, 1 pair, artifacts": {"AUC": 0.722}, "TTS, 20 pairs, artifacts": {"AUC": 0.750},
    },
    falsified_if={
        "Selection by 20 pairs gains no 0.15 of AUC on the plain classifier, in both readings": (
            "TTS, 20 pairs vs. plain, AUC",
            "TTS, 20 pairs, released vs. plain, AUC",
        ),
        "Random channels do as well as one pair of points": ("TTS, 1 pair vs. random channels, AUC",),
    },
)  # fmt: skip
