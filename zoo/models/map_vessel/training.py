"""How MAP trains its segmenter: three synthesis networks, Dirichlet mixtures, meta-train and meta-test episodes.

Pseudo-modalities of one colour photograph share its vessels and differ in style: D^0 is the CLAHE of the inverted
green channel, D^1..D^3 are latent images of networks that were trained alike from different seeds. D^1 is the
meta-train set; convex mixtures of D^0, D^2 and D^3 are the meta-test set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from zoo.data.augment import big_aug, random_square
from zoo.data.case import Case
from zoo.data.images import resize
from zoo.data.sets import read_mask
from zoo.errors import DataError
from zoo.metrics import dice
from zoo.models.map_vessel.model import MapVessel, MapVesselConfig, ResidualUNet, prepare
from zoo.nn.losses import dice_ce
from zoo.ops import prototype_similarity
from zoo.training import Run, TrainData, Training

MIXED = (0, 2, 3)  # the corners of the mixture space, Sec. 2.3; D^1 never enters it

Method = Literal["map", "pooled", "baseline", "bigaug"]


@dataclass(frozen=True)
class SynthesisRecipe:
    """Training of the networks f^1, f^2, f^3. The paper takes ready-made ones (Sec. 2.2) and states none of these."""

    channels: tuple[int, ...] = field(default=(8, 32, 32, 64, 64, 16), metadata={"min": 1, "max": 4096})  # as in g
    epochs: int = field(default=50, metadata={"min": 1, "max": 1_000_000})
    lr: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})
    max_correlation: float = field(default=0.9, metadata={"min": 0.0, "max": 1.0})
    """Two latent images that correlate more than this, in absolute value, count as one style."""
    attempts: int = field(default=3, metadata={"min": 1, "max": 1000})
    """Networks trained for one pseudo-modality before the least similar of them is taken."""


@dataclass(frozen=True)
class MapVesselRecipe:
    """The paper's training, and the arms it is compared with."""

    method: Method = "map"
    """``baseline``: D^0 alone; ``bigaug``: D^0 with random gamma, contrast, blur and noise; ``pooled``: all
    pseudo-modalities and mixtures, no episodes, no feature losses."""
    network: MapVesselConfig = field(default_factory=MapVesselConfig)
    synthesis: SynthesisRecipe = field(default_factory=SynthesisRecipe)
    epochs: int = field(default=30, metadata={"min": 1, "max": 1_000_000})  # Sec. 2.5
    batch_size: int = field(default=10, metadata={"min": 1, "max": 65_536})  # Sec. 2.5
    lr_train: float = field(default=1e-3, metadata={"min": 0.0, "max": 100.0})  # Sec. 2.5
    lr_test: float = field(default=5e-3, metadata={"min": 0.0, "max": 100.0})  # Sec. 2.5
    decay: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})  # Sec. 2.5, of both rates
    decay_every: int = field(default=3, metadata={"min": 1, "max": 1_000_000})  # epochs, Sec. 2.5
    alpha: tuple[float, float, float] = field(default=(1.0, 1.0, 1.0), metadata={"min": 1e-6, "max": 1e6})  # Sec. 2.3
    mixtures: int = field(default=3, metadata={"min": 1, "max": 100})  # M; the indices of Eq. 2 fit three
    w_seg: float = field(default=100.0, metadata={"min": 0.0, "max": 1e6})  # Sec. 2.4
    w_sim: float = field(default=100.0, metadata={"min": 0.0, "max": 1e6})  # Sec. 2.4
    w_ncc: float = field(default=1.0, metadata={"min": 0.0, "max": 1e6})  # Sec. 2.4
    episodic: bool = True  # False: one update on pseudo-modalities and mixtures together, without L_sim (Table 2)
    second_order: bool = False  # differentiate through the meta-train step; the paper gives two rates, so no
    crop: int = field(default=256, metadata={"min": 32, "max": 4096})  # px; not in the paper
    crops_per_image: int = field(default=20, metadata={"min": 1, "max": 10_000})  # per epoch; not in the paper
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def train(recipe: MapVesselRecipe, data: TrainData, run: Run) -> MapVessel:
    """Train from the labelled fundus photographs of ``data.train``. Raises ``DataError`` for a case without a mask."""
    sources = [load_source(case, recipe.network) for case in data.train]
    if recipe.method in ("map", "pooled"):
        sources = add_pseudo_modalities(sources, recipe, run)
    return fit(recipe, sources, list(data.validation), run)


