"""SAM-Path's network: what is frozen, how classes prompt, tiles, vanilla mode, the pathology encoders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from zoo import media
from zoo.data.phantoms.he_tile import he_tile
from zoo.errors import OptionError, WeightsError
from zoo.models.sam_path.encoders import HIPT, load_encoder, positions
from zoo.models.sam_path.model import Neck, SamPath, SamPathConfig
from zoo.models.sam_path.training import SamPathRecipe, build
from zoo.nn.backbones import timm_network
from zoo.nn.promptable import before_neck

LABELS = ("background", "gland", "lumen")


@pytest.fixture
def recipe(tiny_sam: str) -> SamPathRecipe:
    return SamPathRecipe(
        labels=LABELS, ignored=False, sam=tiny_sam, pathology="small", pathology_width=8, tile=64, mpp=None
    )


@pytest.fixture
def model(recipe: SamPathRecipe) -> SamPath:
    torch.manual_seed(0)
    return build(recipe).eval()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return he_tile(0, size=96).image


def test_both_encoders_are_frozen_and_the_rest_is_trained(model: SamPath) -> None:
    h = model.features(torch.rand(2, 3, 64, 64))
    assert h.shape == (2, 24 + 8, 8, 8)
    assert not h.requires_grad
    found = model(h)
    assert found.logits.shape == (2, 3, 32, 32)
    assert found.quality.shape == (2, 3)
    (found.logits.square().mean() + found.quality.sum()).backward()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert moved == {"neck", "decoder"}
    assert not any(p.requires_grad for p in model.pathology.parameters())
    model.train()
    assert not model.pathology.training  # its batch statistics stay


def test_a_moved_neck_starts_as_sams_and_is_blind_to_the_other_encoder(model: SamPath) -> None:
    x = torch.rand(1, 3, 64, 64)
    sam, h = model.base.sam, model.features(x)
    with torch.no_grad():
        torch.testing.assert_close(model.neck(h), sam.vision_encoder.neck(h[:, :24].permute(0, 2, 3, 1)))
        other = torch.cat([h[:, :24], torch.randn(1, 8, 8, 8)], 1)
        torch.testing.assert_close(model.neck(other), model.neck(h))


def test_sizes_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in Neck(768 + 384, 256).parameters()) == 885_760


def test_class_tokens_permute_their_maps(model: SamPath) -> None:
    h = model.features(torch.rand(1, 3, 64, 64))
    with torch.no_grad():
        before = model(h).logits
        weight = model.decoder.mask_tokens.weight
        weight.copy_(weight[[0, 2, 3, 1]])  # all hyper-networks are copies of one at first
        torch.testing.assert_close(model(h).logits, before[:, [1, 2, 0]], rtol=1e-3, atol=1e-3)


def test_single_prompts_are_a_loop_over_classes(recipe: SamPathRecipe) -> None:
    torch.manual_seed(0)
    model = build(replace(recipe, prompts="single")).eval()
    assert model.decoder.num_mask_tokens == 4
    h = model.features(torch.rand(2, 3, 64, 64))
    with torch.no_grad():
        found = model(h)
        weight = model.class_prompts.weight.clone()
        for k in range(3):
            model.class_prompts.weight.copy_(weight[[k] * 3])
            torch.testing.assert_close(model(h).logits[:, 0], found.logits[:, k], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("encoders", "width"), [("sam", 24), ("pathology", 8)])
def test_one_encoder_alone_never_runs_the_other(recipe: SamPathRecipe, encoders, width: int) -> None:
    model = build(replace(recipe, encoders=encoders)).eval()
    calls = []
    model.base.sam.vision_encoder.layers[0].register_forward_hook(lambda *_: calls.append(1))
    assert model.features(torch.rand(1, 3, 64, 64)).shape[1] == width
    assert bool(calls) is (encoders == "sam")
    assert (model.pathology is None) is (encoders == "sam")


def test_the_authors_baseline_keeps_sams_neck(recipe: SamPathRecipe) -> None:
    model = build(replace(recipe, encoders="sam", frozen_neck=True))
    assert model.neck is None
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"decoder"}
    with torch.no_grad():
        assert model(model.features(torch.rand(1, 3, 64, 64))).logits.shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match="set encoders=sam"):
        SamPathConfig(frozen_neck=True)


def test_features_are_sams_before_its_neck_beside_the_other_encoders(model: SamPath) -> None:
    x = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = before_neck(model.base.sam, (x - mean) / std)
    torch.testing.assert_close(model.features(x)[:, :24], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model.features(x)[:, 24:], model.pathology((x - mean) / std), rtol=1e-4, atol=1e-4)


# ---- predict ----


def test_probabilities_sum_to_one_and_areas_to_the_image(model: SamPath, image: np.ndarray) -> None:
    found = model.predict(image)  # 96 px in tiles of 64
    assert found.probability.shape == (3, 96, 96)
    np.testing.assert_allclose(found.probability.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(found.mask, found.probability.argmax(0))
    assert sum(found.class_areas().values()) == pytest.approx(1)
    shares = [f"{name} ({found.class_areas()[name]:.1%} of the image)" for name in LABELS[1:]]
    assert [entry.name for entry in found.legend()] == shares
    assert found.quality == {}  # of several tiles there is no single expectation
    assert set(model.predict(image[:60, :50]).quality) == set(LABELS)


def test_areas_are_stated_once(model: SamPath, image: np.ndarray) -> None:
    found = model.predict(media.Image(image, "tile.png", "png", spacing=(0.5, 0.25)))
    assert list(found.sizes()) == list(found.class_areas())
    assert sum(found.sizes().values()) == pytest.approx(96 * 96 * 0.125)
    assert [name for name in found.quantities() if "mm" in name] == [f"area_mm2_{name}" for name in found.names]


def test_tiles_of_one_size_are_one_pass_and_seams_are_blended(model: SamPath, image: np.ndarray) -> None:
    whole = model.predict(image[:64, :64]).probability
    with torch.no_grad():
        x = torch.from_numpy(image[:64, :64].copy()).permute(2, 0, 1)[None] / 255
        expected = model.logits(x).half().float().softmax(1)[0].numpy()
    np.testing.assert_allclose(whole, expected, atol=1e-3)
    wide = np.tile(image, (2, 2, 1))[:128, :128]
    hard, soft = (model.predict(wide, overlap=o).probability for o in (0.0, 0.5))
    assert not np.array_equal(hard, soft)


def test_unlabelled_is_never_predicted_with_or_without_its_map(recipe: SamPathRecipe, image: np.ndarray) -> None:
    for dummy in (False, True):
        model = build(replace(recipe, labels=("unlabelled", "a", "b"), ignored=True, dummy=dummy)).eval()
        found = model.predict(image[:64, :64])
        assert len(model.config.maps) == 2 + dummy
        assert found.probability.shape[0] == 2
        assert set(np.unique(found.mask)) <= {1, 2}
        assert set(found.quality) == {"a", "b"}


def test_micrometres_scale_the_image_and_the_answer_back(recipe: SamPathRecipe, image: np.ndarray) -> None:
    model = build(replace(recipe, mpp=0.5)).eval()
    found = model.predict(image[:64, :64], mpp=0.25)
    assert found.mask.shape == (64, 64)
    assert "scaled from 0.25 to the 0.5" in found.notes[0]


def test_vanilla_mode_unites_sams_masks_and_drops_large_ones(model: SamPath, image: np.ndarray) -> None:
    found = model.predict(image, mode="vanilla", point=((20, 30), (60, 50)))
    assert found.mask.max() <= 1
    assert len(found.prompts) == 2
    assert len(found.panels()) == 2
    fewer = model.predict(image, mode="vanilla", point=((20, 30), (60, 50)), drop_large=True)
    assert fewer.mask.sum() <= found.mask.sum()
    with pytest.raises(OptionError, match="needs a point"):
        model.predict(image, mode="vanilla")
    with pytest.raises(OptionError, match="add --with mode=vanilla"):
        model.predict(image, point=((1, 1),))
    with pytest.raises(OptionError, match="is not on the image"):
        model.predict(image, mode="vanilla", point=((100, 1),))


# ---- pathology encoders ----


def test_hipts_file_gives_its_patch_tokens_at_any_size(tmp_path) -> None:
    torch.manual_seed(0)
    vit = timm_network(HIPT, needed_by="the tests", num_classes=0).eval()
    path = tmp_path / "hipt.safetensors"
    save_file({f"teacher.backbone.{name}": value.clone() for name, value in vit.state_dict().items()}, path)
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        found = load_encoder(str(path), 224, needed_by="the tests")(x)
        expected = vit.forward_features(x)[:, 1:].transpose(1, 2).reshape(1, 384, 14, 14)
        torch.testing.assert_close(found, expected)
        assert load_encoder(str(path), 64, needed_by="the tests")(x[..., :64, :64]).shape == (1, 384, 4, 4)
    save_file({"cls_token": torch.zeros(1, 1, 384)}, path)
    with pytest.raises(WeightsError, match=r"lacks .* of HIPT's first stage"):
        load_encoder(str(path), 64, needed_by="the tests")


def test_positions_are_interpolated_bicubically_and_the_class_token_stays() -> None:
    table = torch.randn(1, 17, 4)
    assert positions(table, 4) is table
    found = positions(table, 8)
    torch.testing.assert_close(found[:, 0], table[:, 0])
    grid = table[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    expected = F.interpolate(grid, scale_factor=8.1 / 4, mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(found[:, 1:], expected)
