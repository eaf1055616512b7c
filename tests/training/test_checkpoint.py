from __future__ import annotations

import resource
import signal
from collections import Counter, OrderedDict
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo import seeds, storage
from zoo.errors import DataError
from zoo.training import checkpoint

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(plain)
def test_plain_state_comes_back_as_it_was(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("state") / "c"
    checkpoint.save(folder, {"value": value})
    assert checkpoint.load(folder) == {"value": value}


def test_tensors_of_every_kind_come_back_to_the_bit(tmp_path):
    base = torch.randn(4, 6)
    state = {
        "half": torch.randn(3).half(),
        "bf16": torch.randn(3).bfloat16(),
        "double": torch.tensor(torch.pi, dtype=torch.float64),
        "int": torch.arange(5),
        "flag": torch.tensor([True, False]),
        "empty": torch.empty(0, 3),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
        "transposed": base.T,
        "shares": [base, base[1]],
        1: torch.tensor(1),
        "1": torch.tensor(2),
        "array": np.arange(6, dtype=np.uint32).reshape(2, 3),
        "counter": Counter({10: 1, 20: 2}),
        "ordered": OrderedDict(a=1),
    }
    checkpoint.save(tmp_path / "c", state)
    back = checkpoint.load(tmp_path / "c")
    for key in ("half", "bf16", "double", "int", "flag", "empty", "transposed", 1, "1"):
        assert back[key].dtype == state[key].dtype
        assert torch.equal(back[key], state[key])
    assert back["nan"].view(torch.int32).tolist() == state["nan"].view(torch.int32).tolist()
    assert torch.equal(back["shares"][1], base[1])
    np.testing.assert_array_equal(back["array"], state["array"])
    assert back["array"].dtype == np.uint32
    assert list(back["counter"].elements()) == [10, 20, 20]


def test_random_numbers_go_on_where_they_were(tmp_path):
    import random

    def draw():
        return random.random(), float(np.random.normal()), torch.randn(2).tolist()  # noqa: NPY002

    seeds.seed_everything(5)
    draw()
    checkpoint.save(tmp_path / "c", seeds.rng_state())
    first = draw()
    draw()
    seeds.set_rng_state(checkpoint.load(tmp_path / "c"))
    assert draw() == first


def test_what_needs_pickle_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="schedule/function"):
        checkpoint.save(tmp_path / "c", {"schedule": {"function": print}})
    assert list(tmp_path.iterdir()) == []


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path):
    checkpoint.save(tmp_path / "c", {"x": torch.ones(2)})
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["state.json", "tensors.safetensors"]


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
@pytest.mark.parametrize("keep", [0, 20])
def test_a_damaged_checkpoint_is_named(tmp_path, name, keep):
    checkpoint.save(tmp_path / "c", {"x": torch.ones(200)})
    path = tmp_path / "c" / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"the checkpoint .*c is damaged"):
        checkpoint.load(tmp_path / "c")


@contextmanager
def small_disk():
    """No file may grow beyond 64 KiB, as if the disk were full; nor may a log that pytest itself writes to."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_one_sentence_and_nothing_half_written(tmp_path):
    checkpoint.save(tmp_path / "old", {"x": torch.ones(10)})
    with small_disk(), pytest.raises(DataError, match=r"no space left to write .*new"):
        checkpoint.save(tmp_path / "new", {"x": torch.ones(100_000)})
    with small_disk(), pytest.raises(DataError, match="no space left"):
        storage.write_file(tmp_path / "file", b"x" * 100_000)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert torch.equal(checkpoint.load(tmp_path / "old")["x"], torch.ones(10))


def test_out_of_space_from_the_system_is_told_alike(tmp_path, monkeypatch):
    import errno
    import os

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="no space left"):
        checkpoint.save(tmp_path / "c", {"x": torch.ones(3)})
    (tmp_path / "file").write_text("before")
    with pytest.raises(DataError, match="no space left"):
        storage.write_file(tmp_path / "file", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"can't write .*file/c"):
        checkpoint.save(tmp_path / "file" / "c", {})


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".partial-1-c").mkdir()
    (tmp_path / ".partial-1-file").write_text("")
    (tmp_path / ".old-1-c").mkdir()
    (tmp_path / "kept").mkdir()
    storage.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_the_global_generator_is_seeded_as_torch_seeds_it():
    torch.manual_seed(11)
    expected = torch.randn(4)
    seeds.seed_torch(11 + 2**63)  # as many bits as torch takes
    assert torch.equal(torch.randn(4), expected)
