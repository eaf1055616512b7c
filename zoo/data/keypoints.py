"""Points that people marked in images: a table with the columns image, x, y and kind, or an export of Label Studio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo import media
from zoo.data.tables import stem_of, table_rows
from zoo.errors import DataError, OptionError
from zoo.storage import user_path
from zoo.text import strict_json


def keypoints_of(path: Any, picture: media.Image) -> list[tuple[float, float, str]]:
    """x, y (px, whole numbers at the centres of pixels) and kind of the points of one image.

    An image is known by its file's name without suffix; one that the file doesn't name has no points. A table states x
    and y in px; Label Studio's list, of ``{"img", "kp-1": [{"x", "y", "keypointlabels"}]}``, in percent of the sides.
    Kinds come in small letters with ``_`` between words. Raises ``DataError`` for a file that is none of both.
    """
    file, stem = user_path(path, OptionError), stem_of(Path(picture.source))
    rows = _label_studio(file, picture) if file.suffix.lower() == ".json" else _table(file)
    found = [(name, x, y, kind.strip().lower().replace(" ", "_").replace("-", "_")) for name, x, y, kind in rows]
    return [(x, y, kind) for name, x, y, kind in found if stem_of(Path(name)) == stem]


def _table(file: Path) -> list[tuple[str, float, float, str]]:
    try:
        return [(str(r["image"]), float(r["x"]), float(r["y"]), str(r["kind"])) for r in table_rows(file)]
    except (KeyError, ValueError, TypeError):
        raise DataError(f"{file} must have the columns image, x, y and kind, x and y in px") from None


def _label_studio(file: Path, picture: media.Image) -> list[tuple[str, float, float, str]]:
    h, w = picture.size
    try:
        return [
            (str(item["img"]), float(p["x"]) / 100 * w - 0.5, float(p["y"]) / 100 * h - 0.5, str(kind))
            for item in strict_json(file.read_text(encoding="utf-8"))
            for p in item.get("kp-1") or ()
            for kind in p["keypointlabels"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{file} is no list of key points as Label Studio exports it") from None
