"""How MelDD is trained: a backbone on single lesions, its features once per image, then each variant on sets.

The paper fixes optimiser, rate, batch, loss and the number of epochs of the set models. It doesn't say how the
backbone was tuned; here that happens on the training patients alone, so that no test lesion leaves a trace in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from zoo.data.augment import flipped
from zoo.data.case import Case
from zoo.data.patients import case_of, patients_of
from zoo.data.splits import Split, TrainData
from zoo.metrics import youden
from zoo.models.meldd.data import Lesions, as_sets, label_of
from zoo.models.meldd.model import MelDD, MelddConfig, backbone, to_network, udtr_adapted
from zoo.models.meldd.network import ContextConfig, Sets
from zoo.nn.losses import balanced_weights, class_counts, supervised_contrastive_loss
from zoo.storage import replacing
from zoo.training import Run, Training
from zoo.training.stopping import EarlyStopping


@dataclass(frozen=True)
class MelddRecipe:
    """The paper's training. Comments name the section, or say that the paper leaves a value open."""

    network: MelddConfig = field(default_factory=MelddConfig)
    pretrained: bool = True  # on ImageNet, open; ``small`` starts at random
    # at most; open, as all of the backbone's
    backbone_epochs: int = field(default=15, metadata={"min": 0, "max": 1_000_000})
    backbone_patience: int = field(default=5, metadata={"min": 1, "max": 1_000_000})
    backbone_batch: int = field(default=64, metadata={"min": 1, "max": 65_536})  # images
    backbone_lr: float = field(default=1e-4, metadata={"min": 0.0, "max": 100.0})
    epochs: int = field(default=200, metadata={"min": 1, "max": 1_000_000})  # at most
    # epochs without a better balanced accuracy; open
    patience: int = field(default=20, metadata={"min": 1, "max": 1_000_000})
    batch_size: int = field(default=32, metadata={"min": 1, "max": 65_536})  # patients
    lr: float = field(default=8e-5, metadata={"min": 0.0, "max": 100.0})
    contrastive: float = field(default=0.0, metadata={"min": 0.0, "max": 1e6})
    """Weight of a supervised contrastive loss between the lesions of a batch; the paper has none, UDTR-Full does."""
    fold: int = field(default=0, metadata={"min": 0, "max": 99})  # which fold is tested
    folds: int = field(default=5, metadata={"min": 2, "max": 100})
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def train(recipe: MelddRecipe, data: TrainData, run: Run) -> MelDD:
    """Backbone, features, and all variants of the recipe."""
    return fit(recipe, patients_of(data.train), patients_of(data.validation), run)


def fit(recipe: MelddRecipe, patients: Sequence[Case], validation: Sequence[Case], run: Run) -> MelDD:
    """As ``train``, on cases with ``images``. Without melanomas in ``validation`` nothing stops early."""
    config = recipe.network
    lesions, unseen = Lesions(patients, config.image_size), Lesions(validation, config.image_size)
    model = with_backbone(recipe, lesions, unseen, run)
    known, new = extract(model, (lesions, unseen), run)
    for name in config.variants:
        fit_variant(model, name, recipe, known, lesions.y, new, unseen.y, run)
    return model.eval()


# ---- the backbone --------------------------------------------------------------------------------------------------


def with_backbone(recipe: MelddRecipe, lesions: Lesions, unseen: Lesions, run: Run) -> MelDD:
    """The model with its backbone trained, and variants that aren't."""
    run.stage("backbone")
    model = MelDD(recipe.network).to(run.device)
    if recipe.pretrained and recipe.network.backbone != "small":
        model.backbone = backbone(recipe.network, pretrained=True).to(run.device)
    if recipe.backbone_epochs:
        train_backbone(model, recipe, lesions, unseen, run)
    return model.eval()


