"""The checks themselves: each takes the :class:`Subject`, returns what it saw, and raises ``Failed`` or ``Skipped``."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage

from zoo import answers, inputs, loading, media, registry, weights
from zoo import config as configs
from zoo import options as option_values
from zoo.answers import good_values
from zoo.conformance import kinds
from zoo.conformance.anatomy import examine
from zoo.conformance.rules import (
    MAX_DEMO_BYTES,
    SAME,
    SAME_LABELS,
    SAME_ON_CUDA,
    TRAINING_CASES,
    TRAINING_STEPS,
    Failed,
    Skipped,
)
from zoo.errors import OptionError, ZooError
from zoo.foreign import points
from zoo.model import Model
from zoo.plugin import ENTRY_POINT_GROUP, Input, Plugin
from zoo.prediction import Prediction
from zoo.spec import Spec


class Subject:
    """A plugin under examination, with the parts that several checks need."""

    def __init__(self, entry: registry.Entry) -> None:
        assert entry.plugin is not None
        self.entry = entry
        self.plugin: Plugin = entry.plugin

    @cached_property
    def model_class(self) -> type[Model]:
        return registry.resolve(self.entry, "model")

    @cached_property
    def model(self) -> Model:
        """On the CPU, in eval mode: with demo weights where they are, else as a fixed seed initialises it."""
        torch.manual_seed(0)
        try:
            return loading.load_into(self.model_class, "demo", "cpu")
        except ZooError:  # the check of the demo weights says why
            return loading.load_into(self.model_class, "none", "cpu")

    @cached_property
    def specs(self) -> list[str]:
        """Two inputs to predict on: of the phantom, else the sample twice."""
        phantom, sample = self.plugin.phantom, self.plugin.sample
        if phantom:
            return [str(Spec.parse(phantom).with_options(seed=seed)) for seed in (0, 1)]
        if sample:
            return [sample, sample]
        raise Failed("the card names neither a sample nor a phantom, so nobody can try the model; name one")

    @cached_property
    def image(self) -> media.Image:
        return media.read(self.specs[0])

    def primary(self, spec: str) -> Any:
        """What ``predict`` takes for one prediction."""
        return [spec] if self.plugin.primary_input.kind == "images" else spec

    @cached_property
    def needed(self) -> dict[str, Any]:
        """Values for the optional inputs that are none; what the phantom draws needs none."""
        return answers.made_up(self.plugin, self.image)

    @cached_property
    def drawn(self) -> dict[str, Any]:
        """The named inputs that come with the phantom."""
        return inputs.drawn(self.plugin)

    @property
    def beside(self) -> dict[str, Any]:
        """What an image needs that comes alone."""
        return {**self.needed, **self.drawn}

    def predict(self, spec: str, given: dict[str, Any] | None = None, model: Model | None = None) -> Prediction:
        """One prediction; what isn't ``given`` and is needed is made up."""
        return (model or self.model).predict(self.primary(spec), **{**self.needed, **(given or {})})

    @cached_property
    def prediction(self) -> Prediction:
        return self.predict(self.specs[0])


# ---- the card ----------------------------------------------------------------------------------------------------


