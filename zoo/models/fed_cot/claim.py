"""The headline in miniature: drawn brains of 32 px from three sites, two or one of fourteen scans labelled.

The network is the plugin's in two dimensions; a client's round and the server are those of a training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter
from torch import Tensor

from zoo.claims import Claim, Comparison, spending
from zoo.claims.types import Verdict
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.metrics import dice
from zoo.models.fed_cot.client import CoTRecipe, federation
from zoo.models.fed_cot.network import CoTConfig, Network
from zoo.training import Run

SIDE, UNLABELLED, TEST = 32, 12, 20  # scans of a client
SITES = ((0.5, 0.2, 0.8, 0.06, 1.0), (0.4, 0.1, 0.62, 0.08, 0.8), (0.6, 0.35, 0.85, 0.09, 1.3))
"""Grey of tissue, ventricle and lesion, noise, gamma."""
RECIPE = CoTRecipe(
    network=CoTConfig((8, 16, 32), 8, 4, flat=True, bias=-2.0, patch=(SIDE, SIDE)),
    rounds=8, iters=40, batch_l=4, batch_u=4, lr=3e-3, alpha1=(0.95, 0.95), alpha2=0.5, lam=1.0, ramp_iters=160,
    boxes=(8, 8), edges=(3, 6), augment=False,
)  # fmt: skip
ARMS: dict[str, dict[str, Any]] = {
    "FL": {"method": "fl"},
    "FL, twice the steps": {"method": "fl", "iters": 80},
    "FL+PL": {"method": "pl"},
    "FL+MT": {"method": "mt"},
    "Fed-CoT": {"method": "fed-cot"},
    "sync-teacher only": {"method": "sync"},
    "async-teacher only": {"method": "async"},
    "no LesionCutMix": {"method": "fed-cot", "cutmix": False},
}
FEW = ("FL", "Fed-CoT")
"""Arms of the setting of one labelled scan, which is reported and decides nothing."""


@dataclass(frozen=True)
class Images:
    """Standardised images; the first ``known`` have their lesions in ``y``."""

    x: Float[Tensor, "n 1 h w"]
    y: Float[Tensor, "n 1 h w"]
    known: int

    def __len__(self) -> int:
        return len(self.x)

    def labelled(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        places = torch.from_numpy(rng.integers(self.known, size=count))
        return self.x[places], self.y[places]

    def unlabelled(self, count: int, rng: np.random.Generator) -> Tensor:
        return self.x[torch.from_numpy(self.known + rng.integers(len(self.x) - self.known, size=count))]


def run(seed: int, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Mean Dice of the student over all test images, in percent, with two labelled scans a client, and with one."""
    clients, test = images(seed, quick)
    recipe = replace(RECIPE, rounds=1, iters=1) if quick else RECIPE
    found: dict[str, dict[str, float]] = {}
    for arm, changes in ARMS.items():
        changed = replace(recipe, **({**changes, "iters": 1} if quick else changes))
        found[arm] = {"Dice": train_arm(changed, arm, clients, test, seed)}
        if arm in FEW:
            one = [without_second(client) for client in clients]
            found[arm]["Dice, 1 labelled"] = train_arm(changed, f"{arm}, 1 labelled", one, test, seed)
    return found


def images(seed: int, quick: bool = False) -> tuple[list[Images], tuple[Tensor, Tensor]]:
    """What each site has, the labelled first, and test images of all sites."""
    rng = np.random.default_rng([0xFEDC07, seed])
    clients, test_x, test_y = [], [], []
    for site in SITES:
        drawn = [draw(rng, site) for _ in range(2 + UNLABELLED + (2 if quick else TEST))]
        x, y = (torch.from_numpy(np.stack([one[k] for one in drawn])[:, None]) for k in (0, 1))
        own = 2 + UNLABELLED
        clients.append(Images(x[:own], y[:own], 2))
        test_x.append(x[own:])
        test_y.append(y[own:])
    return clients, (torch.cat(test_x), torch.cat(test_y))


def without_second(client: Images) -> Images:
    """With the first scan alone labelled; the second is left out, so that the unlabelled ones are the same."""
    kept = [0, *range(2, len(client))]
    return Images(client.x[kept], client.y[kept], 1)


def train_arm(recipe: CoTRecipe, arm: str, clients: list[Images], test: tuple[Tensor, Tensor], seed: int) -> float:
    """What the student of one arm reaches."""
    from zoo.federated import federate

    ends = np.cumsum([0, *map(len, clients)])
    partitions = [np.arange(a, b) for a, b in pairwise(ends)]
    cases = [Case(image.numpy(), f"image-{i}") for i, image in enumerate(torch.cat([one.x for one in clients]))]
    data = TrainData(Dataset("drawn", [Entry(case.id, case) for case in cases]), *[Dataset("drawn", [])] * 2)
    with spending(arm, examples=len(cases)), Run(None, seed=seed, device="cpu", progress=False) as one:
        outcome = federate(lambda *_: federation(recipe, partitions, clients.__getitem__), recipe, data, one)
    return measured(recipe, outcome.state_dict(), test)


