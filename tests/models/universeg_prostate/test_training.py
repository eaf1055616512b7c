"""Episodes and the tasks they are of, the U-Nets beside it, what is measured, and the claim's data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.models.base import PluginTests
from zoo import registry
from zoo.data.case import Case
from zoo.data.phantoms.prostate_mr import prostate_mr
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.errors import DataError
from zoo.metrics import dice
from zoo.models.universeg_prostate import claim
from zoo.models.universeg_prostate.baselines import (
    LARGE,
    SMALL,
    NnUNetRecipe,
    augmented,
    fit_unet,
    standardised,
    unet,
    unet_probability,
)
from zoo.models.universeg_prostate.data import Task, episodes, made_up, tasks_of, varied
from zoo.models.universeg_prostate.model import UniverSegConfig, UniverSegProstate
from zoo.models.universeg_prostate.support import labelled
from zoo.models.universeg_prostate.training import UniverSegRecipe, loss_of, score, train
from zoo.training import Run

announced = pytest.mark.skipif(
    "universeg-prostate" not in {entry.name for entry in registry.entries()},
    reason="the model is announced with the record of its claim",
)
TINY = UniverSegRecipe(
    channels=(4, 6, 8), side=32, made_up=24, supports=3, steps=8, batch_size=2, lr=1e-3, loss="dice_bce",
    validate_every=4, nnunet=NnUNetRecipe(folds=2, steps=4, batch_size=2),
)  # fmt: skip
SUPPORT = "phantom:prostate-mr?n=2&seed=9000&size=32&slices=8"


@announced
class TestUniverSegProstate(PluginTests):
    name = "universeg-prostate"
    recipe = TINY
    data = "phantom:prostate-mr?n=10&size=32&slices=8"
    given = ("--with", f"support={SUPPORT}")
    evaluated_on = "phantom:prostate-mr?n=2&seed=77000&size=48&slices=10"
    facts = {
        "3-D Dice of the gland, 6 other phantoms (the gland was no task of the training)": "dice_3d",
        "2-D Dice there, 32 slices that show it": "dice_2d",
    }
    facts_on = ("phantom:prostate-mr?n=6&seed=20000&slices=12", "all")


# ---- tasks and episodes ----------------------------------------------------------------------------------------------


def test_a_rule_says_which_object_is_meant() -> None:
    tasks = {task.name: task for task in made_up(40, 32, np.random.default_rng(0))}
    assert len(tasks) == 15
    everything = (tasks["brightest"], tasks["darkest"], tasks["topmost"], tasks["lowest"])
    assert all(task.labels.any((1, 2)).all() for task in tasks.values())
    for bright, dark, top, low in zip(*(task.labels for task in everything), strict=True):
        assert not (bright & dark).any()  # at least two objects, which don't overlap
        assert ndimage.center_of_mass(top)[0] < ndimage.center_of_mass(low)[0]
    means = [[image[label].mean() for image, label in zip(t.images, t.labels, strict=True)] for t in everything[:2]]
    assert np.mean(np.array(means[0]) > means[1]) > 0.95


def test_tasks_are_regions_in_the_slices_that_show_them() -> None:
    cases = [prostate_mr(seed, size=32, slices=8) for seed in (1, 2)]
    tasks = tasks_of(cases, ("tz", "pz", "apex"), 32, "percentiles", ())
    assert [task.name for task in tasks] == ["tz", "pz"]
    for task in tasks:
        assert task.labels.any((1, 2)).all()
        assert set(task.group) == {0, 1}


def test_supports_are_of_other_volumes_than_the_query() -> None:
    n = 12
    images = np.repeat(np.linspace(0, 1, n, dtype=np.float32), 16).reshape(n, 4, 4)  # grey says which slice it is
    task = Task("t", images, np.ones((n, 4, 4), bool), np.arange(n) // 4)
    for seed in range(10):
        some = episodes([task], np.array([0]), 5, [np.random.default_rng(seed)], augment=False)
        query, theirs = (
            np.round(part[..., 0, 0].numpy().ravel() * (n - 1)).astype(int) for part in (some.query, some.images)
        )
        assert len(set(theirs)) == 5
        assert not set(task.group[theirs]) & set(task.group[query])


def test_a_share_of_the_queries_may_lack_the_region_and_some_support_always_shows_it() -> None:
    cases = [prostate_mr(seed, size=32, slices=8) for seed in (1, 2)]
    tasks = tasks_of(cases, ("tz",), 32, "percentiles", (), True)
    assert 2 < tasks[0].labels.any((1, 2)).sum() < len(tasks[0].group) == 16
    rngs = [np.random.default_rng(seed) for seed in range(60)]
    some = episodes(tasks, np.zeros(60, int), 3, rngs, augment=False, absent=0.3)
    assert 0.15 < 1 - some.truth.flatten(1).any(1).float().mean() < 0.45
    assert some.labels.flatten(1).any(1).all()
    assert not some.labels.flatten(2).any(2).all()


def test_an_episode_is_turned_as_a_whole_and_keeps_its_labels() -> None:
    x = np.zeros((3, 8, 8), np.float32)
    y = np.zeros((3, 8, 8), bool)
    x[:, 1, 2:5] = 1
    y[:, 1, 2:5] = True
    turned = {varied(x, y, np.random.default_rng(seed))[1].tobytes() for seed in range(30)}
    assert len(turned) >= 4
    for seed in range(30):
        a, b = varied(x, y, np.random.default_rng(seed))
        assert (b == b[0]).all()
        inside, outside = a[b > 0].mean(), a[b == 0].mean()
        assert abs(inside - outside) > 0.3
        assert 0 <= a.min() <= a.max() <= 1


def test_the_loss_is_one_minus_the_soft_dice() -> None:
    truth = torch.zeros(1, 1, 4, 4)
    truth[..., :2] = 1
    logits = torch.where(truth > 0, 0.0, -50.0)  # half of 8 px: Dice (2 * 4 + 1) / (4 + 8 + 1)
    assert float(loss_of(logits, truth, "dice")) == pytest.approx(1 - 9 / 13, abs=1e-5)
    both = float(loss_of(logits, truth, "dice_bce"))
    assert both == pytest.approx(1 - 9 / 13 + 0.5 * np.log(2), abs=1e-5)


def test_data_without_the_regions_are_refused() -> None:
    case = prostate_mr(1, size=32, slices=8)
    empty = Case(case.image, "a", masks={"mask": np.zeros(case.image.size, np.uint8)})
    data = TrainData(*(Dataset("mine", [Entry("a", empty)]) for _ in range(3)))
    with (
        pytest.raises(DataError, match="mine shows none of the regions 3 in two slices"),
        Run(None, device="cpu") as run,
    ):
        train(replace(TINY, made_up=0, regions=("3",)), data, run)


# ---- the U-Nets ------------------------------------------------------------------------------------------------------


def test_the_u_nets_have_the_papers_sizes() -> None:
    sizes = [sum(p.numel() for p in unet(channels).parameters()) for channels in (LARGE, SMALL)]
    assert sizes == [20_613_098, 1_290_626]  # 20.6 M and 1.3 M


def test_a_u_net_learns_from_the_folds_that_are_not_its_own() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, 16, 16)).astype(np.float32)
    recipe = NnUNetRecipe(folds=3, steps=3, batch_size=2, augment=False)
    nets = []
    for change in (False, True):
        with Run(None, device="cpu", progress=False) as run:
            out = run.generator("folds").permutation(6) % 3 == 1
            changed = images.copy()
            changed[out] += 5 * change * rng.normal(size=changed[out].shape).astype(np.float32)
            torch.manual_seed(0)
            net = unet((4, 4, 4))
            fit_unet(net, changed, changed > 0, recipe, run, 1, "fold")
            nets.append(net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(nets[0].values(), nets[1].values(), strict=True))


def test_networks_and_mirrorings_are_averaged() -> None:
    torch.manual_seed(0)
    nets = torch.nn.ModuleList([unet((4, 4, 4)), unet((4, 4, 4))]).eval()
    x = np.random.default_rng(0).normal(size=(2, 16, 16)).astype(np.float32)
    both = unet_probability(nets, x, tta=False)
    one, two = (unet_probability(torch.nn.ModuleList([net]), x, tta=False) for net in nets)
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-6)
    mirrored = unet_probability(nets, x, tta=True)
    np.testing.assert_allclose(mirrored[:, ::-1], unet_probability(nets, x[:, ::-1].copy(), tta=True), atol=1e-6)


def test_augmented_slices_keep_two_labels_and_the_seed_decides() -> None:
    x, y = torch.rand(4, 1, 32, 32), torch.zeros(4, 32, 32, dtype=torch.long)
    y[:, 10:20, 10:20] = 1
    a, b = augmented(x, y, 7)
    assert (a.shape, b.shape, set(b.unique().tolist())) == (x.shape, y.shape, {0, 1})
    assert torch.equal(a, augmented(x, y, 7)[0])
    assert not torch.equal(a, augmented(x, y, 8)[0])
    scaled = standardised(a)
    torch.testing.assert_close(scaled.mean((1, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)


def test_a_trained_u_net_predicts_without_looking_at_the_support() -> None:
    data = TrainData(*(Dataset("p", [Entry(str(s), prostate_mr(s, size=64, slices=8))]) for s in range(3)))
    recipe = replace(
        TINY, method="nnunet-small", side=64, regions=("gland",), nnunet=NnUNetRecipe(folds=2, steps=2, batch_size=2)
    )
    with Run(None, device="cpu", progress=False) as run:
        model = train(recipe, data, run)
    assert len(model.net) == 2  # type: ignore[arg-type]
    one, two = (
        model.predict("phantom:prostate-mr?seed=5&size=64&slices=8", support=SUPPORT.replace("9000", seed))
        for seed in ("9000", "9100")
    )
    np.testing.assert_array_equal(one.probability, two.probability)
    assert any("needs no support set" in note for note in one.notes)


# ---- what is measured ------------------------------------------------------------------------------------------------


def test_dice_is_of_the_volume_and_of_the_slices_that_show_the_region() -> None:
    torch.manual_seed(0)
    model = UniverSegProstate(UniverSegConfig(channels=(4, 6), side=32)).eval()
    case = prostate_mr(5, size=32, slices=8)
    rows = score(model, case, {"support": SUPPORT, "roi": "pz"})
    truth = np.asarray(case.masks["pz"]) > 0
    mask = model.predict(case.image, support=SUPPORT, roi="pz").mask > 0
    assert rows[0]["dice_3d"] == pytest.approx(dice(mask, truth))
    slices = case.image.axial(truth).any((1, 2))
    assert len(rows) == 1 + slices.sum()
    flat = [dice(a, b) for a, b in zip(case.image.axial(mask), case.image.axial(truth), strict=True) if b.any()]
    assert [row["dice_2d"] for row in rows[1:]] == pytest.approx(flat)


def test_the_claim_keeps_labelled_and_tested_phantoms_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    model = UniverSegProstate(UniverSegConfig(channels=(4, 6), side=32)).eval()
    monkeypatch.setattr(claim, "prostate_mr", lambda seed: asked.append(seed) or prostate_mr(seed, size=32, slices=8))
    monkeypatch.setattr(claim, "fixed", lambda: model)
    found = claim.run(900, quick=True)
    assert asked == [190_000, 190_001, 190_002]  # one and two are labelled, the third is tested
    assert set(found) == set(claim.claim.arms)
    pool = claim.together([labelled(prostate_mr(s, size=32, slices=8), "gland", 32, "percentiles") for s in (1, 2)])
    assert pool.z.tolist() == [*range(8), *range(8)]
    assert set(pool.case) == {"prostate-mr-1", "prostate-mr-2"}


def test_the_claims_weights_are_those_that_come_with_it() -> None:
    assert claim.fixed().config.method == "universeg"
