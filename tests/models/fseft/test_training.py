"""Pretraining with partial labels, the weights, and predictions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.models.base import PluginTests, Trained
from zoo import media
from zoo.convert import convert
from zoo.data.case import Case
from zoo.data.layouts.totalsegmentator import ORGANS
from zoo.data.scans import View
from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData
from zoo.errors import DataError, OptionError
from zoo.loading import load_into
from zoo.models.fseft.adaptation import RELEASED, Adaptation
from zoo.models.fseft.model import Fseft
from zoo.models.fseft.network import RELEASED_CLASSES
from zoo.models.fseft.training import FseftRecipe, build, score, support_of, train, training
from zoo.nn.volumetric import UnetBackbone
from zoo.training.run import Run

SMALL = "phantom:abdominal-ct?size=32&slices=16&seed=9"
SUPPORT = "phantom:abdominal-ct?n=2&size=32&slices=16&seed=5"
TINY = FseftRecipe(
    backbone="unet", channels=(4, 6), patch=(16, 16, 16), view=View((12.0, 12.0, 12.0)), classes=("liver", "spleen"),
    organs=("liver",), shots=2, epochs=2, warmup=0, lr=3e-3, patches=1, adaptation=Adaptation(epochs=3, patches=1),
)  # fmt: skip


class TestFseft(PluginTests):
    name = "fseft"
    recipe = TINY
    data = "phantom:abdominal-ct?n=6&size=32&slices=16"
    evaluated_on = "phantom:abdominal-ct?n=2&size=48&slices=32&seed=77000"
    facts: ClassVar = {"Dice of the liver by its adapter, 6 other phantoms": "dice"}
    facts_on = ("phantom:abdominal-ct?n=6&size=48&slices=32&seed=20000", "all")

    def test_the_weights_hold_a_foundation_and_an_adapter_with_its_facts(self, trained: Trained) -> None:
        model = trained.model
        assert model.organs == ["liver", "spleen"]
        (facts,) = model.config.adapters
        assert (facts.organ, facts.method, facts.block, facts.shots) == ("liver", "adapter", "residual3", 2)
        assert facts.prior_ml > 100
        plain, adapted = (model.predict(SMALL, method=method) for method in ("generalization", None))
        assert plain.prior_ml is None
        assert adapted.prior_ml == pytest.approx((0.85 * facts.prior_ml, facts.prior_ml, 1.15 * facts.prior_ml))
        assert not np.array_equal(plain.probability, adapted.probability)

    def test_a_support_adapts_on_the_spot_and_what_it_made_can_be_used_again(
        self, trained: Trained, tmp_path: Path
    ) -> None:
        assert isinstance(trained.model, Fseft)
        found = trained.model.predict(SMALL, support=SUPPORT, organ="spleen", epochs=4)
        assert sorted(found.trace[0]) == ["constrained", "loss", "size_ml"]
        assert len(found.trace) == 4
        written = {path.name: path for path in found.save(tmp_path, "r")}
        assert set(written) == {"r.png", "r.json", "r_mask.nii.gz", "r_adapter.safetensors"}
        assert written["r_adapter.safetensors"].stat().st_size < 1_000_000
        record = json.loads(written["r.json"].read_text())
        assert record["adapter"] == "r_adapter.safetensors"
        assert record["prior_ml"][1] == pytest.approx(found.prior_ml[1], abs=1e-3)
        again = trained.model.predict(SMALL, adapter=tmp_path / "r_adapter.safetensors")
        np.testing.assert_array_equal(again.probability, found.probability)
        assert again.options["method"] == "adapter-ti"
        assert len(found.panels()) == 5
        other = build(TINY, ("liver",))
        with pytest.raises(OptionError, match="trained on another foundation"):
            other.predict(SMALL, adapter=tmp_path / "r_adapter.safetensors")

    def test_outputs_keep_grid_and_name_and_volumes_are_in_ml(self, trained: Trained, tmp_path: Path) -> None:
        case = load_dataset(SMALL)[0]
        path = tmp_path / "patient 7.nii.gz"
        nibabel.save(nibabel.Nifti1Image(case.image.array.transpose(2, 1, 0), case.image.affine), path)
        found = trained.model.predict(path)
        assert found.mask.dtype == np.uint8
        assert found.mask.shape == found.probability.shape == case.image.array.shape
        found.save(tmp_path / "out")
        stored = nibabel.load(tmp_path / "out" / "patient 7_mask.nii.gz")
        np.testing.assert_allclose(stored.affine, nibabel.load(path).affine)
        assert stored.get_data_dtype() == np.uint8
        assert found.volume_ml == pytest.approx(found.mask.sum() * np.prod(case.image.spacing) / 1000, rel=1e-6)


# ---- what is refused, and what is noted ----


@pytest.fixture(scope="module")
def model() -> Fseft:
    torch.manual_seed(0)
    return build(TINY, ("liver", "spleen")).eval()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"organ": "brain"}, "have nothing for 'brain': they know liver and spleen"),
        ({"method": "ft"}, r"have no ft of liver, .*add --with support=FOLDER"),
        ({"support": [], "organ": "liver"}, "the support of fseft is empty"),
        ({"support": SUPPORT, "organ": "liver", "adapter": __file__}, "leave one out"),
        ({"adapter": __file__}, "is no adapter that fseft saved"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(model: Fseft, given: dict, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        model.predict(SMALL, **given)


def test_a_support_without_the_organ_is_refused(model: Fseft) -> None:
    with pytest.raises(OptionError, match="the mask of support 1 in the support has no liver in it"):
        model.predict(SMALL, support=[(load_dataset(SMALL)[0].image, np.zeros((16, 32, 32), np.uint8))], organ="liver")
    with pytest.raises(DataError, match="no mask of 'brain'"):
        model.predict(SMALL, support=SUPPORT, organ="brain")


def test_a_binary_support_needs_no_name_and_a_prior_can_be_given(model: Fseft) -> None:
    case = load_dataset(SMALL)[0]
    pairs = [(case.image, np.isin(case.masks["all"], (3, 4)).astype(np.uint8))]
    found = model.predict(case.image, support=pairs, epochs=2, prior_size_ml=500, gamma=0.2, recipe="released")
    assert found.organ == "organ"
    assert found.prior_ml == pytest.approx((400, 500, 600))
    assert found.to_dict()["labels"] == ["background", "organ"]


def test_what_only_a_training_uses_is_said_to_have_had_no_effect(model: Fseft) -> None:
    notes = model.predict(SMALL, epochs=3, lam=2.0).notes
    assert "nothing was trained without a support, so epochs and lam had no effect" in notes
    assert model.predict(SMALL, prior_size_ml=1000, gamma=0.5).prior_ml == pytest.approx((500, 1000, 1500))


def test_a_cut_organ_none_and_values_that_are_no_hounsfield_units_are_noted(
    model: Fseft, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.models.fseft import model as module

    monkeypatch.setattr(module, "probabilities", lambda network, scan, *_, **__: torch.ones(scan.x.shape[1:]).half())
    assert any("may be cut off" in note for note in model.predict(SMALL).notes)
    monkeypatch.setattr(module, "probabilities", lambda network, scan, *_, **__: torch.zeros(scan.x.shape[1:]).half())
    assert "no liver was found" in model.predict(SMALL).notes
    above = np.random.default_rng(0).normal(0, 300, (16, 20, 20)).clip(0).astype(np.float32)
    found = model.predict(media.Image(above, spacing=(9.0, 9.0, 9.0), ndim_spatial=3))
    assert any("may be no Hounsfield units" in note for note in found.notes)


# ---- training ----


def test_the_released_recipe_is_another_adapter_loss_and_constraint() -> None:
    paper, released = (training.configure("paper", {"recipe": name}) for name in ("paper", "released"))
    assert (paper.epochs, paper.lr, paper.batch_size, paper.patches, paper.patch) == (120, 1e-4, 2, 3, (96, 96, 96))
    assert (paper.adaptation.epochs, paper.adaptation.patches, paper.adaptation.lam) == (100, 6, 1.0)
    assert (released.adaptation.block, released.adaptation.loss) == ("resblock", "dice")
    assert (released.adaptation.lam, released.adaptation.gamma) == (0.1, 0.3)
    assert torch.tensor(released.adaptation.threshold).logit() == pytest.approx(0.5, abs=1e-3)
    assert released.adaptation == Adaptation(**RELEASED)


def test_the_authors_weights_are_converted_and_serve_as_foundation(tmp_path: Path) -> None:
    from monai.networks.nets import SwinUNETR

    torch.manual_seed(0)
    net = SwinUNETR(in_channels=1, out_channels=29, feature_size=12).eval()
    names = {f"module.{k.replace('out.conv.conv', 'classifier')}": v for k, v in net.state_dict().items()}
    save_file(names, tmp_path / "foundation.safetensors")
    with pytest.raises(OptionError, match="--accept-licence"):
        convert("fseft", tmp_path / "foundation.safetensors", tmp_path / "foundation")
    convert("fseft", tmp_path / "foundation.safetensors", tmp_path / "foundation", accept_licence=True)
    model = build(replace(TINY, foundation=str(tmp_path / "foundation")), ("ignored",)).eval()
    assert model.config.classes == RELEASED_CLASSES
    assert (model.config.patch, model.config.adaptation) == ((96, 96, 96), TINY.adaptation)
    x = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), net(x), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_the_sets_of_the_paper_train_as_they_are_unpacked(reading: str, zoo_cli: Any, tmp_path: Path) -> None:
    """TotalSegmentator for adapters on a foundation that BTCV taught; the paper's preset, in a small network."""
    rows = ["image_id;institute;study_type;split"]
    for number in range(3):
        case = load_dataset(f"phantom:abdominal-ct?n=1&size=32&slices=16&seed={number}")[0]
        name, masks = f"s{number:04}", case.masks["all"]
        rows.append(f"{name};A;ct thorax-abdomen-pelvis;train")
        stored = {"spleen": (7,), "liver": (3, 4), "kidney_left": (1, 2), "pancreas": (5, 6), "aorta": (9,)}
        for organ in ORGANS:
            inside = np.isin(masks, stored.get(organ, ())).astype(np.uint8)
            write(tmp_path / "ts" / name / "segmentations" / f"{organ}.nii.gz", inside, case.image.affine)
        write(tmp_path / "ts" / name / "ct.nii.gz", case.image.array, case.image.affine)
        write(tmp_path / "btcv/Training/img" / f"img{number:04}.nii.gz", case.image.array, case.image.affine)
        labels = (masks == 7) + 6 * np.isin(masks, (3, 4)).astype(np.uint8)
        write(tmp_path / "btcv/Training/label" / f"label{number:04}.nii.gz", labels, case.image.affine)
    (tmp_path / "ts" / "meta.csv").write_text("\n".join(rows) + "\n")
    small = ["recipe=" + reading, "epochs=1", "warmup=0", "backbone=unet", "channels=4,6", "patch=16,16,16",
             "view.spacing=12,12,12", "adaptation.epochs=1", "adaptation.patches=1", "shots=2"]  # fmt: skip
    given = [word for one in small for word in ("--set", one)]
    first = zoo_cli("train", "fseft", "--data", f"btcv:{tmp_path / 'btcv'}", *given, "--out", tmp_path / "foundation")
    assert first.code == 0, first.err
    more = ["--set", f"foundation={tmp_path / 'foundation'}", "--set", "organs=spleen", "--set", "method=linear-probe"]
    data = f"totalsegmentator-tap:{tmp_path / 'ts'}"
    second = zoo_cli("train", "fseft", "--data", data, *given, *more, "--out", tmp_path / "spleen")
    assert second.code == 0, second.err
    model = load_into(Fseft, str(tmp_path / "spleen"))
    assert [one.organ for one in model.config.adapters] == ["spleen"]
    assert len(model.config.classes) == 13
    options = ["--with", "organ=spleen", "--split", "all", "--allow-seen"]
    found = zoo_cli("evaluate", "fseft", "--data", data, "--weights", tmp_path / "spleen", *options)
    assert found.code == 0, found.err


