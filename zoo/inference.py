"""``zoo.load`` and ``zoo.predict``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from zoo import extras, inputs, options, registry
from zoo.errors import ZooError
from zoo.model import Model
from zoo.plugin import Plugin
from zoo.prediction import Prediction
from zoo.results import Results
from zoo.text import printable

_log = logging.getLogger(__name__)


def load(name: str, *, weights: str | None = None, device: str = "auto") -> Model:
    """A model ready to predict, in eval mode.

    ``weights``: ``demo`` (default, where the plugin has them), a folder or ``.safetensors`` file,
    ``hf://org/repo@revision``, or ``none`` for a random initialisation. ``device``: ``auto``, ``cpu``, ``cuda[:n]``.

    Raises ``PluginError`` for an unknown or broken model, ``MissingExtraError``, ``WeightsError``, ``OptionError``.
    """
    entry = registry.find(name)
    plugin = entry.plugin
    assert plugin is not None
    extras.require(plugin.extras, plugin.name, entry.distribution)
    from zoo import loading  # torch is imported for a model that can be run, not for a wrong name

    where = loading.pick_device(device)
    model_class: type[Model] = registry.resolve(entry, "model")
    return loading.load_into(model_class, weights or ("demo" if plugin.weights else "none"), where)


def predict(
    name: str, inputs: Any, *, weights: str | None = None, device: str = "auto", batch_size: int = 1, **given: Any
) -> Results[Prediction]:
    """Load a model and predict on one input or a list of inputs; the first failure is raised.

    An input is a path, a folder, a specification, an array, a mapping from the names of the card's inputs, or a table
    (``.csv``) whose columns are these names, with a prediction for each line.

    The list that it gives has ``to_frame()``: a ``pandas.DataFrame`` with a row for each input.
    """
    model = load(name, weights=weights, device=device)
    many = inputs if isinstance(inputs, list | tuple) else [inputs]
    chosen = options.check(model.plugin, given, whole=not options.carry(model.plugin, many))
    many = expand(model.plugin, many, chosen)
    results: Results[Prediction] = Results()
    for _, outcome in predict_each(model, many, batch_size=batch_size, **chosen):
        if isinstance(outcome, ZooError):
            raise outcome
        results.append(outcome)
    return results


def expand(plugin: Plugin, given: Iterable[Any], chosen: Mapping[str, Any] | None = None) -> list[Any]:
    """One item for each prediction that is asked for, see :func:`zoo.inputs.expand`; ``chosen``: by options for all."""
    return inputs.expand(plugin, given, [name for name, value in (chosen or {}).items() if value is not None])


def predict_each(
    model: Model, inputs: Sequence[Any], *, batch_size: int = 1, **given: Any
) -> Iterator[tuple[Any, Prediction | ZooError]]:
    """Every input with its prediction or the error that it gave; a failed input does not stop the others.

    What isn't a ``ZooError`` arrives as one that names it, with the error itself as its cause.
    """
    for batch in _batches(inputs, batch_size):
        _log.debug("predicting on %s", ", ".join(printable(_name(one)) for one in batch))
        if len(batch) > 1:
            try:
                yield from zip(batch, model.predict_batch(batch, **given), strict=True)
                continue
            except Exception:
                pass  # find out below which of them it was
        for one in batch:
            yield one, _attempt(model, one, given)


def _attempt(model: Model, one: Any, given: dict[str, Any]) -> Prediction | ZooError:
    try:
        return model.predict(one, **given)
    except ZooError as error:
        return error
    except Exception as error:
        return unexpected(one, error)


def unexpected(one: Any, error: Exception) -> ZooError:
    """A fault that nobody foresaw, as one sentence about the input that it befell."""
    reason = " ".join(str(error).split())[:200]
    told = ZooError(
        f"can't predict on {_name(one)}: {type(error).__name__}: {reason}; zoo --debug shows where it happened"
    )
    told.__cause__ = error
    return told


def _name(one: Any) -> str:
    name = getattr(one, "source", None) or getattr(one, "id", None) or one
    return os.fspath(name) if isinstance(name, str | os.PathLike) else f"a {type(one).__name__}"


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
