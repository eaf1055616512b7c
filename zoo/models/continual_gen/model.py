"""The dense network, who owns its units, and the subnetwork that answers for an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.data.case import Case
from zoo.data.images import normalise, to_tensor
from zoo.data.seen import Seen
from zoo.errors import OptionError, WeightsError
from zoo.media import Image
from zoo.model import Model
from zoo.models.continual_gen import plugin
from zoo.models.continual_gen.culpability import kept
from zoo.models.continual_gen.data import Labels, arrived, view_of
from zoo.models.continual_gen.ensembles import Ensemble, EnsembleConfig
from zoo.models.continual_gen.result import Decision, Learned, RoutedClassification
from zoo.nn.backbones import build
from zoo.nn.units import Units, features_of, slim, widths_of, write_back

FREE = -1
BEYOND = "farther from every subnetwork than its limit: of no domain that was learned, so don't rely on the classes"
UNTAUGHT = "no domain was learned yet, so that all classes are as probable; train the model, or give weights"
MERGE = {"SCC": "AK", "IEC": "AK", "SK": "BKL", "ML": "NV", "PYO": "VASC", "melanosis": "-", "miscellaneous": "-"}
RESNETS = {
    "resnet152": "resnet152.tv_in1k", "resnet101": "resnet101.tv_in1k", "resnet50": "resnet50.tv_in1k",
    "resnet18": "resnet18.tv_in1k",
}  # fmt: skip


@dataclass(frozen=True)
class ContinualGenConfig:
    """The network, the rules of clusters and decisions, and the record of what was learned."""

    backbone: Literal["resnet152", "resnet101", "resnet50", "resnet18", "small"] = "resnet152"  # Sec. 3
    image_size: int = field(default=224, metadata={"min": 16, "max": 1024})  # px, Sec. 3
    small_channels: tuple[int, ...] = field(default=(60, 100, 120, 140), metadata={"min": 1, "max": 4096})
    small_strides: tuple[int, ...] = field(default=(2, 2, 2, 2), metadata={"min": 1, "max": 4})
    labels: tuple[str, ...] = plugin.labels
    merge: dict[str, str] = field(default_factory=lambda: dict(MERGE))
    """Which label of a set counts as which class; ``-`` leaves its cases out."""
    pruning: float = field(default=0.8, metadata={"min": 0.0, "max": 0.999})  # p, Sec. 3
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    threshold: Literal["selfess", "member"] = "selfess"
    """Of a domain: twice the ESS of its own validation images, or twice the mean distance of its training images."""
    stats: Literal["append", "replace"] = "append"  # whether an update keeps the clusters of earlier domains
    normalise: bool = False  # distances of single images divided by what is usual for each subnetwork; open
    learned: tuple[Learned, ...] = ()
    log: tuple[Decision, ...] = ()

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be two or more, each once")
        if len(self.small_channels) != len(self.small_strides) or not self.small_channels:
            raise ValueError("small_channels and small_strides must have as many entries, at least one")


class Subnetwork(nn.Module):
    """What a subnetwork has beside its units: its linear head, and the ensembles of its domains."""

    def __init__(self, config: ContinualGenConfig, features: int, learned: Learned) -> None:
        super().__init__()
        self.head = nn.Linear(features, len(config.labels))
        self.ensembles = nn.ModuleList(Ensemble(config.ensemble, features, k) for k in learned.clusters)

    def nearest(self, z: Float[Tensor, "n f"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Distance of single images to the nearest domain of this subnetwork, and what is usual for that domain."""
        some = [cast(Ensemble, one) for one in self.ensembles]
        distance, place = torch.stack([one.distance(z) for one in some]).min(0)
        return distance, torch.stack([one.usual for one in some])[place]


