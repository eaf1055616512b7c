from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from zoo.media import Image, MediaError, read


@given(
    array=st.sampled_from([np.uint8, np.uint16, np.int16, np.int32, np.float32]).flatmap(
        lambda dtype: arrays(
            dtype,
            st.sampled_from([(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)]),
            elements={"min_value": -(2.0**100), "max_value": 2.0**100, "allow_nan": False}
            if dtype == np.float32
            else None,
        )
    )
)
def test_grey_and_rgb_are_float32_in_the_unit_interval(array: np.ndarray) -> None:
    image = Image(array)
    for values, shape in ((image.grey(), (4, 5)), (image.rgb(), (4, 5, 3))):
        assert values.shape == shape
        assert values.dtype == np.float32
        assert values.min() >= 0
        assert values.max() <= 1


def test_unsigned_integers_are_scaled_by_their_type() -> None:
    assert Image(np.array([[51]], np.uint8)).grey()[0, 0] == pytest.approx(0.2)
    assert Image(np.array([[13107]], np.uint16)).grey()[0, 0] == pytest.approx(0.2)


def test_other_values_are_scaled_by_their_own_range() -> None:
    np.testing.assert_allclose(Image(np.array([[-1000, 0, 1000]], np.int16)).grey(), [[0, 0.5, 1]])
    np.testing.assert_allclose(Image(np.array([[0.25, 0.5]], np.float32)).grey(), [[0.25, 0.5]])
    np.testing.assert_allclose(Image(np.array([[7.0, 7.0]], np.float32)).grey(), [[0, 0]])


def test_grey_of_equal_colours_is_their_value() -> None:
    np.testing.assert_allclose(Image(np.full((2, 2, 3), 128, np.uint8)).grey(), 128 / 255, atol=1e-6)


def test_two_channels_are_neither_grey_nor_rgb() -> None:
    image = Image(np.zeros((4, 5, 2), np.uint8), source="pair.npy")
    assert image.channels == 2
    for method in (image.grey, image.rgb):
        with pytest.raises(MediaError, match=r"pair\.npy has 2 channels"):
            method()


def test_volume_is_no_image_unless_it_has_one_slice() -> None:
    with pytest.raises(MediaError, match="2-D image is needed but scan is a volume of 7 slices"):
        Image(np.zeros((7, 8, 9), np.uint8), source="scan").grey()
    assert Image(np.zeros((1, 8, 9), np.uint8), spacing=(5, 1, 2)).require_2d().spacing == (1, 2)
    colour = Image(np.zeros((7, 8, 9, 3), np.uint8))
    with pytest.raises(MediaError, match="one channel"):
        colour.require_3d("a model")
    assert colour.plane(2).rgb().shape == (8, 9, 3)


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("a/b.nii.gz", "b"),
        ("a/b.v2.png", "b.v2"),
        ("ct/1.2.840", "1.2.840"),
        ("sample:retina", "retina"),
        ("phantom:fundus?seed=3&style=wide", "fundus-seed-3-style-wide"),
    ],
)
def test_stem_names_files_made_from_it(source: str, stem: str) -> None:
    assert Image(np.zeros((2, 2), np.uint8), source=source).stem == stem


def test_axial_view_runs_to_head_back_and_left() -> None:
    coordinates = np.stack(np.meshgrid(range(3), range(4), range(5), indexing="ij"))  # z, h, w
    affine = np.array([[0, 0, -2.0, 9], [1.5, 0, 0, 0], [0, -1.0, 0, 3], [0, 0, 0, 1]])  # w: front, h: foot, z: left
    image = Image(np.zeros((3, 4, 5), np.uint8), affine=affine, spacing=(2.0, 1.0, 1.5))
    index = np.stack([image.axial(axis) for axis in coordinates])
    position = np.einsum("ij,jzhw->izhw", affine[:3, :3], index[::-1])
    assert (np.diff(position[2], axis=0) > 0).all()
    assert (np.diff(position[1], axis=1) < 0).all()
    assert (np.diff(position[0], axis=2) < 0).all()
    assert image.thumbnail(100).size == (round(5 * 3 * 2 / 7.5), 5)


def test_thumbnail_keeps_the_physical_aspect() -> None:
    assert Image(np.zeros((100, 50), np.uint8)).thumbnail(40).size == (20, 40)
    assert Image(np.zeros((50, 50), np.uint8), spacing=(2.0, 1.0)).thumbnail(40).size == (20, 40)
    large = Image(np.full((3000, 4000), 255, np.uint8)).thumbnail(64)
    assert large.size == (64, 48)
    assert large.getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.int64, np.uint32])
def test_eight_bit_values_in_a_wider_type_look_the_same_and_are_noted(dtype) -> None:
    values = np.random.default_rng(0).integers(3, 240, (5, 6)).astype(np.uint8)
    wide = read(values.astype(dtype))
    np.testing.assert_array_equal(wide.grey(), read(values).grey())
    assert f"its {np.dtype(dtype)} values reach only to {values.max()}: 255 was taken for white" in wide.notes
    assert read(values).notes == ()


def test_a_16_bit_image_that_uses_little_of_its_range_is_noted() -> None:
    assert "reach only to 4,000 of 65,535" in read(np.array([[0, 4000]], np.uint16)).notes[0]
    assert read(np.array([[0, 60000]], np.uint16)).notes == ()