def write(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), affine), path)


def test_scratch_is_the_network_without_a_foundation_and_ft_leaves_one_organ() -> None:
    data = load_dataset("phantom:abdominal-ct?n=2&size=32&slices=16")
    recipe = replace(TINY, foundation="none", method="ft", adaptation=replace(TINY.adaptation, epochs=1))
    with Run(device="cpu", progress=False) as one:
        model = train(recipe, TrainData(data, data[:0], data[:0]), one)
    assert model.organs == ["liver"]
    assert isinstance(model.backbone, UnetBackbone)
    for method, sentence in (("adapter-ti", "needs the volume to predict on"), ("generalization", "trains nothing")):
        with pytest.raises(OptionError, match=sentence), Run(device="cpu", progress=False) as one:
            train(replace(TINY, method=method), TrainData(data, data[:0], data[:0]), one)


def test_supports_are_whole_where_there_are_whole_ones() -> None:
    cases = list(load_dataset("phantom:abdominal-ct?n=4&size=32&slices=16"))
    assert len(support_of(cases, "spleen", 3, TINY.view, np.random.default_rng(0))) == 3
    aorta = support_of(cases, "aorta", 3, TINY.view, np.random.default_rng(0))  # runs through every phantom
    assert len(aorta) == 3
    with pytest.raises(DataError, match="no case to train on has a mask with any brain"):
        support_of(cases, "brain", 3, TINY.view, np.random.default_rng(0))


def test_the_score_is_the_dice_of_one_organ_and_nothing_where_nobody_looked(model: Fseft) -> None:
    case = load_dataset(SMALL)[0]
    (row,) = score(model, case, {"organ": "spleen"})
    assert 0 <= row["dice"] <= 1
    other = Case(case.image, "x", masks={"aorta": case.masks["all"]})
    assert score(model, other, {"organ": "spleen"}) == []
