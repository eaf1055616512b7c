"""How the prototypes are trained: cross-entropy and running centroids, then pruning, then the head on all similarities.

Stage 1 trains backbone, branches and prototypes with ``L = L_global + L_local + lambda L_cluster`` (Eq. 1). Stage 2
(Sec. 2.4) freezes them and tunes one linear head for each way to decide (joint, global, local; all prototypes or the
pruned ones).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.data.augment import flipped, turned_views
from zoo.data.case import Case
from zoo.data.images import ImageSet, label_index, normalise, over_images
from zoo.data.splits import Split
from zoo.metrics import balanced_accuracy
from zoo.models.local_global_prototypes.data import Photographs, prepare
from zoo.models.local_global_prototypes.model import LocalGlobalConfig, LocalGlobalPrototypes, build_backbone
from zoo.models.local_global_prototypes.prototypes import keep_nearest
from zoo.models.local_global_prototypes.retrieval import Sources
from zoo.nn.gallery import GalleryConfig, pack
from zoo.nn.losses import class_counts, low_cross_entropy, root_weights
from zoo.training import Run, TrainData, Training
from zoo.training.stopping import EarlyStopping

START_IMAGES = 500  # of a class, for its first prototypes


@dataclass(frozen=True)
class LocalGlobalRecipe:
    """The paper's training. Comments name the section, or say that the paper leaves a value open."""

    network: LocalGlobalConfig = field(default_factory=LocalGlobalConfig)
    pretrained: bool = True  # Sec. 3: ImageNet; ``small`` starts at random
    epochs: int = field(default=100, metadata={"min": 1, "max": 1_000_000})  # Sec. 3, at most
    # epochs without a better validation BAcc; open
    patience: int = field(default=15, metadata={"min": 1, "max": 1_000_000})
    batch_size: int = field(default=50, metadata={"min": 1, "max": 65_536})  # Sec. 3
    lr_backbone: float = field(default=1e-5, metadata={"min": 0.0, "max": 100.0})  # Sec. 3
    lr_branch: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})  # Sec. 3
    lr_prototypes: float = field(default=1e-2, metadata={"min": 0.0, "max": 100.0})  # Sec. 3
    # one of the three that Sec. 3 searched
    lambda_cluster: float = field(default=1e-2, metadata={"min": 0.0, "max": 1e6})
    weighting: Literal["sqrt", "low", "none"] = "sqrt"
    """Of the classes in every cross-entropy: ``sqrt`` by 1 / sqrt(frequency), ``low`` by the learned sample weights
    that the paper cites without describing them."""
    low_rho: float = field(default=0.1, metadata={"min": 1e-6, "max": 1e6})  # of ``low``
    init: Literal["k-means", "random"] = "k-means"
    """Of the prototypes: centres of each class's first features, or random directions. The paper says nothing. Features
    of an untrained backbone all point almost the same way, and so would their centres; start those at random."""
    local_assign: Literal["winners", "all"] = "winners"
    """Which regions the local centroids follow: each prototype's winning cell, or every cell; open."""
    centroid_count: Literal["epoch", "cap", "cumulative"] = "epoch"
    """What becomes of n in Eq. 2: back to 1 with every epoch, at most 100, or as printed (then the centroids soon stand
    still while the features move on)."""
    stage2_epochs: int = field(default=20, metadata={"min": 0, "max": 1_000_000})  # Sec. 3
    lr_head: float = field(default=1e-2, metadata={"min": 0.0, "max": 100.0})  # Sec. 3
    prune: Literal["before", "after"] = "before"
    """Whether the pruned heads are tuned without the pruned prototypes, or lose them once they're tuned."""
    augment: Literal["full", "flips", "none"] = "full"
    """``full``: crops of .8 to 1, flips, turns, mild colour. The paper augments without naming kinds."""
    thumbnails: int = field(default=64, metadata={"min": 0, "max": 512})
    """Side in px of the gallery's pictures; 0 keeps the names alone, for images that can't be passed on."""
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def load_images(cases: Sequence[Case], config: LocalGlobalConfig, thumbnails: int | None = None) -> ImageSet:
    """Read and prepare ``cases``. ``thumbnails``: keep what a gallery needs, pictures of this side (0: none).

    Raises ``DataError`` for a label that the configuration doesn't name.
    """
    items = [prepare(case.image, config.image_size, config.colour_constancy) for case in cases]
    y = [label_index(case.label, config.labels, f"case {case.id}") for case in cases]
    images = ImageSet.of([item.view for item in items], y, empty=(3, config.image_size, config.image_size))
    if thumbnails is None:
        return images
    pictures = [item.thumbnail(thumbnails) for item in items] if thumbnails else []
    ids, digests = [case.id for case in cases], [item.digest for item in items]
    return Photographs(images.views, images.y, tuple(ids), tuple(digests), tuple(pictures))