def card(subject: Subject) -> str:
    plugin = subject.plugin
    empty = [name for name in ("title", "summary", "modality") if not getattr(plugin, name).strip()]
    empty += [f"paper.{name}" for name in ("title", "workshop") if not getattr(plugin.paper, name).strip()]
    empty += [] if plugin.paper.authors and all(map(str.strip, plugin.paper.authors)) else ["paper.authors"]
    empty += [] if plugin.outputs else ["outputs"]
    helps = [(item.name, item.help) for item in plugin.inputs] + [(item.name, item.help) for item in plugin.outputs]
    empty += [f"help of {name}" for name, text in helps if not text.strip()]
    if empty:
        raise Failed(f"the card leaves {', '.join(empty)} empty; fill it in")
    if not plugin.primary_input.required:
        raise Failed(f"the first input, {plugin.primary_input.name}, must be required: it is the positional one")
    if plugin.task in ("segmentation", "classification") and len(plugin.labels) < 2:
        raise Failed(f"a {plugin.task} needs at least two labels on its card, not {len(plugin.labels)}")
    for item in plugin.options:
        if not item.required and item.default is not None:
            option_values.check(plugin, {item.name: item.default}, whole=False)
    try:
        json.dumps(plugin.to_dict(), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Failed(f"the card isn't plain data: {error}") from error
    return f"{plugin.task}, {len(plugin.inputs)} inputs, {len(plugin.outputs)} outputs"


HEAVY = ("torch", "transformers", "monai", "tensorflow", "jax")
_LIGHT = """
import sys
from importlib.metadata import EntryPoint
EntryPoint("plugin", {value!r}, {group!r}).load()
print(",".join(name for name in {heavy!r} if name in sys.modules))
"""


def light_import(subject: Subject) -> str:
    entry = subject.entry
    values = [
        point.value
        for point in points(ENTRY_POINT_GROUP)
        if point.distribution == entry.distribution and point.name.replace("_", "-") == entry.name
    ]
    if not values:
        raise Skipped("the plugin has no entry point of its own")
    code = _LIGHT.format(value=values[0], group=ENTRY_POINT_GROUP, heavy=HEAVY)
    # What this process sees is what the other one must see, wherever a plugin was put on the path.
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise Failed(f"importing {values[0]} in a fresh process fails: {done.stderr.strip().splitlines()[-1]}")
    if heavy := done.stdout.strip():
        raise Failed(f"importing {values[0]} imports {heavy}; move that import out of the card's module")
    return f"{values[0]} imports none of {', '.join(HEAVY)}"


def anatomy(subject: Subject) -> str:
    return examine(subject.entry.distribution, subject.plugin.name)


# ---- the network -------------------------------------------------------------------------------------------------


def build(subject: Subject) -> str:
    model_class, plugin = subject.model_class, subject.plugin
    if not (isinstance(model_class, type) and issubclass(model_class, Model)):
        raise Failed(f"{plugin.model} is no subclass of zoo.Model")
    if getattr(model_class, "plugin", None) is not plugin:
        raise Failed(f"{model_class.__name__}.plugin is not the card; write plugin: ClassVar = plugin in the class")
    config_class = getattr(model_class, "config_class", None)
    if not (isinstance(config_class, type) and is_dataclass(config_class)):
        raise Failed(f"{model_class.__name__}.config_class must be a dataclass that describes the network")
    if not config_class.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise Failed(f"{config_class.__name__} must be frozen: @dataclass(frozen=True)")
    torch.manual_seed(0)
    model = model_class(config_class())
    _takes_its_options(model_class, plugin)
    count = sum(parameter.numel() for parameter in model.parameters())
    if not count:
        raise Failed(f"{model_class.__name__} has no parameters after __init__; build its layers there")
    return f"{model_class.__name__}, {count:,} parameters"


def _takes_its_options(model_class: type[Model], plugin: Plugin) -> None:
    """``_predict`` has a keyword for every option of the card, and needs no other."""
    if model_class._predict is Model._predict:
        raise Failed(f"{model_class.__name__} has no _predict(self, images, *, ...), which predict calls")
    keywords = list(inspect.signature(model_class._predict).parameters.values())[2:]
    names = {one.name for one in keywords if one.kind != one.VAR_KEYWORD}
    declared = {item.name for item in plugin.options}
    open_ended = any(one.kind == one.VAR_KEYWORD for one in keywords)
    if lacking := sorted(declared - names) if not open_ended else []:
        raise Failed(f"{model_class.__name__}._predict doesn't take {', '.join(lacking)}, which the card declares")
    if unknown := sorted(names - declared):
        raise Failed(f"{model_class.__name__}._predict takes {', '.join(unknown)}, which the card doesn't declare")


def configuration(subject: Subject) -> str:
    todo = {subject.model_class.config_class.__name__: subject.model_class.config_class()}
    if subject.plugin.training:
        training_object = registry.resolve(subject.entry, "training")
        for preset in training_object.presets:
            todo[f"preset {preset}"] = training_object.configure(preset)
    for name, value in todo.items():
        there = json.loads(json.dumps(configs.to_dict(value), allow_nan=False))
        back = configs.from_dict(type(value), there)
        if back != value:
            raise Failed(f"{name} comes back from JSON as {back}, not as {value}")
        try:
            configs.from_dict(type(value), {**there, "no_such_field": 1})
        except OptionError:
            continue
        raise Failed(f"{type(value).__name__} takes a field that it doesn't have")
    return ", ".join(todo)


def save_and_load(subject: Subject) -> str:
    torch.manual_seed(1)
    model_class = subject.model_class
    model = model_class(model_class.config_class()).eval()
    with tempfile.TemporaryDirectory(prefix="zoo-check-") as folder:
        weights.save(model, folder, trained_on="nothing")
        back = loading.load_into(model_class, folder, "cpu")
    back.provenance = model.provenance  # notes tell weights from none
    if back.config != model.config:
        raise Failed(f"the configuration comes back as {back.config}, not as {model.config}")
    before, after = model.state_dict(), back.state_dict()
    for name, tensor in before.items():
        if not _same_bits(tensor, after[name]):
            raise Failed(f"the tensor {name} comes back with other values; keep all state in parameters and buffers")
    options = subject.needed
    first, second = (m.predict(subject.primary(subject.specs[0]), **options) for m in (model, back))
    if difference := different(first, second):
        raise Failed(f"the loaded model predicts otherwise ({difference}); keep all state in parameters and buffers")
    return f"{len(before)} tensors and a prediction"


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    as_bytes = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return torch.equal(*as_bytes)


def demo_weights(subject: Subject) -> str:
    plugin = subject.plugin
    about = plugin.weights
    if about is None:
        raise Failed("the card has no weights; train some with --preset demo, put them in demo/ and describe them")
    blank = [name for name in ("trained_on", "disclaimer", "command", "licence") if not getattr(about, name).strip()]
    if blank:
        raise Failed(f"weights on the card leave {', '.join(blank)} empty; say where they come from")
    located = loading.locate("demo", plugin)
    size = sum(path.stat().st_size for path in located.folder.iterdir() if path.is_file())
    if size > MAX_DEMO_BYTES:
        raise Failed(f"demo/ is {size / 2**20:.2f} MiB; keep it under {MAX_DEMO_BYTES >> 20} MiB, in half precision")
    model = loading.load_into(subject.model_class, "demo", "cpu")
    provenance = model.provenance
    if not provenance.trained_on or not provenance.disclaimer:
        raise Failed("config.json in demo/ doesn't say what the weights were trained on; save them with zoo train")
    if bad := [name for name, tensor in model.state_dict().items() if not _finite(tensor)]:
        raise Failed(f"the tensor {bad[0]} of the demo weights holds NaN or infinite values")
    return f"{size / 1024:.0f} KiB, trained on {provenance.trained_on}"


def answer(subject: Subject) -> str:
    if subject.plugin.weights is None:
        raise Skipped("the card has no weights")
    located = loading.locate("demo", subject.plugin)
    if answers.read(located) is None:
        raise Skipped(
            f"the demo weights carry no stored answer; write one with: zoo test {subject.plugin.name} --write"
        )
    tested = answers.compare(subject.model, located)
    if not tested.ok:
        raise Failed(f"on {tested.input} it {tested.sentence()}; find what changed, or store it anew with --write")
    return f"{tested.input}: {tested.sentence()}"


def _finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


# ---- predictions -------------------------------------------------------------------------------------------------


def sample(subject: Subject) -> str:
    if not subject.plugin.sample:
        raise Skipped("the card names no sample")
    return _described(subject, subject.predict(subject.plugin.sample, subject.beside))


def phantom(subject: Subject) -> str:
    if not subject.plugin.phantom:
        raise Skipped("the card names no phantom")
    return _described(subject, subject.predict(subject.plugin.phantom))


def _described(subject: Subject, prediction: Any) -> str:
    """The summary of a prediction that is what the card says."""
    if not isinstance(prediction, Prediction):
        raise Failed(f"predict returned a {type(prediction).__name__}, not a zoo.Prediction")
    probabilities = getattr(prediction, "probabilities", None)
    if isinstance(probabilities, dict):
        if tuple(probabilities) != subject.plugin.labels:
            raise Failed(
                f"its classes are {', '.join(probabilities)}, those of the card {', '.join(subject.plugin.labels)}"
            )
        if not all(math.isfinite(p) and -SAME <= p <= 1 + SAME for p in probabilities.values()):
            raise Failed(f"probabilities must lie in [0, 1], not {probabilities}")
    mask = getattr(prediction, "mask", None)
    if isinstance(mask, np.ndarray):
        image: media.Image = prediction.image  # type: ignore[attr-defined]
        if mask.shape != image.size:
            raise Failed(f"the mask is {mask.shape}, the image {image.size}; scale it back to the input")
        # What a user marked may be numbered beyond the classes of the card; the prediction then names every number.
        labels = getattr(prediction, "labels", subject.plugin.labels)
        if mask.dtype.kind not in "bui" or (mask.size and mask.max() >= len(labels)):
            raise Failed(f"the mask must hold whole numbers below {len(labels)}, the number of its labels")
    if wrong := kinds.fault(prediction, subject.plugin):
        raise Failed(wrong)
    for name, array in _arrays(prediction):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Failed(f"{name} of the prediction holds NaN or infinite values")
    return prediction.summary()


def deterministic(subject: Subject) -> str:
    first = subject.prediction
    torch.manual_seed(12345)  # a draw that predict makes from the global generator must not matter
    np.random.seed(12345)  # noqa: NPY002
    if difference := different(first, subject.predict(subject.specs[0])):
        raise Failed(f"two predictions on {subject.specs[0]} differ in {difference}; draw nothing at random in predict")
    if subject.model.training:
        raise Failed("predict left the model in training mode")
    return "equal to the bit"


def batch(subject: Subject) -> str:
    inputs = [subject.primary(spec) for spec in subject.specs]
    together = subject.model.predict_batch(inputs, **subject.needed)
    for spec, one in zip(subject.specs, together, strict=True):
        if difference := different(subject.predict(spec), one, SAME):
            raise Failed(f"in a batch {spec} gives another prediction: {difference}")
    return f"2 inputs, within {SAME:g}"


def cuda(subject: Subject) -> str:
    if not torch.cuda.is_available():
        raise Skipped("no CUDA device here")
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        subject.model.to("cuda")
        there = subject.predict(subject.specs[0])
    finally:
        subject.model.to("cpu")
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    if difference := different(subject.predict(subject.specs[0]), there, SAME_ON_CUDA):
        raise Failed(f"{torch.cuda.get_device_name()} gives another prediction: {difference}")
    return f"{torch.cuda.get_device_name()}, within {SAME_ON_CUDA:g}"


def as_json(subject: Subject) -> str:
    record = subject.prediction.to_dict()
    try:
        back = json.loads(json.dumps(record, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise Failed(f"to_dict() holds what JSON can't: {error}; use plain numbers, text, lists and dicts") from error
    missing = [name for name in ("source", "kind", "model", "weights", "disclaimer", "options") if name not in back]
    if missing:
        raise Failed(f"to_dict() lacks {', '.join(missing)}; extend super().to_dict()")
    return ", ".join(name for name in back)


def figure(subject: Subject) -> str:
    picture = subject.prediction.figure()
    if not isinstance(picture, PILImage.Image):
        raise Failed(f"figure() returned a {type(picture).__name__}, not a Pillow image")
    if _blank(np.asarray(picture.convert("RGB"))):
        raise Failed("the figure is blank")
    if not (panels := subject.prediction.panels()):
        raise Failed("the figure has no panel; show the input and the result")
    if _blank(np.asarray(panels[0].picture)):
        raise Failed(f"the first panel, {panels[0].title}, is blank; show the input")
    if not subject.prediction.summary().strip():
        raise Failed("summary() is empty")
    with tempfile.TemporaryDirectory(prefix="zoo-check-") as folder:
        written = subject.prediction.save(folder, "result")
        lost = [path.name for path in written if not path.is_file() or not path.stat().st_size]
        if lost:
            raise Failed(f"save() names {lost[0]} but wrote nothing there")
        names = ", ".join(path.name for path in written)
    return f"{picture.width} x {picture.height}, {len(panels)} panels; {names}"


def _blank(pixels: np.ndarray) -> bool:
    return pixels.size == 0 or float(pixels.max()) - float(pixels.min()) < 1e-3


def options(subject: Subject) -> str:
    tried = refused = 0
    skipped = []
    for item in subject.plugin.options:
        values = [subject.drawn[item.name]] if item.name in subject.drawn else good_values(item, subject.image)
        if not values:
            skipped.append(item.name)
        for value in values:
            given = {item.name: (value,) if item.many else value}
            try:
                prediction = _asked(subject, given)
            except Exception as error:
                raise Failed(f"{item.name}={_shown(value)} fails: {_named(error)}") from error
            _described(subject, prediction)
            tried += 1
        for value in wrong_values(item):
            given = {item.name: (value,) if item.many else value}
            if outcome := _not_refused(partial(subject.predict, subject.specs[0], given)):
                raise Failed(f"{item.name}={_shown(value)} {outcome}")
            refused += 1
    if outcome := _not_refused(partial(subject.predict, subject.specs[0], {"no_such_option": 1})):
        raise Failed(f"an unknown option {outcome}")
    untried = f"; {', '.join(skipped)} not tried" if skipped else ""
    return f"{tried} values taken, {refused} refused{untried}" if subject.plugin.options else "it has none"


def _asked(subject: Subject, given: dict[str, Any]) -> Prediction:
    """A prediction with these options, and with those that refusals ask for by ``add --with NAME=VALUE``."""
    declared = {item.name: item for item in subject.plugin.options}
    for _ in declared:
        try:
            return subject.predict(subject.specs[0], given)
        except OptionError as error:
            asked = re.search(r"add --with (\w+)=(\w*)", str(error))
            more = declared.get(asked[1]) if asked else None
            if asked is None or more is None or more.name in given:
                raise
            value = asked[2] if more.kind == "choice" else next(iter(good_values(more, subject.image)), None)
            given = {**given, more.name: (value,) if more.many else value}
    return subject.predict(subject.specs[0], given)


def wrong_values(item: Input) -> list[Any]:
    """Values that an input must refuse."""
    below = [item.minimum - 1] if item.minimum is not None else []
    above = [item.maximum + 1] if item.maximum is not None else []
    if item.kind == "choice":
        return ["no such choice", 1.5]
    if item.kind == "flag":
        return ["perhaps", 1]
    if item.kind == "number":
        return [*below, *above, "many", math.nan, math.inf, True]
    if item.kind == "integer":
        return [*map(int, [*below, *above]), 1.5, "many", math.nan, True]
    if item.kind == "text":
        return [1.5]
    if item.kind in ("mask", "image", "volume"):
        size_is_fixed = [np.ones((1, 2), np.uint8)] if item.kind == "mask" else []
        return [*size_is_fixed, "no/such/file.png", 1.5]
    if item.kind == "table":
        return ["no/such/file.csv", 1.5, []]
    if item.kind == "box":
        return [(1, 2, 3), (0, 0, math.inf, 1), "everywhere"]
    if item.kind == "point":
        return [(1,), (math.nan, 0), "everywhere"]
    if item.kind == "click":
        return [(1, 1), (0, math.nan, 1), "everywhere"]
    return ["no/such/file", 1.5]  # images, file, folder


def named_inputs(subject: Subject) -> str:
    plugin = subject.plugin
    named = [item for item in plugin.options if item.kind in option_values.READ]
    if not named:
        return "its card names no image, volume or table beside the first input"
    alone = [subject.image] if plugin.primary_input.kind == "images" else subject.image
    with tempfile.TemporaryDirectory(prefix="zoo-check-") as folder:
        unusable = list(_unusable(Path(folder), named[0].kind))
        for item in named:
            if item.required and not item.unless:
                given = {name: value for name, value in subject.beside.items() if name != item.name}
                if outcome := _not_refused(partial(subject.model.predict, alone, **given)):
                    raise Failed(f"a prediction without {item.name} {outcome}")
            for what, value in unusable if item.kind != "table" else ():
                given = {**subject.beside, item.name: (value,) if item.many else value}
                if value is not None and (outcome := _not_refused(partial(subject.model.predict, alone, **given))):
                    raise Failed(f"{what} as {item.name} {outcome}")
    images = {item.name: subject.drawn.get(item.name, subject.image) for item in named if item.kind != "table"}
    many = {item.name for item in named if item.many}
    given = {name: (value,) if name in many else value for name, value in images.items()}
    prediction = subject.model.predict(alone, **{**subject.beside, **given})
    if lost := [name for name in given if not any(key.split()[0] == name for key in prediction.inputs)]:
        raise Failed(f"the prediction doesn't state the digest of {', '.join(lost)}; leave its inputs as they are")
    return _by_table(subject, images) or ", ".join(item.name for item in named)


def _by_table(subject: Subject, images: dict[str, Any]) -> str:
    """A line of a table says what the same inputs say by name; nothing where they can't be written as PNG."""
    first = subject.plugin.primary_input
    read = {first.name: subject.image, **{name: media.read(value) for name, value in images.items()}}
    if first.kind != "image" or any(one.array.dtype != np.uint8 or one.ndim_spatial != 2 for one in read.values()):
        return ""
    others = {name: value for name, value in subject.beside.items() if name not in read}
    with tempfile.TemporaryDirectory(prefix="zoo-check-") as folder:
        files = {name: str(Path(folder, f"{name}.png")) for name in read}
        for name, one in read.items():
            PILImage.fromarray(one.array.squeeze()).save(files[name])
        table = Path(folder, "cases.csv")
        table.write_text("\n".join([",".join(read), ",".join(f"{name}.png" for name in read)]) + "\n")
        (case,) = inputs.expand(subject.plugin, [table])
        by_line, by_name = (subject.model.predict(value, **others) for value in (case, files))
    if difference := different(by_line, by_name):
        raise Failed(f"a line of a table gives another prediction than its inputs by name: {difference}")
    return f"{', '.join(read)}; by name and by table"


def bad_images(subject: Subject) -> str:
    kind = subject.plugin.primary_input.kind
    if kind not in ("image", "images", "volume"):
        raise Skipped(f"its first input is a {kind}")
    count = 0
    with tempfile.TemporaryDirectory(prefix="zoo-check-") as folder:
        for name, value in _unusable(Path(folder), kind):
            given = [value] if kind == "images" else value
            if outcome := _not_refused(partial(subject.model.predict, given, **subject.beside)):
                raise Failed(f"{name} {outcome}")
            count += 1
    if kind in ("image", "volume"):
        for name, array in _strange() if kind == "image" else _flat():
            try:
                _described(subject, subject.model.predict(array, **subject.beside))
            except ZooError:
                continue
            except Failed as error:
                raise Failed(f"{name}: {error}") from error
            except Exception as error:
                raise Failed(f"{name} fails: {_named(error)}; predict, or refuse it with a MediaError") from error
            finally:
                count += 1
    return f"{count} tried"


def _unusable(folder: Path, kind: str) -> Iterator[tuple[str, Any]]:
    """What no model can predict on."""
    yield "a file that isn't there", str(folder / "absent.png")
    (folder / "empty.png").touch()
    yield "an empty file", str(folder / "empty.png")
    (folder / "text.png").write_text("this is no picture\n" * 50)
    yield "a text called .png", str(folder / "text.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    PILImage.fromarray(noise).save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:1500])
    yield "half a PNG", str(folder / "cut.png")
    yield "an array of NaN", np.full((32, 32), np.nan, np.float32)
    yield "an empty array", np.zeros((0, 0), np.uint8)
    yield "an array of five axes", np.zeros((2, 2, 2, 2, 2), np.uint8)
    yield "None", None
    if kind == "image":
        yield "a volume", media.Image(np.zeros((5, 32, 32), np.uint8), ndim_spatial=3)


def _strange() -> Iterator[tuple[str, np.ndarray]]:
    """What a model may predict on or refuse, but must not break on."""
    yield "an image of one pixel", np.full((1, 1), 7, np.uint8)
    yield "a black image", np.zeros((48, 48), np.uint8)
    yield "an image of 5 x 301 pixels", np.random.default_rng(0).integers(0, 256, (5, 301), dtype=np.uint8)
    yield "an RGBA image", np.random.default_rng(1).integers(0, 256, (40, 40, 4), dtype=np.uint8)


def _flat() -> Iterator[tuple[str, np.ndarray]]:
    """What a model of volumes may take as one slice, or refuse."""
    yield "a 2-D image", np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)


def _not_refused(attempt: Callable[[], Any]) -> str:
    """What is wrong with how something was refused; nothing if it was, in one sentence."""
    try:
        attempt()
    except ZooError as error:
        text = str(error)
        if not text.strip():
            return "is refused without a word; say what is wrong and what to do"
        return "is refused in several lines; say it in one sentence" if "\n" in text.strip() else ""
    except Exception as error:
        return f"fails with {_named(error)}; refuse it with a ZooError of one sentence"
    return "is taken; refuse it"


# ---- training and claim ------------------------------------------------------------------------------------------


def training(subject: Subject) -> str:
    from zoo.conformance.fixed_batch import FixedBatchRun
    from zoo.data.check import require
    from zoo.data.sets import load_dataset
    from zoo.data.splits import divide
    from zoo.training import Training

    plugin = subject.plugin
    if plugin.training is None:
        raise Failed("the card names no training; name a zoo.training.Training")
    recipes = registry.resolve(subject.entry, "training")
    if not isinstance(recipes, Training):
        raise Failed(f"{plugin.training} is a {type(recipes).__name__}, not a zoo.training.Training")
    lacking = [name for name in ("paper", "demo") if name not in recipes.presets]
    if lacking:
        raise Failed(f"the training has no preset {lacking[0]!r}; add it to presets")
    if not plugin.phantom:
        raise Skipped("the card names no phantom to train on")
    recipe = recipes.configure("check" if "check" in recipes.presets else "demo")
    count = max(TRAINING_CASES, 2 * recipe.folds) if recipes.split.folds else TRAINING_CASES
    data = str(Spec.parse(plugin.phantom).with_options(n=count, seed=0))
    dataset = load_dataset(data, plugin=plugin)
    require(dataset, plugin)
    run = FixedBatchRun(seed=0, device="cpu", progress=False, limit=TRAINING_STEPS)
    with run:
        model = recipes.run(recipe, divide(dataset, recipes.split, recipe), run)
    if type(model) is not subject.model_class:
        raise Failed(f"the training returned a {type(model).__name__}, not a {subject.model_class.__name__}")
    losses = run.losses
    if not losses:
        raise Failed("the training made no step with a loss; loop over run.steps and call run.backward(loss)")
    stage, curve = list(losses.items())[-1]  # the earlier ones prepare what the last one trains
    if not all(map(math.isfinite, curve)):
        raise Failed(f"the loss of the stage {stage!r} isn't finite: {_numbers(curve)}")
    if len(curve) < 2 or min(curve[1:]) >= curve[0]:
        raise Failed(f"{len(curve)} steps on one batch don't lower the loss of the stage {stage!r}: {_numbers(curve)}")
    with tempfile.TemporaryDirectory(prefix="zoo-check-") as folder:
        weights.save(model, folder, trained_on=data)
        trained = loading.load_into(subject.model_class, folder, "cpu")
        _described(subject, subject.predict(subject.specs[0], model=trained))
    return f"loss {curve[0]:.4g} to {min(curve[1:]):.4g} in {len(curve)} steps on one batch"


def _numbers(curve: list[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in curve[:4]) + (", ..." if len(curve) > 4 else "")


def claim(subject: Subject) -> str:
    from zoo.claims import reproduce
    from zoo.claims.budget import unequal

    if subject.plugin.claim is None:
        raise Failed("the card names no claim; name a zoo.claims.Claim")
    name = f"{subject.entry.distribution}:{subject.plugin.name}"
    with tempfile.TemporaryDirectory(prefix="zoo-check-") as folder:
        result = reproduce(name, quick=True, seeds=1, out=folder)
        if result.verdict != "inconclusive":
            raise Failed(f"a quick run proves nothing, but its verdict is {result.verdict!r}")
    stated = {"statement": result.claim.statement, "data": result.claim.data}
    stated["falsified_if"] = "".join(result.claim.falsified_if)
    if lacking := [what for what, text in stated.items() if not text.strip()]:
        raise Failed(f"the claim leaves {', '.join(lacking)} empty")
    if unfair := unequal(result.claim, result.budgets):
        raise Failed(f"{unfair[0]}; or say in Claim.unequal why")
    scores = [value for arms in result.results.values() for found in arms.values() for value in found.values()]
    if not all(map(math.isfinite, scores)):
        raise Failed("the quick run gave a number that isn't finite")
    return f"{len(result.claim.arms)} arms, {', '.join(result.metrics)}"


# ---- comparing ---------------------------------------------------------------------------------------------------


def different(a: Prediction, b: Prediction, tolerance: float = 0.0) -> str:
    """Where two predictions differ by more than ``tolerance``; nothing where they don't."""
    if type(a) is not type(b):
        return f"kind: {type(a).__name__} and {type(b).__name__}"
    for item in fields(a):
        if item.name in ("provenance", "source", "image", "extra_panels") or not item.compare:
            continue
        if found := _different(getattr(a, item.name), getattr(b, item.name), tolerance, item.name):
            return found
    return ""


def _different(a: Any, b: Any, tolerance: float, name: str) -> str:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        a, b = a.detach().cpu().numpy(), b.detach().cpu().numpy()
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.shape != b.shape:
            return f"{name}: {a.shape} and {b.shape}"
        if a.dtype.kind in "fc":
            gap = float(np.abs(a.astype(np.float64) - b).max()) if a.size else 0.0
            return "" if gap <= tolerance else f"{name} by {gap:.3g}"
        share = float((a != b).mean()) if a.size else 0.0
        return "" if share <= (SAME_LABELS if tolerance else 0) else f"{name} in {share:.2%} of its values"
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return f"{name}: {', '.join(map(str, a.keys() ^ b.keys()))}"
        return next((found for key in a if (found := _different(a[key], b[key], tolerance, f"{name}.{key}"))), "")
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{name}: {len(a)} and {len(b)} items"
        pairs = enumerate(zip(a, b, strict=True))
        return next((found for i, (x, y) in pairs if (found := _different(x, y, tolerance, f"{name}[{i}]"))), "")
    if isinstance(a, float) and isinstance(b, float):
        close = math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) if tolerance else a == b
        return "" if close else f"{name}: {a:.6g} and {b:.6g}"
    if is_dataclass(a) and not isinstance(a, type) and type(a) is type(b):
        compared = [item.name for item in fields(a) if item.compare]  # seconds, for one, are not
        return next((f for key in compared if (f := _different(getattr(a, key), getattr(b, key), tolerance, key))), "")
    return "" if a is b or (type(a) is type(b) and _equal(a, b)) else f"{name}: {_shown(a)} and {_shown(b)}"


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (TypeError, ValueError):
        return True  # objects that don't compare say nothing


def _arrays(prediction: Prediction) -> Iterator[tuple[str, np.ndarray]]:
    for item in fields(prediction):
        value = getattr(prediction, item.name)
        if isinstance(value, np.ndarray):
            yield item.name, value


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {' x '.join(map(str, value.shape))}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
