"""Damaged uploads of every kind: 400 or 422 with the sentence of the command line, or a result; never a 500."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.media import mutations
from zoo import inputs, media, registry
from zoo.data.case import Case
from zoo.errors import ZooError

pytest.importorskip("nibabel")
pytest.importorskip("pydicom")


def examined(serving: Any, folder: Path, count: int, seed: int) -> Counter[int]:
    """How often each status was given to ``count`` damaged uploads, once all answers are found to be right."""
    rng = np.random.default_rng(seed)
    kinds = mutations.kinds(folder)
    statuses: Counter[int] = Counter()
    with serving() as client:
        for number in range(count):
            kind = kinds[number % len(kinds)]
            content, name = mutations.mutated(kind.content, rng), f"{number:04d}{kind.suffix}"
            if number % 5 == 4:  # a zip, damaged itself
                stream = io.BytesIO()
                with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
                    archive.writestr(name, kind.content)
                content, name = mutations.mutated(stream.getvalue(), rng), f"{number:04d}.zip"
            part = "region" if number % 7 == 6 else "image"
            data = {"image": "phantom:fundus?seed=1"} if part == "region" else {}
            answer = client.post("/models/toy-model/predict", files={part: (name, content)}, data=data)
            statuses[answer.status_code] += 1
            assert answer.status_code in (200, 400, 413, 422), (number, kind.name, answer.text)
            if answer.status_code == 200:
                for record in answer.json()["results"]:  # of a table, some rows may fail
                    assert "error" in record or 0 <= record["area_fraction"]["bright"] <= 1
                continue
            sentence = answer.json()["detail"]
            assert 10 < len(sentence) < 500
            assert "\n" not in sentence
            assert str(folder) not in sentence
            assert "zoo-serve-" not in sentence
            if part == "image" and not name.endswith(".zip"):
                assert sentence == here(folder / name, content)
        left = [path.name for path in client.app.state.house.temporary.folder.iterdir()]
        assert left == [".lock"]
    return statuses


def here(path: Path, content: bytes) -> str:
    """What the library says of the same file, as the command line prints it."""
    path.write_bytes(content)
    try:
        plugin = registry.find("toy-model").plugin
        assert plugin is not None
        (one,) = inputs.unfold(plugin, media.expand([str(path)]))  # a table is a list of cases
        found = media.read(one.image if isinstance(one, Case) else one).require_2d("toy-model")
        from zoo.media.doubts import require_content

        require_content(found)
    except ZooError as refused:
        return str(refused).replace(f"{path.parent}/", "")
    finally:
        path.unlink()
    raise AssertionError(f"{path} was refused and can be read")


def test_a_hundred_damaged_uploads_give_no_500(serving: Any, tmp_path: Path) -> None:
    statuses = examined(serving, tmp_path, 100, seed=11)
    assert statuses[422] > 20
    assert statuses[200] > 5


@pytest.mark.slow
def test_a_thousand_damaged_uploads_give_no_500(serving: Any, tmp_path: Path) -> None:
    statuses = examined(serving, tmp_path, 1000, seed=12)
    print(dict(statuses))
    assert statuses[422] > 200
    assert statuses[200] > 50
