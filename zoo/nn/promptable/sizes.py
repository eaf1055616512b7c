"""The sizes of SAM's mask decoder, for plugins that keep a decoder of their own beside a frozen SAM."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import SamModel
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamMaskDecoderConfig


@dataclass(frozen=True)
class DecoderSizes:
    """The published SAMs all have the defaults."""

    channels: int = field(default=256, metadata={"min": 8, "max": 4096})
    mlp: int = field(default=2048, metadata={"min": 1, "max": 65_536})
    heads: int = field(default=8, metadata={"min": 1, "max": 256})
    quality_hidden: int = field(default=256, metadata={"min": 1, "max": 65_536})

    @classmethod
    def of(cls, sam: SamModel) -> DecoderSizes:
        config = sam.config.mask_decoder_config
        return cls(config.hidden_size, config.mlp_dim, config.num_attention_heads, config.iou_head_hidden_dim)

    def build(self) -> SamMaskDecoder:
        """A decoder of these sizes with new weights."""
        config = SamMaskDecoderConfig(
            hidden_size=self.channels,
            mlp_dim=self.mlp,
            num_attention_heads=self.heads,
            iou_head_hidden_dim=self.quality_hidden,
        )
        config._attn_implementation = "sdpa"
        return SamMaskDecoder(config)


SMALL = DecoderSizes(64, 256, 4, 64)
"""Those of the SAM that comes with the zoo."""
