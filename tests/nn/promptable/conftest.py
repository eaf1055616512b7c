from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import SamConfig, SamModel

from zoo.nn.promptable import small_config


def tiny_config(image_size: int = 64) -> SamConfig:
    return small_config(
        image_size, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, global_attn_indexes=[1], window_size=3
    )


@pytest.fixture(scope="session")
def _tiny() -> SamModel:
    torch.manual_seed(0)
    sam = SamModel(tiny_config())
    with torch.no_grad():  # SAM starts so near to zero that any two computations agree
        for parameter in sam.parameters():
            parameter.normal_(std=0.2)
        sam.prompt_encoder.shared_embedding.load_state_dict(sam.shared_image_embedding.state_dict())
    return sam.eval()


@pytest.fixture
def sam(_tiny: SamModel) -> SamModel:
    """A SAM of 64 px with random weights, a fresh one for every test."""
    fresh = SamModel(tiny_config())
    fresh.load_state_dict(_tiny.state_dict())
    return fresh.eval()


@pytest.fixture
def folder(sam: SamModel, tmp_path: Path) -> Path:
    """The same on disk, as transformers writes it."""
    sam.save_pretrained(tmp_path / "sam")
    return tmp_path / "sam"
