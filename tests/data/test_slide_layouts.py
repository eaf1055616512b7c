"""Annotated slides are cut into patches where the tumour covers part of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from zoo.data.layouts import camelyon16, paip2019
from zoo.data.layouts.slide_patches import rasterised
from zoo.data.sets import read_mask
from zoo.errors import DataError

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("openslide")

WIDTH, HEIGHT = 3200, 1600  # of a slide at 20x: two patches of 400 px at 5x
TUMOUR = [(400, 0), (1200, 0), (1200, 1600), (400, 1600)]  # half of the first patch


def write_slide(path: Path, spacing_um: float = 0.5, **more: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (WIDTH, HEIGHT), (240, 200, 220))
    ImageDraw.Draw(picture).polygon(TUMOUR, fill=(90, 40, 120))
    per_cm = 10_000 / spacing_um
    tifffile.imwrite(path, np.asarray(picture), photometric="rgb", tile=(256, 256), compression="zlib",
                     resolution=(per_cm, per_cm), resolutionunit="CENTIMETER", **more)  # fmt: skip


def annotation(rings: list[tuple[str, list[tuple[float, float]]]]) -> str:
    items = "".join(
        f'<Annotation Name="_{k}" Type="Polygon" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>'
        + "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(ring))
        + "</Coordinates></Annotation>"
        for k, (group, ring) in enumerate(rings)
    )
    return f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{items}</Annotations></ASAP_Annotations>'


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "a.tif"
    write_slide(path)
    return path


@pytest.fixture
def camelyon(tmp_path: Path, slide: Path) -> Path:
    hole = [(600, 400), (1000, 400), (1000, 800), (600, 800)]
    for folder, name in (("training/tumor", "tumor_001"), ("testing/images", "test_002")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{name}.tif").symlink_to(slide)
        notes = tmp_path / folder.split("/")[0] / "lesion_annotations"
        notes.mkdir()
        (notes / f"{name}.xml").write_text(annotation([("_0", TUMOUR), ("_2", hole)]))
    return tmp_path


def test_camelyon16_gives_patches_with_their_masks_and_splits(camelyon: Path) -> None:
    data = camelyon16.read("camelyon16:x", camelyon)
    assert data.ids == ["tumor_001/0-0", "test_002/0-0"]  # the second half of the slide has no tumour
    assert [(entry.split, entry.patient) for entry in data.entries] == [("train", "tumor_001"), ("test", "test_002")]
    case = data[0]
    mask = read_mask(case)
    assert case.image.shape == (400, 400, 3)
    assert mask.shape == (400, 400)
    assert mask[10, 50] == 0
    assert mask[10, 200] == 1
    assert mask[150, 200] == 0  # normal within the tumour
    assert mask.mean() == pytest.approx(0.5 - 100 * 100 / 400**2, abs=0.01)
    dark = case.image.mean(-1) < 150
    assert (dark == (mask > 0)).mean() > 0.92  # the picture shows no hole


def test_at_10x_a_patch_covers_a_quarter(camelyon: Path) -> None:
    data = camelyon16.read("camelyon16-10x:x", camelyon, 10.0)
    assert [name for name in data.ids if name.startswith("tumor")] == [
        f"tumor_001/{left}-{top}" for top in (0, 800) for left in (0, 800)
    ]


def test_the_later_release_is_read_too(tmp_path: Path, slide: Path) -> None:
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images" / "tumor_001.tif").symlink_to(slide)
    (tmp_path / "annotations" / "tumor_001.xml").write_text(annotation([("Tumor", TUMOUR)]))
    assert camelyon16.read("camelyon16:x", tmp_path).ids == ["tumor_001/0-0"]


def test_what_does_not_fit_is_refused(camelyon: Path, tmp_path: Path) -> None:
    note = camelyon / "training/lesion_annotations/tumor_001.xml"
    for text, sentence in (("<a", "no annotation"), ("<!DOCTYPE a><a/>", "declares entities")):
        note.write_text(text)
        with pytest.raises(DataError, match=sentence):
            camelyon16.read("camelyon16:x", camelyon)
    note.rename(note.with_name("tumor_009.xml"))
    with pytest.raises(DataError, match=r"has no slide .*tumor_009\.tif"):
        camelyon16.read("camelyon16:x", camelyon)
    with pytest.raises(DataError, match="there is no folder"):
        camelyon16.read("camelyon16:x", camelyon / "training")


def test_a_slide_without_spacing_or_of_low_magnification_is_refused(tmp_path: Path) -> None:
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
    (tmp_path / "annotations" / "a.xml").write_text(annotation([("_0", TUMOUR)]))
    write_slide(tmp_path / "images" / "a.tif", spacing_um=8)
    with pytest.raises(DataError, match="scanned below 5x"):
        camelyon16.read("camelyon16:x", tmp_path)
    (tmp_path / "images" / "a.tif").write_bytes(b"II*\0" + bytes(100))
    with pytest.raises(DataError, match="no slide that OpenSlide reads"):
        camelyon16.read("camelyon16:x", tmp_path)


@pytest.mark.parametrize("large", [False, True])
def test_paip2019_takes_the_viable_tumour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    from zoo.media import slides

    monkeypatch.setattr(slides, "LARGE", 1000 if large else 2**40)
    folder = tmp_path / "01_01_0083"
    write_slide(folder / "01_01_0083.svs", 0.5)
    mask = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(mask).polygon(TUMOUR, fill=1)
    tifffile.imwrite(folder / "01_01_0083_viable.tif", np.asarray(mask), compression="zlib", rowsperstrip=64)
    tifffile.imwrite(folder / "01_01_0083_whole.tif", np.ones((8, 8), np.uint8))
    data = paip2019.read("paip2019:x", tmp_path)
    assert data.ids == ["01_01_0083/0-0"]
    found = read_mask(data[0])
    assert found.mean() == pytest.approx(0.5, abs=0.005)
    assert found[200, 200] == 1
    assert found[200, 50] == 0
    (folder / "01_01_0083.svs").rename(folder / "other.svs")
    with pytest.raises(DataError, match="has no slide"):
        paip2019.read("paip2019:x", tmp_path)
    with pytest.raises(DataError, match=r"there are no \*_viable.tif"):
        paip2019.read("paip2019:x", tmp_path / "nothing")


def test_polygons_lie_where_their_corners_are() -> None:
    ring = np.array([[10.0, 20.0], [30.0, 20.0], [30.0, 60.0], [10.0, 60.0]])
    found = rasterised([ring], [], 0, 0, 10.0, (8, 5))
    rows, columns = np.nonzero(found)
    assert (rows.min(), rows.max()) == (2, 5)
    assert (columns.min(), columns.max()) == (1, 2)
    assert not rasterised([ring], [], 100, 100, 1.0, (8, 5)).any()
