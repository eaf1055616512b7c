"""SAM's encoder attention on ``zoo.ops.masked_attention``: the same numbers without the table of scores and biases."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.models.sam.modeling_sam import SAM_VISION_ATTENTION_CLASSES, SamModel, SamVisionAttention

from zoo.ops import masked_attention

NAME = "zoo"
"""As which :func:`register_attention` enters the operator in transformers."""


class OperatorAttention(SamVisionAttention):
    """Attention within a window, or over the whole image, with SAM's decomposed relative position (MViTv2, Sec. 4.1).

    Attention weights are never stored, so none are returned, and there is no dropout on them.
    """

    def __init__(self, config: Any, window_size: int) -> None:
        super().__init__(config, window_size)
        _refuse_dropout(self.dropout)

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
    given = sam.config.vision_config._attn_implementation or "eager"
    plain = SAM_VISION_ATTENTION_CLASSES["sdpa" if given == NAME else given]
    for layer in sam.vision_encoder.layers:
        if on:
            _refuse_dropout(layer.attn.dropout)
        layer.attn.__class__ = OperatorAttention if on else plain
    return sam


def register_attention() -> None:
    """Enter the operator in transformers: ``SamModel.from_pretrained(..., attn_implementation="zoo")`` then uses it.

    In the image encoder that is :class:`OperatorAttention`: transformers lets no registered function near its
    decomposed bias, which it expands before the call, so the class itself is entered. The attentions of the mask
    decoder, which have no such bias, call the operator as any registered function. Other models than SAM are refused
    when they run: nothing is known of their masks. Can be called again.
    """
    SAM_VISION_ATTENTION_CLASSES[NAME] = OperatorAttention
    AttentionInterface.register(NAME, registered)


def registered(
    module: nn.Module,
    query: Float[Tensor, "b h n d"],
    key: Float[Tensor, "b h m d"],
    value: Float[Tensor, "b h m d"],
    attention_mask: Float[Tensor, "#b #h #n #m"] | Bool[Tensor, "#b #h #n #m"] | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "b n h d"], None]:
    """What transformers calls in SAM's mask decoder. Masks are added to the scores, or (bool) True where one attends.

    Raises ``ValueError`` for dropout and for a module that isn't SAM's.
    """
    if not type(module).__module__.startswith("transformers.models.sam."):
        raise ValueError(f"attn_implementation {NAME!r} is for SAM, not for {type(module).__name__}")
    _refuse_dropout(dropout)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(~attention_mask, -torch.inf)
    o = masked_attention(query, key, value, bias=attention_mask, scale=scaling)
    return o.transpose(1, 2), None


def _refuse_dropout(dropout: float) -> None:
    if dropout:
        raise ValueError("the operator has no dropout on attention weights; set attention_dropout to 0")
