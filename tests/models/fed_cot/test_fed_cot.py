"""Fed-CoT: boxes, teachers, rounds, who is labelled, and what is said about a volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models.base import PluginTests
from tests.models.engines import assert_alike_on_every_engine
from zoo import media
from zoo.data.case import Case
from zoo.data.check import require
from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData, divide
from zoo.data.volumes import Grid
from zoo.errors import DataError, MediaError, OptionError
from zoo.federated import Context, Update, federate
from zoo.models.fed_cot import plugin
from zoo.models.fed_cot.client import (
    CoTRecipe,
    alpha1,
    client,
    consistency,
    cut_mixed,
    ema_,
    lesion_boxes,
    ramp,
    teachers_of,
)
from zoo.models.fed_cot.data import Brains, read_brain
from zoo.models.fed_cot.model import FedCoT, separated
from zoo.models.fed_cot.network import CICEK, PAPER, CoTConfig, Network, parameters_of
from zoo.models.fed_cot.training import build, by_site, known_and_unknown, score, sites_of, training
from zoo.training import Run

DATA = "phantom:flair?n=12&size=32&slices=24"
CASE = "phantom:flair?size=48&slices=40&seed=9"
NETWORK = CoTConfig((4, 8), 4, 2, patch=(16, 16, 16), spacing=(8.0, 8.0, 8.0))
TINY = CoTRecipe(
    network=NETWORK, partition="iid", clients=2, labelled=0.5, rounds=6, iters=2, batch_l=2, batch_u=2, boxes=(1, 2),
    edges=(2, 4), ramp_iters=4, measure_every=6,
)  # fmt: skip


class TestFedCoT(PluginTests):
    name = "fed-cot"
    recipe = TINY
    data = DATA
    evaluated_on = "phantom:flair?n=1&size=40&slices=32&seed=77000"
    facts = {"Dice of the student, 20 other phantoms": "dice"}
    facts_on = ("phantom:flair?n=20&size=48&slices=40&seed=20000", "all")


# ---- the network -----------------------------------------------------------------------------------------------------


def test_the_paper_sized_networks_are_monais_and_the_cited_one() -> None:
    from monai.networks.nets import BasicUNet

    assert parameters_of(PAPER) == 5_749_377
    assert parameters_of(replace(PAPER, **CICEK)) == 19_073_665
    norm, act = ("group", {"num_groups": 4}), ("relu", {"inplace": True})
    theirs = BasicUNet(3, 1, 1, features=(4, 8, 8, 12, 16, 4), norm=norm, act=act)
    ours = Network(CoTConfig((4, 8, 8, 12, 16), 4, 4, patch=(16, 16, 16)))
    named = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
    ours.load_state_dict(dict(named))
    x = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x))
    assert not list(ours.buffers())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"widths": (8,)}, "two numbers"), ({"groups": 5}, "5 groups"), ({"patch": (63, 64, 64)}, "multiples of 16")],
)
def test_what_cannot_be_built_is_refused(wrong: Mapping[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(PAPER, **wrong)


# ---- boxes, losses, averages -----------------------------------------------------------------------------------------


def test_boxes_have_the_size_of_lesions_and_lie_in_the_crop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = lesion_boxes((1, 40, 40, 40), (1, 1), (8, 16), rng)[0, 0]
        places = mask.nonzero()
        sides = places.max(0).values - places.min(0).values + 1
        assert int(mask.sum()) == int(sides.prod())
        assert int(sides.min()) >= 8
        assert int(sides.max()) <= 16
    assert not lesion_boxes((2, 9, 9), (0, 0), (3, 6), rng).any()


def test_targets_are_mixed_as_the_images_are() -> None:
    chance = torch.Generator().manual_seed(1)
    u = torch.randn(3, 1, 8, 8, 8, generator=chance)
    mask = lesion_boxes((3, 8, 8, 8), (2, 3), (2, 4), np.random.default_rng(1))
    mixed = cut_mixed(u, mask)
    assert torch.equal(mixed[0][mask[0]], u[1][mask[0]])
    assert torch.equal(mixed[2][mask[2]], u[0][mask[2]])
    assert torch.equal(mixed[~mask], u[~mask])
    assert torch.equal(cut_mixed(u.sigmoid(), mask), mixed.sigmoid())  # of a teacher that looks at single voxels
    assert torch.equal(cut_mixed(u, torch.zeros_like(mask)), u)


def test_consistency_is_half_the_sum_of_two_mean_squares() -> None:
    logits = torch.zeros(1, 1, 2, 2)  # p = 0.5
    sync, own = torch.full_like(logits, 0.9), torch.full_like(logits, 0.3)
    assert float(consistency(logits, [sync, own])) == pytest.approx((0.4**2 + 0.2**2) / 2)


def test_decay_and_ramp() -> None:
    assert alpha1(0, 300, 0.99, 0.999) == 0  # a first step makes the teacher the student
    assert alpha1(9, 300, 0.99, 0.999) == pytest.approx(0.9)
    assert alpha1(299, 300, 0.99, 0.999) == 0.99
    assert alpha1(300, 300, 0.99, 0.999) == 0.999
    assert ramp(0, 300) == pytest.approx(np.exp(-5))
    assert ramp(300, 300) == ramp(900, 300) == ramp(0, 0) == 1
    a, b = Network(NETWORK), Network(NETWORK)
    expected = [0.75 * p + 0.25 * q for p, q in zip(a.parameters(), b.parameters(), strict=True)]
    ema_(a, b, 0.75)
    assert all(torch.allclose(p, q) for p, q in zip(a.parameters(), expected, strict=True))


# ---- rounds ----------------------------------------------------------------------------------------------------------


@cache
def shard() -> Brains:
    cases = list(load_dataset(DATA))[:4]
    return Brains.of(cases[:1], cases[1:], NETWORK.spacing, NETWORK.patch)


def one_round(recipe: CoTRecipe, round_: int = 1, kept: dict[str, Any] | None = None) -> tuple[Update, Context]:
    torch.manual_seed(0)
    network = Network(NETWORK)
    received = {"sync": {name: value + 0.01 for name, value in network.state_dict().items()}}
    context = Context(0, round_, "train", torch.device("cpu"), received, {} if kept is None else kept)
    return client(network, shard(), np.random.default_rng(3), context, recipe), context


def test_without_lambda_a_client_is_one_of_fl_to_the_bit() -> None:
    plain = one_round(replace(TINY, method="fl"))[0].models["network"]
    for method in ("fed-cot", "mt"):
        same = one_round(replace(TINY, method=method, lam=0.0))[0].models["network"]  # type: ignore[arg-type]
        assert all(torch.equal(plain[name], same[name]) for name in plain)
        other = one_round(replace(TINY, method=method, ramp_iters=0))[0].models["network"]  # type: ignore[arg-type]
        assert any(not torch.equal(plain[name], other[name]) for name in plain)


def test_the_async_teacher_never_leaves_and_the_sync_teacher_does() -> None:
    for method, sent, keeps in (
        ("fed-cot", {"network", "sync"}, True), ("sync", {"network", "sync"}, False), ("async", {"network"}, True),
        ("mt", {"network"}, True), ("pl", {"network"}, False), ("fl", {"network"}, False),
    ):  # fmt: skip
        update, context = one_round(replace(TINY, method=method))  # type: ignore[arg-type]
        assert set(update.models) == sent
        assert ("async" in context.kept) is keeps


def test_after_averaging_only_the_async_teacher_takes_a_step_to_the_new_student() -> None:
    student = Network(NETWORK)
    kept = {name: torch.zeros_like(value) for name, value in student.state_dict().items()}
    received = {"sync": {name: torch.ones_like(value) for name, value in kept.items()}}
    context = Context(0, 2, "train", torch.device("cpu"), received, {"async": kept})
    for method, share in (("fed-cot", 0.25), ("async", 0.25), ("mt", 0.0)):
        found = teachers_of(student, context, replace(TINY, method=method, alpha2=0.75))  # type: ignore[arg-type]
        for name, value in found["async"].state_dict().items():
            torch.testing.assert_close(value, share * student.state_dict()[name])
    assert all(bool((value == 1).all()) for value in teachers_of(student, context, TINY)["sync"].state_dict().values())
    assert not any(p.requires_grad for p in found["async"].parameters())


def test_pseudo_labels_begin_with_their_round() -> None:
    recipe = replace(TINY, method="pl", pl_round=2)
    plain = one_round(replace(TINY, method="fl"))[0].models["network"]
    early, late = (one_round(recipe, round_)[0].models["network"] for round_ in (1, 2))
    assert all(torch.equal(plain[name], early[name]) for name in plain)
    assert any(not torch.equal(plain[name], late[name]) for name in plain)


def test_a_round_leaves_everybody_with_one_sync_teacher_and_sends_two_models_each_way() -> None:
    parts = divide(load_dataset("phantom:flair?n=8&size=32&slices=24"), training.split, TINY)
    size: dict[str, float] = {}
    for method in ("fed-cot", "fl"):
        recipe = replace(TINY, method=method, rounds=1, iters=1)  # type: ignore[arg-type]
        with Run(None, device="cpu", progress=False) as run:
            outcome = federate(lambda *about: replace(build(*about), evaluate=None), recipe, parts, run)
        size[method] = outcome.rows[-1]["bytes-up"]
        assert set(outcome.state.models) == ({"network", "sync"} if method == "fed-cot" else {"network"})
    assert 1.8 < size["fed-cot"] / size["fl"] < 2.05


@pytest.mark.slow
def test_three_engines_give_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(TINY, rounds=2)
    parts = divide(load_dataset(DATA), training.split, recipe)
    assert_alike_on_every_engine(build, recipe, parts, "fed-cot", DATA, training.split, tmp_path, monkeypatch)


# ---- who is labelled -------------------------------------------------------------------------------------------------


def test_a_table_of_sites_says_who_is_labelled(tmp_path: Path) -> None:
    lines = ["image,mask,site,patient"]
    for place, case in enumerate(load_dataset("phantom:flair?n=6&size=32&slices=24")):
        media.write_image(tmp_path / str(place), case.image.array, case.image)
        mask = ""
        if place < 4:
            mask = media.write_mask(tmp_path / f"{place}_mask", np.asarray(case.masks["mask"]), case.image).name
        lines.append(f"{place}.nii.gz,{mask},{'north' if place % 2 else 'south'},p{place}")
    (tmp_path / "sites.csv").write_text("\n".join(lines) + "\n")
    cases = load_dataset(f"csv:{tmp_path / 'sites.csv'}")
    require(cases, plugin)
    names, parts = sites_of(replace(TINY, partition="column:site"), cases, 0)
    assert dict(zip(names, map(len, parts), strict=True)) == {"north": 3, "south": 3}
    own = [cases[int(place)] for place in parts[0]]
    known, unknown = known_and_unknown(own, 0.25, names[0], 0)
    assert [len(known), len(unknown)] == [2, 1]
    federation = build(replace(TINY, partition="column:site"), TrainData(cases, cases[:0], cases[:0]), 0)
    assert len(federation.data(0).known) == 2
    assert federation.weights == "uniform"
    with pytest.raises(DataError, match="no mask to be measured by"):
        score(FedCoT(NETWORK).eval(), unknown[0], {})


def test_where_all_are_labelled_a_quarter_of_the_masks_is_used_and_always_the_same() -> None:
    cases = [Case(np.zeros(1), f"c{i}", masks={"mask": "m"}) for i in range(8)]
    known, unknown = known_and_unknown(cases, 0.25, "a", 5)
    assert [len(known), len(unknown)] == [2, 6]
    assert known_and_unknown(cases, 0.25, "a", 5)[0] == known
    assert len(known_and_unknown(cases[:2], 0.25, "a", 5)[0]) == 1
    assert known_and_unknown(cases, 1.0, "a", 5)[1] == []
    with pytest.raises(DataError, match="no training case of a has a mask"):
        known_and_unknown([Case(np.zeros(1), "c")], 0.25, "a", 5)


def test_sites_can_be_left_out_and_unknown_ones_are_refused() -> None:
    cases = load_dataset(DATA)
    column = replace(TINY, partition="column:site")
    names, _ = sites_of(column, cases, 0)
    assert sites_of(replace(column, sites=(names[0],)), cases, 0)[0] == names[:1]
    with pytest.raises(OptionError, match="no site 'z'"):
        sites_of(replace(column, sites=("z",)), cases, 0)
    with pytest.raises(OptionError, match="method=fl"):
        build(replace(TINY, labelled=1.0), divide(cases, training.split, TINY), 0)


def test_dice_is_told_over_all_subjects_and_by_site() -> None:
    found = by_site([("a", 1.0), ("a", 0.5), ("b", 0.0), ("b", float("nan"))])
    assert found == {"dice": pytest.approx(0.5), "dice-a": pytest.approx(0.75), "dice-b": 0.0}


# ---- predictions -----------------------------------------------------------------------------------------------------


def test_lesions_are_counted_with_their_corners_and_measured_in_ml() -> None:
    mask = np.zeros((6, 8, 8), bool)
    mask[1, 1, 1] = mask[2, 2, 2] = mask[2, 2, 3] = True  # corner to corner
    mask[4, 6, 6] = True
    grid = Grid((6, 8, 8), np.diag([2.0, 2.0, 5.0, 1.0]))
    kept, lesions = separated(mask, grid)
    assert [one.voxels for one in lesions] == [3, 1]
    assert [one.ml for one in lesions] == pytest.approx([0.06, 0.02])
    assert lesions[1].centre == (4.0, 6.0, 6.0)
    assert kept.sum() == 4
    kept, lesions = separated(mask, grid, least=2)
    assert [kept.sum(), len(lesions)] == [3, 1]
    assert separated(np.zeros_like(mask), grid)[1] == ()


def test_a_volume_is_standardised_over_the_brain_whatever_its_scale() -> None:
    image = media.read(CASE)
    brain = read_brain(image, NETWORK.spacing)
    assert brain.notes == ()
    scaled = replace(image, array=np.where(image.array > 0, image.array * 3.0 + 40, 0))
    zscored = replace(image, array=np.where(image.array > 0, (image.array - 200.0) / 70, -9.0))
    for other in (scaled, zscored):  # a background that isn't 0 is what the corners have
        torch.testing.assert_close(read_brain(other, NETWORK.spacing).x, brain.x, atol=1e-4, rtol=1e-4)


def test_what_is_no_stripped_flair_is_refused_or_told() -> None:
    image = media.read(CASE)
    with pytest.raises(MediaError, match="takes FLAIR MR"):
        read_brain(replace(image, meta={"modality": "CT"}), NETWORK.spacing)
    with pytest.raises(MediaError, match="no brain"):
        read_brain(replace(image, array=np.zeros_like(image.array)), NETWORK.spacing)
    with pytest.raises(MediaError, match="spacing"):
        read_brain(replace(image, spacing=None, affine=None), NETWORK.spacing)
    (case,) = load_dataset(CASE + "&skull=True&n=1")
    whole = media.read(case.image)
    assert "skull" in read_brain(whole, NETWORK.spacing).notes[0]
    assert not read_brain(whole, NETWORK.spacing, case.masks["brain"]).notes
    head = replace(whole, array=np.where(whole.array > np.percentile(whole.array, 20), whole.array, 0))
    assert "skull" in read_brain(head, NETWORK.spacing).notes[0]
    with pytest.raises(OptionError, match="brain mask has"):
        read_brain(whole, NETWORK.spacing, np.ones((2, 2, 2), np.uint8))
    named = replace(image, meta={"modality": "MR", "description": "t1_mprage"})
    assert "doesn't sound like FLAIR" in read_brain(named, NETWORK.spacing).notes[0]


def test_a_reference_gives_dice_and_the_sync_teacher_answers_too() -> None:
    (case,) = load_dataset(CASE + "&n=1")
    torch.manual_seed(0)
    model = FedCoT(NETWORK).eval()
    found = model.predict(case.image, reference=case.masks["mask"], brain_mask=case.masks["brain"])
    truth = case.masks["mask"] > 0
    overlap = 2 * (truth & (found.mask > 0)).sum() / (truth.sum() + found.mask.sum())
    assert found.measurements["dice"] == pytest.approx(overlap, abs=1e-4)
    assert not found.mask[case.masks["brain"] == 0].any()
    other = model.predict(case.image, network="sync")
    assert not np.array_equal(other.probability, found.probability)
    with pytest.raises(OptionError, match="no sync-teacher"):
        FedCoT(replace(NETWORK, sync=False)).eval().predict(case.image, network="sync")
