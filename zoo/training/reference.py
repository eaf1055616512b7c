"""What trained weights state beside themselves: the kind of images they know, and by what their logits are divided."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from zoo import media
from zoo.data.case import Case
from zoo.data.images import place_of
from zoo.data.patients import patients_of
from zoo.data.sets import Dataset, Entry
from zoo.data.splits import TrainData
from zoo.domain import MINIMUM, Domain
from zoo.errors import ZooError
from zoo.model import Model
from zoo.training.strangers import strangers

MOST = 1000  # images that the kind is known by, and cases that the temperature is fitted to
RANGE = 0.1, 20.0  # of temperatures


def refer(model: Model, data: TrainData, training: Any, most: int = MOST) -> None:
    """Set the ``domain`` and ``temperature`` of a trained model.

    The domain is that of training and validation images. Where training images must not leave the clients that hold
    them (a federation), or leave no trace but the weights (``Training.private``), it's that of the validation images
    alone, and of what is drawn, which is nobody's. The temperature is fitted to the validation cases.
    """
    guarded = training.private or training.federation is not None
    entries = [entry for entry in data.train.entries if entry.drawn or not guarded] + data.validation.entries
    # training: a Training, which is above this module
    model.domain = domain_of(model, Dataset(data.train.spec, _spread(entries, most)), most)
    model.temperature = None
    if model.plugin.task == "classification":
        cases = Dataset(data.validation.spec, _spread(data.validation.entries, most))
        model.temperature = temperature_of(model, cases, training.score or classified)


def domain_of(model: Model, dataset: Dataset, most: int = MOST) -> Domain | None:
    """What the images of ``dataset`` are like; ``None`` where they are too few, or the model looks at no images."""
    return Domain.of(model.measured(islice(_pictures(model, dataset), most)), strangers())


def _pictures(model: Model, dataset: Dataset) -> Iterator[media.Image]:
    for entry in dataset.entries:
        try:
            yield from model._pictures(model._read(_input(_made(entry))))
        except ZooError:  # an image that can't be used says nothing about the others
            continue


def temperature_of(
    model: Model,
    dataset: Dataset,
    score: Callable[[Any, Case, Mapping[str, Any]], Mapping[str, Any] | Sequence[Mapping[str, Any]]],
) -> float | None:
    """The temperature at which the cases are most likely; ``None`` where fewer than ``MINIMUM`` can be told by it."""
    rows: list[Mapping[str, Any]] = []
    for case in patients_of(dataset) if model.plugin.primary_input.kind == "images" else dataset:
        try:
            found = score(model, case, {})
        except ZooError:
            continue
        several: list[Any] = found if isinstance(found, list) else [found]
        rows += [row for row in several if row]
    names = [name for name in (rows[0] if rows else {}) if name.startswith("p_")]
    if len(rows) < MINIMUM or len(names) < 2:
        return None
    p = np.array([[row[name] for name in names] for row in rows])
    if np.abs(p.sum(1) - 1).max() > 1e-3:  # several labels may hold at once
        return None
    return fitted(p, np.array([names.index(f"p_{row['truth']}") for row in rows]))


def fitted(p: Float[np.ndarray, "n c"], truth: Int[np.ndarray, " n"]) -> float:
    """The temperature of least cross-entropy, by golden section.

    As in Platt's scaling, targets are (n + 1) / (n + 2) instead of 1, so that n cases that are all told right don't
    make a model certain. Source: C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, Sec. 4.2.
    """
    n, classes = p.shape
    logits = np.log(np.maximum(p, 1e-38))
    target = np.full((n, classes), 1 / (n + 2) / (classes - 1))
    target[np.arange(n), truth] = (n + 1) / (n + 2)

    def loss(log_t: float) -> float:
        scaled = logits / math.exp(log_t)
        top = scaled.max(1, keepdims=True)
        return float(-(target * (scaled - top - np.log(np.exp(scaled - top).sum(1, keepdims=True)))).sum())

    low, high, ratio = math.log(RANGE[0]), math.log(RANGE[1]), (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return math.exp((low + high) / 2)


def platt(z: Float[np.ndarray, " n"], y: Int[np.ndarray, " n"]) -> tuple[float, float]:
    """Slope and offset for which ``sigmoid(slope z + offset)`` is the probability of class 1; both classes are there.

    A slope below 0, of scores that rank the wrong way round, becomes 0: the share of the class is then all that is
    said. Source: J. Platt, Probabilistic Outputs for Support Vector Machines, 1999, with his targets.
    """
    counts = np.bincount(y, minlength=2)
    target = np.where(y == 1, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))
    scale = max(float(z.std()), 1e-6)
    x = np.stack([(z - z.mean()) / scale, np.ones_like(z)], 1)
    w = np.zeros(2)
    for _ in range(50):  # Newton's steps, none above 1
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2)
        w = w - np.clip(np.linalg.solve(hessian, x.T @ (p - target)), -1, 1)
    if w[0] <= 0:
        return 0.0, float(np.log(target.mean() / (1 - target.mean())))
    return float(w[0] / scale), float(w[1] - w[0] * z.mean() / scale)


def classified(model: Any, case: Case, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Truth and probabilities of a case, as ``Training.score`` gives them."""
    p = model.predict(_input(case), **options).probabilities
    place = place_of(case.label, list(p))
    return {} if place is None else {"truth": list(p)[place], **{f"p_{name}": value for name, value in p.items()}}


def _input(case: Case) -> Any:
    return case if case.images else case.image


def _made(entry: Entry) -> Case:
    return entry.case() if callable(entry.case) else entry.case


def _spread(entries: Sequence[Entry], most: int) -> list[Entry]:
    """At most ``most`` of them, from all parts of the list."""
    step = max(1, math.ceil(len(entries) / most))
    return list(entries[::step])
