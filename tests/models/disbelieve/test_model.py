"""The classifier: networks, and predictions beside poisoned copies."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from zoo.errors import OptionError
from zoo.models.disbelieve.model import Curve, Disbelieve, DisbelieveConfig, build_network
from zoo.models.disbelieve.result import split_name

CURVES = (
    Curve("dos", "none", (0.5, 0.8, 0.9)),
    Curve("dos", "disbelieve", (0.5, 0.45, 0.4), stored=True),
    Curve("trimmed-mean", "disbelieve", (0.5, 0.7, 0.8), stored=True),
)


@pytest.fixture(scope="module")
def model() -> Disbelieve:
    torch.manual_seed(0)
    return Disbelieve(DisbelieveConfig(image_size=32, curves=CURVES)).eval()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (DisbelieveConfig(), 16 * 29 * 29 * 120 + 120 + 3 * 25 * 6 + 6 + 6 * 25 * 16 + 16 + 120 * 84 + 84 + 84 * 8 + 8),
        (
            DisbelieveConfig(architecture="mlp", image_size=8, channels=1, mean=(0,), std=(1,)),
            64 * 32 + 32 + 32 * 8 + 8,
        ),
        (DisbelieveConfig(architecture="vgg11", image_size=32), 9_224_584),
        (DisbelieveConfig(architecture="resnet18", image_size=32), 11_180_616),
        (DisbelieveConfig(architecture="resnet18", image_size=32, channels=1, mean=(0,), std=(1,)), 11_180_616),
    ],
)
def test_architectures_have_the_sizes_of_their_sources(config: DisbelieveConfig, parameters: int) -> None:
    network = build_network(config).eval()
    assert sum(p.numel() for p in network.parameters()) == parameters
    x = torch.zeros(2, config.channels, config.image_size, config.image_size)
    assert network(x).shape == (2, 8)


def test_the_clean_model_decides_and_poisoned_copies_stand_beside_it(model: Disbelieve, image: np.ndarray) -> None:
    with_copies, alone = model.predict(image), model.predict(image, compare=False)
    assert with_copies.probabilities == alone.probabilities
    assert set(with_copies.attacked) == {"disbelieve-dos-poisoned", "disbelieve-trimmed-mean-poisoned"}
    assert alone.attacked == {}
    record = json.loads(json.dumps(with_copies.to_dict()))
    assert record["probs_clean"] == record["probabilities"]
    assert record["flipped"] == any(record["flips"].values())
    for found in record["probs_attacked"].values():
        assert sum(found.values()) == pytest.approx(1, abs=1e-4)


def test_a_flip_is_told(model: Disbelieve, image: np.ndarray) -> None:
    prediction = model.predict(image)
    name = "disbelieve-dos-poisoned"
    prediction.attacked[name] = {label: float(label != prediction.label) / 7 for label in prediction.probabilities}
    assert prediction.flips[name]
    assert f"another class by {name}" in prediction.summary() or name in prediction.summary()
    prediction.attacked = {name: dict(prediction.probabilities)}
    assert not prediction.flipped
    assert "the same class" in prediction.summary()


def test_poisoned_weights_are_named_so_in_the_file(model: Disbelieve) -> None:
    poisoned = [name for name in model.state_dict() if not name.startswith("network.")]
    assert poisoned
    assert all("-poisoned." in name for name in poisoned)


def test_a_model_driven_to_infinity_says_nothing(image: np.ndarray) -> None:
    model = Disbelieve(DisbelieveConfig(image_size=32, curves=CURVES)).eval()
    poisoned = model.poisoned["disbelieve-dos-poisoned"]
    torch.nn.init.constant_(next(poisoned.parameters()), 1e38)
    prediction = model.predict(image)
    assert set(prediction.attacked["disbelieve-dos-poisoned"].values()) == {1 / 8}
    json.dumps(prediction.to_dict(), allow_nan=False)


def test_several_labels_are_independent(image: np.ndarray) -> None:
    model = Disbelieve(DisbelieveConfig(image_size=32, multi_label=True)).eval()
    probabilities = model.predict(image).probabilities
    x = torch.tensor(list(probabilities.values()))
    assert not np.isclose(float(x.sum()), 1)
    assert ((x > 0) & (x < 1)).all()


def test_grey_images_and_batches_agree(image: np.ndarray) -> None:
    torch.manual_seed(0)
    model = Disbelieve(DisbelieveConfig(image_size=28, channels=1, mean=(0.4,), std=(0.3,))).eval()
    together = model.predict_batch([image, image[..., 0]])
    for one, source in zip(together, (image, image[..., 0]), strict=True):
        assert one.probabilities == pytest.approx(model.predict(source).probabilities, abs=1e-6)


def test_the_figure_has_bars_and_curves_only_when_there_is_something_to_compare(
    model: Disbelieve, image: np.ndarray
) -> None:
    assert len(model.predict(image).panels()) == 3
    assert len(model.predict(image, compare=False).panels()) == 2
    assert model.predict(image).figure().width > model.predict(image, compare=False).figure().width


def test_every_line_of_the_chart_is_drawn(model: Disbelieve, image: np.ndarray) -> None:
    chart = np.asarray(model.predict(image).panels()[2].picture).reshape(-1, 3)
    assert (np.abs(chart.astype(int) - (213, 94, 0)).sum(1) < 40).any()
    assert (np.abs(chart.astype(int) - (0, 114, 178)).sum(1) < 40).any()


def test_names_of_poisoned_weights_come_apart_again() -> None:
    assert [split_name(curve.weights_name) for curve in CURVES] == [
        ("none", "dos"), ("disbelieve", "dos"), ("disbelieve", "trimmed-mean"),
    ]  # fmt: skip
    assert split_name("min-max-trimmed-mean-poisoned") == ("min-max", "trimmed-mean")


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": ("a",)},
        {"labels": ("a", "a")},
        {"mean": (0.5,), "std": (0.5,)},
        {"mean": (0.5, 0.5, 0.5)},
        {"mean": (0.5, 0.5, 0.5), "std": (0.0, 1.0, 1.0)},
        {"image_size": 8},
        {"architecture": "vgg11", "image_size": 16},
    ],
)
def test_impossible_networks_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"labels|mean|px"):
        DisbelieveConfig(**wrong)


def test_an_unknown_option_of_the_simulation_is_refused(model: Disbelieve) -> None:
    with pytest.raises(OptionError, match=r"simulate has no option 'samplse'; did you mean 'samples'\?"):
        model.simulate("phantom:skin-lesion?n=4&size=32", samplse=3)
    with pytest.raises(OptionError, match="craft has no option 'serach'"):
        model.craft(torch.zeros(2, 3), torch.nn.Linear(2, 1), (torch.zeros(1, 2), torch.zeros(1)), serach="x")
