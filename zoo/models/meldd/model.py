"""From photographs to features, once per image, and from a patient's features to probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from zoo.data.case import Case
from zoo.data.features import FeatureCache, content_key
from zoo.data.images import normalise, resize, to_tensor
from zoo.data.patients import case_of
from zoo.errors import MediaError, OptionError
from zoo.media import Image
from zoo.model import Model
from zoo.models.meldd import plugin
from zoo.models.meldd.data import Evidence, as_sets, centre_of, told, view_of
from zoo.models.meldd.network import (
    UNKNOWN_SITE,
    VARIANTS,
    WITH_PERSON,
    WITH_SITE,
    ContextConfig,
    Layout,
    Sets,
    Variant,
    VariantName,
    repeated,
)
from zoo.models.meldd.result import MAPPED, SHOWN, PatientLesions
from zoo.nn.backbones import build, timm_network

RESNET = "resnet101.tv_in1k"
BATCH = 32  # images in memory at a time
REMEMBERED = 32 * 2**20  # bytes of features in a model: 4096 of a ResNet-101


@dataclass(frozen=True)
class MelddConfig:
    """Features, encoder, and the variants that there are weights for."""

    variants: tuple[VariantName, ...] = VARIANTS
    context: ContextConfig = field(default_factory=ContextConfig)
    backbone: Literal["resnet101", "small"] = "resnet101"
    """ResNet-101 from timm; or ``small``, a few convolutions for the demo weights and the claim."""
    image_size: int = field(default=256, metadata={"min": 16, "max": 1024})  # px
    small_channels: tuple[int, ...] = field(default=(16, 32, 48, 64), metadata={"min": 1, "max": 4096})
    fixed_count: int = field(default=0, metadata={"min": 0, "max": 1024})
    """Lesions that the encoder takes at a time: 0 for all of a patient; any other number is UDTR-Adapted."""
    tta: bool = False  # average over the image and its mirror images

    def __post_init__(self) -> None:
        if not self.variants or len(set(self.variants)) != len(self.variants):
            raise ValueError("variants must be one or more of V0 to V4, each once")

    @property
    def features(self) -> int:
        return self.small_channels[-1] if self.backbone == "small" else 2048


class MelDD(Model[PatientLesions]):
    """Probability of melanoma for all lesions of a patient."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = MelddConfig

    def __init__(self, config: MelddConfig | None = None) -> None:
        super().__init__(config)
        self.backbone = backbone(self.config)
        self.variants = nn.ModuleDict(
            {name: Variant(name, self.config.features, self.config.context) for name in self.config.variants}
        )
        # Operating points, as logits so that half precision keeps them apart near 0 and 1.
        self.threshold: Tensor
        self.register_buffer("threshold", torch.zeros(len(self.config.variants)))
        self._features = FeatureCache(memory=REMEMBERED)

    def variant(self, name: str) -> Variant:
        return cast(Variant, self.variants[name])

    def operating_point(self, name: str) -> float:
        """The probability from which ``name`` calls a lesion malignant: Youden's cut-off on validation patients."""
        return float(self.threshold[self.config.variants.index(name)].double().sigmoid())

    def forward(self, sets: Sets, name: str) -> Float[Tensor, " t"]:
        """Logits of all lesions of a batch of patients, by one variant."""
        return self.variant(name)(sets)[0]

    def patient(self, images: Float[Tensor, "n 3 s s"]) -> Float[Tensor, " n"]:
        """Logits of one patient's images by V1, which asks for nothing beside them: what ``zoo export`` writes."""
        each, one = torch.arange(images.shape[0]), torch.ones(1, dtype=torch.long)
        sets = Sets(self.backbone(images), each * 0 + UNKNOWN_SITE, one * images.shape[0], one / 0, -one)
        layout = Layout(sets.lengths)  # of a single set it's known without a look at the data
        vars(layout).update(longest=images.shape[0], owner=each * 0, place=each)
        vars(sets)["layout"] = layout
        return self(sets, "V1")

    @torch.no_grad()
    def logits(self, sets: Sets, name: str) -> Float[Tensor, " t"]:
        """As ``forward``; a model of a fixed count scores every lesion once, in pieces of that many."""
        if not self.config.fixed_count or name == "V0":
            return self(sets, name)
        rows, owner, real = repeated(sets.lengths.cpu(), self.config.fixed_count)
        rows, owner = rows.to(sets.features.device), owner.to(sets.features.device)
        counts = torch.full_like(owner, self.config.fixed_count)
        pieces = Sets(sets.features[rows], sets.site[rows], counts, sets.age[owner], sets.sex[owner])
        found = self(pieces, name).view(-1, self.config.fixed_count)
        return torch.cat([piece[:n] for piece, n in zip(found, real.tolist(), strict=True)])

    # ---- prediction ---------------------------------------------------------------------------------------------

    def _read(self, given: Any) -> Case:
        return case_of(given, "lesion")

    def _predict(
        self, patients: Sequence[Case], *, site: Sequence[str] | None, age: float | None, sex: str | None, variant: str
    ) -> list[PatientLesions]:
        """Judge all lesions of each patient; images that can't be read are left out, with a note.

        ``site``: in the order of the images, or one for all. ``variant``: ``auto`` is V4, V3, V2 or V1 by what is known
        of site and of age or sex. A lesion's score depends on the patient's other lesions, so it changes when some are
        added or left out.
        """
        if variant != "auto" and variant not in self.config.variants:
            raise OptionError(f"these weights have no {variant}; choose auto or {', '.join(self.config.variants)}")
        return [self._judged(patient, told(patient, site, age, sex), variant) for patient in patients]

    def _judged(self, patient: Case, known: Evidence, variant: str) -> PatientLesions:
        features, kept, refusals = self._seen(patient)
        known = replace(known, sites=tuple(known.sites[i] for i in kept))
        views = [as_sets([known], one).to(self.device) for one in features]
        name = self._choose(variant, known)
        logits = {
            one: torch.stack([self.logits(view, one).double() for view in views]).sigmoid().mean(0)
            for one in self.config.variants
            if one == name or _has_evidence(one, known)
        }
        evidence = {one: p.float().cpu().numpy() for one, p in logits.items()}
        probability, point = evidence[name], self.operating_point(name)
        network = self.variant(name)
        shown = sorted(np.argsort(-probability, kind="stable")[:SHOWN].tolist())
        return PatientLesions(
            source=patient.id,
            options={
                "site": [one or "unknown" for one in known.sites], "age": known.age, "sex": known.sex, "variant": name,
            },
            notes=(*_notes_on_files(refusals, len(patient.images)), *_notes_on_evidence(name, known)),
            names=tuple(Path(patient.images[i].id).name for i in kept),
            numbers=tuple(i + 1 for i in kept),
            sites=known.sites,
            age=known.age,
            sex=known.sex,
            variant=name,
            operating_point=point,
            probability=probability,
            malignant=probability >= point,
            raised=network.raised(views[0]).cpu().numpy(),
            received=network.received(views[0]).numpy(),
            attention=network.attention_maps(views[0]).cpu().numpy() if len(kept) <= MAPPED else None,
            evidence=evidence,
            operating_points={one: self.operating_point(one) for one in evidence},
            pictures={i: resize(centre_of(patient.images[kept[i]].image), 160, "lanczos") for i in shown},
        )  # fmt: skip

    def _choose(self, wanted: str, known: Evidence) -> str:
        if wanted != "auto":
            return wanted
        best = {(True, True): "V4", (True, False): "V2", (False, True): "V3", (False, False): "V1"}
        chosen = best[known.site, known.person]
        if chosen in self.config.variants:
            return chosen
        fitting = [name for name in self.config.variants if _has_evidence(name, known)]
        return (fitting or list(self.config.variants))[-1]

    def _seen(self, patient: Case) -> tuple[list[Float[Tensor, "n f"]], list[int], list[str]]:
        """Features of the images that can be read (one entry, or one per mirror image), which these are, and why not.

        A batch of images is in memory at a time.
        """
        kept: list[int] = []
        refusals: list[str] = []

        def views() -> Iterator[UInt8[np.ndarray, "s s 3"]]:
            for i, one in enumerate(patient.images):
                try:
                    view = view_of(one.image, self.config.image_size)
                except MediaError as error:
                    refusals.append(str(error))
                    continue
                kept.append(i)
                yield view

        features = self.features(views())
        if not kept:
            what = f": {refusals[0]}" if refusals else "; give at least one"
            raise MediaError(f"no image of {patient.id} can be read{what}")
        return list(features.unbind(1)), kept, refusals

    def _network_features(self, images: Sequence[Image]) -> Float[Tensor, "n f"]:
        return self.features(view_of(image, self.config.image_size) for image in images)[:, 0]

    @torch.inference_mode(False)  # what is remembered may enter a training later
    @torch.no_grad()
    def features(self, views: Iterable[UInt8[np.ndarray, "s s 3"]]) -> Float[Tensor, "n m f"]:
        """Of every image, m = 1, or 4 with its mirror images. An image that was seen before isn't computed again."""
        flips: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3)) if self.config.tta else ((),)
        found = []
        stream = iter(views)
        while batch := list(islice(stream, BATCH)):

            def made(places: list[int], batch: list[UInt8[np.ndarray, "s s 3"]] = batch) -> Float[Tensor, "b m f"]:
                x = to_network([batch[i] for i in places], self.device)
                return torch.stack([self.backbone(x.flip(axes) if axes else x) for axes in flips], 1).cpu()

            found.append(self._features.get_all([content_key(view) for view in batch], made))
        empty = torch.zeros(0, len(flips), self.config.features)
        return torch.cat(found or [empty]).to(self.device)

    # Features of a network that is going to change are forgotten.

    def train(self, mode: bool = True) -> MelDD:
        self._features.clear()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MelDD:
        self._features.clear()
        return super()._apply(fn, recurse)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        self._features.clear()
        return super().load_state_dict(*args, **options)


