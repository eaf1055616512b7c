"""The procedure: centroids as printed, whom the losses reach, pruning, heads, weights of samples, resume."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.base import PluginTests
from tests.models.local_global_prototypes.conftest import TINY
from zoo.data.images import ImageSet, normalise
from zoo.metrics import balanced_accuracy
from zoo.models.local_global_prototypes import projection
from zoo.models.local_global_prototypes import training as method
from zoo.models.local_global_prototypes.model import LocalGlobalPrototypes
from zoo.models.local_global_prototypes.prototypes import Evidence, PrototypeBranch
from zoo.models.local_global_prototypes.training import training
from zoo.nn.part_prototypes import keep_nearest
from zoo.training import Run


def branch_of(seed: int, pooled: bool, j: int, b: int = 12) -> tuple[PrototypeBranch, Evidence, torch.Tensor]:
    """A branch of 3 classes and 4 prototypes with random cells."""
    torch.manual_seed(seed)
    branch = PrototypeBranch(6, 5, classes=3, prototypes=4, pooled=pooled)
    return branch, branch(torch.randn(b, 6, j, 1)), torch.randint(3, (b,))


# ---- centroids ----------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), kind=st.sampled_from(["global", "winners", "all"]))
def test_the_batch_update_is_the_sequential_one(seed: int, kind: str):
    branch, evidence, y = branch_of(seed, kind == "global", 1 if kind == "global" else 7)
    centroids, counts = branch.centroids.clone(), branch.counts.clone()
    cells = evidence.cells.detach()
    unit = torch.nn.functional.normalize
    for i, label in enumerate(y.tolist()):  # Eq. 2, sample by sample
        table = unit(cells[i], dim=-1) @ unit(branch.prototypes[label].detach(), dim=-1).T  # [j k]
        if kind == "winners":
            samples = [(k, cells[i, table[:, k].argmax()]) for k in range(4)]
        else:
            samples = [(int(table[j].argmax()), cells[i, j]) for j in range(len(table))]
        for k, f in samples:
            counts[label, k] += 1
            n = counts[label, k]
            centroids[label, k] = (1 - 1 / n) * centroids[label, k] + f / n
    branch.absorb(*branch.assign(evidence, y, every_cell=kind == "all"))
    assert torch.allclose(branch.centroids, centroids, atol=1e-5)
    assert torch.equal(branch.counts, counts)


def test_the_cluster_loss_moves_prototypes_only(tiny):
    model = LocalGlobalPrototypes(tiny.network)
    evidence = model(torch.randn(4, 3, 48, 48))
    for branch, seen in zip(model.branches.values(), evidence.values(), strict=True):
        branch.absorb(*branch.assign(seen, torch.arange(4)))
    sum(branch.cluster_loss() for branch in model.branches.values()).backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {"branches.global.prototypes", "branches.local.prototypes"}


def test_the_cluster_loss_is_a_mean_of_distances():
    branch, _, _ = branch_of(0, True, 1)
    with torch.no_grad():
        branch.prototypes.zero_()
        branch.centroids.zero_()
        branch.centroids[0, 0] = torch.tensor([3.0, 4.0, 0.0, 0.0, 0.0])
    assert branch.cluster_loss().item() == pytest.approx(5 / 12)


def test_prototypes_that_nobody_chose_start_again(tiny, images):
    model = LocalGlobalPrototypes(tiny.network)
    branch = model.branches["global"]
    branch.used.fill_(1)
    branch.used[2, 1] = 0
    before = branch.prototypes.detach().clone()
    with Run(None, seed=0, device="cpu", progress=False) as run:
        method.start_epoch(model, tiny, images, run, 1)
    moved = (branch.prototypes.detach() != before).any(-1)
    assert moved.nonzero().tolist() == [[2, 1]]
    places = torch.nonzero(images.y == 2).flatten()
    cells = projection.cells_of(model, "global", images, torch.device("cpu"), places)
    assert (cells == branch.prototypes[2, 1]).all(-1).any()
    assert torch.equal(branch.centroids[2, 1], branch.prototypes[2, 1])


# ---- pruning ------------------------------------------------------------------------------------------------------


def test_of_prototypes_with_one_nearest_image_the_closest_stays():
    similarity = torch.tensor([[0.5, 0.9, 0.7], [0.8, 0.8, -2.0]])
    image = torch.tensor([[4, 4, 5], [6, 6, -1]])
    keep = keep_nearest(similarity, image)
    assert keep.tolist() == [[False, True, True], [True, False, True]]  # ties go to the first


@torch.no_grad()
def test_the_nearest_image_is_of_the_prototypes_class(trained, images):
    similarities, nearest = projection.survey(trained, images, torch.device("cpu"))
    assert similarities.shape == (48, 48)
    x, _ = images.batch(np.arange(48), torch.device("cpu"))
    evidence = trained(normalise(x))
    for b, name in enumerate(trained.config.branches):
        best, place, cell = (part[b] for part in nearest)
        for c in range(8):
            own = torch.nonzero(images.y == c).flatten()
            table = evidence[name].similarity[own, c]
            assert torch.allclose(best[c], table.max(0).values, atol=1e-5)
            for k in range(3):
                assert int(place[c, k]) in own.tolist()
                assert int(cell[c, k]) == int(evidence[name].winner[place[c, k], c, k])


def test_local_prototypes_of_one_image_stay_when_their_regions_differ():
    image, cell = torch.tensor([[[4, 4, -1]]]), torch.tensor([[[0, 6, 0]]])
    nearest = projection.Nearest(torch.tensor([[[0.5, 0.9, -2.0]]]), image, cell)
    assert keep_nearest(nearest.similarity[0], nearest.places(by_cell=False)[0]).tolist() == [[False, True, True]]
    assert keep_nearest(nearest.similarity[0], nearest.places()[0]).tolist() == [[True, True, True]]


# ---- the authors' code -----------------------------------------------------------------------------------------------


def test_released_reading_holds_the_values_of_the_code():
    recipe = training.configure("paper", {"recipe": "released"})
    assert (recipe.tau_training, recipe.network.tau, recipe.network.activation) == (0.07, 1.0, "sigmoid")
    assert (recipe.weighting, recipe.head_weighting, recipe.low_rho, recipe.weight_decay) == ("none", "low", 0.01, 0.01)
    assert (recipe.project_every, recipe.init, recipe.lambda_cluster) == (10, "identity", 0)
    assert (recipe.batch_size, recipe.head_batch_size) == (50, 100)
    assert (recipe.head_decay_at, recipe.stage2_epochs) == ((10, 15), 20)
    assert (recipe.head_noise, recipe.noise_stays, recipe.head_keep) == (0.01, True, "best")
    assert recipe.network.bare


@torch.no_grad()
def test_a_projection_gives_each_prototype_an_image_of_its_own(tiny, images):
    torch.manual_seed(0)
    model = LocalGlobalPrototypes(tiny.network).eval()
    for branch in model.branches.values():
        branch.prototypes.copy_(branch.prototypes[:, :1].expand_as(branch.prototypes))  # all want the same image
    projection.project(model, images, torch.device("cpu"))
    _, nearest = projection.survey(model, images, torch.device("cpu"))
    assert torch.allclose(nearest.similarity, torch.ones_like(nearest.similarity), atol=1e-4)
    for own in nearest.image.flatten(0, 1):
        assert len(own.unique()) == len(own)


@torch.no_grad()
def test_the_assignment_is_the_best_one(tiny, images):
    """Of all ways to give a class's three prototypes three of its six images, none has a larger sum of likenesses."""
    torch.manual_seed(1)
    model = LocalGlobalPrototypes(tiny.network).eval()
    table = projection.best_cells(model, images, torch.device("cpu"))[0][images.y == 2, 0, 2]  # [6 3]
    best = max(sum(table[i, k] for k, i in enumerate(chosen)) for chosen in permutations(range(6), 3))
    before = model.branch("global").prototypes[2].clone()
    projection.project(model, images, torch.device("cpu"))
    after = model.branch("global").prototypes[2]
    assert torch.cosine_similarity(before, after).sum().item() == pytest.approx(float(best), abs=1e-4)


