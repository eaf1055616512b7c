"""The segmenter and its training: attention by hand, gates, parts of a patch, resume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from zoo.data.case import Case
from zoo.data.phantoms.serial_sections import serial_sections
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.errors import DataError
from zoo.models.pointcloud_recon3d import training as method
from zoo.models.pointcloud_recon3d.network import GatedAxialAttention, GatedAxialNetwork, SegmenterConfig, segmenter
from zoo.models.pointcloud_recon3d.training import Recon3DRecipe
from zoo.training import Run

TINY = SegmenterConfig(
    patch=64, heads=1, stem=(4, 4, 4), global_planes=(2, 4), global_blocks=(1, 1), local_planes=(2, 4, 4, 4),
    local_blocks=(1, 1, 1, 1),
)  # fmt: skip


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


def test_the_local_branch_sees_each_part_alone():
    torch.manual_seed(0)
    network = GatedAxialNetwork(TINY).eval()
    seen = {}
    network.locally.register_forward_hook(lambda _, given, out: seen.update(given=given[0], out=out))
    x = torch.rand(2, 3, 64, 64)
    network(x)
    assert seen["given"].shape == (32, 3, 16, 16)
    assert torch.equal(seen["given"][16 + 4 * 2 + 1], x[1, :, 32:48, 16:32])


@pytest.mark.parametrize("backbone", ["gated-axial", "unet"])
def test_logits_have_the_size_of_the_patch_and_everything_learns(backbone):
    network = segmenter(replace(TINY, backbone=backbone))
    logits = network(torch.rand(2, 3, 64, 64))
    assert logits.shape == (2, 2, 64, 64)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    "change", [{"patch": 100}, {"global_planes": (3, 4)}, {"local_planes": (2, 4)}, {"local_blocks": (1, 1, 0, 1)}]
)
def test_sizes_that_do_not_fit_are_refused(change):
    with pytest.raises(ValueError, match=r"must|level|needs"):
        replace(TINY, heads=2, **{"global_planes": (4, 4), "local_planes": (4, 4, 4, 4), **change})


# ---- training ---------------------------------------------------------------------------------------------------

RECIPE = Recon3DRecipe(network=TINY, epochs=2, steps_per_epoch=3, batch_size=2, frozen_gates=1)


@pytest.fixture(scope="module")
def data() -> TrainData:
    def part(seeds: range) -> Dataset:
        cases = [serial_sections(seed, layers=2, size=64) for seed in seeds]
        return Dataset("phantom:serial-sections", [Entry(case.id, case) for case in cases])

    return TrainData(part(range(2)), part(range(2, 3)), part(range(3, 4)))


def test_training_is_seeded(data):
    first, second = (method.train(RECIPE, data, Run(None, seed=1, device="cpu")).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_stopped_run_goes_on_to_the_same_weights(data, tmp_path):
    whole = method.train(RECIPE, data, Run(None, seed=1, device="cpu")).state_dict()

    class Stop(Exception):
        pass

    class Stopping(Run):
        def log(self, **scalars):
            super().log(**scalars)
            if self.step == 4:
                raise Stop

    with pytest.raises(Stop):
        method.train(RECIPE, data, Stopping(tmp_path, seed=1, device="cpu", checkpoint_every=3))
    run = Run(tmp_path, seed=1, device="cpu", checkpoint_every=3, resume=True)
    resumed = method.train(RECIPE, data, run).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_gates_are_frozen_for_the_first_epochs(data):
    frozen = method.train(replace(RECIPE, frozen_gates=2), data, Run(None, seed=0, device="cpu"))
    free = method.train(replace(RECIPE, frozen_gates=0), data, Run(None, seed=0, device="cpu"))
    start = torch.tensor([0.1, 0.1, 1.0, 0.1])
    assert all(torch.equal(gates, start) for gates in frozen.network.gates())
    assert any(not torch.equal(gates, start) for gates in free.network.gates())


def test_perfect_logits_cost_nothing():
    y = torch.tensor([[[1, 0], [0, 0]]])
    logits = torch.stack([50.0 - 100 * y, 100.0 * y - 50], 1)
    assert method.segmentation_loss(logits, y).item() == pytest.approx(0, abs=1e-6)


def test_patches_move_image_and_mask_alike():
    section = method.load_sections(serial_sections(0, layers=1, size=96))[0]
    marked = replace(section, rgb=np.repeat(255 - 200 * section.tumour[..., None], 3, -1).astype(np.uint8))
    x, y = method.draw_patches([marked], [(0, 0, 0), (0, 20, 20)], 64, 0.0, np.random.default_rng(3))
    assert x.shape == (2, 3, 64, 64)
    assert torch.equal(x[:, 0] < 0.5, y == 1)


def test_sections_smaller_than_a_patch_are_padded():
    sections = method.load_sections(serial_sections(0, layers=1, size=64))
    assert sections[0].patches(128) == [(0, 0)]
    x, y = method.draw_patches(sections, [(0, 0, 0)], 128, 0.1, np.random.default_rng(0))
    assert x.shape == (1, 3, 128, 128)
    assert y.shape == (1, 128, 128)


def test_sections_without_mask_or_colour_are_refused():
    with pytest.raises(DataError, match="has no mask"):
        method.load_sections(Case(np.zeros((8, 8, 3), np.uint8), "a"))
    with pytest.raises(DataError, match="1 channels"):
        method.load_sections(Case(np.zeros((8, 8), np.uint8), "a", masks={"mask": np.zeros((8, 8), np.uint8)}))
    with pytest.raises(DataError, match="differ in size"):
        method.load_sections(Case(np.zeros((8, 8, 3), np.uint8), "a", masks={"mask": np.zeros((8, 9), np.uint8)}))
