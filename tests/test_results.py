"""The table of a batch: rows that survive anything, and frames of them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoo
from zoo import media, results
from zoo.domain import Verdict
from zoo.errors import MissingExtraError, OptionError
from zoo.prediction import Classification, Provenance, Segmentation

PROVENANCE = Provenance("toy", "toy-zoo", "1.2", "hf://org/toy", "a" * 40, "phantoms", "not for clinical use")
SETTINGS = results.settings_of(PROVENANCE, {"threshold": 0.5})


def segmentation(spacing: tuple[float, ...] | None, shape: tuple[int, ...], affine: Any = None) -> Segmentation:
    image = media.Image(np.zeros(shape, np.uint8), "eye.png", "png", spacing, affine, ndim_spatial=len(shape))
    mask = np.zeros(shape, np.uint8)
    mask[..., 2:4, 1:6] = 1
    return Segmentation(
        source="eye.png", provenance=PROVENANCE, image=image, mask=mask, labels=("background", "vessel"),
        notes=("one\nline", "two"),
    )  # fmt: skip


def classification(**more: Any) -> Classification:
    image = media.Image(np.zeros((4, 4), np.uint8))
    return Classification(
        source="mole.png", provenance=PROVENANCE, image=image, probabilities={"MEL": 0.75, "NV": 0.25},
        label_names={"MEL": "melanoma"}, **more,
    )  # fmt: skip


def test_a_row_says_what_who_and_how_much_with_units():
    row = results.row(segmentation((0.5, 0.2), (10, 10)), files=["out/eye.json", "out/eye_mask.png"])
    assert (row["input"], row["model"], row["version"]) == ("eye.png", "toy", "toy-zoo 1.2")
    assert (row["weights"], row["revision"]) == ("hf://org/toy", "a" * 40)
    assert row["area_fraction_vessel"] == 0.1
    assert row["area_mm2_vessel"] == pytest.approx(10 * 0.5 * 0.2)
    assert row["files"] == "eye.json; eye_mask.png"
    assert row["disclaimer"] == "not for clinical use"
    assert "area_mm2_vessel" not in results.row(segmentation(None, (10, 10)))
    diagnosis = results.row(classification())
    assert (diagnosis["label"], diagnosis["label_name"], diagnosis["probability_NV"]) == ("MEL", "melanoma", 0.25)


def test_volumes_are_in_ml_and_a_tilted_gantry_counts_its_sheared_voxels():
    straight = results.row(segmentation((4.0, 0.5, 0.5), (3, 10, 10)))
    assert straight["volume_fraction_vessel"] == 0.1
    assert straight["volume_ml_vessel"] == pytest.approx(30 * 1.0 / 1000)
    affine = np.array([[0.5, 0, 0, 0], [0, 0.5, 3.0, 0], [0, 0, 4.0, 0], [0, 0, 0, 1]])  # slices 5 mm apart, askew
    tilted = results.row(segmentation((5.0, 0.5, 0.5), (3, 10, 10), affine))
    assert tilted["volume_ml_vessel"] == pytest.approx(30 * 0.25 * 4 / 1000)


def test_an_input_unlike_the_training_images_has_no_numbers():
    verdict = Verdict((1,), 1, "sharpness", 50)
    row = results.row(classification(domain=verdict))
    assert row["label"] is None
    assert not [name for name in row if name.startswith("probability")]
    assert row["unlike"] is True


def test_rows_come_back_and_columns_grow(tmp_path):
    table = results.Table(tmp_path / "out" / results.FILE)
    assert table.rows() == []
    table.append(results.failure("bad.png", ValueError("no\npicture"), SETTINGS))
    table.append(results.row(segmentation(None, (10, 10)), settings=SETTINGS))
    table.append(results.row(classification(), input='a "b", c.png', settings=SETTINGS))
    rows = table.rows()
    assert [row["input"] for row in rows] == ["bad.png", "eye.png", 'a "b", c.png']
    assert rows[0]["error"] == "no picture"
    assert (rows[1]["area_fraction_vessel"], rows[1]["probability_MEL"]) == ("0.1", "")
    assert rows[1]["notes"] == "one\\nline; two"
    assert rows[2]["label"] == "MEL"
    header, *lines = (tmp_path / "out" / results.FILE).read_text().splitlines()
    assert len(lines) == 3
    assert header.startswith("input,model,version,weights,revision,options,label,label_name,area_fraction_vessel,")
    assert header.endswith("unlike,demonstration,notes,error,files,disclaimer")


def test_a_torn_line_is_dropped_and_the_next_row_is_whole(tmp_path):
    table = results.Table(tmp_path / results.FILE)
    for name in "abc":
        table.append(results.failure(name, ValueError("x"), SETTINGS))
    whole = table.path.read_bytes()
    table.path.write_bytes(whole[:-9])
    assert [row["input"] for row in table.rows()] == ["a", "b"]
    table.append(results.failure("c", ValueError("x"), SETTINGS))
    assert table.path.read_bytes() == whole


def test_several_writers_lose_no_row(tmp_path):
    def write(start: int) -> None:
        table = results.Table(tmp_path / results.FILE)
        for i in range(start, start + 30):
            table.append({"input": str(i), "model": "toy", f"column_{start}": i})

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = results.Table(tmp_path / results.FILE).rows()
    assert sorted(int(row["input"]) for row in rows) == [s + i for s in (0, 100, 200, 300) for i in range(30)]
    assert all(row[f"column_{int(row['input']) // 100 * 100}"] == row["input"] for row in rows)


def test_a_full_disk_leaves_whole_rows(tmp_path, monkeypatch):
    import io

    table = results.Table(tmp_path / results.FILE)
    table.append(results.failure("a", ValueError("x"), SETTINGS))
    before = table.path.read_bytes()

    class Full(io.FileIO):
        def write(self, data):
            return super().write(bytes(data)[:7])

    monkeypatch.setattr(results, "open", lambda path, mode, buffering: Full(path, mode), raising=False)
    monkeypatch.setattr(table, "_columns", lambda: list(table.rows()[0]))
    with pytest.raises(OptionError, match="free some space and go on with --resume"):
        table.append(results.failure("b", ValueError("x"), SETTINGS))
    assert table.path.read_bytes() == before


def test_what_a_spreadsheet_would_run_is_text():
    assert results.cell("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert results.cell("@cmd") == "'@cmd"
    assert results.cell(-0.5) == "-0.5"
    assert results.cell("a\r\nb\udcff") == "a\\r\\nb\\udcff"


def test_a_foreign_file_is_refused_and_kept(tmp_path):
    mine = tmp_path / results.FILE
    mine.write_text("name,age\nAda,36\n")
    with pytest.raises(OptionError, match="is no table of predictions"):
        results.begin(tmp_path, SETTINGS, ["a"], resume=False)
    assert mine.read_text() == "name,age\nAda,36\n"


def test_what_is_done_has_its_files_and_no_error(tmp_path):
    table = results.Table(tmp_path / results.FILE)
    for name in ("kept", "lost", "other"):
        table.append(results.row(classification(), input=name, files=[f"{name}.json"], settings=SETTINGS))
    table.append(results.failure("failed", ValueError("x"), SETTINGS))
    (tmp_path / "kept.json").touch()
    _, done = results.begin(tmp_path, SETTINGS, ["kept", "lost", "failed", "new"], resume=True)
    assert list(done) == ["kept"]
    assert [row["input"] for row in table.rows()] == ["kept", "other"]
    with pytest.raises(OptionError, match=r"was made with revision a{40}, not none; leave out --resume"):
        results.begin(tmp_path, {**SETTINGS, "revision": None}, ["kept"], resume=True)
    assert results.begin(tmp_path, SETTINGS, ["kept"], resume=False)[1] == {}
    assert [row["input"] for row in table.rows()] == ["other"]


def test_frames_of_what_predict_gives(monkeypatch):
    pandas = pytest.importorskip("pandas")
    both = zoo.predict("map-vessel", ["phantom:fundus?seed=1&size=128", "phantom:fundus?seed=2&size=128"], device="cpu")
    frame = both.to_frame()
    assert list(frame["input"]) == [one.source for one in both]
    assert list(frame["area_fraction_vessel"]) == [round(one.areas()["vessel"], 6) for one in both]
    assert pandas.api.types.is_float_dtype(frame["area_fraction_vessel"])
    assert repr(both) == "<2 predictions by map-vessel>"
    assert both._repr_html_().count("<tr>") == 3
    assert "not for clinical use" in both._repr_html_()
    assert list(results.Results().to_frame().columns)[:2] == ["input", "model"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="pandas"):
        both.to_frame()


@pytest.fixture
def photos(tmp_path) -> Path:
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(6):
        Image.fromarray(media.read(f"phantom:fundus?seed={seed}&size=128").array).save(folder / f"{seed}.png")
    return folder


def test_the_table_stands_beside_the_results_of_a_batch(zoo_cli, photos, tmp_path):
    (photos / "3.png").write_bytes((photos / "3.png").read_bytes()[:300])
    ran = zoo_cli("predict", "map-vessel", photos, "--out", tmp_path / "out", "--no-figure", tmp_path / "absent.png")
    assert ran.code == 2
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        rows = {Path(row["input"]).name: row for row in csv.DictReader(file)}
    assert sorted(rows) == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "absent.png"]
    assert "3.png" in rows["3.png"]["error"]
    assert "there is no such file" in rows["absent.png"]["error"]
    record = json.loads((tmp_path / "out" / "4.json").read_text())
    assert float(rows["4.png"]["area_fraction_vessel"]) == record["area_fraction"]["vessel"]
    assert rows["4.png"]["files"].split("; ") == ["4_mask.png", "4.json"]
    assert json.loads(rows["4.png"]["options"])["threshold"] == record["options"]["threshold"]
    assert rows["4.png"]["version"].startswith("medimg-zoo ")


def test_resume_goes_on_and_repeats_nothing(zoo_cli, photos, tmp_path, monkeypatch):
    from zoo.model import Model

    out, seen = tmp_path / "out", list[str]()
    predict_batch = Model.predict_batch

    def counted(self, inputs, /, **given):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.extend(Path(one).name for one in inputs)
        return predict_batch(self, inputs, **given)

    monkeypatch.setattr(Model, "predict_batch", counted)
    command = ("predict", "map-vessel", photos, "--out", out, "--no-figure")
    assert zoo_cli(*command).code == 130
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert len(before) == 3
    seen.append("resumed")
    ran = zoo_cli(*command, "--resume")
    assert ran.code == 0, ran.err
    assert "3 of 6 inputs were done before" in ran.err
    assert seen == ["0.png", "1.png", "2.png", "resumed", "3.png", "4.png", "5.png"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    rows = results.Table(out / results.FILE).rows()
    assert [Path(row["input"]).name for row in rows] == [f"{i}.png" for i in range(6)]
    assert zoo_cli(*command, "--resume").code == 0
    assert len(seen) == 7
    assert "made with options" in zoo_cli(*command, "--resume", "--with", "threshold=0.3").refused


@pytest.mark.slow
def test_a_killed_batch_goes_on(photos, tmp_path):
    many = tmp_path / "many"
    many.mkdir()
    for i in range(60):
        shutil.copy(photos / f"{i % 6}.png", many / f"{i}.png")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "zoo", "predict", "map-vessel", str(many), "--out", str(out), "--device", "cpu"]
    for more, count in (([], 5), (["--resume"], 25)):
        process = subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL)
        while process.poll() is None and len(results.Table(out / results.FILE).rows()) < count:
            time.sleep(0.02)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = {row["input"] for row in results.Table(out / results.FILE).rows()}
    made = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    subprocess.run([*command, "--resume"], check=True, stdout=subprocess.DEVNULL)
    rows = results.Table(out / results.FILE).rows()
    assert len(rows) == len({row["input"] for row in rows}) == 60
    kept = [path for path, when in made.items() if path.stat().st_mtime_ns == when]
    assert len(kept) >= len(done) >= 25
