from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zoo import media, samples
from zoo.errors import MediaError, MissingExtraError


@pytest.mark.parametrize("name", list(samples.SAMPLES))
def test_every_sample_ships_with_its_library_and_is_readable(name: str) -> None:
    sample = samples.SAMPLES[name]
    pytest.importorskip(sample.package)
    image = media.read(sample.spec)
    assert samples.is_available(name)
    assert image.source == f"sample:{name}"
    assert image.stem == name
    picture = np.asarray(image.thumbnail(128))
    assert max(picture.shape) <= 128
    assert picture.std() > 5
    assert all((sample.title, sample.modality, sample.licence, sample.extra))


def test_retina_is_the_photograph() -> None:
    pytest.importorskip("skimage")
    image = media.read("sample:retina")
    assert image.array.shape == (1411, 1411, 3)
    red, _, blue = image.rgb()[600:800, 600:800].mean(axis=(0, 1))
    assert red > blue


def test_anatomical_volume_has_its_affine() -> None:
    pytest.importorskip("nibabel")
    image = media.read("sample:anatomical")
    assert image.array.shape == (25, 41, 33)
    assert image.spacing == (2, 2, 2)
    assert image.meta["orientation"] == "LAS"


def test_unknown_sample_suggests_the_nearest() -> None:
    with pytest.raises(MediaError, match="no sample 'retinna'; did you mean sample:retina"):
        samples.find("sample:retinna")
    with pytest.raises(MediaError, match="choose one of retina, "):
        media.read("sample:zzz")


def test_missing_library_and_missing_file_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(samples, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"sample:retina needs the library scikit-image.*\[imaging\]"):
        samples.path("retina")
    assert not samples.is_available("retina")

    class Bare:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(samples, "find_spec", lambda name: Bare)
    with pytest.raises(MediaError, match="is not in the installed scikit-image"):
        samples.path("retina")
