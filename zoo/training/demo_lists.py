"""``python -m zoo.training.demo_lists [MODEL ...]`` writes what demo weights state beside themselves.

``seen.json`` and the temperature in ``config.json``, of all plugins or those named: a training writes them itself, this
makes them anew for weights that stay. It trains nothing: the data and the preset are recorded, and they divide as they
did. And ``domain.json``, of more phantoms of the same kind than a training sees, since they cost little: the limit of
the kind then hangs on the kind and not on who happened to be drawn. With ``--domain`` it writes that alone.
"""

from __future__ import annotations

import json
import re
import sys

from zoo import media, registry
from zoo.data.seen import Seen
from zoo.data.sets import load_dataset
from zoo.data.splits import TrainData, divide
from zoo.domain import Domain
from zoo.loading import load_into, locate
from zoo.model import Model
from zoo.plugin import Plugin
from zoo.spec import Spec
from zoo.storage import write_file
from zoo.training.reference import domain_of, refer
from zoo.weights import CONFIG, DOMAIN, SEEN

ENOUGH = 200  # cases that the temperature is fitted to: drawing them takes long
SEED = 500_000  # of the phantoms by which the kind is known
SMALL = 256  # px
KNOWN_BY = {True: 1000, False: 300}  # images up to SMALL, and larger ones, which take ten times as long to draw


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


def domain_of_demo(model: Model) -> Domain | None:
    """The kind of phantoms that demo weights know."""
    spec = Spec.parse(model.provenance.trained_on)
    phantoms = load_dataset(str(spec.with_options(n=max(KNOWN_BY.values()), seed=SEED)), plugin=model.plugin)
    first = phantoms[0].images[0].image if phantoms[0].images else phantoms[0].image
    return domain_of(model, phantoms, KNOWN_BY[max(media.read(first).size) <= SMALL])


def state(plugin: Plugin, kind_alone: bool = False) -> None:
    """Write what the demo weights of ``plugin`` state beside themselves; of ``kind_alone`` only what they know."""
    folder = locate("demo", plugin).folder
    model = load_into(registry.part(plugin, "model")[1], "demo")
    known = domain_of_demo(model)
    if known is not None:
        write_file(folder / DOMAIN, known.to_json())
    print(f"{plugin.name}: known by {known.images if known else 0} images", flush=True)
    if kind_alone:
        return
    data = demo_data(plugin)
    refer(model, data, registry.part(plugin, "training")[1], ENOUGH)
    write_file(folder / SEEN, Seen.of(data).to_json())
    record = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    record.pop("temperature", None)
    if model.temperature is not None:
        record["temperature"] = round(model.temperature, 4)
    write_file(folder / CONFIG, json.dumps(record, indent=2) + "\n")
    print(f"{plugin.name}: temperature {model.temperature}")


def main() -> None:
    named = [name for name in sys.argv[1:] if name != "--domain"]
    for entry in registry.entries():
        plugin = entry.plugin
        if plugin is not None and plugin.weights and plugin.training and (plugin.name in named or not named):
            state(plugin, "--domain" in sys.argv)


if __name__ == "__main__":
    main()
