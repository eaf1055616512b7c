"""What a client's functions need: who it is, which round it is, its random numbers, and how to answer.

app = ClientApp()

@app.train()
def train(message: Message, context: Context) -> Message:
    cases = data.train.subset(partitions[client_id(context)])
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    ...
    return reply(message, model.state_dict(), num_examples=len(cases), loss=loss)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.federated import flower  # noqa: F401  (first: it says what's missing)

# isort: split
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from zoo.seeds import derive_seed, seed_everything
from zoo.storage import remove_folder
from zoo.training import checkpoint

if TYPE_CHECKING:
    import torch

    from zoo.federated.federation import Federation

WHO = "query.client"  # the question that tells the server which node is which client


def client_id(context: Context) -> int:
    """Which client this is, from 0."""
    return int(context.node_config["partition-id"])


def client_device(context: Context) -> torch.device:
    """Where this client computes."""
    import torch

    return torch.device(str(context.run_config["device"]))


def client_of(reply: Message) -> int:
    """Which client a reply that a strategy sees comes from, from 0."""
    return reply.metadata.src_node_id - 1


def server_round(message: Message) -> int:
    """The round a message belongs to, from 1."""
    return int(message.metadata.group_id.partition(".")[0])


def client_generator(message: Message, context: Context) -> np.random.Generator:
    """Random numbers that depend on the run's seed, the round, the client and the kind of message alone."""
    return np.random.default_rng(_seed(int(str(context.run_config["seed"])), message, context))


def _seed(seed: int, message: Message, context: Context) -> int:
    # group_id is "round.exchange": a strategy may ask its clients several times in a round
    return derive_seed(seed, "client", client_id(context), message.metadata.group_id, message.metadata.message_type)


def reply(message: Message, arrays: Mapping[str, Any] | None = None, **metrics: float | int) -> Message:
    """The answer to ``message``: a state dict (tensors or arrays, any device) and numbers.

    ``num_examples`` is the number of cases behind them and must be among the numbers; Flower knows it, and every
    other name, with hyphens.
    """
    if "num_examples" not in metrics:
        raise TypeError("reply needs num_examples, the number of cases behind the numbers")
    records: dict[str, Any] = {"metrics": MetricRecord({k.replace("_", "-"): v for k, v in metrics.items()})}
    if arrays is not None:
        records["arrays"] = array_record(arrays)
    return Message(RecordDict(records), reply_to=message)


def array_record(arrays: Mapping[str, Any]) -> ArrayRecord:
    """Tensors (of any device) or arrays by name, as Flower sends them."""
    return ArrayRecord(
        {
            # in C order; np.ascontiguousarray would give a number the shape (1,)
            name: Array(np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value, order="C"))
            for name, value in arrays.items()
        }
    )


class ZooClientApp(ClientApp):
    """Runs a federation's ``ClientApp`` so that its result depends on nothing but the message and the client.

    ``build`` gives the federation; it's called once in each process. ``states``: a folder for what clients keep in
    ``context.state``, which then outlives the process; ``None`` leaves it to the engine.
    """

    def __init__(self, build: Callable[[], Federation], seed: int, device: str, states: Path | None = None) -> None:
        super().__init__()
        self.build, self.seed, self.device, self.states = build, seed, device, states

    def __call__(self, message: Message, context: Context) -> Message:
        who = client_id(context)
        if message.metadata.message_type == WHO:
            return Message(RecordDict({"client": ConfigRecord({"id": who})}), reply_to=message)
        folder = None if self.states is None else self.states / f"client-{who:04d}"
        if folder is not None:
            context.state = _load_state(folder, _position(message))
        federation = self.build()
        configured = context.run_config
        context.run_config = {**configured, "device": self.device, "seed": str(self.seed)}
        seed_everything(_seed(self.seed, message, context))
        try:
            answer = federation.client(message, context)
        finally:
            context.run_config = configured  # Flower wants it back as it was
        if folder is not None and context.state:
            _save_state(folder, _position(message), context.state)
            context.state = RecordDict()  # it lies on the disk: memory doesn't grow with the clients
        return answer


def _position(message: Message) -> str:
    """Round and exchange as a name that sorts in their order."""
    return ".".join(f"{int(number):06d}" for number in message.metadata.group_id.split("."))


def _load_state(folder: Path, position: str) -> RecordDict:
    """What the client kept before this message; anything later is from a run that was killed."""
    past = [name for name in _positions(folder) if name < position]
    return unpack_records(checkpoint.load(folder / past[-1])) if past else RecordDict()


def _save_state(folder: Path, position: str, state: RecordDict) -> None:
    checkpoint.save(folder / position, pack_records(state))
    earlier = [name for name in _positions(folder) if name.split(".")[0] < position.split(".")[0]]
    for old in earlier[:-1]:  # a killed server repeats one round at most
        remove_folder(folder / old)


def _positions(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[0-9]*.[0-9]*"))


def pack_records(records: RecordDict) -> dict[str, Any]:
    """Records as plain data that a checkpoint can hold."""
    packed: dict[str, Any] = {}
    for name, record in records.items():
        kind = type(record).__name__
        plain = {k: v.numpy() for k, v in record.items()} if isinstance(record, ArrayRecord) else dict(record)
        packed[name] = {"kind": kind, "values": plain}
    return packed


def unpack_records(packed: Mapping[str, Any]) -> RecordDict:
    """The records that ``pack_records`` stored."""
    kinds: dict[str, Any] = {"ArrayRecord": array_record, "MetricRecord": MetricRecord, "ConfigRecord": ConfigRecord}
    return RecordDict({name: kinds[item["kind"]](item["values"]) for name, item in packed.items()})
