"""Saving and loading weights on this machine; nothing that is malformed or doesn't fit is ever loaded."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from zoo import loading, weights
from zoo.errors import WeightsError, ZooError
from zoo.model import Model
from zoo.plugin import Input, Output, Paper, Plugin
from zoo.publish import model_card

PLUGIN = Plugin(
    name="tiny",
    title="Tiny",
    summary="A tiny network.",
    paper=Paper("Tiny", ("A. B.",), "W"),
    task="classification",
    modality="any",
    inputs=(Input("image", "image", "an image", required=True),),
    outputs=(Output("label", "a label"),),
    model="zoo.models.nothing.model:Tiny",
    labels=("a", "b"),
)


@dataclass(frozen=True)
class TinyConfig:
    width: int = field(default=4, metadata={"min": 1, "max": 10**12})
    depth: int = field(default=2, metadata={"min": 0, "max": 10**12})
    rate: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    kind: str = field(default="plain", metadata={"choices": ("plain", "fancy")})
    sizes: tuple[int, ...] = (1, 2)


class Tiny(Model):
    plugin: ClassVar[Plugin] = PLUGIN
    config_class: ClassVar[type] = TinyConfig
    built: ClassVar[int] = 0

    def __init__(self, config: TinyConfig | None = None) -> None:
        super().__init__(config)
        type(self).built += 1
        w = self.config.width
        self.layers = nn.ModuleList()
        for _ in range(self.config.depth):
            self.layers.append(nn.Linear(w, w))
            self.layers.append(nn.ReLU())
        self.norm = nn.BatchNorm1d(w)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return weights.save(Tiny(), tmp_path / "tiny")


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _refused(folder: Path) -> str:
    with pytest.raises(WeightsError) as refusal:
        loading.load_into(Tiny, str(folder))
    message = str(refusal.value)
    assert message.isprintable(), message
    return message


def test_saved_weights_load_bit_for_bit(tmp_path: Path) -> None:
    model = Tiny(TinyConfig(width=5, depth=3))
    model.norm.num_batches_tracked.fill_(7)
    back = loading.load_into(Tiny, str(weights.save(model, tmp_path / "x", trained_on="phantoms")))
    assert back.config == model.config
    assert all(torch.equal(t, back.state_dict()[name]) for name, t in model.state_dict().items())
    assert back.provenance.trained_on == "phantoms"
    assert not back.training


def test_the_record_says_what_the_weights_are(folder: Path) -> None:
    record = json.loads((folder / "config.json").read_text())
    assert record["model"] == "tiny"
    assert record["distribution"] == "medimg-zoo"
    assert record["labels"] == ["a", "b"]
    assert record["preprocessing"] == {"input": "image", "expects": "an image"}
    assert record["config"] == {"width": 4, "depth": 2, "rate": 0.5, "kind": "plain", "sizes": [1, 2]}


@dataclass(frozen=True)
class LabelledConfig(TinyConfig):
    labels: tuple[str, ...] = ("a", "b")


class Labelled(Tiny):
    config_class: ClassVar[type] = LabelledConfig


def test_labels_are_those_that_the_model_was_trained_on(tmp_path: Path) -> None:
    """In its own record and on its card, not the plugin's."""
    folder = weights.save(Labelled(LabelledConfig(labels=("wart", "burn"))), tmp_path / "own")
    record = json.loads((folder / "config.json").read_text())
    assert record["labels"] == ["wart", "burn"]
    assert "wart, burn" in model_card(PLUGIN, record, folder, "org/tiny")


def test_half_precision_is_stored_and_loaded_in_the_networks_own(tmp_path: Path) -> None:
    model = Tiny()
    out = weights.save(model, tmp_path / "half", dtype=torch.float16)
    stored = weights.read_headers(loading.locate(str(out), PLUGIN))
    assert stored["norm.weight"].dtype == "F16"
    assert stored["norm.num_batches_tracked"].dtype == "I64"
    back = loading.load_into(Tiny, str(out))
    assert back.layers[0].weight.dtype == torch.float32
    assert torch.equal(back.layers[0].weight, model.layers[0].weight.half().float())


def test_large_weights_are_split_and_saving_again_leaves_one_layout(tmp_path: Path) -> None:
    model, out = Tiny(), tmp_path / "x"
    weights.save(model, out, max_shard_size=100)
    shards = sorted(path.name for path in out.glob("model-*"))
    assert len(shards) > 1
    assert not (out / "model.safetensors").exists()
    back = loading.load_into(Tiny, str(out))
    assert all(torch.equal(t, back.state_dict()[name]) for name, t in model.state_dict().items())
    weights.save(model, out)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]


