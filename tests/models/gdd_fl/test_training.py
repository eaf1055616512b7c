"""The federation's single round, the server from messages alone, the arms beside it, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from tests.models.base import PluginTests
from zoo.data.case import Case
from zoo.data.sets import Dataset, Entry, load_dataset
from zoo.data.splits import PARTS, TrainData, divide
from zoo.data.synthetic import read
from zoo.errors import DataError, OptionError
from zoo.federated import federate
from zoo.models.gdd_fl import claim as miniature
from zoo.models.gdd_fl import training as room
from zoo.models.gdd_fl.data import Pool, calibration, classes_of, partitioned
from zoo.models.gdd_fl.model import GDDFL, GDDConfig, build_network
from zoo.models.gdd_fl.training import GDDRecipe, first_network, training
from zoo.training import Run

NET = GDDConfig(architecture="convnet", image_size=16, width=8, depth=2)
TINY = GDDRecipe(
    network=NET, extractor_width=8, extractor_depth=2, iterations=3, clients=2, least_steps=12, epochs=1, rounds=2,
    real_batch=8,
)  # fmt: skip
FIELDS = {"iterations": "3", "least_steps": "12", "real_batch": "8"}  # of the preset `check`
DATA = "phantom:skin-lesion?n=60&size=32&seed=600"
ARMS = ("dm", "dm-doubled", "random", "full", "fedavg")


@cache
def parts() -> TrainData:
    """Drawn once for all tests."""
    data = divide(load_dataset(DATA), training.split, TINY)
    return TrainData(*(getattr(data, part).in_memory() for part in PARTS))


class TestGDDFL(PluginTests):
    name = "gdd-fl"
    recipe = TINY
    data = DATA
    facts: ClassVar = {
        "AUROC, 293 other phantoms": "auroc",
        "balanced accuracy, 293 other phantoms": "balanced_accuracy",
        "sensitivity to melanoma, 293 other phantoms": "sensitivity",
        "specificity, 293 other phantoms": "specificity",
    }
    facts_on = ("phantom:skin-lesion?n=400&seed=20000&size=64", "all")

    def test_one_round_of_images_is_all_that_travels(self, trained: Any) -> None:
        rows = (trained.folder / "metrics" / "federated-communication.csv").read_text().splitlines()
        assert rows[0] == "step,round,client,phase,down,up"
        assert len(rows) == 3  # two clients, one round
        for row in rows[1:]:
            down, up = map(int, row.split(",")[-2:])
            assert down < 20  # the name of the exchange
            assert 2 * 3 * 16 * 16 < up < 2 * 3 * 16 * 16 + 600  # two images of bytes, their classes, three numbers

    def test_the_weights_hold_an_image_of_each_client_and_class(self, trained: Any) -> None:
        places = set(zip(trained.model.config.shown_clients, trained.model.config.shown_classes, strict=True))
        assert places == {(0, 0), (0, 1), (1, 0), (1, 1)}
        found = trained.model.predict("phantom:skin-lesion?seed=3&size=32")
        assert set(found.synthetic) == places
        assert trained.model.predict("phantom:skin-lesion?seed=3&size=32", distilled=False).synthetic == {}

    @pytest.mark.slow
    @pytest.mark.parametrize("engine", ["simulation", "deployment"])
    def test_flowers_engines_give_the_same_weights(self, engine: str, tmp_path: Path) -> None:
        one, other = (
            zoo.train("gdd-fl", DATA, out=tmp_path / name, preset="check", overrides=FIELDS, device="cpu", engine=name)
            for name in ("local", engine)
        )
        a, b = (zoo.load("gdd-fl", weights=str(folder)).state_dict() for folder in (one, other))
        assert all(torch.equal(a[name], b[name]) for name in a)
        ledgers = [(f / "metrics" / "federated-communication.csv").read_text() for f in (one, other)]
        assert ledgers[0] == ledgers[1]


# ---- messages --------------------------------------------------------------------------------------------------------


def test_clients_distil_by_command_and_the_server_trains_on_their_files_alone(zoo_cli: Any, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 100), ("a2", 0)):
        out = tmp_path / ("again" if name == "a2" else "sent") / f"{name[0]}.safetensors"
        mine = f"phantom:skin-lesion?n=40&seed={seed}&size=32"
        ran = zoo_cli("distill", "gdd-fl", "--data", mine, "--preset", "check", "--images-per-class", "2",
                      "--steps", "3", "--seed", "5", "--out", out, "--device", "cpu")  # fmt: skip
        assert ran.code == 0, ran.err
        assert f"{out.stat().st_size:,} bytes" in ran.out
        assert "argued in the paper, not proven" in ran.out
    assert (tmp_path / "sent" / "a.safetensors").read_bytes() == (tmp_path / "again" / "a.safetensors").read_bytes()
    made = read(tmp_path / "sent" / "a.safetensors")
    assert (len(made), made.facts["method"], made.facts["seed"], made.facts["iterations"]) == (4, "gdd", "5", "3")
    folder = zoo.train("gdd-fl", f"synthetic:{tmp_path / 'sent'}", out=tmp_path / "run", preset="check", device="cpu",
                       overrides={"least_steps": "5"})  # fmt: skip
    model = zoo.load("gdd-fl", weights=str(folder))
    assert (model.config.shown_clients, model.config.calibration) == ((0, 0, 1, 1), ())
    found = model.predict("phantom:skin-lesion?seed=3&size=32")
    assert (found.label, found.calibrated) == (None, False)
    assert "ranks images and is no probability" in " ".join(found.notes)
    assert "ranks images only" in found.summary()
    for arguments, said in (
        (("--set", "network.image_size=32"), "train on them with --set network.image_size=16"),
        (("--set", "baselines=dm"), "nothing to compare with"),
    ):
        ran = zoo_cli("train", "gdd-fl", "--data", f"synthetic:{tmp_path / 'sent'}", "--preset", "check", *arguments,
                      "--out", tmp_path / "no")  # fmt: skip
        assert (ran.code, said in ran.err) == (2, True)
    ran = zoo_cli("distill", "fed-mas", "--data", DATA, "--out", tmp_path / "x.safetensors")
    assert (ran.code, ran.err.strip().endswith("fed-mas distils no data set; gdd-fl does")) == (2, True)


def broken(made: Any, how: str) -> Any:
    images, y = made.images.float() / 255, made.y
    if how == "NaN":
        return made._replace(images=images * math.nan)
    if how == "class":
        return made._replace(y=y + 2)
    return made._replace(images=images[..., :8, :8])


@pytest.mark.parametrize(
    ("how", "status"), [("NaN", "NaN or infinity in images"), ("class", "none of 2 classes"), ("size", "not of")]
)
def test_a_message_of_no_use_is_left_out_and_named(how: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    distil: Callable[..., Any] = room.distil
    monkeypatch.setattr(room, "distil", lambda images, *rest: broken(distil(images, *rest), how)
                        if len(images) == least else distil(images, *rest))  # fmt: skip
    data, recipe = parts(), replace(TINY, partition="column:device")
    held = partitioned("column:device", data.train, classes_of(data.train, NET.labels), 5, 1.0, 0)
    sizes = [len(part) for part in held]
    least = next(n for n in sizes if sizes.count(n) == 1)
    with Run(None, seed=0, device="cpu", progress=False) as run:
        outcome = federate(room.build, recipe, data, run)
    named = [row["status"] for row in outcome.clients]
    assert status in named[sizes.index(least)]
    assert named.count("ok") == len(held) - 1 == len(outcome.state.own["sets"])


# ---- the arms --------------------------------------------------------------------------------------------------------


def test_every_arm_is_measured_and_its_bytes_counted(tmp_path: Path) -> None:
    recipe = replace(TINY, baselines=ARMS, allow_real=True, lrs=("dm=0.3",))
    with Run(tmp_path, seed=0, device="cpu", progress=False) as run:
        training.run(recipe, parts(), run)
    record = json.loads((tmp_path / "comparison.json").read_text())
    arms = {row["method"]: row for row in record["arms"]}
    assert list(arms) == ["gdd", *ARMS]
    assert (arms["gdd"]["lr"], arms["dm"]["lr"], arms["random"]["lr"]) == (1.0, 0.3, None)
    assert all(row["auc"] is None or 0 <= row["auc"] <= 1 for row in arms.values())
    weights = sum(t.numel() * t.element_size() for t in build_network(NET).state_dict().values())
    assert record["fedavg_bytes_per_client_and_round"] == 2 * weights
    assert 0 < arms["fedavg"]["up"] / (weights * 2 * 2) - 1 < 0.5  # two clients, two rounds, and headers
    assert min(Image.open(tmp_path / "comparison.png").size) > 400
    assert min(Image.open(tmp_path / "split.png").size) > 100


def test_the_server_starts_alike_in_every_arm_and_trains_on_what_came() -> None:
    a, b = (first_network(NET, 3).state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    pool = Pool.of([(4, torch.full((1, 3, 16, 16), 255, dtype=torch.uint8), torch.tensor([1])),
                    (7, torch.zeros(2, 3, 16, 16), torch.tensor([0, 0]))])  # fmt: skip
    assert (pool.images.dtype, pool.images[0].min(), pool.clients) == (torch.float32, 1.0, (4, 7, 7))
    assert set(pool.shown()) == {(4, 1), (7, 0)}


def test_classes_are_shared_out_and_carcinomas_left_out() -> None:
    names = ["MEL"] * 6 + ["NV"] * 11 + ["BCC"] * 3
    cases = Dataset("x", [Entry(str(i), Case(None, str(i), label=name)) for i, name in enumerate(names)])
    y = classes_of(cases, NET.labels)
    held = partitioned("stratified", cases, y, 3, 1.0, 0)
    assert sorted(np.concatenate(held).tolist()) == list(range(17))
    assert [int((y[part] == 1).sum()) for part in held] == [2, 2, 2]
    assert max(map(len, held)) - min(map(len, held)) <= 1
    assert all((y[part] >= 0).all() for part in partitioned("dirichlet", cases, y, 3, 1.0, 0))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "random"}, "say so with allow_real=true"),
        ({"init": "real"}, "say so with allow_real=true"),
        ({"baselines": ("random",)}, "say so with allow_real=true"),
        ({"baselines": ("gdd",)}, "name each arm once"),
        ({"lrs": ("gdd=fast",)}, "lrs must read METHOD=NUMBER"),
        ({"augment": ("blur",)}, "'blur' is none of colour"),
        ({"clients": 1}, "at least two clients"),
        ({"clients": 500}, "too few for 500 clients"),
        ({"partition": "hospital"}, "partition must be iid, dirichlet"),
    ],
)
def test_bad_input_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with (
        pytest.raises((OptionError, DataError), match=sentence) as refused,
        Run(None, seed=0, device="cpu", progress=False) as run,
    ):
        training.run(replace(TINY, **changes), parts(), run)
    assert "\n" not in str(refused.value)


# ---- calibration, predict, networks ----------------------------------------------------------------------------------


def test_calibration_gives_back_the_truth_of_a_simulated_score() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(2, 1.5, 20_000)
    y = (rng.random(len(z)) < 1 / (1 + np.exp(-(0.7 * z - 3)))).astype(np.int64)
    logits = np.stack([-z / 2, z / 2], 1)
    slope, offset = calibration(logits, y)
    assert (slope, offset) == (pytest.approx(0.7, abs=0.05), pytest.approx(-3, abs=0.12))
    assert calibration(-logits, y)[0] == 0  # ranks the wrong way round: only the share is left
    assert calibration(logits[:30], np.r_[np.ones(9), np.zeros(21)].astype(np.int64)) == ()
    model = GDDFL(replace(NET, calibration=(slope, offset)))
    p = model._probabilities(torch.tensor([[0.0, 4.0]], dtype=torch.float64))
    assert float(p[0, 1]) == pytest.approx(1 / (1 + math.exp(-(slope * 4 + offset))))


def test_the_networks_have_the_papers_and_the_released_sizes() -> None:
    released = training.configure("paper", {"recipe": "released"})
    assert (released.network.architecture, released.objective, released.redraw) == ("resnet18-instance", "joint", False)
    assert build_network(released.network).head.in_features == 8192
    assert build_network(replace(released.network, image_size=224)).head.in_features == 512 * 49
    paper = training.configure("paper")
    assert (paper.clients, paper.epochs, paper.lr, paper.level, paper.objective) == (10, 50, 1.0, "input", "sum")
    sent = 10 * 2 * 3 * 224 * 224
    assert sent / 2**20 == pytest.approx(2.88, abs=0.015)  # Table 1
    with pytest.raises(ValueError, match="at least 32 px"):
        GDDConfig(architecture="resnet18-instance", image_size=16)


def test_the_claims_clients_differ_in_colour_and_share_of_melanomas() -> None:
    drawn = miniature.draw(0, quick=True)
    colours = [np.mean([c.image.mean((0, 1)) for c in drawn.train if c.attributes["device"] == f"client-{i}"], 0)
               for i in range(miniature.CLIENTS)]  # fmt: skip
    assert np.ptp(np.stack(colours), 0).max() > 20
    assert len(drawn.train) == 4 * 24
    assert len(drawn.unseen) == 3 * 20
