"""The sizes of a SAM as a configuration, and a mask decoder of these sizes: for plugins that train one of their own."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import SamModel
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamMaskDecoderConfig

from zoo.nn.promptable.promptable import add_mask_tokens


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of SAM's mask decoder; the published ones all have these."""

    channels: int = field(default=256, metadata={"min": 8, "max": 4096})  # C
    mlp: int = field(default=2048, metadata={"min": 1, "max": 65_536})
    heads: int = field(default=8, metadata={"min": 1, "max": 256})
    quality_hidden: int = field(default=256, metadata={"min": 1, "max": 65_536})

    @classmethod
    def of(cls, sam: SamModel) -> DecoderConfig:
        config = sam.config.mask_decoder_config
        return cls(config.hidden_size, config.mlp_dim, config.num_attention_heads, config.iou_head_hidden_dim)


SMALL = DecoderConfig(64, 256, 4, 64)
"""Of the SAM that comes with the zoo."""


def new_decoder(sizes: DecoderConfig, tokens: int = 4) -> SamMaskDecoder:
    """A decoder with random weights and ``tokens`` mask tokens (SAM has 4: one for a single mask, three to choose)."""
    config = SamMaskDecoderConfig(
        hidden_size=sizes.channels,
        mlp_dim=sizes.mlp,
        num_attention_heads=sizes.heads,
        iou_head_hidden_dim=sizes.quality_hidden,
    )
    config._attn_implementation = "sdpa"
    decoder = SamMaskDecoder(config)
    if tokens != decoder.num_mask_tokens:
        add_mask_tokens(decoder, tokens)
    return decoder
