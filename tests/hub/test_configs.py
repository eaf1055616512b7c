"""What a stranger's ``config.json`` may say, and what it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zoo.errors import WeightsError
from zoo.hub import foreign_config
from zoo.hub.configs import without_code

transformers = pytest.importorskip("transformers")

KERNEL = "somebody/kernels"
KEYS = ("_attn_implementation", "_attn_implementation_internal", "_unheard_of", "attn_implementation", "auto_map")


def written(folder: Path, config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def small_sam() -> Any:
    from zoo.nn.promptable import small_config

    return small_config(64, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, global_attn_indexes=[0])


@pytest.mark.parametrize("key", KEYS)
def test_no_key_names_code_at_any_depth(key: str, tmp_path: Path) -> None:
    stated = small_sam().to_dict()
    stated[key] = stated["vision_config"][key] = KERNEL
    config = foreign_config(transformers.SamConfig, written(tmp_path, stated))
    for one in (config, config.vision_config, config.mask_decoder_config):
        assert KERNEL not in map(str, vars(one).values())
        assert one._attn_implementation != KERNEL
    assert config.vision_config.hidden_size == 24


def test_what_a_model_is_made_of_stays() -> None:
    stated = {"a": [{"_b": 1, "c": 2}], "label2id": {"_background": 0}, "_name_or_path": "x", "dtype": "float16"}
    assert without_code(stated) == {"a": [{"c": 2}], "label2id": {"_background": 0}, "dtype": "float16"}


def test_a_sam_whose_configuration_names_a_kernel_is_loaded_without_it(tmp_path: Path, monkeypatch) -> None:
    from zoo.nn.promptable import load_sam

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a kernel was asked for")

    monkeypatch.setattr("transformers.modeling_utils.load_and_register_attn_kernel", refuse, raising=False)
    config = small_sam()
    transformers.SamModel(config).save_pretrained(tmp_path)
    written(tmp_path, {**config.to_dict(), "_attn_implementation": KERNEL, "attn_implementation": KERNEL})
    sam = load_sam(str(tmp_path), needed_by="cemb-sam", operator=False)
    assert sam.config._attn_implementation in ("eager", "sdpa")


@pytest.mark.parametrize("content", ["", "[1]", "[" * 100_000, '{"a": '])
def test_a_damaged_configuration_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=r"config\.json (can't be read as JSON|is no table)") as refusal:
        foreign_config(transformers.SamConfig, tmp_path)
    assert "\n" not in str(refusal.value)