def train_backbone(model: MelDD, recipe: MelddRecipe, lesions: Lesions, unseen: Lesions, run: Run) -> None:
    """A classifier of single lesions, whose head is thrown away; the best epoch by balanced accuracy stays."""
    classifier = nn.Sequential(model.backbone, nn.Linear(model.config.features, 1)).to(run.device)
    stopping = EarlyStopping(recipe.backbone_patience, module=classifier)
    adam = torch.optim.Adam(classifier.parameters(), lr=recipe.backbone_lr)
    net, adam = run.track(classifier=classifier, adam=adam)
    run.keep(stopping=stopping)
    weights = balanced_weights(class_counts(lesions.y, 2)).to(run.device)
    steps_per_epoch = math.ceil(len(lesions) / recipe.backbone_batch)
    for step in run.steps(recipe.backbone_epochs * steps_per_epoch, description="backbone"):
        net.train()
        index = run.indices(len(lesions), recipe.backbone_batch, step)
        rng = run.generator("augment", step, run.accelerator.process_index)
        x = to_network(augmented(lesions.views.batch(index), rng), run.device)
        loss = weighted_bce(net(x)[:, 0], lesions.y[torch.from_numpy(index)].to(run.device), weights)
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
        if (step + 1) % steps_per_epoch == 0 and _both(unseen.y):
            net.eval()
            with torch.no_grad():
                parts = [
                    net(to_network(unseen.views.batch(part), run.device))[:, 0].cpu() for part in _parts(len(unseen))
                ]
            score = youden(torch.cat(parts).double().numpy(), unseen.y.long().numpy())[1]
            run.log(validation_bacc=score)
            if stopping.update(score):
                run.stop()
    stopping.restore()


def extract(model: MelDD, parts: Sequence[Lesions], run: Run) -> list[Sets]:
    """Patients with the features of their images, computed once: a resumed run finds them beside its checkpoints."""
    from safetensors.torch import load_file, save_file

    stored = None if run.out is None else run.checkpoints / "features.safetensors"
    if stored is not None and stored.is_file():
        kept = load_file(stored)
        found = [kept[str(i)] for i in range(len(parts))]
    else:
        found = []
        for lesions in parts:
            some = [model.features(lesions.views.batch(part))[:, 0].cpu() for part in _parts(len(lesions))]
            found.append(torch.cat(some) if some else torch.zeros(0, model.config.features))
        if stored is not None and run.is_main:
            with replacing(stored) as draft:
                save_file({str(i): features.contiguous() for i, features in enumerate(found)}, draft)
    return [as_sets(lesions.evidence, features) for lesions, features in zip(parts, found, strict=True)]


