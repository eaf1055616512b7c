"""Getting a SAM, resizing it, freezing it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo.errors import OptionError, WeightsError
from zoo.nn.promptable import add_lora, freeze, load_sam, resize_input, small_config
from zoo.nn.promptable.attention import OperatorAttention


def test_a_folder_gives_a_frozen_sam_with_the_operator(sam, folder: Path) -> None:
    loaded = load_sam(str(folder), needed_by="a test")
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert isinstance(loaded.vision_encoder.layers[0].attn, OperatorAttention)
    pixels = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(
        loaded.get_image_embeddings(pixels), sam.get_image_embeddings(pixels), rtol=1e-4, atol=1e-4
    )


def test_half_precision_on_disk_becomes_single_in_memory(sam, tmp_path: Path) -> None:
    sam.half().save_pretrained(tmp_path / "half")
    assert {p.dtype for p in load_sam(str(tmp_path / "half"), needed_by="a test").parameters()} == {torch.float32}


@pytest.mark.parametrize("image_size", [32, 128])
def test_another_input_size_resamples_the_positions(folder: Path, image_size: int) -> None:
    sam = load_sam(str(folder), needed_by="a test", image_size=image_size)
    side = image_size // 8
    assert sam.vision_encoder.pos_embed.shape[1:3] == (side, side)
    assert sam.vision_encoder.layers[1].attn.rel_pos_h.shape[0] == 2 * side - 1  # global
    assert sam.vision_encoder.layers[0].attn.rel_pos_h.shape[0] == 5  # a window of 3
    features = sam.get_image_embeddings(torch.randn(1, 3, image_size, image_size))
    assert features.shape == (1, 64, side, side)
    found = sam(image_embeddings=features, input_boxes=torch.tensor([[[2.0, 2, 20, 20]]]), multimask_output=False)
    assert found.pred_masks.shape[-2:] == (4 * side, 4 * side)


def test_resizing_interpolates_and_does_not_invent(sam) -> None:
    table = sam.vision_encoder.layers[1].attn.rel_pos_h.detach().clone()
    resize_input(sam, 128)
    resized = sam.vision_encoder.layers[1].attn.rel_pos_h
    assert resized.min() >= table.min()
    assert resized.max() <= table.max()
    torch.testing.assert_close(resized.mean(0), table.mean(0), rtol=0.2, atol=0.05)


def test_a_size_between_patches_is_refused(sam) -> None:
    with pytest.raises(OptionError, match="multiple of 8 px, not 100"):
        resize_input(sam, 100)


@pytest.mark.wrong_types
def test_parts_can_be_thawed(sam) -> None:
    trained = list(freeze(sam, but=["mask_decoder", "neck"]))
    assert len(trained) == len(list(sam.mask_decoder.parameters())) + len(list(sam.vision_encoder.neck.parameters()))
    assert not any(p.requires_grad for p in sam.vision_encoder.layers.parameters())
    freeze(sam, but=["prompt_encoder"])
    assert not sam.prompt_encoder.shared_embedding.positional_embedding.requires_grad  # never trained by SAM
    with pytest.raises(ValueError, match="parts"):
        freeze(sam, but=["head"])  # type: ignore[list-item]


def test_lora_starts_at_the_same_output_and_trains_little(sam) -> None:
    pixels = torch.randn(1, 3, 64, 64)
    before = sam.get_image_embeddings(pixels)
    adapted = add_lora(sam, rank=2)
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == 4  # two layers, two matrices each
    assert all("lora_" in name and "qkv" in name for name in trained)
    torch.testing.assert_close(adapted.base_model.model.get_image_embeddings(pixels), before)


def test_what_is_no_sam_is_refused_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(WeightsError, match="holds no SAM"):
        load_sam(str(empty), needed_by="a test")

    partial = shutil.copytree(folder, tmp_path / "partial")
    tensors = load_file(partial / "model.safetensors")
    name = next(name for name in tensors if name.startswith("mask_decoder"))
    del tensors[name]
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="lacks parts of a SAM"):
        load_sam(str(partial), needed_by="a test")

    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match="can't be loaded as a SAM"):
        load_sam(str(damaged), needed_by="a test")

    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(WeightsError, match=r"not a SAM|can't be loaded as a SAM"):
        load_sam(str(other), needed_by="a test")


def test_pickles_are_refused(sam, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(sam.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"model\.safetensors are needed"):
        load_sam(str(folder), needed_by="a test")


def test_the_small_sam_is_small() -> None:
    from transformers import SamModel

    with torch.device("meta"):
        sam = SamModel(small_config())
    assert sum(p.numel() for p in sam.parameters()) * 2 < 4 * 2**20  # half precision, under 4 MiB
