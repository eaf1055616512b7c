"""Predictions from k-space of every convention, from images, stacks and coils; what is refused, and the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.data import phantoms
from zoo.data.kspace import lines, read_kspace, to_image, to_kspace
from zoo.errors import MediaError, OptionError
from zoo.models.fedautomri.model import FedAutoMRI
from zoo.models.fedautomri.network import FedAutoMRIConfig

SMALL = FedAutoMRIConfig(unroll=2, cells=2, channels=4)


@pytest.fixture(scope="module")
def model() -> FedAutoMRI:
    torch.manual_seed(0)
    return FedAutoMRI(SMALL).eval()


def measured(size: int = 33) -> np.ndarray:
    return phantoms.make(f"phantom:k-space?size={size}&seed=5").attributes["kspace"]


def test_kspace_with_a_mask_from_its_zeros_has_no_truth_and_is_drawn_to_what_was_measured(model: FedAutoMRI) -> None:
    k = measured()
    mask = lines(k.shape, 3, 0.1, np.random.default_rng(0))
    found = model.predict(k * mask, convention="centre")
    assert found.scores == {}
    assert any("taken from the zeros" in note for note in found.notes)
    after = to_kspace(found.complex)[0]
    assert np.abs(after - k)[mask].mean() < 0.2 * np.abs(k)[mask].mean()


def test_the_convention_of_the_kspace_does_not_change_the_answer(model: FedAutoMRI) -> None:
    k, mask = measured(32), lines((32, 32), 3, 0.1, np.random.default_rng(0))
    one = model.predict(k * mask, convention="centre")
    other = model.predict(np.fft.ifftshift(k * mask), convention="corner")
    np.testing.assert_allclose(one.complex, other.complex, atol=1e-5)
    assert other.options["convention"] == "corner"


def test_full_kspace_an_image_and_a_complex_image_are_simulated_and_say_so(model: FedAutoMRI) -> None:
    k = measured()
    whole, image = model.predict(k), model.predict(np.abs(to_image(k)))
    complex_image = model.predict(to_image(k), content="image")
    np.testing.assert_allclose(whole.output, complex_image.output, atol=1e-4)
    assert any("simulated mask" in note for note in whole.notes)
    assert any("magnitudes" in note for note in image.notes)
    assert set(whole.scores) == {"psnr", "ssim", "psnr zero-filled", "ssim zero-filled"}
    other = model.predict(k, seed=1)
    assert not np.array_equal(other.sampled, whole.sampled)


def test_a_stack_is_its_slices_and_iterations_are_kept_where_wanted(model: FedAutoMRI) -> None:
    k = np.stack([measured(32), 0.5 * measured(32)[::-1]])
    found = model.predict(k, convention="centre", slice=0, return_intermediate=True)
    assert found.complex.shape == (2, 32, 32)
    assert found.steps is not None
    np.testing.assert_allclose(found.steps[-1], found.output, atol=1e-5)
    np.testing.assert_allclose(model.predict(k[0], convention="centre").complex[0], found.complex[0], atol=1e-5)
    with pytest.raises(OptionError, match="no slice 2"):
        model.predict(k, convention="centre", slice=2)


def test_several_coils_need_their_maps(model: FedAutoMRI, tmp_path: Path) -> None:
    x = to_image(measured(32))
    maps = np.stack([np.full((32, 32), 0.6), np.full((32, 32), 0.8j)]).astype(np.complex64)
    k = to_kspace(maps * x)[None]
    k[..., ::2] = 0
    np.save(tmp_path / "maps.npy", maps)
    with pytest.raises(OptionError, match="2 coils"):
        model.predict(k, convention="centre")
    found = model.predict(k, convention="centre", maps=tmp_path / "maps.npy")
    one = model.predict(np.where(np.arange(32) % 2, to_kspace(x), 0), convention="centre")
    np.testing.assert_allclose(found.start, one.start, atol=1e-5)
    np.testing.assert_allclose(found.output, one.output, atol=1e-2)


def test_what_cannot_be_reconstructed_is_refused(model: FedAutoMRI, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.ones(9))
    with pytest.raises(MediaError, match="give one that fits"):
        model.predict(measured(32), mask=tmp_path / "mask.npy")
    with pytest.raises(OptionError, match="mask goes with k-space"):
        model.predict(np.abs(to_image(measured(32))), mask=tmp_path / "mask.npy")
    with pytest.raises(MediaError, match="NaN"):
        model.predict(np.where(np.eye(32), np.nan, measured(32)))
    np.save(tmp_path / "grey.npy", np.ones((32, 32)))
    with pytest.raises(MediaError, match="no complex image"):
        model.predict(tmp_path / "grey.npy", content="image")


def test_the_picture_and_the_files_hold_what_was_found(model: FedAutoMRI, tmp_path: Path) -> None:
    found = model.predict("phantom:k-space?size=32&seed=2", return_intermediate=True)
    titles = [panel.title for panel in found.panels()]
    assert titles[:3] == ["truth", "zero-filled", "reconstruction"]
    assert {"the cell", "colours of the errors", "iteration 2"} <= set(titles)
    found.save(tmp_path)
    (written,) = tmp_path.glob("*_complex.npy")
    np.testing.assert_array_equal(np.load(written, allow_pickle=False), found.complex)
    assert read_kspace(to_kspace(found.complex)).data.shape == (1, 32, 32)
