"""A network that trains in seconds, and its data."""

from __future__ import annotations

import pytest

from zoo.data.case import Case
from zoo.data.dermoscopy import DIAGNOSES
from zoo.data.images import ImageSet
from zoo.data.phantoms.skin import skin_lesion
from zoo.models.local_global_prototypes.model import LocalGlobalConfig, LocalGlobalPrototypes
from zoo.models.local_global_prototypes.training import LocalGlobalRecipe, fit, load_images
from zoo.training import Run

TINY = LocalGlobalRecipe(
    network=LocalGlobalConfig(
        backbone="small", small_channels=(8, 12, 16), small_strides=(2, 2, 2), image_size=48, prototypes=3, width=12
    ),
    pretrained=False,
    epochs=3,
    batch_size=16,
    lr_backbone=2e-3,
    stage2_epochs=5,
    thumbnails=32,
)


@pytest.fixture(scope="package")
def tiny() -> LocalGlobalRecipe:
    return TINY


@pytest.fixture(scope="package")
def images() -> ImageSet:
    """48 phantoms, six of each diagnosis."""
    cases = [skin_lesion(i, size=64, diagnosis=DIAGNOSES[i % 8], artifacts="none") for i in range(48)]
    return load_images(cases, TINY.network, thumbnails=32)


@pytest.fixture(scope="package")
def trained(images: ImageSet) -> LocalGlobalPrototypes:
    with Run(None, seed=0, device="cpu", progress=False) as run:
        return fit(TINY, images, images, run)


@pytest.fixture(scope="package")
def lesion() -> Case:
    return skin_lesion(1000, size=80, diagnosis="VASC")
