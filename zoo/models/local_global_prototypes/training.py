"""How the prototypes are trained: cross-entropy and running centroids, then pruning, then the head on all similarities.

Stage 1 trains backbone, branches and prototypes with ``L = L_global + L_local + lambda L_cluster`` (Eq. 1). Stage 2
(Sec. 2.4) freezes them and tunes one linear head for each way to decide (joint, global, local; all prototypes or the
pruned ones).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.data.augment import cropped_squares, flipped, turned_views
from zoo.data.case import Case
from zoo.data.images import ImageSet, label_index, normalise, over_images
from zoo.data.photographs import Photographs, thumbnail, views_of
from zoo.data.splits import Split
from zoo.metrics import balanced_accuracy
from zoo.models.local_global_prototypes import plugin
from zoo.models.local_global_prototypes.model import LocalGlobalConfig, LocalGlobalPrototypes, build_backbone
from zoo.models.local_global_prototypes.projection import (
    START_IMAGES,
    Nearest,
    best_cells,
    cells_of,
    project,
    start_prototypes,
    survey,
)
from zoo.models.local_global_prototypes.result import Sources
from zoo.nn.gallery import GalleryConfig, pack
from zoo.nn.losses import Weighting, class_counts, weighted_cross_entropy
from zoo.nn.part_prototypes import HeadBank, keep_nearest
from zoo.training import Run, TrainData, Training
from zoo.training.fit import Noisy
from zoo.training.stopping import EarlyStopping


@dataclass(frozen=True)
class LocalGlobalRecipe:
    """The paper's training. Comments name the section, or say that the paper leaves a value open."""

    recipe: Literal["paper", "released"] = "paper"
    """The paper as printed, or the authors' code: temperature, projections, AdamW, no weights of classes."""
    network: LocalGlobalConfig = field(default_factory=LocalGlobalConfig)
    pretrained: bool = True  # Sec. 3: ImageNet; ``small`` starts at random
    epochs: int = field(default=100, metadata={"min": 1, "max": 1_000_000})  # Sec. 3, at most
    patience: int = field(default=15, metadata={"min": 1, "max": 1_000_000})  # epochs without a better BAcc; open
    batch_size: int = field(default=50, metadata={"min": 1, "max": 65_536})  # Sec. 3
    lr_backbone: float = field(default=1e-5, metadata={"min": 0.0, "max": 100.0})  # Sec. 3
    lr_branch: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})  # Sec. 3
    lr_prototypes: float = field(default=1e-2, metadata={"min": 0.0, "max": 100.0})  # Sec. 3
    lambda_cluster: float = field(default=1e-2, metadata={"min": 0.0, "max": 1e6})  # one of three in Sec. 3
    weight_decay: float = field(default=0.0, metadata={"min": 0.0, "max": 100.0})  # of AdamW, on everything; open
    weighting: Weighting = "sqrt"
    """Of the classes in every cross-entropy: ``sqrt`` by 1 / sqrt(frequency), ``low`` by the learned sample weights
    that the paper cites without describing them (as in their authors' code, where they stay near 1), ``low-by-sample``
    by the same with the gradient of each sample's loss instead of its part in the batch's mean."""
    head_weighting: Weighting | None = None  # of stage 2; none: as in stage 1
    low_rho: float = field(default=0.1, metadata={"min": 1e-6, "max": 1e6})  # of ``low``
    tau_training: float | None = field(default=None, metadata={"min": 1e-3, "max": 1e6})
    """Temperature of stage 1's cross-entropies; none: the network's."""
    init: Literal["k-means", "random", "identity"] = "k-means"
    """Of the prototypes: centres of each class's first features, random directions, or rows of the identity. The paper
    says nothing. Features of an untrained backbone all point almost the same way, and so would their centres; start
    those at random."""
    project_every: int = field(default=0, metadata={"min": 0, "max": 1_000_000})
    """Epochs after which each prototype becomes a feature of an image of its own, as at the start; 0: never."""
    local_assign: Literal["winners", "all"] = "winners"
    """Which regions the local centroids follow: each prototype's winning cell, or every cell; open."""
    centroid_count: Literal["epoch", "cumulative"] = "epoch"
    """Whether n in Eq. 2 goes back to 1 with every epoch, or runs on as printed, where centroids soon stand still."""
    stage2_epochs: int = field(default=20, metadata={"min": 0, "max": 1_000_000})  # Sec. 3
    lr_head: float = field(default=1e-2, metadata={"min": 0.0, "max": 100.0})  # Sec. 3
    head_batch_size: int = field(default=50, metadata={"min": 1, "max": 65_536})  # Sec. 3
    head_decay_at: tuple[int, ...] = field(default=(), metadata={"min": 1, "max": 1_000_000})  # epochs: rate x 0.1
    head_noise: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})  # s.d., on the similarities of stage 2
    noise_stays: bool = False  # on them, so that it adds up over the epochs, as released
    head_keep: Literal["last", "best"] = "last"  # epoch of stage 2, or each head's best by BAcc on validation images
    head_start: Literal["all", "kept"] = "all"  # w = 1 / K, or 1 / the class's prototypes that pruning leaves
    prune: Literal["before", "after"] = "before"
    """Whether the pruned heads are tuned without the pruned prototypes, or lose them once they're tuned."""
    prune_by: Literal["image", "cell"] = "image"  # whether local prototypes share a sample by its image or its cell
    augment: Literal["full", "crops", "flips", "none"] = "full"
    """``full``: crops of .8 to 1, flips, turns, mild colour; ``crops``: flips and squares of 224 / 291 of the side. The
    paper augments without naming kinds."""
    thumbnails: int = field(default=64, metadata={"min": 0, "max": 512})
    """Side in px of the gallery's pictures; 0 keeps the names alone, for images that can't be passed on."""
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def load_images(cases: Sequence[Case], config: LocalGlobalConfig, thumbnails: int | None = None) -> ImageSet:
    """Read and prepare ``cases``. ``thumbnails``: keep what a gallery needs, pictures of this side (0: none).

    Raises ``DataError`` for a label that the configuration doesn't name.
    """
    items = [views_of(case.image, config.image_size, config.colour_constancy, plugin.name) for case in cases]
    y = [label_index(case.label, config.labels, f"case {case.id}") for case in cases]
    images = ImageSet.of([item["view"] for item in items], y, empty=(3, config.image_size, config.image_size))
    if thumbnails is None:
        return images
    pictures = [thumbnail(item["plain"], thumbnails) for item in items] if thumbnails else []
    ids, digests = [case.id for case in cases], [int(item["digest"][0]) for item in items]
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
    alive = torch.cat([
        keep_nearest(similarity, nearest.places(name == "local" and recipe.prune_by == "cell")[b]).flatten()
        for b, (name, similarity) in enumerate(zip(model.config.branches, nearest.similarity, strict=True))
    ])  # fmt: skip
    train_heads(model, recipe, similarities, images.y, alive, validation, run)
    if isinstance(images, Photographs):
        store_gallery(model, images, nearest, run.device)
    return model.eval()


