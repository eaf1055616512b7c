"""From cases to what a network takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from zoo import media
from zoo.data.case import Case
from zoo.data.digits import digits
from zoo.data.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageSet,
    Views,
    centre_crop,
    label_index,
    normalise,
    pad_to,
    place_of,
    read_views,
    resize,
    rgb_bytes,
    square,
    square_of,
    to_tensor,
)
from zoo.errors import DataError

LABELS = ("benign", "malignant", "7")
sizes = st.integers(1, 40)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_a_label_is_a_name_or_else_a_number() -> None:
    assert [label_index(label, LABELS, "case a") for label in ("malignant", "7", 7, "0", 1, "02")] == [1, 2, 2, 0, 1, 2]


@pytest.mark.wrong_types
@pytest.mark.parametrize("label", ["3", "-1", "Benign", "", None, 1.5, "²"])
def test_other_labels_are_refused_in_one_sentence(label) -> None:
    with pytest.raises(DataError) as refused:
        label_index(label, LABELS, "case a", "choose others with --set labels=A,B")
    assert str(refused.value) == (
        f"case a has the label {label!r}, which is none of benign, malignant, 7; choose others with --set labels=A,B"
    )


def test_none_is_no_label_even_where_a_class_is_called_so() -> None:
    assert label_index("None", ("None", "some"), "case a") == 0
    with pytest.raises(DataError, match=r"has the label None, which is none of None, some$"):
        label_index(None, ("None", "some"), "case a")


def test_the_place_of_what_is_not_there_is_none() -> None:
    assert place_of("ulnar", LABELS) is None
    assert place_of(0, LABELS) == 0


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_bytes_of_a_picture_are_its_own() -> None:
    pixels = noise(5, 7, 3)
    assert np.array_equal(rgb_bytes(media.read(pixels)), pixels)
    grey = rgb_bytes(media.read(pixels[..., 0]))
    assert np.array_equal(grey, np.repeat(pixels[..., :1], 3, axis=2))


@given(h=sizes, w=sizes)
def test_the_square_is_the_largest_and_in_the_middle(h: int, w: int) -> None:
    top, left, side = square_of((h, w, 3))
    assert side == min(h, w)
    assert 0 <= (h - side - top) - top <= 1
    assert 0 <= (w - side - left) - left <= 1
    assert square(np.zeros((h, w, 2))).shape == (side, side, 2)


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_colours_are_resized_as_pillow_does_it(resample) -> None:
    pixels = noise(30, 21, 3)
    expected = PILImage.fromarray(pixels).resize((8, 12), PILImage.Resampling[resample.upper()])
    assert np.array_equal(resize(pixels, (12, 8), resample), np.asarray(expected))


def test_all_channels_are_resized_alike_whatever_their_number() -> None:
    planes = np.random.default_rng(0).random((10, 12, 5)).astype(np.float32)
    found = resize(planes, 7)
    assert found.shape == (7, 7, 5)
    assert found.dtype == np.float32
    assert np.array_equal(found[..., 3], resize(planes[..., 3], (7, 7)))


def test_masks_stay_masks_and_an_image_of_that_size_itself() -> None:
    mask = np.eye(6, dtype=bool)
    found = resize(mask, 12, "nearest")
    assert found.dtype == bool
    assert np.array_equal(found[::2, ::2], mask)
    assert resize(mask, (6, 6)) is mask


@given(value=st.integers(0, 255), h=st.integers(2, 20), w=st.integers(2, 20), side=st.integers(1, 30))
def test_one_colour_stays_that_colour(value: int, h: int, w: int, side: int) -> None:
    assert (resize(np.full((h, w, 3), value, np.uint8), side) == value).all()
    assert np.allclose(resize(np.full((h, w), value, np.float32), side), value, rtol=1e-5)


@given(h=st.integers(4, 50), w=st.integers(4, 50), size=st.integers(1, 40))
def test_the_centre_crop_is_a_square_of_the_size(h: int, w: int, size: int) -> None:
    assert centre_crop(noise(h, w, 3), size).shape == (size, size, 3)


def test_the_centre_crop_takes_its_share_of_the_short_side() -> None:
    pixels = np.zeros((256, 512, 3), np.uint8)
    pixels[16:-16, 144:-144] = 200  # 224 x 224 in the middle
    assert (centre_crop(pixels, 224) == 200).all()
    assert not (centre_crop(pixels, 224, share=0.9) == 200).all()


@given(h=sizes, w=sizes, size=sizes)
def test_padding_reaches_the_size_and_keeps_what_was_there(h: int, w: int, size: int) -> None:
    array = noise(h, w)
    padded = pad_to(array, size, mode="edge")
    assert padded.shape == (max(h, size), max(w, size))
    assert np.array_equal(padded[:h, :w], array)
    assert (padded[h:, :w] == array[-1]).all()


def test_padding_of_planes_is_zero() -> None:
    padded = pad_to(np.ones((2, 3, 4)), 4, (1, 2))
    assert padded.shape == (2, 4, 4)
    assert padded.sum() == 24


# ---- tensors ---------------------------------------------------------------------------------------------------------


def test_bytes_become_numbers_from_0_to_1_channels_first() -> None:
    views = noise(2, 4, 5, 3)
    x = to_tensor(views)
    assert x.shape == (2, 3, 4, 5)
    assert torch.equal((x * 255).round().byte(), torch.from_numpy(views).permute(0, 3, 1, 2))
    assert torch.equal(to_tensor(list(views)), x)


def test_normalised_by_imagenet_unless_told_otherwise() -> None:
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    assert torch.equal(normalise(mean.expand(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))
    x = mean + torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    assert torch.allclose(normalise(x), torch.ones(1, 3, 1, 1))
    assert torch.equal(normalise(torch.full((1, 3, 2, 2), 0.75), (0.5,), (0.25,)), torch.ones(1, 3, 2, 2))


# ---- sets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_batch_holds_the_images_that_are_asked_for(channels_last: bool) -> None:
    views = noise(5, 4, 4, 3)
    images = ImageSet.of(views, [0, 1, 2, 1, 0], "abcde", empty=(3, 4, 4), channels_last=channels_last)
    x, y = images.batch(np.array([3, 0, 3]))
    assert len(images) == 5
    assert images.ids == tuple("abcde")
    assert y.tolist() == [1, 0, 1]
    assert torch.equal((x * 255).round().byte(), torch.from_numpy(views[[3, 0, 3]]).permute(0, 3, 1, 2))
    assert x.is_contiguous() is not channels_last
    assert x.is_contiguous(memory_format=torch.channels_last) is channels_last


def test_a_set_without_images_has_a_shape() -> None:
    images = ImageSet.of([], [], empty=(3, 8, 8))
    assert images.views.shape == (0, 3, 8, 8)
    assert images.batch([])[0].shape == (0, 3, 8, 8)


def test_several_labels_of_a_case_are_numbers_0_and_1() -> None:
    images = ImageSet.of(noise(2, 4, 4, 1), [[1.0, 0.0], [1.0, 1.0]], empty=(1, 4, 4))
    assert images.y.dtype == torch.float32
    assert images.batch([1])[1].tolist() == [[1.0, 1.0]]


def test_views_of_cases() -> None:
    cases = [Case(noise(6, 9, 3), "a"), Case(noise(4, 4), "b")]
    views = read_views(cases, lambda picture: resize(square(rgb_bytes(picture)), 2), "a test", "small views")
    assert [view.shape for view in views] == [(2, 2, 3), (2, 2, 3)]


@pytest.mark.parametrize("memory", [0, 10**6])
def test_views_are_read_once_if_they_fit_and_otherwise_when_asked_for(memory: int) -> None:
    read: list[int] = []

    def view(i: int) -> np.ndarray:
        read.append(i)
        return np.full((2, 2, 3), i, np.uint8)

    views = Views(list(range(6)), view, 12, "test views", memory)
    assert len(read) == (6 if memory else 0)
    assert views.batch(np.array([4, 1]))[:, 0, 0, 0].tolist() == [4, 1]
    assert len(read) == (6 if memory else 2)
    assert len(views) == 6


def test_the_digits_of_scikit_learn() -> None:
    pytest.importorskip("sklearn")
    images, y = digits("a test")
    assert images.shape == (1797, 8, 8)
    assert (images.min(), images.max()) == (0, 16)
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
