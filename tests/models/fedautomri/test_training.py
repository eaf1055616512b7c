"""The unrolled step, the searched cell, both federations, and the moving average."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.base import PluginTests
from tests.models.engines import assert_alike_on_every_engine
from zoo.data import phantoms
from zoo.data.case import Case
from zoo.data.kspace import lines
from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData
from zoo.data.splits import divide as split_data
from zoo.errors import DataError, OptionError
from zoo.federated import Context, State, Update, federate
from zoo.models.fedautomri.baselines import build_network, matched_genotype, random_genotype, size_of
from zoo.models.fedautomri.cell import EDGES, OPERATIONS, Norm, Operation, Wiring, chosen
from zoo.models.fedautomri.data import Sampling, Slices, fitted, load_slices
from zoo.models.fedautomri.network import (
    CellDenoiser,
    FedAutoMRIConfig,
    Unrolled,
    conjugate_gradients,
    consistent,
    normal_operator,
)
from zoo.models.fedautomri.training import (
    Ema,
    FedAutoMRIRecipe,
    build,
    build_search,
    client,
    search_client,
    train,
    training,
)  # fmt: skip
from zoo.training import Run

SMALL = FedAutoMRIConfig(unroll=2, cells=2, channels=4)
TINY = FedAutoMRIRecipe(
    network=replace(SMALL, cells=1), partition="iid", clients=2, size=32, search_rounds=2, search_steps=1,
    search_batch=2, rounds=6, local_steps=1, batch_size=2, lr=5e-3,
)  # fmt: skip


class TestFedAutoMRI(PluginTests):
    name = "fedautomri"
    recipe = TINY
    data = "phantom:k-space?n=10&size=32"

    def test_another_seed_gives_other_weights(self, training: Any, tiny: Any, parts: Any, trained: Any) -> None:
        """And perhaps another cell, whose weights have other names."""
        with Run(None, seed=1, device="cpu", progress=False) as run:
            model = training.run(tiny, parts, run)
        assert not torch.equal(model.network.denoiser.stem.weight, trained.model.network.denoiser.stem.weight)

    def test_the_cell_that_was_found_is_in_the_configuration(self, trained: Any) -> None:
        assert [len(edge) for edge in trained.model.config.genotype] == [2, 2, 2]
        assert not any("alpha" in name for name in trained.model.state_dict())


def complexes(*shape: int, seed: int = 0) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.complex(torch.randn(shape, generator=chance), torch.randn(shape, generator=chance))


def sampled(h: int, w: int, seed: int = 0) -> Tensor:
    return (torch.rand(1, h, w, generator=torch.Generator().manual_seed(seed)) > 0.6).float()


def slices(count: int = 6, size: int = 32, noise: float = 0.0) -> Slices:
    made = [phantoms.make(f"phantom:k-space?size={size}&seed={seed}") for seed in range(count)]
    return load_slices(made, size, Sampling(3.0, 0.1, noise))


# ---- the unrolled step (Eq. 3) ---------------------------------------------------------------------------------------


def test_data_consistency_blends_what_was_measured_and_keeps_the_denoisers_rest() -> None:
    r, k, mask, weight = (
        complexes(2, 9, 12),
        complexes(2, 9, 12, seed=1),
        sampled(9, 12).expand(2, 9, 12),
        torch.tensor(0.3),
    )
    found = torch.fft.fft2(consistent(r, mask * k, mask, weight), norm="ortho")
    fr = torch.fft.fft2(r, norm="ortho")
    expected = torch.where(mask > 0, (k + 0.3 * fr) / 1.3, fr)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    projected = torch.fft.fft2(consistent(r, mask * k, mask, torch.tensor(1e-7)), norm="ortho")
    torch.testing.assert_close(projected * mask, k * mask, rtol=1e-4, atol=1e-4)


def test_the_step_solves_the_normal_equations() -> None:
    r, k, mask = complexes(1, 8, 8), complexes(1, 8, 8, seed=1), sampled(8, 8)
    x = consistent(r, mask * k, mask, torch.tensor(0.2))
    one = torch.ones(1, 1, 8, 8, dtype=torch.complex64)
    left = normal_operator(x, mask, one) + 0.2 * x
    right = torch.fft.ifft2(mask * k, norm="ortho") + 0.2 * r
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    found = conjugate_gradients(right, mask, one, torch.tensor(0.2), iterations=30)
    torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-4)


def test_the_operator_of_several_coils_is_its_own_adjoint() -> None:
    maps, mask, x, y = complexes(1, 3, 8, 7), sampled(8, 7), complexes(1, 8, 7, seed=2), complexes(1, 8, 7, seed=3)
    one = (normal_operator(x, mask, maps).conj() * y).sum()
    other = (x.conj() * normal_operator(y, mask, maps)).sum()
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_with_all_lines_and_a_denoiser_that_does_nothing_the_input_comes_back() -> None:
    network = Unrolled(SMALL)
    assert isinstance(network.denoiser, CellDenoiser)
    nn.init.zeros_(network.denoiser.head.weight)
    nn.init.zeros_(network.denoiser.head.bias)
    x = torch.randn(2, 2, 9, 11, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(x, torch.ones(2, 9, 11)), x, rtol=1e-4, atol=1e-5)


# ---- the cell --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operations_dense_kernel_is_the_operation(name: str) -> None:
    kind, k, dilation = OPERATIONS[name]
    torch.manual_seed(0)
    operation = Operation(name, 4)
    x = torch.randn(2, 4, 10, 12)
    if kind == "std":
        expected = F.conv2d(x, operation.weight, padding=dilation * (k // 2), dilation=dilation)
    else:
        expected = F.conv2d(F.conv2d(x, operation.depthwise[:, None], padding=k // 2, groups=4),
                            operation.pointwise[:, :, None, None])  # fmt: skip
    torch.testing.assert_close(F.conv2d(x, operation.dense(7), padding=3), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(operation(x), expected)


@pytest.mark.parametrize("wiring", EDGES)
@pytest.mark.parametrize("norm", ["none", "instance", "batch"])
def test_a_derived_cell_is_the_searched_one_with_its_operations_at_one_and_others_at_zero(
    wiring: Wiring, norm: Norm
) -> None:
    torch.manual_seed(1)
    config = replace(SMALL, wiring=wiring, norm=norm)
    searched = CellDenoiser(config, search=True)
    genotype = random_genotype(np.random.default_rng(0), edges=len(EDGES[wiring]))
    derived = CellDenoiser(replace(config, genotype=genotype))
    names = list(OPERATIONS)
    weights = {}
    for name, at_first in derived.state_dict().items():
        parts = name.split(".")
        if "edges" in parts:
            parts[4] = str(names.index(genotype[int(parts[3])][int(parts[4])]))
        weights[name] = searched.state_dict().get(".".join(parts), at_first)  # norms have weights from 1 and 0, now
    derived.load_state_dict(weights)
    mix = torch.zeros(len(genotype), 8)
    for place, edge in enumerate(genotype):
        mix[place, [names.index(one) for one in edge]] = 1.0
    x = torch.randn(2, 2, 12, 12)
    made = [cell.sends(mix) for cell in searched.cells]  # type: ignore[operator]
    torch.testing.assert_close(derived(x, derived.prepare()), searched(x, made), rtol=1e-4, atol=1e-5)


def test_a_cell_of_darts_is_the_sum_over_its_nine_edges() -> None:
    torch.manual_seed(2)
    denoiser = CellDenoiser(replace(SMALL, wiring="darts3", cells=1))
    cell: Any = denoiser.cells[0]
    before, last = torch.randn(2, 1, 4, 9, 9)
    one, other = cell.merge.weight.chunk(2)
    nodes = [F.conv2d(before, one), F.conv2d(last, other)]
    for node in (2, 3, 4):
        into = [place for place, pair in enumerate(EDGES["darts3"]) if pair[1] == node]
        sources = [EDGES["darts3"][place][0] for place in into]
        assert sources == list(range(node))
        nodes.append(sum((operation(nodes[source].relu()) for place, source in zip(into, sources, strict=True)
                          for operation in cell.edges[place]), torch.zeros(())))  # fmt: skip
    expected = F.conv2d(torch.cat(nodes[2:], 1), cell.join.weight)
    torch.testing.assert_close(cell(before, last, cell.sends()), expected, rtol=1e-4, atol=1e-5)


def test_each_edge_keeps_the_two_of_largest_alpha() -> None:
    alpha = torch.zeros(3, 8)
    alpha[0, [1, 6]], alpha[1, [0, 7]], alpha[2, [3, 4]] = 1.0, 2.0, 3.0
    names = list(OPERATIONS)
    assert chosen(alpha) == ((names[1], names[6]), (names[0], names[7]), (names[3], names[4]))


def test_sizes_are_the_papers() -> None:
    def count(config: FedAutoMRIConfig) -> int:
        return sum(p.numel() for p in build_network(config).parameters())

    default = FedAutoMRIConfig()
    assert count(replace(default, denoiser="hand-made")) == 261_380 + 1  # and lambda
    assert count(replace(default, denoiser="u-net")) == 7_756_418
    assert count(training.configure("modl").network) == 112_896 + 516 + 1 == 113_413
    plain, normalised = (count(replace(default, norm=norm)) for norm in ("none", "batch"))
    assert normalised - plain == 3 * 3 * 2 * 2 * 8  # cells, edges, operations, gamma and beta, channels
    rng = np.random.default_rng(0)
    sizes = [count(replace(default, genotype=random_genotype(rng))) for _ in range(200)]
    assert 12_000 < np.mean(sizes) < 20_000
    like = random_genotype(rng)
    other = matched_genotype(like, 8, rng)
    assert other != like
    assert abs(size_of(other, 8) - size_of(like, 8)) < 0.1 * size_of(like, 8)
    nine = replace(default, wiring="darts3", cells=1)
    sizes = [count(replace(nine, genotype=random_genotype(rng, edges=9))) for _ in range(50)]
    assert 14_000 < np.mean(sizes) < 20_000


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"genotype": (("std_conv_3x3",),)}, "3 edges"),
        ({"genotype": (("pool",),) * 3}, "no operation"),
        ({"genotype": (("std_conv_3x3",) * 2,) * 3}, "once"),
        ({"unet": (8,)}, "two levels"),
        ({"wiring": "darts3", "genotype": (("std_conv_3x3",),) * 3}, "9 edges"),
    ],
)
def test_what_cannot_be_built_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(SMALL, **wrong)


# ---- the federations -------------------------------------------------------------------------------------------------


def context(round_: int = 1) -> Context:
    return Context(0, round_, "train", torch.device("cpu"), {}, {})


def test_a_search_step_moves_alpha_by_both_losses_and_the_weights_by_training_alone() -> None:
    moved = {}
    for beta in (0.0, 1.0):
        torch.manual_seed(0)
        network = build_network(SMALL, search=True)
        before = {name: t.clone() for name, t in network.state_dict().items()}
        search_client(network, slices(), np.random.default_rng(0), context(), replace(TINY, beta=beta))  # type: ignore[arg-type]
        moved[beta] = {name: t - before[name] for name, t in network.state_dict().items()}
    assert moved[1.0]["denoiser.alpha"].any()
    assert not torch.equal(moved[0.0]["denoiser.alpha"], moved[1.0]["denoiser.alpha"])
    assert torch.equal(moved[0.0]["denoiser.stem.weight"], moved[1.0]["denoiser.stem.weight"])


def test_the_first_rounds_train_one_iteration_and_gradients_are_clipped() -> None:
    recipe = replace(TINY, pretrain_rounds=1, grad_clip=1e-6, local_steps=2)
    network = build_network(SMALL)
    for round_, iterations in ((1, 1), (2, SMALL.unroll)):
        client(network, slices(), np.random.default_rng(0), context(round_), recipe)
        assert network.unroll == iterations
    assert max(float(p.grad.abs().max()) for p in network.parameters() if p.grad is not None) <= 1e-6


@pytest.mark.parametrize("network", [{"norm": "batch"}, {"norm": "instance", "wiring": "darts3"}])
def test_other_readings_of_the_cell_are_searched_and_trained(network: dict[str, Any]) -> None:
    cases = load_dataset("phantom:k-space?n=6&size=32")
    recipe = replace(TINY, network=replace(SMALL, cells=1, **network), search_rounds=1, rounds=1)
    with Run(None, seed=0, device="cpu", progress=False) as run:
        model = train(recipe, TrainData(cases, cases.subset([]), cases.subset([])), run)
    assert len(model.config.genotype) == len(EDGES[recipe.network.wiring])
    assert "the cell" in [panel.title for panel in model.predict("phantom:k-space?size=32").panels()]


def test_with_the_average_at_the_server_clients_start_from_it_and_it_is_the_result() -> None:
    cases = load_dataset("phantom:k-space?n=8&size=32")
    data = TrainData(cases, cases.subset([]), cases.subset([]))
    ends = {}
    for mode in ("server", "eval", "off"):
        with Run(None, seed=0, device="cpu", progress=False) as run:
            ends[mode] = federate(build, replace(TINY, cell="given", rounds=2, ema_mode=mode), data, run).state
    sent = ends["server"].own["raw"]["denoiser.stem.weight"]  # m = (1 - gamma) (gamma w1 + w2), gamma = 1/2
    torch.testing.assert_close(ends["server"].network["denoiser.stem.weight"], sent / 0.75)
    assert not torch.equal(ends["server"].network["denoiser.stem.weight"], ends["off"].network["denoiser.stem.weight"])
    torch.testing.assert_close(ends["eval"].network, ends["off"].network)  # it takes no part in the training


@pytest.mark.slow
@pytest.mark.parametrize("made", [build, build_search])
def test_three_engines_give_the_same_weights(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = "phantom:k-space?n=8&size=32"
    recipe = replace(TINY, rounds=2)
    parts = split_data(load_dataset(data), training.split, recipe)
    assert_alike_on_every_engine(made, recipe, parts, "fedautomri", data, training.split, tmp_path, monkeypatch)


def test_the_moving_average_of_what_stays_is_what_stays_in_every_round() -> None:
    w = {"w": torch.tensor([2.0, -1.0]), "n": torch.tensor(3)}
    state, rule = State({"network": w}), Ema("server", 0.9)
    for round_ in (1, 2, 3, 10):
        update = Update({"network": w}, num_examples=1)
        update.weight = 1.0
        state = rule([update], replace(state, round=round_ if round_ < 10 else 4))
        torch.testing.assert_close(state.network["w"], w["w"])


def test_a_client_that_mixes_starts_from_its_own_weights_and_the_servers() -> None:
    network, here = build_network(SMALL), context()
    recipe = replace(TINY, ema_mode="client_mix", gamma=0.25, lr=0.0, lr_end=0.0, weight_decay=0.0)
    here.kept["own"] = {name: torch.ones_like(t) for name, t in network.state_dict().items()}
    before = network.state_dict()["denoiser.stem.weight"].clone()
    client(network, slices(), np.random.default_rng(0), here, recipe)
    torch.testing.assert_close(network.state_dict()["denoiser.stem.weight"], 0.75 * before + 0.25)


def test_clients_that_mix_end_with_weights_of_their_own() -> None:
    cases = load_dataset("phantom:k-space?n=8&size=32")
    data = TrainData(cases, cases.subset([]), cases.subset([]))
    recipe = replace(TINY, cell="given", ema_mode="client_mix", rounds=2, partition="column:site")
    with Run(None, seed=0, device="cpu", progress=False) as run:
        model = train(recipe, data, run)
    assert set(model.config.clients) <= {"a", "b", "c"}
    name = model.config.clients[0]
    own, of_all = (model.predict("phantom:k-space?size=32&seed=9", client=one) for one in (name, "global"))
    assert not np.array_equal(own.output, of_all.output)
    with pytest.raises(OptionError, match="no client 'z'"):
        model.predict("phantom:k-space?size=32", client="z")


def test_batches_are_scaled_by_what_is_seen_and_leave_other_lines_out() -> None:
    batch = slices(noise=0.01).batch(4, np.random.default_rng(0))
    torch.testing.assert_close(batch.x0.norm(dim=1).amax((-2, -1)), torch.ones(4))
    assert len({tuple(one.flatten().tolist()) for one in batch.mask}) > 1
    k = torch.fft.fft2(torch.complex(batch.x0[:, 0], batch.x0[:, 1]), norm="ortho")
    assert float((k.abs() * (1 - batch.mask)).max()) < 1e-5
    assert fitted(np.ones((1, 30, 9), complex), 16).shape == (1, 16, 16)


def test_what_is_not_fully_sampled_teaches_nothing() -> None:
    case = phantoms.make("phantom:k-space?size=32")
    mask = lines((32, 32), 4, 0.1, np.random.default_rng(0))
    with pytest.raises(DataError, match="fully sampled"):
        load_slices(
            [Case(case.image, "x", attributes={"kspace": case.attributes["kspace"] * mask})], 32, Sampling(4, 0.1)
        )
    assert build_search(TINY, TrainData(*[load_dataset("phantom:k-space?n=4&size=32")] * 3), 0).rounds == 2
