"""The trained classifier, the selection of its channels by points (Sec. 3), and the same for any other classifier."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo import inference, media, options, registry
from zoo.data.images import IMAGENET_MEAN, IMAGENET_STD, normalise, resize, to_tensor
from zoo.domain import Verdict
from zoo.errors import OptionError, WeightsError
from zoo.hub.backbones import fetch_backbone
from zoo.model import Model
from zoo.models.tts_skin import plugin
from zoo.models.tts_skin.data import ALPHA, ALPHA_ARTIFACTS, Points, View, Window, gather, mask_of, noise_crop, view_of
from zoo.models.tts_skin.replicas import Replicas, Views, replicas
from zoo.models.tts_skin.result import SelectedClassification
from zoo.models.tts_skin.selection import Lookup, averaged, by_all_channels, by_random_channels, counted, every, select
from zoo.nn.backbones import build, normalisation, timm_network
from zoo.nn.last_map import Apart, Hooked, Pooled, Timm
from zoo.nn.test_time import T3A, Tent
from zoo.prediction import tempered
from zoo.weights import TENSORS, first_line

Method = Literal["tts", "none", "random", "noisecrop", "tent", "t3a"]


@dataclass(frozen=True)
class TtsSkinConfig:
    """The classifier whose features are selected, and how its map is read at a point."""

    labels: tuple[str, ...] = plugin.labels
    backbone: str = "resnet50.tv_in1k"
    """Any of timm's networks whose last features have places, by name; the paper names none, its code has this one.
    ``small``: a few convolutions for the demo weights and the claim."""
    image_size: int = field(default=224, metadata={"min": 16, "max": 1024})  # px; 50,176 = 224^2 in Table 2
    lookup: Lookup = "bilinear"
    small_channels: tuple[int, ...] = field(default=(24, 48, 96, 128), metadata={"min": 1, "max": 4096})
    small_strides: tuple[int, ...] = field(default=(2, 2, 2, 1), metadata={"min": 1, "max": 16})

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ValueError("labels must be two or more, each once")
        if not re.fullmatch(r"[a-z0-9_.]+", self.backbone):  # a name of timm's that could fetch something has a colon
            raise ValueError(f"backbone must be small or a name of timm's, not {self.backbone!r}")
        if len(self.small_channels) != len(self.small_strides) or not self.small_channels:
            raise ValueError("small_channels and small_strides must have one entry for each convolution")


@dataclass(frozen=True)
class Classifier:
    """Whatever is selected from: these weights, a network of timm's, or another model of the zoo."""

    apart: Apart
    labels: tuple[str, ...]
    view: Callable[[media.Image], View]
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    net: Any = None  # with timm's names, for what the baselines adapt
    name: str = ""  # empty: these weights
    model: Model | None = None  # of the zoo, and another than this

    def __call__(self, x: Float[Tensor, "b 3 s s"], choose: Any) -> tuple[Tensor, Tensor]:
        return self.apart(normalise(x, self.mean, self.std), choose)

    def named(self, p: Float[np.ndarray, " k"]) -> dict[str, float]:
        """Probabilities by label; those of another model of the zoo by its own temperature."""
        found = dict(zip(self.labels, p.tolist(), strict=True))
        temperature = self.model.temperature if self.model else None
        return found if temperature is None else tempered(found, temperature)


@dataclass(frozen=True)
class Wanted:
    """The options of a prediction, as the card declares them."""

    positive: Sequence[Sequence[float]] | None
    negative: Sequence[Sequence[float]] | None
    mask: Any
    artifact_mask: Any
    keypoints: Any
    auto_mask: str
    n_points: int
    alpha: float | None
    keep: float
    rescale: bool
    lookup: Lookup | None
    tta: int
    augment: Views
    method: Method
    model: str
    model_weights: Any
    seed: int


