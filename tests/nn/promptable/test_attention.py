"""The encoder by the operator and by transformers is one encoder."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import SamModel

from zoo.nn.promptable import register_attention, use_operator
from zoo.nn.promptable.attention import OperatorAttention, registered


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_operator_gives_what_transformers_gives(sam, implementation: str) -> None:
    plain = type(sam)._from_config(sam.config, attn_implementation=implementation).eval()
    plain.load_state_dict(sam.state_dict())
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = plain.get_image_embeddings(pixels)
    found = use_operator(copy.deepcopy(plain)).get_image_embeddings(pixels)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_gradients_agree(sam) -> None:
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    gradients = []
    for on in (False, True):
        use_operator(sam, on).zero_grad()
        sam.vision_encoder(pixels).last_hidden_state.square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in sam.vision_encoder.named_parameters()})
    assert any("rel_pos_h" in name and g.abs().max() > 1e-5 for name, g in gradients[0].items())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_it_can_be_switched_off_again(sam) -> None:
    before = type(sam.vision_encoder.layers[0].attn)
    state = {name: tensor.clone() for name, tensor in sam.state_dict().items()}
    use_operator(sam)
    assert all(isinstance(layer.attn, OperatorAttention) for layer in sam.vision_encoder.layers)
    use_operator(sam, False)
    assert all(type(layer.attn) is before for layer in sam.vision_encoder.layers)
    assert sam.state_dict().keys() == state.keys()


def test_dropout_on_the_weights_is_refused(sam) -> None:
    sam.vision_encoder.layers[0].attn.dropout = 0.1
    with pytest.raises(ValueError, match="no dropout"):
        use_operator(sam)


def test_it_is_an_attention_implementation_of_transformers(sam, tmp_path) -> None:
    register_attention()
    register_attention()  # can be called again
    sam.save_pretrained(tmp_path)
    plain = SamModel.from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    ours = SamModel.from_pretrained(tmp_path, attn_implementation="zoo").eval()
    assert all(isinstance(layer.attn, OperatorAttention) for layer in ours.vision_encoder.layers)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    similarity = torch.randn(1, 1, 1, 64, generator=torch.Generator().manual_seed(1))
    given = {"pixel_values": pixels, "input_points": torch.tensor([[[[20.0, 30.0]]]] * 2)}
    with torch.no_grad():
        for more in ({}, {"attention_similarity": similarity}):
            expected, found = (model(**given, **more) for model in (plain, ours))
            torch.testing.assert_close(found.pred_masks, expected.pred_masks, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found.iou_scores, expected.iou_scores, rtol=1e-5, atol=1e-5)
    assert expected.pred_masks.std() > 1e-3
    use_operator(ours, False)
    assert not any(isinstance(layer.attn, OperatorAttention) for layer in ours.vision_encoder.layers)


def test_other_models_and_dropout_are_refused_where_it_is_registered(sam) -> None:
    x = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match="is for SAM, not for Linear"):
        registered(torch.nn.Linear(1, 1), x, x, x)
    decoder_attention = sam.mask_decoder.transformer.layers[0].self_attn
    with pytest.raises(ValueError, match="no dropout"):
        registered(decoder_attention, x, x, x, dropout=0.1)
    hidden = torch.tensor([True, False])  # True: attended to
    v = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]).view(1, 1, 2, 4)
    out, weights = registered(decoder_attention, x, x, v, hidden.view(1, 1, 1, 2))
    assert out.equal(v[:, :, :1].expand(-1, -1, 2, -1).transpose(1, 2))
    assert weights is None
    config = copy.deepcopy(sam.config)
    config.vision_config.attention_dropout = 0.1
    register_attention()
    with pytest.raises(ValueError, match="no dropout"):
        SamModel._from_config(config, attn_implementation="zoo")
