"""Promptable segmentation on ``transformers``' Segment Anything: what all plugins of the family share.

``load_sam`` gets a model, ``Promptable`` embeds an image once and answers prompts, and the functions below it are the
joints at which a paper adds its own idea: features between encoder and decoder (``decode``), other heads (``two_way``),
other necks (``before_neck``), more outputs (``add_mask_tokens``, ``all_masks``), a decoder of one's own
(``new_decoder``), gradients to prompts (``encode_prompts``).
"""

from __future__ import annotations

from zoo.nn.promptable.attention import use_operator
from zoo.nn.promptable.decoder import SMALL, DecoderConfig, new_decoder
from zoo.nn.promptable.frame import Frame, Tensors
from zoo.nn.promptable.promptable import (
    Decoded,
    Embedded,
    Promptable,
    PromptEmbeddings,
    add_mask_tokens,
    all_masks,
    before_neck,
    decode,
    encode_prompts,
    mask_side,
    two_way,
)
from zoo.nn.promptable.prompts import Box, Mask, Point, Prompt, box_around, prompts_from
from zoo.nn.promptable.sam import add_lora, freeze, load_sam, resize_input, small_config

__all__ = [
    "SMALL",
    "Box",
    "Decoded",
    "DecoderConfig",
    "Embedded",
    "Frame",
    "Mask",
    "Point",
    "Prompt",
    "PromptEmbeddings",
    "Promptable",
    "Tensors",
    "add_lora",
    "add_mask_tokens",
    "all_masks",
    "before_neck",
    "box_around",
    "decode",
    "encode_prompts",
    "freeze",
    "load_sam",
    "mask_side",
    "new_decoder",
    "prompts_from",
    "resize_input",
    "small_config",
    "two_way",
    "use_operator",
]