def augmented(views: UInt8[np.ndarray, "b s s 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "b s s 3"]:
    """Each image flipped, turned by quarters, and changed a little in brightness and colour."""
    out = flipped(torch.from_numpy(views), rng, (1, 2), transpose=True).numpy()
    gain = rng.uniform(0.95, 1.05, (len(out), 1, 1, 1)) * rng.uniform(0.97, 1.03, (len(out), 1, 1, 3))
    return np.clip(np.round(out * gain), 0, 255).astype(np.uint8)


def _parts(n: int, size: int = 64) -> list[range]:
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


# ---- the variants --------------------------------------------------------------------------------------------------


def fit_variant(
    model: MelDD,
    name: str,
    recipe: MelddRecipe,
    sets: Sets,
    y: Float[Tensor, " t"],
    validation: Sets,
    y_validation: Float[Tensor, " v"],
    run: Run,
) -> None:
    """Train one variant on fixed features and set its operating point: Youden's cut-off on the validation patients."""
    run.stage(f"context-{name}")
    variant = model.variant(name)
    stopping = EarlyStopping(recipe.patience, module=variant)
    adam = torch.optim.Adam(variant.parameters(), lr=recipe.lr)
    net, adam = run.track(network=variant, adam=adam)
    run.keep(stopping=stopping)
    weights = balanced_weights(class_counts(y, 2)).to(run.device)
    fixed = 0 if name == "V0" else recipe.network.fixed_count
    batch = min(recipe.batch_size, len(sets))
    steps_per_epoch = math.ceil(len(sets) / batch)
    for step in run.steps(recipe.epochs * steps_per_epoch, description=name):
        net.train()
        index = torch.from_numpy(run.indices(len(sets), batch, step))
        some, rows = sets.take(index), sets.rows_of(index)
        if fixed:
            chosen = draw_fixed(some.lengths, fixed, run.generator("lesions", step, run.accelerator.process_index))
            some, rows = some.lesions(chosen, torch.full_like(some.lengths, fixed)), rows[chosen]
        labels = y[rows].to(run.device)
        logits, tokens = net(some.to(run.device))
        loss = weighted_bce(logits, labels, weights)
        if recipe.contrastive:
            contrast = supervised_contrastive_loss(tokens, labels)
            run.log(contrast=contrast)
            loss = loss + recipe.contrastive * contrast
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
        if (step + 1) % steps_per_epoch == 0 and _both(y_validation):
            score = youden(scores_of(model, name, validation, run), y_validation.long().numpy())[1]
            run.log(validation_bacc=score)
            if stopping.update(score):
                run.stop()
    stopping.restore()
    known, truth = (validation, y_validation) if _both(y_validation) else (sets, y)
    if _both(truth):
        cut = youden(scores_of(model, name, known, run), truth.long().numpy())[0]
        model.threshold[model.config.variants.index(name)] = cut  # type: ignore[call-overload]


def scores_of(model: MelDD, name: str, sets: Sets, run: Run) -> Float[np.ndarray, " t"]:
    """Logits of all lesions, without dropout."""
    training = model.variant(name).training
    model.variant(name).eval()
    parts = [
        model.logits(sets.take(torch.tensor(part)).to(run.device), name).double().cpu()
        for part in _parts(len(sets), 32)
    ]
    model.variant(name).train(training)
    return torch.cat(parts).numpy() if parts else np.zeros(0)


def draw_fixed(lengths: Int[Tensor, " b"], count: int, rng: np.random.Generator) -> Int[Tensor, " s"]:
    """Rows of ``count`` lesions of every patient: a random subset, or all of them and some again."""
    rows, start = [], 0
    for n in lengths.tolist():
        if n >= count:
            chosen = rng.permutation(n)[:count]
        else:
            chosen = np.concatenate([np.arange(n), rng.integers(0, n, count - n)])
        rows.append(start + chosen)
        start += n
    return torch.from_numpy(np.concatenate(rows))


def weighted_bce(
    logits: Float[Tensor, " t"], y: Float[Tensor, " t"], weights: Float[Tensor, " 2"]
) -> Float[Tensor, ""]:
    """Mean over the lesions of w_y times their cross-entropy."""
    return F.binary_cross_entropy_with_logits(logits, y, torch.where(y == 1, weights[1], weights[0]))


def _both(y: Tensor) -> bool:
    return bool((y == 1).any() and (y == 0).any())


# ---- measuring -----------------------------------------------------------------------------------------------------


def score(model: MelDD, case: Case, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each lesion."""
    prediction = model.predict(case, **options)
    truth = [label_of(one) for one in case_of(case).images]
    return [
        {
            "lesion": prediction.names[i],
            "patient": case.id,
            "truth": ("benign", "melanoma")[truth[number - 1]],
            "predicted": ("benign", "melanoma")[int(prediction.malignant[i])],
            "p_benign": 1 - float(prediction.probability[i]),
            "p_melanoma": float(prediction.probability[i]),
            "operating_point": prediction.operating_point,
        }
        for i, number in enumerate(prediction.numbers)
    ]


UDTR = udtr_adapted(MelddConfig())

training = Training(
    recipe=MelddRecipe,
    presets={
        "paper": {},
        # A fixed count of lesions in place of all, no evidence: the baseline that the paper reran.
        "udtr-adapted": {"network": UDTR},
        # With contrastive learning and averaging over mirror images; no reproduction of UDTR, whose code differs.
        "udtr-full": {"network": replace(UDTR, tta=True), "contrastive": 0.1},
        # A small network from scratch, with higher rates: minutes on two CPU cores.
        "demo": {
            "network": MelddConfig(
                backbone="small", image_size=48, context=ContextConfig(width=32, ffn=128),
                small_channels=(16, 32, 48, 64),
            ),
            "pretrained": False,
            "backbone_epochs": 12,
            "backbone_lr": 2e-3,
            "epochs": 100,
            "lr": 1e-3,
            "dtype": "float16",
        },
    },
    run=train,
    split=Split((0.64, 0.16, 0.20), folds=True),  # one fold for the test, and a fifth of the rest for early stopping
    score=score,
)  # fmt: skip
