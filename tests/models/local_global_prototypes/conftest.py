"""Networks here are tiny: a second thread costs more than it brings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from zoo.data.case import Case
from zoo.data.phantoms.skin import DIAGNOSES, skin_lesion
from zoo.models.local_global_prototypes.model import LocalGlobalConfig, LocalGlobalPrototypes
from zoo.models.local_global_prototypes.training import Images, LocalGlobalRecipe, fit, load_images
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


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def tiny() -> LocalGlobalRecipe:
    return TINY


@pytest.fixture(scope="package")
def images() -> Images:
    """48 phantoms, six of each diagnosis."""
    cases = [skin_lesion(i, size=64, diagnosis=DIAGNOSES[i % 8], artifacts="none") for i in range(48)]
    return load_images(cases, TINY.network, thumbnails=32)


@pytest.fixture(scope="package")
def trained(images: Images) -> LocalGlobalPrototypes:
    with Run(None, seed=0, device="cpu", progress=False) as run:
        return fit(TINY, images, images, run)


@pytest.fixture(scope="package")
def lesion() -> Case:
    return skin_lesion(1000, size=80, diagnosis="VASC")
