"""Two federations, one after the other: the search of the cell, and the training of the network that it gave.

search, each round: every client sets out from (w, alpha) with fresh optimisers; for batches of its training and
    validation slices  g_w = d L_tr / d w,  g_a = d (L_tr + beta L_val) / d alpha  (Eq. 6, MiLeNAS), and a step of
    both; the server averages w and alpha. Each edge keeps the two operations of largest alpha.
training, each round: AdamW on every client, the server averages, an average over the rounds (Eq. 7) steadies it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zoo.data.case import Case
from zoo.data.sets import Dataset
from zoo.data.splits import PARTS, Split, TrainData
from zoo.errors import OptionError
from zoo.federated import Context, Federation, State, Update, average, by_attribute, divided
from zoo.models.fedautomri.baselines import build_network, random_genotype
from zoo.models.fedautomri.cell import EDGES, chosen
from zoo.models.fedautomri.data import Batch, Sampling, Slices, kspace_of, load_slices
from zoo.models.fedautomri.model import FedAutoMRI
from zoo.models.fedautomri.network import FedAutoMRIConfig, Unrolled
from zoo.nn.schedules import cosine
from zoo.seeds import derive_seed
from zoo.training import Run, Training

Mode = Literal["server", "client_mix", "eval", "off"]


def _number(default: float, high: float = 1e6) -> Any:
    return field(default=default, metadata={"min": 0.0, "max": high})


def _count(default: int, low: int = 1) -> Any:
    return field(default=default, metadata={"min": low, "max": 1_000_000})


@dataclass(frozen=True)
class FedAutoMRIRecipe:
    """The paper's training (Sec. 3.1); what it leaves open says so."""

    network: FedAutoMRIConfig = field(default_factory=FedAutoMRIConfig)
    cell: Literal["search", "random", "given"] = "search"
    """``given``: network.genotype as it is; ``random``: operations drawn. Neither searches."""
    partition: str = "column:site"  # who holds what: one client for each set; or iid, or client
    clients: int = _count(4)  # of iid
    search_rounds: int = _count(50)
    search_epochs: int = _count(5)  # local epochs of a round
    search_batch: int = _count(2)  # open
    search_lr: float = _number(1e-3)  # of the weights, Adam
    alpha_lr: float = _number(3e-3)  # of the architecture, Adam
    alpha_decay: float = _number(1e-3)
    beta: float = _number(1.0)  # of the validation loss in Eq. 6, open
    validation_share: float = field(
        default=0.125, metadata={"min": 0.01, "max": 0.9}
    )  # of a client's slices: 1 of 7 + 1
    keep_ops: int = field(default=2, metadata={"min": 1, "max": 8})
    rounds: int = _count(150)
    local_epochs: int = _count(5)
    batch_size: int = _count(8)  # open
    local_steps: int = _count(0, 0)  # of a round, in both parts; 0: as epochs say
    search_steps: int = _count(0, 0)  # of a round of the search; 0: as local_steps or epochs say
    lr: float = _number(1e-3)  # AdamW
    lr_end: float = _number(1e-5)  # after a cosine over the rounds, open
    weight_decay: float = _number(1e-4)  # open
    pretrain_rounds: int = _count(0, 0)  # the first of them train one iteration alone, which is MoDL's way
    grad_clip: float = _number(0.0)  # of each entry of the gradient; 0: none; 1 is MoDL's
    mu: float = _number(0.0)  # of FedProx, half of it times the squared distance from the round's weights
    ema_mode: Mode = "server"
    """``server``: clients start from the corrected average over the rounds. ``client_mix``: each from gamma of its own
    weights and the rest of the server's, which makes weights of its own. ``eval``: only the result is the average."""
    gamma: float = field(default=0.5, metadata={"min": 0.0, "max": 0.999})  # open
    acceleration: float = field(default=4.0, metadata={"min": 1.0, "max": 64.0})  # open
    center_fraction: float = field(default=0.08, metadata={"min": 0.0, "max": 1.0})  # open
    kspace_noise: float = _number(0.0)  # deviation of each part; MoDL's is 0.01 / sqrt 2
    size: int = field(default=256, metadata={"min": 16, "max": 4096})  # Sec. 3.1 for MoDL's set
    loss_scale: float = _number(1.0)  # of the squared error; matters beside alpha's decay alone
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.acceleration, self.center_fraction, self.kspace_noise)


def loss_of(network: Any, batch: Batch, scale: float) -> Float[Tensor, ""]:
    """Squared error of real and imaginary parts (Eq. 4)."""
    return scale * (network(batch.x0, batch.mask) - batch.truth).square().mean()


# ---- clients ---------------------------------------------------------------------------------------------------------


