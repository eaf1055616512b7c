"""The private step: bit for bit DP-SGD without the filter, what strict accounting changes, and what is refused."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.models.base import PluginTests
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry
from zoo.errors import DataError, OptionError
from zoo.models.grad_align import claim as miniature
from zoo.models.grad_align import training as method
from zoo.models.grad_align.budget import Budget
from zoo.models.grad_align.model import GradAlign, GradAlignConfig
from zoo.models.grad_align.result import Privacy, chart
from zoo.models.grad_align.training import GradAlignRecipe, Tally, align, fit, settle, statement
from zoo.nn.per_sample import per_sample_gradients
from zoo.ops.cosine_filter import clip_factors
from zoo.training import Run

pytest.importorskip("opacus")

TINY = GradAlignRecipe(
    network=GradAlignConfig(channels=(4, 4, 4), groups=2, side=16), batch_size=8, epochs=3, lr=0.1, physical_batch=5
)


def samples(n: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    return x, (x[:, 0] > 0).long()


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def plan(n: int = 60, **changes) -> tuple[GradAlignRecipe, Budget]:
    return settle(replace(TINY, **changes), n, 47)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run_fit(seed: int = 0, x: torch.Tensor | None = None, **changes) -> tuple[nn.Module, Privacy]:
    features, y = samples()
    network = small_network()
    with Run(seed=seed, device="cpu", progress=False) as run:
        privacy = fit(network, features if x is None else x, y, *plan(**changes), run)
    return network, privacy


# ---- the step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cs", "magnitude", "std", "cov"])
@pytest.mark.parametrize("accounting", ["nonprivate", "paper", "strict"])
def test_a_threshold_of_minus_one_is_dpsgd_bit_for_bit(name: str, accounting: str):
    grads = 3 * torch.randn(9, 47)
    filtered = align(grads, *plan(filter=name, threshold=-1.0, accounting=accounting), draw())
    plain = align(grads, *plan(filter="none"), draw())
    assert torch.equal(filtered.aggregate, plain.aggregate)
    z = 0.8 * torch.randn(47, generator=draw())
    total = torch.zeros(47, dtype=torch.float64)
    for g, factor in zip(grads, clip_factors(plain.norms, 1.0), strict=True):
        total += factor.double() * g.double()
    assert torch.equal(plain.aggregate, ((total + z.double()) / 8).float())


def test_without_the_filter_the_step_is_that_of_opacus_optimizer():
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    x, y = samples(9)
    ours, theirs = small_network(), small_network()
    with per_sample_gradients(ours, "a test") as gradients:
        grads, _ = gradients(x, y, 64)
    step = align(grads, *plan(filter="none", sigma=0.0), draw()).aggregate
    wrapped = GradSampleModule(theirs, loss_reduction="sum")
    sgd = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        expected_batch_size=8,
        loss_reduction="mean",
    )
    F.cross_entropy(wrapped(x), y, reduction="sum").backward()
    before = torch.cat([p.detach().flatten() for p in theirs.parameters()])
    sgd.step()
    moved = before - torch.cat([p.detach().flatten() for p in theirs.parameters()])
    assert torch.allclose(step, moved, atol=1e-5)


def test_raw_gradients_are_never_averaged():
    grads = torch.randn(8, 47)
    grads[0] *= 1e6
    step = align(grads, *plan(filter="cs", threshold=0.0, sigma=0.0), draw()).aggregate
    assert step.norm() <= 1.0 + 1e-5


def test_an_empty_batch_is_noise_alone():
    for name in ("none", "cs", "cov", "random"):
        step = align(torch.zeros(0, 47), *plan(filter=name), draw())
        assert torch.allclose(step.aggregate, 0.8 * torch.randn(47, generator=draw()) / 8)


def test_an_empty_selection_is_noise_alone_where_strict_and_everybody_otherwise():
    grads = torch.cat([torch.eye(4), -torch.eye(4)])[:, :4].repeat(1, 2)  # cosines to a batch gradient of zero are 0
    strict = align(grads, *plan(filter="cs", accounting="strict", threshold=0.99, tau=1e-3), draw())
    assert not strict.kept.any()
    assert torch.allclose(strict.aggregate, 0.8 * torch.randn(8, generator=draw()) / 8)
    assert align(grads, *plan(filter="cs", threshold=0.99), draw()).kept.all()


def test_strict_divides_by_the_expected_size_whoever_is_kept():
    grads = torch.randn(8, 47) / 4 + 1.0
    grads[5:] -= 2.0  # three of eight point away, whatever is drawn
    strict = plan(filter="cs", accounting="strict", sigma=1e-6, tau=1e-3)
    result = align(grads, *strict, draw())
    kept = (grads * (1 / grads.norm(dim=1)).clamp(max=1)[:, None])[result.kept].sum(0) / 8
    assert result.kept.tolist() == [True] * 5 + [False] * 3
    assert torch.allclose(result.aggregate, kept, atol=1e-5)


@pytest.mark.parametrize("name", ["none", "cs"])
@pytest.mark.parametrize("accounting", ["nonprivate", "strict"])
def test_without_the_gradients_themselves_the_same_are_kept_and_the_weights_are_the_same(name: str, accounting: str):
    both = [
        run_fit(filter=name, accounting=accounting, sigma=0.3, threshold=0.05, gradients=way)
        for way in ("each", "ghost")
    ]
    assert both[0][1] == both[1][1]
    for one, other in zip(both[0][0].parameters(), both[1][0].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_gradients_that_are_not_finite_are_dropped_without_having_them(capsys):
    x, _ = samples()
    x[3] = float("nan")
    network, _ = run_fit(x=x, epochs=4, gradients="ghost", filter="cs")
    assert all(p.isfinite().all() for p in network.parameters())
    assert "weren't finite" in capsys.readouterr().err


def test_noise_on_similarities_grows_with_the_root_of_the_batch_where_strict():
    paper, strict = (plan(filter="cs", accounting=mode, tau=0.8, cs_clip=0.05) for mode in ("paper", "strict"))
    assert paper[1].cs_noise_std(0.05) == pytest.approx(0.08)
    assert strict[1].cs_noise_std(0.05) == pytest.approx(0.08 * math.sqrt(strict[1].batch_cap))
    assert plan(filter="cs")[1].cs_noise_std(0.05) == 0
    assert strict[0].cs_on == "clipped"


def test_private_similarities_change_from_draw_to_draw_but_their_seed_decides():
    grads = torch.randn(8, 47)
    private = plan(filter="cs", accounting="paper")
    assert torch.equal(align(grads, *private, draw(1)).cosine, align(grads, *private, draw(1)).cosine)
    assert not torch.equal(align(grads, *private, draw(1)).cosine, align(grads, *private, draw(2)).cosine)


def test_random_keep_keeps_its_share():
    kept = align(torch.randn(4000, 3), *plan(filter="random", keep=0.3), draw()).kept
    assert kept.float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_gradients_that_are_not_finite_are_dropped_counted_and_reported(capsys):
    x, _ = samples()
    x[3] = float("nan")
    network, _ = run_fit(x=x, epochs=4)
    assert all(p.isfinite().all() for p in network.parameters())
    assert "weren't finite" in capsys.readouterr().err


def test_the_count_of_dropped_gradients_survives_a_resume():
    again = Tally()
    again.load_state_dict(Tally(3).state_dict())
    assert again.dropped == 3


# ---- budgets ------------------------------------------------------------------------------------------------------


def test_a_target_alone_means_strict_and_is_used_up_but_not_passed():
    recipe, budget = plan(600, epsilon=3.0, filter="none")
    assert recipe.accounting == budget.accountant.accounting == "strict"
    assert budget.steps == budget.planned
    assert 2.9 < budget.accountant.epsilon(budget.steps) <= 3.0


def test_training_stops_before_the_target_is_exceeded():
    recipe, budget = plan(600, epsilon=2.0, sigma=0.9, filter="none", epochs=50)
    assert 0 < budget.steps < budget.planned
    assert budget.accountant.epsilon(budget.steps) <= 2.0 < budget.accountant.epsilon(budget.steps + 1)
    assert statement(recipe, budget, budget.steps).steps == budget.steps


@pytest.mark.parametrize("name", ["none", "cs", "magnitude", "std", "cov", "random"])
def test_nonprivate_means_infinite_whatever_the_noise(name: str):
    said = statement(*plan(filter=name, sigma=50.0), 10)
    assert said.epsilon == math.inf
    assert not said.guaranteed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.5, "filter": "cs"}, r"similarities alone \(tau 0.8\) spend"),
        ({"epsilon": 0.01, "filter": "none", "sigma": 0.5}, "a single step with sigma 0.5 spends"),
        ({"epsilon": 3.0, "accounting": "nonprivate"}, "accounting=nonprivate doesn't give"),
        ({"epsilon": 3.0, "batch_size": 61, "filter": "none"}, "batch_size 61 is more than the 60 training cases"),
        ({"epsilon": 3.0, "noise": "literal_independent", "filter": "none"}, "independent draws average out"),
        ({"accounting": "paper", "filter": "random"}, "control of the claim"),
        ({"accounting": "paper", "filter": "cs", "quantile": 0.5}, "quantile"),
        ({"accounting": "strict", "filter": "cs", "cs_on": "noisy"}, "choose cs_on=clipped"),
        ({"accounting": "strict", "filter": "cs", "denominator": "kept"}, "choose denominator=expected"),
        ({"accounting": "strict", "filter": "none", "sigma": 0.0}, "sigma 0 gives no guarantee"),
    ],
)
def test_guarantees_that_can_not_be_given_are_refused(changes: dict, message: str):
    with pytest.raises(OptionError, match=message) as refusal:
        plan(**changes)
    assert "\n" not in str(refusal.value)


def test_without_a_guarantee_a_batch_may_be_the_whole_set():
    assert [item.batch_size for item in plan(5)] == [5, 5]


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"mixed_precision": "bf16"}, "full precision"), ({"gradient_accumulation": 2}, "one process")],
)
def test_what_would_scale_gradients_behind_the_accountant_is_refused(settings: dict, message: str):
    with Run(device="cpu", progress=False, **settings) as run, pytest.raises(OptionError, match=message):
        fit(small_network(), *samples(), *plan(), run)


def test_the_run_records_epsilon_at_every_step(tmp_path: Path):
    x, y = samples()
    chosen = plan(filter="cs", accounting="strict", sigma=2.0, tau=5.0)
    with Run(tmp_path / "run", device="cpu", progress=False) as run:
        run.stage("network")
        privacy = fit(small_network(), x, y, *chosen, run)
    with open(tmp_path / "run" / "metrics" / "network.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["epsilon"]]
    spent = [float(row["epsilon"]) for row in rows]
    assert len(spent) == chosen[1].steps
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(privacy.epsilon)
    assert chart(tmp_path / "run" / "metrics" / "network.csv", privacy, 7, None).startswith(b"\x89PNG")


@pytest.mark.parametrize("noise", ["shared", "literal_independent"])
def test_equal_seeds_give_equal_weights(noise: str):
    a, b = (run_fit(1, noise=noise)[0].state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)


class TestGradAlign(PluginTests):
    name = "grad-align"
    recipe = replace(TINY, epsilon=8.0, filter="cov", accounting="paper", tau=5.0, epochs=4)
    data = "phantom:chest-xray?n=40&size=32"
    facts: ClassVar = {
        "accuracy, 150 unseen phantoms of three classes": "accuracy",
        "AUROC, 150 unseen phantoms": "auroc",
    }
    facts_on = ("phantom:chest-xray?n=150&seed=100000&size=48", "all")

    def test_weights_carry_the_statement_of_their_training_which_a_seed_makes_void(self, trained):
        privacy = trained.model.config.privacy
        assert (privacy.accounting, privacy.filter) == ("paper", "cov")
        assert 7.5 < privacy.epsilon <= 8.0
        assert privacy.to_dict()["epsilon"] is None
        assert "the noise came from a seed that was given" in privacy.sentence()
        assert replace(privacy, secret=True).to_dict()["epsilon"] == pytest.approx(privacy.epsilon, abs=1e-6)
        assert (trained.folder / "training.png").stat().st_size > 10_000


def private_fit(out: Path | None = None, steps: int | None = None, resume: bool = False, **options):
    """A network trained under a guarantee, stopped after some steps."""
    network, chosen = small_network(), plan(filter="none", epsilon=8.0)
    with Run(out, device="cpu", progress=False, checkpoint_every=1, resume=resume, **options) as run:
        if steps is not None:
            run.log = lambda **_: run.step + 1 >= steps and (_ for _ in ()).throw(KeyboardInterrupt)
        return network, fit(network, *samples(), *chosen, run)


def test_noise_under_a_guarantee_is_new_in_every_run_and_nobody_can_draw_it_again():
    (a, said), (b, _) = private_fit(), private_fit()
    assert not torch.equal(a[0].weight, b[0].weight)
    assert said.guaranteed
    assert "differentially private for each training image" in said.sentence()


def test_a_seed_that_is_given_voids_the_statement_and_says_so(capsys):
    (a, said), (b, _) = private_fit(seed=0), private_fit(seed=0)
    assert torch.equal(a[0].weight, b[0].weight)
    assert not said.guaranteed
    assert said.to_dict()["epsilon"] is None
    assert "the weights will state no guarantee; leave the seed out" in capsys.readouterr().err


def test_the_secret_survives_a_kill_in_the_checkpoint_and_nowhere_else(tmp_path: Path, monkeypatch):
    drawn = iter([123456789123456789, 987654321987654321])
    monkeypatch.setattr(method.secrets, "randbits", lambda bits: next(drawn))
    with pytest.raises(KeyboardInterrupt):
        private_fit(tmp_path / "run", steps=4)
    files = [
        path for path in (tmp_path / "run").rglob("*") if path.is_file() and b"123456789123456789" in path.read_bytes()
    ]
    assert files
    assert all("checkpoints" in path.parts for path in files)
    resumed, said = private_fit(tmp_path / "run", resume=True, seed=0)  # the seed comes too late to matter
    assert said.guaranteed
    monkeypatch.setattr(method.secrets, "randbits", lambda bits: 123456789123456789)
    assert torch.equal(resumed[0].weight, private_fit()[0][0].weight)


def test_own_classes_and_colours_go_in_by_the_config():
    network = replace(TINY.network, labels=("frog", "ship"), colour=True)
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 24, 3), np.uint8)
    cases = Dataset(
        "x", [Entry(str(i), Case(image, str(i), label=("frog", "ship")[i % 2])) for i, image in enumerate(images)]
    )
    x, y = method.load(cases, network)
    assert (x.shape, y.tolist()) == ((6, 3, 16, 16), [0, 1] * 3)
    assert float(x[0].mean()) == pytest.approx(0, abs=1e-5)
    assert not torch.allclose(x[0, 0], x[0, 1])
    found = GradAlign(network).eval().predict(images[0])
    assert list(found.probabilities) == ["frog", "ship"]
    assert found.notes == ()
    cifar = method.training.configure("cifar10")
    assert (len(cifar.network.labels), cifar.network.colour, cifar.epochs, cifar.lr) == (
        10,
        True,
        50,
        0.005,
    )  # Sec. 4.1


def test_a_label_of_another_set_is_named():
    strange = Dataset("x", [Entry("a", Case(np.zeros((20, 20), np.uint8), "a", label="covid"))])
    with pytest.raises(DataError, match=r"case a has the label 'covid'.*--set network\.labels"):
        method.load(strange, TINY.network)


# ---- claim ----------------------------------------------------------------------------------------------------------


def test_arms_of_one_seed_share_data_start_and_batches_and_the_filter_aligns():
    parts = miniature.mixture(3)
    again = miniature.mixture(3)
    assert torch.equal(parts.train.x, again.train.x)
    assert parts.train.x.shape == (3000, 100)
    plain, same, filtered = (
        miniature.fit_arm(replace(miniature.ARMS[arm], lr=0.2), parts, 3, 30) for arm in ("dpsgd", "dpsgd", "cs")
    )
    assert plain == same
    assert filtered["alignment"] > plain["alignment"]
    assert filtered["kept"] < plain["kept"] == 1


def test_the_accounted_arm_spends_what_dpsgd_spends():
    n = 3000
    plain = miniature.spent(miniature.ARMS["dpsgd"], n, 400)
    assert miniature.spent(miniature.ARMS["accounted"], n, 400) == pytest.approx(plain, rel=0.01)
    assert miniature.spent(miniature.ARMS["private"], n, 400) > 2 * plain
