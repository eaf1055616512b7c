from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo.errors import MissingExtraError
from zoo.nn import windows
from zoo.nn.windows import by_patches, sliding_window, tiled

inferers = pytest.importorskip("monai.inferers")


def _network(x: Tensor) -> Tensor:
    """Says other things at other places of its window, so that every overlap matters; three classes."""
    ramp = torch.linspace(0, 1, x[0, 0].numel(), device=x.device).reshape(x.shape[2:])
    return torch.cat([x + ramp, x * ramp, ramp.expand_as(x) - x], dim=1)


@given(
    shape=st.tuples(*[st.integers(3, 14)] * 3),
    size=st.tuples(*[st.integers(2, 7)] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    blend=st.sampled_from(["gaussian", "constant"]),
    batch=st.integers(1, 3),
)
@settings(max_examples=25)
def test_logits_are_those_of_monais_inferer(shape, size, overlap, blend, batch) -> None:
    volume = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    expected = inferers.sliding_window_inference(volume[None], size, batch, _network, overlap, blend, cval=-2.0)[0]
    found = sliding_window(
        _network, volume, size, finish=lambda x: x, overlap=overlap, blend=blend, batch=batch, outside=-2.0
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    labels = sliding_window(
        _network,
        volume,
        size,
        finish=lambda x: x.argmax(0).to(torch.uint8),
        overlap=overlap,
        blend=blend,
        outside=-2.0,
    )
    assert labels.dtype == torch.uint8
    assert labels.shape == shape
    best, second = expected.topk(2, dim=0).values
    clear = best - second > 1e-4
    assert torch.equal(labels[clear].long(), expected.argmax(0)[clear])


def test_logits_are_kept_in_half_precision_and_without_gradients() -> None:
    volume = torch.randn(2, 9, 8, 7)
    scale = torch.nn.Parameter(torch.ones(()))
    found = sliding_window(lambda x: x[:, :1] * scale, volume, (4, 4, 4))
    assert found.dtype == torch.float16
    assert not found.requires_grad
    torch.testing.assert_close(found, volume[:1].half(), rtol=2e-3, atol=1e-3)


def test_integers_become_floats_a_window_at_a_time() -> None:
    seen = []

    def network(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return x

    volume = torch.arange(6 * 7 * 8, dtype=torch.int16).reshape(1, 6, 7, 8)
    found = sliding_window(network, volume, (3, 3, 3), finish=lambda x: x[0])
    torch.testing.assert_close(found, volume[0].float())
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("shape", [(11, 6, 6), (2, 6, 6)], ids=["long", "shorter than a window"])
def test_finish_sees_every_voxel_once(shape) -> None:
    planes = []

    def finish(x: Tensor) -> Tensor:
        planes.append(x.shape[1:])
        return x[0]

    sliding_window(lambda x: x, torch.zeros(1, *shape), (4, 4, 4), finish=finish)
    assert sum(plane[0] for plane in planes) == shape[0]
    assert {plane[1:] for plane in planes} == {shape[1:]}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process as Linux tells it")
def test_memory_is_that_of_a_slab() -> None:
    shape, size, classes = (512, 96, 96), (32, 32, 32), 8
    held = []

    def finish(x: Tensor) -> Tensor:
        labels = x.argmax(0).to(torch.uint8)
        held.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        return labels

    def network(x: Tensor) -> Tensor:
        return x.expand(-1, classes, -1, -1, -1)

    volume = torch.ones(1, *shape, dtype=torch.int16)
    sliding_window(network, volume[:, :32], size, finish=finish, overlap=0.0)  # what the libraries hold once loaded
    before = held.pop()
    sliding_window(network, volume, size, finish=finish, overlap=0.25)
    voxels, slab = volume.numel(), 4 * (classes + 1) * 32 * 96 * 96
    whole = 4 * (classes + 1) * voxels
    assert len(held) > 20
    assert max(held) - before < voxels + 3 * slab < whole / 4


@given(shape=st.tuples(st.integers(3, 14), st.integers(3, 14)), overlap=st.sampled_from([0.0, 0.25, 0.5]))
@settings(max_examples=15)
def test_flat_images_are_blended_as_monai_does_and_keep_their_size(shape, overlap) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    tile = 6
    found = tiled(_network, rgb, tile, finish=lambda x: x, overlap=overlap, batch=2)
    padded = np.pad(rgb, ((0, max(0, tile - shape[0])), (0, max(0, tile - shape[1])), (0, 0)), mode="edge")
    x = torch.from_numpy(padded).permute(2, 0, 1)[None] / 255
    expected = inferers.sliding_window_inference(x, (tile, tile), 1, _network, overlap, "gaussian")[0]
    torch.testing.assert_close(found, expected[:, : shape[0], : shape[1]], rtol=1e-5, atol=1e-5)


def test_the_bar_counts_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[Any] = []

    class Bar(windows.Bar):
        def __init__(self, description: str, total: int, **options: Any) -> None:
            counts.append((description, total, options))
            super().__init__(description, total, **options)

        def update(self, done: int) -> None:
            counts.append(done)

    monkeypatch.setattr(windows, "Bar", Bar)
    sliding_window(lambda x: x, torch.zeros(1, 4, 4, 10), (4, 4, 4), batch=2, description="liver", progress=False)
    assert counts == [("liver", 4, {"enabled": False}), 2, 4]


def test_windows_that_cannot_be_are_refused() -> None:
    volume = torch.zeros(1, 8, 8, 8)
    with pytest.raises(ValueError, match=r"overlap 1\.0 do not fit"):
        sliding_window(lambda x: x, volume, (4, 4, 4), overlap=1.0)
    with pytest.raises(ValueError, match="do not fit a volume"):
        sliding_window(lambda x: x, volume, (4, 4))
    with pytest.raises(ValueError, match=r"gives \[1, 1, 2, 2, 2\] for a window of \[4, 4, 4\]"):
        sliding_window(lambda x: x[..., ::2, ::2, ::2], volume, (4, 4, 4))


def test_without_monai_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.data.utils", None)
    with pytest.raises(MissingExtraError, match=r"sliding-window inference needs .* monai.*\[volumes\]"):
        sliding_window(lambda x: x, torch.zeros(1, 8, 8, 8), (4, 4, 4))


def _blind_at_its_edges(x: torch.Tensor) -> torch.Tensor:
    seen = torch.zeros(x.shape[0], *x.shape[2:])
    seen[:, 8:-8, 8:-8] = 1
    return seen


def test_patches_do_not_show_in_what_is_made_of_them() -> None:
    found = by_patches(_blind_at_its_edges, np.zeros((150, 170, 3), np.uint8), 64, batch=3)
    assert found.shape == (150, 170)
    assert (found[8:-8, 8:-8] > 0.5).all()  # side by side they would have left a grid of zeros, 16 px wide


def test_patches_of_a_network_that_sees_every_pixel_alone_give_that_pixel() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    found = by_patches(lambda x: x.mean(1), rgb, 32, batch=2)
    np.testing.assert_allclose(found, rgb.mean(2) / 255, atol=1e-5)


def test_patches_with_nothing_to_see_are_left_out() -> None:
    inside = np.zeros((96, 96), bool)
    inside[70, 70] = True
    found = by_patches(
        lambda x: torch.ones(x.shape[0], *x.shape[2:]), np.zeros((96, 96, 3), np.uint8), 32, inside=inside
    )
    assert found[48:96, 48:96].all()  # every patch over the one pixel
    assert not found[:48].any()
