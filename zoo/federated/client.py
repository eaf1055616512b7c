"""The clients' side behind Flower: who is asked, with which network, data, random numbers and memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.federated import flower  # noqa: F401  (first: it says what's missing)

# isort: split
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app import Context as FlowerContext
from flwr.clientapp import ClientApp

from zoo.federated import records
from zoo.federated.exchange import Context
from zoo.federated.federation import Federation
from zoo.seeds import derive_seed, seed_everything
from zoo.storage import remove_folder
from zoo.training import checkpoint

WHO = "query.client"  # the question that tells the server which node is which client


class Clients(ClientApp):
    """Runs a federation's ``client`` so that its result depends on nothing but the message and the client.

    ``build`` gives the federation; it's called once in each process. ``states``: a folder for what clients keep, which
    then outlives the process and takes no memory; ``None`` keeps it here.
    """

    def __init__(self, build: Callable[[], Federation], seed: int, device: str, states: Path | None = None) -> None:
        super().__init__()
        self.build, self.seed, self.device, self.states = build, seed, torch.device(device), states
        self._kept: dict[int, dict[str, Any]] = {}

    def __call__(self, message: Message, context: FlowerContext) -> Message:
        who = int(context.node_config["partition-id"])
        if message.metadata.message_type == WHO:
            return Message(RecordDict({"client": ConfigRecord({"id": who})}), reply_to=message)
        federation, group = self.build(), message.metadata.group_id  # "round.exchange"
        position = ".".join(f"{int(number):06d}" for number in group.split("."))  # sorts in their order
        kept = self._load(who, position)
        seed = derive_seed(self.seed, "client", who, group, message.metadata.message_type)
        seed_everything(seed)
        network = federation.model()
        received = records.models_of(message.content, self.device)
        if "network" in received:  # an exchange may do without
            network.load_state_dict(received["network"])
        try:
            update = federation.client(
                network.to(self.device),
                federation.data(who),
                np.random.default_rng(seed),
                Context(who, int(position[:6]), records.exchange_of(message.content), self.device, received, kept),
            )
        except SystemExit as error:  # a node outlives its client's code
            raise RuntimeError(f"SystemExit: {error}") from error
        self._save(who, position, kept)
        return Message(records.answer(update), reply_to=message)

    def _load(self, who: int, position: str) -> dict[str, Any]:
        """What the client kept before this message; anything later is from a run that was killed."""
        if self.states is None:
            return copy.deepcopy(self._kept.get(who, {}))
        folder = self._folder(who)
        past = [name for name in _positions(folder) if name < position]
        return checkpoint.load(folder / past[-1]) if past else {}

    def _save(self, who: int, position: str, kept: dict[str, Any]) -> None:
        if self.states is None:
            self._kept[who] = kept
        elif kept:
            folder = self._folder(who)
            checkpoint.save(folder / position, kept)
            before = [name for name in _positions(folder) if name < position]
            earlier = [name for name in before if name[:6] < position[:6]]
            for old in before:  # a killed server repeats one round at most, from its first exchange
                if old not in earlier[-1:]:
                    remove_folder(folder / old)

    def _folder(self, who: int) -> Path:
        assert self.states is not None
        return self.states / f"client-{who:04d}"


def _positions(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[0-9]*.[0-9]*"))
