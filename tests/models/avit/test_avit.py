"""AViT: what is trained and what is frozen, weights without the transformer, losses and measures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import zoo
from tests.models.base import PluginTests
from zoo import loading
from zoo.data.phantoms.skin import skin_lesion
from zoo.errors import OptionError, WeightsError
from zoo.metrics.pixels import by_several
from zoo.models.avit import model as models
from zoo.models.avit import training as trainings
from zoo.models.avit.model import TINY, Avit, AvitConfig, bare, cut, shape_of
from zoo.models.avit.network import Adapter, DilatedConv2d, Shape
from zoo.models.avit.released import PAPER, convert
from zoo.models.avit.training import FIVE, AvitRecipe, Items, assembled, augmented, dice_loss, fit
from zoo.nn.backbones import timm_network
from zoo.training import Run
from zoo.weights import save

TINY_RECIPE = AvitRecipe(
    backbone=TINY, tiny=Shape((2,), 16, 2, 8), size=32, pretext_steps=4, pretext_batch=4, prompt_width=8,
    prompt_blocks=1, channels=8, head=8, lr=1e-3, batch_size=4, epochs=3,
)  # fmt: skip
VIT_B, SWIN_B = "vit_base_patch16_224.augreg_in21k", "swin_base_patch4_window7_224.ms_in22k"


class TestAvit(PluginTests):
    name = "avit"
    recipe = TINY_RECIPE
    data = "phantom:skin-lesion?n=12&size=32"
    evaluated_on = "phantom:skin-lesion?n=4&seed=900&size=64"
    facts: ClassVar = {
        "Dice of each image, 40 other phantoms": "dice",
        "IoU of each image, 40 other phantoms": "iou",
    }
    facts_on = ("phantom:skin-lesion?n=40&seed=50000", "all")


# ---- sizes -----------------------------------------------------------------------------------------------------------


def counted(backbone: str, method: str, commit: str = "") -> tuple[int, int, int]:
    """All parameters, trained ones and stored values; on the meta device, so nothing is allocated."""
    with torch.device("meta"):
        vit = cut(timm_network(backbone, needed_by="a test", num_classes=0, img_size=224))
        config = AvitConfig(backbone, commit, method=method, shape=shape_of(vit, backbone), **PAPER)  # type: ignore[arg-type]
        model = Avit(config)
        if not config.whole:
            model.attach(vit)
    every = {id(one): one for one in [*model.parameters(), *model.transformer.parameters()]}
    trained = [one for one in every.values() if one.requires_grad]
    sizes = [sum(one.numel() for one in some) for some in (every.values(), trained, model.state_dict().values())]
    return sizes[0], sizes[1], sizes[2]


def test_on_vit_b_it_has_the_parameters_of_the_released_layout() -> None:
    everything, trained, stored = counted(VIT_B, "avit", "commit")
    assert (everything, trained) == (99_385_089, 13_624_833)
    assert 4 * stored < 60e6  # bytes of the weights without the transformer
    assert counted(VIT_B, "avit")[:2] == (everything, trained)


@pytest.mark.parametrize(
    ("backbone", "method", "everything", "trained"),  # Tables 1 and 2, millions
    [
        (VIT_B, "base", 91.8, 91.8),
        (VIT_B, "base-frozen", 91.8, 6.0),
        (VIT_B, "no-prompt", 98.9, 13.2),
        (VIT_B, "no-adapter", 92.3, 6.5),
        (VIT_B, "vpt", 92.8, 7.0),
        (VIT_B, "adaptformer", 93.0, 7.2),
        pytest.param("deit_base_patch16_224.fb_in1k", "avit", 99.4, 13.6, marks=pytest.mark.slow),
        pytest.param("vit_large_patch16_224.augreg_in21k", "avit", 336.9, 33.7, marks=pytest.mark.slow),
        (SWIN_B, "base", 63.8, 63.8),
        (SWIN_B, "avit", 68.9, 9.5),
        pytest.param("swin_large_patch4_window7_224.ms_in22k", "avit", 151.1, 17.6, marks=pytest.mark.slow),
    ],
)
def test_other_arms_and_backbones_have_the_papers_sizes(backbone, method, everything, trained) -> None:
    found = counted(backbone, method, "" if method == "base" else "commit")
    assert found[0] / 1e6 == pytest.approx(everything, abs=0.06)
    assert found[1] / 1e6 == pytest.approx(trained, abs=0.06)


# ---- the frozen transformer ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(0)
    made = bare(TINY, TINY_RECIPE.tiny, 32)
    with torch.no_grad():
        for one in made.parameters():
            one.add_(0.1 * torch.randn_like(one))
    return made


def start(vit: nn.Module, **changes: object) -> Avit:
    with Run(device="cpu", progress=False) as run:
        return assembled(replace(TINY_RECIPE, **changes), vit, run)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["avit", "no-prompt", "adaptformer", "base"])
def test_at_the_start_v_is_what_the_plain_transformer_gives_without_its_last_norm(vit, method) -> None:
    model, x = start(vit, method=method).eval(), torch.randn(2, 3, 32, 32)
    plain = vit.blocks(vit._pos_embed(vit.patch_embed(x)))[:, 1:].transpose(1, 2).reshape(2, 16, 4, 4)
    torch.testing.assert_close(model.encode(x), plain, atol=1e-5, rtol=1e-5)
    literal = start(vit, method="avit", skip=False).eval()
    assert (literal.encode(x) - plain).abs().max() > 0.1  # the formula as printed starts somewhere else


def test_a_swin_is_adapted_after_window_attention_and_mlp_up_to_stage_3() -> None:
    torch.manual_seed(0)
    swin = cut(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, img_size=56, embed_dim=16,
                                 depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8))).eval()  # fmt: skip
    shape = shape_of(swin, "a Swin")
    assert (shape.depths, shape.width) == ((1, 1, 2), 16)
    model = Avit(AvitConfig("swin_tiny_patch4_window7_224", "c", shape=shape, size=56)).eval()
    model.attach(swin, start=True)
    x = torch.randn(1, 3, 56, 56)
    plain = swin.layers(swin.patch_embed(x)).permute(0, 3, 1, 2)
    torch.testing.assert_close(model.encode(x), plain)
    assert model(x).shape == (1, 1, 56, 56)
    model.encoder.layers[3].adapter2.up.bias.data.fill_(1.0)
    torch.testing.assert_close(model.encode(x), plain + 1)


def test_vpt_gives_every_layer_tokens_of_its_own_and_drops_them(vit) -> None:
    model = start(vit, method="vpt", tokens=3).eval()
    x, seen = torch.randn(1, 3, 32, 32), []
    for block in model.transformer.blocks:
        block.norm1.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    assert model.encode(x).shape == (1, 16, 4, 4)
    assert seen == [1 + 3 + 16] * 2
    with pytest.raises(ValueError, match="a Swin doesn't have"):
        AvitConfig(method="vpt", shape=Shape((1, 1), 16, 2, 4))


def test_training_moves_adapters_norms_prompt_and_decoder_and_nothing_else(vit) -> None:
    for method in ("avit", "base-frozen", "base"):
        model = start(vit, method=method)
        before = {name: one.clone() for name, one in model.state_dict().items()}
        items = Items(np.full((4, 32, 32, 3), 90, np.uint8), np.eye(32, dtype=np.uint8)[None].repeat(4, 0))
        with Run(device="cpu", progress=False) as run:
            fit(replace(TINY_RECIPE, method=method, epochs=2), model, items, None, run)
        moved = {name for name, one in model.state_dict().items() if not torch.equal(one, before[name])}
        inside = {name for name in moved if name.startswith("vit.")}
        norms = {f"vit.blocks.{i}.norm{k}.{part}" for i in (0, 1) for k in (1, 2) for part in ("weight", "bias")}
        assert (inside == norms) if method == "avit" else (len(inside) > 20 if method == "base" else not inside)
        frozen = [p for name, p in model.named_parameters() if name.startswith("vit.") and not p.requires_grad]
        assert all(p.grad is None for p in frozen)
        assert any(name.startswith("decoder.") for name in moved)


# ---- weights without the transformer ---------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch) -> Path:
    """A small ViT of timm's as a snapshot of the Hub would be; ``zoo.hub`` hands it out."""
    torch.manual_seed(1)
    folder = tmp_path / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    state = timm.create_model("test_vit", num_classes=1000).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    asked: list[str | None] = []
    monkeypatch.setattr(models, "fetch_backbone", lambda repo, **how: asked.append(how["revision"]) or folder)
    monkeypatch.setattr(trainings, "timm_network", lambda *_, **__: timm_network("resnet34", needed_by="a test"))
    monkeypatch.setattr(folder.__class__, "asked", asked, raising=False)
    return folder


