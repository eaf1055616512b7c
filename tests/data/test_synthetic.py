"""A data set as a message: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from zoo.data.sets import load_dataset
from zoo.data.splits import divide
from zoo.data.synthetic import FORMAT, SyntheticSet, read
from zoo.errors import DataError

LABELS = ("benign", "melanoma")
IMAGES = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)


@pytest.mark.parametrize("images", [IMAGES, IMAGES.float() / 300])
def test_a_set_comes_back_as_it_was_and_knows_its_bytes(images: torch.Tensor, tmp_path: Path) -> None:
    size = SyntheticSet(images, torch.tensor([0, 1]), LABELS, {"seed": "3"}).write(tmp_path / "a.safetensors")
    back = read(tmp_path / "a.safetensors")
    assert torch.equal(back.images, images)
    assert (back.y.tolist(), back.labels, back.facts) == ([0, 1], LABELS, {"seed": "3"})
    again = SyntheticSet(images, torch.tensor([0, 1]), LABELS, {"seed": "3"})
    again.write(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert size == (tmp_path / "a.safetensors").stat().st_size
    assert back.payload == images.numel() * images.element_size() + 2 <= size


def test_a_folder_of_messages_is_a_data_set_of_which_nothing_is_set_aside(tmp_path: Path) -> None:
    for name in ("b", "a"):
        SyntheticSet(IMAGES, torch.tensor([0, 1]), LABELS).write(tmp_path / f"{name}.safetensors")
    found = load_dataset(f"synthetic:{tmp_path}")
    assert found.ids == ["a/0", "a/1", "b/0", "b/1"]
    assert (found[1].label, found[1].attributes["client"], found[1].image.shape) == ("melanoma", "a", (8, 8, 3))
    assert [len(part) for part in (lambda d: (d.train, d.validation, d.test))(divide(found))] == [4, 0, 0]
    assert len(load_dataset(f"synthetic:{tmp_path / 'a.safetensors'}")) == 2
    SyntheticSet(IMAGES[..., :4, :4], torch.tensor([0, 1]), LABELS).write(tmp_path / "c.safetensors")
    with pytest.raises(DataError, match=r"c\.safetensors has other classes or sizes than a\.safetensors"):
        load_dataset(f"synthetic:{tmp_path}")


def header(labels: Any = LABELS, **more: Any) -> dict[str, str]:
    return {"about": json.dumps({"format": FORMAT, "labels": labels, **more})}


GOOD = header()
Y = torch.tensor([0, 1], dtype=torch.int16)


@pytest.mark.parametrize(
    ("tensors", "about", "why"),
    [
        ({"images": IMAGES, "labels": Y}, {}, "doesn't say zoo-synthetic-set"),
        ({"images": IMAGES, "labels": Y}, header(["a", "a"]), "two or more classes, each once"),
        ({"images": IMAGES, "labels": Y}, header([[1], 2]), "names that no table can hold"),
        ({"images": IMAGES, "labels": Y}, {"about": "["}, "Expecting value"),
        ({"images": IMAGES, "labels": Y}, {"about": "[" * 100_000}, "is no synthetic set"),
        ({"images": IMAGES, "labels": Y}, header(facts=[1]), "states facts that nobody can read"),
        ({"images": IMAGES}, GOOD, "doesn't hold images and labels"),
        ({"images": IMAGES, "labels": Y, "more": Y + 1}, GOOD, "doesn't hold images and labels"),
        ({"images": IMAGES.double(), "labels": Y}, GOOD, "its images are F64"),
        ({"images": IMAGES, "labels": Y.long()}, GOOD, "its labels I64"),
        ({"images": IMAGES, "labels": Y[:1]}, GOOD, "don't fit each other"),
        ({"images": IMAGES[..., :7], "labels": Y}, GOOD, "are no squares"),
        ({"images": IMAGES[..., :2, :2], "labels": Y}, GOOD, "are no squares"),
        ({"images": IMAGES[:0], "labels": Y[:0]}, GOOD, "it has 0 images"),
        ({"images": IMAGES, "labels": Y + 1}, GOOD, "none of 2 classes"),
        ({"images": IMAGES, "labels": Y - 1}, GOOD, "none of 2 classes"),
        ({"images": IMAGES.float() * torch.nan, "labels": Y}, GOOD, "no finite numbers"),
        ({"images": IMAGES.float() + 1e9, "labels": Y}, GOOD, "no finite numbers"),
    ],
)
def test_a_strangers_file_is_refused_in_one_sentence(
    tensors: dict[str, torch.Tensor], about: dict[str, str], why: str, tmp_path: Path
) -> None:
    save_file({name: t.contiguous() for name, t in tensors.items()}, tmp_path / "a.safetensors", about)
    with pytest.raises(DataError, match=why) as refused:
        read(tmp_path / "a.safetensors")
    assert "\n" not in str(refused.value)


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\x80\x04 pickled")
    for name in ("a.safetensors", "nowhere.safetensors"):
        with pytest.raises(DataError, match="is no synthetic set"):
            read(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"there is no \.safetensors file"):
        load_dataset(f"synthetic:{tmp_path / 'empty'}")
    with pytest.raises(DataError, match="can't be sent"):
        SyntheticSet(IMAGES, torch.tensor([0, 2]), LABELS).write(tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()
