"""How the prototypes are trained: cross-entropy and running centroids, then pruning, then the head on all similarities.

Stage 1 trains backbone, branches and prototypes with ``L = L_global + L_local + lambda L_cluster`` (Eq. 1). Stage 2
freezes them and tunes one linear head for each way to decide (joint, global, local; all prototypes or pruned ones).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from zoo.data.splits import Split
from zoo.errors import DataError
from zoo.models.local_global_prototypes.gallery import GalleryConfig, StoredGallery, pack
from zoo.models.local_global_prototypes.model import (
    LocalGlobalConfig,
    LocalGlobalPrototypes,
    Prepared,
    normalise,
    prepare,
    pretrained_backbone,
    thumbnail,
)
from zoo.training import Training
from zoo.training.stopping import EarlyStopping

if TYPE_CHECKING:
    from PIL import Image as PILImage

    from zoo.data.case import Case
    from zoo.training import Run, TrainData

INIT_IMAGES, INIT_CELLS = 500, 4000  # per class, for the first prototypes


@dataclass(frozen=True)
class LocalGlobalRecipe:
    """The paper's training. Comments name the section, or say that the paper leaves a value open."""

    network: LocalGlobalConfig = field(default_factory=LocalGlobalConfig)
    pretrained: bool = True  # Sec. 3: ImageNet; ``small`` starts at random
    epochs: int = field(default=100, metadata={"min": 1})  # Sec. 3, at most
    patience: int = field(default=15, metadata={"min": 1})  # epochs without a better validation BAcc; open
    batch_size: int = field(default=50, metadata={"min": 1})  # Sec. 3
    lr_backbone: float = field(default=1e-5, metadata={"min": 0.0})  # Sec. 3
    lr_branch: float = field(default=1e-3, metadata={"min": 0.0})  # Sec. 3
    lr_prototypes: float = field(default=1e-2, metadata={"min": 0.0})  # Sec. 3
    lambda_cluster: float = field(default=1e-2, metadata={"min": 0.0})  # one of the three that Sec. 3 searched
    weighting: Literal["sqrt", "low", "none"] = "sqrt"
    """Of the classes in every cross-entropy: ``sqrt`` by 1 / sqrt(frequency), ``low`` by the learned sample weights
    that the paper cites without describing them."""
    low_rho: float = field(default=0.1, metadata={"min": 1e-6})  # of ``low``
    init: Literal["k-means", "random"] = "k-means"
    """Of the prototypes: centres of each class's first features, or random directions. The paper says nothing. Features
    of an untrained backbone all point almost the same way, and so would their centres; start those at random."""
    local_assign: Literal["winners", "all"] = "winners"
    """Which regions the local centroids follow: each prototype's winning cell, or every cell; open."""
    centroid_count: Literal["epoch", "cap", "cumulative"] = "epoch"
    """What becomes of n in Eq. 2: back to 1 with every epoch, at most 100, or as printed (then the centroids soon stand
    still while the features move on)."""
    stage2_epochs: int = field(default=20, metadata={"min": 0})  # Sec. 3
    lr_head: float = field(default=1e-2, metadata={"min": 0.0})  # Sec. 3
    prune: Literal["before", "after"] = "before"
    """Whether the pruned heads are tuned without the pruned prototypes, or lose them once they're tuned."""
    augment: Literal["full", "flips", "none"] = "full"
    """``full``: crops of .8 to 1, flips, turns, mild colour. The paper augments without naming kinds."""
    thumbnails: int = field(default=64, metadata={"min": 0, "max": 512})
    """Side in px of the gallery's pictures; 0 keeps the names alone, for images that can't be passed on."""
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


@dataclass(frozen=True)
class Images:
    """Labelled images as the network takes them, in memory."""

    views: UInt8[Tensor, "n 3 s s"]
    y: Int[Tensor, " n"]
    ids: tuple[str, ...] = ()
    digests: tuple[int, ...] = ()
    pictures: tuple[PILImage.Image, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, index: np.ndarray, device: torch.device) -> tuple[Float[Tensor, "b 3 s s"], Int[Tensor, " b"]]:
        """In [0, 1], not yet normalised."""
        place = torch.from_numpy(np.asarray(index))
        return self.views[place].to(device).float() / 255, self.y[place].to(device)


