"""The segmenter: network, conversion to grey, scale, and what predict promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from zoo import media
from zoo.data.fundus import field_of_view
from zoo.data.images import resize
from zoo.data.phantoms.fundus import fundus
from zoo.errors import OptionError
from zoo.models.map_vessel.claim import fluorescein_angiogram, oct_angiogram
from zoo.models.map_vessel.model import RELEASED, MapVessel, MapVesselConfig, ReleasedUNet, ResidualUNet, prepare

SMALL = MapVesselConfig(channels=(4, 8, 8, 4), working_size=96, longest_side=128)


@pytest.fixture(scope="module")
def model() -> MapVessel:
    torch.manual_seed(0)
    return MapVessel(SMALL).eval()


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return np.asarray(fundus(2, size=160).image)


# ---- network ------------------------------------------------------------------------------------------------------


def test_the_papers_network_has_its_channels_and_latent_length():
    network = ResidualUNet(1, 2, (8, 32, 32, 64, 64, 16))
    logits, z = network(torch.rand(2, 1, 64, 96))
    assert logits.shape == (2, 2, 64, 96)
    assert z.shape == (2, 16 * 2 * 3)  # 16 channels at 1/32 of the size
    assert [block.conv2.out_channels for block in network.down] == [8, 32, 32, 64, 64, 16]
    assert [block.conv2.out_channels for block in network.up] == [64, 64, 32, 32, 8]
    assert 2 * sum(p.numel() for p in network.parameters()) < 2**20  # fits 1 MiB in half precision


def test_latent_is_taken_before_the_last_activation():
    torch.manual_seed(0)
    _, z = ResidualUNet(1, 2, (4, 8, 4))(torch.rand(4, 1, 32, 32))
    # A LeakyReLU of slope 0.01 would leave no strong negative entries.
    assert z.min() < -0.5 * z.max()


def test_the_released_network_has_the_size_of_the_authors():
    network = ReleasedUNet(1, 2, (8, 32, 32, 64, 64, 16))
    assert sum(p.numel() for p in network.parameters()) == 743_150
    logits, z = network(torch.rand(2, 1, 64, 128))
    assert logits.shape == (2, 2, 64, 128)
    assert z.shape == (2, 16 * 1 * 2)  # 16 channels at 1/64 of the size
    assert logits.min() >= 0


@pytest.mark.parametrize("backbone", ["paper", "released"])
def test_an_images_own_statistics_are_those_of_a_batch_of_one(backbone: str):
    torch.manual_seed(0)
    model = MapVessel(MapVesselConfig(channels=(4, 8, 4), backbone=backbone, norm_at_test="image")).eval()
    x = torch.rand(3, 1, 32, 48)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        together = model(x)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        model.normalise_by("training")
        assert not torch.allclose(model(x), together, atol=1e-3)
        alone = torch.cat([model.train()(image[None]) for image in x])
    assert torch.allclose(together, alone, atol=1e-5)


def test_released_images_keep_their_resolution_and_surround():
    photograph = fundus(2, size=160)
    released = prepare(photograph.image, replace(SMALL, **RELEASED))
    assert released.grey.shape == (160, 160)
    outside = ~np.asarray(released.field)
    assert released.grey[outside].mean() > 0.5
    assert prepare(photograph.image, SMALL).grey[:3, :3].max() == 0


@pytest.mark.parametrize(("side", "missing"), [(100, 28), (128, 128), (129, 127)])
def test_released_padding_adds_128_to_a_multiple_of_it(side: int, missing: int):
    assert MapVessel(replace(SMALL, **RELEASED))._missing(side) == missing


def test_padding_that_is_no_multiple_of_the_stride_is_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        MapVesselConfig(channels=(4, 8, 8, 4), pad_to=20)


def test_gradients_reach_every_parameter():
    network = ResidualUNet(1, 2, (4, 8, 4))
    logits, z = network(torch.rand(2, 1, 32, 32))
    (logits.square().mean() + z.square().mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters() if p.ndim > 1)


@pytest.mark.parametrize("channels", [(), (8,), (8, 0, 8)])
def test_impossible_channel_lists_are_refused(channels: tuple):
    with pytest.raises(ValueError, match="channels"):
        MapVesselConfig(channels=channels)


# ---- conversion ---------------------------------------------------------------------------------------------------


def test_green_is_inverted_for_fundus_only():
    rng = np.random.default_rng(0)
    image = np.stack([rng.random((64, 64)), np.tile(np.linspace(0.2, 0.9, 64), (64, 1)), rng.random((64, 64))], -1)
    grey = prepare(image.astype(np.float32), SMALL, "fundus", native=True).grey
    assert grey[:, :8].mean() > grey[:, -8:].mean()
    ramp = np.tile(np.linspace(0.2, 0.9, 64, dtype=np.float32), (64, 1))
    for modality in ("octa", "fa"):
        plain = prepare(ramp, SMALL, modality).grey
        assert (plain.min(), plain.max()) == (0, 1)
        assert plain[:, -1].mean() > plain[:, 0].mean()


def test_large_photographs_are_brought_to_the_training_scale(photograph: np.ndarray):
    large = np.kron(photograph, np.ones((3, 3, 1), np.uint8))
    a, b = prepare(photograph, SMALL), prepare(large, SMALL)
    assert abs(a.grey.shape[0] - b.grey.shape[0]) <= 1
    columns = np.flatnonzero((resize(b.field.astype(np.float32), b.grey.shape) > 0.5).any(0))
    assert abs(columns[-1] - columns[0] + 1 - SMALL.working_size) <= 2


def test_large_angiograms_are_reduced_and_small_ones_kept():
    rng = np.random.default_rng(0)
    assert prepare(rng.random((300, 200), dtype=np.float32), SMALL).grey.shape == (128, 85)
    assert prepare(rng.random((60, 50), dtype=np.float32), SMALL).grey.shape == (60, 50)


# ---- predict --------------------------------------------------------------------------------------------------------


def test_result_has_the_size_of_the_input(model: MapVessel, photograph: np.ndarray):
    image = photograph[:151, :133]
    result = model.predict(image)
    assert result.mask.shape == result.probability.shape == (151, 133)
    assert result.mask.dtype == np.uint8
    assert set(np.unique(result.mask)) <= {0, 1}
    assert 0 <= result.probability.min() <= result.probability.max() <= 1
    assert result.labels == ("background", "vessel")
    assert result.options["modality"] == "fundus"
    assert "guessed" in result.notes[0]


def test_grey_images_are_taken_for_angiograms(model: MapVessel):
    result = model.predict(np.random.default_rng(0).random((70, 90), dtype=np.float32))
    assert result.options["modality"] == "octa"
    assert result.mask.shape == (70, 90)


def test_a_grey_fundus_photograph_is_a_fundus_photograph(model: MapVessel):
    """As an angiogram its vessels would be half as many."""
    for image in ("sample:retina", "sample:microaneurysms"):
        found = prepare(media.read(image).grey(), SMALL)
        assert found.modality == "fundus"
        assert "grey and its lines are dark" in found.notes[0]
    rng = np.random.default_rng(0)
    eyes = [fundus(seed, size=256) for seed in range(900, 908)]
    assert [prepare(media.read(eye.image).grey(), SMALL).modality for eye in eyes].count("fundus") >= 7
    for draw in (oct_angiogram, fluorescein_angiogram):
        assert all(prepare(draw(eye, rng), SMALL).modality == "octa" for eye in eyes)


def test_threshold_moves_the_mask_only(model: MapVessel, photograph: np.ndarray):
    low, high = (model.predict(photograph, threshold=t) for t in (0.2, 0.8))
    assert np.array_equal(low.probability, high.probability)
    assert np.array_equal(low.mask, low.probability >= 0.2)
    assert low.mask.sum() >= high.mask.sum()


def test_nothing_is_marked_outside_the_field_of_view(model: MapVessel, photograph: np.ndarray):
    result = model.predict(photograph, threshold=0.0)
    outside = ~field_of_view(photograph.astype(np.float32) / 255)
    assert result.probability[outside].max() == 0
    assert result.mask[outside].max() == 0


def test_own_field_of_view_replaces_the_estimate(model: MapVessel, photograph: np.ndarray):
    mask = np.zeros((160, 160), np.uint8)
    mask[40:120, 40:120] = 255
    result = model.predict(photograph, fov_mask=mask)
    assert result.probability[mask == 0].max() == 0
    assert result.probability[60:100, 60:100].max() > 0


def test_tiles_blend_to_the_whole(photograph: np.ndarray):
    """A network that answers pixel by pixel gives the same through tiles of any size."""
    model = MapVessel(SMALL).eval()
    model.forward = lambda x: torch.cat([torch.zeros_like(x), 4 * x - 2], 1)  # type: ignore[method-assign]
    whole = model.predict(photograph, tile=4096).probability
    for tile in (32, 57, 64):
        assert np.allclose(model.predict(photograph, tile=tile).probability, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fov_mask": np.ones((8, 8), np.uint8)}, "fov_mask is 8 x 8"),
        ({"fov_mask": np.zeros((160, 160), np.uint8)}, "fov_mask is empty"),
    ],
)
def test_a_field_of_view_that_does_not_fit_is_refused(
    model: MapVessel, photograph: np.ndarray, options: dict, message: str
):
    with pytest.raises(OptionError, match=message):
        model.predict(photograph, **options)
