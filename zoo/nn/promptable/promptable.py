"""SAM as its users need it: embed an image once, then ask for as many objects as wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamMaskDecoder

from zoo.data.features import FeatureCache, content_key, weights_key
from zoo.nn.promptable.frame import Fit, Frame, Tensors
from zoo.nn.promptable.prompts import Prompt


@dataclass(frozen=True)
class Embedded:
    """An image after the encoder: its features and where it lies in the encoder's square."""

    features: Float[Tensor, "1 c g g"]
    frame: Frame


class Decoded(NamedTuple):
    """What the decoder says: low-resolution logits of every mask, and how good it thinks they are."""

    logits: Float[Tensor, "n k m m"]
    quality: Float[Tensor, "n k"]


class Promptable:
    """A frozen SAM with a cache of embeddings. ``fit``: how an image fills the square (see ``Frame``)."""

    def __init__(self, sam: SamModel, *, fit: Fit = "pad", cache: FeatureCache | None = None) -> None:
        self.sam = sam
        self.fit = fit
        self.cache = FeatureCache() if cache is None else cache
        self._weights: str | None = None

    @property
    def size(self) -> int:
        """Side of the encoder's square, px."""
        return self.sam.config.vision_config.image_size

    @property
    def device(self) -> torch.device:
        return next(self.sam.parameters()).device

    def frame(self, height: int, width: int) -> Frame:
        return Frame(height, width, self.size, self.fit)

    def embed(self, image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]) -> Embedded:
        """The features of one image (on 0 to 255), from the cache if it was seen under these weights before."""
        frame = self.frame(*image.shape[:2])
        if self._weights is None:
            self._weights = weights_key(self.sam.vision_encoder)
        key = content_key(image, self._weights, str(self.size), self.fit)

        def encode() -> Tensor:
            with torch.inference_mode(False), torch.no_grad():  # what is kept may be used where gradients are wanted
                pixels = frame.pixels(torch.from_numpy(np.ascontiguousarray(image)).to(self.device))
                return self.sam.get_image_embeddings(pixels).cpu()

        return Embedded(self.cache.get(key, encode).to(self.device), frame)

    def ask(self, image: Embedded, prompts: Sequence[Prompt], *, decoder: nn.Module | None = None) -> Decoded:
        """One mask per prompt, all in one pass of the decoder. Raises ``OptionError`` for a prompt off the image."""
        with torch.no_grad():
            tensors = image.frame.tensors(prompts, mask_side(self.sam), self.device)
            return decode(self.sam, image.features, encode_prompts(self.sam, tensors), decoder=decoder)


class PromptEmbeddings(NamedTuple):
    sparse: Float[Tensor, "1 n t c"]
    dense: Float[Tensor, "#n c g g"]


def encode_prompts(sam: SamModel, prompts: Tensors) -> PromptEmbeddings:
    """The prompt encoder's view of ``n`` objects. Gradients reach the coordinates in ``prompts``."""
    sparse, dense = sam.prompt_encoder(prompts.points, prompts.labels, prompts.boxes, prompts.masks)
    if prompts.boxes is not None and prompts.points is None:
        sparse = sparse.reshape(1, prompts.boxes.shape[1], 2, -1)
    if sparse is None:  # a mask alone: objects without tokens of their own
        count = 1 if prompts.masks is None else len(prompts.masks)
        sparse = dense.new_zeros(1, count, 0, dense.shape[1])
    return PromptEmbeddings(sparse, dense)


def decode(
    sam: SamModel,
    features: Float[Tensor, "#n c g g"],
    prompts: PromptEmbeddings,
    *,
    multimask: bool = False,
    decoder: nn.Module | None = None,
) -> Decoded:
    """Masks of ``n`` objects, by SAM's mask decoder or another that takes what it takes.

    ``features`` may be what a plugin made of the encoder's: of one image for all objects, or one row for each.
    ``multimask``: three masks per object instead of one.
    """
    decoder = sam.mask_decoder if decoder is None else decoder
    position = sam.get_image_wide_positional_embeddings()
    n = prompts.sparse.shape[1]
    if len(features) == 1 and len(prompts.dense) == 1:  # objects share the image: it goes to the decoder once
        logits, quality = decoder(features, position, prompts.sparse, prompts.dense, multimask_output=multimask)
        return Decoded(logits[0], quality[0])
    # every object has an image or a mask of its own
    logits, quality = decoder(
        features.expand(n, -1, -1, -1),
        position.expand(n, -1, -1, -1),
        prompts.sparse.transpose(0, 1),
        prompts.dense,
        multimask_output=multimask,
    )
    return Decoded(logits[:, 0], quality[:, 0])


