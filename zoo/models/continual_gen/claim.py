"""The headline in miniature: without being told the domain, do subnetworks and routing forget less than one network?

Five of six domains of procedural lesions, in an order drawn for each seed. Three textures are the classes; a domain has
its colours, contrast and noise. Two are near copies of a third. A seventh is never learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.claims import Claim, Comparison, spending
from zoo.claims.types import Verdict
from zoo.data.images import ImageSet, over_images
from zoo.data.shifts import FOREIGN, KINDS, LOOKS, SIDE, draw_set
from zoo.metrics import balanced_accuracy
from zoo.models.continual_gen.data import DomainSet
from zoo.models.continual_gen.ensembles import EnsembleConfig
from zoo.models.continual_gen.model import ContinualGen, ContinualGenConfig
from zoo.models.continual_gen.training import ContinualGenRecipe, learn_in_turn, learn_stream
from zoo.training import Run

COUNTS = (360, 120, 150)  # of every domain, to train, validate and test
DOMAINS = 5
RECIPE = ContinualGenRecipe(
    network=ContinualGenConfig(
        backbone="small", image_size=SIDE, small_channels=(60, 60, 60), small_strides=(2, 2, 2), labels=KINDS, merge={},
        ensemble=EnsembleConfig(covariance="diagonal"),
    ),
    pretrained=False,
    epochs=5,
    retrain_epochs=7,
    update_epochs=12,  # as many as a new domain has, so that all arms make the same steps
    lr=3e-3,
    update_lr=1e-3,
    batch_size=32,
    augment="flips",
    ewc_weight=1e3,
    lwf_weight=0.5,
)  # fmt: skip
OURS = "continual-gen"
ROUTERS = (f"{OURS}, told the domain", f"{OURS}, routed by colour", f"{OURS}, routed at random")


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Train every arm on one stream; mean balanced accuracy over its domains after the last."""
    recipe, counts = RECIPE, COUNTS
    if quick:
        recipe, counts = replace(RECIPE, epochs=1, retrain_epochs=1, update_epochs=2), (32, 16, 8)
    domains, foreign = draw_stream(seed, counts, 3 if quick else DOMAINS)
    scores: dict[str, dict[str, float]] = {}
    budget = spending(OURS, *ROUTERS, examples=len(domains) * counts[0])
    with budget, Run(seed=seed, device="cpu", progress=False) as own:
        model, _ = learn_stream(recipe, domains, own)
    scores[OURS] = read_out(model, domains, foreign, lambda i, model, images, near: near)
    others: tuple[Router, ...] = (told, Colours(domains), chance)
    for name, router in zip(ROUTERS, others, strict=True):
        scores[name] = {"AVG": read_out(model, domains, foreign, router)["AVG"]}
    for method in ("seqt", "ewc", "lwf", "joint"):
        budget = spending(method, examples=len(domains) * counts[0])
        with budget, Run(seed=seed, device="cpu", progress=False) as own:
            _, matrix = learn_in_turn(replace(recipe, method=method), domains, own)  # type: ignore[arg-type]
        scores[method] = {"AVG": float(np.mean(matrix[-1]))}
    return scores


# ---- data ------------------------------------------------------------------------------------------------------------


def draw_stream(seed: int, counts: tuple[int, int, int], many: int) -> tuple[list[DomainSet], ImageSet]:
    """The domains in an order of this seed, and test images of one that isn't among them."""
    rng = np.random.default_rng([seed, 0xC6E])
    names = [list(LOOKS)[i] for i in rng.permutation(len(LOOKS))[:many]]
    sets = {name: [draw_set(LOOKS[name], n, rng) for n in counts] for name in names}
    return [DomainSet(name, *sets[name]) for name in names], draw_set(FOREIGN, counts[2], rng)


# ---- routers and measures --------------------------------------------------------------------------------------------

Router = Callable[[int, ContinualGen, ImageSet, Int[Tensor, " n"]], Int[Tensor, " n"]]
"""Which subnetwork answers for images of domain i, told the nearest ones."""


