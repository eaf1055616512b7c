from __future__ import annotations

import torch

from zoo.nn.axial import GatedAxialAttention


def test_attention_is_the_formula_of_the_paper():
    torch.manual_seed(0)
    attention = GatedAxialAttention(planes=4, span=5, heads=2).double().eval()
    attention.gates.data = torch.tensor([0.3, 0.7, 0.9, 0.5], dtype=torch.float64)
    x = torch.randn(1, 4, 1, 5, dtype=torch.float64)
    scale = (1 + 1e-5) ** -0.5  # what fresh batch normalisation does in eval mode
    qkv = (attention.project(x[:, :, 0]) * scale).reshape(2, 4, 5)
    r = attention.relative
    g_q, g_k, g_v1, g_v2 = attention.gates
    expected = torch.zeros(2, 2, 5, dtype=torch.float64)
    for h in range(2):
        q, k, v = qkv[h, :1], qkv[h, 1:2], qkv[h, 2:]
        for i in range(5):
            at = [w - i + 4 for w in range(5)]
            logits = [
                (q[:, i] @ k[:, w] + g_q * q[:, i] @ r[:1, at[w]] + g_k * k[:, w] @ r[1:2, at[w]]) * scale
                for w in range(5)
            ]
            weight = torch.stack(logits).softmax(0)
            expected[h, :, i] = sum(weight[w] * (g_v1 * v[:, w] + g_v2 * r[2:, at[w]]) for w in range(5))
    found = attention(x)[0, :, 0]
    assert torch.allclose(found, expected.reshape(4, 5) * scale, atol=1e-10)


def test_closed_gates_make_attention_blind_to_position():
    torch.manual_seed(0)
    attention = GatedAxialAttention(planes=4, span=6, heads=2).eval()
    attention.gates.data = torch.tensor([0.0, 0.0, 1.0, 0.0])
    x, order = torch.randn(2, 4, 3, 6), torch.randperm(6)
    assert torch.allclose(attention(x)[..., order], attention(x[..., order]), atol=1e-5)
    attention.gates.data = torch.tensor([0.5, 0.5, 1.0, 0.5])
    assert not torch.allclose(attention(x)[..., order], attention(x[..., order]), atol=1e-3)
