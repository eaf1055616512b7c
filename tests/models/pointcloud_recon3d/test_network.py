"""The segmenter and its training: gates, parts of a patch, patches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models.base import PluginTests
from zoo.data.case import Case
from zoo.data.phantoms.serial_sections import serial_sections
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.data.tissue import patches_on
from zoo.errors import DataError
from zoo.models.pointcloud_recon3d import training as method
from zoo.models.pointcloud_recon3d.network import GatedAxialNetwork, SegmenterConfig, segmenter
from zoo.models.pointcloud_recon3d.training import Recon3DRecipe
from zoo.training import Run

TINY = SegmenterConfig(
    patch=64, heads=1, stem=(4, 4, 4), global_planes=(2, 4), global_blocks=(1, 1), local_planes=(2, 4, 4, 4),
    local_blocks=(1, 1, 1, 1),
)  # fmt: skip


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


def part(seeds: range) -> Dataset:
    cases = [serial_sections(seed, layers=2, size=64) for seed in seeds]
    return Dataset("phantom:serial-sections", [Entry(case.id, case) for case in cases])


@pytest.fixture(scope="module")
def data() -> TrainData:
    return TrainData(part(range(2)), part(range(2, 3)), part(range(3, 4)))


class TestPointCloudRecon3D(PluginTests):
    name = "pointcloud-recon3d"
    recipe = RECIPE
    facts = {
        "Dice, 4 held-out stacks": "dice",
        "sensitivity, 4 held-out stacks": "sensitivity",
        "specificity, 4 held-out stacks": "specificity",
    }
    facts_on = ("phantom:serial-sections?n=20", "test")

    @pytest.fixture(scope="class")
    @classmethod
    def parts(cls) -> TrainData:
        return TrainData(part(range(2)), part(range(2, 3)), part(range(3, 4)))


def test_gates_are_frozen_for_the_first_epochs(data):
    frozen = method.train(replace(RECIPE, frozen_gates=2), data, Run(None, seed=0, device="cpu"))
    free = method.train(replace(RECIPE, frozen_gates=0), data, Run(None, seed=0, device="cpu"))
    start = torch.tensor([0.1, 0.1, 1.0, 0.1])
    kept, learnt = (
        [torch.equal(value, start) for name, value in model.network.named_parameters() if name.endswith("gates")]
        for model in (frozen, free)
    )
    assert kept
    assert all(kept)
    assert not all(learnt)


def test_patches_move_image_and_mask_alike():
    section = method.load_sections(serial_sections(0, layers=1, size=96))[0]
    marked = replace(section, rgb=np.repeat(255 - 200 * section.tumour[..., None], 3, -1).astype(np.uint8))
    x, y = method.draw_patches([marked], [(0, 0, 0), (0, 20, 20)], 64, 0.0, np.random.default_rng(3))
    assert x.shape == (2, 3, 64, 64)
    assert torch.equal(x[:, 0] < 0.5, y == 1)


def test_sections_smaller_than_a_patch_are_padded():
    sections = method.load_sections(serial_sections(0, layers=1, size=64))
    assert patches_on(sections[0].tissue, 128) == [(0, 0)]
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
