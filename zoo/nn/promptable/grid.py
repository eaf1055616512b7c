"""SAM's mask decoder for many clicks on one image: the same numbers with a third of the work.

What all clicks share (the image before the first layer) is projected once. After it, every click has an image of its
own, thousands of places long, and only a handful of tokens: so projections of the image move to the tokens, where
``(W x) . q = x . (W' q)`` and ``sum a (W x) = W (sum a x)``. Masks are upscaled only of clicks that are worth it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import SamModel
from transformers.models.sam.modeling_sam import SamAttention

from zoo.nn.promptable.frame import Tensors
from zoo.nn.promptable.promptable import encode_prompts


@dataclass(frozen=True)
class Answers:
    """Of ``n`` clicks: how good each of the three masks is expected to be, and what it takes to draw them."""

    quality: Float[Tensor, "n 3"]
    hyper: Float[Tensor, "n 3 u"]  # what each mask looks for in the upscaled image
    image: Float[Tensor, "n p c"]  # as each click left it, place by place


def answer_clicks(sam: SamModel, features: Float[Tensor, "1 c g g"], points: Float[Tensor, "n 2"]) -> Answers:
    """SAM's three masks for each of ``n`` clicks (x, y in pixels of its square) on one image, not yet drawn."""
    decoder = sam.mask_decoder
    labels = torch.ones(1, len(points), 1, dtype=torch.int64, device=points.device)
    prompts = encode_prompts(sam, Tensors(points=points[None, :, None], labels=labels))
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    first = torch.cat([own.expand(len(points), -1, -1), prompts.sparse[0]], dim=1)  # [n t c]
    x = (features + prompts.dense).flatten(2).transpose(1, 2)  # [1 p c], then one for each click
    position = sam.get_image_wide_positional_embeddings().flatten(2).transpose(1, 2)
    transformer, tokens = decoder.transformer, first
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = layer.self_attn(tokens[None], tokens[None], tokens[None])[0][0]
        else:
            query = (tokens + first)[None]
            tokens = tokens + layer.self_attn(query, query, tokens[None])[0][0]
        tokens = layer.layer_norm1(tokens)
        placed = x + position
        tokens = layer.layer_norm2(tokens + _read(layer.cross_attn_token_to_image, tokens + first, placed, x))
        tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
        x = _write(layer.cross_attn_image_to_token, placed, tokens + first, tokens, x)
        x = layer.layer_norm4(x)
    tokens = tokens + _read(transformer.final_attn_token_to_image, tokens + first, x + position, x)
    tokens = transformer.layer_norm_final_attn(tokens)
    quality = decoder.iou_prediction_head(tokens[:, 0])[:, 1:]
    count = decoder.num_mask_tokens
    hyper = [decoder.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in range(1, count)]
    return Answers(quality, torch.stack(hyper, 1), x)


def draw(sam: SamModel, answers: Answers, chosen: Bool[Tensor, "n 3"]) -> Float[Tensor, "m s s"]:
    """Low-resolution logits of the ``chosen`` masks, click by click; only their clicks' images are upscaled."""
    decoder = sam.mask_decoder
    some = chosen.any(1)
    x, hyper = answers.image[some], answers.hyper[some]
    n, places, _ = x.shape
    side = int(places**0.5)
    # transposed convolutions whose kernel is their stride: each place becomes 2 x 2 by one product
    x = _enlarged(x, decoder.upscale_conv1)
    norm = decoder.upscale_layer_norm
    x = F.gelu(F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
    x = F.gelu(_enlarged(x, decoder.upscale_conv2))  # [n p*4*4 u]
    logits = torch.bmm(hyper, x.transpose(1, 2)).view(n, -1, side, side, 2, 2, 2, 2)[chosen[some]]
    return logits.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(logits), 4 * side, 4 * side)


def _enlarged(x: Float[Tensor, "n p c"], convolution: nn.ConvTranspose2d) -> Float[Tensor, "n q d"]:
    """Four places for each, in the order (row, column) within it."""
    assert convolution.bias is not None
    weight = convolution.weight.permute(0, 2, 3, 1).flatten(1)  # c, then 2 x 2 of d
    return (x @ weight + convolution.bias.repeat(4)).view(len(x), 4 * x.shape[1], -1)


def _heads(projection: nn.Linear, heads: int) -> Float[Tensor, "h d c"]:
    return projection.weight.unflatten(0, (heads, -1))


def _read(
    attention: SamAttention,
    queries: Float[Tensor, "n t c"],
    keys: Float[Tensor, "b p c"],
    values: Float[Tensor, "b p c"],
) -> Float[Tensor, "n t c"]:
    """Tokens read the image. The keys' bias moves all scores of a token alike, so it drops out."""
    h = attention.num_attention_heads
    q = attention.q_proj(queries).unflatten(2, (h, -1)) * attention.scaling  # [n t h d]
    n, t = q.shape[:2]
    if len(keys) == 1:
        k = attention.k_proj(keys[0]).unflatten(1, (h, -1))
        v = attention.v_proj(values[0]).unflatten(1, (h, -1))
        share = torch.einsum("nthd,phd->hntp", q, k).softmax(-1)
        found = torch.einsum("hntp,phd->nthd", share, v).flatten(2)
        return attention.out_proj(found)
    folded = torch.einsum("nthd,hdc->nthc", q, _heads(attention.k_proj, h)).flatten(1, 2)
    share = torch.bmm(folded, keys.transpose(1, 2)).softmax(-1)  # [n t*h p]
    seen = torch.bmm(share, values).view(n, t, h, -1)
    found = torch.einsum("nthc,hdc->nthd", seen, _heads(attention.v_proj, h)).flatten(2)
    return attention.out_proj(found + attention.v_proj.bias)


def _write(
    attention: SamAttention,
    queries: Float[Tensor, "b p c"],
    keys: Float[Tensor, "n t c"],
    values: Float[Tensor, "n t c"],
    image: Float[Tensor, "b p c"],
) -> Float[Tensor, "n p c"]:
    """``image`` plus what its places read from the tokens."""
    h = attention.num_attention_heads
    k = attention.k_proj(keys).unflatten(2, (h, -1)) * attention.scaling  # [n t h d]
    n, t = k.shape[:2]
    if len(queries) == 1:
        q = attention.q_proj(queries[0]).unflatten(1, (h, -1))
        scores = torch.einsum("nthd,phd->nhtp", k, q)
    else:
        folded = torch.einsum("nthd,hdc->nhtc", k, _heads(attention.q_proj, h)).flatten(1, 2)
        bias = torch.einsum("nthd,hd->nht", k, attention.q_proj.bias.view(h, -1)).flatten(1)
        scores = torch.baddbmm(bias[..., None], folded, queries.transpose(1, 2)).view(n, h, t, -1)
    share = scores.softmax(2).flatten(1, 2)  # [n h*t p]
    v = attention.v_proj(values).unflatten(2, (h, -1))
    out = attention.out_proj.weight.unflatten(1, (h, -1))  # c h d
    written = torch.einsum("nthd,chd->nhtc", v, out).flatten(1, 2)
    return torch.baddbmm(image + attention.out_proj.bias, share.transpose(1, 2), written)