class TtsSkin(Model[SelectedClassification]):
    """A classifier of dermoscopic images, and the selection of features of it or of any other."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = TtsSkinConfig

    def __init__(self, config: TtsSkinConfig | None = None) -> None:
        super().__init__(config)
        self.network = build_network(self.config)
        self._others: dict[tuple[str, ...], Any] = {}  # models that options named, loaded once

    @property
    def temperature(self) -> float | None:
        """None: one that fits the answers of all channels is wrong for those of a tenth, and they are compared."""
        return None

    @temperature.setter
    def temperature(self, fitted: float | None) -> None:
        pass

    def forward(self, x: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b k"]:
        """Logits by all channels; ``x`` is normalised."""
        return self.network(x)

    # ---- prediction ---------------------------------------------------------------------------------------------

    def _predict(self, images: Sequence[media.Image], **chosen: Any) -> list[SelectedClassification]:
        """Classify each image by itself, as one comes into a clinic: nothing of a batch is shared."""
        wanted = Wanted(**chosen)
        classifier = self.classifier(wanted.model, str(wanted.model_weights or ""))
        return [self._selected(image, classifier, wanted) for image in images]

    def _selected(self, image: media.Image, classifier: Classifier, wanted: Wanted) -> SelectedClassification:
        view = classifier.view(image)
        rng = np.random.default_rng([wanted.seed, zlib.crc32(view.picture.tobytes())])
        mask, notes = self._mask(image, wanted)
        points = gather(
            image, positive=wanted.positive or (), negative=wanted.negative or (), keypoints=wanted.keypoints,
            mask=mask, artifact_mask=mask_of(wanted.artifact_mask, image, "artifact_mask"),
            n_points=wanted.n_points, rng=rng,
        ).inside(view.window)  # fmt: skip
        alpha = wanted.alpha if wanted.alpha is not None else ALPHA_ARTIFACTS if points.artifacts else ALPHA
        lookup = wanted.lookup or self.config.lookup
        applied = wanted.method == "tts" and len(points.positive) > 0
        copies = self._copies(view, points, wanted, rng)
        found = select(classifier, copies, alpha, wanted.keep if applied else 1.0, lookup, wanted.rescale)
        own = counted(copies.x)
        by_method = found.chosen[own]
        if wanted.method in ("random", "noisecrop", "tent", "t3a"):
            by_method = self._compared(classifier, view, copies.x[own], mask, wanted, rng)
        p = [classifier.named(averaged(logits)) for logits in (found.plain[own], by_method)]
        if wanted.method == "tts" and not applied:
            notes.append("no points and no mask: this is the plain classifier, test-time selection was not applied")
        notes = [*([f"probabilities of {classifier.name}"] if classifier.name else []), *notes]
        return SelectedClassification(
            image=image,
            options={"alpha": alpha, "lookup": lookup},
            notes=(*notes, *points.notes),
            probabilities=p[1],
            baseline=p[0],
            method=wanted.method,
            tts_applied=applied,
            positive=points.positive,
            negative=points.negative,
            origin=points.origin,
            window=tuple(view.window),
            scores=found.scores[0].cpu().numpy(),
            kept=found.kept[0].cpu().numpy(),
            kept_share=found.kept[own].float().mean(0).cpu().numpy(),
            before=found.maps.mean(0).cpu().numpy(),
            after=found.maps[found.kept[0]].mean(0).cpu().numpy(),
            classifier=classifier.name,
            foreign=classifier.model.provenance if classifier.model else None,
        )

    def _copies(self, view: View, points: Points, wanted: Wanted, rng: np.random.Generator) -> Replicas:
        x = to_tensor([view.picture], self.device)[0]
        plus, minus = (view.window.grid(p) for p in (points.positive, points.negative))
        return replicas(x, plus, minus, wanted.tta if wanted.tta > 1 else 0, wanted.augment, rng)

    def _mask(self, image: media.Image, wanted: Wanted) -> tuple[Bool[np.ndarray, "h w"] | None, list[str]]:
        """The lesion: as given, or as another model of the zoo finds it."""
        mask = mask_of(wanted.mask, image, "mask")
        if mask is not None or not wanted.auto_mask:
            return mask, []
        found = self._other(wanted.auto_mask, "", _one_region).predict(image)
        notes = [f"lesion mask by {wanted.auto_mask} (weights {found.provenance.weights})"]
        notes += [f"{wanted.auto_mask} finds the image unlike its training images"] if found.unlike else []
        return found.mask > 0, notes

    def _compared(
        self,
        classifier: Classifier,
        view: View,
        x: Float[Tensor, "r 3 s s"],
        mask: Bool[np.ndarray, "h w"] | None,
        wanted: Wanted,
        rng: np.random.Generator,
    ) -> Float[Tensor, "r k"]:
        """Logits of the copies by what test-time selection is compared with (Table 2)."""
        if wanted.method == "random":
            return by_random_channels(classifier, x, wanted.keep, rng)
        if wanted.method == "noisecrop":
            if mask is None:
                raise OptionError("NoiseCrop puts the lesion on noise and needs its mask; add --with mask=PATH")
            left, top, width, height = map(int, view.window)
            inside = resize(mask[top : top + height, left : left + width], view.picture.shape[0], "nearest")
            alone = View(noise_crop(view.picture, inside), view.window)
            x = self._copies(alone, Points(), wanted, rng).x
            return by_all_channels(classifier, x[counted(x)])
        if classifier.net is None:
            raise OptionError(f"method={wanted.method} needs the network itself, which {classifier.name} doesn't show")
        adapt = Tent(classifier.net, episodic=True) if wanted.method == "tent" else T3A(classifier.net)
        return adapt(normalise(x, classifier.mean, classifier.std))

    def _network_features(self, images: Sequence[media.Image]) -> Float[Tensor, "n f"]:
        x = to_tensor([view_of(image, self.config.image_size).picture for image in images], self.device)
        return self.classifier()(x, every)[0].mean((2, 3))

    def _kind_of(self, case: Any, chosen: dict[str, Any]) -> Verdict | None:
        """Whether the classifier that answers knows such images: another one has its own domain, or states none."""
        if not chosen["model"]:
            return super()._kind_of(case, chosen)
        other = self.classifier(chosen["model"], str(chosen["model_weights"] or "")).model
        return None if other is None else other._kind_of(case, options.complete(other.plugin, {}))

    # ---- classifiers --------------------------------------------------------------------------------------------

    def classifier(self, model: str = "", weights: str = "") -> Classifier:
        """These weights, or the classifier that ``model`` names: of the zoo, ``timm:NAME`` or ``hf-hub:ORG/NAME``.

        Raises ``OptionError`` for one whose last map can't be reached, and what loading it raises.
        """
        if not model:
            mean, std = normalisation(self.config.backbone)
            size = self.config.image_size
            view = lambda image: view_of(image, size)  # noqa: E731
            return Classifier(Timm(self.network), self.config.labels, view, mean, std, self.network)
        if model.startswith(("timm:", "hf-hub:")):
            if weights:
                raise OptionError("model_weights are those of a model of the zoo; leave them out")
            key = (model, str(self.device))
            if key not in self._others:
                with torch.inference_mode(False):  # parameters that Tent can adapt
                    self._others[key] = of_timm(public_network(model).eval().to(self.device), model)
            return self._others[key]
        return of_zoo(self._other(model, weights, _classifies), model)

    def _other(self, name: str, weights: str, check: Callable[[Any, str], None]) -> Any:
        """Another model of the zoo, found by name."""
        key = (name, weights, str(self.device))
        if key not in self._others:
            if registry.find(name).name == plugin.name:
                raise OptionError(f"{plugin.name} can't be told to use itself; leave it out")
            with torch.inference_mode(False):
                self._others[key] = inference.load(name, weights=weights or None, device=str(self.device))
        check(self._others[key], name)
        return self._others[key]


# ---- networks ------------------------------------------------------------------------------------------------------


def build_network(config: TtsSkinConfig, *, pretrained: bool = False) -> nn.Module:
    """Images to logits. Raises ``MissingExtraError`` without timm, ``WeightsError`` without the weights."""
    if config.backbone == "small":
        trunk = build("small", needed_by=plugin.name, pooled=False, channels=config.small_channels,
                      strides=config.small_strides)  # fmt: skip
        return Pooled(trunk, config.small_channels[-1], len(config.labels))
    return timm_network(config.backbone, needed_by=plugin.name, pretrained=pretrained, num_classes=len(config.labels))


def public_network(model: str) -> nn.Module:
    """A trained network by ``timm:NAME`` or ``hf-hub:ORG/NAME``, through the zoo's own checks of what is fetched."""
    kind, _, name = model.partition(":")
    if kind == "timm":
        return timm_network(name, needed_by=plugin.name, pretrained=True)
    folder = fetch_backbone(name, needed_by=plugin.name, files=("config.json", TENSORS))
    net = timm_network(f"local-dir:{folder}", needed_by=plugin.name)
    try:
        net.load_state_dict(load_file(folder / TENSORS))
    except RuntimeError as error:
        raise WeightsError(f"the tensors of {model} aren't those of its config.json: {first_line(error)}") from None
    return net