def train(recipe: LocalGlobalRecipe, data: TrainData, run: Run) -> LocalGlobalPrototypes:
    """Both stages, pruning, and the gallery of the training images."""
    images = load_images(list(data.train), recipe.network, recipe.thumbnails)
    return fit(recipe, images, load_images(list(data.validation), recipe.network), run)


def fit(recipe: LocalGlobalRecipe, images: ImageSet, validation: ImageSet, run: Run) -> LocalGlobalPrototypes:
    """As ``train``, on images in memory."""
    run.stage("prototypes")
    model = LocalGlobalPrototypes(replace(recipe.network, gallery=GalleryConfig())).to(run.device)
    if recipe.pretrained and recipe.network.backbone != "small":
        model.backbone = build_backbone(recipe.network, pretrained=True).to(run.device)
    train_prototypes(model, recipe, images, validation, run)

    similarities, nearest = survey(model, images, run.device)
    alive = torch.cat([keep_nearest(*of).flatten() for of in zip(nearest.similarity, nearest.image, strict=True)])
    train_heads(model, recipe, similarities, images.y, alive, run)
    if isinstance(images, Photographs):
        store_gallery(model, images, nearest, run.device)
    return model.eval()


def train_prototypes(
    model: LocalGlobalPrototypes, recipe: LocalGlobalRecipe, images: ImageSet, validation: ImageSet, run: Run
) -> None:
    """Backbone, branches and prototypes, with centroids that follow the samples of each prototype."""
    if recipe.init == "k-means":
        start_prototypes(model, images, run)
    branches = [model.branch(name) for name in model.config.branches]
    embeddings = [p for branch in branches for p in branch.embed.parameters()]
    adam = torch.optim.Adam(rates(recipe, model.backbone, embeddings, [branch.prototypes for branch in branches]))
    for head in model.heads.values():
        head.requires_grad_(False)
    stopping = EarlyStopping(recipe.patience, module=model)
    net, adam = run.track(model=model, adam=adam)
    run.keep(stopping=stopping)
    weigh = weigher(recipe, images.y, len(model.config.labels), run.device)
    steps_per_epoch = math.ceil(len(images) / recipe.batch_size)
    cap = 100.0 if recipe.centroid_count == "cap" else None

    for step in run.steps(recipe.epochs * steps_per_epoch, description="prototypes"):
        net.train()
        if step % steps_per_epoch == 0:
            start_epoch(model, recipe, images, run, first=step == 0)
        x, y = images.batch(run.indices(len(images), recipe.batch_size, step), run.device)
        evidence = net(normalise(augmented(x, recipe, run, step)))

        # Eq. 5 and 6, as means over the batch
        losses = {name: weigh(model.stage1_logits(seen), y) for name, seen in evidence.items()}
        for name, seen in evidence.items():
            branch = model.branch(name)
            sums, counts = branch.assign(seen, y, every_cell=recipe.local_assign == "all")
            sums, counts = run.accelerator.reduce((sums, counts), reduction="sum")
            branch.absorb(sums, counts, cap)  # Eq. 2
        cluster = torch.stack([branch.cluster_loss() for branch in branches]).sum()  # Eq. 3
        loss = torch.stack(list(losses.values())).sum() + recipe.lambda_cluster * cluster  # Eq. 1
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss, cluster=cluster, **{f"{name}_ce": value for name, value in losses.items()})

        if (step + 1) % steps_per_epoch == 0 and len(validation):
            found = over_images(model, lambda x: model.probabilities(model(x)).argmax(1), validation, run.device)
            score = balanced_accuracy(found.numpy(), validation.y.numpy())
            run.log(validation_bacc=score)
            if stopping.update(score):
                run.stop()
    stopping.restore()
    model.eval()