@torch.no_grad()
def measured(recipe: CoTRecipe, weights: Mapping[str, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Mean Dice over the test images in percent."""
    network = Network(recipe.network)
    network.load_state_dict(weights)
    found = network.eval()(test[0]) > 0
    return 100 * float(np.mean([dice(a.numpy(), b.numpy() > 0) for a, b in zip(found, test[1], strict=True)]))


def draw(rng: np.random.Generator, site: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A brain with a bright rim, a dark ventricle and four to eight lesions around it, and the lesions."""
    tissue, ventricle, lesion, noise, gamma = site
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    a, b = rng.uniform(13, 15), rng.uniform(12, 14)
    brain = (rows / a) ** 2 + (columns / b) ** 2 < 1
    rim = brain & ~((rows / (a - 2)) ** 2 + (columns / (b - 2)) ** 2 < 1)
    hollow = (rows / 3) ** 2 + (columns / 5) ** 2 < 1
    image = np.where(brain, tissue, 0.0)
    image[rim], image[hollow] = 0.85 * lesion, ventricle
    truth = np.zeros((SIDE, SIDE), bool)
    for _ in range(int(rng.integers(4, 9))):
        angle, far, radius = rng.uniform(0, 2 * np.pi), rng.uniform(5, 8.5), rng.uniform(1.4, 3)
        disc = (rows - far * np.sin(angle)) ** 2 + (columns - far * np.cos(angle)) ** 2 < radius**2
        disc &= brain & ~rim & ~hollow
        image[disc] = lesion * rng.uniform(0.8, 1.1)
        truth |= disc
    field = gaussian_filter(rng.standard_normal((SIDE, SIDE)), 8, mode="reflect")
    image = image * (1 + 0.12 * field / np.abs(field).max())
    image = np.clip(image, 0, None) ** gamma + rng.normal(0, noise, image.shape)
    inside = image[brain]
    image = np.where(brain, (image - inside.mean()) / inside.std(), 0.0)
    return image.astype(np.float32), truth.astype(np.float32)


def _gain(method: str, baseline: str, metric: str = "Dice", headline: bool = False, *said: str) -> Comparison:
    meaning: dict[Verdict, str] = dict(zip(get_args(Verdict), said, strict=False))
    return Comparison(method, baseline, metric, headline=headline, readings=meaning)


claim = Claim(
    statement=(
        "Where clinics have marked lesions in a few of their scans only, two teachers, one averaged with the students "
        "and one that stays, make a better network from the other scans than labelled scans alone or one plain teacher."
    ),
    data=(
        f"{SIDE} x {SIDE} px brains with lesions, a bias field and noise: three sites of 2 labelled, {UNLABELLED} "
        f"unlabelled and {TEST} test images; eight rounds of 40 steps. Reported beside it: 1 labelled"
    ),
    arms={
        "FL": "labelled scans alone, FedAvg",
        "FL, twice the steps": "control for the network's passes over unlabelled scans",
        "FL+PL": "pseudo-labels by the network as it came, weight 0.5, from round 3",
        "FL+MT": "one teacher at each client, which the averaging of students passes by; LesionCutMix",
        "Fed-CoT": "both teachers, LesionCutMix, the step after averaging",
        "sync-teacher only": "control: without the teacher that stays",
        "async-teacher only": "control: without the teacher that is averaged",
        "no LesionCutMix": "control: student and teachers see the same crops",
    },
    run="zoo.models.fed_cot.claim:run",
    primary=_gain("Fed-CoT", "FL", "Dice", True,
        "Unlabelled scans and two teachers beat labelled scans alone.",
        "Unlabelled scans and two teachers do no better than labelled scans alone.",
        "Whether unlabelled scans and two teachers beat labelled scans alone stays open."),
    secondary=(
        _gain("Fed-CoT", "FL+MT", "Dice", True,
            "Two teachers that know of the averaging beat one that doesn't.",
            "Two teachers do no better than one plain teacher.",
            "Two teachers and one plain teacher are not told apart."),
        _gain("Fed-CoT", "FL+PL"),
        _gain("Fed-CoT", "FL, twice the steps", "Dice", True,
            "The gain isn't the larger number of passes.",
            "Labelled scans alone, seen twice as often, do as well.",
            "Fed-CoT and labelled scans seen twice as often are not told apart."),
        _gain("Fed-CoT", "sync-teacher only", "Dice", True,
            "The teacher that stays adds to the one that is averaged.",
            "The averaged teacher alone does as well.",
            "Whether the second teacher adds anything stays open."),
        _gain("Fed-CoT", "async-teacher only"),
        _gain("Fed-CoT", "no LesionCutMix"),
        _gain("FL+MT", "FL"),
        _gain("Fed-CoT", "FL", "Dice, 1 labelled"),
    ),
    # Table 1, MSSEG-16, all sites
    paper={
        "FL": {"Dice": 50.1}, "FL+PL": {"Dice": 56.9}, "FL+MT": {"Dice": 43.0},
        "Fed-CoT": {"Dice": 60.5},
    },
    falsified_if={
        "Fed-CoT does no better than FL": ("Fed-CoT vs. FL, Dice",),
        "one plain teacher is as good": ("Fed-CoT vs. FL+MT, Dice",),
    },
    unequal={"FL, twice the steps": "it has the passes that Fed-CoT's student spends on unlabelled scans"},
    seeds=(4401, 4402, 4403, 4404, 4405),  # named before any of them was run
    tuning=(
        "No arm was tuned here. Data, network, steps, rate, lambda and ramp were set beforehand, as the last of four "
        "configurations tried on three other seeds, whose earlier ones didn't favour Fed-CoT over FL: its sign hangs "
        "on lambda and the ramp, which the paper doesn't give. All arms share rate, batch and first weights."
    ),
)  # fmt: skip
