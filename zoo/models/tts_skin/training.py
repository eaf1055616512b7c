"""How the classifier is trained: empirical risk minimisation (Sec. 3). Test-time selection itself trains nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.data.case import Case
from zoo.data.dermoscopy import melanoma_class
from zoo.data.images import ImageSet, label_index, normalise, read_views
from zoo.data.sets import read_mask
from zoo.data.splits import Split
from zoo.errors import DataError
from zoo.metrics import recalls
from zoo.models.tts_skin import plugin
from zoo.models.tts_skin.data import view_of
from zoo.models.tts_skin.model import TtsSkin, TtsSkinConfig, build_network
from zoo.models.tts_skin.replicas import training_views
from zoo.nn.backbones import normalisation
from zoo.training import Run, TrainData, Training
from zoo.training.stopping import EarlyStopping


@dataclass(frozen=True)
class TtsSkinRecipe:
    """The paper's training. Comments name the section, the authors' code, or say that a value is open."""

    recipe: Literal["paper", "released"] = "paper"
    """As printed, or as the authors' code: they differ in how a map is read at a point, ``network.lookup``."""
    network: TtsSkinConfig = field(default_factory=TtsSkinConfig)
    pretrained: bool = True  # on ImageNet (code); ``small`` starts at random
    epochs: int = field(default=100, metadata={"min": 1, "max": 1_000_000})  # Sec. 3
    batch_size: int = field(default=128, metadata={"min": 1, "max": 65_536})  # code
    # The next two are one of the grid of Sec. 3, and the defaults of the code.
    lr: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})
    weight_decay: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})
    momentum: float = field(default=0.9, metadata={"min": 0.0, "max": 1.0})  # code; Sec. 3: SGD with momentum
    balanced: bool = True  # classes drawn equally often, with replacement (code); open
    augment: Literal["full", "none"] = "full"
    """``full``: flips, crops of .75 to 1, turns of up to 45 degrees, hue of up to .1 (code); Sec. 3 names shifts and
    colour jitter."""
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def train(recipe: TtsSkinRecipe, data: TrainData, run: Run) -> TtsSkin:
    """SGD on cross-entropy; the epoch of best balanced accuracy on the validation images, which share the bias."""
    return fit(recipe, load_images(data.train, recipe.network), load_images(data.validation, recipe.network), run)


def load_images(cases: Any, config: TtsSkinConfig) -> ImageSet:
    """Read cases as the network sees them; carcinomas are left out. Raises ``DataError`` for an unknown label."""
    some: Sequence[Case] = list(cases)
    classes = [melanoma_class(case.label, config.labels, f"case {case.id}") for case in some]
    kept = [(case, y) for case, y in zip(some, classes, strict=True) if y is not None]
    size = config.image_size
    views = read_views(
        (case for case, _ in kept), lambda image: view_of(image, size).picture, plugin.name, f"{size} px"
    )
    return ImageSet.of(views, [y for _, y in kept], empty=(3, size, size))


def fit(recipe: TtsSkinRecipe, images: ImageSet, validation: ImageSet, run: Run) -> TtsSkin:
    """As ``train``, on images in memory. Without validation images the last epoch stays."""
    run.stage("classifier")
    model = TtsSkin(recipe.network).to(run.device)
    if recipe.pretrained and recipe.network.backbone != "small":
        model.network = build_network(recipe.network, pretrained=True).to(run.device)
    places = [torch.nonzero(images.y == c)[:, 0].numpy() for c in range(len(recipe.network.labels))]
    if missing := [name for name, own in zip(recipe.network.labels, places, strict=True) if not len(own)]:
        raise DataError(f"no training image is {missing[0]}, so the classes can't be told apart; add some")
    best = EarlyStopping(recipe.epochs, module=model.network)  # it never stops, it remembers
    sgd = torch.optim.SGD(
        model.network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    net, sgd = run.track(network=model.network, sgd=sgd)
    run.keep(best=best)
    mean, std = normalisation(recipe.network.backbone)
    steps_per_epoch = math.ceil(len(images) / recipe.batch_size)
    for step in run.steps(recipe.epochs * steps_per_epoch, description="classifier"):
        net.train()
        x, y = images.batch(drawn(recipe, places, len(images), run, step), run.device)
        if recipe.augment == "full":
            x = training_views(x, run.generator("augment", step, run.accelerator.process_index))
        loss = F.cross_entropy(net(normalise(x, mean, std)), y)
        sgd.zero_grad()
        run.backward(loss)
        sgd.step()
        run.log(loss=loss)
        if (step + 1) % steps_per_epoch == 0 and len(validation):
            said = logits_of(net, validation, mean, std, run.device).argmax(1)
            score = np.nanmean(recalls(said.numpy(), validation.y.numpy(), len(places)))
            run.log(validation_bacc=score)
            best.update(score)
    best.restore()
    return model.eval()


def drawn(
    recipe: TtsSkinRecipe, places: Sequence[np.ndarray], count: int, run: Run, step: int
) -> Int[np.ndarray, " b"]:
    """Which images a step takes; balanced, each class is as likely as any other, and an image may come again."""
    if not recipe.balanced:
        return run.indices(count, recipe.batch_size, step)
    rng = run.generator("balanced", step, run.accelerator.process_index)
    size = max(1, recipe.batch_size // run.accelerator.num_processes)
    classes = rng.integers(0, len(places), size)
    return np.array([places[c][rng.integers(len(places[c]))] for c in classes])


@torch.no_grad()
def logits_of(
    net: nn.Module, images: ImageSet, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> Float[Tensor, "n k"]:
    """Of all images as they are, in eval mode; on the CPU."""
    net.eval()
    parts = torch.arange(len(images)).split(64)
    return torch.cat([net(normalise(images.batch(part, device)[0], mean, std)).cpu() for part in parts])


def score(model: TtsSkin, case: Case, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for a case, by points from its lesion mask where it has one; none for a carcinoma."""
    another = options.get("model")
    truth = None if another else melanoma_class(case.label, model.config.labels, f"case {case.id}")
    if truth is None and not another:
        return []
    given = dict(options)
    if "mask" in case.masks and not given.keys() & {"mask", "positive", "negative", "keypoints", "auto_mask"}:
        given["mask"] = (read_mask(case) > 0).astype(np.uint8)
    prediction = model.predict(case.image, **given)
    names = list(prediction.probabilities)
    truth = label_index(case.label, names, f"case {case.id}") if truth is None else truth
    return [
        {
            "truth": names[truth],
            "predicted": prediction.most_probable,
            **{f"p_{name}": float(prediction.probabilities[name]) for name in names},
            "tts_applied": prediction.tts_applied,
        }
    ]


training = Training(
    recipe=TtsSkinRecipe,
    presets={
        "paper": {},
        # A small network from scratch, so at a higher rate: minutes on two CPU cores.
        "demo": {
            "network": {
                "backbone": "small",
                "image_size": 96,
                "small_channels": (24, 48, 96, 128),
                "small_strides": (2, 2, 2, 1),
            },
            "pretrained": False,
            "epochs": 25,
            "batch_size": 32,
            "lr": 1e-2,
            "dtype": "float16",
        },
    },
    readings={"released": {"network": {"lookup": "cell"}}},
    run=train,
    split=Split((0.72, 0.08, 0.20)),
    score=score,
)
