"""What an audit found, and the two entry points for a user's own simulation: ``simulate`` and ``craft``."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo import figure as fig
from zoo.errors import OptionError
from zoo.models.disbelieve import attacks
from zoo.models.disbelieve.attacks import AttackName, AttackSettings, Data, Share
from zoo.models.disbelieve.federation import AuditedStrategy, Projection, RoundRecord
from zoo.models.disbelieve.model import DisbelieveConfig
from zoo.models.disbelieve.result import AGGREGATOR_NAMES, ATTACK_COLOURS, ATTACK_NAMES

if TYPE_CHECKING:
    from PIL import Image as PILImage

    from zoo.federated import Federation, Outcome
    from zoo.models.disbelieve.training import AggregatorName, DisbelieveRecipe

LAST = 5  # rounds whose mean is the score of a federation; the paper doesn't say which round it reports


@dataclass
class Audit:
    """One simulated federation under one attack and one aggregator, round by round."""

    aggregator: str
    attack: str
    share: str
    clients: int
    controlled: tuple[int, ...]
    rounds: list[RoundRecord]
    auc: list[float]  # of the global model before training and after each round
    accuracy: list[float]
    projection: Projection | None = None
    state: dict[str, Tensor] = field(default_factory=dict, repr=False)  # of the final global model

    @property
    def score(self) -> float:
        """Mean AUC of the last five rounds."""
        return float(np.mean(self.auc[1:][-LAST:]))

    @property
    def feasible(self) -> float:
        """Share of the rounds in which a vector of the attack's form could keep within the threshold."""
        return float(np.mean([record.feasible for record in self.rounds])) if self.rounds else math.nan

    @property
    def picked_malicious(self) -> float:
        """Share of the rounds in which Krum took the malicious vector; NaN for other aggregators."""
        picks = [record.picked in self.controlled for record in self.rounds if record.picked is not None]
        return float(np.mean(picks)) if picks and self.attack != "none" else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what isn't finite becomes None."""
        record = {
            "aggregator": self.aggregator,
            "attack": self.attack,
            "share": self.share,
            "clients": self.clients,
            "controlled": list(self.controlled),
            "score": self.score,
            "feasible": self.feasible,
            "picked_malicious": self.picked_malicious,
            "auc": self.auc,
            "accuracy": self.accuracy,
            "rounds": [asdict(item) for item in self.rounds],
            "projection": None if self.projection is None else asdict(self.projection),
        }
        return _finite(record)

    def figure(self) -> PILImage.Image:
        """AUC by round, distances by round, the updates of the last round in the plane, and who counted how much."""
        return audit_figure([self])

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``audit.json`` and ``audit.png``."""
        return save_audits([self], Path(folder))


def audit_of(recipe: DisbelieveRecipe, federation: Federation, outcome: Outcome, seed: int) -> Audit:
    """Put together what the strategy kept and what was measured before training and after each round."""
    from flwr.app import ArrayRecord

    from zoo.models.disbelieve.training import controlled_clients

    strategy = federation.strategy
    assert isinstance(strategy, AuditedStrategy)
    assert federation.evaluate is not None
    before = federation.evaluate(0, ArrayRecord(federation.model().state_dict()))  # type: ignore[arg-type]
    assert before is not None
    for record, row in zip(strategy.rounds, outcome.rows, strict=True):
        record.auc, record.accuracy = row["global/auc"], row["global/accuracy"]
        record.diverged = bool(row["global/diverged"])

    return Audit(
        aggregator=recipe.aggregator[0],
        attack=recipe.attack,
        share=recipe.share,
        clients=recipe.clients,
        controlled=controlled_clients(recipe, seed) if recipe.attack != "none" else (),
        rounds=strategy.rounds,
        auc=[before["auc"], *(record.auc for record in strategy.rounds)],
        accuracy=[before["accuracy"], *(record.accuracy for record in strategy.rounds)],
        projection=strategy.projection,
        state=outcome.state_dict(),
    )


def simulate(
    config: DisbelieveConfig,
    dataset: Any,
    n_clients: int = 10,
    n_attackers: int = 4,
    attack: AttackName = "disbelieve",
    aggregator: AggregatorName = "dos",
    share: Share = "params",
    rounds: int = 20,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
    **fields: Any,
) -> Audit:
    """Train a network of ``config`` in a federation of clients that are simulated in this process, and audit it.

    ``dataset``: a specification such as ``phantom:skin-lesion?n=200``, or a ``zoo.data.sets.Dataset``; 80 % trains,
    AUC is of the rest. ``fields``: further ones of the recipe, such as ``lr``, ``alpha``, ``samples`` or ``search``.

    Raises ``OptionError`` for an unknown field, or attackers that are too few or no minority, ``DataError`` for data
    that can't be divided among the clients.
    """
    from zoo import config as configs
    from zoo.data.sets import load_dataset
    from zoo.data.splits import split
    from zoo.models.disbelieve import plugin
    from zoo.models.disbelieve.training import DisbelieveRecipe, federation_of, load_images, measured, refuse_recipe
    from zoo.training import Run

    known = {"batch_size": 32, "local_epochs": 1, **fields}
    options = DisbelieveRecipe.__dataclass_fields__
    if unknown := [name for name in known if name not in options]:
        raise OptionError(f"simulate has no option {unknown[0]!r}; {configs.nearest(unknown[0], options)}")
    recipe = replace(
        DisbelieveRecipe(), network=replace(config, curves=()), attack=attack, aggregator=(aggregator,), share=share,
        clients=n_clients, attackers=n_attackers, rounds=rounds, **known,
    )  # fmt: skip
    configs.validate(recipe)
    refuse_recipe(recipe)
    cases = load_dataset(dataset, plugin=plugin) if isinstance(dataset, str) else dataset
    data = split(cases, (0.8, 0.2, 0.0), seed)
    recipe = replace(recipe, network=measured(recipe.network, load_images(data.train, recipe.network)))
    with Run(None, seed=seed, device=device, progress=progress) as run:
        return federation_of(recipe, data, run, aggregator, attack)


def craft(
    updates: Float[Tensor, "f d"],
    model: nn.Module,
    data: Data,
    mode: Share = "params",
    *,
    clients: int | None = None,
    attack: AttackName = "disbelieve",
    seed: int = 0,
    **settings: Any,
) -> Float[Tensor, " d"]:
    """The vector that all controlled clients of a user's own simulation send.

    ``updates``: what they would honestly send, one flat row each in the order of ``model.parameters()``; ``model``:
    the network, holding the global parameters (it is changed in parameter mode); ``data``: inputs and targets that
    they hold together. ``clients``: of the whole federation, by default the fewest that make f a minority.
    ``settings``: of :class:`AttackSettings`, such as ``search`` or ``ascent``.

    Raises ``OptionError`` and ``DataError`` as :func:`zoo.models.disbelieve.attacks.craft`.
    """
    try:
        chosen = AttackSettings(attack, **settings)
    except TypeError:
        wrong = next(name for name in settings if name not in AttackSettings.__dataclass_fields__)
        raise OptionError(
            f"craft has no option {wrong!r}; it has {', '.join(list(AttackSettings.__dataclass_fields__)[1:])}"
        ) from None
    n = clients if clients is not None else 2 * len(updates) + 1
    rng = np.random.default_rng(seed)
    wide = torch.as_tensor(updates).double()
    return attacks.craft(wide, model, data, mode, clients=n, settings=chosen, rng=rng).vector.to(updates.dtype)


def save_audits(audits: Sequence[Audit], folder: Path) -> list[Path]:
    """``audit.json`` and ``audit.png``, whole or not at all."""
    from zoo.storage import write_file

    text = json.dumps([audit.to_dict() for audit in audits], indent=1, allow_nan=False) + "\n"
    picture = io.BytesIO()
    audit_figure(audits).save(picture, format="PNG")
    return [write_file(folder / "audit.json", text), write_file(folder / "audit.png", picture.getvalue())]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- drawing -------------------------------------------------------------------------------------------------------

_BENIGN, _CONTROLLED, _MEAN, _MALICIOUS = fig.colour(3), fig.colour(7), fig.colour(4), fig.colour(6)
_DASHES = {"none": "-", "lie": "--", "min-max": "-.", "disbelieve": "-"}


def audit_figure(audits: Sequence[Audit]) -> PILImage.Image:
    """A row for each aggregator: AUC by round for every attack; for the last attack distances, updates and weights."""
    from zoo.figure import plots

    by_rule: dict[str, list[Audit]] = {}
    for audit in audits:
        by_rule.setdefault(audit.aggregator, []).append(audit)
    first = audits[0]
    drawing, axes = plots.canvas(
        "the picture of an audit", len(by_rule), 4, size=(18, 3.9 * len(by_rule) + 0.4), widths=(1, 1, 1.25, 1),
        title=f"Simulated federation of {first.clients} clients, {first.share} shared: "
        "how much each aggregator lets an attack through",
    )  # fmt: skip
    for row, (rule, group) in zip(axes, by_rule.items(), strict=True):
        curves = [
            plots.Line(f"{ATTACK_NAMES[audit.attack]} ({audit.score:.2f})", range(len(audit.auc)), audit.auc,
                       ATTACK_COLOURS[audit.attack], _DASHES[audit.attack])
            for audit in group
        ]  # fmt: skip
        title = f"{AGGREGATOR_NAMES[rule]}: AUC of the global model"
        plots.lines(row[0], curves, level=0.5, ylim=(0, 1.02), title=title, x="round", whole=True,
                    legend="lower right", heading="mean of the last 5 rounds")  # fmt: skip
        _draw_distances(row[1], group[-1])
        _draw_plane(row[2], group[-1])
        _draw_shares(row[3], group[-1])
    return plots.picture(drawing)


def _draw_distances(axis: Any, audit: Audit) -> None:
    from zoo.figure import plots

    rounds = [record.round for record in audit.rounds]
    least, mean, most = (np.sqrt([record.spread[i] for record in audit.rounds]) for i in range(3))
    some = [plots.Line("honest pairs, mean", rounds, mean, _BENIGN, band=(least, most),
                       band_name="honest pairs, least to largest")]  # fmt: skip
    if audit.attack != "none":
        threshold = np.sqrt([record.threshold for record in audit.rounds])
        distance = np.sqrt([record.distance for record in audit.rounds])
        some.append(plots.Line("malicious to the attackers' mean", rounds, distance, _MALICIOUS))
        some.append(plots.Line("threshold", rounds, threshold, (0, 0, 0), ":"))
    title = f"distances, {ATTACK_NAMES[audit.attack]}"
    plots.lines(axis, some, title=title, x="round", whole=True, log=True, headroom=0.55, legend="upper right")


def _draw_plane(axis: Any, audit: Audit) -> None:
    """The updates of the last round in the plane of their main directions."""
    from zoo.figure.plots import Points, message, scatter

    title = f"updates of the last round, {ATTACK_NAMES[audit.attack]}"
    plane = audit.projection
    if plane is None:
        message(axis, "no update in the last round", title=title)
        return
    sent = np.array(plane.sent)
    benign = sent[[client not in plane.controlled for client in plane.clients]]
    sets = [Points("benign client", benign, _BENIGN)]
    if plane.controlled:
        malicious = sent[plane.clients.index(plane.controlled[0])]
        if plane.honest:
            sets.append(Points("controlled client,\nhonest update", plane.honest, _CONTROLLED, "s"))
        sets.append(Points("their mean", [[0, 0]], _MEAN, "P", 70))
        sets.append(Points("malicious vector,\nsent by all of them", malicious, _MALICIOUS, "X", 130))
    known = bool(plane.controlled) and math.isfinite(plane.radius)
    scatter(axis, sets, circle=plane.radius if known else None, circle_name="threshold\naround the mean", square=True,
            title=title, x="first main direction", y="second", grid="", legend="outside")  # fmt: skip


def _draw_shares(axis: Any, audit: Audit) -> None:
    """What share of the aggregate each client has: DOS's weights, or how often Krum took it."""
    from zoo.figure import plots

    counts = np.zeros(audit.clients)
    rounds = [record for record in audit.rounds if record.weights or record.picked is not None]
    for record in rounds:
        if record.picked is not None:
            counts[record.picked] += 1 / len(rounds)
        else:
            present = [client for client in range(audit.clients) if client not in record.excluded]
            counts[present] += np.array(record.weights) / len(rounds)
    if not rounds:
        rule = AGGREGATOR_NAMES[audit.aggregator]
        text = {"trimmed-mean": "the trimmed mean decides\ncoordinate by coordinate,\nnot client by client"}
        plots.message(axis, text.get(audit.aggregator, f"{rule} weighs clients\nby their cases"))
        return
    kinds = {"benign": [client for client in range(audit.clients) if client not in audit.controlled]}
    if audit.controlled:
        kinds["controlled by the attacker"] = list(audit.controlled)
    picked = "how often Krum picked a client\n(equal updates: the first of them)"
    title = picked if rounds[0].picked is not None else "mean weight that DOS gave a client"
    plots.upright(axis, counts, kinds, (_BENIGN, _MALICIOUS), title=title, x="client", legend="upper right")
