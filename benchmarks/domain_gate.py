"""Which real images the demo weights know to be unlike their training images: writes the table of ``docs/domain.md``.

    python benchmarks/domain_gate.py [MODEL ...]

Images of installed libraries, none of which any weights saw, against every model whose weights state a domain; and as
many phantoms of the training's kind, of other seeds, for false alarms. What is looked at is the verdict alone. With
names of models only their columns are made anew.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from sklearn.datasets import load_digits, load_sample_images

from zoo import media, registry
from zoo.data.sets import load_dataset
from zoo.errors import MediaError
from zoo.loading import load_into
from zoo.media.doubts import require_content
from zoo.spec import Spec
from zoo.storage import write_file
from zoo.training.reference import _input

PAGE = Path(__file__).parents[1] / "docs" / "domain.md"
START, END = "<!-- python benchmarks/domain_gate.py -->", "<!-- end -->"
PHANTOMS, CASES, SEED = 200, 40, 700_000  # held-out phantoms for false alarms; cases where each has several images
RIGHT = {
    "fundus photograph": ("map-vessel",),
    "histology": ("pointcloud-recon3d", "sam-histo-interactive", "sam-path", "samaug"),
    "ultrasound": ("cemb-sam",),
    "MR": ("fedautomri",),
}


def images() -> Iterator[tuple[str, str, Any]]:
    """Modality, name and pixels."""
    for modality, name in (
        ("fundus photograph", "retina"), ("fundus photograph", "microaneurysms"), ("histology", "ihc"),
        ("microscopy", "cell"), ("CT", "ct"), ("CT", "head-ct"), ("MR", "mr"), ("MR", "abdomen-mr"),
        ("ultrasound", "ultrasound"),
    ):  # fmt: skip
        yield modality, f"sample:{name}", media.read(f"sample:{name}").require_2d()
    head = media.read("sample:anatomical")
    yield "MR", "sample:anatomical, a slice", head.plane(head.size[0] // 2)
    for name in ("chelsea", "astronaut", "coffee", "rocket", "hubble_deep_field"):
        yield "photograph", f"skimage.data.{name}", getattr(skimage.data, name)()
    for name, array in zip(("china", "flower"), load_sample_images().images, strict=True):
        yield "photograph", f"sklearn, {name}", array
    for name in ("camera", "coins", "moon", "brick", "grass", "gravel", "page", "text", "clock"):
        yield "grey photograph", f"skimage.data.{name}", getattr(skimage.data, name)()
    yield "digit", "sklearn, digit 0", np.kron(load_digits().images[0] * 15, np.ones((8, 8))).astype(np.uint8)
    yield "made", "noise", np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    yield "made", "ramp", np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    yield "made", "black", np.zeros((128, 128), np.uint8)
    yield "made", "white with a speck", np.pad(np.zeros((2, 2), np.uint8), 99, constant_values=255)
    stencil = np.random.default_rng(0).random((128, 128)) < 0.3
    yield "made", "black and white", stencil.astype(np.uint8) * 255


def verdict(model: Any, pixels: Any) -> str:
    """``caught``, ``missed`` or ``refused``."""
    try:
        case = model._read(pixels)
        if isinstance(case, media.Image):
            require_content(case)
        found = model._kind_of(case, {one.name: one.default for one in model.plugin.inputs})
    except MediaError:
        return "refused"
    if found is None:
        return "refused" if getattr(case, "images", ()) else "not judged"  # of a patient no image shows anything
    return "caught" if found.unlike else "missed"


def alarms(model: Any) -> tuple[int, int]:
    """How many phantoms of the training's kind are called unlike, and of how many."""
    count = CASES if model.plugin.primary_input.kind in ("images", "volume") else PHANTOMS
    data = Spec.parse(model.provenance.trained_on).with_options(n=count, seed=SEED)
    verdicts = [verdict(model, _input(case)) for case in load_dataset(str(data), plugin=model.plugin)]
    return verdicts.count("caught"), len(verdicts)


def main() -> None:
    models = {}
    for entry in registry.entries():
        if entry.plugin is None or not entry.plugin.weights or (sys.argv[1:] and entry.plugin.name not in sys.argv):
            continue
        model = load_into(registry.part(entry.plugin, "model")[1], "demo")
        if model.domain is not None:
            models[entry.plugin.name] = model
    rows, counts, own = [], {name: [0, 0] for name in models}, {name: [0, 0] for name in models}
    for modality, name, pixels in images():
        cells = []
        for who, model in models.items():
            found = verdict(model, pixels)
            if who in RIGHT.get(modality, ()) and found != "not judged":
                own[who][0] += found != "missed"
                own[who][1] += 1
                found = {"missed": "passed: its kind", "caught": "caught, though its kind"}.get(found, found)
            elif found != "not judged":
                counts[who][0] += found in ("caught", "refused")
                counts[who][1] += 1
            cells.append("**missed**" if found == "missed" else found)
        rows.append([modality, name, *cells])
    rows.append(["", "**caught or refused, of other kinds**", *(f"{a} of {b}" for a, b in counts.values())])
    rows.append(["", "known by", *(f"{model.domain.images} images" for model in models.values())])
    shares = (f"{a} of {b}" if b else "" for a, b in own.values())
    rows.append(["", "**false alarms, real images of its kind**", *shares])
    write(models, rows)
    false = {name: alarms(model) for name, model in models.items()}
    rows.append(["", "**false alarms, phantoms of its kind**", *(f"{a} of {b}" for a, b in false.values())])
    write(models, rows)


def write(models: Iterable[str], rows: list[list[str]]) -> None:
    """Put the columns of these models into the page's table, as far as it has come; others stay."""
    page = PAGE.read_text(encoding="utf-8")
    before = page[page.index(START) : page.index(END)]
    header, *known = _cells(before)
    columns: dict[str, dict[tuple[str, str], str]] = {
        name: {(row[0], row[1]): row[place] for row in known} for place, name in enumerate(header) if place > 1
    }
    columns |= {name: {(row[0], row[1]): row[place] for row in rows} for place, name in enumerate(models, start=2)}
    names = sorted(columns)
    order = dict.fromkeys([(row[0], row[1]) for row in [*rows, *known]])
    body = [[*key, *(columns[name].get(key, "") for name in names)] for key in order]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [header[:2] + names, ["---"] * (2 + len(names)), *body])
    pattern = re.escape(START) + ".*?" + re.escape(END)
    write_file(PAGE, re.sub(pattern, lambda _: f"{START}\n\n{table}\n\n{END}", page, flags=re.DOTALL))


def _cells(text: str) -> list[list[str]]:
    """The rows of a table, without its rule."""
    lines = [line.strip()[1:-1].split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if set("".join(line)) - set("- ")]


if __name__ == "__main__":
    main()