def _has_evidence(name: str, known: Evidence) -> bool:
    """Whether what a variant asks for beside the images is there."""
    return (known.site or name not in WITH_SITE) and (known.person or name not in WITH_PERSON)


def _notes_on_files(refusals: Sequence[str], total: int) -> list[str]:
    if not refusals:
        return []
    are = "is" if len(refusals) == 1 else "are"
    return [f"{len(refusals)} of {total} images {are} left out, the first because: {refusals[0]}"]


def _notes_on_evidence(name: str, known: Evidence) -> list[str]:
    notes = []
    missing = [what for what, there in (("site", known.site), ("age", known.age is not None),
                                        ("sex", known.sex is not None)) if not there]  # fmt: skip
    if missing:
        notes.append(f"not given: {', '.join(missing)}; predicted without")
    if known.site and None in known.sites:
        notes.append(f"the site of {known.sites.count(None)} of {len(known.sites)} lesions is unknown")
    ignored = [what for what, there, users in (("site", known.site, WITH_SITE),
                                               ("age and sex", known.person, WITH_PERSON))
               if there and name not in users]  # fmt: skip
    if ignored:
        notes.append(f"{name} makes no use of {' and '.join(ignored)}")
    if len(known.sites) == 1 and name != "V0":
        notes.append("one lesion alone: there are no others to compare it with")
    return notes


def backbone(config: MelddConfig, pretrained: bool = False) -> nn.Module:
    """Image to feature vector; ``pretrained`` with ImageNet's weights from the Hub.

    Raises ``MissingExtraError`` when timm is needed and missing, ``WeightsError`` when weights can't be had.
    """
    if config.backbone == "small":
        return build("small", needed_by=plugin.name, channels=config.small_channels)
    return timm_network(RESNET, needed_by=plugin.name, pretrained=pretrained, num_classes=0)


def to_network(
    views: UInt8[np.ndarray, "b s s 3"] | Sequence[UInt8[np.ndarray, "s s 3"]], device: torch.device | str
) -> Float[Tensor, "b 3 s s"]:
    """Views as a batch, normalised by ImageNet's mean and standard deviation."""
    return normalise(to_tensor(views, device))


def udtr_adapted(config: MelddConfig, count: int = 16) -> MelddConfig:
    """The baseline that takes ``count`` lesions at a time (16 is about the mean of SIIM-ISIC 2020) and no evidence."""
    return replace(config, variants=("V1",), fixed_count=count)
