"""``python -m zoo.training.demo_lists`` writes ``seen.json`` beside the demo weights of every plugin.

It trains nothing: the data and the preset are recorded, and they divide as they did.
"""

from __future__ import annotations

import json
import re

from zoo import registry
from zoo.data.seen import Seen
from zoo.data.sets import load_dataset
from zoo.data.splits import divide
from zoo.loading import locate
from zoo.plugin import Plugin
from zoo.storage import write_file
from zoo.weights import CONFIG, SEEN


def seen_by_demo(plugin: Plugin) -> Seen:
    """What the demo weights of ``plugin`` were trained on and chosen by."""
    training = registry.part(plugin, "training")[1]
    record = json.loads((locate("demo", plugin).folder / CONFIG).read_text(encoding="utf-8"))
    preset = re.search(r"--preset (\S+)", plugin.weights.command if plugin.weights else "")
    recipe = training.configure(preset[1] if preset else "paper")
    return Seen.of(divide(load_dataset(record["trained_on"], plugin=plugin), training.split, recipe, 0))


def main() -> None:
    for entry in registry.entries():
        if entry.plugin is not None and entry.plugin.weights and entry.plugin.training:
            print(write_file(locate("demo", entry.plugin).folder / SEEN, seen_by_demo(entry.plugin).to_json()))


if __name__ == "__main__":
    main()
