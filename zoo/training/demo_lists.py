"""``python -m zoo.training.demo_lists [MODEL ...]`` writes what demo weights state beside themselves.

``seen.json``, ``domain.json`` and the temperature in ``config.json``, of all plugins or those named. A training
writes them itself; this makes them anew for weights that stay. It trains nothing: the data and the preset are recorded,
and they divide as they did.
"""

from __future__ import annotations

import json
import re
import sys

from zoo import registry
from zoo.data.seen import Seen
from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData, divide
from zoo.loading import load_into, locate
from zoo.plugin import Plugin
from zoo.storage import write_file
from zoo.training.reference import refer
from zoo.weights import CONFIG, DOMAIN, SEEN

ENOUGH = 200  # images that the kind is known by, and cases that the temperature is fitted to: drawing them takes long


def demo_data(plugin: Plugin) -> TrainData:
    """What the demo weights of ``plugin`` were trained on, as it was divided."""
    training = registry.part(plugin, "training")[1]
    record = json.loads((locate("demo", plugin).folder / CONFIG).read_text(encoding="utf-8"))
    preset = re.search(r"--preset (\S+)", plugin.weights.command if plugin.weights else "")
    recipe = training.configure(preset[1] if preset else "paper")
    return divide(load_dataset(record["trained_on"], plugin=plugin), training.split, recipe, 0)


def seen_by_demo(plugin: Plugin) -> Seen:
    """What the demo weights of ``plugin`` were trained on and chosen by."""
    return Seen.of(demo_data(plugin))


def state(plugin: Plugin) -> None:
    """Write what the demo weights of ``plugin`` state beside themselves."""
    folder, data = locate("demo", plugin).folder, demo_data(plugin)
    model = load_into(registry.part(plugin, "model")[1], "demo")
    refer(model, data, registry.part(plugin, "training")[1], ENOUGH)
    write_file(folder / SEEN, Seen.of(data).to_json())
    record = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    record.pop("temperature", None)
    if model.temperature is not None:
        record["temperature"] = round(model.temperature, 4)
    write_file(folder / CONFIG, json.dumps(record, indent=2) + "\n")
    if model.domain is not None:
        write_file(folder / DOMAIN, model.domain.to_json())
    print(f"{plugin.name}: temperature {model.temperature}, {model.domain.images if model.domain else 0} images")


def main() -> None:
    for entry in registry.entries():
        plugin = entry.plugin
        if plugin is not None and plugin.weights and plugin.training and (plugin.name in sys.argv or len(sys.argv) < 2):
            state(plugin)


if __name__ == "__main__":
    main()
