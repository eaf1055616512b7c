"""The network and its explanations: what is similar to what, and that the pictures say so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from zoo.data.images import normalise, to_tensor
from zoo.errors import OptionError
from zoo.models.local_global_prototypes.model import (
    TIMM_BACKBONES,
    LocalGlobalConfig,
    LocalGlobalPrototypes,
    build_backbone,
)
from zoo.models.local_global_prototypes.prototypes import PrototypeBranch
from zoo.models.local_global_prototypes.result import Seen, look_alikes


def views(model: LocalGlobalPrototypes, n: int = 3) -> torch.Tensor:
    size = model.config.image_size
    noise = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    return normalise(to_tensor(noise))


# ---- the network --------------------------------------------------------------------------------------------------


def test_the_global_branch_compares_the_mean_of_all_cells():
    branch = PrototypeBranch(5, 4, classes=2, prototypes=3, pooled=True)
    features = torch.randn(2, 5, 3, 3)
    evidence = branch(features)
    embedding = branch.embed(features.mean((2, 3)))
    expected = cosine_similarity(embedding[:, None], branch.prototypes.flatten(0, 1)[None], dim=-1)
    assert torch.allclose(evidence.similarity.flatten(1), expected, atol=1e-6)
    assert evidence.cells.shape == (2, 1, 4)


def test_the_local_branch_takes_each_prototypes_best_cell():
    branch = PrototypeBranch(5, 4, classes=2, prototypes=3, pooled=False)
    features = torch.randn(2, 5, 3, 4)
    evidence = branch(features)
    cells = branch.embed(features.flatten(2).transpose(1, 2))
    table = cosine_similarity(cells[:, :, None], branch.prototypes.flatten(0, 1)[None, None], dim=-1)
    value, winner = table.max(1)
    assert torch.allclose(evidence.similarity.flatten(1), value, atol=1e-6)
    assert torch.equal(evidence.winner.flatten(1), winner)


@torch.no_grad()
def test_an_untuned_head_gives_softmax_of_the_mean_similarities(trained):
    model = LocalGlobalPrototypes(replace(trained.config, gallery=LocalGlobalConfig().gallery)).eval()
    evidence = model(views(model))
    means = {name: seen.similarity.mean(-1) for name, seen in evidence.items()}
    assert torch.allclose(model.logits(evidence, "joint"), means["global"] + means["local"], atol=1e-6)
    for name in ("global", "local"):
        assert torch.allclose(model.logits(evidence, name), means[name], atol=1e-6)
        assert torch.allclose(model.probabilities(evidence, name), means[name].softmax(1), atol=1e-6)
    average = (means["global"].softmax(1) + means["local"].softmax(1)) / 2
    assert torch.allclose(model.probabilities(evidence, "joint"), average, atol=1e-6)


@torch.no_grad()
def test_untuned_probabilities_are_bounded(trained):
    model = LocalGlobalPrototypes(replace(trained.config, gallery=LocalGlobalConfig().gallery)).eval()
    bound = np.e / (np.e + 7 / np.e)
    assert bound == pytest.approx(0.51, abs=0.01)
    assert model.probabilities(model(views(model, 8))).max() < bound


@torch.no_grad()
def test_the_temperature_sharpens_stage_1(trained):
    config = replace(trained.config, gallery=LocalGlobalConfig().gallery, tau=0.1)
    model = LocalGlobalPrototypes(config).eval()
    evidence = model(views(model))
    expected = 10 * sum(seen.similarity.mean(-1) for seen in evidence.values())
    assert torch.allclose(model.logits(evidence, "joint"), expected, atol=1e-5)


@torch.no_grad()
def test_a_pruned_prototype_changes_nothing(trained):
    x = views(trained)
    mask = trained.heads["joint_pruned"].mask.view(2, 8, 3)
    assert 0 < mask.sum() < mask.numel()
    before = trained.probabilities(trained(x), "joint", pruned=True)
    saved = {name: branch.prototypes.clone() for name, branch in trained.branches.items()}
    for place, name in enumerate(trained.config.branches):
        dead = mask[place] == 0
        trained.branches[name].prototypes[dead] += torch.randn(int(dead.sum()), trained.config.embedding_width)
    after = trained.probabilities(trained(x), "joint", pruned=True)
    for name, prototypes in saved.items():
        trained.branches[name].prototypes.copy_(prototypes)
    assert torch.equal(before, after)


@torch.no_grad()
def test_one_branch_decides_alone(trained):
    x = views(trained)
    before = trained.probabilities(trained(x), "global")
    saved = trained.branches["local"].prototypes.clone()
    trained.branches["local"].prototypes.normal_()
    assert torch.equal(trained.probabilities(trained(x), "global"), before)
    trained.branches["local"].prototypes.copy_(saved)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM_BACKBONES)
@torch.no_grad()
def test_backbones_have_the_channels_that_the_branches_expect(name: str):
    pytest.importorskip("timm")
    config = LocalGlobalConfig(backbone=name, image_size=64)
    with torch.device("meta"):
        features = build_backbone(config)(torch.zeros(1, 3, 64, 64))
        model = LocalGlobalPrototypes(config)
    assert features.shape == (1, config.channels, 2, 2)
    assert model.prototype_count == 160
    assert config.embedding_width == (128 if config.channels == 512 else 256)


def test_the_default_is_the_papers():
    config = LocalGlobalConfig()
    assert (config.backbone, config.prototypes, config.tau, config.image_size) == ("densenet169", 10, 1.0, 224)


# ---- prediction ---------------------------------------------------------------------------------------------------


def test_a_prediction_explains_itself(trained, lesion):
    prediction = trained.predict(lesion.image, top_k=4)
    assert tuple(prediction.probabilities) == trained.config.labels
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert len(prediction.contributions) == 48
    for row in prediction.contributions:
        assert row.contribution == pytest.approx(row.weight * row.similarity, abs=1e-4)
    values = [row.contribution for row in prediction.contributions]
    assert values == sorted(values, reverse=True)
    with torch.no_grad():
        evidence = trained(normalise(to_tensor([trained.prepared(lesion.image).view])))
        assert sum(values) == pytest.approx(float(trained.logits(evidence).max()), abs=1e-3)  # the predicted class's
    json.dumps(prediction.to_dict(), allow_nan=False)


def test_look_alikes_belong_to_the_closest_prototype_of_the_predicted_class(trained, images, lesion):
    prediction = trained.predict(lesion.image, top_k=50)
    _, label, k = prediction.prototype.split("/")
    assert label == prediction.label
    prototypes = trained.branches["global"].prototypes[list(trained.config.labels).index(label)]
    assert prediction.look_alikes
    for case in prediction.look_alikes:
        assert case.label == label
        place = trained.config.gallery.ids.index(case.id)
        embedding = trained.gallery.embeddings[place]
        assert int(cosine_similarity(embedding[None], prototypes).argmax()) == int(k)
    similarities = [case.similarity for case in prediction.look_alikes]
    assert similarities == sorted(similarities, reverse=True)


@pytest.mark.wrong_types
def test_where_no_other_image_is_of_the_cluster_the_nearest_of_all_stand_with_their_class(trained, lesion, monkeypatch):
    headings: list[str] = []
    found = trained.predict(lesion.image, top_k=3)
    found.look_alikes = tuple(replace(case, attached=False) for case in found.look_alikes)

    def rows(parts, **options):
        headings.extend(heading for heading, panels in parts if panels)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("zoo.figure.rows", rows)
    found.figure()
    assert "so these are the nearest of all" in headings[0]
    seen = Seen(
        cells=torch.ones(1, 2),
        similarity=torch.tensor([[0.5], [0.9]]),
        winner=torch.zeros(2, 1, dtype=torch.long),
        prototypes=torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]),
        alive=torch.ones(2, 1, dtype=torch.bool),
        contribution=torch.ones(2, 1),
    )
    gallery = SimpleNamespace(
        ids=("a", "b"), embeddings=torch.tensor([[0.0, 1.0], [0.1, 1.0]]), labels=torch.tensor([1, 1]),
        digests=torch.tensor([5, 6]), thumbnail=lambda i: None,
    )  # fmt: skip
    _, cases, _ = look_alikes(seen, 0, 0, gallery, ("NV", "MEL"), 5)  # of NV's prototype there is no image
    assert [(case.id, case.label, case.attached) for case in cases] == [("b", "MEL", False), ("a", "MEL", False)]


def test_the_image_itself_is_never_among_its_look_alikes(trained):
    from zoo.data.dermoscopy import DIAGNOSES
    from zoo.data.phantoms.skin import skin_lesion

    seen = 0
    for i in range(16):  # all of them are in the gallery
        case = skin_lesion(i, size=64, diagnosis=DIAGNOSES[i % 8], artifacts="none")
        prediction = trained.predict(case.image, top_k=50)
        seen += len(prediction.look_alikes)
        assert case.id not in [found.id for found in prediction.look_alikes]
    assert seen


def test_regions_are_the_local_prototypes_that_speak_most(trained, lesion):
    prediction = trained.predict(lesion.image, top_k=3)
    local = [row for row in prediction.contributions if row.branch == "local" and row.similarity > 0]
    assert [region.prototype for region in prediction.regions] == [row.prototype for row in local[:3]]
    for region in prediction.regions:
        assert region.heatmap.max() == pytest.approx(region.similarity, abs=1e-5)
        row, column = np.unravel_index(region.heatmap.argmax(), region.heatmap.shape)
        left, top, right, bottom = region.box
        cell = 80 / region.heatmap.shape[0]
        assert (round(column * cell), round(row * cell)) == (left, top)
        assert 0 <= left < right <= 80
        assert 0 <= top < bottom <= 80
        assert region.source_id in trained.config.gallery.ids


def test_a_wide_image_is_seen_through_its_central_square(trained):
    image = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    prediction = trained.predict(image)
    assert (prediction.window.left, prediction.window.top, prediction.window.side) == (20, 0, 60)
    for region in prediction.regions:
        assert 20 <= region.box[0] < region.box[2] <= 80


@pytest.mark.parametrize(("branch", "cases", "regions"), [("global", True, False), ("local", False, True)])
def test_a_branch_shows_its_own_evidence_only(trained, lesion, branch: str, cases: bool, regions: bool):
    prediction = trained.predict(lesion.image, branch=branch)
    assert bool(prediction.look_alikes) == cases
    assert bool(prediction.regions) == regions
    assert {row.branch for row in prediction.contributions} == {branch}


def test_pruning_leaves_out_redundant_prototypes(trained, lesion):
    prediction = trained.predict(lesion.image, pruned=True)
    assert len(prediction.contributions) == int(trained.heads["joint_pruned"].mask.sum())


def test_an_untuned_model_says_that_its_probabilities_are_low(lesion):
    config = LocalGlobalConfig(backbone="small", small_channels=(4,), small_strides=(8,), image_size=32, prototypes=2)
    torch.manual_seed(0)
    prediction = LocalGlobalPrototypes(config).eval().predict(lesion.image)
    assert any("0.51" in note for note in prediction.notes)
    assert any("no look-alikes" in note for note in prediction.notes)
    assert prediction.figure().width > 600


def test_a_branch_that_the_weights_lack_is_refused(lesion):
    config = LocalGlobalConfig(
        backbone="small", small_channels=(4,), small_strides=(8,), image_size=32, prototypes=2, branch="global"
    )
    model = LocalGlobalPrototypes(config).eval()
    assert model.predict(lesion.image).options["branch"] == "global"
    with pytest.raises(OptionError, match="global branch only"):
        model.predict(lesion.image, branch="local")


# ---- the gallery --------------------------------------------------------------------------------------------------


def test_a_damaged_thumbnail_is_left_out(trained, lesion):
    saved = trained.gallery.jpeg.clone()
    trained.gallery.jpeg.zero_()
    prediction = trained.predict(lesion.image)
    assert all(picture is None for picture in prediction.pictures.values())
    assert prediction.figure().height > 300
    trained.gallery.jpeg.copy_(saved)


def _write_gallery(root: Path) -> Path:
    from zoo.data.phantoms.skin import skin_lesion

    for label in ("VASC", "NV", "MEL"):
        (root / label).mkdir(parents=True)
        for i in range(4):
            case = skin_lesion(500 + i, size=64, diagnosis=label)
            Image.fromarray(case.image).save(root / label / f"{label}-{i}.png")
    return root


def test_a_user_may_search_their_own_images(trained, lesion, tmp_path: Path):
    folder = _write_gallery(tmp_path / "mine")
    first = trained.predict(lesion.image, gallery=str(folder), top_k=50)
    for case in first.look_alikes:
        assert case.attached == case.id.startswith(f"{first.label}/")
    (folder / "VASC" / "text.png").write_text("no picture")
    assert trained.predict(lesion.image, gallery=folder).look_alikes == first.look_alikes[:5]


def test_images_without_labels_go_to_the_closest_prototype(trained, lesion, tmp_path: Path):
    folder = tmp_path / "flat"
    folder.mkdir()
    Image.fromarray(lesion.image).resize((70, 70)).save(folder / "same.png")
    prediction = trained.predict(lesion.image, gallery=folder)
    for case in prediction.look_alikes:
        assert case.label is None
    prediction.figure()
