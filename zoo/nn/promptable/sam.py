"""Getting a SAM: by its Hub id, from a folder, or the small one that comes with the zoo; at any input size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from transformers import SamConfig, SamModel
from transformers.utils import logging

from zoo.errors import OptionError, WeightsError
from zoo.nn.promptable.attention import use_operator
from zoo.storage import user_path

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / "demo"
Part = Literal["vision_encoder", "neck", "prompt_encoder", "mask_decoder"]
PARTS: tuple[Part, ...] = ("vision_encoder", "neck", "prompt_encoder", "mask_decoder")


def load_sam(source: str = DEMO, *, needed_by: str, image_size: int | None = None, operator: bool = True) -> SamModel:
    """A ``SamModel`` in eval mode, frozen.

    ``source``: ``demo``, a Hub id such as ``facebook/sam-vit-base`` (``@revision`` may follow), or a folder that holds
    ``config.json`` and ``model.safetensors`` in transformers' layout, as MedSAM and others publish it. ``image_size``:
    side of the square input, px; None keeps the checkpoint's. ``operator``: attention by ``zoo.ops.masked_attention``.

    Raises ``WeightsError`` when there is nothing to load or it is no SAM; offline it says what to fetch.
    """
    from zoo.hub import address, fetch_backbone, foreign_config

    if source == DEMO:
        folder = DEMO_FOLDER
    elif (folder := user_path(source, WeightsError)).is_dir():
        if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            raise WeightsError(f"{folder} holds no SAM: config.json and model.safetensors are needed")
    else:
        where = address(source)
        folder = fetch_backbone(where.repo, needed_by=needed_by, revision=where.revision)
    try:
        config = foreign_config(SamConfig, folder)
        if config.model_type != "sam":
            raise WeightsError(f"{source} is a {config.model_type}, not a SAM; choose another checkpoint")
        with _without_bars():
            sam, report = SamModel.from_pretrained(
                folder, config=config, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
    except WeightsError:
        raise
    except Exception as error:  # a stranger's file may fail anywhere in transformers
        raise WeightsError(f"{source} can't be loaded as a SAM: {str(error).splitlines()[0]}") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        name = sorted([*report["missing_keys"], *map(str, report["mismatched_keys"])])[0]
        raise WeightsError(f"{source} lacks parts of a SAM ({name}); choose another checkpoint")
    sam = sam.float()
    if image_size is not None:
        resize_input(sam, image_size)
    if operator:
        use_operator(sam)
    freeze(sam)
    return sam.eval()


@contextmanager
def _without_bars() -> Iterator[None]:
    """Reading a file takes too short a time for transformers' progress bar."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def resize_input(sam: SamModel, image_size: int) -> SamModel:
    """Let ``sam`` take squares of ``image_size`` px: a multiple of its patch size.

    As SAM's users do it: the absolute positions are interpolated bilinearly, the relative positions of the global
    layers linearly (SAMed, K. Zhang and D. Liu 2023); windowed layers and weights keep what they have. In place.
    """
    vision, prompt = sam.config.vision_config, sam.config.prompt_encoder_config
    patch = vision.patch_size
    if image_size < patch or image_size % patch:
        raise OptionError(f"the input of SAM must be a multiple of {patch} px, not {image_size}")
    if image_size == vision.image_size:
        return sam
    side = image_size // patch
    encoder = sam.vision_encoder
    with torch.no_grad():
        if encoder.pos_embed is not None:
            grid = encoder.pos_embed.permute(0, 3, 1, 2)
            grid = F.interpolate(grid, (side, side), mode="bilinear", align_corners=False)
            encoder.pos_embed = nn.Parameter(grid.permute(0, 2, 3, 1).contiguous())
        for layer in encoder.layers:
            if layer.window_size == 0 and layer.attn.use_rel_pos:
                for name in ("rel_pos_h", "rel_pos_w"):
                    table = getattr(layer.attn, name).T[None]
                    table = F.interpolate(table, 2 * side - 1, mode="linear", align_corners=False)
                    setattr(layer.attn, name, nn.Parameter(table[0].T.contiguous()))
    vision.image_size = prompt.image_size = encoder.image_size = image_size
    prompt.image_embedding_size = side
    encoder.patch_embed.image_size = (image_size, image_size)
    encoder.patch_embed.num_patches = side * side
    sam.prompt_encoder.input_image_size = image_size
    sam.prompt_encoder.image_embedding_size = (side, side)
    return sam


def small_config(image_size: int = 256, **changes: Any) -> SamConfig:
    """The configuration of the SAM that comes with the zoo: 0.9 million parameters."""
    vision = {
        "image_size": image_size,
        "hidden_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "global_attn_indexes": [2, 5],
        "window_size": 8,
        "patch_size": 8,
        "mlp_ratio": 3.0,
        "output_channels": 64,
        "num_pos_feats": 32,
        "initializer_range": 0.02,
    }
    prompt = {
        "image_size": image_size,
        "patch_size": 8,
        "image_embedding_size": image_size // 8,
        "hidden_size": 64,
        "mask_input_channels": 16,
    }
    decoder = {"hidden_size": 64, "mlp_dim": 256, "num_attention_heads": 4, "iou_head_hidden_dim": 64}
    return SamConfig(vision_config=vision | changes, prompt_encoder_config=prompt, mask_decoder_config=decoder)


def part(sam: SamModel, name: Part) -> nn.Module:
    """A part by name; ``neck`` is the end of ``vision_encoder``. Raises ``ValueError``."""
    if name not in PARTS:
        raise ValueError(f"a SAM has the parts {', '.join(PARTS)}, not {name!r}")
    return sam.vision_encoder.neck if name == "neck" else getattr(sam, name)


def freeze(sam: SamModel, *, but: Sequence[Part] = ()) -> Iterator[nn.Parameter]:
    """Freeze ``sam`` but for the parts named in ``but``; returns the parameters left to train."""
    sam.requires_grad_(False)
    for name in but:
        part(sam, name).requires_grad_(True)
    sam.shared_image_embedding.requires_grad_(False)  # random Fourier features; SAM never trains them
    sam.prompt_encoder.shared_embedding.requires_grad_(False)
    return (p for p in sam.parameters() if p.requires_grad)


def add_lora(sam: SamModel, rank: int = 4, *, alpha: int | None = None, targets: Sequence[str] = ("qkv",)) -> nn.Module:
    """Low-rank updates (peft) on the encoder's linear layers whose names end in ``targets``; only they are trained.

    ``alpha``: the scale is ``alpha / rank``; None for 1. SAM's ``qkv`` is one layer for queries, keys and values.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=rank if alpha is None else alpha, lora_dropout=0.0, bias="none",
        target_modules=rf"vision_encoder\..*\.({'|'.join(targets)})",
    )  # fmt: skip
    return get_peft_model(sam, config)