def load_images(cases: Sequence[Case], config: LocalGlobalConfig, thumbnails: int | None = None) -> Images:
    """Read and prepare ``cases``. ``thumbnails``: keep what a gallery needs, pictures of this side (0: none).

    Raises ``DataError`` for a label that the configuration doesn't name.
    """
    views, y, ids, digests, pictures = [], [], [], [], []
    for case in cases:
        item: Prepared = prepare(case.image, config)
        views.append(torch.from_numpy(item.view.copy()).permute(2, 0, 1))
        y.append(class_of(case, config.labels))
        if thumbnails is not None:
            ids.append(case.id)
            digests.append(item.digest)
            if thumbnails:
                pictures.append(thumbnail(item, thumbnails))
    size = config.image_size
    stacked = torch.stack(views) if views else torch.zeros(0, 3, size, size, dtype=torch.uint8)
    return Images(stacked, torch.tensor(y, dtype=torch.int64), tuple(ids), tuple(digests), tuple(pictures))


def class_of(case: Case, labels: Sequence[str]) -> int:
    """The place of a case's label among ``labels``; a number counts as a place. Raises ``DataError`` for others."""
    if str(case.label) in labels:
        return list(labels).index(str(case.label))
    if str(case.label).isdigit() and int(str(case.label)) < len(labels):
        return int(str(case.label))
    raise DataError(f"case {case.id} has the label {case.label!r}, which is none of {', '.join(labels)}")


def train(recipe: LocalGlobalRecipe, data: TrainData, run: Run) -> LocalGlobalPrototypes:
    """Both stages, pruning, and the gallery of the training images."""
    images = load_images(list(data.train), recipe.network, recipe.thumbnails)
    validation = load_images(list(data.validation), recipe.network)
    return fit(recipe, images, validation, run)


def fit(recipe: LocalGlobalRecipe, images: Images, validation: Images, run: Run) -> LocalGlobalPrototypes:
    """As ``train``, on images in memory."""
    run.stage("prototypes")
    model = LocalGlobalPrototypes(replace(recipe.network, gallery=GalleryConfig())).to(run.device)
    if recipe.pretrained and recipe.network.backbone != "small":
        model.backbone = pretrained_backbone(recipe.network).to(run.device)
    train_prototypes(model, recipe, images, validation, run)

    similarities, nearest = survey(model, images, run.device)
    masks = {name: keep_nearest(nearest[name][0], nearest[name][1]) for name in model.config.branches}
    alive = torch.cat([masks[name].flatten() for name in model.config.branches])
    train_heads(model, recipe, similarities, images.y, alive, run)
    if recipe.thumbnails or images.ids:
        store_gallery(model, images, nearest, run.device)
    return model.eval()


# ---- stage 1 -------------------------------------------------------------------------------------------------------


def train_prototypes(
    model: LocalGlobalPrototypes, recipe: LocalGlobalRecipe, images: Images, validation: Images, run: Run
) -> None:
    """Backbone, branches and prototypes, with centroids that follow the samples of each prototype."""
    if recipe.init == "k-means":
        initialise_prototypes(model, images, run)
    branches = [model.branch(name) for name in model.config.branches]
    adam = torch.optim.Adam(
        [
            {"params": list(model.backbone.parameters()), "lr": recipe.lr_backbone},
            {"params": [p for branch in branches for p in branch.embed.parameters()], "lr": recipe.lr_branch},
            {"params": [branch.prototypes for branch in branches], "lr": recipe.lr_prototypes},
        ]
    )
    for head in model.heads.values():
        head.requires_grad_(False)
    stopping = EarlyStopping(recipe.patience, module=model)
    net, adam = run.track(model=model, adam=adam)
    run.keep(stopping=stopping)
    weigh = weigher(recipe, images.y, len(model.config.labels), run.device)
    steps_per_epoch = math.ceil(len(images) / recipe.batch_size)
    cap = {"epoch": None, "cap": 100.0, "cumulative": None}[recipe.centroid_count]

    for step in run.steps(recipe.epochs * steps_per_epoch, description="prototypes"):
        net.train()
        if step % steps_per_epoch == 0:
            start_epoch(model, recipe, images, run, first=step == 0)
        x, y = images.batch(run.indices(len(images), recipe.batch_size, step), run.device)
        if recipe.augment != "none":
            rng = run.generator("augment", step, run.accelerator.process_index)
            x = flipped(x, rng) if recipe.augment == "flips" else augmented(x, rng)
        evidence = net(normalise(x))

        losses = {name: weigh(model.stage1_logits(seen), y) for name, seen in evidence.items()}
        for name, seen in evidence.items():
            branch = model.branch(name)
            sums, counts = branch.assign(seen, y, every_cell=recipe.local_assign == "all")
            sums, counts = run.accelerator.reduce((sums, counts), reduction="sum")
            branch.absorb(sums, counts, cap)
        cluster = torch.stack([branch.cluster_loss() for branch in branches]).sum()
        loss = torch.stack(list(losses.values())).sum() + recipe.lambda_cluster * cluster
        adam.zero_grad()
        run.backward(loss)
        adam.step()
        run.log(loss=loss, cluster=cluster, **{f"{name}_ce": value for name, value in losses.items()})

        if (step + 1) % steps_per_epoch == 0 and len(validation):
            score = balanced_accuracy(predict_labels(model, validation, run.device), validation.y)
            run.log(validation_bacc=score)
            if stopping.update(score):
                run.stop()
    stopping.restore()
    model.eval()