class ContinualGen(Model[RoutedClassification]):
    """A network of fixed size whose units belong to subnetworks, one for each domain that is unlike the others."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = ContinualGenConfig
    config: ContinualGenConfig

    def __init__(self, config: ContinualGenConfig | None = None) -> None:
        super().__init__(config)
        self.network = backbone(self.config)
        self.network.requires_grad_(False)
        self.spaces = widths_of(self.network)
        for space, width in self.spaces.items():
            self.register_buffer(_owner(space), torch.full((width,), FREE, dtype=torch.int32))
        wide = kept(self.spaces[features_of(self.network)], self.config.pruning)
        self.subnetworks = nn.ModuleList(Subnetwork(self.config, wide, one) for one in self.config.learned)
        self._slim: dict[int, nn.Module] = {}

    # ---- units --------------------------------------------------------------------------------------------------

    def subnetwork(self, t: int) -> Subnetwork:
        return cast(Subnetwork, self.subnetworks[t])

    def owner(self, space: str) -> Tensor:
        """For each unit of a space the subnetwork that it belongs to, from 0, or -1."""
        return cast(Tensor, getattr(self, _owner(space)))

    def units(self, t: int) -> Units:
        """The units of subnetwork ``t`` from 0, or the free ones (-1)."""
        return {space: torch.nonzero(self.owner(space) == t)[:, 0] for space in self.spaces}

    @property
    def room(self) -> int:
        """How many more subnetworks the free units are enough for."""
        free = {space: int((self.owner(space) == FREE).sum()) for space in self.spaces}
        return min(n // kept(self.spaces[space], self.config.pruning) for space, n in free.items())

    def part(self, t: int) -> nn.Module:
        """Subnetwork ``t`` as a network of its own, in eval mode: images to features."""
        if t not in self._slim:
            self._slim[t] = slim(self.network, self.units(t)).eval()
        return self._slim[t]

    def put(self, t: int, part: nn.Module, head: nn.Linear, units: Units) -> None:
        """Write a trained subnetwork into its units; ``t`` may be the next one, whose units are then taken."""
        write_back(self.network, part, units)
        for space, places in units.items():
            self.owner(space)[places.to(self.owner(space).device)] = t
        if t == len(self.subnetworks):
            made = Subnetwork(self.config, head.in_features, Learned())
            self.subnetworks.append(made.to(self.device))
            self.config = replace(self.config, learned=(*self.config.learned, Learned()))
        self.subnetwork(t).head.load_state_dict(head.state_dict())
        self.subnetworks.requires_grad_(False)
        self._slim.clear()

    def remember(self, t: int, ensemble: Ensemble, decision: Decision) -> None:
        """Keep the clusters of a domain that subnetwork ``t`` has just learned, and the decision."""
        before, own = self.config.learned[t], self.subnetwork(t)
        keep = list(own.ensembles) if self.config.stats == "append" else []
        own.ensembles = nn.ModuleList([*keep, ensemble.to(self.device)])
        now = Learned(
            (*before.domains, decision.domain),
            (*before.images, decision.images),
            tuple(len(cast(Ensemble, one).group) for one in own.ensembles),
        )
        learned = tuple(now if i == t else one for i, one in enumerate(self.config.learned))
        self.config = replace(self.config, learned=learned, log=(*self.config.log, decision))

    # ---- learning, and what was learned -------------------------------------------------------------------------

    def learn(self, domain: str | Sequence[Case], name: str = "", recipe: Any = None, seed: int = 0) -> Decision:
        """Learn one more domain, from a data set's name or from cases, and say what became of it.

        Nobody says which domain it is: ``name`` is for people. ``recipe``: a ``ContinualGenRecipe``, by default the
        paper's; its network is left aside. What the weights state of the images that they know is then of the past, and
        is dropped. Raises ``DataError`` for cases that can't be learned from.
        """
        # By name: trainings stand above the models that they train, and a user finds this one here all the same.
        training, runs = import_module("zoo.models.continual_gen.training"), import_module("zoo.training")
        fewest = self.config.ensemble.fewest
        some, data = arrived(domain, name, self.classes, self.config.image_size, seed, fewest)
        with runs.Run(seed=seed, device=str(self.device), progress=False) as run:
            told: Decision = training.learn_domain(self, some, recipe or training.ContinualGenRecipe(), run)
        before, now = self.seen or Seen(frozenset(), frozenset()), Seen.of(data)
        self.seen = Seen(before.train | now.train, before.validation | now.validation, before.patients | now.patients)
        self.domain, self.temperature = None, None  # of what was known before
        self.provenance = replace(self.provenance, trained_on=f"{self.provenance.trained_on}, then {data.train.spec}")
        return told

    def state(self) -> dict[str, Any]:
        """What was learned so far as plain data: subnetworks, thresholds, capacity, decisions. No image is in it."""
        own = [[cast(Ensemble, one) for one in self.subnetwork(t).ensembles] for t in range(len(self.subnetworks))]
        wide = {space: kept(width, self.config.pruning) for space, width in self.spaces.items()}
        free = {space: int((self.owner(space) == FREE).sum()) for space in self.spaces}
        return {
            "subnetworks": [
                {
                    "subnetwork": t + 1,
                    "domains": list(learned.domains),
                    "training_images": list(learned.images),
                    "clusters": list(learned.clusters),
                    "gamma_selfess": [round(one.gamma("selfess"), 6) for one in some],
                    "gamma_member": [round(one.gamma("member"), 6) for one in some],
                    "bytes_of_clusters": sum(b.nbytes for one in some for b in one.buffers()),
                }
                for t, (learned, some) in enumerate(zip(self.config.learned, own, strict=True))
            ],
            "threshold": self.config.threshold,
            "capacity": {
                "units": sum(self.spaces.values()),
                "units_of_a_subnetwork": sum(wide.values()),
                "units_free": sum(free.values()),
                "room_for_subnetworks": self.room,
            },
            "decisions": [one.to_dict() for one in self.config.log],
        }

    # ---- prediction ---------------------------------------------------------------------------------------------

    def forward(
        self, x: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n t c"], Float[Tensor, "n t"], Float[Tensor, "n t"]]:
        """Logits by every subnetwork, ESS to it, and what is usual for its nearest domain; ``x`` is normalised.

        Raises ``WeightsError`` while nothing is learned.
        """
        if not len(self.subnetworks):
            raise WeightsError(f"{plugin.name} has learned no domain yet; train it, or give weights")
        found = []
        for t in range(len(self.subnetworks)):
            z, own = self.part(t)(x), self.subnetwork(t)
            found.append((own.head(z), *own.nearest(z)))
        logits, distance, usual = (torch.stack(some, 1) for some in zip(*found, strict=True))
        return logits, distance, usual

    def route(self, distance: Float[Tensor, "n t"], usual: Float[Tensor, "n t"]) -> Tensor:
        """Which subnetwork answers for each image: the nearest (Domain-agnostic Inference)."""
        return (distance / usual.clamp_min(1e-9) if self.config.normalise else distance).argmin(1)

    def answers(self, x: Float[Tensor, "n 3 h w"]) -> Int[Tensor, " n"]:
        """The class of each image by the subnetwork that is nearest to it."""
        logits, distance, usual = self(x)
        return logits[torch.arange(len(x)), self.route(distance, usual)].argmax(1)

    def _predict(self, images: Sequence[Image], *, subnetwork: int | None, limit: float) -> list[RoutedClassification]:
        """Send the images through every subnetwork; the nearest answers, or the one that is asked for."""
        if subnetwork is not None and subnetwork > (most := max(len(self.subnetworks), 1)):
            raise OptionError(f"subnetwork must be at most {most} with these weights, not {subnetwork}")
        if not len(self.subnetworks):
            even = dict.fromkeys(self.config.labels, 1 / len(self.config.labels))
            blank = [RoutedClassification(image=image, probabilities=dict(even), subnetwork=0) for image in images]
            for result in blank:
                result.notes = (UNTAUGHT,)
            return blank
        logits, distance, usual = self(self._seen(images))
        chosen = self.route(distance, usual) if subnetwork is None else torch.full((len(images),), subnetwork - 1)
        made = []
        for i, image in enumerate(images):
            t = int(chosen[i])
            probabilities = logits[i, t].float().softmax(0).tolist()
            result = RoutedClassification(
                image=image,
                probabilities=dict(zip(self.config.labels, probabilities, strict=True)),
                subnetwork=t + 1,
                asked=subnetwork is not None,
                distances=tuple(distance[i].tolist()),
                limits=tuple((limit * usual[i]).tolist()),
                learned=self.config.learned,
            )
            if result.out_of_domain:
                result.notes = (BEYOND,)
            made.append(result)
        return made

    def _seen(self, images: Sequence[Image]) -> Float[Tensor, "n 3 s s"]:
        return normalise(to_tensor([view_of(image, self.config.image_size) for image in images], self.device))

    def _network_features(self, images: Sequence[Image]) -> Float[Tensor, "n f"] | None:
        if not len(self.subnetworks):
            return None
        x = self._seen(images)
        return torch.cat([self.part(t)(x) for t in range(len(self.subnetworks))], 1)

    @property
    def classes(self) -> Labels:
        return Labels(self.config.labels, self.config.merge)

    # Slim copies of a network that changes are forgotten.

    def _apply(self, *args: Any, **options: Any) -> Any:
        self._slim.clear()
        return super()._apply(*args, **options)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        self._slim.clear()
        return super().load_state_dict(*args, **options)


def _owner(space: str) -> str:
    return f"owner_{space.replace('.', '_')}"


def backbone(config: ContinualGenConfig, pretrained: bool = False) -> nn.Module:
    """Images to features; ``pretrained`` with ImageNet's weights from the Hub, except for ``small``.

    Raises ``MissingExtraError`` without timm, ``WeightsError`` when weights can't be had.
    """
    if config.backbone == "small":
        return build("small", needed_by=plugin.name, channels=config.small_channels, strides=config.small_strides)
    return build(RESNETS[config.backbone], needed_by=plugin.name, pretrained=pretrained)