def fit(recipe: MapVesselRecipe, sources: list[Source], validation: Sequence[Case], run: Run) -> MapVessel:
    """Train g (Sec. 2.3) on sources that have the pseudo-modalities which ``recipe.method`` needs."""
    batch = min(recipe.batch_size, len(sources))
    run.stage("segmentation")
    model = MapVessel(recipe.network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    adam_train = torch.optim.Adam(model.network.parameters(), lr=recipe.lr_train)
    adam_test = torch.optim.Adam(model.network.parameters(), lr=recipe.lr_test)
    g, adam_train, adam_test = run.track(network=model.network, adam_train=adam_train, adam_test=adam_test)
    steps_per_epoch = max(1, len(sources) * recipe.crops_per_image // batch)

    for step in run.steps(recipe.epochs * steps_per_epoch, description=recipe.method):
        g.train()
        epoch = step // steps_per_epoch
        decay = recipe.decay ** (epoch // recipe.decay_every)
        adam_train.param_groups[0]["lr"] = recipe.lr_train * decay
        adam_test.param_groups[0]["lr"] = recipe.lr_test * decay
        index = run.indices(len(sources), batch, step)
        x, y = crops(sources, index, recipe.crop, run.generator("crop", step, run.accelerator.process_index))
        x, y = x.to(run.device), y.to(run.device)  # x[:, k] is D^k
        rng = run.generator("mixture", step, run.accelerator.process_index)

        if recipe.method in ("baseline", "bigaug"):
            view = x[:, :1] if recipe.method == "baseline" else big_aug(x[:, :1], rng)
            loss = dice_ce(g(view)[0], y)
            _update(run, adam_train, loss)
            run.log(loss=loss)
        elif recipe.method == "pooled" or not recipe.episodic:
            # As many views as an episode has: one pseudo-modality of the four, and M mixtures.
            views = torch.cat([_one_of_four(x, rng)[:, None], mixtures(x, recipe.mixtures, recipe.alpha, rng)], 1)
            logits, z = g(views.flatten(0, 1))
            l_seg = dice_ce(logits, y.repeat_interleave(views.shape[1], 0))
            l_ncc = ncc_loss(z, views.shape[1]) if recipe.method == "map" else l_seg.new_zeros(())
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
                meta_train = dice_ce(logits, y)
                _update(run, adam_train, meta_train)
                logits, z = g(s.flatten(0, 1))  # meta-test on the mixtures
                losses = meta_test_losses(logits, z, y, anchor, recipe)
                _update(run, adam_test, losses["meta_test"])
                losses["meta_train"] = meta_train
            run.log(**losses)

        if (step + 1) % (steps_per_epoch * recipe.decay_every) == 0 and validation:
            run.log(validation_dice=validation_dice(model, validation))
    return model.eval()


def meta_test_losses(
    logits: Float[Tensor, "nm 2 h w"],
    z: Float[Tensor, "nm latent"],
    y: Int[Tensor, "n h w"],
    anchor: Float[Tensor, "n latent"],
    recipe: MapVesselRecipe,
) -> dict[str, Tensor]:
    """L_test = w1 L_seg + w2 L_sim + w3 L_ncc (Sec. 2.4) and its terms; mixtures of one image are adjacent."""
    m = recipe.mixtures
    l_seg = dice_ce(logits, y.repeat_interleave(m, 0))
    l_sim = similarity_loss(z, anchor.detach(), m)
    l_ncc = ncc_loss(z, m)
    total = recipe.w_seg * l_seg + recipe.w_sim * l_sim + recipe.w_ncc * l_ncc
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
    meta_train = dice_ce(logits, y)
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


def ncc_loss(z: Float[Tensor, "nm latent"], m: int) -> Float[Tensor, ""]:
    """L_ncc = ||C* - C||_F^2 (Sec. 2.4): cosines (Eq. 2) to 1 within an image's m rows, to 0 between images; summed."""
    unit = F.normalize(z.flatten(1), dim=1)
    image = torch.arange(len(z), device=z.device) // m
    target = (image[:, None] == image).to(unit.dtype)
    return (target - unit @ unit.T).square().sum()


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


@dataclass(frozen=True)
class Source:
    """A labelled photograph of the source domain S at working size, ready to be cropped."""

    grey: Float[np.ndarray, "c h w"]  # D^0, and D^1..D^3 once they exist, in [0, 1]
    rgb: Float[np.ndarray, "3 h w"]  # x, in [0, 1]; what f sees
    mask: UInt8[np.ndarray, "h w"]  # y, 1 in vessels


def crops(
    sources: Sequence[Source], index: np.ndarray, size: int, rng: np.random.Generator, *, colour: bool = False
) -> tuple[Float[Tensor, "n c s s"], Int[Tensor, "n s s"]]:
    """Random squares, flipped and turned by quarters; all channels of an image and its mask alike.

    ``colour`` takes the photograph instead of its grey pseudo-modalities. Smaller images are padded with 0.
    """
    xs, ys = [], []
    for i in index:
        source = sources[i]
        planes = np.concatenate([source.rgb if colour else source.grey, source.mask[None]])
        window = random_square(planes, size, rng)
        xs.append(window[:-1].astype(np.float32))
        ys.append(window[-1].astype(np.int64))
    return torch.from_numpy(np.stack(xs)), torch.from_numpy(np.stack(ys))


def load_source(case: Case, config: MapVesselConfig) -> Source:
    """D^0, colours and vessel mask of a photograph at working size."""
    if "mask" not in case.masks:
        raise DataError(f"case {case.id} has no vessel mask; map-vessel trains on photographs with masks only")
    prepared = prepare(case.image, config, "fundus")
    mask = read_mask(case) > 0
    if mask.shape != prepared.image.size:
        raise DataError(f"image and mask of case {case.id} differ in size: {prepared.image.size} and {mask.shape}")
    small = resize(mask.astype(np.float32), prepared.grey.shape) > 0.5
    return Source(prepared.grey[None], np.moveaxis(prepared.rgb, -1, 0), small.astype(np.uint8))


# ---- pseudo-modalities (Sec. 2.2) -------------------------------------------------------------------------------


class SynthesisNetwork(nn.Module):
    """f = (f_e, f_d), each a residual U-Net: photograph to latent image of its own size, and from that to vessels."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.encoder = ResidualUNet(3, 1, channels)  # f_e
        self.decoder = ResidualUNet(1, 2, channels)  # f_d

    def latent_image(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
        """x^k, in [0, 1]. Nothing supervises its looks: they differ from seed to seed."""
        return self.encoder(rgb)[0].sigmoid()

    def forward(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2 h w"]:
        return self.decoder(self.latent_image(rgb))[0]


def add_pseudo_modalities(sources: list[Source], recipe: MapVesselRecipe, run: Run) -> list[Source]:
    """Train f^1..f^3 on the sources, freeze them, and put D^1..D^3 beside D^0."""
    sample = sources[:: max(1, len(sources) // 8)]  # enough to tell two styles apart
    accepted: list[SynthesisNetwork] = []
    for k in (1, 2, 3):
        tries: list[tuple[float, SynthesisNetwork]] = []
        for attempt in range(1, recipe.synthesis.attempts + 1):
            f = _train_synthesis(f"synthesis-{k}.{attempt}", sources, recipe, run)
            tries.append((max((_likeness(f, other, sample) for other in accepted), default=0.0), f))
            if tries[-1][0] <= recipe.synthesis.max_correlation:
                break
        accepted.append(min(tries, key=lambda item: item[0])[1])
    return [
        Source(np.stack([source.grey[0], *(synthesise(f, source.rgb) for f in accepted)]), source.rgb, source.mask)
        for source in sources
    ]


def _train_synthesis(stage: str, sources: list[Source], recipe: MapVesselRecipe, run: Run) -> SynthesisNetwork:
    run.stage(stage)
    f = SynthesisNetwork(recipe.synthesis.channels).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    f, adam = run.track(f=f, adam=torch.optim.Adam(f.parameters(), lr=recipe.synthesis.lr))
    batch = min(recipe.batch_size, len(sources))
    steps = recipe.synthesis.epochs * max(1, len(sources) * recipe.crops_per_image // batch)
    for step in run.steps(steps, description=stage):
        index = run.indices(len(sources), batch, step, key=stage)
        rng = run.generator(stage, step, run.accelerator.process_index)
        x, y = crops(sources, index, recipe.crop, rng, colour=True)
        loss = dice_ce(f(x.to(run.device)), y.to(run.device))
        _update(run, adam, loss)
        run.log(loss=loss)
    return run.unwrap(f).eval().requires_grad_(False)


@torch.inference_mode()
def synthesise(f: SynthesisNetwork, rgb: Float[np.ndarray, "3 h w"]) -> Float[np.ndarray, "h w"]:
    """The latent image of one photograph, min-max to [0, 1]; its polarity is left as it comes."""
    h, w = rgb.shape[1:]
    stride = f.encoder.stride
    x = torch.from_numpy(np.ascontiguousarray(rgb))[None].to(next(f.parameters()).device)
    x = F.pad(x, (0, -w % stride, 0, -h % stride))
    latent = f.latent_image(x)[0, 0, :h, :w]
    low, high = latent.min(), latent.max()
    return ((latent - low) / (high - low).clamp_min(1e-6)).cpu().numpy()


def _likeness(f: SynthesisNetwork, other: SynthesisNetwork, sources: Sequence[Source]) -> float:
    """Mean absolute correlation of two networks' latent images; a style and its negative count as alike."""
    pairs = ((synthesise(f, source.rgb).ravel(), synthesise(other, source.rgb).ravel()) for source in sources)
    return float(np.mean([abs(np.corrcoef(a, b)[0, 1]) for a, b in pairs]))


def validation_dice(model: MapVessel, cases: Sequence[Case]) -> float:
    """Mean Dice over the cases at threshold 0.5."""
    found = [model.predict(case.image, modality="fundus").mask > 0 for case in cases]
    return float(np.mean([dice(mask, read_mask(case) > 0, empty=0.0) for mask, case in zip(found, cases, strict=True)]))


training = Training(
    recipe=MapVesselRecipe,
    presets={
        "paper": {},
        # Small crops, few eyes, and rates that are halved half as often: minutes on two CPU cores.
        "demo": {
            "synthesis": SynthesisRecipe(channels=(8, 16, 32, 32), epochs=12, lr=3e-3, attempts=2),
            "batch_size": 6,
            "decay_every": 5,
            "crop": 96,
            "crops_per_image": 8,
            "dtype": "float16",
        },
    },
    run=train,
)
