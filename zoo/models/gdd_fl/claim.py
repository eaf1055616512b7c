"""The headline in miniature: four clients whose devices differ in colour each send one synthetic image per class.

Discs of 16 px; melanoma stands for a lobed border and a checkered inside. The test has the clients' devices and three
that no client has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from zoo.claims import spending
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry
from zoo.data.shifts import LOOKS, Response
from zoo.data.splits import TrainData
from zoo.models.gdd_fl import data as sets
from zoo.models.gdd_fl.model import GDDConfig
from zoo.models.gdd_fl.training import GDDRecipe, one_arm
from zoo.training import Run

SIDE, CLIENTS, UNSEEN, IMAGES, TEST = 16, 4, 3, 250, 150
NOISE, TEXTURE, LOBES = 0.1, 0.13, 0.25
NETWORK = GDDConfig(("benign", "melanoma"), "convnet", image_size=SIDE, width=24, depth=2)
RECIPE = GDDRecipe(
    network=NETWORK, extractor_width=24, extractor_depth=2, iterations=150, real_batch=32, partition="column:device",
    epochs=1, least_steps=200, allow_real=True, rounds=12,
)  # fmt: skip
# As the authors' code, in the extractor's small form: their ResNet-18 takes no images of 16 px.
AS_RELEASED: dict[str, Any] = {"recipe": "released", "redraw": False}
JOINT: dict[str, Any] = {**AS_RELEASED, "level": "convolution", "shift": "instance", "objective": "joint"}
ARMS: dict[str, dict[str, Any]] = {
    "GDD": {"method": "gdd"},
    "GDD, halved": {"method": "gdd", "objective": "mean"},
    "GDD, features shifted": {"method": "gdd", "level": "block"},
    "GDD, noise per image": {"method": "gdd", "shift": "instance"},
    "GDD, formula as printed": {"method": "gdd", "printed": True},
    "GDD, released": {"method": "gdd", **JOINT},
    "DM": {"method": "dm"},
    "DM, loss doubled": {"method": "dm-doubled"},
    "DM, released": {"method": "dm", **AS_RELEASED},
    "random real images": {"method": "random"},
    "FedAvg": {"method": "fedavg"},
    "all real images": {"method": "full"},
}
_CPU = torch.device("cpu")
GRID = (0.1, 0.3, 1.0)
RATES: dict[str, float] = {}
"""Learning rates of the pixels, by ``tuned`` on other seeds and their own validation images."""


@dataclass(frozen=True)
class Draw:
    """One federation's images, and three sets to measure on."""

    train: Dataset
    seen: Dataset
    unseen: Dataset
    validation: Dataset  # of devices of its own; only ``tuned`` looks at it


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Every arm by the plugin's own federation and server: AUC on all test images, and the bytes that were sent."""
    drawn = draw(seed, quick)
    found = {}
    for arm in ARMS:
        recipe = recipe_of(arm, quick)
        with spending(arm, examples=len(drawn.train)):
            network, both, sent = trained(recipe, drawn, drawn.seen, drawn.unseen, seed)
        images = [sets.load_images(part, NETWORK) for part in (drawn.seen, drawn.unseen)]
        here, there = (sets.auc(network, part, _CPU) for part in images)
        found[arm] = {"AUC": both, "AUC, known devices": here, "AUC, other devices": there, "bytes": float(sent)}
    return found


def tuned(seeds: tuple[int, ...] = (900, 901, 902)) -> dict[str, dict[float, float]]:
    """For each distilling arm and learning rate of the grid the mean AUC on validation images of other seeds."""
    found: dict[str, dict[float, float]] = {}
    for arm in ARMS:
        if ARMS[arm]["method"] in ("gdd", "dm", "dm-doubled"):
            for lr in GRID:
                recipe = replace(recipe_of(arm), lr=lr)
                scores = [trained(recipe, one, one.validation, None, seed)[1] for seed in seeds for one in [draw(seed)]]
                found.setdefault(arm, {})[lr] = float(np.mean(scores))
    return found


def recipe_of(arm: str, quick: bool = False) -> GDDRecipe:
    recipe = replace(RECIPE, lr=RATES.get(arm, RECIPE.lr), **ARMS[arm])
    return replace(recipe, iterations=3, least_steps=5, rounds=2) if quick else recipe


def trained(recipe: GDDRecipe, drawn: Draw, test: Dataset, more: Dataset | None, seed: int) -> tuple[Any, float, int]:
    """The server's network, its AUC on the test images, and the bytes that were sent."""
    nothing = Dataset("none", [])
    every = test if more is None else Dataset("both", [*test.entries, *more.entries])
    with Run(None, seed=seed, device="cpu", progress=False) as one:
        network, _, arm = one_arm(recipe, TrainData(drawn.train, nothing, every), one)
    return network, arm.auc, arm.bytes


def draw(seed: int, quick: bool = False) -> Draw:
    """Positive rates from .1 to .4 at the clients, 30 % in the test; each device has its own response to colour."""
    rng = np.random.default_rng([0x6DDF, seed])
    n, m = (24, 20) if quick else (IMAGES, TEST)
    clients = [Response.drawn(rng) for _ in range(CLIENTS)]
    rates = rng.uniform(0.1, 0.4, CLIENTS)
    train = [_device(f"client-{i}", clients[i], n, rates[i], rng) for i in range(CLIENTS)]
    seen = [_device(f"seen-{i}", one, m, 0.3, rng) for i, one in enumerate(clients)]
    unseen = [_device(f"unseen-{i}", Response.drawn(rng), m, 0.3, rng) for i in range(UNSEEN)]
    own = np.random.default_rng([0x6DDE, seed])
    devices = [*clients, *(Response.drawn(own) for _ in range(UNSEEN))]
    validation = [_device(f"validation-{i}", one, m, 0.3, own) for i, one in enumerate(devices)]
    return Draw(*(Dataset(name, [e for part in parts for e in part]) for name, parts in
                  (("train", train), ("seen", seen), ("unseen", unseen), ("validation", validation))))  # fmt: skip


def _device(name: str, response: Response, n: int, rate: float, rng: np.random.Generator) -> list[Entry]:
    """``n`` images of one device, at least three of them of each class."""
    positive = np.arange(n) < min(max(round(rate * n), 3), n - 3)
    entries = []
    for i, kind in enumerate(positive):
        image = response(lobed_disc(bool(kind), rng)) + NOISE * rng.standard_normal((SIDE, SIDE, 3))
        pixels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
        label = NETWORK.labels[int(kind)]
        entries.append(Entry(f"{name}-{i}", Case(pixels, f"{name}-{i}", label=label, attributes={"device": name})))
    return entries


def lobed_disc(melanoma: bool, rng: np.random.Generator) -> Float[np.ndarray, "16 16 3"]:
    """A disc; of a melanoma with three lobes and a checker of 1.3 rad a pixel."""
    look = LOOKS["brown"]
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2 - 1.2 * rng.standard_normal((2, 1, 1))
    radius, turn = rng.uniform(4, 6), rng.uniform(0, 2 * np.pi)
    border = 1 + LOBES * np.cos(3 * np.arctan2(rows, columns) + turn) if melanoma else 1.0
    pattern = np.sin(1.3 * rows + turn) * np.sin(1.3 * columns) if melanoma else np.zeros_like(rows)
    inside = (np.hypot(rows, columns) < radius * border)[..., None]
    return np.where(inside, np.array(look.lesion) + TEXTURE * pattern[..., None], look.skin)
