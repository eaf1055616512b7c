"""Features are made once, and named by what they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.data.features import FeatureCache, content_key, weights_key


class Maker:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> torch.Tensor:
        self.calls += 1
        return torch.linspace(0, 1, 1000).reshape(1, 10, 10, 10)


def test_a_tensor_is_made_once_and_kept_in_memory() -> None:
    cache, make = FeatureCache(), Maker()
    first, second = cache.get("a", make), cache.get("a", make)
    assert make.calls == 1
    assert torch.equal(first, second)


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    cache, make = FeatureCache(memory=2 * 4000), Maker()
    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get(key, make)
    assert make.calls == 4  # a, b, c, and b again, which c had pushed out


def test_one_that_is_larger_than_the_memory_is_not_kept() -> None:
    cache, make = FeatureCache(memory=100), Maker()
    cache.get("a", make)
    cache.get("a", make)
    assert make.calls == 2


def test_a_folder_outlives_the_process_and_half_precision_gives_the_same_numbers_later(tmp_path: Path) -> None:
    make = Maker()
    now = FeatureCache(tmp_path, half=True).get("a", make)
    later = FeatureCache(tmp_path, half=True).get("a", make)
    assert make.calls == 1
    assert now.dtype == later.dtype == torch.float32
    assert torch.equal(now, later)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_axes_lie_in_memory_as_they_did(tmp_path: Path) -> None:
    """Else sums would run in another order, and a resumed training would end in other bits."""
    made = torch.rand(1, 4, 5, 6).contiguous(memory_format=torch.channels_last)
    FeatureCache(tmp_path).get("a", lambda: made)
    later = FeatureCache(tmp_path).get("a", lambda: torch.zeros(1))
    assert torch.equal(later, made)
    assert later.stride() == made.stride()


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    make = Maker()
    FeatureCache(tmp_path).get("a", make)
    (tmp_path / "a.safetensors").write_bytes(b"half a file")
    assert torch.equal(FeatureCache(tmp_path).get("a", make), make())
    assert torch.equal(FeatureCache(tmp_path).get("a", lambda: torch.zeros(1)), make())  # and was written again


def test_the_key_tells_content_shape_type_and_weights_apart() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 6)
    keys = {
        content_key(image, "w"),
        content_key(image.reshape(3, 4), "w"),
        content_key(image.astype(np.int8), "w"),
        content_key(image, "v"),
        content_key(image + 1, "w"),
    }
    assert len(keys) == 5
    assert content_key(image.copy(), "w") in keys


def test_the_name_of_weights_follows_the_weights() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    before = weights_key(network)
    assert weights_key(network) == before
    network[1].running_mean[0] = 1
    changed = weights_key(network)
    assert changed != before
    with torch.no_grad():
        network[0].weight[0, 0] += 1
    assert weights_key(network) not in (before, changed)


def test_many_are_made_in_batches_each_key_once_and_come_back_in_order(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def make(places: list[int]) -> torch.Tensor:
        asked.append(places)
        return torch.tensor([[float(place)] * 3 for place in places])

    cache = FeatureCache(tmp_path)
    assert cache.get_all(["a", "b", "a", "c"], make, batch_size=2)[:, 0].tolist() == [0.0, 1.0, 0.0, 3.0]
    assert asked == [[0, 1], [3]]
    assert FeatureCache(tmp_path).get_all(["c", "d"], make)[:, 0].tolist() == [3.0, 1.0]
    assert asked[2:] == [[1]]
    with pytest.raises(ValueError, match="no keys"):
        cache.get_all([], make)


def test_many_may_be_more_than_the_memory_holds() -> None:
    cache = FeatureCache(memory=12)
    found = cache.get_all(list("abc"), lambda places: torch.arange(3.0)[places][:, None].expand(-1, 3))
    assert found[:, 0].tolist() == [0.0, 1.0, 2.0]


def test_what_is_in_memory_can_be_forgotten() -> None:
    cache, make = FeatureCache(), Maker()
    cache.get("a", make)
    cache.clear()
    cache.get("a", make)
    assert make.calls == 2
