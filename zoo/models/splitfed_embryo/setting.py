"""The recipe of a split federation, and what both of its sides derive from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from zoo.errors import OptionError
from zoo.models.splitfed_embryo.data import Schedule
from zoo.models.splitfed_embryo.link import Kind, Link, Lost
from zoo.models.splitfed_embryo.network import SplitFedConfig, SplitUNet
from zoo.models.splitfed_embryo.rules import Rule
from zoo.seeds import derive_seed, seed_torch

SHARES = (240.0, 120.0, 85.0, 179.0, 87.0)  # Sec. 3.1: images of the five clients


@dataclass(frozen=True)
class SplitFedRecipe:
    """The paper's training; comments name the section, or say that the paper leaves a value open."""

    recipe: Literal["paper", "released"] = "paper"  # whose values the other fields have
    network: SplitFedConfig = field(default_factory=SplitFedConfig)
    wire: Literal["joined", "messages"] = "joined"
    """``joined``: a client trains front-end, its copy of the server's part and back-end in one process, with a link
    between them; ``messages``: features and gradients are messages between client and server. The same numbers."""
    clients: int = field(default=5, metadata={"min": 2, "max": 1000})  # Sec. 3.1
    partition: str = "shares"
    """``shares``, ``iid``, ``column:NAME`` (a client for each value), ``file:PATH`` (a table of cases and clients)."""
    shares: tuple[float, ...] = field(default=SHARES, metadata={"min": 1e-6, "max": 1e9})
    validation: float = field(default=0.15, metadata={"min": 0.0, "max": 0.9})  # of each client's cases; Sec. 3.1
    packet_loss: float = field(default=0.5, metadata={"min": 0.0, "max": 0.99})  # P_L; .1 to .9 in Sec. 3.3
    lossy_clients: int = field(default=5, metadata={"min": 0, "max": 1000})  # the first m; Sec. 3.3
    link: Kind = "rows"  # of training; ``dropout`` is the paper's control (Sec. 4)
    lost: Lost = "both"  # features, gradients or both lose packets
    leak: bool = False
    """Gradients that lost nothing are added on server and front-end, as in the same authors' later code."""
    aggregation: Rule = "fedavg"  # Sec. 2
    literal_ncl: bool = False  # layers count in proportion to their divergence, as the text has it
    mix_steps: int = field(default=5, metadata={"min": 1, "max": 1000})  # of Auto-FedAvg in each round; open
    mix_lr: float = field(default=0.01, metadata={"min": 0.0, "max": 100.0})  # open
    rounds: int = field(default=15, metadata={"min": 1, "max": 100_000})  # Sec. 3.1
    local_epochs: int = field(default=12, metadata={"min": 1, "max": 100_000})  # Sec. 3.1
    batch_size: int = field(default=1, metadata={"min": 1, "max": 4096})  # open; 1 in the same authors' later code
    lr: float = field(default=1e-4, metadata={"min": 0.0, "max": 10.0})  # of Adam, new in each round; Sec. 3.1
    dice: Literal["soft", "released"] = "soft"
    """``soft``: 1 is added above and below; ``released``: nothing is, and a class that a batch lacks is no loss."""
    flips: bool = True  # Sec. 3.1
    shuffled: bool = True
    keep_epoch: Literal["last", "best"] = "last"
    """What a client sends: its last local epoch, or that of the lowest local validation loss."""
    lossy_test: bool = True  # the test part is measured over a lossy link too
    server_device: str = "cpu"  # of the server's part, with ``wire=messages``
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


@dataclass(frozen=True)
class Setting:
    """A recipe and a seed."""

    recipe: SplitFedRecipe
    seed: int

    @property
    def config(self) -> SplitFedConfig:
        return self.recipe.network

    @property
    def server_device(self) -> str:
        return self.recipe.server_device

    def schedule(self, cases: int, client: int, round_: int) -> Schedule:
        r = self.recipe
        return Schedule(cases, r.batch_size, r.local_epochs, self.seed, client, round_, r.shuffled, r.flips)

    def link(self, client: int, round_: int) -> Link:
        r = self.recipe
        rate = r.packet_loss if client < r.lossy_clients else 0.0
        return Link(rate, self.seed, client, round_, r.link, r.lost)

    def initial(self) -> SplitUNet:
        """The same numbers whatever was drawn before, on either side, and under both cuts."""
        with torch.random.fork_rng(devices=[]):
            seed_torch(derive_seed(self.seed, "network"))
            return SplitUNet(self.config)


def refuse(recipe: SplitFedRecipe) -> None:
    """Raises ``OptionError`` for what can't be, before anything is read."""
    if recipe.wire == "messages":
        for name, why in (("auto", "mixes whole networks"), ("ncl-v2", "runs the mean of whole networks")):
            if recipe.aggregation == name:
                raise OptionError(
                    f"aggregation={name} {why} on the clients' data, which wire=messages doesn't; set wire=joined"
                )
        if recipe.leak:
            raise OptionError("leak=true adds gradients that never crossed the link; set wire=joined")
        if recipe.keep_epoch == "best":
            raise OptionError("keep_epoch=best validates after each local epoch; set wire=joined or keep_epoch=last")
    if recipe.leak and recipe.link == "dropout":
        raise OptionError("link=dropout loses no gradients that could leak; set leak=false")
    if recipe.keep_epoch == "best" and recipe.validation == 0 and recipe.partition != "column:client":
        raise OptionError("keep_epoch=best needs validation cases; set validation above 0")
