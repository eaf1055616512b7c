"""SAM's encoder attention on ``zoo.ops.masked_attention``: the same numbers without the table of scores and biases."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.models.sam.modeling_sam import SAM_VISION_ATTENTION_CLASSES, SamModel, SamVisionAttention

from zoo.ops import masked_attention


class OperatorAttention(SamVisionAttention):
    """Attention within a window, or over the whole image, with SAM's decomposed relative position (MViTv2, Sec. 4.1).

    Attention weights are never stored, so none are returned.
    """

    def forward(
        self, hidden_states: Float[Tensor, "b h w c"], output_attentions: Any = None
    ) -> tuple[Float[Tensor, "b h w c"], None]:
        b, h, w, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).reshape(b, h * w, 3, self.num_attention_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        bias = None
        if self.use_rel_pos:
            grid = q.reshape(b, self.num_attention_heads, h, w, -1)
            rel_h = torch.einsum("bnhwc,hkc->bnhwk", grid, self.get_rel_pos(h, h, self.rel_pos_h))
            rel_w = torch.einsum("bnhwc,wkc->bnhwk", grid, self.get_rel_pos(w, w, self.rel_pos_w))
            bias = (rel_h.flatten(2, 3), rel_w.flatten(2, 3))
        o = masked_attention(q, k, v, bias=bias, scale=self.scale)
        return self.proj(o.transpose(1, 2).reshape(b, h, w, -1)), None


def use_operator(sam: SamModel, on: bool = True) -> SamModel:
    """Let the image encoder of ``sam`` compute attention by the operator, or (``on=False``) by transformers again.

    Weights and output stay the same (float32: within 1e-4). Dropout on the weights, which no SAM uses, isn't supported.
    """
    plain = SAM_VISION_ATTENTION_CLASSES[sam.config.vision_config._attn_implementation or "eager"]
    for layer in sam.vision_encoder.layers:
        if on and layer.attn.dropout:
            raise ValueError("the operator has no dropout on attention weights; set attention_dropout to 0")
        layer.attn.__class__ = OperatorAttention if on else plain
    return sam
