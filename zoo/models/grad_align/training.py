"""Differentially private training that drops, in each step, the samples whose gradient disagrees with the batch.

One step (Algorithms 1 and 2 of the paper): a Poisson sample of the images; per-sample gradients from Opacus; clipping
and one draw of noise, shared by the batch; cosine similarities to the batch's own gradient, clipped and noisy where a
guarantee is asked for; the step from those above the threshold. ``zoo.ops.cosine_filter`` does all after the gradients.
What a step costs is in ``accounting``.
"""

from __future__ import annotations

import csv
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo import media
from zoo.errors import DataError, MissingExtraError, OptionError
from zoo.models.grad_align import plugin
from zoo.models.grad_align.accounting import Accountant, Accounting, batch_cap, smallest_sigma
from zoo.models.grad_align.model import Filter, GradAlign, GradAlignConfig, Privacy, prepare
from zoo.ops import cosine_filter
from zoo.ops.cosine_filter import Filtered
from zoo.storage import write_file
from zoo.training import Training

if TYPE_CHECKING:
    from zoo.data.case import Case
    from zoo.training import Run, TrainData

USUAL_SIGMA = 0.8
LARGE = 100_000  # parameters beyond which noise hides every single gradient from the similarity


@dataclass(frozen=True)
class GradAlignRecipe:
    """The paper's training on radiographs (Sec. 4.1, Table 1), and how much privacy it shall give."""

    network: GradAlignConfig = field(default_factory=GradAlignConfig)
    filter: Filter = "cov"
    """``none``: plain DP-SGD; ``cs``: similarity over all coordinates; ``magnitude``, ``std``, ``cov``: over those
    that vary most; ``random``: keep a random share, the control."""
    accounting: Accounting | None = None
    """``nonprivate``: similarities without noise, as in Table 1, and no guarantee; ``paper``: its accounting, which is
    not proven; ``strict``: corrected sensitivities. None: ``strict`` if ``epsilon`` is given, else ``nonprivate``."""
    epsilon: float | None = field(default=None, metadata={"min": 1e-6, "max": 50.0})
    """Training stops before it would spend more."""
    delta: float = field(default=1e-5, metadata={"min": 1e-15, "max": 0.1})  # not stated for radiographs
    sigma: float | None = field(default=None, metadata={"min": 0.0})
    """Noise multiplier of the gradients; not stated. None: such that all steps fit into ``epsilon``, else 0.8."""
    tau: float = field(default=0.8, metadata={"min": 1e-6})  # of the similarities; not stated, fits epsilon 7.46
    cs_clip: float = field(default=0.05, metadata={"min": 1e-6, "max": 2.0})  # lambda; not stated
    threshold: float = field(default=0.0, metadata={"min": -1.0, "max": 1.0})  # psi, Table 1; -1 filters nothing
    quantile: float | None = field(default=None, metadata={"min": 0.0, "max": 1.0})
    """Instead of a threshold: drop this share of the batch. Without a guarantee only."""
    percentile: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})  # gamma, Table 1
    keep: float = field(default=0.4, metadata={"min": 0.0, "max": 1.0})  # share that filter=random keeps
    cs_on: Literal["noisy", "clipped"] | None = None
    """Similarity of the noisy gradient, as printed, or of the clipped one. None: ``clipped`` above 100,000 parameters
    and for ``strict``, which needs it."""
    noise: Literal["shared", "literal_independent"] = "shared"
    """One draw for the batch, or one per sample as the formula can be read. The latter gives no guarantee."""
    denominator: Literal["printed", "kept", "expected"] | None = None
    """Of the step; see ``zoo.ops.cosine_filter``. None: ``expected`` for ``strict``, else ``printed``."""
    clip_norm: float = field(default=1.0, metadata={"min": 1e-6})  # C, Sec. 4.1
    batch_size: int = field(default=64, metadata={"min": 1})  # L, expected, Sec. 4.1
    epochs: int = field(default=20, metadata={"min": 1})  # Sec. 4.1
    lr: float = field(default=1e-3, metadata={"min": 0.0})  # Sec. 4.1
    momentum: float = field(default=0.1, metadata={"min": 0.0, "max": 0.999})  # Sec. 4.1
    physical_batch: int = field(default=64, metadata={"min": 1})
    """Samples that go through the network at once; changes memory, not the result."""
    dtype: Literal["float32", "float16"] = "float32"  # of the saved weights


