"""How MAP trains its segmenter: three synthesis networks, Dirichlet mixtures, meta-train and meta-test episodes.

Pseudo-modalities of one colour photograph share its vessels and differ in style: D^0 is the CLAHE of the inverted
green channel, D^1..D^3 are latent images of networks that were trained alike from different seeds. D^1 is the
meta-train set; convex mixtures of D^0, D^2 and D^3 are the meta-test set.

Two readings. ``paper``: every step is an episode, a meta-train and a meta-test update. ``released``, the authors' code
(StructuralCluster.py): a whole epoch of meta-train, a frozen copy of the network that gives the anchors, and a whole
epoch of meta-test on nine views of every square.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.data.augment import big_aug
from zoo.data.case import Case
from zoo.data.sets import read_mask
from zoo.metrics import dice
from zoo.models.map_vessel.data import Source, crops, load_source
from zoo.models.map_vessel.model import RELEASED, MapVessel, MapVesselConfig
from zoo.models.map_vessel.released import Epoch
from zoo.models.map_vessel.synthesis import SynthesisRecipe, add_pseudo_modalities
from zoo.nn.losses import dice_ce
from zoo.ops import prototype_similarity
from zoo.training import Run, TrainData, Training

MIXED = (0, 2, 3)  # the corners of the mixture space, Sec. 2.3; D^1 never enters it

Method = Literal["map", "pooled", "baseline", "bigaug"]


@dataclass(frozen=True)
class MapVesselRecipe:
    """The paper's training, and the arms it is compared with."""

    recipe: Literal["paper", "released"] = "paper"
    """The paper as printed, or the authors' code: other network, order of updates, views, rates and loss."""
    method: Method = "map"
    """``baseline``: D^0 alone; ``bigaug``: D^0 with random gamma, contrast, blur and noise; ``pooled``: all
    pseudo-modalities and mixtures, no episodes, no feature losses."""
    network: MapVesselConfig = field(default_factory=MapVesselConfig)
    synthesis: SynthesisRecipe = field(default_factory=SynthesisRecipe)
    epochs: int = field(default=30, metadata={"min": 1, "max": 1_000_000})  # Sec. 2.5
    batch_size: int = field(default=10, metadata={"min": 1, "max": 65_536})  # Sec. 2.5
    batch_train: int = field(default=1, metadata={"min": 1, "max": 65_536})  # of meta-train, in ``released`` only
    lr_train: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})  # Sec. 2.5
    lr_test: float = field(default=5e-3, metadata={"min": 0.0, "max": 100.0})  # Sec. 2.5
    decay: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})  # Sec. 2.5, of both rates
    decay_every: int = field(default=3, metadata={"min": 1, "max": 1_000_000})  # epochs, Sec. 2.5; of lr_test
    decay_train_every: int = field(default=3, metadata={"min": 1, "max": 1_000_000})  # epochs, Sec. 2.5; of lr_train
    loss: Literal["dice_ce", "ce"] = "dice_ce"  # L_seg, Sec. 2.2
    alpha: tuple[float, float, float] = field(default=(1.0, 1.0, 1.0), metadata={"min": 1e-6, "max": 1e6})  # Sec. 2.3
    alpha_spread: float = field(default=0.0, metadata={"min": 0.0, "max": 1e6})
    """Standard deviation of each alpha, drawn for every epoch; in ``released`` only."""
    mixtures: int = field(default=3, metadata={"min": 1, "max": 100})  # M; the indices of Eq. 2 fit three
    w_seg: float = field(default=100.0, metadata={"min": 0.0, "max": 1e6})  # Sec. 2.4
    w_sim: float = field(default=100.0, metadata={"min": 0.0, "max": 1e6})  # Sec. 2.4
    w_ncc: float = field(default=1.0, metadata={"min": 0.0, "max": 1e6})  # Sec. 2.4
    off_block: float = field(default=1.0, metadata={"min": 0.0, "max": 1e6})  # in L_ncc, of pairs from two images
    episodic: bool = True  # False: one update on pseudo-modalities and mixtures together, without L_sim (Table 2)
    second_order: bool = False  # differentiate through the meta-train step; the paper gives two rates, so no
    crop: int = field(default=256, metadata={"min": 32, "max": 4096})  # px; not in the paper
    crops_per_image: int = field(default=20, metadata={"min": 1, "max": 10_000})  # per epoch; not in the paper
    turns: bool = True  # squares are flipped and turned by quarters; not in the paper
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights

    def segmentation(self, logits: Float[Tensor, "b 2 h w"], y: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
        """L_seg."""
        return dice_ce(logits, y) if self.loss == "dice_ce" else F.cross_entropy(logits, y)


def train(recipe: MapVesselRecipe, data: TrainData, run: Run) -> MapVessel:
    """Train from the labelled fundus photographs of ``data.train``. Raises ``DataError`` for a case without a mask."""
    sources = [load_source(case, recipe.network) for case in data.train]
    if recipe.method in ("map", "pooled"):
        sources = add_pseudo_modalities(sources, recipe.synthesis, recipe.crop, run)
    return fit(recipe, sources, list(data.validation), run)


def fit(recipe: MapVesselRecipe, sources: list[Source], validation: Sequence[Case], run: Run) -> MapVessel:
    """Train g (Sec. 2.3) on sources that have the pseudo-modalities which ``recipe.method`` needs."""
    run.stage("segmentation")
    model = MapVessel(recipe.network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    adam_train = torch.optim.Adam(model.network.parameters(), lr=recipe.lr_train)
    adam_test = torch.optim.Adam(model.network.parameters(), lr=recipe.lr_test)
    g, *adams = run.track(network=model.network, adam_train=adam_train, adam_test=adam_test)
    by_epochs = recipe.recipe == "released" and recipe.method == "map"
    steps = (
        released_steps(recipe, g, adams, sources, run) if by_epochs else printed_steps(recipe, g, adams, sources, run)
    )
    for epoch_ends in steps:
        if epoch_ends and epoch_ends % recipe.decay_every == 0 and validation:
            run.log(validation_dice=validation_dice(model, validation))
    return model.eval()


Adams = Sequence[torch.optim.Optimizer]  # of meta-train, of meta-test


def printed_steps(
    recipe: MapVesselRecipe, g: nn.Module, adams: Adams, sources: list[Source], run: Run
) -> Iterator[int]:
    """The paper's episodes, or an arm without them. Yields after every step, how many epochs end there, else 0."""
    batch = min(recipe.batch_size, len(sources))
    steps_per_epoch = max(1, len(sources) * recipe.crops_per_image // batch)
    adam_train, adam_test = adams
    for step in run.steps(recipe.epochs * steps_per_epoch, description=recipe.method):
        g.train()
        _decay(recipe, adams, step // steps_per_epoch)
        index = run.indices(len(sources), batch, step)
        cut = run.generator("crop", step, run.accelerator.process_index)
        x, y = crops(sources, index, recipe.crop, cut, turns=recipe.turns)
        x, y = x.to(run.device), y.to(run.device)  # x[:, k] is D^k
        rng = run.generator("mixture", step, run.accelerator.process_index)

        if recipe.method in ("baseline", "bigaug"):
            view = x[:, :1] if recipe.method == "baseline" else big_aug(x[:, :1], rng)
            loss = recipe.segmentation(g(view)[0], y)
            _update(run, adam_train, loss)
            run.log(loss=loss)
        elif recipe.method == "pooled" or not recipe.episodic:
            # As many views as an episode has: one pseudo-modality of the four, and M mixtures.
            views = torch.cat([_one_of_four(x, rng)[:, None], mixtures(x, recipe.mixtures, recipe.alpha, rng)], 1)
            logits, z = g(views.flatten(0, 1))
            l_seg = recipe.segmentation(logits, y.repeat_interleave(views.shape[1], 0))
            l_ncc = ncc_loss(z, views.shape[1], recipe.off_block) if recipe.method == "map" else l_seg.new_zeros(())
            loss = recipe.w_seg * l_seg + recipe.w_ncc * l_ncc
            _update(run, adam_train, loss)
            run.log(loss=loss, seg=l_seg, ncc=l_ncc)
        else:
            x1, s = x[:, 1:2], mixtures(x, recipe.mixtures, recipe.alpha, rng)
            if recipe.second_order:
                losses = _second_order_losses(g, x1, s, y, recipe)
                _update(run, adam_test, losses["meta_train"] + losses["meta_test"])
            else:
                logits, anchor = g(x1)  # meta-train on D^1; anchor is z^a
                meta_train = recipe.segmentation(logits, y)
                _update(run, adam_train, meta_train)
                logits, z = g(s.flatten(0, 1))  # meta-test on the mixtures
                losses = meta_test_losses(logits, z, y, anchor, recipe)
                _update(run, adam_test, losses["meta_test"])
                losses["meta_train"] = meta_train
            run.log(**losses)
        yield 0 if (step + 1) % steps_per_epoch else (step + 1) // steps_per_epoch


def released_steps(
    recipe: MapVesselRecipe, g: nn.Module, adams: Adams, sources: list[Source], run: Run
) -> Iterator[int]:
    """Epochs of the authors' code; yields as ``printed_steps``."""
    adam_train, adam_test = adams
    anchor_network = copy.deepcopy(run.unwrap(g)).eval().requires_grad_(False)
    run.keep(anchor=anchor_network)
    squares = len(sources) * recipe.crops_per_image
    first = squares // recipe.batch_train
    steps_per_epoch = first + max(1, (squares - 1) // recipe.batch_size)  # their last buffer is never used
    epoch, drawn = -1, None
    for step in run.steps(recipe.epochs * steps_per_epoch, description="map, as released"):
        g.train()
        if drawn is None or step // steps_per_epoch != epoch:
            epoch = step // steps_per_epoch
            drawn = Epoch(sources, recipe.mixtures, recipe.alpha, recipe.alpha_spread, recipe.crop,
                          recipe.crops_per_image, run.generator("epoch", epoch))  # fmt: skip
        _decay(recipe, adams, epoch)
        place = step % steps_per_epoch
        if place < first:
            index = run.indices(squares, recipe.batch_train, place, key=f"meta-train-{epoch}")
            _, x1, y = (part.to(run.device) for part in drawn.squares(index))
            meta_train = recipe.segmentation(g(x1)[0], y)
            _update(run, adam_train, meta_train)
            run.log(meta_train=meta_train)
        else:
            if place == first:
                anchor_network.load_state_dict(run.unwrap(g).state_dict())
            index = run.indices(squares, recipe.batch_size, place - first, key=f"meta-test-{epoch}")
            s, x1, y = (part.to(run.device) for part in drawn.squares(index))
            # One pass for each square: BatchNorm sees the nine views of one alone.
            seen = [g(views[:, None]) for views in s]
            logits, z = (torch.cat(part) for part in zip(*seen, strict=True))
            losses = meta_test_losses(logits, z, y, anchor_network(x1)[1], recipe)
            _update(run, adam_test, losses["meta_test"])
            run.log(**losses)
        yield 0 if (step + 1) % steps_per_epoch else epoch + 1


def _decay(recipe: MapVesselRecipe, adams: Adams, epoch: int) -> None:
    """Both rates are halved (Sec. 2.5)."""
    rates = (recipe.lr_train, recipe.decay_train_every), (recipe.lr_test, recipe.decay_every)
    for adam, (rate, every) in zip(adams, rates, strict=True):
        adam.param_groups[0]["lr"] = rate * recipe.decay ** (epoch // every)


def meta_test_losses(
    logits: Float[Tensor, "nm 2 h w"],
    z: Float[Tensor, "nm latent"],
    y: Int[Tensor, "n h w"],
    anchor: Float[Tensor, "n latent"],
    recipe: MapVesselRecipe,
) -> dict[str, Tensor]:
    """L_test = w1 L_seg + w2 L_sim + w3 L_ncc (Sec. 2.4) and its terms; views of one image are adjacent.

    The authors' code adds up the first two over the images.
    """
    m = len(z) // len(anchor)
    l_seg = recipe.segmentation(logits, y.repeat_interleave(m, 0))
    l_sim = similarity_loss(z, anchor.detach(), m)
    l_ncc = ncc_loss(z, m, recipe.off_block)
    images = len(anchor) if recipe.recipe == "released" else 1
    total = images * (recipe.w_seg * l_seg + recipe.w_sim * l_sim) + recipe.w_ncc * l_ncc
    return {"meta_test": total, "seg": l_seg, "sim": l_sim, "ncc": l_ncc, "matched": matched(z, anchor)}


@torch.no_grad()
def matched(z: Float[Tensor, "nm latent"], anchor: Float[Tensor, "n latent"]) -> Float[Tensor, ""]:
    """Share of images whose mixtures lie nearer, by cosine, to their own anchor than to any other: clusters by vessels,
    not by style (Fig. 4). Watched, not trained on."""
    nearest, _ = prototype_similarity(z.float().unflatten(0, (len(anchor), -1)), anchor.float())
    own = torch.arange(len(anchor), device=z.device)
    return (nearest.argmax(1) == own).float().mean()


def _second_order_losses(g: nn.Module, x1: Tensor, s: Tensor, y: Tensor, recipe: MapVesselRecipe) -> dict[str, Tensor]:
    """Both losses, the second through one differentiable gradient step of the first. Single process only."""
    weights = dict(g.named_parameters())
    logits, anchor = g(x1)
    meta_train = recipe.segmentation(logits, y)
    gradients = torch.autograd.grad(meta_train, list(weights.values()), create_graph=True)
    fast = {k: w - recipe.lr_train * d for (k, w), d in zip(weights.items(), gradients, strict=True)}
    logits, z = torch.func.functional_call(g, fast, (s.flatten(0, 1),))
    return {**meta_test_losses(logits, z, y, anchor, recipe), "meta_train": meta_train}


def _update(run: Run, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    run.backward(loss)
    optimizer.step()


# ---- losses ---------------------------------------------------------------------------------------------------


def similarity_loss(z: Float[Tensor, "nm latent"], anchor: Float[Tensor, "n latent"], m: int) -> Float[Tensor, ""]:
    """L_sim (Sec. 2.4): L1 distance of every mixture's latent to the anchor of its image, per entry.

    The mean, not the paper's sum, over entries, mixtures and images: with weights of 100 / 100 / 1 the three losses are
    then of one order.
    """
    return F.l1_loss(z, anchor.repeat_interleave(m, 0))


def ncc_loss(z: Float[Tensor, "nm latent"], m: int, off_block: float = 1.0) -> Float[Tensor, ""]:
    """L_ncc = ||C* - C||_F^2 (Sec. 2.4): cosines (Eq. 2) to 1 within an image's m rows, to 0 between images; summed.

    ``off_block``: weight of the pairs from two images, 2 in the authors' code.
    """
    unit = F.normalize(z.flatten(1), dim=1)
    image = torch.arange(len(z), device=z.device) // m
    same = image[:, None] == image
    squared = (same.to(unit.dtype) - unit @ unit.T).square()
    return torch.where(same, squared, off_block * squared).sum()


# ---- views ----------------------------------------------------------------------------------------------------


def mixtures(
    x: Float[Tensor, "n 4 h w"], m: int, alpha: Sequence[float], rng: np.random.Generator
) -> Float[Tensor, "n m 1 h w"]:
    """s = λ1 x^0 + λ2 x^2 + λ3 x^3 with λ ~ Dirichlet(alpha) (Sec. 2.3, Eq. 1): m draws for each image."""
    weights = torch.from_numpy(rng.dirichlet(alpha, (len(x), m))).to(x)
    return torch.einsum("nmk,nkhw->nmhw", weights, x[:, MIXED])[:, :, None]


def _one_of_four(x: Float[Tensor, "n 4 h w"], rng: np.random.Generator) -> Float[Tensor, "n 1 h w"]:
    chosen = torch.from_numpy(rng.integers(4, size=len(x))).to(x.device)
    return x[torch.arange(len(x), device=x.device), chosen][:, None]


def validation_dice(model: MapVessel, cases: Sequence[Case]) -> float:
    """Mean Dice over the cases at threshold 0.5."""
    found = [model.predict(case.image, modality="fundus").mask > 0 for case in cases]
    return float(np.mean([dice(mask, read_mask(case) > 0, empty=0.0) for mask, case in zip(found, cases, strict=True)]))


training = Training(
    recipe=MapVesselRecipe,
    presets={
        "paper": {},
        # A smaller network on small crops of few eyes, and rates that are halved less often: minutes on two CPU cores.
        "demo": {
            "network": {"channels": (8, 16, 24, 32, 16)},
            "synthesis": {
                "channels": (8, 12, 12),
                "epochs": 8,
                "lr": 3e-3,
                "attempts": 1,
                "batch_size": 6,
                "crops_per_image": 4,
            },
            "epochs": 12,
            "batch_size": 6,
            "decay_every": 4,
            "decay_train_every": 4,
            "crop": 96,
            "crops_per_image": 8,
            "dtype": "float16",
        },
    },
    readings={
        "released": {
            "network": RELEASED,
            "epochs": 50,
            "batch_size": 4,
            "lr_test": 2e-3,
            "decay_train_every": 2,
            "loss": "ce",
            "alpha": (6.0, 6.0, 6.0),
            "alpha_spread": 2.5,
            "mixtures": 5,
            "off_block": 2.0,
            "crops_per_image": 40,
            "turns": False,
        }
    },
    run=train,
)