def told(i: int, model: ContinualGen, images: ImageSet, near: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The subnetwork that learned the domain."""
    return torch.full_like(near, model.config.log[i].subnetwork - 1)


def chance(i: int, model: ContinualGen, images: ImageSet, near: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Any subnetwork."""
    rng = np.random.default_rng([len(model.subnetworks), i, 0xC4A])
    return torch.from_numpy(rng.integers(0, len(model.subnetworks), len(images)))


class Colours:
    """The subnetwork of the domain whose colours are nearest: one Gaussian of their mean and spread for each domain."""

    def __init__(self, domains: list[DomainSet]) -> None:
        self.known = [(x.mean(0), torch.linalg.inv(torch.cov(x.T))) for x in (self.of(d.train) for d in domains)]

    def of(self, images: ImageSet) -> Float[Tensor, "n 6"]:
        x = images.views.double() / 255
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)

    def __call__(self, i: int, model: ContinualGen, images: ImageSet, near: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        x = self.of(images)
        apart = [torch.einsum("ni,ij,nj->n", x - mean, wide, x - mean) for mean, wide in self.known]
        owner = torch.tensor([one.subnetwork - 1 for one in model.config.log])
        return owner[torch.stack(apart, 1).argmin(1)]


def read_out(model: ContinualGen, domains: list[DomainSet], foreign: ImageSet, router: Router) -> dict[str, float]:
    """Mean balanced accuracy, how often the right subnetwork answers, and how often images are called out of domain."""
    found, right, flagged = [], [], []
    for i, domain in enumerate(domains):
        logits, near, beyond = seen(model, domain.test)
        chosen = router(i, model, domain.test, near)
        called = logits[torch.arange(len(chosen)), chosen].argmax(1)
        found.append(balanced_accuracy(called.numpy(), domain.test.y.numpy()))
        right.append((chosen == told(i, model, domain.test, near)).double().mean())
        flagged.append(beyond.double().mean())
    return {
        "AVG": float(np.mean(found)),
        "routed right": float(np.mean(right)),
        "subnetworks": float(len(model.subnetworks)),
        "called out of domain, of learned domains": float(np.mean(flagged)),
        "called out of domain, of a foreign one": float(seen(model, foreign)[2].double().mean()),
    }


def seen(model: ContinualGen, images: ImageSet) -> tuple[Tensor, Tensor, Tensor]:
    """Logits by every subnetwork, the nearest one, and whether the image is beyond twice what is usual of all."""

    def flat(x: Tensor) -> Tensor:
        logits, distance, usual = model(x)
        beyond = (distance > 2 * usual).all(1)
        return torch.cat([logits.flatten(1), model.route(distance, usual)[:, None], beyond[:, None]], 1)

    table = over_images(model, flat, images, model.device)
    logits = table[:, :-2].view(len(images), len(model.subnetworks), -1)
    return logits, table[:, -2].long(), table[:, -1] > 0


def _compare(method: str, baseline: str, *, yes: str, no: str, open: str, **more: Any) -> Comparison:
    """Of AVG, with what each verdict means."""
    readings: dict[Verdict, str] = {"supported": yes, "not supported": no, "inconclusive": open}
    return Comparison(method, baseline, "AVG", readings=readings, **more)


claim = Claim(
    statement=(
        "Without being told domains, in training or for an image, subnetworks chosen by ensembles of clusters lose "
        "less accuracy over a stream than one network that is trained on its domains in turn (SeqT)."
    ),
    data=(
        f"five of six domains of procedural lesions of {SIDE} px, drawn in an order for each seed, "
        f"{'/'.join(map(str, COUNTS))} images of each to train, validate and test; three textures are the classes"
    ),
    arms={
        OURS: "eight groups, threshold by the domain's own validation images (selfess)",
        ROUTERS[0]: "the same subnetworks, each image sent to that which learned its domain",
        ROUTERS[1]: "the same subnetworks, routed by one Gaussian of mean and spread of colours for each domain",
        ROUTERS[2]: "the same subnetworks, any of them",
        "seqt": "one network, trained on one domain after the other",
        "ewc": "the same, drawn to weights that mattered",
        "lwf": "the same, drawn to its earlier outputs",
        "joint": "one network, trained on all domains at once",
    },
    run="zoo.models.continual_gen.claim:run",
    seeds=tuple(range(2401, 2409)),  # named before any of them was run
    tuned_on=tuple(range(8)),
    tuning=(
        "All arms have the same network, rate and number of steps for a domain. On seeds 2 and 4, in a longer form of "
        "the same streams, EWC was tried at 100, 1,000 and 10,000 (AVG 0.62, 0.78, 0.75) and LwF at 2 (0.34); on seed "
        "0, in nearly today's form, EWC at 1,000 (0.78), LwF at 0.5 and 1 (0.76, 0.75). The best of each is taken. Of "
        "the method the number of steps was chosen on seeds 0 to 7: with 80 for a domain its subnetworks lose features "
        "and routing fails."
    ),
    unequal={"joint": "its batches run on over the borders of domains, so that it makes 36 steps fewer"},
    primary=_compare(
        OURS, "seqt", margin=0.05,
        yes="Subnetworks and routing forget less than training in turn.",
        no="Training in turn does as well here.",
        open="Whether subnetworks and routing forget less by 0.05 stays open.",
    ),
    secondary=(
        _compare(
            OURS, "ewc",
            yes="They forget less than one network that is drawn to weights that mattered, too.",
            no="Drawing one network to weights that mattered (EWC) does as well.",
            open="Subnetworks and EWC are not told apart.",
        ),
        _compare(
            OURS, "lwf",
            yes="They forget less than one network that is drawn to its earlier outputs, too.",
            no="Drawing one network to its earlier outputs (LwF) does as well.",
            open="Subnetworks and LwF are not told apart.",
        ),
        _compare(
            OURS, ROUTERS[2], margin=0.05,
            yes="The gain needs the routing: with any subnetwork it's gone.",
            no="Any subnetwork would do as well, so that routing explains nothing.",
            open="Whether the routing matters stays open.",
        ),
        _compare(
            OURS, ROUTERS[1], headline=True,
            yes="Clusters of features route better than plain colours.",
            no="Plain colours route as well as clusters of features.",
            open="Clusters of features and plain colours are not told apart as routers.",
        ),
        _compare(
            OURS, ROUTERS[0], tolerance=0.05,
            yes="Not being told the domain costs less than 0.05.",
            no="Not being told the domain costs 0.05 or more.",
            open="Whether not being told the domain costs 0.05 stays open.",
        ),
        _compare(
            OURS, "joint", tolerance=0.1,
            yes="It stays within 0.1 of training on all domains at once.",
            no="It falls 0.1 or more behind training on all domains at once.",
            open="Whether it stays within 0.1 of training on all domains at once stays open.",
        ),
    ),
    # Table 1, mean over six domains and 720 orders; told the domain: CPN, whose subnetworks are one for each source
    paper={
        OURS: {"AVG": 0.8107, "subnetworks": 5.0},
        ROUTERS[0]: {"AVG": 0.7958},
        "seqt": {"AVG": 0.4243},
        "ewc": {"AVG": 0.4632},
        "lwf": {"AVG": 0.5213},
        "joint": {"AVG": 0.8812},
    },
    falsified_if={"It doesn't forget less than training in turn": (f"{OURS} vs. seqt, AVG",)},
)  # fmt: skip