def test_tied_weights_and_views_can_be_saved(tmp_path: Path) -> None:
    model = Tiny()
    model.layers[2].weight = model.layers[0].weight
    model.norm.weight = nn.Parameter(torch.arange(8.0)[::2])
    back = loading.load_into(Tiny, str(weights.save(model, tmp_path / "x")))
    assert torch.equal(back.layers[2].weight, model.layers[0].weight)
    assert torch.equal(back.norm.weight, torch.tensor([0.0, 2.0, 4.0, 6.0]))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match=r"can't write weights to .*file"):
        weights.save(Tiny(), tmp_path / "file")


def test_only_safetensors_are_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"a": Bomb()}, tmp_path / "pytorch_model.bin")
    assert "only pickled weights ('pytorch_model.bin'), which can run code" in _refused(tmp_path)
    with pytest.raises(WeightsError, match="never pickle"):
        loading.load_into(Tiny, str(tmp_path / "pytorch_model.bin"))
    # pickle under another name is no safetensors file
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "pytorch_model.bin").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model": "tiny", "contract": 1, "config": {}}))
    assert "can't be read" in _refused(tmp_path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "other"}, "for the model 'other', not for tiny"),
        ({"model": ["\x1b[2J" * 99]}, "not for tiny"),
        ({"contract": 99}, "version 99 of the contract, this zoo has 2"),
        ({"distribution": "their-zoo", "version": "3.1"}, "made by tiny of their-zoo 3.1"),
        ({"version": "77.0"}, "medimg-zoo 77.0, which is incompatible with the installed medimg-zoo"),
        ({"config": {"width": 4, "colour": 1}}, "TinyConfig has no field 'colour'"),
        ({"config": {"width": "4"}}, "width must be"),
        ({"config": {"rate": 1.5}}, "rate must lie between 0.0 and 1.0"),
        ({"config": {"kind": "odd"}}, "kind must be one of plain, fancy"),
        ({"config": {"width": 5}}, "has shape [4, 4], expected [5, 5]"),
        ({"config": {"depth": 3}}, "layers.4.weight is missing"),
        ({"config": {"depth": 1}}, "'layers.2.bias' is unknown"),
        ({"config": {"width": 10**7}}, "describes a network of more than"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(folder: Path, changes: dict[str, Any], said: str) -> None:
    _edit(folder, **changes)
    assert said in _refused(folder)


def test_totals_are_compared_before_memory_is_taken(folder: Path) -> None:
    _edit(folder, config={"width": 10**6})
    before = Tiny.built
    assert "its 9 tensors hold 57 values" in _refused(folder)
    assert Tiny.built == before + 1, "it was built once, on the meta device"


def test_a_network_of_endless_layers_is_given_up_early(folder: Path) -> None:
    _edit(folder, config={"width": 1, "depth": 10**12})
    assert "describes a network of more than 10,036 tensors" in _refused(folder)  # built whole, it would never end


def test_tensors_of_another_kind_are_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["norm.weight"] = tensors["norm.weight"].to(torch.int32)
    save_file(tensors, folder / "model.safetensors")
    assert "norm.weight has type I32, expected torch.float32" in _refused(folder)


@pytest.mark.parametrize("shard", ["../tiny/model.safetensors", "/etc/passwd", "model.safetensors", 3, None, "a.bin"])
def test_an_index_may_name_shards_only(tmp_path: Path, shard: Any) -> None:
    out = weights.save(Tiny(), tmp_path / "x", max_shard_size=100)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    index["weight_map"]["norm.weight"] = shard
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "which is no shard of model.safetensors" in _refused(out)


def test_shards_that_lack_or_repeat_tensors_are_refused(tmp_path: Path) -> None:
    out = weights.save(Tiny(), tmp_path / "x", max_shard_size=100)
    first, second = sorted(out.glob("model-*"))[:2]
    kept = second.read_bytes()
    second.write_bytes(first.read_bytes())
    assert "disagree about the tensor" in _refused(out)
    second.unlink()
    assert f"lack {second.name}" in _refused(out)
    second.write_bytes(kept)
    assert loading.load_into(Tiny, str(out))


# ---------------------------------------------------------------- malformed files


def _rewrite(content: bytes, change: Callable[[dict[str, Any], random.Random], None], rng: random.Random) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    change(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def _one(header: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    return header[rng.choice([name for name in sorted(header) if name != "__metadata__"])]


def _shape(header: dict[str, Any], rng: random.Random) -> None:
    _one(header, rng)["shape"] = rng.choice([[-1], [2**63], [2**40, 2**40], [9], [0], ["4"], None, [4.5], [[4]]])


def _offsets(header: dict[str, Any], rng: random.Random) -> None:
    _one(header, rng)["data_offsets"] = rng.choice([[0, 1], [5, 2], [-4, 4], [0, 2**62], [0], None, [1, 17]])


def _type(header: dict[str, Any], rng: random.Random) -> None:
    _one(header, rng)["dtype"] = rng.choice(["F7", "OBJECT", "", None, 5, "U8", "C64"])


def _drop(header: dict[str, Any], rng: random.Random) -> None:
    del header[rng.choice([name for name in sorted(header) if name != "__metadata__"])]


def _rename(header: dict[str, Any], rng: random.Random) -> None:
    name = rng.choice([name for name in sorted(header) if name != "__metadata__"])
    header[rng.choice(["../evil", "\x1b[31m", "x" * 5000, ""]) + str(rng.random())] = header.pop(name)


def _add(header: dict[str, Any], rng: random.Random) -> None:
    header[f"extra{rng.random()}"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def _malformed_tensors(content: bytes, rng: random.Random) -> bytes:
    cut = rng.randrange(len(content))
    return rng.choice(
        [
            lambda: content[:cut],
            lambda: content + rng.randbytes(rng.randint(1, 99)),
            lambda: rng.randbytes(rng.randint(0, 4000)),
            lambda: struct.pack("<Q", rng.choice([0, 1, 2**20, 2**40, 2**64 - 1])) + content[8:],
            lambda: content[:8] + rng.randbytes(40) + content[48:],
            lambda: content[:8] + b"[" * (len(content) - 8),
            lambda: b"\x80\x04\x95" + content,
            *(lambda c=c: _rewrite(content, c, rng) for c in (_shape, _offsets, _type, _drop, _rename, _add)),
        ]
    )()


def _malformed_config(content: bytes, rng: random.Random) -> bytes:
    record = json.loads(content)
    name = rng.choice(sorted(record["config"]))
    odd = [None, "x", [], {}, -1, 10**30, 1e308, float("nan"), True, "\x1b[31m", ["a"], [10**30], "9" * 5000]
    odd = [value for value in odd if not (name == "sizes" and value in ([], [10**30]))]
    odd = [value for value in odd if not (name == "depth" and value == 10**30)]

    def with_value(key: str, value: Any) -> bytes:
        return json.dumps({**record, key: value}).encode()

    return rng.choice(
        [
            lambda: content[: rng.randrange(len(content) - 3)],
            lambda: rng.randbytes(rng.randint(0, 4000)),
            lambda: b"\xff\xfe" + content,
            lambda: b"[" * rng.randint(1, 200_000),
            lambda: b'{"a":' * rng.randint(1, 100_000),
            lambda: rng.choice([b"", b"null", b"[]", b"3", b'"x"', b"{}", b"NaN", b"9" * 5000]),
            lambda: with_value("config", {**record["config"], name: rng.choice(odd)}),
            lambda: with_value("config", {**record["config"], f"more{rng.random()}": 1}),
            lambda: with_value("config", rng.choice([None, [], "x", 5])),
            lambda: with_value("model", rng.choice([None, [], {}, 5, "", "tiny ", "TINY", "\x1b[31m", "x" * 10**6])),
            lambda: with_value("contract", rng.choice([None, 0, 3, "1", 1.5, [], 10**400])),
            lambda: with_value("distribution", rng.choice([5, ["medimg-zoo"], {"a": 1}, "x" * 10**5, "\n\n"])),
            lambda: with_value("padding", "x" * (5 << 20)),
        ]
    )()


@pytest.mark.parametrize("block", range(4))
def test_malformed_files_are_refused_cleanly(folder: Path, block: int) -> None:
    """200 of them: one printable sentence each, no other exception."""
    good = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    for seed in range(block * 50, block * 50 + 50):
        rng = random.Random(seed)
        name = rng.choice(sorted(good))
        make = _malformed_config if name == "config.json" else _malformed_tensors
        (folder / name).write_bytes(make(good[name], rng))
        try:
            message = _refused(folder)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: malformed {name} was not refused but gave {error!r}") from error
        assert len(message) < 2000, (seed, message)
        (folder / name).write_bytes(good[name])
    assert loading.load_into(Tiny, str(folder))


def test_flipped_bits_never_give_anything_but_a_model_or_a_refusal(folder: Path) -> None:
    """A folder has no hashes, so a flip inside a tensor goes unseen; one in the structure must not crash."""
    refused: list[str] = []
    shapes = {name: tensor.shape for name, tensor in Tiny().state_dict().items()}
    path = folder / "model.safetensors"
    good = path.read_bytes()
    for seed in range(200):
        rng = random.Random(seed)
        content = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(800)] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            model = loading.load_into(Tiny, str(folder))
        except ZooError as error:
            refused.append(str(error))
        else:
            assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    assert len(refused) > 100
    assert all(message.isprintable() for message in refused)
