"""The border to Flower: models and numbers as its records, and back."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy

from zoo.federated import flower  # noqa: F401  (first: it says what's missing)

# isort: split
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from zoo.federated.exchange import State, Tensors, Update

NUMBERS, EXCHANGE = "numbers", "exchange"  # of the records beside those of the models
MOST_EXAMPLES, MOST_NUMBERS = 2**53, 1000
MODEL = "model "  # begins the names of those


def question(state: State, exchange: str, names: Collection[str] | None = None) -> RecordDict:
    """What every client is sent: the server's models, or those of these ``names`` alone."""
    models = {name: model for name, model in state.models.items() if names is None or name in names}
    return RecordDict({**_models(models), EXCHANGE: ConfigRecord({"name": exchange})})


def addressed(common: RecordDict, models: Mapping[str, Tensors]) -> RecordDict:
    """What one client is sent: ``common``, and models for it alone."""
    return RecordDict({**common, **_models(models)})


def answer(update: Update) -> RecordDict:
    """What a client sends back."""
    numbers: dict[str, Any] = {"num_examples": update.num_examples, **update.numbers}
    return RecordDict({**_models(update.models), NUMBERS: MetricRecord(numbers)})


def exchange_of(content: RecordDict) -> str:
    return str(content.config_records[EXCHANGE]["name"])


def _decoded(array: Array, where: str, expected: torch.Tensor | None) -> torch.Tensor:
    """A stranger's array: its header is compared with its size, and with the server's array, before it's decoded."""
    if array.stype != "numpy.ndarray":
        raise ValueError(f"{where} is no NumPy array")
    file = BytesIO(array.data)
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{where} has an unknown header")
    shape, _, dtype = npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise ValueError(f"{where} holds {dtype}, not numbers")
    if any(side < 0 for side in shape) or tuple(array.shape) != shape:
        raise ValueError(f"{where} states two shapes")
    if expected is not None and shape != tuple(expected.shape):
        raise ValueError(f"it has {where} of shape {shape} where the server's is {tuple(expected.shape)}")
    if math.prod(shape) * dtype.itemsize != len(array.data) - file.tell():
        raise ValueError(f"{where} has another size than its header states")
    return torch.from_numpy(array.numpy())


def models_of(content: RecordDict, device: torch.device | str = "cpu") -> dict[str, Tensors]:
    """Fresh tensors: whoever gets them may change them."""
    return {
        key.removeprefix(MODEL): {name: torch.from_numpy(array.numpy()).to(device) for name, array in record.items()}
        for key, record in content.array_records.items()
    }


def update_of(content: RecordDict, client: int, sent: Mapping[str, Tensors]) -> Update:
    """A client's answer, read as a stranger's. Raises ``ValueError`` with what is wrong with it."""
    others = content.keys() - content.array_records.keys() - {NUMBERS}
    if NUMBERS not in content.metric_records or others:
        raise ValueError(f"its answer has {'other records than' if others else 'no'} numbers")
    numbers = {name: value for name, value in content.metric_records[NUMBERS].items() if not isinstance(value, list)}
    examples = numbers.pop("num_examples", None)
    if examples is None or not 0 <= examples <= MOST_EXAMPLES:
        raise ValueError(f"it states {examples} as its number of cases")
    if len(numbers) > MOST_NUMBERS or not all(len(name) <= 100 and name.isprintable() for name in numbers):
        raise ValueError("its numbers have names that no table can hold")
    models: dict[str, Tensors] = {}
    for key, record in content.array_records.items():
        if not key.startswith(MODEL):
            raise ValueError("it sends arrays that are no model")
        known = sent.get(key.removeprefix(MODEL))
        if known is not None and (lacking := [name for name in known if name not in record]):
            raise ValueError(f"it trains another architecture: it lacks {lacking[0]}")
        if known is not None and (unknown := [name for name in record if name not in known]):
            raise ValueError(
                f"it trains another architecture: it has a {unknown[0][:100]} that the server doesn't know"
            )
        models[key.removeprefix(MODEL)] = {
            name: _decoded(array, name[:100], None if known is None else known[name]) for name, array in record.items()
        }
    update = Update(models, num_examples=int(examples), **numbers)
    update.client = client
    return update


def size(content: RecordDict) -> int:
    """In bytes."""
    return sum(record.count_bytes() for record in content.values())


def _models(models: Mapping[str, Tensors]) -> dict[str, ArrayRecord]:
    # in C order; np.ascontiguousarray would give a number the shape (1,)
    return {
        MODEL + key: ArrayRecord({name: Array(np.asarray(t.numpy(), order="C")) for name, t in model.items()})
        for key, model in models.items()
    }
