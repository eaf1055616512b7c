from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import SamModel

from zoo.nn.promptable import small_config


@pytest.fixture(scope="session")
def tiny_sam(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a SAM of 64 px with random weights."""
    torch.manual_seed(0)
    sam = SamModel(
        small_config(
            64, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, global_attn_indexes=[1], window_size=3
        )
    )
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if "vision_encoder" in name:
                parameter.normal_(std=0.2)
    folder: Path = tmp_path_factory.mktemp("sam")
    sam.save_pretrained(folder)
    return str(folder)
