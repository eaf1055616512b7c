"""Pretraining of the foundation with partial labels (Sec. 3.1), and adapters that come with the weights (Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.data.case import Case
from zoo.data.scans import Kept, Scan, View, bytes_of, cut_off, draw_patches, labelled, read_case, shifted, turned
from zoo.data.sets import read_mask
from zoo.data.splits import Split
from zoo.data.support import named, organ_of, same_name, structures
from zoo.data.volumes import largest_component
from zoo.errors import DataError, OptionError
from zoo.loading import load_into
from zoo.metrics import dice
from zoo.models.fseft import plugin
from zoo.models.fseft.adaptation import RELEASED, Adaptation, Fit, Method
from zoo.models.fseft.model import Fseft, FseftConfig, Stored
from zoo.models.fseft.network import RELEASED_CLASSES, Backbone
from zoo.nn.losses import partial_dice
from zoo.nn.schedules import cosine_schedule
from zoo.nn.volumetric import swin_of
from zoo.training import Run, TrainData, Training


@dataclass(frozen=True)
class FseftRecipe:
    """A foundation, from a file or pretrained on the data, and adapters for organs of the data."""

    recipe: Literal["paper", "released"] = "paper"
    # weights of fseft, such as the authors' by zoo convert; empty: pretrained on the data; none: random, for Scratch
    foundation: str = ""
    classes: tuple[str, ...] = ()  # to pretrain for; empty: all that the data have masks of
    organs: tuple[str, ...] = ()  # to train an adapter for, one after the other
    method: Method = "adapter"  # of these
    shots: int = field(default=10, metadata={"min": 1, "max": 10_000})  # 1, 5 and 10 in Sec. 4
    backbone: Backbone = "swinunetr"
    features: int = field(default=48, metadata={"min": 12, "max": 192})
    channels: tuple[int, ...] = field(default=(12, 24, 48), metadata={"min": 1, "max": 512})
    flat: bool = False
    patch: tuple[int, int, int] = field(default=(96, 96, 96), metadata={"min": 1, "max": 512})  # Sec. 4
    view: View = field(default_factory=View)
    epochs: int = field(default=120, metadata={"min": 1, "max": 100_000})  # of pretraining, Sec. 4
    warmup: int = field(default=10, metadata={"min": 0, "max": 100_000})  # epochs, Sec. 4
    lr: float = field(default=1e-4, metadata={"min": 0.0, "max": 10.0})  # Sec. 4
    weight_decay: float = field(default=1e-5, metadata={"min": 0.0, "max": 1.0})  # not stated
    batch_size: int = field(default=2, metadata={"min": 1, "max": 1024})  # volumes, Sec. 4
    patches: int = field(default=3, metadata={"min": 1, "max": 1024})  # of each, Sec. 4
    positive: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})  # 0.8 in the released code
    turns: float = field(default=0.1, metadata={"min": 0.0, "max": 1.0})  # chance of a quarter turn, Sec. 4
    adaptation: Adaptation = field(default_factory=Adaptation)
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def train(recipe: FseftRecipe, data: TrainData, run: Run) -> Fseft:
    """Pretrain or load the foundation, then one adapter after the other on the first ``shots`` volumes of an organ.

    Raises ``DataError`` where the data have no mask of an organ, ``OptionError`` for a method that needs a query or
    trains nothing.
    """
    if recipe.method in ("generalization", "adapter-ti"):
        why = "trains nothing" if recipe.method == "generalization" else "needs the volume to predict on"
        raise OptionError(
            f"the method {recipe.method} {why}; train an adapter, or predict with support= and this method"
        )
    if recipe.method == "ft" and len(recipe.organs) > 1:
        raise OptionError("the method ft changes the whole network for one organ; name one in organs")
    cases = named(data.train)
    run.stage("foundation")
    model = build(recipe, classes_of(cases, recipe.classes))
    if recipe.foundation == "":
        pretrain(model, recipe, cases, run)
    for place, organ in enumerate(recipe.organs):
        run.stage(f"adapter-{place + 1}")
        model = with_adapter(model, recipe, cases, organ, run)
    return model.eval()


def build(recipe: FseftRecipe, classes: tuple[str, ...]) -> Fseft:
    """The foundation before any step: new, or from other weights. Raises ``WeightsError`` where there are none."""
    config = FseftConfig(
        recipe.backbone, recipe.features, recipe.channels, recipe.flat, recipe.patch, recipe.view, classes, (),
        recipe.adaptation,
    )  # fmt: skip
    if recipe.foundation in ("", "none"):
        return Fseft(config if recipe.foundation == "" else replace(config, classes=()))
    model = load_into(Fseft, recipe.foundation)
    model.config = replace(model.config, adaptation=recipe.adaptation)
    return model


def convert(released: Mapping[str, Tensor]) -> Fseft:
    """The authors' foundation, or another SwinUNETR, of which only the backbone is taken. Raises ``WeightsError``."""
    backbone, weight, bias = swin_of(released)
    known = RELEASED_CLASSES if weight is not None and len(weight) == len(RELEASED_CLASSES) else ()
    model = Fseft(FseftConfig("swinunetr", backbone.width, patch=(96, 96, 96), view=View(), classes=known))
    model.backbone = backbone
    if model.classifier is not None:
        model.classifier.load_state_dict({"weight": weight, "bias": bias})
    return model.eval()