def test_weights_hold_what_was_trained_and_name_the_transformer_by_its_commit(hub, tmp_path) -> None:
    recipe = replace(TINY_RECIPE, backbone="test_vit.r160_in1k", size=160, prompt_width=64, prompt_blocks=3)
    with Run(device="cpu", progress=False) as run:
        model = trainings.build(recipe, run).eval()
    assert model.config.commit == "a" * 40
    assert not [name for name in model.state_dict() if name.startswith("vit.")]
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.02 * torch.randn_like(one))
    folder = save(model, tmp_path / "delta", trained_on="phantom:skin-lesion")
    x = torch.randn(1, 3, 160, 160)
    again = loading.load_into(Avit, str(folder))
    assert again._public == []  # nothing was fetched to load it
    torch.testing.assert_close(again(x), model(x), atol=1e-6, rtol=1e-6)
    assert hub.asked[-1] == "a" * 40  # type: ignore[attr-defined]
    pushed = zoo.push(str(folder), "org/avit-delta", dry_run=True)
    assert pushed.files["model.safetensors"] < 0.8 * (hub / "model.safetensors").stat().st_size + 2e6
    record = json.loads((folder / "config.json").read_text())["config"]
    assert (record["backbone"], record["commit"]) == ("test_vit.r160_in1k", "a" * 40)

    other = {name: one + 1 for name, one in timm.create_model("test_vit", num_classes=1000).state_dict().items()}
    save_file(other, hub / "model.safetensors")
    with pytest.raises(WeightsError, match="is not what these weights of avit were trained on"):
        loading.load_into(Avit, str(folder))(x)