def search_client(
    network: Unrolled, slices: Slices, rng: np.random.Generator, context: Context, recipe: FedAutoMRIRecipe
) -> Update:
    """A round of MiLeNAS at one hospital: both gradients at the same point, first order (Eq. 6)."""
    train, validation = slices.divided(recipe.validation_share)
    alpha = network.denoiser.alpha
    assert isinstance(alpha, Tensor)
    weights = [p for p in network.parameters() if p is not alpha]
    adam_w = torch.optim.Adam(weights, recipe.search_lr)
    adam_a = torch.optim.Adam([alpha], recipe.alpha_lr, weight_decay=recipe.alpha_decay)
    network.train()
    losses = []
    per_epoch = -(-len(train) // recipe.search_batch)
    for _ in range(recipe.search_steps or recipe.local_steps or recipe.search_epochs * per_epoch):
        told = loss_of(network, train.batch(recipe.search_batch, rng).to(context.device), recipe.loss_scale)
        held = loss_of(network, validation.batch(recipe.search_batch, rng).to(context.device), recipe.loss_scale)
        (of_validation,) = torch.autograd.grad(held, alpha)
        adam_w.zero_grad()
        adam_a.zero_grad()
        told.backward()
        assert alpha.grad is not None
        alpha.grad += recipe.beta * of_validation
        adam_w.step()
        adam_a.step()
        losses.append(float(told.detach()))
    return Update({"network": network}, num_examples=len(train), loss=float(np.mean(losses)))


def client(
    network: Any, slices: Slices, rng: np.random.Generator, context: Context, recipe: FedAutoMRIRecipe
) -> Update:
    """A round of training at one hospital."""
    if recipe.ema_mode == "client_mix" and (own := context.kept.get("own")):
        received = network.state_dict()
        network.load_state_dict({name: mixed(own[name].to(t.device), t, recipe.gamma) for name, t in received.items()})
    anchors = [(p, p.detach().clone()) for p in network.parameters()] if recipe.mu else []
    adam = torch.optim.AdamW(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    share = cosine(context.round - 1, recipe.rounds)
    adam.param_groups[0]["lr"] = recipe.lr_end + (recipe.lr - recipe.lr_end) * share
    if isinstance(network, Unrolled):
        network.unroll = 1 if context.round <= recipe.pretrain_rounds else recipe.network.unroll
    network.train()
    losses = []
    for _ in range(recipe.local_steps or recipe.local_epochs * -(-len(slices) // recipe.batch_size)):
        loss = loss_of(network, slices.batch(recipe.batch_size, rng).to(context.device), recipe.loss_scale)
        for p, before in anchors:
            loss = loss + recipe.mu / 2 * (p - before).square().sum()
        adam.zero_grad()
        loss.backward()
        if recipe.grad_clip:
            torch.nn.utils.clip_grad_value_(network.parameters(), recipe.grad_clip)
        adam.step()
        losses.append(float(loss.detach()))
    if recipe.ema_mode == "client_mix":
        context.kept["own"] = {name: t.detach().cpu().clone() for name, t in network.state_dict().items()}
    return Update({"network": network}, num_examples=len(slices), loss=float(np.mean(losses)))


def mixed(own: Tensor, new: Tensor, gamma: float) -> Tensor:
    """gamma of one and the rest of the other; counters are the newer one's."""
    return torch.lerp(new, own, gamma) if new.is_floating_point() else new


# ---- the server ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ema:
    """FedAvg, and Eq. 7 as the bias-corrected average that it means:
    m = gamma m + (1 - gamma) w, w_c = m / (1 - gamma^t).

    ``own["ema"]``: the corrected average. ``own["clients"]``: with ``client_mix``, what each client sent last.
    """

    mode: Mode
    gamma: float

    def __call__(self, updates: Sequence[Update], state: State) -> State:
        after = average(updates, state)
        if self.mode == "off":
            return after
        if self.mode == "client_mix":
            sent = {**state.own.get("clients", {}), **{str(one.client): one.models["network"] for one in updates}}
            return after.updated({"clients": sent})
        raw: Mapping[str, Tensor] = state.own.get("raw", {})
        kept, corrected = {}, {}
        for name, w in after.network.items():
            if not w.is_floating_point():
                kept[name] = corrected[name] = w
                continue
            kept[name] = self.gamma * raw.get(name, torch.zeros_like(w)) + (1 - self.gamma) * w
            corrected[name] = kept[name] / (1 - self.gamma**state.round)
        own = {"raw": kept, "ema": corrected}
        return after.updated(own, network=corrected) if self.mode == "server" else after.updated(own)


def partitions_of(recipe: FedAutoMRIRecipe, cases: Dataset, seed: int) -> list[np.ndarray]:
    """Who holds which cases."""
    if recipe.partition in ("client", "column:client"):
        return by_attribute(cases, "client")
    return divided(recipe.partition, cases, [0] * len(cases), recipe.clients, 1.0, seed)


def build(recipe: FedAutoMRIRecipe, data: TrainData, seed: int) -> Federation:
    """The federation that trains the network of ``recipe.network``."""
    return federation(recipe, *shared(recipe, data, seed))


def build_search(recipe: FedAutoMRIRecipe, data: TrainData, seed: int) -> Federation:
    """The federation that searches the cell."""
    return searching(recipe, *shared(recipe, data, seed))


def shared(recipe: FedAutoMRIRecipe, data: TrainData, seed: int) -> tuple[Sequence[Any], Any]:
    partitions = partitions_of(recipe, data.train, seed)

    @cache
    def slices(number: int) -> Slices:
        return load_slices(data.train.subset(partitions[number]), recipe.size, recipe.sampling)

    return partitions, slices


def federation(recipe: FedAutoMRIRecipe, partitions: Sequence[Any], slices: Any) -> Federation:
    return Federation(
        model=partial(build_network, recipe.network), client=partial(client, recipe=recipe), data=slices,
        partitions=partitions, rounds=recipe.rounds, aggregate=Ema(recipe.ema_mode, recipe.gamma), target=None,
    )  # fmt: skip


def searching(recipe: FedAutoMRIRecipe, partitions: Sequence[Any], slices: Any) -> Federation:
    """Averages weights and architecture alike; both are the network's parameters."""
    return Federation(
        model=partial(build_network, recipe.network, True), client=partial(search_client, recipe=recipe), data=slices,
        partitions=partitions, rounds=recipe.search_rounds, target=None,
    )  # fmt: skip


def settled(recipe: FedAutoMRIRecipe, data: TrainData, run: Run) -> FedAutoMRIRecipe:
    """The recipe with the cell that is trained: searched, drawn, or as given."""
    from zoo.federated import federate  # needs Flower

    if recipe.network.denoiser != "cell" or recipe.cell == "given":
        return recipe
    if recipe.cell == "random":
        rng = np.random.default_rng(derive_seed(run.seed, "cell"))
        genotype = random_genotype(rng, recipe.keep_ops, len(EDGES[recipe.network.wiring]))
    else:
        found = federate(build_search, recipe, data, run, stage="search")
        genotype = chosen(found.state_dict()["denoiser.alpha"], recipe.keep_ops)
    return replace(recipe, network=replace(recipe.network, genotype=genotype))


def train(recipe: FedAutoMRIRecipe, data: TrainData, run: Run) -> FedAutoMRI:
    """Search, then training; the server's weights, and the clients' own where they have some."""
    from zoo.federated import federate

    if recipe.gamma == 0 and recipe.ema_mode == "client_mix":
        raise OptionError("client_mix with gamma 0 keeps nothing of a client; set gamma above 0, or ema_mode=off")
    data = TrainData(*(getattr(data, part).in_memory() for part in PARTS))
    recipe = settled(recipe, data, run)
    outcome = federate(build, recipe, data, run)
    own = outcome.state.own.get("clients", {})
    names = names_of(recipe, data.train, run.seed) if own else {}
    model = FedAutoMRI(replace(recipe.network, clients=tuple(names[int(one)] for one in sorted(own, key=int))))
    model.network.load_state_dict(result(recipe, outcome.state))
    for number, weights in own.items():
        last = outcome.state.network
        model.personal[names[int(number)]].load_state_dict(
            {name: mixed(weights[name], last[name], recipe.gamma) for name in last}
        )
    return model.to(run.device).eval()


def result(recipe: FedAutoMRIRecipe, state: State) -> Mapping[str, Tensor]:
    """The weights that are evaluated."""
    return state.own["ema"] if recipe.ema_mode == "eval" else state.network


def names_of(recipe: FedAutoMRIRecipe, cases: Dataset, seed: int) -> dict[int, str]:
    """What the clients are called: by their site, else by number."""
    names = {}
    for number, places in enumerate(partitions_of(recipe, cases, seed)):
        site = str(cases[int(places[0])].attributes.get("site", ""))
        names[number] = site if recipe.partition == "column:site" and site.isidentifier() else f"client{number}"
    return names


def score(model: FedAutoMRI, case: Case, options: Mapping[str, Any]) -> dict[str, float]:
    """PSNR and SSIM of the reconstruction and of the zero-filled image, mean over the slices."""
    found = model.predict(kspace_of(case), **{name: value for name, value in options.items() if value is not None})
    return dict(found.scores)


SMALL = {"unroll": 3, "cells": 2}
MODL = {"denoiser": "hand-made", "layers": 5, "width": 64, "unroll": 10}
training = Training(
    recipe=FedAutoMRIRecipe,
    run=train,
    federation=build,
    presets={
        "paper": {},
        "modl": {"network": MODL, "pretrain_rounds": 100, "grad_clip": 1.0, "kspace_noise": 0.00707},
        "demo": {
            "network": SMALL, "size": 64, "acceleration": 3.0, "search_rounds": 4, "search_steps": 8,
            "search_batch": 4, "search_lr": 8e-3, "alpha_lr": 3e-2, "rounds": 12, "local_steps": 25, "batch_size": 4,
            "lr": 8e-3, "lr_end": 4e-4, "loss_scale": 100.0, "dtype": "float16",
        },
        "check": {
            "network": {"unroll": 2, "cells": 1, "channels": 4}, "size": 32, "search_rounds": 1, "search_steps": 1,
            "search_batch": 2, "search_lr": 8e-3, "alpha_lr": 3e-2, "rounds": 6, "local_steps": 4, "batch_size": 2,
            "lr": 8e-3, "lr_end": 4e-4, "loss_scale": 100.0, "partition": "iid", "clients": 2,
        },
    },
    split=Split((0.8, 0.0, 0.2)),  # 7:1:2, the 1 at each client
    score=score,
)  # fmt: skip