def mask_side(sam: SamModel) -> int:
    """Side of the decoder's logits and of mask prompts, px."""
    return 4 * sam.config.prompt_encoder_config.image_embedding_size


def add_mask_tokens(decoder: SamMaskDecoder, count: int, *, noise: float = 0.02) -> None:
    """Give a mask decoder ``count`` mask tokens in all, with their hyper-networks and quality outputs, in place.

    Token 0 stays the single-mask token; new ones are copies of SAM's ambiguity tokens in turn, plus Gaussian noise.
    For decoders with one output per class: ``all_masks`` gives the masks of all tokens.
    """
    import copy

    old = decoder.num_mask_tokens
    source = [i if i < old else 1 + (i - 1) % (old - 1) for i in range(count)]
    with torch.no_grad():
        tokens = decoder.mask_tokens.weight[source].clone()
        tokens[old:] += noise * torch.randn_like(tokens[old:])
        decoder.mask_tokens = nn.Embedding.from_pretrained(tokens, freeze=False)
        decoder.output_hypernetworks_mlps = nn.ModuleList(
            copy.deepcopy(decoder.output_hypernetworks_mlps[i]) for i in source
        )
        last = decoder.iou_prediction_head.proj_out
        wider = nn.Linear(last.in_features, count)
        wider.weight.copy_(last.weight[source])
        wider.bias.copy_(last.bias[source])
        decoder.iou_prediction_head.proj_out = wider
    decoder.num_mask_tokens = count
    decoder.num_multimask_outputs = count - 1


def all_masks(
    sam: SamModel,
    features: Float[Tensor, "#n c g g"],
    prompts: PromptEmbeddings,
    *,
    decoder: SamMaskDecoder | None = None,
) -> Decoded:
    """The masks of all tokens of the decoder, token 0 and those beyond SAM's four too, as decoders by class need them.

    ``features`` and ``prompts`` as for :func:`decode`.
    """
    decoder = sam.mask_decoder if decoder is None else decoder
    queries, image = two_way(sam, features, prompts, decoder=decoder)
    fine = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(image)))
    fine = decoder.activation(decoder.upscale_conv2(fine))
    tokens = queries[:, 1 : 1 + decoder.num_mask_tokens].unbind(1)
    heads = torch.stack([head(q) for head, q in zip(decoder.output_hypernetworks_mlps, tokens, strict=True)], dim=1)
    return Decoded(torch.einsum("nkc,nchw->nkhw", heads, fine), decoder.iou_prediction_head(queries[:, 0]))


def two_way(
    sam: SamModel,
    features: Float[Tensor, "#n c g g"],
    prompts: PromptEmbeddings,
    *,
    decoder: Any = None,
) -> tuple[Float[Tensor, "n t c"], Float[Tensor, "n c g g"]]:
    """The mask decoder's transformer alone: tokens and image after both have read each other, for other heads.

    Tokens come in SAM's order: quality, masks, then those of the prompts. ``features``: of one image for all ``n``
    objects, or one row for each. ``decoder``: whose ``iou_token``, ``mask_tokens`` and ``transformer``.
    """
    decoder = sam.mask_decoder if decoder is None else decoder
    n, (_, c, g, _g) = prompts.sparse.shape[1], features.shape
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(n, 1, -1, -1)
    tokens = torch.cat([own, prompts.sparse.transpose(0, 1)], dim=2)
    position = sam.get_image_wide_positional_embeddings().expand(n, -1, -1, -1)
    queries, image = decoder.transformer(
        point_embeddings=tokens,
        image_embeddings=(features + prompts.dense).expand(n, -1, -1, -1),
        image_positional_embeddings=position,
        attention_similarity=None,
    )
    return queries[:, 0], image.transpose(2, 3).reshape(n, c, g, g)


def before_neck(sam: SamModel, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b c g g"]:
    """The encoder's features before its neck, for necks with further inputs."""
    encoder = sam.vision_encoder
    x = encoder.patch_embed(pixels)
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    for layer in encoder.layers:
        x = layer(x)
    return x.permute(0, 3, 1, 2)