def test_other_backbones_are_refused_in_a_sentence() -> None:
    with pytest.raises(OptionError, match="adapts timm's plain ViTs and Swins, and resnet18 is neither"):
        models.shape_of(timm_network("resnet18", needed_by="a test"), "resnet18")
    with pytest.raises(WeightsError, match="has no public weights in timm"):
        models.public("vit_base_patch16_224.nonsense", 224)
    with pytest.raises(OptionError, match="patches of 8 px must fill 100 px"):
        Avit(AvitConfig(size=100))


def test_the_authors_tensors_become_a_model_by_their_names(monkeypatch) -> None:
    monkeypatch.setattr("zoo.models.avit.released.BACKBONES", {32: ("vit_base_patch16_224", 2)})
    monkeypatch.setattr(models, "bare", lambda name, shape, size: bare(TINY, shape, size))
    model = Avit(AvitConfig(shape=Shape((2,), 32, 2, 16), **PAPER))  # type: ignore[arg-type]
    theirs = {}
    for name, one in model.state_dict().items():
        name = name.replace("decoder.aspp", "aspp").replace("decoder.head", "final_conv").replace("vit.", "encoder.")
        name = name.replace("prompt.", "prompt_encoder.").replace("encoder.layers", "encoder.blocks")
        for part in ("down", "up"):
            name = name.replace(f".{part}.", f".0.D_fc{1 if part == 'down' else 2}.")
        theirs[name] = torch.randn(one.shape) if one.is_floating_point() else one
    made = convert(theirs)
    assert torch.equal(made.encoder.layers[1].adapter2.up.weight, theirs["encoder.blocks.1.adapter2.0.D_fc2.weight"])
    assert made.config.first == 512
    with pytest.raises(WeightsError, match="no tensors of an AViT"):
        convert({"a": torch.zeros(1)})
    del theirs["aspp.project.0.weight"]
    with pytest.raises(WeightsError, match=r"decoder\.aspp\.project\.0\.weight is missing"):
        convert(theirs)


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_an_adapter_is_a_bottleneck_with_a_skip_of_its_own_that_starts_silent() -> None:
    adapter, u = Adapter(8, 4, skip=True), torch.randn(3, 8)
    assert torch.equal(adapter(u), u)
    adapter.up.weight.data.normal_()
    change = nn.functional.gelu(u @ adapter.down.weight.T) @ adapter.up.weight.T
    torch.testing.assert_close(adapter(u), u + change)