def train(recipe: GradAlignRecipe, data: TrainData, run: Run) -> GradAlign:
    """Train on the radiographs of ``data.train``; the weights carry their privacy statement.

    Raises ``DataError`` for a case without a label, ``OptionError`` for a guarantee that can't be given.
    """
    x, y = load(data.train, recipe.network.side)
    held_out = load(data.validation, recipe.network.side) if len(data.validation) else None
    run.stage("network")
    model = GradAlign(recipe.network)
    plan = Plan.make(recipe, len(x), sum(p.numel() for p in model.network.parameters()))
    privacy = fit(model.network, x, y, plan, run, held_out)
    trained = GradAlign(replace(recipe.network, privacy=privacy))
    trained.network.load_state_dict(model.network.state_dict())
    if run.out is not None and run.is_main:
        write_file(run.out / "training.png", chart(run.out / "metrics" / "network.csv", plan))
    return trained.eval()


@dataclass(frozen=True)
class Plan:
    """A recipe with everything decided that depends on the number of samples and parameters."""

    recipe: GradAlignRecipe
    accountant: Accountant
    count: int  # N
    batch_size: int  # L
    planned: int  # steps of all epochs
    steps: int  # as many of them as epsilon allows
    batch_cap: int | None  # B
    cs_on: Literal["noisy", "clipped"]
    denominator: Literal["printed", "kept", "expected"]

    @classmethod
    def make(cls, recipe: GradAlignRecipe, count: int, parameters: int) -> Plan:
        """Raises ``OptionError`` when the recipe contradicts itself or its epsilon can't be reached."""
        accounting: Accounting = recipe.accounting or ("nonprivate" if recipe.epsilon is None else "strict")
        _refuse(recipe, accounting)
        batch_size = recipe.batch_size
        if batch_size > count:
            if accounting != "nonprivate":
                raise OptionError(
                    f"batch_size {batch_size} is more than the {count} training cases, so its sampling rate is no "
                    f"probability; choose a batch_size of at most {count}"
                )
            batch_size = count
        rate, planned = batch_size / count, math.ceil(recipe.epochs * count / batch_size)
        tau = None if recipe.filter in ("none", "random") or accounting == "nonprivate" else recipe.tau
        sigma = recipe.sigma
        if sigma is None:
            sigma = USUAL_SIGMA
            if recipe.epsilon is not None:
                found = smallest_sigma(accounting, rate, tau, recipe.delta, recipe.epsilon, planned)
                if found is None:
                    raise OptionError(_unreachable(recipe, accounting, rate, tau, planned))
                digits = 3 - math.floor(math.log10(found))
                sigma = math.ceil(found * 10**digits) / 10**digits  # four digits, never less
        accountant = Accountant(accounting, rate, sigma, tau, recipe.delta)
        steps = planned if recipe.epsilon is None else accountant.steps_within(recipe.epsilon, planned)
        if steps == 0:
            raise OptionError(
                f"epsilon {recipe.epsilon:g} can't be reached: a single step with sigma {sigma:g} spends "
                f"{accountant.epsilon(1):.3g}; raise sigma, or leave it out to have it chosen"
            )
        strict = accounting == "strict"
        cap = None
        if strict and tau is not None:
            cap = batch_cap(count, rate, steps, recipe.delta, accountant.epsilon(steps))
        literal = recipe.noise == "literal_independent"
        return cls(
            recipe,
            accountant,
            count,
            batch_size,
            planned,
            steps,
            cap,
            recipe.cs_on or ("clipped" if strict or parameters > LARGE else "noisy"),
            recipe.denominator or ("expected" if strict and not literal else "printed"),
        )

    @property
    def private_similarity(self) -> bool:
        return self.accountant.tau is not None

    @property
    def cs_noise_std(self) -> float:
        """Standard deviation of the noise on each similarity."""
        if self.accountant.tau is None:
            return 0.0
        # one image moves up to B similarities by 2 lambda each; the paper counts one
        return self.accountant.tau * 2 * self.recipe.cs_clip * math.sqrt(self.batch_cap or 1)

    def privacy(self, steps: int) -> Privacy:
        """The statement after ``steps`` steps."""
        recipe, filtered = self.recipe, self.recipe.filter not in ("none", "random")
        return Privacy(
            accounting=self.accountant.accounting,
            epsilon=self.accountant.epsilon(steps),
            delta=self.accountant.delta,
            filter=recipe.filter,
            sigma=self.accountant.sigma,
            tau=self.accountant.tau,
            cs_clip=recipe.cs_clip if self.private_similarity else None,
            threshold=recipe.threshold if filtered and recipe.quantile is None else None,
            sample_rate=self.accountant.sample_rate,
            steps=steps,
            batch_cap=self.batch_cap,
        )