def of_timm(net: Any, name: str) -> Classifier:
    """A network of timm's with the size, normalisation and label names that it states."""
    stated = getattr(net, "pretrained_cfg", None) or {}
    size = int(stated.get("input_size", (3, 224, 224))[-1])
    classes = int(getattr(net, "num_classes", 0))
    if classes < 2:
        raise OptionError(f"{name} has no classifier, so there is nothing to select features for; choose another")
    names = tuple(stated.get("label_names") or ())
    return Classifier(
        Timm(net), names if len(names) == classes else tuple(f"class {i}" for i in range(classes)),
        lambda image: view_of(image, size), stated.get("mean", IMAGENET_MEAN), stated.get("std", IMAGENET_STD), net,
        name,
    )  # fmt: skip


def of_zoo(model: Any, name: str) -> Classifier:
    """A classifier of the zoo by what it shows: ``prepared(image)``, ``answer(x)``, and its ``backbone``'s map."""

    def view(image: media.Image) -> View:
        item = model.prepared(image)
        return View(item.view, Window(item.window.left, item.window.top, item.window.side, item.window.side))

    return Classifier(
        Hooked(model.answer, model.backbone, log=True), tuple(model.config.labels), view, name=name, model=model
    )


def _classifies(model: Any, name: str) -> None:
    parts = [part for part in ("prepared", "answer", "backbone") if not hasattr(model, part)]
    if parts or model.plugin.task != "classification" or not hasattr(model.config, "labels"):
        raise OptionError(
            f"the features of {name} can't be reached by points: it doesn't show {', '.join(parts) or 'its labels'}; "
            "choose a classifier that does, such as local-global-prototypes, or timm:NAME or hf-hub:ORG/NAME"
        )


def _one_region(model: Any, name: str) -> None:
    card = model.plugin
    if card.task != "segmentation" or len(card.labels) != 2 or card.primary_input.kind != "image":
        raise OptionError(f"{name} doesn't find one region in an image, so it gives no lesion mask; choose another")
