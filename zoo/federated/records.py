"""The border to Flower: models and numbers as its records, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from zoo.federated import flower  # noqa: F401  (first: it says what's missing)

# isort: split
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from zoo.federated.exchange import State, Tensors, Update

NUMBERS, EXCHANGE = "numbers", "exchange"  # of the records beside those of the models
MODEL = "model "  # begins the names of those


def question(state: State, exchange: str) -> RecordDict:
    """What every client is sent."""
    return RecordDict({**_models(state.models), EXCHANGE: ConfigRecord({"name": exchange})})


def answer(update: Update) -> RecordDict:
    """What a client sends back."""
    numbers: dict[str, Any] = {"num_examples": update.num_examples, **update.numbers}
    return RecordDict({**_models(update.models), NUMBERS: MetricRecord(numbers)})


def exchange_of(content: RecordDict) -> str:
    return str(content.config_records[EXCHANGE]["name"])


def models_of(content: RecordDict, device: torch.device | str = "cpu") -> dict[str, Tensors]:
    """Fresh tensors: whoever gets them may change them."""
    return {
        key.removeprefix(MODEL): {name: torch.from_numpy(array.numpy()).to(device) for name, array in record.items()}
        for key, record in content.array_records.items()
    }


def update_of(content: RecordDict, client: int) -> Update:
    numbers = {name: value for name, value in content.metric_records[NUMBERS].items() if not isinstance(value, list)}
    update = Update(models_of(content), num_examples=int(numbers.pop("num_examples")), **numbers)
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