def _refuse(recipe: GradAlignRecipe, accounting: Accounting) -> None:
    if accounting == "nonprivate":
        if recipe.epsilon is not None:
            raise OptionError(
                f"epsilon {recipe.epsilon:g} asks for a guarantee that accounting=nonprivate doesn't give; "
                "choose accounting=strict, or leave epsilon out"
            )
        return
    for name, value, reason in (
        (
            "noise",
            "literal_independent",
            "independent draws average out, so the step carries less noise than accounted",
        ),
        ("filter", "random", "it is a control of the claim"),
    ):
        if getattr(recipe, name) == value:
            raise OptionError(f"{name}={value} gives no guarantee: {reason}; choose accounting=nonprivate")
    if recipe.quantile is not None and recipe.filter != "none":
        raise OptionError("a quantile of the similarities gives no guarantee; give a threshold instead")
    if recipe.sigma == 0:
        raise OptionError("sigma 0 gives no guarantee; choose a noise multiplier above 0, or accounting=nonprivate")
    if accounting == "strict" and recipe.filter != "none":
        if recipe.cs_on == "noisy":
            raise OptionError("accounting=strict needs similarities of clipped gradients; choose cs_on=clipped")
        if recipe.denominator not in (None, "expected"):
            raise OptionError(
                f"accounting=strict can't divide by a private count; choose denominator=expected, "
                f"not {recipe.denominator}"
            )


def _unreachable(recipe: GradAlignRecipe, accounting: Accounting, rate: float, tau: float | None, planned: int) -> str:
    if tau is not None:
        alone = Accountant(accounting, rate, math.inf, tau, recipe.delta).epsilon(planned)
        if alone > recipe.epsilon:  # type: ignore[operator]
            return (
                f"epsilon {recipe.epsilon:g} can't be reached: the noisy similarities alone (tau {tau:g}) spend "
                f"{alone:.3g} in {planned} steps; raise tau, train for fewer epochs, or choose filter=none"
            )
    return (
        f"epsilon {recipe.epsilon:g} can't be reached in {planned} steps at delta {recipe.delta:g}; "
        "train for fewer epochs, or with more cases"
    )


