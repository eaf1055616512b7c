"""Where to split: the same network at two cuts, trained over links that lose packets, on small procedural embryos.

Without loss both cuts must give the same weights. With loss the deep cut should give the better model, measured over a
link that loses nothing, and over one that loses as much as in training. Controls lose features alone,
or numbers instead of rows; the reading of the same authors' later code is an arm too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zoo.claims import Claim, Comparison, spending
from zoo.claims.types import Recipe
from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData
from zoo.federated import Link
from zoo.models.splitfed_embryo.data import Shard, SplitFedRecipe, load, mean_of
from zoo.models.splitfed_embryo.network import Split, SplitFedConfig, SplitUNet
from zoo.models.splitfed_embryo.training import build, measured, training, whole
from zoo.training import Run

TRAIN, TEST = 72, 40
NETWORK = SplitFedConfig(widths=(8, 16), bottleneck=32, image_size=32)
COMMON: dict[str, Any] = {
    "network": NETWORK, "clients": 3, "shares": (32.0, 24.0, 16.0), "lossy_clients": 3, "rounds": 5, "local_epochs": 3,
    "batch_size": 8, "lr": 1e-2,
}  # fmt: skip
RELEASED = {**training.readings["released"], **COMMON}
SPLITS: tuple[Split, ...] = ("deep", "shallow")
# What is run: what the arm is called beside its cut, what its metrics are called, and what differs.
RUNS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("", "0", {"packet_loss": 0.0}),
    ("", "0.7", {"packet_loss": 0.7}),
    ("", "0.9", {"packet_loss": 0.9}),
    ("", "0.9 at one client", {"packet_loss": 0.9, "lossy_clients": 1}),
    (", dropout", "0.9", {"packet_loss": 0.9, "link": "dropout"}),
    (", features only", "0.9", {"packet_loss": 0.9, "lost": "features"}),
    (", released", "0.9", {"packet_loss": 0.9, "recipe": "released"}),
)


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """``MJI, P`` of a lossless and ``lossy MJI, P`` of a lossy test pass, for every arm and loss P of training."""
    data = embryos(seed)
    test = load(data.test, NETWORK)
    scores: dict[str, dict[str, float]] = {}
    for suffix, loss, changes in RUNS:
        fields = RELEASED if changes.get("recipe") == "released" else COMMON
        recipe = SplitFedRecipe(**{**fields, **changes})
        if quick:
            recipe = replace(recipe, rounds=1, local_epochs=1)
        for split in SPLITS:
            arm = f"{split}{suffix}"
            chosen = replace(recipe, network=replace(NETWORK, split=split))
            scores.setdefault(arm, {}).update(_trained(chosen, data, test, seed, arm, loss))
    return scores


def _trained(recipe: SplitFedRecipe, data: TrainData, test: Shard, seed: int, arm: str, loss: str) -> dict[str, float]:
    from zoo.federated import federate

    name = arm if loss == "0.9" else f"{arm}, {loss}"  # at which all arms are compared
    with spending(name, examples=TRAIN), Run(None, seed=seed, device="cpu", progress=False) as one:
        outcome = federate(build, recipe, data, one)
    network = SplitUNet(recipe.network)
    network.load_state_dict(whole(outcome.state))
    found = {}
    for name, rate in (("MJI", 0.0), ("lossy MJI", recipe.packet_loss)):
        result = measured(network, test, recipe, Link(rate, seed, 0, 0))
        found[f"{name}, {loss}"] = result.mji
        if name == "MJI":
            found[f"pooled MJI, {loss}"] = mean_of(result.pooled)
    return found


def embryos(seed: int) -> TrainData:
    """72 images of 32 px for the clients, 40 others for the test."""
    every = load_dataset(f"phantom:embryo?n={TRAIN + TEST}&size=32&seed={seed * 1000}").in_memory()
    return TrainData(every[:TRAIN], every[:0], every[TRAIN:])


def _deep(metric: str, suffix: str = "", headline: bool = False, **readings: str) -> Comparison:
    recipe: Recipe = "released" if "released" in suffix else "paper"
    meaning = {name.replace("_", " "): text for name, text in readings.items()}
    return Comparison(
        f"deep{suffix}", f"shallow{suffix}", metric, recipe=recipe, headline=headline, readings=meaning,  # type: ignore
    )  # fmt: skip


def _arms() -> dict[str, str]:
    about = {
        "": "the paper's reading: rows of feature maps and gradients are lost by themselves, anew every time",
        ", dropout": "control: numbers instead of rows, the rest scaled up, gradients by the features' masks",
        ", features only": "control: gradients arrive whole",
        ", released": "the same authors' later code: fixed masks, no mirroring, the best local epoch",
    }
    cuts = {"deep": "first and last block on the client", "shallow": "a convolution at either end on the client"}
    return {f"{split}{suffix}": f"{cuts[split]}; {text}" for suffix, text in about.items() for split in SPLITS}


claim = Claim(
    statement=(
        "Under heavy packet loss a split federation gives a better network if it is cut deep than if it is cut "
        "shallow; without loss the two cuts are the same network and give the same weights."
    ),
    data=(
        "Procedural embryos of 32 px (phantom:embryo): 72 for three clients (32, 24, 16; each holds out 15 %), 40 "
        "others for the test. A U-Net of 8 and 16 filters and 32 at the bottom, soft Dice, Adam of 1e-2, batches of 8, "
        "3 local epochs in each of 5 rounds, FedAvg. MJI: mean over images, then over the four components; of a "
        "lossless test pass, or of one that loses as much as the training (lossy MJI)."
    ),
    arms=_arms(),
    run="zoo.models.splitfed_embryo.claim:run",
    primary=_deep(
        "MJI, 0.9", headline=True,
        supported="At 90 % loss at all clients the deep cut trains the better network.",
        not_supported="At 90 % loss at all clients the deep cut trains no better network.",
        inconclusive="Whether the deep cut trains better at 90 % loss stays open.",
    ),
    secondary=(
        _deep("MJI, 0.7", headline=True),
        _deep("MJI, 0.9 at one client"),
        _deep("lossy MJI, 0.7"),
        _deep("lossy MJI, 0.9", headline=True),
        _deep("lossy MJI, 0.9 at one client"),
        Comparison("deep", "shallow", "MJI, 0", tolerance=1e-9),
        Comparison("shallow", "deep", "MJI, 0", tolerance=1e-9),
        _deep("MJI, 0.9", ", features only"),
        _deep("MJI, 0.9", ", dropout"),
        Comparison("deep, dropout", "deep", "MJI, 0.9", recipe="paper"),
        Comparison("shallow, dropout", "shallow", "MJI, 0.9", recipe="paper"),
        _deep("MJI, 0.9", ", released", headline=True),
        _deep("lossy MJI, 0.9", ", released"),
    ),
    falsified_if={
        "the deep cut isn't better at 90 % loss": ("deep vs. shallow, MJI, 0.9",),
        "deep is worse than shallow without loss, so they are not the same network": ("deep vs. shallow, MJI, 0",),
        "shallow is worse than deep without loss": ("shallow vs. deep, MJI, 0",),
    },
    seeds=tuple(range(2701, 2709)),  # named before any of them was run
    tuned_on=(900,),
    tuning=(
        "Rate and rounds are the same for all arms; they were chosen on seed 900 without loss, where both cuts are one "
        "network. Everything else was set beforehand."
    ),
)  # fmt: skip
