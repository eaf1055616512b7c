"""The paper's procedure: losses by hand, mixtures without D^1, episodes, arms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.models.base import PluginTests
from zoo.data.case import Case
from zoo.data.phantoms.fundus import fundus
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.errors import DataError
from zoo.models.map_vessel import synthesis as styles
from zoo.models.map_vessel import training as method
from zoo.models.map_vessel.data import Source, crops, load_source
from zoo.models.map_vessel.model import RELEASED, MapVesselConfig, ReleasedUNet, ResidualUNet
from zoo.models.map_vessel.released import ALPHA_FLOOR, Epoch
from zoo.models.map_vessel.synthesis import SynthesisNetwork, SynthesisRecipe
from zoo.models.map_vessel.training import MapVesselRecipe, training
from zoo.training import Run

TINY = MapVesselRecipe(
    network=MapVesselConfig(channels=(4, 8, 4), working_size=96),
    synthesis=SynthesisRecipe(channels=(4, 8), epochs=1, attempts=1, batch_size=2, crops_per_image=2),
    epochs=2,
    batch_size=2,
    crop=32,
    crops_per_image=2,
)
TINY_RELEASED = replace(
    training.configure("paper", {"recipe": "released"}),
    network=MapVesselConfig(**{**RELEASED, "channels": (4, 8, 4), "pad_to": 8}),
    synthesis=TINY.synthesis,
    epochs=2,
    batch_size=2,
    crop=32,
    crops_per_image=2,
)


class TestMapVessel(PluginTests):
    name = "map-vessel"
    recipe = TINY
    data = "phantom:fundus?n=6&size=128"
    facts = {
        "Dice, 8 held-out phantoms": "dice",
        "sensitivity, 8 held-out phantoms": "sensitivity",
        "specificity, 8 held-out phantoms": "specificity",
        "AUROC, 8 held-out phantoms": "auroc",
    }
    facts_on = ("phantom:fundus", "test")


@pytest.fixture(scope="module")
def data() -> TrainData:
    def part(seeds: range) -> Dataset:
        cases = [fundus(seed, size=128) for seed in seeds]
        return Dataset("phantom:fundus", [Entry(case.id, case) for case in cases])

    return TrainData(part(range(3)), part(range(3, 4)), part(range(4, 5)))


def weights(recipe: MapVesselRecipe, data: TrainData, seed: int = 0) -> dict[str, torch.Tensor]:
    return method.train(recipe, data, Run(None, seed=seed, device="cpu")).state_dict()


# ---- losses ---------------------------------------------------------------------------------------------------


def test_similarity_loss_is_the_mean_distance_to_the_own_anchor():
    anchor = torch.tensor([[0.0, 0.0], [10.0, 10.0]])
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0], [10.0, 13.0], [10.0, 10.0]])  # two mixtures of each image
    assert method.similarity_loss(z, anchor, 2).item() == pytest.approx((1 + 2 + 3) / 8)


def test_ncc_is_not_centred():
    # Constant vectors have no centred correlation, but cosine 1.
    z = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    assert method.ncc_loss(z, 2).item() == pytest.approx(0, abs=1e-6)
    assert method.ncc_loss(z, 1).item() == pytest.approx(2)  # two images: both off-diagonal cosines should be 0


def test_ncc_target_is_block_diagonal():
    z = torch.eye(4)
    # Four orthogonal rows of two images: the two in-block pairs (counted twice) miss their target 1.
    assert method.ncc_loss(z, 2).item() == pytest.approx(4)


def test_anchor_receives_no_gradient():
    z, anchor = torch.randn(6, 8, requires_grad=True), torch.randn(2, 8, requires_grad=True)
    logits, y = torch.randn(6, 2, 4, 4, requires_grad=True), torch.randint(0, 2, (2, 4, 4))
    method.meta_test_losses(logits, z, y, anchor, MapVesselRecipe())["meta_test"].backward()
    assert anchor.grad is None
    assert z.grad.abs().sum() > 0
    assert logits.grad.abs().sum() > 0


def test_meta_test_loss_has_the_papers_weights():
    z, anchor = torch.randn(6, 8), torch.randn(2, 8)
    logits, y = torch.randn(6, 2, 4, 4), torch.randint(0, 2, (2, 4, 4))
    losses = method.meta_test_losses(logits, z, y, anchor, MapVesselRecipe())
    expected = 100 * losses["seg"] + 100 * losses["sim"] + losses["ncc"]
    assert torch.allclose(losses["meta_test"], expected)


def test_pairs_of_two_images_weigh_twice_in_the_released_ncc():
    z = torch.ones(4, 3)  # every cosine is 1: in-block pairs are right, 8 ordered pairs of two images miss their 0
    assert method.ncc_loss(z, 2).item() == pytest.approx(8)
    assert method.ncc_loss(z, 2, off_block=2.0).item() == pytest.approx(16)


def test_released_losses_add_up_over_the_squares():
    z, anchor = torch.randn(6, 8), torch.randn(2, 8)
    logits, y = torch.randn(6, 2, 4, 4), torch.randint(0, 2, (2, 4, 4))
    recipe = training.configure("paper", {"recipe": "released"})
    losses = method.meta_test_losses(logits, z, y, anchor, recipe)
    by_hand = sum(
        100 * nn.functional.cross_entropy(logits[3 * i : 3 * i + 3], y[i].expand(3, -1, -1))
        + 100 * (z[3 * i : 3 * i + 3] - anchor[i]).abs().mean()
        for i in range(2)
    )
    assert losses["meta_test"].item() == pytest.approx(float(by_hand + method.ncc_loss(z, 3, 2.0)), rel=1e-5)


# ---- views ----------------------------------------------------------------------------------------------------


def test_d1_never_enters_a_mixture():
    x = torch.rand(3, 4, 8, 8)
    poisoned = x.clone()
    poisoned[:, 1] = float("nan")
    mixed = method.mixtures(poisoned, 5, (1, 1, 1), np.random.default_rng(0))
    assert mixed.shape == (3, 5, 1, 8, 8)
    assert torch.equal(mixed, method.mixtures(x, 5, (1, 1, 1), np.random.default_rng(0)))


def test_mixtures_are_convex_and_cover_the_simplex():
    x = torch.zeros(1, 4, 1, 1)
    x[0, 0] = 1  # the mixture's value is the weight of D^0, which is Beta(1, 2)
    weight = method.mixtures(x, 4000, (1, 1, 1), np.random.default_rng(0)).flatten()
    assert weight.min() >= 0
    assert weight.max() <= 1
    assert weight.mean().item() == pytest.approx(1 / 3, abs=0.02)
    assert weight.var().item() == pytest.approx(1 / 18, abs=0.01)


def test_one_crop_serves_all_pseudo_modalities_and_the_mask():
    rng = np.random.default_rng(0)
    plane = rng.integers(0, 200, (40, 50)).astype(np.uint8)
    source = Source(np.stack([plane + k for k in range(4)]).astype(np.float32), np.zeros((3, 40, 50)), plane)
    x, y = crops([source], np.zeros(6, int), 16, rng)
    assert x.shape == (6, 4, 16, 16)
    for k in range(4):
        assert torch.equal(x[:, k], y.float() + k)


def test_small_images_are_padded():
    source = Source(np.ones((1, 20, 10), np.float32), np.ones((3, 20, 10), np.float32), np.ones((20, 10), np.uint8))
    x, y = crops([source], np.array([0]), 32, np.random.default_rng(0))
    assert x.shape == (1, 1, 32, 32)
    assert y.sum() == 200


# ---- networks ---------------------------------------------------------------------------------------------------


def test_latent_image_has_the_size_of_the_photograph():
    f = SynthesisNetwork((4, 8, 8))
    rgb = torch.rand(2, 3, 32, 40)
    latent = f.latent_image(rgb)
    assert latent.shape == (2, 1, 32, 40)
    assert 0 <= latent.min() <= latent.max() <= 1
    assert f(rgb).shape == (2, 2, 32, 40)


def test_synthesised_styles_are_frozen_min_max_images():
    f = SynthesisNetwork((4, 8, 8)).eval()
    image = styles.synthesise(f, np.random.default_rng(0).random((3, 33, 47), dtype=np.float32))
    assert image.shape == (33, 47)
    assert image.min() == 0
    assert image.max() == 1


def test_latent_images_with_dark_vessels_are_turned(data: TrainData, monkeypatch: pytest.MonkeyPatch):
    sources = [load_source(case, TINY.network) for case in data.train]

    def darkness(f: nn.Module, rgb: np.ndarray) -> np.ndarray:
        return (1 - next(s.mask for s in sources if s.rgb is rgb)).astype(np.float32)

    monkeypatch.setattr(styles, "synthesise", darkness)
    monkeypatch.setattr(styles, "_train_synthesis", lambda *_: SynthesisNetwork((4, 8)))
    monkeypatch.setattr(styles, "_likeness", lambda *_: 0.0)
    for polarity, expected in (("bright", 1), ("any", 0)):
        made = styles.add_pseudo_modalities(sources, replace(TINY.synthesis, polarity=polarity), 32, Run(None))
        for before, after in zip(sources, made, strict=True):
            assert np.array_equal(after.grey[0], before.grey[0])
            assert (after.grey[1:, after.mask > 0] == expected).all()


# ---- the authors' code ---------------------------------------------------------------------------------------------


def sources_of(*sizes: tuple[int, int]) -> list[Source]:
    rng = np.random.default_rng(0)
    return [
        Source(rng.random((4, *size), dtype=np.float32), np.zeros((3, *size), np.float32), np.ones(size, np.uint8))
        for size in sizes
    ]


def test_released_reading_holds_the_values_of_the_code():
    recipe = training.configure("paper", {"recipe": "released"})
    assert (recipe.batch_train, recipe.batch_size, recipe.epochs, recipe.crops_per_image) == (1, 4, 50, 40)
    assert (recipe.lr_train, recipe.decay_train_every, recipe.lr_test, recipe.decay_every) == (1e-3, 2, 2e-3, 3)
    assert (recipe.alpha, recipe.alpha_spread, recipe.mixtures, recipe.off_block) == ((6, 6, 6), 2.5, 5, 2)
    assert (recipe.loss, recipe.turns, recipe.crop) == ("ce", False, 256)
    assert (recipe.network.clip_limit, recipe.network.pad_to, recipe.network.norm_at_test) == (5, 128, "image")


def test_nine_views_of_a_square_come_from_one_place():
    (source,) = sources_of((40, 48))
    epoch = Epoch([source], 5, (6, 6, 6), 2.5, 16, 3, np.random.default_rng(1))
    views, anchors, y = epoch.squares(np.arange(3))
    assert (views.shape, anchors.shape, y.shape) == ((3, 9, 16, 16), (3, 1, 16, 16), (3, 16, 16))
    for square, (top, left) in enumerate(epoch.corners[0]):
        place = slice(top, top + 16), slice(left, left + 16)
        assert np.array_equal(anchors[square, 0], source.grey[1][place])
        assert np.array_equal(views[square, 5], source.grey[0][place])  # D^0
        assert np.array_equal(views[square, 6], source.grey[2][place])
        assert np.array_equal(views[square, 8], source.grey[3][place])


def test_whole_mixtures_are_rescaled_and_d1_never_enters_them():
    (source,) = sources_of((40, 48))
    poisoned = replace(source, grey=source.grey.copy())
    poisoned.grey[1] = np.nan
    mixed = Epoch([poisoned], 5, (6, 6, 6), 2.5, 16, 3, np.random.default_rng(1)).views[0][:5]
    assert mixed.min(axis=(1, 2)) == pytest.approx(np.zeros(5))
    assert mixed.max(axis=(1, 2)) == pytest.approx(np.ones(5))


def test_a_dirichlet_parameter_below_0_becomes_the_floor():
    drawn = np.stack([Epoch([], 5, (-9, 6, 0), 0.0, 16, 3, np.random.default_rng(i)).alpha for i in range(3)])
    assert np.array_equal(drawn, [[ALPHA_FLOOR, 6, ALPHA_FLOOR]] * 3)


def test_a_released_epoch_is_all_of_meta_train_then_all_of_meta_test(monkeypatch: pytest.MonkeyPatch):
    """The anchors stay those of the end of meta-train while the network goes on."""
    seen: list[int] = []
    anchors: list[torch.Tensor] = []
    original = method.meta_test_losses

    def watch(logits, z, y, anchor, recipe):
        anchors.append(anchor)
        return original(logits, z, y, anchor, recipe)

    def note(module: nn.Module, inputs: tuple) -> None:
        if isinstance(module, ReleasedUNet) and module.training:
            seen.append(len(inputs[0]))

    monkeypatch.setattr(method, "meta_test_losses", watch)
    hook = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        method.fit(replace(TINY_RELEASED, crops_per_image=3), sources_of((40, 40), (40, 40)), [], Run(None, seed=0))
    finally:
        hook.remove()
    # six squares: six updates with one anchor each, then two buffers of two squares with nine views; the last is left
    assert seen == ([1] * 6 + [9] * 4) * 2
    assert all(not anchor.requires_grad for anchor in anchors)


@pytest.mark.slow
def test_one_step_of_each_kind_at_the_scale_of_the_code():
    recipe = replace(training.configure("paper", {"recipe": "released"}), epochs=1, crops_per_image=5)
    model = method.fit(recipe, sources_of((584, 565)), [], Run(None, seed=0, device="cpu"))
    assert all(torch.isfinite(value.float()).all() for value in model.state_dict().values())


# ---- the procedure ------------------------------------------------------------------------------------------------


def test_paper_preset_holds_the_papers_values():
    recipe = training.configure("paper")
    assert (recipe.batch_size, recipe.epochs) == (10, 30)
    assert (recipe.lr_train, recipe.lr_test, recipe.decay, recipe.decay_every) == (1e-3, 5e-3, 0.5, 3)
    assert (recipe.w_seg, recipe.w_sim, recipe.w_ncc, recipe.alpha) == (100, 100, 1, (1, 1, 1))
    assert recipe.network.channels == (8, 32, 32, 64, 64, 16)
    assert not recipe.second_order


@pytest.mark.parametrize(
    "changes",
    [{"method": name} for name in ("map", "pooled", "baseline", "bigaug")]
    + [{"episodic": False}, {"second_order": True}, {"recipe": "released"}],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_every_arm_trains_and_repeats_itself(changes: dict, data: TrainData):
    recipe = TINY_RELEASED if changes.get("recipe") else replace(TINY, **changes)
    first, second = weights(recipe, data), weights(recipe, data)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.isfinite(value.float()).all() for value in first.values())


def test_meta_train_sees_d1_and_meta_test_the_mixtures(data: TrainData, monkeypatch: pytest.MonkeyPatch):
    """D^1 is made 1 everywhere and the other corners 0: the network meets pure ones, then pure zeros, in turn."""
    seen: list[float] = []

    def paint(sources: list, recipe: SynthesisRecipe, crop: int, run: Run) -> list:
        painted = [np.zeros((4, *source.mask.shape), np.float32) for source in sources]
        for planes in painted:
            planes[1] = 1
        return [Source(p, source.rgb, source.mask) for p, source in zip(painted, sources, strict=True)]

    def watch(module: nn.Module, inputs: tuple) -> None:
        if module.training:
            seen.append(inputs[0].mean().item())

    monkeypatch.setattr(method, "add_pseudo_modalities", paint)
    hook = nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: watch(module, inputs) if isinstance(module, ResidualUNet) else None
    )
    try:
        weights(replace(TINY, epochs=1), data)
    finally:
        hook.remove()
    assert seen == [1.0, 0.0] * (len(seen) // 2)
    assert len(seen) >= 2


def test_styles_too_much_alike_are_tried_again(data: TrainData, monkeypatch: pytest.MonkeyPatch):
    stages: list[str] = []
    original = styles._train_synthesis

    def note(stage: str, *rest: object) -> nn.Module:
        stages.append(stage)
        return original(stage, *rest)  # type: ignore[arg-type]

    likeness = iter([0.95, 0.2, 0.97, 0.96])
    monkeypatch.setattr(styles, "_train_synthesis", note)
    monkeypatch.setattr(styles, "_likeness", lambda *_: next(likeness, 0.96))
    recipe = replace(TINY, epochs=1, synthesis=replace(TINY.synthesis, attempts=2))
    weights(recipe, data)
    # f^2 is like f^1 at first; f^3 is like the others both times, so the less alike is kept.
    assert stages == ["synthesis-1.1", "synthesis-2.1", "synthesis-2.2", "synthesis-3.1", "synthesis-3.2"]


def test_a_case_without_mask_is_refused():
    case = fundus(0, size=128)
    with pytest.raises(DataError, match="fundus-0 has no vessel mask"):
        load_source(replace(case, masks={}), TINY.network)


def test_a_mask_of_another_size_is_refused():
    case = Case(np.zeros((64, 64, 3), np.uint8), "odd", {"mask": np.zeros((32, 64), np.uint8)})
    with pytest.raises(DataError, match="differ in size"):
        load_source(case, TINY.network)


def test_matched_tells_clusters_by_anatomy_from_clusters_by_style() -> None:
    rng = np.random.default_rng(0)
    anatomy = torch.from_numpy(rng.standard_normal((4, 32)).astype(np.float32))
    styles = torch.from_numpy(rng.standard_normal((3, 32)).astype(np.float32))
    by_anatomy = (anatomy[:, None] + 0.1 * styles).flatten(0, 1)
    assert float(method.matched(by_anatomy, anatomy)) == 1.0
    swapped = anatomy.roll(1, 0)
    assert float(method.matched(by_anatomy, swapped)) == 0.0
