"""The headline in miniature: where classes are rare, do prototypes keep up with a black box and beat ProtoPNet?

Five kinds of procedural lesions differ in the texture of a small patch; the rarest has 15 training images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from zoo.claims import Claim, Comparison, spending
from zoo.claims.types import Verdict
from zoo.config import changed
from zoo.data.images import ImageSet, over_images
from zoo.data.textures import SIZE, TEXTURES, draw_set
from zoo.metrics import balanced_accuracy
from zoo.models.local_global_prototypes.baselines import fit_black_box, fit_protopnet
from zoo.models.local_global_prototypes.model import BranchName, LocalGlobalPrototypes
from zoo.models.local_global_prototypes.projection import survey
from zoo.models.local_global_prototypes.training import LocalGlobalRecipe, fit, training
from zoo.training import Run

TRAIN, TEST = (400, 160, 60, 30, 15), (80, 80, 80, 80, 80)
# Of both readings, but for the size of network and schedule: from scratch, so at a higher rate. All arms of a reading
# have the same epochs, batches, rates, weights and augmentation, and a stage 2 of what decides.
SCALE: dict[str, Any] = {
    "network": {"labels": TEXTURES, "backbone": "small", "prototypes": 4, "width": 32, "image_size": SIZE},
    "pretrained": False,
    "epochs": 14,
    "lr_backbone": 2e-3,
    "augment": "flips",
    "thumbnails": 0,
}
# Random starts: k-means needs features that tell images apart. Like the rates chosen on seed 0, which is no seed of
# the claim.
PAPER = changed(training.configure("paper"), {**SCALE, "init": "random"})
# Noise on similarities is drawn anew here; in the code it stays on them, which 20 epochs make no more than 0.045.
RELEASED = changed(
    training.configure("paper", {"recipe": "released"}), {**SCALE, "project_every": 3, "noise_stays": False}
)
BOUND = float(np.e / (np.e + 4 / np.e))  # of a probability from mean cosines at temperature 1, five classes


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Train every arm on one set of images; balanced accuracy and the mean probability of the chosen class."""
    train, test, shorter = TRAIN, TEST, {}
    if quick:
        train, test, shorter = (12, 10, 8, 6, 5), (4, 4, 4, 4, 4), {"epochs": 1, "stage2_epochs": 1}
    paper, released = replace(PAPER, **shorter), replace(RELEASED, **shorter)
    images = draw_set(train, np.random.default_rng([seed, 1]))
    unseen = draw_set(test, np.random.default_rng([seed, 2]))
    scores: dict[str, dict[str, float]] = {}
    baselines: dict[str, tuple[LocalGlobalRecipe, Callable[[LocalGlobalRecipe, ImageSet, Run], Any]]] = {
        "black box": (paper, fit_black_box),
        "black box, released": (released, fit_black_box),
        "protopnet": (paper, fit_protopnet),
    }
    for arm, (recipe, fit_baseline) in baselines.items():
        with spending(arm, examples=len(images)), Run(seed=seed, device="cpu") as arm_run:
            net = fit_baseline(recipe, images, arm_run)
            scores[arm] = _scores(over_images(net, net.probabilities, unseen, arm_run.device), unseen)
    nothing = draw_set((0, 0, 0, 0, 0), np.random.default_rng(0))
    branches: dict[str, tuple[LocalGlobalRecipe, BranchName]] = {
        "local": (paper, "local"),
        "joint": (paper, "joint"),
        "joint, released": (released, "joint"),
    }
    for arm, (recipe, branch) in branches.items():
        names = [arm, f"{arm}, pruned", f"{arm}, untuned"] if branch == "joint" else [arm]
        with spending(*names, examples=len(images)), Run(seed=seed, device="cpu") as arm_run:
            model = fit(changed(recipe, {"network": {"branch": branch}}), images, nothing, arm_run)
        scores[arm] = _scores(_probabilities(model, unseen), unseen)
        if branch == "joint":
            scores[arm]["distinct regions"] = _distinct_regions(model, images)
            scores[f"{arm}, pruned"] = _scores(_probabilities(model, unseen, pruned=True), unseen)
            scores[f"{arm}, pruned"]["pruned prototypes"] = float(1 - model.head("joint", pruned=True).mask.mean())
            model.tuned.fill_(False)
            scores[f"{arm}, untuned"] = _scores(_probabilities(model, unseen), unseen)
    return scores


def _distinct_regions(model: LocalGlobalPrototypes, images: ImageSet) -> float:
    """Share of the local prototypes that have a nearest region of their own: 1 / K where a class's collapsed to one."""
    places = survey(model, images, model.device)[1].places()[1]
    return len(places.unique()) / places.numel()


def _scores(found: Float[torch.Tensor, "n c"], unseen: ImageSet) -> dict[str, float]:
    return {
        "BAcc": balanced_accuracy(found.argmax(1).numpy(), unseen.y.numpy()),
        "probability of the chosen class": float(found.max(1).values.mean()),
    }


