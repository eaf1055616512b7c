"""The network: a backbone, a global and a local branch of class prototypes, and a linear head on all similarities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image as PILImage
from torch import Tensor, nn

from zoo import media
from zoo.data.images import normalise, to_tensor
from zoo.data.photographs import Prepared, prepare
from zoo.errors import OptionError
from zoo.model import Model
from zoo.models.local_global_prototypes import plugin
from zoo.models.local_global_prototypes.prototypes import Evidence, PrototypeBranch
from zoo.models.local_global_prototypes.result import Contribution, LookAlikes, Seen, Sources, look_alikes, regions
from zoo.nn import backbones
from zoo.nn.gallery import Gallery, GalleryConfig, StoredGallery, gallery_of, read_folder
from zoo.nn.part_prototypes import MaskedHead

BackboneName = Literal["vgg16", "resnet18", "resnet50", "densenet169", "efficientnet_b3", "small"]
BranchName = Literal["joint", "global", "local"]

# timm's name with ImageNet-1k weights, and the channels of its last feature map (Sec. 3)
TIMM_BACKBONES = {
    "vgg16": ("vgg16.tv_in1k", 512),
    "resnet18": ("resnet18.tv_in1k", 512),
    "resnet50": ("resnet50.tv_in1k", 2048),
    "densenet169": ("densenet169.tv_in1k", 1664),
    "efficientnet_b3": ("efficientnet_b3.ra2_in1k", 1536),
}


@dataclass(frozen=True)
class LocalGlobalConfig:
    """The network F with its two branches, and what an image looks like when it enters."""

    labels: tuple[str, ...] = plugin.labels
    backbone: BackboneName = "densenet169"
    """One of the paper's five, from timm; or ``small``, a few convolutions for the demo weights and the claim."""
    branch: BranchName = "joint"
    prototypes: int = field(default=10, metadata={"min": 1, "max": 1000})  # K = K^G = K^L, per class; Sec. 3
    width: int | None = field(default=None, metadata={"min": 1, "max": 4096})
    """D^G = D^L. The paper searched 128 and 256 (Sec. 3) and prints no choice; none: 128 for backbones of 512
    channels, else 256."""
    activation: Literal["none", "sigmoid"] = "none"  # after a branch's last layer; open, and a sigmoid in the code
    bare: bool = False  # the map before VGG16's last pooling (14 x 14) or DenseNet's last ReLU, as released; open
    tau: float = field(default=1.0, metadata={"min": 1e-3, "max": 1e6})  # of stage 1; the paper has none, so 1
    image_size: int = field(default=224, metadata={"min": 16, "max": 1024})  # px; not in the paper
    colour_constancy: bool = True  # Shades-of-Gray on the whole image, for "normalized as in [1]" of Sec. 3
    small_channels: tuple[int, ...] = field(default=(24, 32, 48, 64), metadata={"min": 1, "max": 4096})
    small_strides: tuple[int, ...] = field(default=(1, 2, 2, 1), metadata={"min": 1, "max": 16})
    gallery: GalleryConfig = field(default_factory=GalleryConfig)

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ValueError("labels must be two or more, each once")
        if len(self.small_channels) != len(self.small_strides) or min(*self.small_channels, *self.small_strides) < 1:
            raise ValueError("small_channels and small_strides must have one positive entry for each convolution")

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches the network has."""
        return ("global", "local") if self.branch == "joint" else (self.branch,)

    @property
    def choices(self) -> tuple[str, ...]:
        """What ``predict`` can base its decision on."""
        return ("joint", "global", "local") if self.branch == "joint" else (self.branch,)

    @property
    def channels(self) -> int:
        """C_b, of the backbone's feature map."""
        return self.small_channels[-1] if self.backbone == "small" else TIMM_BACKBONES[self.backbone][1]

    @property
    def embedding_width(self) -> int:
        return self.width or (128 if self.channels <= 512 else 256)


