"""The set model: packed patients, order, evidence, the printed block, attention maps that agree with the operator."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zoo.models.meldd.network import (
    UNKNOWN_SITE,
    VARIANTS,
    ContextConfig,
    Layout,
    Sets,
    Variant,
    age_code,
    repeated,
)

SMALL = ContextConfig(width=16, layers=2, ffn=24)
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def some_sets(sizes: list[int], features: int = 12, *, age: float = 50.0, sex: int = 1, seed: int = 0) -> Sets:
    generator = torch.Generator().manual_seed(seed)
    t = sum(sizes)
    return Sets(
        torch.randn(t, features, generator=generator),
        torch.randint(7, (t,), generator=generator),
        torch.tensor(sizes),
        torch.full((len(sizes),), age),
        torch.full((len(sizes),), sex),
    )


def variant(name: str, config: ContextConfig = SMALL, seed: int = 0) -> Variant:
    torch.manual_seed(seed)
    return Variant(name, 12, config).eval()


@settings(max_examples=25)
@given(sizes=sizes, name=st.sampled_from(VARIANTS), seed=st.integers(0, 99))
def test_patients_of_a_batch_do_not_see_each_other(sizes: list[int], name: str, seed: int):
    sets, net = some_sets(sizes, seed=seed), variant(name)
    together = net(sets)[0]
    alone = torch.cat([net(sets.take(torch.tensor([b])))[0] for b in range(len(sizes))])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@settings(max_examples=25)
@given(n=st.integers(2, 12), name=st.sampled_from(VARIANTS), seed=st.integers(0, 99))
def test_another_order_of_lesions_only_reorders_their_scores(n: int, name: str, seed: int):
    sets, net = some_sets([n], seed=seed), variant(name)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    moved = replace(sets, features=sets.features[order], site=sets.site[order])
    torch.testing.assert_close(net(moved)[0], net(sets)[0][order], rtol=1e-5, atol=1e-5)


@settings(max_examples=20)
@given(sizes=sizes, block=st.sampled_from(["paper", "preln"]), scale=st.sampled_from(["model", "head"]))
def test_packed_patients_equal_a_padded_pytorch_encoder(sizes: list[int], block: str, scale: str):
    """Written out with a whole table, a mask of -inf and PyTorch's own softmax."""
    config = replace(SMALL, block=block, scale=scale)  # type: ignore[arg-type]
    net, sets = variant("V1", config), some_sets(sizes)
    x, layout, _ = net.tokens(sets)
    got = net(sets)[1]
    table = torch.zeros(len(sizes) * layout.longest, 16).index_copy(0, layout.cell, x).view(len(sizes), -1, 16)
    hidden = torch.arange(layout.longest) >= sets.lengths[:, None]
    factor = 1 / math.sqrt(16 if scale == "model" else 4)
    for layer in net.blocks:
        before = table
        inner = layer.norm_in(table)
        q, k, v = layer.attention.qkv(inner).view(*inner.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4)
        scores = (factor * q @ k.transpose(-1, -2)).masked_fill(hidden[:, None, None], -math.inf)
        attended = layer.attention.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        if block == "paper":
            table = layer.ffn(layer.norm(attended)) + before
        else:
            table = before + attended
            table = table + layer.ffn(layer.norm(table))
    torch.testing.assert_close(got, table[~hidden], rtol=1e-4, atol=1e-5)


def test_the_usual_block_is_that_of_pytorch():
    config = replace(SMALL, block="preln", scale="head")
    net, sets = variant("V1", config), some_sets([7])
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=True).eval()
    ours = net.blocks[0]
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(ours.attention.qkv.weight)
        layer.self_attn.in_proj_bias.copy_(ours.attention.qkv.bias)
        for a, b in ((layer.self_attn.out_proj, ours.attention.out), (layer.linear1, ours.ffn[0]),
                     (layer.linear2, ours.ffn[3]), (layer.norm1, ours.norm_in), (layer.norm2, ours.norm)):  # fmt: skip
            a.load_state_dict(b.state_dict())
        x = net.tokens(sets)[0]
        torch.testing.assert_close(ours(x, sets.layout), layer(x[None])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["V1", "V2", "V3", "V4"])
