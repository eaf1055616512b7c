"""Promptable segmentation on ``transformers``' Segment Anything: what all plugins of the family share.

``load_sam`` gets a model, ``Promptable`` embeds an image once and answers prompts, ``find_everything`` asks for all
that is there, ``Session`` answers click after click, ``follow`` clicks as a user would, ``click_scores`` measures it.
The functions below are the joints at which a paper adds its own idea: features between encoder and decoder
(``decode``), other heads (``two_way``), other necks (``before_neck``), more outputs (``add_mask_tokens``,
``all_masks``), a decoder of one's own (``new_decoder``), gradients to prompts (``encode_prompts``). A
model on a frozen SAM is an ``OnSam``.
"""

from __future__ import annotations

from zoo.nn.promptable.attention import register_attention, use_operator
from zoo.nn.promptable.clicks import MOST, Trace, click_scores, follow, next_click
from zoo.nn.promptable.decoder import SMALL, DecoderConfig, new_decoder
from zoo.nn.promptable.everything import AutoMask, Grid, find_everything
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
from zoo.nn.promptable.prompts import Box, Mask, Point, Prompt, box_around, fitted, near_box, prompts_from
from zoo.nn.promptable.sam import add_lora, freeze, load_sam, resize_input, small_config
from zoo.nn.promptable.session import Session, inside_of, sam_answer
from zoo.nn.promptable.standing import OnSam
from zoo.nn.promptable.stored import read_masks

__all__ = [
    "MOST",
    "SMALL",
    "AutoMask",
    "Box",
    "Decoded",
    "DecoderConfig",
    "Embedded",
    "Frame",
    "Grid",
    "Mask",
    "OnSam",
    "Point",
    "Prompt",
    "PromptEmbeddings",
    "Promptable",
    "Session",
    "Tensors",
    "Trace",
    "add_lora",
    "add_mask_tokens",
    "all_masks",
    "before_neck",
    "box_around",
    "click_scores",
    "decode",
    "encode_prompts",
    "find_everything",
    "fitted",
    "follow",
    "freeze",
    "inside_of",
    "load_sam",
    "mask_side",
    "near_box",
    "new_decoder",
    "next_click",
    "prompts_from",
    "read_masks",
    "register_attention",
    "resize_input",
    "sam_answer",
    "small_config",
    "two_way",
    "use_operator",
]
