from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from zoo.media import MediaError, expand, group, members, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("img10.png", "img2.png", "IMG1.PNG", "note.png", "readme.txt", ".hidden.png"):
        PILImage.new("L", (2, 2)).save(tmp_path / name, format="PNG")
    (tmp_path / "note.png").write_text("text, named like an image")
    (tmp_path / "readme.txt").write_text("text")
    PILImage.new("L", (2, 2)).save(tmp_path / "scan", format="PNG")
    (tmp_path / "sub").mkdir()
    PILImage.new("L", (2, 2)).save(tmp_path / "sub" / "deep.png")
    return tmp_path


def _names(found: list[str]) -> list[str]:
    return [Path(item).name for item in found]


def test_folder_is_its_images_in_natural_order(folder: Path) -> None:
    assert _names(expand([str(folder)])) == ["IMG1.PNG", "img2.png", "img10.png", "note.png", "scan"]


def test_patterns_are_expanded(folder: Path) -> None:
    assert _names(expand([f"{folder}/img*.png"])) == ["img2.png", "img10.png"]
    assert _names(expand([f"{folder}/**/*.png"])) == ["img2.png", "img10.png", "note.png", "deep.png"]
    assert "readme.txt" not in _names(expand([f"{folder}/*"]))


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(folder: Path) -> None:
    (folder / "img2.png").rename(folder / "img[2].png")
    assert _names(expand([f"{folder}/img[2].png"])) == ["img[2].png"]


def test_what_systems_leave_behind_is_never_data(folder: Path) -> None:
    before = expand([str(folder)])
    for name in ("._img2.png", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._img2.png", "sub/._deep.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        PILImage.new("L", (2, 2)).save(folder / name, format="PNG")
    assert expand([str(folder)]) == before
    assert not [
        name for name in _names(expand([f"{folder}/**/*", f"{folder}/*"])) if name not in {*_names(before), "deep.png"}
    ]


def test_a_pattern_in_a_folder_with_brackets_matches_there(folder: Path) -> None:
    (folder / "[2023] scans" / "a").mkdir(parents=True)
    for name in ("b2.png", "b1.png", "a/c.png"):
        PILImage.new("L", (2, 2)).save(folder / "[2023] scans" / name)
    assert _names(expand([f"{folder}/[[]2023] scans/*.png"])) == ["b1.png", "b2.png"]
    assert _names(expand([f"{folder}/[2023] scans/*.png"])) == ["b1.png", "b2.png"]
    assert _names(expand([f"{folder}/[2023] scans/**/[c]*.png"])) == ["c.png"]


@pytest.mark.parametrize("name", ["", " ", "\t"])
def test_an_empty_argument_is_not_the_current_folder(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for use in (lambda: expand([name]), lambda: group([name]), lambda: members(name), lambda: read(name)):
        with pytest.raises(MediaError, match="is empty"):
            use()


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "~no-such-user-here/a.png", "a\0b.png"])
def test_names_that_no_file_can_have_are_refused(name: str) -> None:
    for use in (lambda: expand([name]), lambda: group([name]), lambda: read(name)):
        with pytest.raises(MediaError) as caught:
            use()
        assert len(str(caught.value)) < 300


def test_the_same_file_under_two_names_comes_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert expand(["img2.png", "./img2.png", str(folder / "img2.png"), "sub/../img2.png"]) == ["img2.png"]


def test_several_inputs_keep_their_order_and_come_once(folder: Path) -> None:
    items = [str(folder / "img10.png"), "sample:retina", str(folder / "img2.png"), f"{folder}/img*.png"]
    found = expand([*items, "phantom:fundus?seed=3"])
    assert _names(found) == ["img10.png", "sample:retina", "img2.png", "phantom:fundus?seed=3"]


def test_what_cannot_be_found_is_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "nest" / "inner").mkdir(parents=True)
    for item, reason in {
        str(folder / "nowhere.png"): r"nowhere\.png: there is no such file or folder",
        str(folder / "*.bmp"): r"\*\.bmp: the pattern matches no",
        str(folder / "empty"): "empty: it holds no PNG, JPEG",
        str(folder / "nest"): r"nest: .*1 sub-folders, which '.*nest/\*/\*' reaches",
        "sample:retinal": "did you mean sample:retina",
    }.items():
        with pytest.raises(MediaError, match=reason):
            expand([item])
    with pytest.raises(MediaError, match="no input"):
        expand([])


def test_dicom_folder_without_positions_is_its_files(dicom_file: Callable[..., Path]) -> None:
    for i in (10, 9):
        path = dicom_file(f"xray/{i}.dcm", np.zeros((2, 2), np.uint8), SeriesInstanceUID="1.2.3")
    assert _names(expand([str(path.parent)])) == ["9.dcm", "10.dcm"]


def test_pattern_over_folders_takes_the_series(dicom_series: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("case2", "case10"):
        dicom_series(f"all/{name}", [0.0, 1.0, 2.0])
    (tmp_path / "all" / "reports").mkdir()
    assert _names(expand([f"{tmp_path}/all/*"])) == ["case2", "case10"]


def test_folders_and_phantoms_are_groups_and_single_files_are_one_together(folder: Path, tmp_path: Path) -> None:
    sub, one, two = str(folder / "sub"), str(folder / "img10.png"), str(folder / "img2.png")
    assert group([sub]) == [sub]
    assert group([one, two]) == [[one, two]]
    assert group([one, sub, f"{folder}/img*.png", "phantom:fundus?seed=1"]) == [
        [one, two],
        sub,
        "phantom:fundus?seed=1",
    ]
    assert group([one]) == [one]
    assert group([sub, sub]) == [sub]


def test_arrays_are_a_group_too() -> None:
    first, second = np.zeros((2, 2)), np.ones((2, 2))
    (together,) = group([first, second])
    assert [id(array) for array in together] == [id(first), id(second)]


def test_members_of_a_group_come_in_order(folder: Path) -> None:
    assert _names(members(str(folder))) == ["IMG1.PNG", "img2.png", "img10.png", "note.png", "scan"]
    two, ten = str(folder / "img2.png"), str(folder / "img10.png")
    assert members([ten, two]) == [ten, two]
    assert members("phantom:fundus?seed=1") == ["phantom:fundus?seed=1"]
    assert members(array := np.zeros((2, 2)))[0] is array
    with pytest.raises(MediaError, match="empty list"):
        members([])


def test_a_group_that_lacks_something_is_refused(folder: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        group([str(folder / "img2.png"), str(folder / "nowhere.png")])
    with pytest.raises(MediaError, match="no input"):
        group([])
