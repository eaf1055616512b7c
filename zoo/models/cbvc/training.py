"""From candidate phrases and a few labelled images to a classifier: scores, selection, and the weights of Eq. 5."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.data.case import Case
from zoo.data.images import label_index
from zoo.data.splits import Split
from zoo.errors import OptionError
from zoo.models.cbvc import plugin
from zoo.models.cbvc.baselines import both_accuracies, linear_probe
from zoo.models.cbvc.data import Features, Naming, as_compared, classes_of, draw_shots, extract, read_candidates
from zoo.models.cbvc.model import Cbvc, CbvcConfig
from zoo.models.cbvc.selection import (
    Candidates,
    Objective,
    Spread,
    class_means,
    discriminability,
    mutual_information,
    select,
    union,
    visual_activation,
)
from zoo.nn.clip import load_clip
from zoo.storage import write_file
from zoo.training import Run, TrainData, Training
from zoo.training.stopping import EarlyStopping

PAPERS_CLIP = "openai/clip-vit-large-patch14"


@dataclass(frozen=True)
class Shot:
    """How W is trained, and the weight of the coverage."""

    lr: float
    batch_size: int  # 0: all images at once
    epochs: int
    init: float  # of W, at a class's own concepts
    coverage: float
    check: int  # epochs between two looks at the validation images


FAST = Shot(0.01, 0, 500, 1.0, 1.0, 10)
LABO = {
    1: Shot(1e-3, 4, 20_000, 1.0, 0.1, 10),
    2: Shot(1e-3, 4, 10_000, 1.0, 0.1, 10),
    4: Shot(1e-4, 8, 10_000, 0.01, 1.0, 10),
    8: Shot(1e-3, 8, 10_000, 0.01, 10.0, 10),
    16: Shot(1e-3, 16, 10_000, 0.1, 15.0, 10),
    0: Shot(5e-4, 256, 10_000, 1.0, 0.1, 10),
}
"""LaBo's configurations for HAM10000 by the number of shots, 0 for all, as released."""


@dataclass(frozen=True)
class CbvcRecipe:
    """The paper's procedure. "We follow the experimental settings of LaBo" is all that it says of values."""

    recipe: Literal["paper", "released"] = "paper"
    """Sec. 3 as printed, with features of length 1; or LaBo's code with V added: features as they are, mutual
    information for D, a repeated phrase for the first class alone, LaBo's table of rates, batches and epochs."""
    clip: str = PAPERS_CLIP  # LaBo's; the paper names none
    concepts: str = "demo"  # JSON file of candidate phrases; demo: those of the zoo for its drawn lesions
    class_names: Naming = "refuse"  # what becomes of phrases that contain a class's name
    unlabelled: str = ""
    """X of Eq. 7: a data set such as ``folder:PATH``, of which no label is read; none: all training images."""
    shots: int = field(default=16, metadata={"min": 0, "max": 1_000_000})  # of 1, 2, 4, 8, 16 and, as 0, all; Sec. 4
    per_class: int = field(default=50, metadata={"min": 1, "max": 4096})  # k; LaBo's
    objective: Objective = field(default_factory=Objective)
    normalised: bool = True
    discriminability: Literal["entropy", "mutual information"] = "entropy"  # Eq. 4, or LaBo's code
    repeated: Literal["all", "first"] = "all"  # which classes a phrase belongs to that several have
    table: Literal["fast", "labo"] = "fast"  # where the next five come from if they aren't set
    lr: float | None = field(default=None, metadata={"min": 0.0, "max": 100.0})  # of Adam
    batch_size: int | None = field(default=None, metadata={"min": 0, "max": 65_536})  # 0: all images at once
    epochs: int | None = field(default=None, metadata={"min": 1, "max": 10_000_000})
    init: float | None = field(default=None, metadata={"min": 0.0, "max": 1e3})
    check: int | None = field(default=None, metadata={"min": 1, "max": 1_000_000})
    choose_by: Literal["accuracy", "balanced accuracy"] = "accuracy"  # of the validation images, which epoch is kept
    probe: bool = False  # a linear probe on CLIP's features before their projection, for the report
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def train(recipe: CbvcRecipe, data: TrainData, run: Run) -> Cbvc:
    """Score and choose the phrases, then train W. Beside the weights: ``concepts.json`` with every candidate, kept or
    not, and ``scores.json`` with accuracies beside those of a constant answer.

    Raises ``DataError`` for phrases or images that can't be used, ``WeightsError`` without the CLIP.
    """
    table = read_candidates(recipe.concepts, recipe.class_names)
    labels = tuple(table)
    settle(recipe)
    named = (("train", data.train), ("validation", data.validation), ("test", data.test))
    parts = {name: part.in_memory() for name, part in named}
    y = classes_of(parts["train"], labels)
    rng = random.Random(1 + run.seed) if recipe.recipe == "released" else run.generator("shots")  # LaBo's seed is 1
    shots = draw_shots(y, labels, recipe.shots, rng)
    clip = load_clip(recipe.clip, needed_by=f"training {plugin.name}").to(run.device)
    seen, spread = extract(clip, parts, labels, recipe.unlabelled, recipe.normalised, recipe.probe, run)
    few = Features(seen["train"].x[shots], seen["train"].y[shots])
    counts = np.bincount(y, minlength=len(labels))
    config = CbvcConfig(labels=labels, clip=recipe.clip, width=clip.width, shots=recipe.shots,
                        most_frequent=labels[int(counts.argmax())])  # fmt: skip
    candidates = score_phrases(table, clip.texts(tuple(_each(table))), few, spread, recipe)
    model = fit(config, candidates, few, seen["validation"], recipe, run)
    model.clip = clip
    if run.out is not None and run.is_main:
        write_file(run.out / "concepts.json", json.dumps(_told(model, candidates), indent=1) + "\n")
        measured = [part for part in ("validation", "test") if len(parts[part])]
        report = {part: compare(model, seen, part, shots) for part in measured}
        write_file(run.out / "scores.json", json.dumps(report, indent=1) + "\n")
    return model


