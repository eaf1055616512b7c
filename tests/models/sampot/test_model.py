"""A click climbs the score through SAM's decoder and prompt encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo import media
from zoo.data.phantoms.chest import chest_xray
from zoo.errors import OptionError
from zoo.models.sampot.model import Regressor, Sampot, SampotConfig, grey_of, grid_of
from zoo.nn.promptable import Frame


@pytest.fixture(scope="module")
def model(tiny_sam: str) -> Sampot:
    torch.manual_seed(0)
    model = Sampot(SampotConfig(sam=tiny_sam, widths=(8, 8))).eval()
    for parameter in model.regressor.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)  # so that the score is not flat
    return model


@pytest.fixture(scope="module")
def case():
    return chest_xray(1, size=96)


@pytest.fixture(scope="module")
def scene(model: Sampot, case):
    with torch.no_grad():
        return model.scene(grey_of(media.read(case.image)))


# ---- the score ----


def test_the_regressor_has_five_convolutions_and_a_tenth_of_a_million_parameters() -> None:
    regressor = Regressor((16, 32, 64, 128))
    convolutions = [m for m in regressor.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [tuple(m.weight.shape[:2]) for m in convolutions] == [(16, 2), (32, 16), (64, 32), (128, 64), (1, 128)]
    assert sum(p.numel() for p in regressor.parameters()) == pytest.approx(1e5, rel=0.05)
    score = regressor.eval()(torch.rand(3, 1, 256, 256), torch.rand(3, 1, 256, 256))
    assert score.shape == (3,)
    assert ((score > 0) & (score < 1)).all()


def test_the_score_sees_an_almost_binary_mask_and_nothing_beside_the_image(model: Sampot) -> None:
    wide = model.scene(np.random.default_rng(0).random((24, 48)).astype(np.float32))
    assert wide.valid[0, 0].sum() == 32 * 16  # the lower half of the square is empty
    assert not wide.grey[0, 0, 16:].any()
    seen = []
    handle = model.regressor.net[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model(wide, torch.full((1, 1, 32, 32), 2.0), torch.zeros(1))
    handle.remove()
    mask = seen[0][0, 1]
    torch.testing.assert_close(mask[:16], torch.full((16, 32), 5.0 * 2.0).sigmoid())
    assert not mask[16:].any()


# ---- the gradient ----


def test_the_gradient_to_the_click_is_that_of_central_differences(tiny_sam: str, case) -> None:
    model = Sampot(SampotConfig(sam=tiny_sam, widths=(8, 8), slope=1.0)).eval()
    torch.manual_seed(0)
    for parameter in model.regressor.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    with torch.no_grad():
        single = model.scene(grey_of(media.read(case.image)))
    model.double()
    model.base.sam.double()
    scene = single._replace(features=single.features.double(), grey=single.grey.double(), valid=single.valid.double())
    points = torch.tensor([[20.0, 31.0], [40.5, 12.25]], dtype=torch.float64, requires_grad=True)

    def value(at: torch.Tensor) -> torch.Tensor:
        return model(scene, *model.masks(scene, at))

    (found,) = torch.autograd.grad(value(points).sum(), points)
    h = 1e-4
    for k in range(2):
        for axis in range(2):
            step = torch.zeros_like(points)
            step[k, axis] = h
            with torch.no_grad():
                slope = (value(points + step)[k] - value(points - step)[k]) / (2 * h)
            assert float(found[k, axis]) == pytest.approx(float(slope), rel=1e-3, abs=1e-9)
    assert found.abs().min() > 0


def test_the_click_moves_by_a_step_of_adam_up_the_score_and_no_weight_gets_a_gradient(model: Sampot, scene) -> None:
    start = torch.tensor([[30.0, 30.0]])
    path = model.evolve(scene, start, steps=3, step_size=16.0)
    assert path.points.shape == (4, 1, 2)
    moved = path.points[1] - path.points[0]
    torch.testing.assert_close(moved.abs(), torch.full((1, 2), 1.0), rtol=1e-3, atol=1e-3)  # 16 px of 1024 are 1 of 64
    leaf = start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(scene, *model.masks(scene, leaf)).sum(), leaf)
    assert torch.equal(moved.sign(), slope.sign())
    assert all(p.grad is None for p in [*model.parameters(), *model.base.sam.parameters()])


def test_small_slopes_still_move_the_click(model: Sampot, scene) -> None:
    path = model.evolve(scene, torch.tensor([[30.0, 30.0]]), steps=1, step_size=16.0,
                        score=lambda *given: 1e-4 * model(*given))  # fmt: skip
    assert (path.points[1] - path.points[0]).abs().min() > 0.5


def test_several_clicks_climb_independently(model: Sampot, scene) -> None:
    starts = torch.tensor([[10.0, 12.0], [40.0, 33.0]])
    both = model.evolve(scene, starts, steps=3, step_size=10.0)
    alone = model.evolve(scene, starts[1:], steps=3, step_size=10.0)
    torch.testing.assert_close(both.points[:, 1:], alone.points, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("way", ["gradient", "random"])
def test_the_best_step_of_the_path_wins_and_clicks_stay_on_the_image(model: Sampot, way: str) -> None:
    wide = model.scene(np.random.default_rng(0).random((24, 48)).astype(np.float32))
    starts = torch.tensor([[60.0, 30.0], [1.0, 1.0]])
    if way == "gradient":
        path = model.evolve(wide, starts, steps=8, step_size=200.0)
    else:
        path = model.wander(wide, starts, steps=8, rng=np.random.default_rng(0))
    assert path.points[1:, :, 0].amax() <= 63
    assert path.points[1:, :, 1].amax() <= 31
    assert path.points.amin() >= 0
    steps, scores = path.best()
    assert torch.equal(scores, path.scores.amax(0))
    assert (scores >= path.scores[0]).all()
    assert path.scores[steps, torch.arange(2)].tolist() == scores.tolist()


def test_random_search_scores_as_many_clicks_and_stays_near_the_best(model: Sampot, scene, case) -> None:
    a, b = (model.wander(scene, torch.tensor([[30.0, 30.0]]), steps=9, rng=np.random.default_rng(s)) for s in (0, 1))
    assert a.points.shape == model.evolve(scene, torch.tensor([[30.0, 30.0]]), steps=9, step_size=1.0).points.shape
    assert not torch.equal(a.points, b.points)
    assert torch.equal(a.points[0], torch.tensor([[30.0, 30.0]]))
    found = model.predict(case.image, point=(70, 50), steps=9, search="random")
    assert found.panels()[0].title == "clicks tried"  # they are no path


# ---- predict ----


def test_without_a_click_the_best_of_a_grid_starts(model: Sampot, case) -> None:
    found = model.predict(case.image, steps=2, grid=4)
    assert any("no click was given" in note for note in found.notes)
    assert found.map.shape == (4, 4)
    row, column = np.unravel_index(found.map.argmax(), (4, 4))
    np.testing.assert_allclose(found.trajectory[0], [(column + 0.5) * 24, (row + 0.5) * 24], atol=0.1)
    assert found.scores[0] == pytest.approx(found.map.max(), abs=1e-5)


def test_a_grid_covers_the_image_and_not_the_padding() -> None:
    points = grid_of(Frame(24, 48, 64), 2)
    assert points.tolist() == [[16.0, 8.0], [48.0, 8.0], [16.0, 24.0], [48.0, 24.0]]


def test_a_prediction_has_both_masks_and_the_way_between(model: Sampot, case, tmp_path: Path) -> None:
    truth = case.masks["left_lung"]
    found = model.predict(case.image, point=(70, 50), steps=4, multistart=3, gt=truth)
    assert found.mask.shape == found.first.shape == found.probability.shape == (96, 96)
    assert found.trajectory.shape == (5, 2)
    assert found.scores[found.step] == found.scores.max() >= found.measurements["expected Dice, first"] - 1e-4
    wanted = 2 * (found.mask & truth).sum() / (found.mask.sum() + truth.sum())
    assert found.measurements["Dice, evolved"] == pytest.approx(wanted, abs=1e-3)
    record = json.loads(json.dumps(found.to_dict()))
    assert len(record["trajectory"]) == 5
    assert record["starts"] == 3
    assert len(found.panels()) == 4
    assert {path.name for path in found.save(tmp_path, "r")} == {"r.png", "r.json", "r_mask.png"}


def test_a_mask_that_wandered_off_is_suspicious_and_can_be_kept_back(model: Sampot, case, monkeypatch) -> None:
    plain = model.predict(case.image, point=(70, 50), steps=0)
    assert plain.step == 0
    assert np.array_equal(plain.mask > 0, plain.first)
    from zoo.models.sampot import result

    monkeypatch.setattr(result, "LEAST_OVERLAP", 1.1)  # so that any mask wandered off
    with_it, without = (model.predict(case.image, point=(70, 50), steps=3, safeguard=s) for s in ("overlap", "none"))
    assert with_it.suspicious
    assert without.suspicious
    assert np.array_equal(with_it.mask > 0, with_it.first)
    assert with_it.to_dict()["kept_first_mask"] is True
    assert any("first mask was kept" in note for note in with_it.notes)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"point": (96, 4)}, "point 96,4 is not on the image"),
        ({"gt": np.ones((5, 6), np.uint8)}, "the mask gt is 6 x 5 px and the image 96 x 96"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(model: Sampot, case, given: dict, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        model.predict(case.image, steps=0, **given)
