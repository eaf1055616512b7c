"""Black box and ProtoPNet have the stages that the prototypes have."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from zoo.data.images import over_images
from zoo.models.local_global_prototypes import baselines
from zoo.models.local_global_prototypes.claim import PAPER, RELEASED
from zoo.models.local_global_prototypes.claim import claim as the_claim
from zoo.training import Run


@pytest.mark.parametrize("fit", [baselines.fit_black_box, baselines.fit_protopnet])
def test_a_baseline_learns(tiny, images, fit):
    recipe = replace(tiny, epochs=25, lr_branch=1e-2, augment="none")
    with Run(None, seed=0, device="cpu", progress=False) as run:
        net = fit(recipe, images, run)
        found = over_images(net, net.probabilities, images, run.device)
    assert torch.allclose(found.sum(1), torch.ones(48), atol=1e-4)
    assert (found.argmax(1) == images.y).float().mean() > 0.2  # chance is 0.125


@pytest.mark.parametrize("fit", [baselines.fit_black_box, baselines.fit_protopnet])
def test_a_baseline_has_a_stage_2_of_what_decides_alone(tiny, images, fit):
    def weights(epochs: int) -> dict[str, torch.Tensor]:
        recipe = replace(tiny, epochs=1, stage2_epochs=epochs)
        with Run(None, seed=0, device="cpu", progress=False) as run:
            return fit(recipe, images, run).state_dict()

    before, after = weights(0), weights(3)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert changed <= {"head.weight", "head.bias"}


@pytest.mark.parametrize("pretrained", [False, True])
def test_baselines_start_where_the_recipe_says(tiny, monkeypatch, pretrained: bool):
    asked = []

    def build(config, pretrained: bool) -> torch.nn.Module:
        asked.append(pretrained)
        return torch.nn.Identity()

    monkeypatch.setattr(baselines, "build_backbone", build)
    baselines.backbone_of(replace(tiny, pretrained=pretrained, network=replace(tiny.network, backbone="resnet18")))
    baselines.backbone_of(replace(tiny, pretrained=pretrained))  # which has no weights to start from
    assert asked == [pretrained, False]


def test_all_arms_of_a_reading_share_stages_budget_and_rates():
    for recipe in (PAPER, RELEASED):
        assert (recipe.epochs, recipe.stage2_epochs, recipe.batch_size, recipe.lr_head) == (14, 20, 50, 1e-2)
        assert (recipe.lr_backbone, recipe.lr_branch, recipe.lr_prototypes) == (2e-3, 1e-3, 1e-2)


def test_the_claim_states_its_margins_and_the_bound():
    assert (the_claim.primary.method, the_claim.primary.baseline) == ("joint", "black box")
    assert the_claim.primary.tolerance == 0.01
    assert {c.margin for c in the_claim.secondary if (c.method, c.baseline) == ("joint", "protopnet")} == {0.03}
    assert "0.65" in the_claim.statement  # e / (e + 4 / e)
    assert len(the_claim.seeds) >= 5
