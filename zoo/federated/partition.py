"""Who holds which cases: iid, Dirichlet by label, by a column such as the site, or as a file says; and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Shaped

from zoo.data.sets import Dataset
from zoo.data.tables import table_rows
from zoo.errors import DataError, OptionError
from zoo.seeds import derive_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # of the extra `train`

Labels: TypeAlias = Sequence[Any] | Shaped[np.ndarray, " n"]


def iid(n: int, clients: int, seed: int) -> list[np.ndarray]:
    """``n`` cases in random order to ``clients`` clients, in parts whose sizes differ by one at most."""
    _require(n, clients)
    order = np.random.default_rng(derive_seed(seed, "iid")).permutation(n)
    return [np.sort(part) for part in np.array_split(order, clients)]


def dirichlet(
    labels: Labels, clients: int, alpha: float, seed: int, *, min_cases: int = 1, attempts: int = 1000
) -> list[np.ndarray]:
    """Each label's cases are shared out by proportions from a symmetric Dirichlet distribution.

    A small ``alpha`` gives clients of few labels, a large one iid clients. Drawn again until every client has
    ``min_cases`` cases. Raises ``DataError`` when that never happens.
    """
    _require(len(labels), clients)
    if alpha <= 0:
        raise OptionError(f"alpha of the Dirichlet split must be above 0, not {alpha}")
    rng = np.random.default_rng(derive_seed(seed, "dirichlet"))
    kinds = sorted(set(labels), key=str)
    for _ in range(attempts):
        parts: list[list[int]] = [[] for _ in range(clients)]
        for kind in kinds:
            places = rng.permutation([i for i, label in enumerate(labels) if label == kind])
            cuts = np.round(np.cumsum(rng.dirichlet([alpha] * clients))[:-1] * len(places)).astype(int)
            for part, share in zip(parts, np.split(places, cuts), strict=True):
                part.extend(int(place) for place in share)
        if min(map(len, parts)) >= min_cases:
            return [np.array(sorted(part)) for part in parts]
    raise DataError(
        f"no Dirichlet split of {len(labels)} cases with alpha={alpha:g} gives each of {clients} clients "
        f"{min_cases} cases; use fewer clients or a larger alpha"
    )


def favoured(
    labels: Labels, clients: int, favourites: Mapping[str, Sequence[int]], seed: int, weight: float = 10.0
) -> list[np.ndarray]:
    """Each label's cases are shared out so that its favourites among the clients get ``weight`` times what others get.

    Raises ``OptionError`` for favourites that are no clients, ``DataError`` for a label without favourites.
    """
    _require(len(labels), clients)
    if (most := max(client for some in favourites.values() for client in some)) >= clients:
        raise OptionError(f"this partition is for {most + 1} clients, and there are {clients}; set clients={most + 1}")
    rng = np.random.default_rng(derive_seed(seed, "favoured"))
    parts: list[list[int]] = [[] for _ in range(clients)]
    for kind in sorted(set(labels), key=str):
        if kind not in favourites:
            raise DataError(f"this partition knows no label {kind!r}, only {', '.join(favourites)}; use another one")
        places = rng.permutation([i for i, label in enumerate(labels) if label == kind])
        shares = np.array([weight if client in favourites[str(kind)] else 1.0 for client in range(clients)])
        cuts = np.round(np.cumsum(shares / shares.sum())[:-1] * len(places)).astype(int)
        for part, share in zip(parts, np.split(places, cuts), strict=True):
            part.extend(int(place) for place in share)
    if not all(parts):
        raise DataError(f"{len(labels)} cases are too few for each of {clients} clients to hold one; use more")
    return [np.array(sorted(part)) for part in parts]


def drawn(labels: np.ndarray, clients: int, cases: int, alpha: float | None, seed: int) -> list[np.ndarray]:
    """Every client draws ``cases`` with replacement, their mix of labels from a Dirichlet distribution (None: even)."""
    rng = np.random.default_rng(derive_seed(seed, "partition"))
    kinds = np.unique(labels)

    def draw() -> np.ndarray:
        shares = rng.dirichlet(np.full(len(kinds), alpha)) if alpha is not None else np.full(len(kinds), 1.0)
        counts = rng.multinomial(cases, shares / shares.sum())
        return np.concatenate([rng.choice(np.flatnonzero(labels == k), n) for k, n in zip(kinds, counts, strict=True)])

    return [draw() for _ in range(clients)]


def divided(how: str, cases: Dataset, labels: Labels, clients: int, alpha: float, seed: int) -> list[np.ndarray]:
    """As ``how`` says: ``iid``, ``dirichlet``, ``column:NAME`` or ``file:PATH``. Raises ``OptionError``."""
    kind, _, name = how.partition(":")
    if how == "iid":
        return iid(len(cases), clients, seed)
    if how == "dirichlet":
        return dirichlet(labels, clients, alpha, seed)
    if kind in ("column", "file") and name:
        return (by_attribute if kind == "column" else by_file)(cases, name)
    raise OptionError(f"partition must be iid, dirichlet, column:NAME or file:PATH, not {how!r}")


def by_attribute(cases: Dataset, column: str = "site") -> list[np.ndarray]:
    """One client per value of a column, in the order of the values. Raises ``DataError`` if a case lacks it."""
    values = []
    for case in cases:
        value = case.label if column == "label" else case.attributes.get(column)
        if value is None:
            raise DataError(f"case {case.id} states no {column}, by which the clients are told apart")
        values.append(str(value))
    return _by_value(values)


def by_file(cases: Dataset, table: str | Path) -> list[np.ndarray]:
    """One client per value of the column ``client`` in a table whose column ``id`` names the cases.

    Raises ``DataError`` for a case that the table doesn't mention.
    """
    path = Path(table)
    if not path.is_file():
        raise DataError(f"there is no file {path} that says which client holds which case")
    rows = table_rows(path)
    if not rows or not {"id", "client"} <= rows[0].keys():
        raise DataError(f"{path} needs the columns id and client")
    client_of = {str(row.get("id")): row.get("client") for row in rows}
    lost = [name for name in cases.ids if client_of.get(name) is None]
    if lost:
        raise DataError(f"{path} doesn't say which client holds case {lost[0]!r}")
    return _by_value([str(client_of[name]) for name in cases.ids])


def labels_of(cases: Dataset) -> list[str | int]:
    """The label of every case. Raises ``DataError`` if one has none."""
    labels = []
    for case in cases:
        if case.label is None:
            raise DataError(f"case {case.id} has no label, and the clients are told apart by label")
        labels.append(case.label)
    return labels


def split_figure(labels: Labels, partitions: Sequence[Sequence[int] | np.ndarray], path: str | Path) -> Figure:
    """A bar per client, stacked by label, with the number of cases; also written to ``path`` as PNG."""
    from zoo.federated.federation import holdings
    from zoo.figure import plots

    held = holdings(labels, partitions)
    drawing, axes = plots.canvas("the picture of a split", size=(8, 1.6 + 0.34 * len(held)))
    counts = {str(kind): [counter[kind] for counter in held] for kind in sorted(set(labels), key=str)}
    names = [f"client {i}" for i in range(len(held))]
    plots.stacked(axes[0, 0], names, counts, x="cases", legend="outside", heading="label")
    Path(path).write_bytes(plots.png(drawing, dpi=120))
    return drawing


def _require(n: int, clients: int) -> None:
    if clients < 1:
        raise OptionError(f"a federation needs at least two clients, not {clients}; set clients=2 or more")
    if n < clients:
        raise DataError(f"{n} cases are too few for {clients} clients; use fewer clients")


def _by_value(values: Sequence[str]) -> list[np.ndarray]:
    return [np.array([i for i, v in enumerate(values) if v == value]) for value in sorted(set(values))]
