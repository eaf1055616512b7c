"""``zoo train MODEL --set recipe=released`` at the paper's scale, from made-up folders: an epoch of few images each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoo import registry
from zoo.data.layouts.ham10000 import FAVOURITES
from zoo.data.layouts.hyperkvasir import HYPERKVASIR_CLASSES
from zoo.data.phantoms.fundus import fundus
from zoo.data.phantoms.ultrasound import ultrasound


def in_classes(root: Path, labels: tuple[str, ...], each: int, size: int) -> str:
    """``folder:``: a folder of noise for each class, each of its own brightness."""
    rng = np.random.default_rng(0)
    for k, label in enumerate(labels):
        (root / label).mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 60, (size, size + 40, 3)) + 180 * k // len(labels)
            Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{label}-{i}.png")
    return f"folder:{root}"


def eyes(root: Path) -> tuple[str, list[str]]:
    for part in ("images", "masks"):
        (root / part).mkdir()
    for i in range(5):
        case = fundus(i, size=300)
        Image.fromarray(np.asarray(case.image)).save(root / "images" / f"{i}.png")
        Image.fromarray(255 * np.asarray(case.masks["mask"], np.uint8)).save(root / "masks" / f"{i}.png")
    few = ["crops_per_image=3", "epochs=1", "synthesis.epochs=1", "synthesis.attempts=1", "synthesis.crops_per_image=2"]
    return f"pairs:{root}", few


def clinics(root: Path) -> tuple[str, list[str]]:
    """With a MoCo checkpoint of random weights; the prior is frozen, whatever it holds."""
    from safetensors.torch import save_file

    from zoo.models.fed_mas.prior import PriorConfig, build_prior

    weights = root / "moco.safetensors"
    save_file(build_prior(PriorConfig("moco")).state_dict(), weights)
    few = ["rounds=1", "local_epochs=1", "clients=2", "pretrained=false", f"network.prior.path={weights}"]
    return in_classes(root / "gut", tuple(HYPERKVASIR_CLASSES)[:4], 8, 96), few


def skin(root: Path) -> tuple[str, list[str]]:
    return in_classes(root / "skin", tuple(FAVOURITES), 10, 140), ["rounds=1", "samples=12"]


def breasts(root: Path) -> tuple[str, list[str]]:
    """With a SAM of ViT-B's size and random weights, on images of 256 px, for time."""
    from transformers import SamConfig, SamModel

    SamModel(SamConfig()).save_pretrained(root / "sam")
    for i in range(9):
        case = ultrasound(i, size=200)
        folder = root / "busi" / str(case.label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(case.image)).save(folder / f"{case.label} ({i}).png")
        mask = 255 * np.asarray(case.masks["mask"], np.uint8)
        Image.fromarray(mask).save(folder / f"{case.label} ({i})_mask.png")
    return f"busi:{root / 'busi'}", [f"sam={root / 'sam'}", "image_size=256", "epochs=2"]


def lesions(root: Path) -> tuple[str, list[str]]:
    """Every class needs as many images as it has prototypes: two here, ten in the paper."""
    few = ["epochs=1", "stage2_epochs=1", "network.prototypes=2", "pretrained=false"]
    labels = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
    return in_classes(root / "skin", labels, 5, 240), few


TWO = [entry for entry in registry.entries() if entry.plugin and entry.plugin.readings]


@pytest.mark.parametrize("entry", TWO, ids=lambda entry: entry.name)
def test_a_preset_leaves_a_readings_values_alone_unless_it_names_them(entry: Any) -> None:
    """One that gave a whole network would take back what the reading sets in it, and nobody would see."""
    training = registry.resolve(entry, "training")
    for reading, values in training.readings.items():
        for name, preset in training.presets.items():
            recipe = training.configure(name, {"recipe": reading})
            for field, value in values.items():
                for inner, own in value.items() if isinstance(value, dict) else ():
                    named = isinstance(preset.get(field), dict) and inner in preset[field]
                    assert named or getattr(getattr(recipe, field), inner) == own, (name, field, inner)
                if not isinstance(value, dict) and field not in preset:
                    assert getattr(recipe, field) == value, (name, field)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "make", "said"),
    [
        ("map-vessel", eyes, {"backbone": "released", "norm_at_test": "image", "channels": [8, 32, 32, 64, 64, 16]}),
        ("fed-mas", clinics, {"encoder": "resnet18", "second_head": True, "squeeze": True}),
        ("disbelieve", skin, {"architecture": "lenet", "image_size": 128}),
        ("cemb-sam", breasts, {"reading": "released", "working_size": 256}),
        ("local-global-prototypes", lesions, {"backbone": "densenet169", "activation": "sigmoid", "bare": True}),
    ],
)
def test_the_released_reading_trains_from_a_folder_by_the_command(
    model: str, make: Callable[[Path], tuple[str, list[str]]], said: dict[str, Any], zoo_cli: Any, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    data, few = make(tmp_path / "data")
    settings = [text for field in ("recipe=released", *few) for text in ("--set", field)]
    ran = zoo_cli("train", model, "--data", data, *settings, "--out", tmp_path / "run", "--device", "cpu")
    assert ran.code == 0, ran.err
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["model"] == model
    config = record["config"]
    assert {name: config[name] for name in said} == said
    recipe = json.loads((tmp_path / "run" / "run.json").read_text())["identity"]["recipe"]
    assert recipe["recipe"] == "released"