def train_prototypes(
    model: LocalGlobalPrototypes, recipe: LocalGlobalRecipe, images: ImageSet, validation: ImageSet, run: Run
) -> None:
    """Backbone, branches and prototypes, with centroids that follow the samples of each prototype."""
    if recipe.init != "random":
        start_prototypes(model, images, run, recipe.init == "identity")
    branches = [model.branch(name) for name in model.config.branches]
    embeddings = [p for branch in branches for p in branch.embed.parameters()]
    prototypes = [branch.prototypes for branch in branches]
    adam = optimiser(rates(recipe, model.backbone, embeddings, prototypes), recipe)
    for head in model.heads.values():
        head.requires_grad_(False)
    stopping = EarlyStopping(recipe.patience, module=model)
    net, adam = run.track(model=model, adam=adam)
    run.keep(stopping=stopping)
    weigh = weigher(recipe, images.y, len(model.config.labels), run.device)
    steps_per_epoch = math.ceil(len(images) / recipe.batch_size)

    for step in run.steps(recipe.epochs * steps_per_epoch, description="prototypes"):
        net.train()
        if step % steps_per_epoch == 0:
            start_epoch(model, recipe, images, run, step // steps_per_epoch)
        x, y = images.batch(run.indices(len(images), recipe.batch_size, step), run.device)
        evidence = net(normalise(augmented(x, recipe, run, step)))

        # Eq. 5 and 6, as means over the batch
        losses = {name: weigh(model.stage1_logits(seen, recipe.tau_training), y) for name, seen in evidence.items()}
        for name, seen in evidence.items():
            branch = model.branch(name)
            sums, counts = branch.assign(seen, y, every_cell=recipe.local_assign == "all")
            sums, counts = run.accelerator.reduce((sums, counts), reduction="sum")
            branch.absorb(sums, counts)  # Eq. 2
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


def optimiser(groups: list[dict[str, Any]], recipe: LocalGlobalRecipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)


def weigher(
    recipe: LocalGlobalRecipe, y: Int[Tensor, " n"], classes: int, device: torch.device, heads: bool = False
) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy of logits [b c] and labels [b], weighted as the recipe says."""
    kind = (recipe.head_weighting if heads else None) or recipe.weighting
    return weighted_cross_entropy(kind, class_counts(y, classes).to(device), recipe.low_rho)


def augmented(x: Float[Tensor, "b 3 s s"], recipe: LocalGlobalRecipe, run: Run, step: int) -> Float[Tensor, "b 3 s s"]:
    """The batch of a step as the recipe changes it."""
    if recipe.augment == "none":
        return x
    rng = run.generator("augment", step, run.accelerator.process_index)
    if recipe.augment == "crops":
        return cropped_squares(x, rng, 224 / 291)
    return flipped(x, rng) if recipe.augment == "flips" else turned_views(x, rng)


def start_epoch(
    model: LocalGlobalPrototypes, recipe: LocalGlobalRecipe, images: ImageSet, run: Run, epoch: int
) -> None:
    """Counts begin anew; prototypes are projected, or those that no sample chose start from badly represented ones."""
    if recipe.project_every and epoch % recipe.project_every == 0:
        project(model, images, run.device)
    for name in model.config.branches:
        branch = model.branch(name)
        lost = epoch > 0 and not recipe.project_every
        for label in torch.nonzero((branch.used == 0).any(1)).flatten().tolist() if lost else []:
            places = torch.nonzero(images.y == label).flatten()[:START_IMAGES]
            if len(places):
                branch.restart(label, cells_of(model, name, images, run.device, places))
        branch.used.zero_()
        if recipe.centroid_count == "epoch":
            branch.counts.fill_(1)


def train_heads(
    model: LocalGlobalPrototypes,
    recipe: LocalGlobalRecipe,
    similarities: Float[Tensor, "n t"],
    y: Int[Tensor, " n"],
    alive: Bool[Tensor, " t"],
    validation: ImageSet,
    run: Run,
) -> None:
    """Tune W of every head, all else frozen (Sec. 2.4); similarities don't change any more, so they're the input."""
    before = recipe.prune == "before"
    full, pruned = ([model.head(choice, p) for choice in model.config.choices] for p in (False, True))
    for head in pruned if before else ():
        head.mask.mul_(alive.to(run.device))
        if recipe.head_start == "kept":
            head.share_among_kept(model.config.prototypes)
    run.stage("heads")
    tuned = {name: head for name, head in model.heads.items() if before or not name.endswith("_pruned")}
    heads = HeadBank(nn.ModuleDict(tuned)).requires_grad_(True)
    adam = optimiser([{"params": list(heads.parameters()), "lr": recipe.lr_head}], recipe)
    heads, adam = run.track(heads=heads, adam=adam)
    weigh = weigher(recipe, y, len(model.config.labels), run.device, heads=True)
    labels, size = y.to(run.device), recipe.head_batch_size
    steps_per_epoch = math.ceil(len(y) / size)
    best = {name: EarlyStopping(recipe.stage2_epochs, module=head) for name, head in tuned.items()}
    best = best if recipe.head_keep == "best" and len(validation) else {}
    run.keep(**{f"best_{name}": one for name, one in best.items()})
    unseen = best_cells(model, validation, run.device)[0].flatten(1).to(run.device) if best else None
    order = lambda step: torch.from_numpy(run.indices(len(y), size, step, key="heads")).to(run.device)  # noqa: E731
    drawn = Noisy(run, similarities.to(run.device), order, recipe.head_noise, recipe.noise_stays)
    for step in run.steps(recipe.stage2_epochs * steps_per_epoch, description="heads"):
        decays = sum(step // steps_per_epoch >= epoch for epoch in recipe.head_decay_at)
        adam.param_groups[0]["lr"] = recipe.lr_head * 0.1**decays
        loss = torch.stack([weigh(logits, labels[order(step)]) for logits in heads(drawn.batch(step))]).mean()
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss)
        for name, one in best.items() if (step + 1) % steps_per_epoch == 0 else ():
            one.update(balanced_accuracy(tuned[name](unseen).argmax(1).cpu().numpy(), validation.y.numpy()))
    for one in best.values():
        one.restore()
    for head, whole in zip(pruned, full, strict=True) if not before else ():
        head.load_state_dict(whole.state_dict())
        head.mask.mul_(alive.to(run.device))
    model.tuned.fill_(recipe.stage2_epochs > 0)


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
        # A small network from scratch: higher rates, fewer epochs, minutes on two CPU cores. As released, because a
        # class's local prototypes are the further apart; random crops would cut lesions.
        "demo": {
            "recipe": "released",
            "augment": "full",
            "network": {
                "backbone": "small",
                "small_channels": (24, 32, 48, 64),
                "small_strides": (2, 2, 2, 1),
                "image_size": 96,
                "width": 64,
            },
            "pretrained": False,
            "epochs": 40,
            "patience": 12,
            "lr_backbone": 2e-3,
            "dtype": "float16",
        },
    },
    readings={
        "released": {
            "network": {"activation": "sigmoid", "bare": True},
            "patience": 100,  # the best epoch is kept, none is left out
            "lambda_cluster": 0.0,  # printed in the code, where its gradient is 0
            "weight_decay": 0.01,
            "weighting": "none",
            "head_weighting": "low",
            "low_rho": 0.01,
            "tau_training": 0.07,
            "init": "identity",
            "project_every": 10,
            "head_batch_size": 100,
            "head_decay_at": (10, 15),
            "head_noise": 0.01,
            "noise_stays": True,
            "head_keep": "best",
            "head_start": "kept",
            "prune_by": "cell",
            "augment": "crops",
        }
    },
    run=train,
    split=Split((0.72, 0.08, 0.20)),  # 80/20 as in the paper, and a tenth of the 80 % for early stopping
)