def weigher(
    recipe: LocalGlobalRecipe, y: Int[Tensor, " n"], classes: int, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy of logits [b c] and labels [b], weighted as the recipe says."""
    if recipe.weighting == "low":
        return lambda logits, labels: low_cross_entropy(logits, labels, recipe.low_rho)
    weight = class_weights(y, classes).to(device) if recipe.weighting == "sqrt" else None
    return lambda logits, labels: F.cross_entropy(logits, labels, weight)


def class_weights(y: Int[Tensor, " n"], classes: int) -> Float[Tensor, " c"]:
    """1 / sqrt(frequency), with mean 1 over the classes that are there; 0 for those that aren't."""
    counts = torch.bincount(y.cpu(), minlength=classes).float()
    weight = torch.where(counts > 0, counts.clamp(min=1).rsqrt(), 0)
    return weight / weight[counts > 0].mean()


def low_cross_entropy(logits: Float[Tensor, "b c"], y: Int[Tensor, " b"], rho: float) -> Float[Tensor, ""]:
    """Mean of w_i CE_i, where the weights favour samples of large loss gradient g_i and add up to the batch's size.

    They maximise ``sum w_i g_i^2 - rho ||w - 1||^2`` over w >= 0, sum w = b: the projection of ``1 + g^2 / (2 rho)`` on
    a simplex.
    """
    with torch.no_grad():
        g2 = (logits.softmax(1) - F.one_hot(y, logits.shape[1])).square().sum(1)
        w = project_on_simplex(1 + g2 / (2 * rho), float(len(y)))
    return (w * F.cross_entropy(logits, y, reduction="none")).mean()


def project_on_simplex(v: Float[Tensor, " n"], total: float) -> Float[Tensor, " n"]:
    """The nearest point to ``v`` with entries >= 0 that add up to ``total``."""
    ordered = v.sort(descending=True).values
    excess = ordered.cumsum(0) - total
    place = torch.arange(1, len(v) + 1, device=v.device)
    last = int((ordered - excess / place > 0).sum())
    return (v - excess[last - 1] / last).clamp(min=0)


def start_epoch(model: LocalGlobalPrototypes, recipe: LocalGlobalRecipe, images: Images, run: Run, first: bool) -> None:
    """Prototypes that no sample chose in the last epoch start again from badly represented ones; counts begin anew."""
    for name in model.config.branches:
        branch = model.branch(name)
        if not first:
            empty = branch.used == 0
            for label in torch.nonzero(empty.any(1)).flatten().tolist():
                reseed(model, name, label, images, run.device)
        branch.used.zero_()
        if recipe.centroid_count == "epoch":
            branch.counts.fill_(1)


@torch.no_grad()
def reseed(model: LocalGlobalPrototypes, name: str, label: int, images: Images, device: torch.device) -> None:
    """Put the empty prototypes of a class where its prototypes represent a sample worst."""
    places = torch.nonzero(images.y == label).flatten()[:INIT_IMAGES]
    if not len(places):
        return
    branch = model.branch(name)
    cells = class_cells(model, name, images, places, device)
    empty = torch.nonzero(branch.used[label] == 0).flatten()
    own = F.normalize(cells, dim=-1) @ F.normalize(branch.prototypes[label], dim=-1).T
    own[:, empty] = -2
    worst = own.max(1).values.argsort(stable=True)[: len(empty)]
    empty = empty[: len(worst)]
    branch.prototypes[label, empty] = cells[worst]
    branch.centroids[label, empty] = cells[worst]
    branch.counts[label, empty] = 1


@torch.no_grad()
def initialise_prototypes(model: LocalGlobalPrototypes, images: Images, run: Run) -> None:
    """k-means on each class's first features; the centroids start where the prototypes do."""
    from scipy.cluster.vq import kmeans2

    k = model.config.prototypes
    for name in model.config.branches:
        branch = model.branch(name)
        for label in range(len(model.config.labels)):
            rng = run.generator("k-means", name, label)
            places = torch.nonzero(images.y == label).flatten()
            if not len(places):
                continue
            places = places[torch.from_numpy(rng.permutation(len(places))[:INIT_IMAGES])]
            cells = class_cells(model, name, images, places, run.device).cpu().numpy()
            cells = cells[rng.permutation(len(cells))[:INIT_CELLS]]
            if len(cells) <= k:  # too few to cluster: take them, and again with a little noise
                repeated = cells[np.arange(k) % len(cells)]
                centres = repeated + 0.01 * repeated.std() * rng.standard_normal(repeated.shape)
            else:
                centres, _ = kmeans2(cells.astype(np.float64), k, iter=20, minit="++", seed=rng)
            branch.prototypes[label] = torch.from_numpy(centres).to(branch.prototypes)
        branch.centroids.copy_(branch.prototypes)
        branch.counts.fill_(1)


@torch.no_grad()
def class_cells(
    model: LocalGlobalPrototypes, name: str, images: Images, places: Int[Tensor, " m"], device: torch.device
) -> Float[Tensor, "n d"]:
    """A branch's cells of the images at ``places``, without augmentation and with the batch's own statistics."""
    training = model.training
    model.eval()
    parts = []
    for index in places.split(64):
        x, _ = images.batch(index.numpy(), device)
        parts.append(model.branch(name)(model.backbone(normalise(x))).cells.flatten(0, 1))
    model.train(training)
    return torch.cat(parts)


def augmented(x: Float[Tensor, "b 3 s s"], rng: np.random.Generator) -> Float[Tensor, "b 3 s s"]:
    """Each image turned, flipped, cut to .8 to 1 of its area, and changed a little in brightness, contrast, colour."""
    b = len(x)
    angle, scale = rng.uniform(0, 2 * np.pi, b), np.sqrt(rng.uniform(0.8, 1.0, b))
    flip, shift = rng.choice([-1.0, 1.0], b), rng.uniform(-1, 1, (b, 2)) * (1 - scale)[:, None]
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.stack([flip * cos, -sin, shift[:, 0], flip * sin, cos, shift[:, 1]], 1).reshape(b, 2, 3)
    grid = F.affine_grid(torch.from_numpy(matrix).to(x), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    gain, contrast, tint = rng.uniform(0.9, 1.1, (b, 1)), rng.uniform(0.9, 1.1, (b, 1)), rng.uniform(0.95, 1.05, (b, 3))
    gain_, contrast_ = (torch.from_numpy(v).to(x)[..., None, None] for v in (gain * tint, contrast))
    mean = x.mean((1, 2, 3), keepdim=True)
    return ((x - mean) * contrast_ + mean).mul(gain_).clamp(0, 1)


def flipped(x: Float[Tensor, "b 3 s s"], rng: np.random.Generator) -> Float[Tensor, "b 3 s s"]:
    """Each image mirrored left to right, and top to bottom, or not."""
    for axis in (2, 3):
        chosen = torch.from_numpy(rng.random(len(x)) < 0.5).to(x.device)
        x = torch.where(chosen[:, None, None, None], x.flip(axis), x)
    return x


@torch.no_grad()
def predict_labels(
    model: LocalGlobalPrototypes, images: Images, device: torch.device, choice: str | None = None, pruned: bool = False
) -> Int[Tensor, " n"]:
    """The most probable class of every image."""
    training = model.training
    model.eval()
    found = []
    for index in torch.arange(len(images)).split(64):
        x, _ = images.batch(index.numpy(), device)
        found.append(model.probabilities(model(normalise(x)), choice, pruned).argmax(1).cpu())
    model.train(training)
    return torch.cat(found)


def balanced_accuracy(found: Int[Tensor, " n"], y: Int[Tensor, " n"]) -> float:
    """Mean recall over the classes that are there, in [0, 1]."""
    return float(np.mean([float((found[y == label] == label).float().mean()) for label in y.unique()]))


# ---- between the stages: which image stands for which prototype -----------------------------------------------------

Nearest = tuple[Float[Tensor, "c k"], Int[Tensor, "c k"], Int[Tensor, "c k"]]  # similarity, image or -1, cell


@torch.no_grad()
def survey(
    model: LocalGlobalPrototypes, images: Images, device: torch.device
) -> tuple[Float[Tensor, "n t"], dict[str, Nearest]]:
    """All similarities of all images, and each prototype's nearest image of its own class with the winning cell."""
    model.eval()
    c, k = len(model.config.labels), model.config.prototypes
    rows = []
    best = {
        name: (torch.full((c, k), -2.0), torch.full((c, k), -1), torch.zeros(c, k, dtype=torch.int64))
        for name in model.config.branches
    }
    for index in torch.arange(len(images)).split(64):
        x, y = images.batch(index.numpy(), device)
        evidence = model(normalise(x))
        rows.append(torch.cat([evidence[name].similarity.flatten(1) for name in model.config.branches], 1).cpu())
        other = F.one_hot(y.cpu(), c)[..., None] == 0
        for name in model.config.branches:
            similarity, place, cell = best[name]
            mine = evidence[name].similarity.cpu().masked_fill(other, -2)
            top, row = mine.max(0)
            better = top > similarity
            winner = evidence[name].winner.cpu().gather(0, row[None])[0]
            best[name] = (
                torch.where(better, top, similarity),
                torch.where(better, index[row], place),
                torch.where(better, winner, cell),
            )
    return torch.cat(rows), best


def keep_nearest(similarity: Float[Tensor, "c k"], image: Int[Tensor, "c k"]) -> Tensor:
    """Where one image is nearest to several prototypes, only the closest of these stays; bool [c k].

    A prototype whose class has no image stays too: nothing says that it's redundant.
    """
    flat, places = similarity.flatten().tolist(), image.flatten().tolist()
    keep = torch.ones(len(flat), dtype=torch.bool)
    chosen: dict[int, int] = {}
    for t, place in enumerate(places):
        if place < 0:
            continue
        rival = chosen.get(place)
        if rival is None:
            chosen[place] = t
        elif flat[t] > flat[rival]:
            keep[rival] = False
            chosen[place] = t
        else:
            keep[t] = False
    return keep.view(similarity.shape)


# ---- stage 2 -------------------------------------------------------------------------------------------------------


def train_heads(
    model: LocalGlobalPrototypes,
    recipe: LocalGlobalRecipe,
    similarities: Float[Tensor, "n t"],
    y: Int[Tensor, " n"],
    alive: Tensor,
    run: Run,
) -> None:
    """Tune W of every head with everything else frozen; similarities don't change any more, so they're the input."""
    before = recipe.prune == "before"
    choices = model.config.choices
    for choice in choices:
        if before:
            model.head(choice, pruned=True).mask.mul_(alive.to(run.device))
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
    if not before:
        for choice in choices:
            pruned, full = model.head(choice, pruned=True), model.head(choice)
            pruned.load_state_dict(full.state_dict())
            pruned.mask.mul_(alive.to(run.device))
    model.tuned.fill_(recipe.stage2_epochs > 0)


class HeadBank(nn.Module):
    """Several heads on the same similarities; their losses don't meet, so one optimiser trains them all."""

    def __init__(self, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, s: Float[Tensor, "b t"]) -> list[Float[Tensor, "b c"]]:
        return [head(s) for head in self.heads.values()]


# ---- the gallery ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def store_gallery(
    model: LocalGlobalPrototypes, images: Images, nearest: dict[str, Nearest], device: torch.device
) -> None:
    """Put the training images into the model: embeddings, names, pictures, and who represents which prototype."""
    jpeg, ends = pack(images.pictures)
    config = GalleryConfig(images.ids, len(jpeg))
    width = model.gallery.embeddings.shape[1]
    gallery = StoredGallery(config, width, model.prototype_count).to(device)
    if "global" in model.branches:
        embeddings = class_cells(model, "global", images, torch.arange(len(images)), device)
        gallery.embeddings.copy_(F.normalize(embeddings, dim=-1))
    gallery.labels.copy_(images.y)
    gallery.digests.copy_(torch.tensor(images.digests, dtype=torch.int64))
    gallery.jpeg.copy_(jpeg)
    if len(ends):
        gallery.ends.copy_(ends)
    parts = [nearest[name] for name in model.config.branches]
    for buffer, place in ((gallery.similarity, 0), (gallery.source, 1), (gallery.cell, 2)):
        buffer.copy_(torch.cat([part[place].flatten() for part in parts]))
    model.gallery = gallery
    model.config = replace(model.config, gallery=config)


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