def fit(
    network: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    plan: Plan,
    run: Run,
    held_out: tuple[Tensor, Tensor] | None = None,
) -> Privacy:
    """Train any network without batch statistics, in place; returns what it spent.

    ``metrics/`` and what is printed come from the raw gradients and are not private themselves.
    Raises ``OptionError`` for layers without per-sample gradients.
    """
    recipe = plan.recipe
    refuse_layers(network)
    accelerator = run.accelerator
    if accelerator.num_processes > 1 or accelerator.gradient_accumulation_steps > 1:
        raise OptionError(
            f"{plugin.name} trains in one process without gradient accumulation; physical_batch saves memory"
        )
    if accelerator.mixed_precision != "no":
        raise OptionError(f"{plugin.name} trains in full precision; leave mixed precision out")
    sgd = torch.optim.SGD(network.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    network, sgd, tally = run.track(network=network, sgd=sgd, tally=Tally())
    steps_per_epoch = max(1, plan.count // plan.batch_size)
    _say(run, _announcement(plan))

    with per_sample_gradients(run.unwrap(network)) as gradients:
        for step in run.steps(plan.steps, description=recipe.filter):
            network.train()
            index, generator = draw_sample(plan, run, step)
            grads, loss = gradients(x[index].to(run.device), y[index].to(run.device), recipe.physical_batch, run)
            aligned = align(grads, plan, generator)
            descend(sgd, aligned.aggregate)

            tally.add(aligned)
            epsilon = plan.accountant.epsilon(step + 1)
            run.log(loss=loss, alignment=alignment(aligned, grads), kept=tally.share(aligned), epsilon=epsilon,
                    dropped=aligned.dropped.sum())  # fmt: skip
            if (step + 1) % steps_per_epoch == 0:
                if held_out is not None:
                    run.log(validation_accuracy=accuracy(network, *held_out))
                _say(run, f"step {step + 1} of {plan.steps}: loss {loss:.3f}, epsilon {epsilon:.3f}")
    if tally.dropped:
        _say(run, f"{tally.dropped} gradients weren't finite; their samples were dropped from the step", always=True)
    privacy = plan.privacy(plan.steps)
    _say(run, f"after {plan.steps} of {plan.planned} steps: {privacy.sentence()}")
    return privacy


def draw_sample(plan: Plan, run: Run, step: int) -> tuple[Int[np.ndarray, " b"], torch.Generator]:
    """Who is in the batch, each with the sampling rate by itself, at most B of them; and a generator for the noise."""
    chance = run.generator("sample", step)
    index = np.flatnonzero(chance.random(plan.count) < plan.accountant.sample_rate)
    noise = torch.Generator(run.device).manual_seed(int(run.generator("noise", step).integers(2**63)))
    return chance.permutation(index)[: plan.batch_cap], noise


def align(grads: Float[Tensor, "b f"], plan: Plan, generator: torch.Generator) -> Filtered:
    """The gradient of one step and who went into it. Raw gradients are never averaged (Algorithm 1 prints that)."""
    recipe, size = plan.recipe, float(plan.batch_size)
    noise_std = plan.accountant.sigma * recipe.clip_norm
    if recipe.noise == "shared":
        z = noise_std * torch.randn(grads.shape[1], generator=generator, device=grads.device)
        with_noise: dict[str, Any] = {"noise": z}
    else:
        with_noise = {"noise": "literal_independent", "noise_std": noise_std}
    step: dict[str, Any] = {
        "clip_norm": recipe.clip_norm,
        "expected_batch_size": size,
        "generator": generator,
        **with_noise,
    }
    if recipe.filter == "none":
        return cosine_filter(grads, threshold=-1.0, **step)
    if recipe.filter == "random":
        chosen = torch.rand(len(grads), generator=generator, device=grads.device) < recipe.keep
        part = cosine_filter(grads[chosen], quantile=0.0, denominator=plan.denominator, **step)
        return Filtered(part.aggregate, chosen, *(torch.zeros_like(chosen, dtype=grads.dtype).masked_scatter(
            chosen, values) for values in part[2:]))  # fmt: skip
    filtered = cosine_filter(
        grads,
        threshold=recipe.threshold if recipe.quantile is None else None,
        quantile=recipe.quantile,
        cs_on=plan.cs_on,
        cs_clip=recipe.cs_clip if plan.private_similarity else None,
        cs_noise_std=plan.cs_noise_std,
        dim_measure=None if recipe.filter == "cs" else recipe.filter,
        percentile=recipe.percentile,
        denominator=plan.denominator,
        **step,
    )
    if plan.accountant.accounting == "strict" and recipe.threshold > -1:
        nobody = ~(filtered.cosine > recipe.threshold).any()  # then the operator keeps everybody
        filtered = filtered._replace(
            aggregate=torch.where(nobody, with_noise["noise"] / size, filtered.aggregate),
            kept=filtered.kept & ~nobody,
        )
    return filtered


def descend(sgd: torch.optim.Optimizer, aggregate: Float[Tensor, " f"]) -> None:
    """One step of ``sgd`` along ``aggregate``, whose entries lie in the order of its parameters."""
    parameters = [p for group in sgd.param_groups for p in group["params"]]
    for p, part in zip(parameters, aggregate.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)
    sgd.step()
    sgd.zero_grad()


def alignment(aligned: Filtered, grads: Float[Tensor, "b f"]) -> Float[Tensor, ""]:
    """Cosine of the step to the batch gradient without clipping and noise (Sec. 4.2)."""
    usable = grads[~aligned.dropped] if aligned.dropped.any() else grads
    return F.cosine_similarity(aligned.aggregate, usable.sum(0), dim=0)


Gradients = Callable[[Tensor, Tensor, int, "Run | None"], tuple[Tensor, float]]


@contextmanager
def per_sample_gradients(network: nn.Module) -> Iterator[Gradients]:
    """Within it: a function ``(x, y, physical_batch, run)`` to gradients ``[b, f]`` and the mean cross-entropy.

    Columns follow ``network.parameters()``; Opacus' hooks leave when the block ends.
    """
    try:
        from opacus import GradSampleModule
    except ImportError as error:
        raise MissingExtraError(f"training {plugin.name}", "opacus", "privacy") from error
    parameters = list(network.parameters())
    hooked = GradSampleModule(network, loss_reduction="sum")
    width = sum(p.numel() for p in parameters)

    def gradients(x: Tensor, y: Tensor, physical_batch: int, run: Run | None = None) -> tuple[Tensor, float]:
        grads = torch.empty(len(x), width, device=x.device)
        losses = []
        for first in range(0, len(x), physical_batch):
            part = slice(first, first + physical_batch)
            each = F.cross_entropy(hooked(x[part]), y[part], reduction="none")
            run.backward(each.sum()) if run is not None else each.sum().backward()
            columns = grads[part].split([p.numel() for p in parameters], dim=1)
            for p, column in zip(parameters, columns, strict=True):
                column.copy_(p.grad_sample.flatten(1))  # type: ignore[attr-defined]
                p.grad_sample = p.grad = None  # type: ignore[attr-defined]
            losses.append(each.detach())
        found = torch.cat(losses) if losses else torch.zeros(0)
        return grads, float(found[found.isfinite()].mean()) if found.isfinite().any() else 0.0

    try:
        with warnings.catch_warnings():
            # the input of a network needs no gradient, which torch remarks on for the hooks of its first layer
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield gradients
    finally:
        hooked.to_standard_module()


def refuse_layers(network: nn.Module) -> None:
    """Raise ``OptionError`` naming the layers that mix samples or that Opacus has no per-sample gradients for."""
    try:
        from opacus.grad_sample import GradSampleModule
        from opacus.validators import ModuleValidator
    except ImportError as error:
        raise MissingExtraError(f"training {plugin.name}", "opacus", "privacy") from error
    bad = [
        f"{name or 'the network'} ({type(layer).__name__})"
        for name, layer in network.named_modules()
        if any(p.requires_grad for p in layer.parameters(recurse=False))
        and (
            (type(layer) in ModuleValidator.VALIDATORS and ModuleValidator.VALIDATORS[type(layer)](layer))
            or any(True for _ in layer.buffers(recurse=False))
        )
    ]
    if bad or GradSampleModule.validate(network):
        named = ", ".join(bad) or "a layer with buffers"
        raise OptionError(f"no per-sample gradients for {named}; use layers without batch statistics or buffers")


class Tally:
    """Gradients that were dropped for not being finite; survives a resume."""

    def __init__(self) -> None:
        self.dropped = 0

    def add(self, aligned: Filtered) -> None:
        self.dropped += int(aligned.dropped.sum())

    @staticmethod
    def share(aligned: Filtered) -> float:
        return float(aligned.kept.float().mean()) if len(aligned.kept) else 0.0

    def state_dict(self) -> dict[str, int]:
        return {"dropped": self.dropped}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.dropped = state["dropped"]


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    device = next(network.parameters()).device
    hits = [
        (network(part.to(device)).argmax(1).cpu() == truth)
        for part, truth in zip(x.split(128), y.split(128), strict=True)
    ]
    return float(torch.cat(hits).float().mean())


def load(cases: Sequence[Case], side: int) -> tuple[Float[Tensor, "n 1 side side"], Int[Tensor, " n"]]:
    """Images and class numbers. Raises ``DataError`` for a label that is none of the card's."""
    pairs = [(prepare(media.read(case.image).require_2d(plugin.name), side), _class(case)) for case in cases]
    return torch.from_numpy(np.stack([x for x, _ in pairs])), torch.tensor([y for _, y in pairs])


def _class(case: Case) -> int:
    text = str(case.label)
    if text in plugin.labels:
        return plugin.labels.index(text)
    if text.isdigit() and int(text) < len(plugin.labels):
        return int(text)
    raise DataError(f"case {case.id} has the label {case.label!r}; use one of {', '.join(plugin.labels)}")


def _announcement(plan: Plan) -> str:
    accountant = plan.accountant
    if accountant.accounting == "nonprivate":
        return "accounting=nonprivate: epsilon is infinite, whatever the noise; set epsilon=... for a guarantee"
    spends = f"sigma {accountant.sigma:g}, {accountant.epsilon(1):.3f} in the first step and " \
             f"{accountant.epsilon(plan.steps):.3f} in {plan.steps} of {plan.planned} steps"  # fmt: skip
    if not plan.private_similarity:
        return f"DP-SGD: {spends}"
    if accountant.accounting == "paper":
        return (
            f"accounting=paper: {spends}; its sensitivity argument is not proven: one image moves the similarities "
            "of the whole batch. accounting=strict holds"
        )
    return (
        f"accounting=strict: {spends}; the noise on the similarities is matched to batches of {plan.batch_cap}, "
        "which makes the selection nearly random: compare with filter=none"
    )


def _say(run: Run, text: str, always: bool = False) -> None:
    if run.progress or (always and run.is_main):
        print(text, file=sys.stderr)


def chart(table: Path, plan: Plan) -> bytes:
    """A PNG of a training: alignment and share kept per epoch, and epsilon."""
    from zoo.figure import plots

    with open(table, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("alignment")]
    columns = {name: np.array([float(row[name]) for row in rows]) for name in ("step", "alignment", "kept", "epsilon")}
    length = max(1, plan.count // plan.batch_size)
    epoch = (columns["step"] // length).astype(int)
    epochs = np.unique(epoch)
    means = {name: [columns[name][epoch == e].mean() for e in epochs] for name in ("alignment", "kept")}
    drawing, axes = plots.canvas(
        "the chart of a training", 1, 3, size=(11, 3.4),
        title=f"{plugin.name}: filter {plan.recipe.filter}, accounting {plan.accountant.accounting}",
    )  # fmt: skip
    blue, orange, green = plots.INKS[0], plots.INKS[3], plots.INKS[2]
    look: dict[str, Any] = {"x": "epoch", "xlim": (0, epochs[-1] + 1.5)}
    title = "alignment: cosine of the step\nto the batch gradient without noise"
    line = plots.Line("", epochs + 1, means["alignment"], blue, marker="o")
    plots.lines(axes[0, 0], [line], level=0, title=title, **look)
    line = plots.Line("", epochs + 1, means["kept"], orange, marker="s")
    plots.lines(axes[0, 1], [line], title="share of the samples kept", ylim=(0, 1.02), **look)
    title = f"epsilon spent (delta {plan.accountant.delta:g})"
    if np.isfinite(columns["epsilon"]).all():
        limit, most = plan.recipe.epsilon, max(columns["epsilon"].max(), plan.recipe.epsilon or 0)
        line = plots.Line("", (columns["step"] + 1) / length, columns["epsilon"], green)
        plots.lines(axes[0, 2], [line], level=limit, target="target", title=title, ylim=(0, 1.15 * most), **look)
    else:
        plots.message(axes[0, 2], "infinite:\nno guarantee", title=title)
    return plots.png(drawing, dpi=130)


SMALL = GradAlignConfig(channels=(8, 8, 16), groups=4, side=32)

training = Training(
    recipe=GradAlignRecipe,
    presets={
        "paper": {},
        # Seconds, without noise and without a guarantee: it works on a handful of images.
        "demo": {"network": SMALL, "sigma": 0.0, "epochs": 10, "lr": 0.2, "dtype": "float16"},
        # What the weights in the package were trained with: plain DP-SGD, for under a guarantee the filter costs more
        # than it brings (see the claim).
        "private": {
            "network": replace(SMALL, side=24),
            "filter": "none",
            "epsilon": 8.0,
            "batch_size": 128,
            "epochs": 8,
            "lr": 0.5,
            "dtype": "float16",
        },
    },
    run=train,
)
