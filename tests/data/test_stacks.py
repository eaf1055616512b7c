"""Every form of a stack, what is said about its order and sizes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo import media
from zoo.data.stacks import Stack, is_mask, open_masks, positive
from zoo.data.stacks import open_stack as open_for
from zoo.errors import MediaError, OptionError
from zoo.media import slides

SECTIONS = np.random.default_rng(0).integers(0, 256, (4, 48, 40, 3), dtype=np.uint8)


def open_stack(given: object) -> Stack:
    return open_for(given, "a test")


def write(folder: Path, sections: np.ndarray, names: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, section in zip(names, sections, strict=True):
        Image.fromarray(section).save(folder / name)


def test_folder_list_array_tensor_and_multi_page_tiff_give_the_same_layers(tmp_path):
    write(tmp_path / "folder", SECTIONS, [f"s{n}.png" for n in (2, 3, 10, 11)])  # not in alphabetical order
    pages = [Image.fromarray(section) for section in SECTIONS]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    forms = [SECTIONS, list(SECTIONS), str(tmp_path / "stack.tif"), [str(tmp_path / "stack.tif")],
             torch.from_numpy(np.moveaxis(SECTIONS, -1, 1).copy()), str(tmp_path / "folder")]  # fmt: skip
    for form in forms:
        loaded = [section.load(1) for section in open_stack(form).sections]
        assert np.array_equal(np.stack(loaded), SECTIONS)
    stack = open_stack(str(tmp_path / "folder"))
    assert [section.name for section in stack.sections] == ["s2.png", "s3.png", "s10.png", "s11.png"]
    assert any("2 before 10" in note for note in stack.notes)


def test_a_section_is_reduced_by_the_mean_of_its_pixels():
    small = open_stack(SECTIONS).sections[0].load(8)
    assert small.shape == (6, 5, 3)
    assert np.abs(small[0, 0].astype(int) - SECTIONS[0, :8, :8].mean((0, 1))).max() <= 1


def test_tiles_of_large_files_are_reduced_one_by_one(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setattr(slides, "LARGE", 10_000)
    for z, section in enumerate(SECTIONS):
        big = np.kron(section, np.ones((8, 8, 1), np.uint8))
        tifffile.imwrite(tmp_path / f"s{z}.tif", big, tile=(64, 64), photometric="rgb", compression="zlib")
    stack = open_stack(str(tmp_path))
    assert {section.size for section in stack.sections} == {(8 * 48, 8 * 40)}
    assert np.array_equal(stack.sections[2].load(8), SECTIONS[2])


def test_names_without_numbers_and_unusual_orders_are_noted(tmp_path):
    write(tmp_path, SECTIONS[:2], ["upper.png", "lower.png"])
    assert "without numbers" in open_stack(str(tmp_path)).notes[0]
    paths = [str(tmp_path / "upper.png"), str(tmp_path / "lower.png")]
    assert "in the order given" in open_stack(paths).notes[0]


def test_layers_of_other_magnification_are_refused_by_name(tmp_path):
    write(tmp_path, SECTIONS[:2], ["s0.png", "s1.png"])
    Image.fromarray(np.kron(SECTIONS[2], np.ones((4, 4, 1), np.uint8))).save(tmp_path / "s2.png")
    with pytest.raises(MediaError, match=r"layer s2\.png is 192 x 160 px but the stack is about 48 x 40"):
        open_stack(str(tmp_path))


def test_a_slightly_larger_layer_is_taken_with_a_note():
    padded = np.pad(SECTIONS[1], ((0, 9), (0, 5), (0, 0)), mode="edge")
    assert any("differ in size" in note for note in open_stack([SECTIONS[0], padded]).notes)


def test_a_stack_among_images_is_refused():
    with pytest.raises(MediaError, match="give it alone"):
        open_stack([media.Image(SECTIONS, ndim_spatial=3), SECTIONS[0]])


def test_odd_channels_are_refused():
    with pytest.raises(MediaError, match="2 channels"):
        open_stack([np.zeros((8, 8, 2), np.uint8)])


def test_a_volume_says_its_spacing_and_that_it_lies_where_it_was(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 6, 5), np.float32), np.diag([0.5, 0.25, 3, 1])), tmp_path / "v.nii")
    stack = open_stack(str(tmp_path / "v.nii"))
    assert (stack.scanned, stack.unit, stack.spacing) == (True, "mm", (0.5, 0.25, 3))
    assert len(stack.sections) == 5


def test_masks_are_matched_by_name_and_must_fit(tmp_path):
    names = ["s2.png", "s3.png", "s10.png", "s11.png"]
    write(tmp_path / "sections", SECTIONS, names)
    masks = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 48, 40), np.uint8)
    stack = open_stack(str(tmp_path / "sections"))
    write(tmp_path / "masks", masks, names)
    found = open_masks([str(tmp_path / "masks" / name) for name in reversed(names)], stack)
    assert [int(mask.load(1).max()) for mask in found] == [0, 1, 2, 3]
    with pytest.raises(OptionError, match=r"has 3 masks but .* has 4 layers"):
        open_masks(list(masks[:3]), stack)
    with pytest.raises(OptionError, match="is 24 x 20 px but layer"):
        open_masks([mask[::2, ::2] for mask in masks], stack)


def test_what_counts_as_a_mask_and_as_positive():
    drawn = np.array([[0, 255], [200, 100]], np.uint8)
    assert positive(drawn).tolist() == [[False, True], [True, False]]  # black and white, with soft edges
    assert positive(drawn // 100).tolist() == [[False, True], [True, True]]  # labels
    assert is_mask(np.array([[0, 255]], np.uint8))
    assert is_mask(np.array([[0, 1]], np.uint8))
    assert not is_mask(np.array([[0, 100]], np.uint8))
    assert not is_mask(SECTIONS[0])
