"""Views of image files are made once, in the folder that the user names, and never matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.case import Case
from zoo.data.images import Views, read_views
from zoo.data.views import VARIABLE, folder, kept


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "photograph.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)).save(path)
    assert path.stat().st_size > 300_000
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "views"))
    return tmp_path / "views"


def counted(made: list[int]):
    def make() -> dict[str, np.ndarray]:
        made.append(1)
        return {"view": np.full((2, 2, 3), len(made), np.uint8)}

    return make


def test_a_view_is_made_once_and_again_when_file_or_making_change(photograph: Path, home: Path) -> None:
    made: list[int] = []
    for _ in range(3):
        assert kept(photograph, "a", counted(made))["view"][0, 0, 0] == 1
    assert kept(str(photograph), "b", counted(made))["view"][0, 0, 0] == 2
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (401, 400, 3), np.uint8)).save(photograph)
    assert kept(photograph, "a", counted(made))["view"][0, 0, 0] == 3
    assert home.stat().st_mode & 0o077 == 0


def test_a_damaged_view_is_made_anew(photograph: Path, home: Path) -> None:
    made: list[int] = []
    kept(photograph, "a", counted(made))
    (stored,) = home.rglob("*.safetensors")
    stored.write_bytes(stored.read_bytes()[:20])
    assert kept(photograph, "a", counted(made))["view"][0, 0, 0] == 2


@pytest.mark.parametrize("image", [np.zeros((2, 2, 3), np.uint8), "phantom:fundus?seed=1", "sample:retina"])
def test_what_is_no_file_is_made_each_time(image, home: Path) -> None:
    made: list[int] = []
    kept(image, "a", counted(made))
    kept(image, "a", counted(made))
    assert len(made) == 2
    assert not home.exists()


def test_nothing_is_kept_when_it_is_off_or_the_folder_can_not_be_written(
    photograph: Path, monkeypatch, tmp_path
) -> None:
    made: list[int] = []
    monkeypatch.setenv(VARIABLE, "off")
    assert folder() is None
    (tmp_path / "file").write_text("")
    for place in ("off", str(tmp_path / "file" / "views")):
        monkeypatch.setenv(VARIABLE, place)
        kept(photograph, "a", counted(made))
        kept(photograph, "a", counted(made))
    assert len(made) == 4


def test_readers_of_training_images_decode_a_file_once(photograph: Path, home: Path, monkeypatch) -> None:
    from zoo import media

    cases = [Case(str(photograph), "a")]
    first = read_views(cases, lambda picture: np.asarray(picture.rgb()[:4, :4] * 255, np.uint8), "a test", "4")
    views = Views([str(photograph)], lambda path: np.asarray(media.read(path).rgb()[:4, :4] * 255, np.uint8), 48, "x 4")
    monkeypatch.setattr(media, "read", lambda *_: pytest.fail("it was decoded again"))
    again = read_views(cases, lambda picture: pytest.fail("it was made again"), "a test", "4")
    assert np.array_equal(first[0], again[0])
    other = Views([str(photograph)], lambda path: pytest.fail("it was made again"), 48, "x 4", memory=0)
    assert np.array_equal(other.batch([0]), views.batch([0]))