def _probabilities(model: LocalGlobalPrototypes, images: ImageSet, pruned: bool = False) -> Float[torch.Tensor, "n c"]:
    return over_images(model, lambda x: model.probabilities(model(x), pruned=pruned), images, model.device)


def _compare(method: str, baseline: str, metric: str, *, yes: str, no: str, open: str, **more: Any) -> Comparison:
    """With what each verdict means."""
    readings: dict[Verdict, str] = {"supported": yes, "not supported": no, "inconclusive": open}
    return Comparison(method, baseline, metric, readings=readings, **more)


claim = Claim(
    statement=(
        "Under class imbalance, global and local prototypes with a clustering loss and a tuned head (Joint) reach the "
        "balanced accuracy of a black box and exceed ProtoPNet. Before the head is tuned, class scores are mean "
        f"cosines at temperature 1, so that no probability of five classes can pass {BOUND:.2f}; the untuned arm "
        "shows it."
    ),
    data=f"procedural lesions of {SIZE} px, five textures: {'/'.join(map(str, TRAIN))} to train on, 80 of each to test",
    arms={
        "joint": "both branches, head tuned",
        "joint, pruned": "one prototype for each nearest training image, then the head tuned",
        "joint, untuned": f"before stage 2; probabilities are bounded by {BOUND:.2f}",
        "joint, released": "as the authors' code: temperature, projections, unweighted, AdamW",
        "joint, released, pruned": "the same, one prototype for each nearest image or region",
        "joint, released, untuned": "the same, before stage 2",
        "local": "regions only, head tuned",
        "black box": "the backbone with a linear layer, tuned as the heads are",
        "black box, released": "the same with the optimiser and the weights of the authors' code",
        "protopnet": "own-class cluster and other-class separation costs, prototypes pushed to patches, head tuned",
    },
    run="zoo.models.local_global_prototypes.claim:run",
    seeds=(101, 102, 103, 104, 105, 106, 107, 108),
    tuned_on=(0, 900, 901),
    tuning=(
        "The backbone starts from random weights here. Its rate was searched for each arm alike, on two seeds that are "
        "none of the claim's: of 0.001, 0.002 and 0.004 the second is the best for joint (BAcc 0.756, 0.758, 0.740) "
        "and for the black box (0.805, 0.848, 0.833), and all arms have it. As released the third is ahead by little: "
        "joint 0.400, 0.394, 0.425, black box 0.794, 0.824, 0.830. All other values are those of the reading."
    ),
    primary=_compare(
        "joint", "black box", "BAcc", tolerance=0.01, recipe="paper",
        yes="Explaining by prototypes costs no accuracy here.",
        no="Explaining by prototypes costs accuracy here.",
        open="Whether explaining by prototypes costs accuracy stays open.",
    ),
    secondary=(
        _compare(
            "joint, released", "black box, released", "BAcc", tolerance=0.01, recipe="released",
            yes="As the authors' code trains them, prototypes cost no accuracy here.",
            no="As the authors' code trains them, prototypes cost accuracy here.",
            open="Whether prototypes as the authors' code trains them cost accuracy stays open.",
        ),
        _compare(
            "joint, released", "joint", "distinct regions",
            yes="Projection keeps a class's local prototypes apart.",
            no="Projection does not keep a class's local prototypes apart.",
            open="Whether projection keeps a class's local prototypes apart stays open.",
        ),
        _compare(
            "joint", "protopnet", "BAcc", margin=0.03,
            yes="The running centroids serve rare classes better than cluster and separation costs.",
            no="ProtoPNet does as well here.",
            open="Joint prototypes and ProtoPNet are not told apart.",
        ),
        _compare(
            "local", "protopnet", "BAcc",
            yes="Regions alone beat ProtoPNet.",
            no="Regions alone do not beat ProtoPNet.",
            open="Regions alone and ProtoPNet are not told apart.",
        ),
        _compare(
            "joint, pruned", "joint", "BAcc", tolerance=0.01,
            yes="The pruned prototypes were redundant.",
            no="Pruning costs more than a point.",
            open="Whether pruning costs more than a point stays open.",
        ),
    ),
    # DenseNet169 on ISIC 2019: Table 1, pruned Table 2; pruning takes 35 % of the prototypes on average (Sec. 4)
    paper={
        "joint": {"BAcc": 0.750},
        "joint, pruned": {"BAcc": 0.746, "pruned prototypes": 0.35},
        "local": {"BAcc": 0.721},
        "black box": {"BAcc": 0.747},
        "protopnet": {"BAcc": 0.552},
    },
    falsified_if={
        "Joint trails the black box by 0.01 or more in balanced accuracy, in both readings": (
            "joint vs. black box, BAcc",
            "joint, released vs. black box, released, BAcc",
        )
    },
    unequal={"joint, released": "its stage 2 has batches of 100, so fewer updates; regions are settled before it"},
    changes=(
        "The black box had no stage 2; now every arm has the same stages, and the authors' code is a second reading. "
        "ProtoTree and whole images alone are no arms any more, to pay for eight seeds."
    ),
)  # fmt: skip
