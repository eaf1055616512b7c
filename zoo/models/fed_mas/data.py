"""The images in memory, who holds which, and how the paper measures: by class, by how common it is, by attribute."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from zoo.data.images import ImageSet, label_index, read_views
from zoo.data.sets import Dataset
from zoo.data.splits import TrainData
from zoo.errors import DataError
from zoo.federated import Outcome
from zoo.metrics import recalls
from zoo.models.fed_mas import plugin
from zoo.models.fed_mas.model import FedMASConfig, Network, to_network, view
from zoo.nn.long_tail import frequency_groups
from zoo.storage import write_file

RENAME = "choose other classes with --set network.labels=A,B,..."


def load_views(cases: Dataset, config: FedMASConfig) -> UInt8[Tensor, "n 3 s s"]:
    """The images as the network takes them, in memory."""
    size, what = config.image_size, f"{config.image_size}{' squeezed' if config.squeeze else ''}"
    views = read_views(cases, lambda picture: view(picture, config), plugin.name, what)
    return ImageSet.of(views, [0] * len(views), empty=(3, size, size)).views


class Shard(NamedTuple):
    """A client's images as the dataset gives them, their labels, and the prior's cached features (if there's one).

    ``test``: images (maybe none) and labels of its own that no client trains on, for the score of its local model.
    """

    x: Tensor
    y: Int[Tensor, " n"]
    prior: Float[Tensor, "n d"] | None
    test: tuple[Tensor, Tensor] | None = None


def labels_of(cases: Dataset, labels: Sequence[str]) -> Int[np.ndarray, " n"]:
    """The class of every case. Raises ``DataError`` for a case without label, or with one that isn't in ``labels``."""
    places = []
    for case in cases:
        if case.label is None:
            raise DataError(f"case {case.id} has no label; every client trains on labelled cases")
        places.append(label_index(case.label, labels, f"case {case.id}", RENAME))
    return np.array(places, dtype=np.int64)


def own_test(
    data: TrainData, place: int, partition: str, config: FedMASConfig
) -> tuple[UInt8[Tensor, "n 3 s s"], Int[Tensor, " n"]] | None:
    """The test cases that share a client's value of the column by which cases were divided; none without a column."""
    kind, _, name = partition.partition(":")
    if kind != "column":
        return None
    value = data.train[place].attributes.get(name)
    places = [i for i, case in enumerate(data.test) if case.attributes.get(name) == value]
    cases = data.test.subset(places)
    return load_views(cases, config), torch.from_numpy(labels_of(cases, config.labels))


@torch.no_grad()
def predict_labels(
    network: Network, views: Tensor, prepare: Callable[[Tensor], Tensor] = to_network
) -> Int[np.ndarray, " n"]:
    """The most probable class of every image."""
    network.eval()
    device = next(network.parameters()).device
    parts = [network(prepare(part.to(device))).logits.argmax(1).cpu() for part in views.split(128)]
    return torch.cat(parts).numpy()


def scores(
    predicted: Int[np.ndarray, " n"], y: Int[np.ndarray, " n"], config: FedMASConfig, attribute: Sequence[Any] = ()
) -> dict[str, float]:
    """``balanced_accuracy`` (mean recall), ``head``, ``medium``, ``tail`` (mean recall of each group), ``all``.

    The groups are made by the configuration's ``class_counts``. ``all`` is the mean of the groups (Table 1).
    ``attribute``: its value for each case; adds ``balanced_accuracy_<value>`` and ``attribute_average`` (Table 3). What
    no case belongs to is left out.
    """
    by_class = recalls(predicted, y, len(config.labels))
    result = {"balanced_accuracy": float(np.nanmean(by_class))}
    masks = frequency_groups(config.class_counts, config.head_above, config.tail_below)
    for name, mask in zip(("head", "medium", "tail"), masks, strict=True):
        there = by_class[mask.numpy() & np.isfinite(by_class)]
        if len(there):
            result[name] = float(there.mean())
    result["all"] = float(np.mean([result[name] for name in ("head", "medium", "tail") if name in result]))
    if len(attribute):
        values = np.array([str(value) for value in attribute])
        parts = []
        for value in sorted(set(values)):
            here = values == value
            parts.append(float(np.nanmean(recalls(predicted[here], y[here], len(config.labels)))))
            result[f"balanced_accuracy_{value}"] = parts[-1]
        result["attribute_average"] = float(np.mean(parts))
    return result


def report(cases: Dataset, network: Network, config: FedMASConfig, attribute: str, final: Outcome, out: Path) -> None:
    """``scores.json`` of the test cases: of the global network, and the mean of the clients' own models on theirs."""
    if not len(cases):
        return
    found = predict_labels(network.to("cpu"), load_views(cases, config))
    values = cases.values(attribute) if attribute else ()
    record: dict[str, Any] = {"global": scores(found, labels_of(cases, config.labels), config, values)}
    if "best" in final.state.own:
        record["round"] = final.state.own["best"]["round"]
    own = [row.get("own-balanced-accuracy", math.nan) for row in final.clients]
    if own := [value for value in own if math.isfinite(value)]:
        record["local"] = {"balanced_accuracy": float(np.mean(own)), "clients": len(own)}
    write_file(out / "scores.json", json.dumps(record, indent=2) + "\n")