def test_taps_that_see_padding_alone_are_left_out() -> None:
    conv, x = DilatedConv2d(4, 5, 3, padding=18, dilation=18, bias=False), torch.randn(2, 4, 14, 14)
    whole = nn.functional.conv2d(x, conv.weight, padding=18, dilation=18)
    torch.testing.assert_close(conv(x), whole)
    far = torch.randn(2, 4, 20, 20)
    torch.testing.assert_close(conv(far), nn.functional.conv2d(far, conv.weight, padding=18, dilation=18))


def test_dice_is_of_the_whole_batch_with_squares() -> None:
    y = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(2, 1, 2, 1)
    assert float(dice_loss(torch.zeros(2, 1, 2, 1), y)) == pytest.approx(1 - 2 / (4 * 0.25 + 2), abs=1e-4)
    assert float(dice_loss(40 * (2 * y - 1), y)) == pytest.approx(0, abs=1e-6)


def test_measures_of_five_images_together_are_not_those_of_each() -> None:
    whole, missed = np.array([[50, 0], [0, 50]]), np.array([[90, 0], [10, 0]])
    tables = [whole, missed, whole, whole, whole, missed]
    assert by_several(tables, 1) == pytest.approx({"dice": 4 / 6, "iou": 4 / 6})
    pooled = 2 * 200 / (200 + 210)
    assert by_several(tables, FIVE)["dice"] == pytest.approx((5 * pooled + 0) / 6)
    assert by_several(tables, FIVE)["iou"] == pytest.approx((5 * 200 / 210 + 0) / 6)
    assert by_several([np.array([[9, 0], [0, 0]])], FIVE) == {"dice": 1.0, "iou": 1.0}


def test_image_and_mask_are_moved_alike_and_the_mask_stays_one() -> None:
    y = torch.zeros(16, 1, 32, 32)
    y[:, :, 8:20, 10:26] = 1
    x, z = augmented(y.repeat(1, 3, 1, 1), y, np.random.default_rng(0), replace(AvitRecipe().augment, noise=(0, 0),
                                                                                light=0.0))  # fmt: skip
    assert set(z.unique().tolist()) == {0.0, 1.0}
    assert ((x[:, :1] > 0.5).float() - z).abs().mean() == 0
    assert len({float(one.sum()) for one in z}) > 4  # scaled
    assert not torch.equal(z, y)


# ---- predict ---------------------------------------------------------------------------------------------------------


def test_results_have_the_size_of_the_photograph_and_are_compared_with_a_truth(demo) -> None:
    case = skin_lesion(41, size=128)
    image, truth = np.asarray(case.image)[:101, :77], np.asarray(case.masks["mask"])[:101, :77]
    found = demo("avit").predict(image, gt=truth)
    assert found.mask.shape == found.probability.shape == (101, 77)
    assert found.measurements["Dice"] > 0.6
    told = found.to_dict()
    x0, y0, x1, y1 = told["bounding_box"]
    assert found.mask[y0:y1, x0:x1].sum() == found.mask.sum() == told["area_px"]
    assert [entry.name for entry in found.legend()][1:] == ["ground truth"]
    with pytest.raises(OptionError, match="gt is 101 x 70 px"):
        demo("avit").predict(image, gt=truth[:, :70])
    nothing = demo("avit").predict(image, threshold=1.0)
    assert "no lesion was found" in nothing.notes
    assert nothing.box is None


def test_evaluation_names_measures_of_each_image_and_of_all_pixels(demo) -> None:
    result = zoo.evaluate(demo("avit"), "phantom:skin-lesion?n=6&seed=5000&size=64", split="all", progress=False)
    names = {metric.name for metric in result.metrics}
    assert {"dice", "iou", "dice_at_network_size", "iou_at_network_size", "pooled_dice_lesion"} <= names
    assert result["dice_by_5"].mean == pytest.approx(result["dice_at_network_size"].mean, abs=0.1)
    assert result["iou_by_5"].mean < result["dice_by_5"].mean
    low, mean, high = (getattr(result["dice_by_5"], name) for name in ("low", "mean", "high"))
    assert low <= mean <= high
