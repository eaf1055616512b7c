"""The encoder by the operator and by transformers is one encoder."""

from __future__ import annotations

import copy

import pytest
import torch

from zoo.nn.promptable import use_operator
from zoo.nn.promptable.attention import OperatorAttention


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
