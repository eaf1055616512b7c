"""A folder of damaged files of every kind: no traceback, no hang, and no result for what can't be read."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.media import mutations
from zoo import media
from zoo.errors import ZooError

pytest.importorskip("nibabel")
pytest.importorskip("pydicom")

LONGEST = 10.0  # seconds of computing that a file of these few bytes may take


def damaged_folder(folder: Path, count: int, seed: int) -> dict[str, object]:
    """``count`` damaged files, as evenly of all kinds as can be, and for each the kind that it was."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    kinds = mutations.kinds(folder)
    of: dict[str, object] = {}
    for number in range(count):
        kind = kinds[number % len(kinds)]
        name = f"{number:04d}-{kind.name}{kind.suffix}"
        content = mutations.mutated(kind.content, rng)
        (folder / name).write_bytes(content if content != kind.content else content[:-9])
        of[name] = kind
    return of


def examined(tmp_path: Path, count: int, seed: int) -> dict[str, int]:
    """What ``zoo predict`` makes of such a folder, once it's found to be right."""
    folder, out = tmp_path / "damaged", tmp_path / "out"
    of = damaged_folder(folder, count, seed)
    others = [str(folder / name) for name, kind in of.items() if kind.suffix in (".npy", ".csv", ".svg")]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "predict", "map-vessel", str(folder), *others,
         "--json", "--no-figure", "--device", "cpu", "--out", str(out)],
        capture_output=True, text=True, timeout=300 + 2 * count, env={**os.environ, "ZOO_PLUGINS": ""},
    )  # fmt: skip
    seconds = time.perf_counter() - start
    assert "Traceback" not in done.stderr
    assert "Error:" not in done.stderr, [line for line in done.stderr.splitlines() if "Error:" in line]
    assert done.returncode == 2
    records = [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in done.stdout.splitlines()]
    tables = {name for name, kind in of.items() if kind.suffix == ".csv"}  # one may still be a table of many rows
    answered = [Path(record["source"]).name for record in records]
    assert sorted(set(of) - tables) == sorted(name for name in answered if name in set(of) - tables)  # one for each
    assert all("error" in record for record in records if Path(record["source"]).name not in of)
    results = [record for record in records if "error" not in record]
    assert all(len(record["error"]) < 500 for record in records if "error" in record)
    for record in results:
        kind = of[Path(record["source"]).name]
        image = media.read(record["source"]).require_2d()  # it can be read, then, and as this:
        assert np.isfinite(image.array).all()
        sound = tmp_path / f"sound{kind.suffix}"
        sound.write_bytes(kind.content)
        if kind.checked:
            np.testing.assert_array_equal(image.array, media.read(str(sound)).require_2d().array)
        assert 0 <= record["area_fraction"]["vessel"] <= 1
        mask = next(path for path in record["files"] if "_mask." in path)
        assert media.read_labels(mask).require_2d().size == image.size
    written = {path.name for path in out.iterdir()}
    named = {Path(path).name for record in results for path in record["files"]}
    assert written == named | {"predictions.csv"}  # and nothing half-written
    with (out / "predictions.csv").open(newline="", encoding="utf-8-sig") as table:
        assert len(list(csv.reader(table))) == len(records) + 1
    return {"files": count, "results": len(results), "refused": count - len(results), "seconds": round(seconds)}


def test_sound_files_of_every_kind_are_read(tmp_path: Path) -> None:
    """Otherwise the damaged ones would be refused for another reason."""
    for kind in mutations.kinds(tmp_path):
        path = tmp_path / f"a{kind.suffix}"
        path.write_bytes(kind.content)
        if kind.suffix in (".npy", ".csv", ".svg"):
            with pytest.raises(ZooError):
                media.read(str(path))
        else:
            assert media.read(str(path)).require_2d().size == (mutations.SIDE, mutations.SIDE)


def test_a_folder_of_damaged_files(tmp_path: Path) -> None:
    found = examined(tmp_path, count=78, seed=1)
    assert found["refused"] > 20
    assert found["results"] > 5


@pytest.mark.slow
def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    found = examined(tmp_path, count=1000, seed=2)
    print(found)
    assert found["refused"] > 300
    assert found["results"] > 100


def test_each_damaged_file_is_judged_in_time(tmp_path: Path) -> None:
    folder, lines = tmp_path / "damaged", list[str]()
    for name in damaged_folder(folder, 260, seed=3):
        start = time.process_time()
        try:
            assert np.isfinite(media.read(str(folder / name)).array).all()
        except ZooError as refused:
            lines.append(str(refused))
        assert time.process_time() - start < LONGEST
    assert lines
    assert not [line for line in lines if "\n" in line]


def test_damaged_tables_are_tables_or_refused(tmp_path: Path) -> None:
    from zoo.data.check import patient_doubt
    from zoo.data.sets import load_dataset

    rng = np.random.default_rng(4)
    Image.fromarray(mutations.picture()).save(tmp_path / "a.png")
    texts = ("image,label,patient\na.png,x,1\nb.png,y,2\n", "image;mask\na.png;m.png\n", '"image"\t"id"\na\t1\n')
    lines: list[str] = []
    encodings = ("utf-8", "utf-8-sig", "utf-16")
    for number in range(300):
        table = tmp_path / f"t{'.tsv' if number % 7 == 0 else '.jsonl' if number % 11 == 0 else '.csv'}"
        table.write_bytes(mutations.mutated(texts[number % 3].encode(encodings[number % 5 % 3]), rng))
        try:
            dataset = load_dataset(f"csv:{table}")
            assert all(isinstance(case.id, str) for case in dataset)
            patient_doubt(dataset)
        except ZooError as refused:
            lines.append(str(refused))
    assert lines
    assert not [line for line in lines if "\n" in line]