def test_training_temperature_leaves_the_probabilities_alone(tiny, images):
    model = LocalGlobalPrototypes(tiny.network)
    evidence = model(torch.randn(2, 3, 48, 48))["local"]
    assert torch.allclose(model.stage1_logits(evidence, 0.07) * 0.07, model.stage1_logits(evidence), atol=1e-6)


def test_released_branches_have_cosines_in_0_to_1_once_projected(tiny, images):
    model = LocalGlobalPrototypes(replace(tiny.network, activation="sigmoid")).eval()
    projection.project(model, images, torch.device("cpu"))
    similarity, _ = projection.best_cells(model, images, torch.device("cpu"))
    assert similarity.min() >= 0


def test_each_heads_best_epoch_of_stage_2_is_kept(tiny, images):
    """The best of three epochs is the best of what one, two and three epochs end with."""
    few = ImageSet(images.views[::3], images.y[::3])

    def scores(epochs: int, keep: str) -> dict[str, float]:
        recipe = replace(tiny, epochs=1, stage2_epochs=epochs, head_keep=keep, lr_head=1.0)
        with Run(None, seed=0, device="cpu", progress=False) as run:
            model = method.fit(recipe, images, few, run)
        seen = projection.best_cells(model, few, run.device)[0].flatten(1)
        return {name: balanced_accuracy(head(seen).argmax(1).numpy(), few.y.numpy())
                for name, head in model.heads.items()}  # fmt: skip

    ends = [scores(epochs, "last") for epochs in (1, 2, 3)]
    assert scores(3, "best") == pytest.approx({name: max(end[name] for end in ends) for name in ends[0]})


