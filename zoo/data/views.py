"""What trainings see of image files, kept on disk: a photograph of 24 megapixels is decoded once, not in every run.

Views are small (224 px: 150 KB) and lie in ``~/.cache/medimg-zoo/views``, which only its user may read; the environment
variable ``ZOO_VIEWS`` names another folder, or ``off``. A view is known by the file's path, size and time of change,
and by what was made of it. Nothing in the folder is needed: it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import DataError
from zoo.storage import user_path, write_file

VARIABLE = "ZOO_VIEWS"
SMALL = 1 << 18  # bytes: files below this are as soon decoded as found

Arrays = Mapping[str, np.ndarray]


def folder() -> Path | None:
    """Where views are kept; None where they aren't."""
    given = os.environ.get(VARIABLE, "")
    if given.lower() == "off":
        return None
    return user_path(given) if given else Path.home() / ".cache" / "medimg-zoo" / "views"


def kept(image: Any, what: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays that ``make`` gives for an image file, from disk if they were made before.

    ``what`` names the making with all its settings. Whatever is no large file is made each time. A damaged view is made
    anew, and a folder that can't be written to is no error.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load, save

    home, place = folder(), _place(image, what)
    if home is None or place is None:
        return make()
    path = home / place[:2] / f"{place}.safetensors"
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError, ValueError):
        pass
    arrays = make()
    with suppress(OSError, DataError):
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_file(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    return arrays


def _place(image: Any, what: str) -> str | None:
    if not isinstance(image, (str, Path)):
        return None
    try:
        path = Path(image)
        facts = path.stat()
        if not path.is_file() or facts.st_size < SMALL:
            return None
        text = json.dumps([str(path.resolve()), facts.st_size, facts.st_mtime_ns, what])
    except (OSError, ValueError):  # no file, such as "phantom:fundus"
        return None
    return hashlib.sha256(text.encode()).hexdigest()[:32]
