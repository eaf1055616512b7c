"""What the plugins' tests share; :mod:`tests.models.base` tells how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.conformance.report import Examination
from zoo.model import Model
from zoo.prediction import Prediction

pytest.register_assert_rewrite("tests.models.base")


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Networks here are tiny: a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def demo(examination: Callable[[str], Examination]) -> Callable[[str], Model]:
    """A model of ours with its demo weights on the CPU, loaded once."""
    return lambda name: examination(name).subject.model


@pytest.fixture(scope="session")
def predicted(examination: Callable[[str], Examination]) -> Callable[[str], Any]:
    """A model's prediction on the phantom of its card, made once."""
    return lambda name: examination(name).subject.prediction


@pytest.fixture(scope="session")
def predict_on_phantom(examination: Callable[[str], Examination]) -> Callable[[str, Model], Prediction]:
    """What another model of the same class makes of that phantom."""

    def predict(name: str, model: Model) -> Prediction:
        subject = examination(name).subject
        return subject.predict(subject.specs[0], model=model)

    return predict


@pytest.fixture(scope="session")
def tiny_sam(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a SAM of 64 px with random weights."""
    from transformers import SamModel

    from zoo.nn.promptable import small_config

    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "global_attn_indexes": [1]}
    torch.manual_seed(0)
    sam = SamModel(small_config(64, window_size=3, **sizes))
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if "vision_encoder" in name:
                parameter.normal_(std=0.2)
    folder: Path = tmp_path_factory.mktemp("sam")
    sam.save_pretrained(folder)
    return str(folder)
