"""CReFF's parts: gradients by class at the clients, features and a classifier at the server."""

from __future__ import annotations

import torch
from torch import nn

from zoo.federated.creff import CReFF, class_gradients, match_features, retrain


def parts() -> tuple[nn.Module, nn.Linear, torch.Tensor, torch.Tensor]:
    """An encoder, a classifier of three classes, and ten images of two of them."""
    torch.manual_seed(0)
    encoder, balanced = nn.Sequential(nn.Linear(5, 6), nn.ReLU()).eval(), nn.Linear(6, 3)
    return encoder, balanced, torch.randn(10, 5), torch.arange(10) % 2


def test_class_gradients_are_those_of_autograd() -> None:
    encoder, balanced, x, y = parts()
    found = class_gradients(encoder, balanced, x, y)
    loss = nn.functional.cross_entropy(balanced(encoder(x[y == 1])), y[y == 1])
    weight, bias = torch.autograd.grad(loss, [balanced.weight, balanced.bias])
    expected = torch.cat([weight, bias[:, None]], 1)
    torch.testing.assert_close(found["gradients"][1], expected, atol=1e-5, rtol=1e-4)
    assert found["present"].tolist() == [1, 1, 0]


def test_matched_features_lower_the_distance_of_gradients_and_retraining_fits_them() -> None:
    encoder, balanced, x, y = parts()
    target = class_gradients(encoder, balanced, x, y)["gradients"]
    start = {name: value.detach() for name, value in balanced.state_dict().items()}
    features = CReFF(features_per_class=5).initial(3, 6)
    present = torch.tensor([0, 1])
    matched = match_features(features, start, target, present, 200, 0.1)
    assert torch.equal(matched[2], features[2])  # nobody holds that class

    def gap(z: torch.Tensor) -> float:
        error = nn.functional.linear(z, start["weight"], start["bias"]).softmax(-1) - torch.eye(3)[:, None]
        gradient = torch.einsum("cmk,cmd->ckd", error, nn.functional.pad(z, (0, 1), value=1.0)) / z.shape[1]
        return float((1 - torch.cosine_similarity(gradient[:2], target[:2], dim=-1)).sum())

    assert gap(matched) < gap(features)
    layer = retrain(matched, start, present, 300, 0.1)

    def error(weight: torch.Tensor, bias: torch.Tensor) -> float:
        logits = nn.functional.linear(matched[:2], weight, bias).flatten(0, 1)
        return float(nn.functional.cross_entropy(logits, torch.tensor([0, 1]).repeat_interleave(5)))

    assert error(layer["weight"], layer["bias"]) < error(start["weight"], start["bias"])