def rates(
    recipe: LocalGlobalRecipe, backbone: nn.Module, branch: Iterable[Tensor], prototypes: Iterable[Tensor] = ()
) -> list[dict[str, Any]]:
    """Parameters with their learning rates."""
    parts = backbone.parameters(), branch, prototypes
    lrs = recipe.lr_backbone, recipe.lr_branch, recipe.lr_prototypes
    return [{"params": list(part), "lr": lr} for part, lr in zip(parts, lrs, strict=True)]


def weigher(
    recipe: LocalGlobalRecipe, y: Int[Tensor, " n"], classes: int, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy of logits [b c] and labels [b], weighted as the recipe says."""
    if recipe.weighting == "low":
        return lambda logits, labels: low_cross_entropy(logits, labels, recipe.low_rho)
    weight = root_weights(class_counts(y, classes)).to(device) if recipe.weighting == "sqrt" else None
    return lambda logits, labels: F.cross_entropy(logits, labels, weight)


def augmented(x: Float[Tensor, "b 3 s s"], recipe: LocalGlobalRecipe, run: Run, step: int) -> Float[Tensor, "b 3 s s"]:
    """The batch of a step as the recipe changes it."""
    if recipe.augment == "none":
        return x
    rng = run.generator("augment", step, run.accelerator.process_index)
    return flipped(x, rng) if recipe.augment == "flips" else turned_views(x, rng)


def start_epoch(
    model: LocalGlobalPrototypes, recipe: LocalGlobalRecipe, images: ImageSet, run: Run, first: bool
) -> None:
    """Prototypes that no sample chose in the last epoch start again from badly represented ones; counts begin anew."""
    for name in model.config.branches:
        branch = model.branch(name)
        for label in [] if first else torch.nonzero((branch.used == 0).any(1)).flatten().tolist():
            places = torch.nonzero(images.y == label).flatten()[:START_IMAGES]
            if len(places):
                branch.restart(label, cells_of(model, name, images, run.device, places))
        branch.used.zero_()
        if recipe.centroid_count == "epoch":
            branch.counts.fill_(1)


@torch.no_grad()
def start_prototypes(model: LocalGlobalPrototypes, images: ImageSet, run: Run) -> None:
    """k-means on each class's first features; the centroids start where the prototypes do."""
    for name in model.config.branches:
        branch = model.branch(name)
        for label in range(len(model.config.labels)):
            rng = run.generator("k-means", name, label)
            places = torch.nonzero(images.y == label).flatten()
            if len(places):
                places = places[torch.from_numpy(rng.permutation(len(places))[:START_IMAGES])]
                branch.start(label, cells_of(model, name, images, run.device, places), rng)
        branch.centroids.copy_(branch.prototypes)
        branch.counts.fill_(1)


def cells_of(
    model: LocalGlobalPrototypes,
    name: str,
    images: ImageSet,
    device: torch.device,
    places: Int[Tensor, " m"] | None = None,
) -> Float[Tensor, "n d"]:
    """A branch's cells of all images or of those at ``places``, without augmentation and in eval mode."""
    branch = model.branch(name)
    cells = over_images(model, lambda x: branch(model.backbone(x)).cells, images, device, places)
    return cells.flatten(0, 1).to(device)


class Nearest(NamedTuple):
    """Of every branch (here b), class and prototype: the image of its own class that is most similar to it."""

    similarity: Float[Tensor, "b c k"]
    image: Int[Tensor, "b c k"]  # place in the set; -1 where the class has none
    cell: Int[Tensor, "b c k"]  # of that image, the one most similar


def survey(
    model: LocalGlobalPrototypes, images: ImageSet, device: torch.device
) -> tuple[Float[Tensor, "n t"], Nearest]:
    """All similarities of all images, and who is nearest to which prototype."""

    def best_cells(x: Tensor) -> Float[Tensor, "n 2 b c k"]:
        # there are few cells, so their numbers fit a float
        return torch.stack([torch.stack([e.similarity, e.winner.float()], 1) for e in model(x).values()], 2)

    similarity, winner = over_images(model, best_cells, images, device).unbind(1)
    other = F.one_hot(images.y, similarity.shape[2])[:, None, :, None] == 0
    best, image = similarity.masked_fill(other, -2).max(0)
    there = best > -2
    cell = torch.where(there, winner.long().gather(0, image[None])[0], 0)
    return similarity.flatten(1), Nearest(best, torch.where(there, image, -1), cell)


def train_heads(
    model: LocalGlobalPrototypes,
    recipe: LocalGlobalRecipe,
    similarities: Float[Tensor, "n t"],
    y: Int[Tensor, " n"],
    alive: Bool[Tensor, " t"],
    run: Run,
) -> None:
    """Tune W of every head, all else frozen (Sec. 2.4); similarities don't change any more, so they're the input."""
    before = recipe.prune == "before"
    full, pruned = ([model.head(choice, p) for choice in model.config.choices] for p in (False, True))
    for head in pruned if before else ():
        head.mask.mul_(alive.to(run.device))
    run.stage("heads")
    tuned = {name: head for name, head in model.heads.items() if before or not name.endswith("_pruned")}
    heads = HeadBank(nn.ModuleDict(tuned)).requires_grad_(True)
    heads, adam = run.track(heads=heads, adam=torch.optim.Adam(heads.parameters(), lr=recipe.lr_head))
    weigh = weigher(recipe, y, len(model.config.labels), run.device)
    s, labels = similarities.to(run.device), y.to(run.device)
    for step in run.steps(recipe.stage2_epochs * math.ceil(len(y) / recipe.batch_size), description="heads"):
        index = torch.from_numpy(run.indices(len(y), recipe.batch_size, step, key="heads")).to(run.device)
        loss = torch.stack([weigh(logits, labels[index]) for logits in heads(s[index])]).mean()
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
    for head, whole in zip(pruned, full, strict=True) if not before else ():
        head.load_state_dict(whole.state_dict())
        head.mask.mul_(alive.to(run.device))
    model.tuned.fill_(recipe.stage2_epochs > 0)


class HeadBank(nn.Module):
    """Several heads on the same similarities; their losses don't meet, so one optimiser trains them all."""

    def __init__(self, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, s: Float[Tensor, "b t"]) -> list[Float[Tensor, "b c"]]:
        return [head(s) for head in self.heads.values()]


def store_gallery(model: LocalGlobalPrototypes, images: Photographs, nearest: Nearest, device: torch.device) -> None:
    """Put the training images into the model: embeddings, names, pictures, and who represents which prototype."""
    jpeg, ends = pack(images.pictures)
    config = GalleryConfig(images.ids, len(jpeg))
    gallery = Sources(config, model.gallery.embeddings.shape[1], model.prototype_count).to(device)
    if "global" in model.branches:
        gallery.embeddings.copy_(F.normalize(cells_of(model, "global", images, device), dim=-1))
    gallery.labels.copy_(images.y)
    gallery.digests.copy_(torch.tensor(images.digests, dtype=torch.int64))
    gallery.jpeg.copy_(jpeg)
    if len(ends):
        gallery.ends.copy_(ends)
    gallery.similarity.copy_(nearest.similarity.flatten())
    gallery.source.copy_(nearest.image.flatten())
    gallery.cell.copy_(nearest.cell.flatten())
    model.gallery, model.config = gallery, replace(model.config, gallery=config)


training = Training(
    recipe=LocalGlobalRecipe,
    presets={
        "paper": {},
        # A small network from scratch: higher rates, fewer epochs, minutes on two CPU cores.
        "demo": {
            "network": LocalGlobalConfig(
                backbone="small", small_channels=(24, 32, 48, 64), small_strides=(2, 2, 2, 1), image_size=96, width=64
            ),
            "pretrained": False,
            "epochs": 40,
            "patience": 12,
            "lr_backbone": 2e-3,
            "dtype": "float16",
        },
    },
    run=train,
    split=Split((0.72, 0.08, 0.20)),  # 80/20 as in the paper, and a tenth of the 80 % for early stopping
)