def fit(
    config: CbvcConfig, candidates: Candidates, few: Features, validation: Features, recipe: CbvcRecipe, run: Run
) -> Cbvc:
    """Choose the concepts (Eq. 8) and train W on ``few``; the epoch that is best on ``validation`` is kept, where the
    start is one of them."""
    how = settle(recipe)
    objective = replace(recipe.objective, beta=how.coverage * recipe.objective.beta)
    chosen = select(candidates, objective, recipe.per_class)
    places = union(chosen)
    run.stage("weights")
    model = build(config, candidates, chosen, places, objective, recipe, how.init)
    adam = torch.optim.Adam([model.weight], lr=how.lr)
    stopping = EarlyStopping(how.epochs, module=model)
    net, adam = run.track(model=model, adam=adam)
    run.keep(stopping=stopping)
    n = len(few.y)
    batch = min(how.batch_size or n, n)
    per_epoch = -(-n // batch)
    x, y = few.x.to(run.device), few.y.to(run.device)
    for step in run.steps(how.epochs * per_epoch, description="weights"):
        if step % (how.check * per_epoch) == 0:
            run.log(**look(model, validation, stopping, recipe))
        index = torch.from_numpy(run.indices(n, batch, step)).to(run.device)
        loss = F.cross_entropy(net(x[index]), y[index])
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
    look(model, validation, stopping, recipe)
    stopping.restore()
    return model.eval()


def look(model: Cbvc, validation: Features, stopping: EarlyStopping, recipe: CbvcRecipe) -> dict[str, float]:
    """Note how good W is on the validation images; without any, the last epoch is kept."""
    if not len(validation.y):
        return {}
    found = both_accuracies(answers(model, validation.x), validation.y.numpy())
    stopping.update(found[recipe.choose_by])
    return {f"validation_{name.replace(' ', '_')}": value for name, value in found.items()}


@torch.no_grad()
def answers(model: Cbvc, x: Float[Tensor, "n d"]) -> Int[np.ndarray, " n"]:
    return model(x.to(model.device)).argmax(1).cpu().numpy()


def settle(recipe: CbvcRecipe) -> Shot:
    """The values that the recipe leaves to its table. Raises ``OptionError`` for shots that LaBo has no row for."""
    row = FAST
    if recipe.table == "labo":
        if recipe.shots not in LABO:
            rows = ", ".join(str(shots) for shots in LABO)
            raise OptionError(f"LaBo's table has rows for {rows} shots (0: all), not {recipe.shots}; set table=fast")
        row = LABO[recipe.shots]
    names = ("lr", "batch_size", "epochs", "init", "check")
    return replace(row, **{name: value for name in names if (value := getattr(recipe, name)) is not None})


# ---- phrases and their scores ---------------------------------------------------------------------------------------


def score_phrases(
    table: Mapping[str, Sequence[str]], texts: Float[Tensor, "m d"], few: Features, spread: Spread, recipe: CbvcRecipe
) -> Candidates:
    """All candidates, each once, with D by the shots and V by the unlabelled images. ``texts``: as CLIP gives them."""
    phrases = tuple(_each(table))
    place = {phrase: i for i, phrase in enumerate(phrases)}
    origin = torch.zeros(len(table), len(phrases), dtype=torch.bool)
    taken: set[str] = set()
    for label, own in enumerate(table.values()):
        for phrase in own:
            if recipe.repeated == "all" or phrase not in taken:
                origin[label, place[phrase]] = True
            taken.add(phrase)
    t, x = as_compared(texts, recipe.normalised).cpu(), as_compared(few.x, recipe.normalised)
    means = class_means(x, few.y, len(table))
    of = discriminability if recipe.discriminability == "entropy" else mutual_information
    return Candidates(phrases, origin, t, of(t, means), visual_activation(t, spread))


def _each(table: Mapping[str, Sequence[str]]) -> dict[str, None]:
    return dict.fromkeys(phrase for phrases in table.values() for phrase in phrases)


def build(
    config: CbvcConfig,
    candidates: Candidates,
    chosen: Sequence[Sequence[int]],
    places: list[int],
    objective: Objective,
    recipe: CbvcRecipe,
    init: float,
) -> Cbvc:
    """The model with the chosen concepts, before W is trained."""
    if len(places) > 4096:
        raise OptionError(f"{len(places)} concepts are more than 4096; set per_class to fewer than {recipe.per_class}")
    order = torch.zeros(len(chosen), len(places), dtype=torch.int32)
    column = {place: i for i, place in enumerate(places)}
    for label, own in enumerate(chosen):
        for turn, place in enumerate(own, start=1):
            order[label, column[place]] = turn
    kept: Bool[Tensor, " m"] = torch.zeros(len(candidates.phrases), dtype=torch.bool)
    kept[places] = True
    model = Cbvc(
        replace(
            config, concepts=tuple(candidates.phrases[i] for i in places), normalised=recipe.normalised,
            candidates=len(candidates.phrases), alpha=objective.alpha, beta=objective.beta, gamma=objective.gamma,
        )
    )  # fmt: skip
    model.store(candidates.texts[places], candidates.origin[:, places], order, candidates.visual[places],
                candidates.discriminability[places], init)  # fmt: skip
    model.candidate_visual.copy_(candidates.visual)
    model.candidate_kept.copy_(kept)
    return model


def _told(model: Cbvc, candidates: Candidates) -> list[dict[str, Any]]:
    """Every candidate with its scores, the most visual first, so that anyone can see what was left out."""
    names = model.config.labels
    column = {phrase: i for i, phrase in enumerate(model.config.concepts)}
    order = model.order.cpu().numpy()
    return [
        {
            "text": phrase,
            "origin": [name for name, own in zip(names, candidates.origin[:, i].tolist(), strict=True) if own],
            "V": float(candidates.visual[i]),
            "D": float(candidates.discriminability[i]),
            "chosen": {
                name: int(order[label, column[phrase]])
                for label, name in enumerate(names)
                if phrase in column and order[label, column[phrase]]
            },
        }
        for i in torch.argsort(candidates.visual, descending=True, stable=True).tolist()
        for phrase in (candidates.phrases[i],)
    ]


# ---- measures -------------------------------------------------------------------------------------------------------


def compare(model: Cbvc, seen: Mapping[str, Features], part: str, shots: Sequence[int]) -> dict[str, dict[str, float]]:
    """Accuracy and balanced accuracy of the model, the constant answer, and a linear probe if there is one."""
    truth = seen[part].y.numpy()
    assert model.config.most_frequent is not None
    constant = np.full_like(truth, model.config.labels.index(model.config.most_frequent))
    found = {
        plugin.name: both_accuracies(answers(model, seen[part].x), truth),
        f"always {model.config.most_frequent}": both_accuracies(constant, truth),
    }
    train, validation = seen["train"], seen["validation"]
    if train.hidden is not None and validation.hidden is not None and len(validation.y):
        hidden = seen[part].hidden
        assert hidden is not None
        probe = linear_probe(
            train.hidden[shots].numpy(), train.y[shots].numpy(), (validation.hidden.numpy(), validation.y.numpy())
        )
        found["linear probe"] = both_accuracies(probe(hidden.numpy()), truth)
    return found


def score(model: Cbvc, case: Case, options: Mapping[str, Any]) -> dict[str, Any]:
    """Truth, prediction and probabilities, and what a constant answer would be: the most frequent training label."""
    result = model.predict(case.image, **options)
    names = list(result.probabilities)
    truth = names[label_index(case.label, names, f"case {case.id}")]
    found = {f"p_{name}": float(p) for name, p in result.probabilities.items()}
    constant = {} if model.config.most_frequent is None else {"constant": model.config.most_frequent}
    return {"truth": truth, "predicted": result.most_probable, **constant, **found}


training = Training(
    recipe=CbvcRecipe,
    presets={
        "paper": {},
        # The small CLIP and the zoo's phrases for drawn lesions: seconds once the images are drawn.
        "demo": {"clip": "demo", "per_class": 12, "dtype": "float16"},
        "check": {"clip": "demo", "per_class": 4, "shots": 0, "epochs": 30},
    },
    readings={
        "released": {
            "objective": {"terms": "released"},
            "normalised": False,
            "discriminability": "mutual information",
            "repeated": "first",
            "table": "labo",
        }
    },
    run=train,
    score=score,
    split=Split((0.8, 0.1, 0.1)),  # HAM10000 in LaBo's shares; layout ham10000-labo has its own
)
