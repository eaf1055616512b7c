"""Galleries: what is stored comes back, and a folder that holds nothing is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo import media
from zoo.errors import DataError
from zoo.nn.gallery import GalleryConfig, StoredGallery, gallery_of, pack, read_folder


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), max_size=6))
def test_packed_pictures_come_back_in_order(sizes: list[int]):
    jpeg, ends = pack([Image.new("RGB", (size, size), (10 * size % 256, 0, 0)) for size in sizes])
    gallery = StoredGallery(GalleryConfig(tuple(map(str, range(len(sizes)))), len(jpeg)), 2)
    gallery.jpeg.copy_(jpeg)
    gallery.ends.copy_(ends)
    assert [gallery.thumbnail(i).size for i in range(len(sizes))] == [(size, size) for size in sizes]


def embed(image: str) -> tuple[torch.Tensor, int, Image.Image]:
    grey = media.read(image).grey()
    return torch.tensor([1.0, float(grey.mean())]), int(1000 * grey.sum()), Image.new("RGB", (8, 8))


def test_a_folder_is_a_gallery_with_the_labels_that_are_known(tmp_path: Path):
    for label in ("NV", "other"):
        (tmp_path / label).mkdir()
        Image.fromarray(np.full((8, 8), len(label), np.uint8)).save(tmp_path / label / "a.png")
    (tmp_path / "NV" / "text.png").write_text("no picture")
    stamp, cases = read_folder(tmp_path)
    gallery = gallery_of(cases, ("MEL", "NV"), embed)
    assert gallery.labels.tolist() == [1, -1]
    assert gallery.embeddings.shape == (2, 2)
    assert read_folder(tmp_path)[0] == stamp
    (tmp_path / "NV" / "a.png").write_bytes((tmp_path / "other" / "a.png").read_bytes() + b" ")
    assert read_folder(tmp_path)[0] != stamp


def test_a_gallery_without_a_readable_image_is_refused(tmp_path: Path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(DataError, match="none of the 1 images of the gallery can be read"):
        gallery_of(read_folder(tmp_path)[1], ("MEL", "NV"), embed)
    with pytest.raises(DataError, match="is not a folder"):
        read_folder(tmp_path / "a.png")
