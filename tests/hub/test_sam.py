"""A SAM by its Hub id."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zoo.errors import WeightsError

pytest.importorskip("transformers")


def test_a_sam_comes_from_the_hub_and_offline_from_the_cache(hub, client, tmp_path: Path, capsys) -> None:
    from transformers import SamModel

    from zoo.nn.promptable import load_sam, small_config

    small = small_config(64, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, global_attn_indexes=[0])
    original = SamModel(small)
    original.save_pretrained(tmp_path / "sam")
    hub.add("org/sam-tiny", {path.name: path.read_bytes() for path in (tmp_path / "sam").iterdir()})
    loaded = load_sam("org/sam-tiny", needed_by="cemb-sam")
    assert all(torch.equal(tensor, original.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert "cemb-sam starts from org/sam-tiny" in capsys.readouterr().err
    client.offline()
    assert load_sam("org/sam-tiny", needed_by="cemb-sam", image_size=128).config.vision_config.image_size == 128


def test_offline_without_a_cached_sam_the_sentence_says_what_to_fetch(hub, client) -> None:
    from zoo.nn.promptable import load_sam

    client.offline()
    with pytest.raises(WeightsError) as refusal:
        load_sam("facebook/sam-vit-base", needed_by="cemb-sam")
    assert "facebook/sam-vit-base, which is not in the cache" in str(refusal.value)
    assert "hf download facebook/sam-vit-base config.json" in str(refusal.value)


def test_a_name_that_is_neither_folder_nor_hub_id_is_refused() -> None:
    from zoo.nn.promptable import load_sam

    with pytest.raises(WeightsError, match="is not a Hub address"):
        load_sam("no such thing", needed_by="cemb-sam")