class LocalGlobalPrototypes(Model[LookAlikes]):
    """Class probabilities from cosine similarities to prototypes of images and of regions."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = LocalGlobalConfig

    def __init__(self, config: LocalGlobalConfig | None = None) -> None:
        super().__init__(config)
        c, k, d = len(self.config.labels), self.config.prototypes, self.config.embedding_width
        self.backbone = build_backbone(self.config)
        self.branches = nn.ModuleDict(
            {
                name: PrototypeBranch(
                    self.config.channels, d, c, k, name == "global", self.config.activation == "sigmoid"
                )
                for name in self.config.branches
            }
        )
        # One tuned head for each way to decide: frozen similarities make a head cheap.
        self.heads = nn.ModuleDict(
            {choice + pruned: MaskedHead(self._columns_of(choice), self.own_columns(), 1 / (k * self.config.tau))
             for choice in self.config.choices for pruned in ("", "_pruned")}
        )  # fmt: skip
        self.tuned: Tensor
        self.register_buffer("tuned", torch.tensor(False))  # whether stage 2 has been run
        self.gallery = Sources(self.config.gallery, d if "global" in self.branches else 0, self.prototype_count)
        self._folder_cache: tuple[Any, Gallery] | None = None

    def branch(self, name: str) -> PrototypeBranch:
        """The branch ``global`` or ``local``."""
        return cast(PrototypeBranch, self.branches[name])

    def head(self, choice: str, pruned: bool = False) -> MaskedHead:
        """The head that decides by ``joint``, ``global`` or ``local`` evidence."""
        return cast(MaskedHead, self.heads[f"{choice}_pruned" if pruned else choice])

    @property
    def prototype_count(self) -> int:
        """T: all prototypes, the global ones first, then by class."""
        return len(self.config.branches) * len(self.config.labels) * self.config.prototypes

    def _columns_of(self, choice: str) -> Bool[Tensor, " t"]:
        """Which prototypes a choice of branch lets decide."""
        per_branch = len(self.config.labels) * self.config.prototypes
        return torch.tensor([choice in ("joint", name) for name in self.config.branches]).repeat_interleave(per_branch)

    def own_columns(self) -> Bool[Tensor, "c t"]:
        """Which prototypes belong to each class."""
        classes = torch.arange(len(self.config.labels))
        return classes[:, None] == classes.repeat_interleave(self.config.prototypes).repeat(len(self.config.branches))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Evidence]:
        """The evidence of every branch. ``x`` is normalised by ImageNet's mean and standard deviation."""
        features = self.backbone(x)
        return {name: self.branch(name)(features) for name in self.config.branches}

    def logits(self, evidence: dict[str, Evidence], choice: str | None = None, pruned: bool = False) -> Tensor:
        """Of the head, [b c]: ``(M * W) s`` for all similarities s (Sec. 2.4)."""
        s = torch.cat([evidence[name].similarity.flatten(1) for name in self.config.branches], 1)
        return self.head(choice or self.config.branch, pruned)(s)

    def probabilities(self, evidence: dict[str, Evidence], choice: str | None = None, pruned: bool = False) -> Tensor:
        """[b c]. Before stage 2 this is the mean (Sec. 2) of the branches' softmaxes of mean similarities (Eq. 4)."""
        if bool(self.tuned):
            return self.logits(evidence, choice, pruned).softmax(1)
        names = [name for name in self.config.branches if (choice or self.config.branch) in ("joint", name)]
        return torch.stack([self.stage1_logits(evidence[name]).softmax(1) for name in names]).mean(0)

    def answer(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        """The probabilities from the images alone: what ``zoo export`` writes."""
        return self.probabilities(self(x))

    def stage1_logits(self, evidence: Evidence, tau: float | None = None) -> Float[Tensor, "b c"]:
        """Exponent of Eq. 4 with w_ck = 1 / K: mean similarity by class, in [-1, 1] at temperature 1."""
        return evidence.similarity.mean(-1) / (tau or self.config.tau)

    # ---- prediction ---------------------------------------------------------------------------------------------

    def _predict(
        self, images: Sequence[media.Image], *, branch: BranchName | None, pruned: bool, top_k: int, gallery: Any
    ) -> list[LookAlikes]:
        """Diagnose dermoscopic images, which go through the network together, and show what each diagnosis rests on.

        ``branch``: the evidence that decides; by default all that the weights have. ``gallery``: a folder of images to
        search instead of the stored ones. Labelled images are attached to a prototype of their class, others to the
        closest of all. Raises ``DataError`` where it holds no image that can be read.
        """
        if branch is not None and branch not in self.config.choices:
            raise OptionError(f"these weights have the {self.config.branch} branch only; leave out branch={branch}")
        choice = branch or self.config.branch
        items = [self.prepared(image) for image in images]
        evidence = self(normalise(to_tensor([item.view for item in items], self.device)))
        probabilities = self.probabilities(evidence, choice, pruned).cpu().numpy()
        cases = self._gallery(gallery)
        return [
            self._explained(item, {name: Evidence(*(part[i] for part in e)) for name, e in evidence.items()},
                            probabilities[i], cases, choice, pruned, top_k)
            for i, item in enumerate(items)
        ]  # fmt: skip

    def _network_features(self, images: Sequence[media.Image]) -> Float[Tensor, "n f"]:
        views = [self.prepared(image).view for image in images]
        return self.backbone(normalise(to_tensor(views, self.device))).mean((2, 3))

    def prepared(self, image: Any) -> Prepared:
        return prepare(image, self.config.image_size, self.config.colour_constancy, plugin.name)

    def _explained(
        self,
        item: Prepared,
        evidence: dict[str, Evidence],
        probabilities: Float[np.ndarray, " c"],
        gallery: Gallery | StoredGallery,
        choice: str,
        pruned: bool,
        top_k: int,
    ) -> LookAlikes:
        """Everything there is to say about one image; ``evidence`` is of this image alone."""
        config, predicted = self.config, int(np.argmax(probabilities))
        head, shape = self.head(choice, pruned), (len(config.branches), len(config.labels), config.prototypes)
        similarity = torch.cat([evidence[name].similarity.flatten() for name in config.branches])
        weight, alive = head.effective[predicted], head.mask > 0
        contribution = weight * similarity
        seen = {
            name: Seen(*evidence[name], self.branch(name).prototypes, alive.view(shape)[b], contribution.view(shape)[b])
            for b, name in enumerate(config.branches)
        }  # fmt: skip
        notes: list[str] = []
        if not bool(self.tuned):
            bound = np.e / (np.e + (len(config.labels) - 1) / np.e)
            low = f"keep probabilities low (below {bound:.2f} at temperature 1)"
            notes.append(f"the head isn't tuned: mean cosines at temperature {config.tau:g} {low}")
        by_image, by_region = choice in ("joint", "global"), choice in ("joint", "local")
        prototype, cases, pictures = (
            look_alikes(seen["global"], predicted, item.digest, gallery, config.labels, top_k)
            if by_image
            else (None, (), {})
        )
        if by_image and not (cases and cases[0].attached):
            shown = "; the nearest of the gallery are shown" if cases else ""
            notes.append(f"no look-alikes: the gallery has no other image of the closest prototype's cluster{shown}")
        areas, sources = (
            regions(seen["local"], self.gallery, config.labels, item.window, top_k) if by_region else ((), {})
        )
        names = list(product(config.branches, config.labels, range(config.prototypes)))
        return LookAlikes(
            options={"branch": choice},
            notes=tuple(notes),
            image=item.image,
            probabilities={name: float(p) for name, p in zip(config.labels, probabilities, strict=True)},
            window=item.window,
            prototype=prototype,
            look_alikes=cases,
            regions=areas,
            contributions=tuple(
                Contribution("/".join(map(str, names[t])), names[t][0], names[t][1], *(
                    round(float(v[t]), 6) for v in (similarity, weight, contribution)))
                for t in torch.argsort(contribution, descending=True, stable=True).tolist() if alive[t]
            ),
            pictures=pictures | sources,
        )  # fmt: skip

    def _gallery(self, folder: Any) -> Gallery | StoredGallery:
        if folder is None or "global" not in self.branches:
            return self.gallery
        stamp, cases = read_folder(folder)
        if self._folder_cache is None or self._folder_cache[0] != (stamp, self.config):
            self._folder_cache = (stamp, self.config), gallery_of(cases, self.config.labels, self._embed_one)
        return self._folder_cache[1]

    def _embed_one(self, image: Any) -> tuple[Float[Tensor, " d"], int, PILImage.Image]:
        item = self.prepared(image)
        evidence = self(normalise(to_tensor([item.view], self.device)))
        return evidence["global"].cells[0, 0], item.digest, item.thumbnail(96)


def build_backbone(config: LocalGlobalConfig, *, pretrained: bool = False) -> nn.Module:
    """Images to a feature map. Raises ``MissingExtraError`` without timm, ``WeightsError`` without the weights."""
    name = config.backbone if config.backbone == "small" else TIMM_BACKBONES[config.backbone][0]
    return backbones.build(
        name, needed_by=plugin.name, pretrained=pretrained, pooled=False,
        channels=config.small_channels, strides=config.small_strides, bare=config.bare,
    )  # fmt: skip