@pytest.mark.slow
def test_one_epoch_of_the_released_reading_at_the_papers_scale(images):
    recipe = training.configure("paper", {"recipe": "released", "epochs": "1", "stage2_epochs": "1"})
    recipe = replace(recipe, pretrained=False, network=replace(recipe.network, backbone="resnet18"))
    large = ImageSet.of([np.zeros((224, 224, 3), np.uint8)] * 8, list(range(8)), empty=(3, 224, 224))
    with Run(None, seed=0, device="cpu", progress=False) as run:
        model = method.fit(recipe, large, large, run)
    assert model.branch("local").prototypes.shape == (8, 10, 128)
    assert all(torch.isfinite(t).all() for t in model.state_dict().values() if t.is_floating_point())


# ---- the whole procedure ------------------------------------------------------------------------------------------


class TestLocalGlobalPrototypes(PluginTests):
    name = "local-global-prototypes"
    recipe = TINY
    data = "phantom:skin-lesion?n=48&size=64"
    facts: ClassVar = {
        "balanced accuracy, 128 held-out phantoms": "balanced_accuracy",
        "accuracy, 128 held-out phantoms": "accuracy",
    }
    facts_on = ("phantom:skin-lesion?n=640", "test")


def test_the_presets_can_be_configured():
    paper, demo = training.configure("paper"), training.configure("demo")
    assert (paper.batch_size, paper.epochs, paper.stage2_epochs) == (50, 100, 20)
    assert (paper.lr_backbone, paper.lr_branch, paper.lr_prototypes, paper.lr_head) == (1e-5, 1e-3, 1e-2, 1e-2)
    assert paper.network.backbone == "densenet169"
    assert demo.network.backbone == "small"


def test_training_marks_the_heads_as_tuned_and_frees_the_gallery_from_the_recipe(trained, images):
    assert bool(trained.tuned)
    assert trained.config.gallery.ids == images.ids
    for name, head in trained.heads.items():
        weight = head.effective.detach()
        assert not torch.equal(weight, trained.own_columns() * weight) or name == ""
        if name.startswith("global"):
            assert not weight[:, 24:].any()
        if name.startswith("local"):
            assert not weight[:, :24].any()


def test_pruning_afterwards_keeps_the_tuned_weights(tiny, images):
    with Run(None, seed=0, device="cpu", progress=False) as run:
        model = method.fit(replace(tiny, epochs=1, prune="after"), images, images, run)
    full, pruned = model.heads["joint"], model.heads["joint_pruned"]
    assert torch.equal(full.weight, pruned.weight)
    assert pruned.mask.sum() < full.mask.sum()


@pytest.mark.parametrize(
    "change", [{"weighting": "low"}, {"weighting": "none"}, {"local_assign": "all"},
               {"centroid_count": "cumulative"}, {"project_every": 1, "init": "identity"}, {"augment": "crops"},
               {"head_noise": 0.01, "noise_stays": True, "head_decay_at": (1,)},
               {"head_start": "kept", "prune_by": "cell"},
               {"augment": "flips"}, {"augment": "none"}, {"thumbnails": 0},
               {"init": "random"}, {"stage2_epochs": 0}],
)  # fmt: skip
def test_every_option_trains(tiny, images, change: dict):
    with Run(None, seed=0, device="cpu", progress=False) as run:
        model = method.fit(replace(tiny, **{"epochs": 1, "stage2_epochs": 1, **change}), images, images, run)
    assert bool(model.tuned) == (change.get("stage2_epochs") != 0)
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values() if tensor.is_floating_point())


@pytest.mark.parametrize("branch", ["global", "local"])
def test_a_single_branch_trains(tiny, images, branch: str):
    with Run(None, seed=0, device="cpu", progress=False) as run:
        model = method.fit(replace(tiny, epochs=1, network=replace(tiny.network, branch=branch)), images, images, run)
    assert list(model.branches) == [branch]
    assert list(model.heads) == [branch, f"{branch}_pruned"]