def classes_of(cases: Sequence[Case], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The structures that a case of the set has a mask of, in the order in which they come up."""
    if wanted:
        return wanted
    return tuple(dict.fromkeys(name for case in cases for name in structures(case)))


# ---- pretraining (Sec. 3.1) ------------------------------------------------------------------------------------------


def pretrain(model: Fseft, recipe: FseftRecipe, cases: Sequence[Case], run: Run) -> None:
    """Every class by itself; a class that a volume's set doesn't annotate says nothing about it."""
    classes = model.config.classes
    sizes: Kept[tuple[Scan, Tensor]] = Kept(
        lambda place: labelled(cases[place], classes, recipe.view, plugin.name), lambda one: bytes_of(one[0])
    )

    def load(place: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        scan, known = sizes[place]
        x, y = draw_patches(scan, classes, recipe.patch, recipe.patches, recipe.positive, rng)
        return (*turned(shifted(x, 0.1, 0.2, rng), y, recipe.turns, rng), known)

    batch = min(recipe.batch_size, len(cases))
    per_epoch = -(-len(cases) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = cosine_schedule(optimizer, recipe.epochs * per_epoch, warmup=recipe.warmup * per_epoch)
    network, optimizer, schedule = run.track(model=model, optimizer=optimizer, schedule=schedule)
    for _, (x, y, known) in run.batches(load, len(cases), batch, recipe.epochs * per_epoch):
        network.train()
        weight = known[:, None].expand(-1, x.shape[1], -1).flatten(0, 1)
        loss = partial_dice(network(x.flatten(0, 1)), y.flatten(0, 1), weight)
        optimizer.zero_grad()
        run.backward(loss)
        optimizer.step()
        schedule.step()
        run.log(loss=loss)


# ---- adapters --------------------------------------------------------------------------------------------------------


def with_adapter(model: Fseft, recipe: FseftRecipe, cases: Sequence[Case], organ: str, run: Run) -> Fseft:
    """The model with one more head, trained on ``shots`` volumes; after FT it is good for this organ alone."""
    supports = support_of(cases, organ, recipe.shots, model.config.view, run.generator("support", organ))
    seed = int(run.generator("head", organ).integers(2**31))
    adapted = model.to(run.device).new(recipe.method, recipe.adaptation, seed)
    fit = Fit(adapted, supports, organ, recipe.method, recipe.adaptation, model.config.patch)
    network, fit.optimizer = run.track(network=adapted, optimizer=fit.optimizer)
    for step in run.steps(fit.steps, description=organ):
        index = [int(i) for i in run.indices(len(supports), fit.batch, step)]
        found = fit.step(step, index, run.generator("patches", step), network=network, backward=run.backward)
        run.log(**found)
    fit.calibrate(run.generator("calibration"))
    facts = Stored(
        organ, recipe.method, adapted.head.kind, len(supports), fit.prior.ml[1], fit.prior.gamma, "", model.config.view
    )
    old = model.config
    heads = [*model.adapters, adapted.head]
    config = replace(old, adapters=(*old.adapters, facts), classes=() if recipe.method == "ft" else old.classes)
    grown = Fseft(config)
    grown.backbone = adapted.backbone
    grown.backbone.requires_grad_(True)
    if grown.classifier is not None:
        grown.classifier = model.classifier
    grown.adapters = torch.nn.ModuleList(heads)
    return grown.to(run.device)


def support_of(cases: Sequence[Case], organ: str, shots: int, view: View, rng: np.random.Generator) -> list[Scan]:
    """``shots`` volumes in which the organ is, drawn at random; those that cut it off only where no others are."""
    whole: list[Scan] = []
    cut: list[Scan] = []
    for place in rng.permutation(len(cases)):
        case = cases[int(place)]
        if not any(same_name(organ, name) or name == "mask" for name in structures(case)):
            continue
        scan = read_case(case, view, {organ: organ_of(case, organ)}, plugin.name)
        if scan.size(organ):
            (cut if cut_off(scan.y[organ]) else whole).append(scan)
        if len(whole) == shots:
            break
    if not whole and not cut:
        raise DataError(f"no case to train on has a mask with any {organ} in it")
    return (whole or cut)[:shots]


# ---- evaluation ------------------------------------------------------------------------------------------------------


def score(model: Fseft, case: Case, options: Mapping[str, Any]) -> list[dict[str, float]]:
    """Dice of the organ (of ``--with organ=``, else the first of the weights), and how far its volume is off.

    No row for a case in which nobody looked for it, or where it isn't.
    """
    given = {name: value for name, value in options.items() if value is not None}
    organ = given.get("organ") or (model.organs[0] if model.organs else "organ")
    if not any(same_name(organ, name) or name == "mask" for name in structures(case)):
        return []
    name, values = organ_of(case, organ)
    mask = read_mask(case, name)
    truth = np.isin(mask, values) if values else mask > 0
    if model.config.adaptation.robust:
        truth = largest_component(truth)  # as released (official.md, 4)
    if not truth.any():
        return []
    found = model.predict(case.image, **given)
    true_ml = found.volume_ml / max(int(found.mask.sum()), 1) * int(truth.sum()) if found.mask.any() else 0.0
    row = {"dice": float(dice(found.mask > 0, truth)), "found": float(found.mask.any())}
    if true_ml:
        row["volume_error_percent"] = 100 * abs(found.volume_ml - true_ml) / true_ml
    return [row]


DEMO: dict[str, Any] = {
    "backbone": "unet", "channels": (8, 16, 32),
    "patch": (32, 32, 32),
    "view": {"spacing": (6.0, 6.0, 6.0)},
    "classes": ("liver", "spleen", "kidney", "stomach", "aorta", "pancreas"),
    "organs": ("liver",),
    "shots": 5,
    "epochs": 40,
    "warmup": 2,
    "lr": 3e-3,
    "patches": 1,
    "positive": 0.8,
    "turns": 0.0,
    "adaptation": {"epochs": 30, "patches": 2, "lr_adapter": 3e-2},  # one step an epoch, away from a bias of -4
    "dtype": "float16",
}  # fmt: skip

training = Training(
    recipe=FseftRecipe,
    presets={"paper": {}, "demo": DEMO, "check": {**DEMO, "shots": 2}},
    readings={"released": {"positive": 0.8, "turns": 0.1, "shots": 10, "adaptation": RELEASED}},
    run=train,
    split=Split((30 / 35, 0.0, 5 / 35)),  # five queries an organ, Sec. 4
    score=score,
)