def test_attention_maps_agree_with_the_operator(name: str):
    net, sets = variant(name), some_sets([9])
    x, layout, lesions = net.tokens(sets)
    maps = net.attention_maps(sets)
    m = 9 + (2 if name in ("V3", "V4") else 0)
    assert maps.shape == (2, 4, m, m)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 4, m))
    for weights, block in zip(maps, net.blocks, strict=True):
        v = block.attention.qkv(x)[:, 32:].view(m, 4, 4).transpose(0, 1)
        by_hand = block.attention.out((weights @ v).transpose(0, 1).reshape(m, 16))
        torch.testing.assert_close(block.attention(x, layout), by_hand, rtol=1e-5, atol=1e-6)
        x = block(x, layout)
    others = maps[-1].mean(0)[lesions][:, lesions].fill_diagonal_(0).sum(0)
    torch.testing.assert_close(net.received(sets, chunk=4), others / others.mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["V1", "V4"])
def test_a_lesion_is_raised_by_what_the_others_add(name: str):
    net, sets = variant(name), some_sets([6])
    among = net(sets)[0]
    alone = torch.cat([net(sets.lesions(torch.tensor([i]), torch.tensor([1])))[0] for i in range(6)])
    torch.testing.assert_close(net.raised(sets), among - alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.raised(some_sets([1])), torch.zeros(1), rtol=0, atol=1e-6)


def test_each_variant_takes_its_own_evidence():
    sets = some_sets([5])
    elsewhere = replace(sets, site=(sets.site + 1) % 7)
    older, other_sex = replace(sets, age=sets.age + 20), replace(sets, sex=1 - sets.sex)
    others = replace(sets, features=torch.cat([sets.features[:1], 2 * sets.features[1:]]))
    for name in VARIANTS:
        net = variant(name)
        before = net(sets)[0]

        def changed(now: Sets, net: Variant = net, before: torch.Tensor = before) -> bool:
            return not torch.allclose(net(now)[0][0], before[0], atol=1e-7)

        assert changed(others) == (name != "V0")
        assert changed(elsewhere) == (name in ("V2", "V4"))
        assert changed(older) == changed(other_sex) == (name in ("V3", "V4"))


def test_unknown_site_is_none_of_the_others():
    net, sets = variant("V2"), some_sets([3])
    scores = [net(replace(sets, site=torch.full((3,), site)))[0] for site in range(UNKNOWN_SITE + 1)]
    assert all(not torch.allclose(scores[UNKNOWN_SITE], scores[site]) for site in range(UNKNOWN_SITE))


@pytest.mark.parametrize(
    ("age", "sex", "extra"), [(50.0, 1, 2), (float("nan"), 0, 1), (30.0, -1, 1), (float("nan"), -1, 0)]
)
def test_what_is_not_known_has_no_token(age: float, sex: int, extra: int):
    net, sets = variant("V4"), some_sets([4, 2], age=age, sex=sex)
    tokens, layout, lesions = net.tokens(sets)
    assert layout.lengths.tolist() == [4 + extra, 2 + extra]
    assert len(tokens) == 6 + 2 * extra
    assert lesions.tolist() == [extra + i for i in range(4)] + [4 + 2 * extra + i for i in range(2)]
    torch.testing.assert_close(net.attention_maps(sets.take(torch.tensor([0]))).shape[-1], 4 + extra)


def test_padding_reaches_no_gradient_and_all_parts_get_one():
    net, sets = variant("V4"), some_sets([6, 1, 3])
    net(sets)[0].sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all()
        assert name == "kind.weight" or "qkv.bias" in name or parameter.grad.abs().sum() > 0, name


def test_age_is_rounded_clipped_and_binned():
    codes = age_code(torch.tensor([50.0, 50.4, 100.0, 119.0, 51.0]), SMALL)
    assert torch.equal(codes[0], codes[1])
    assert torch.equal(codes[2], codes[3])
    assert not torch.equal(codes[0], codes[4])
    assert codes[0][0] == pytest.approx(math.sin(50))
    assert codes[0][1] == pytest.approx(math.cos(50))
    binned = age_code(torch.tensor([50.0, 54.0, 55.0]), replace(SMALL, age_bin=5))
    assert torch.equal(binned[0], binned[1])
    assert not torch.equal(binned[0], binned[2])


@settings(max_examples=30)
@given(sizes=sizes, count=st.integers(1, 6))
def test_pieces_hold_every_lesion_once_and_only_the_patients_own(sizes: list[int], count: int):
    rows, owner, real = repeated(torch.tensor(sizes), count)
    layout = Layout(torch.tensor(sizes))
    pieces = rows.view(-1, count)
    assert torch.equal(layout.owner[pieces], owner[:, None].expand_as(pieces))
    counted = torch.cat([piece[:n] for piece, n in zip(pieces, real.tolist(), strict=True)])
    assert counted.tolist() == list(range(sum(sizes)))


def test_width_must_fit_the_heads():
    with pytest.raises(ValueError, match="multiple of heads"):
        ContextConfig(width=10, heads=4)
