"""Embeddings are made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from zoo.nn.promptable import EmbeddingCache, content_key


class Maker:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> torch.Tensor:
        self.calls += 1
        return torch.linspace(0, 1, 1000).reshape(1, 10, 10, 10)


def test_a_tensor_is_made_once_and_kept_in_memory() -> None:
    cache, make = EmbeddingCache(), Maker()
    first, second = cache.get("a", make), cache.get("a", make)
    assert make.calls == 1
    assert torch.equal(first, second)


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    cache, make = EmbeddingCache(memory=2 * 4000), Maker()
    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get(key, make)
    assert make.calls == 4  # a, b, c, and b again, which c had pushed out


def test_one_that_is_larger_than_the_memory_is_not_kept() -> None:
    cache, make = EmbeddingCache(memory=100), Maker()
    cache.get("a", make)
    cache.get("a", make)
    assert make.calls == 2


def test_a_folder_outlives_the_process_and_half_precision_gives_the_same_numbers_later(tmp_path: Path) -> None:
    make = Maker()
    now = EmbeddingCache(tmp_path, half=True).get("a", make)
    later = EmbeddingCache(tmp_path, half=True).get("a", make)
    assert make.calls == 1
    assert now.dtype == later.dtype == torch.float32
    assert torch.equal(now, later)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    make = Maker()
    EmbeddingCache(tmp_path).get("a", make)
    (tmp_path / "a.safetensors").write_bytes(b"half a file")
    assert torch.equal(EmbeddingCache(tmp_path).get("a", make), make())
    assert torch.equal(EmbeddingCache(tmp_path).get("a", lambda: torch.zeros(1)), make())  # and was written again


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
