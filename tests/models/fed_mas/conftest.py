"""A network that trains in seconds, and its data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zoo.data.dermoscopy import DIAGNOSES
from zoo.data.phantoms.skin import skin_lesion
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.models.fed_mas.model import FedMASConfig
from zoo.models.fed_mas.prior import PriorConfig
from zoo.models.fed_mas.training import FedMASRecipe

TINY = FedMASRecipe(
    network=FedMASConfig(
        encoder="small",
        small_channels=(6, 8, 10),
        prior=PriorConfig(kind="small", channels=(6, 8, 10)),
        projector_width=16,
        image_size=32,
        head_above=8,
        tail_below=4,
    ),
    clients=3,
    alpha=2.0,
    rounds=3,
    local_epochs=1,
    batch_size=8,
    optimizer="adam",
    lr=2e-3,
    pretrained=False,
    attribute="site",
    report_distances=True,
    prior_data="phantom:skin-lesion?n=8&seed=900&size=32",
    prior_steps=3,
)


@pytest.fixture(scope="package")
def tiny() -> FedMASRecipe:
    return TINY


@pytest.fixture(scope="package")
def data() -> TrainData:
    """48 phantoms for training at two sites, 8 for validation, 16 for the test."""
    cases = [skin_lesion(i, size=40, diagnosis=DIAGNOSES[i * i % 8 if i < 24 else i % 8]) for i in range(72)]
    entries = [
        Entry(case.id, replace(case, id=f"case-{i}", attributes={**case.attributes, "site": "AB"[i % 2]}))
        for i, case in enumerate(cases)
    ]
    entries = [replace(entry, id=entry.case.id) for entry in entries]  # type: ignore[union-attr]
    parts = (entries[:48], entries[48:56], entries[56:])
    return TrainData(*(Dataset("phantoms", part, ["image", "label"]) for part in parts))
