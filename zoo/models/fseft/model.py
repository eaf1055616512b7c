"""A frozen foundation model, the adapters of single organs on it, and adaptation to a support set on the spot."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo import config as configs
from zoo import media
from zoo.data.features import weights_key
from zoo.data.scans import Scan, View, cut_off, read_case, read_scan
from zoo.data.support import organ_of, read_support, same_name, structures
from zoo.data.volumes import largest_component, resample, volumes_ml
from zoo.errors import OptionError
from zoo.model import Model
from zoo.models.fseft import plugin
from zoo.models.fseft.adaptation import (
    LEAST_GAMMA,
    RELEASED,
    Adaptation,
    Fit,
    Method,
    Prior,
    Query,
    prior_of,
    probabilities,
)
from zoo.models.fseft.network import Adapted, Backbone, Block, Head
from zoo.models.fseft.result import OrganSegmentation, notes_on
from zoo.nn.volumetric import SwinBackbone, UnetBackbone, require_patch
from zoo.progress import Bar
from zoo.text import listed

LARGEST_ADAPTER = 2**22  # bytes of a file that is read


@dataclass(frozen=True)
class Stored:
    """Facts about a trained head."""

    organ: str
    method: Method
    block: Block
    shots: int = field(metadata={"min": 1, "max": 100_000})
    prior_ml: float = field(metadata={"min": 0.0, "max": 1e6})  # mean size in its support
    gamma: float = field(metadata={"min": 0.0, "max": 10.0})
    foundation: str = ""  # key of the backbone's weights; empty for one that is stored with them
    view: View = field(default_factory=View)


@dataclass(frozen=True)
class FseftConfig:
    """The backbone, what its own head knows, and which adapters come with it; a small U-Net by default."""

    backbone: Backbone = "unet"
    features: int = field(default=48, metadata={"min": 12, "max": 192})  # of SwinUNETR
    channels: tuple[int, ...] = field(default=(8, 16, 32), metadata={"min": 1, "max": 512})  # of the U-Net
    flat: bool = False  # every plane by itself
    patch: tuple[int, int, int] = field(default=(32, 32, 32), metadata={"min": 1, "max": 512})
    view: View = field(default_factory=lambda: View((6.0, 6.0, 6.0)))
    classes: tuple[str, ...] = ("liver",)
    adapters: tuple[Stored, ...] = ()
    adaptation: Adaptation = field(default_factory=Adaptation)


class Known(NamedTuple):
    """What an organ is segmented by, and what is known of its size."""

    network: Adapted
    organ: str
    method: Method
    prior_ml: tuple[float, float, float] | None
    trace: Sequence[dict[str, float]] = ()
    file: bytes | None = None


class Fseft(Model[OrganSegmentation]):
    """``classifier`` is the foundation's own head, one channel a class; ``adapters`` are one organ each."""

    plugin: ClassVar = plugin
    config_class: ClassVar[type] = FseftConfig

    def __init__(self, config: FseftConfig | None = None) -> None:
        super().__init__(config)
        config = self.config
        if config.backbone == "unet" and len(config.channels) < 2:
            raise OptionError("the U-Net needs at least two numbers of channels, such as 12,24,48")
        self.backbone: nn.Module = (
            SwinBackbone(config.features)
            if config.backbone == "swinunetr"
            else UnetBackbone(config.channels, config.flat)
        )
        require_patch(config.patch, self.backbone, config.flat)
        swin = config.backbone == "swinunetr"
        self.widths = (config.features, config.features) if swin else (config.channels[0], config.channels[1])
        self.classifier = nn.Conv3d(self.widths[0], len(config.classes), 1) if config.classes else None
        self.adapters = nn.ModuleList(self._head(one.block) for one in config.adapters)

    def _head(self, block: Block, bias: float | None = None) -> Head:
        return Head(block, self.widths, self.config.flat, bias)

    def forward(self, x: Float[Tensor, "b 1 x y z"]) -> Float[Tensor, "b k x y z"]:
        """Logits of the foundation's classes, each by itself."""
        assert self.classifier is not None
        return self.classifier(self.backbone(x))

    @property
    def organs(self) -> list[str]:
        """What can be asked for without a support: organs with an adapter first."""
        return list(dict.fromkeys([*(one.organ for one in self.config.adapters), *self.config.classes]))

    # ---- what an organ is segmented by -----------------------------------------------------------------------------

    def foundation(self, organ: str) -> Known:
        """The channel of the foundation's head (Generalization)."""
        for place, name in enumerate(self.config.classes):
            if same_name(name, organ):
                assert self.classifier is not None
                head = self._head("none").to(self.device)
                with torch.no_grad():
                    head.logit.weight.copy_(self.classifier.weight[place : place + 1])
                    head.logit.bias.copy_(self.classifier.bias[place : place + 1])  # type: ignore[union-attr, index]
                return Known(Adapted(self.backbone, head).eval(), name, "generalization", None)
        raise OptionError(self._unknown(organ))

    def _unknown(self, organ: str) -> str:
        known = f"they know {listed(self.organs, 'and')}" if self.organs else "they know no organ"
        return f"these weights have nothing for {organ!r}: {known}; add --with support=FOLDER to adapt them to it"

    def stored(self, organ: str, method: Method | None) -> Known | None:
        """The adapter that came with the weights, if there is one (of that method)."""
        for head, facts in zip(self.adapters, self.config.adapters, strict=True):
            if same_name(facts.organ, organ) and method in (None, facts.method):
                assert isinstance(head, Head)
                return self._of(head, facts)
        return None

    def _of(self, head: Head, facts: Stored) -> Known:
        band = (1 - facts.gamma) * facts.prior_ml, facts.prior_ml, (1 + facts.gamma) * facts.prior_ml
        return Known(Adapted(self.backbone, head).eval(), facts.organ, facts.method, band)

    def read_adapter(self, path: str | Path) -> Known:
        """A head that an earlier prediction saved. Raises ``OptionError`` for another file or foundation."""
        from safetensors import SafetensorError, safe_open

        where = Path(path)
        try:
            if where.stat().st_size > LARGEST_ADAPTER:
                raise ValueError("it is too large")
            with safe_open(where, framework="pt") as file:
                facts = configs.from_dict(Stored, json.loads((file.metadata() or {}).get("fseft", "null")))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            head = self._head(facts.block)
            if facts.foundation != weights_key(self.backbone) or facts.view != self.config.view:
                raise OptionError("it was trained on another foundation; load the weights that it is of")
            head.load_state_dict(tensors)
        except OptionError as error:
            raise OptionError(f"{path} is no adapter for these weights: {error}") from error
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise OptionError(
                f"{path} is no adapter that fseft saved ({reason}); give NAME_adapter.safetensors"
            ) from error
        return self._of(head.to(self.device).eval(), facts)

    # ---- adaptation ------------------------------------------------------------------------------------------------

    def new(self, method: Method, how: Adaptation, seed: int) -> Adapted:
        """A network to train by a method; the head is drawn by ``seed``, and only FT has a backbone of its own."""
        blocks: dict[str, Block] = {"linear-probe": "none", "ft": "none", "ft-last": "last"}
        bias = None if method in ("ft", "ft-last") else how.bias  # at their rates a head would never leave it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            head = self._head(blocks.get(method, how.block), bias)
        backbone = self.backbone
        if method == "ft-last":
            assert head.block is not None
            head.block.load_state_dict(backbone.decoder1.state_dict())  # type: ignore[union-attr]
        if method == "ft":
            backbone = copy.deepcopy(backbone)
        return Adapted(backbone, head, whole=method == "ft").to(self.device)

    def adapt(
        self, supports: Sequence[Scan], queries: Sequence[Scan], organ: str, method: Method, how: Adaptation, seed: int,
        prior_ml: float | None = None, *, traced: bool = True,
    ) -> list[Known]:  # fmt: skip
        """Train a head of ``method`` on ``supports`` for each query; all queries share what doesn't depend on them.

        ``traced``: measure the query's size after each epoch, too.
        """
        fit = Fit(self.new(method, how, seed), supports, organ, method, how, self.config.patch)
        fit.prior = prior_of(supports, organ, how, prior_ml)
        wanted = method == "adapter-ti" or (traced and method != "ft")
        seen = [Query(fit.network, scan, self.config.patch, how) if wanted else None for scan in queries]
        early = next((step for step in range(fit.steps) if fit.constrained(step)), fit.steps)
        traces: list[list[dict[str, float]]] = [[] for _ in queries]
        found = []
        with Bar(f"adapting to {organ}", early + (fit.steps - early) * len(queries)) as bar:
            for step in range(early):
                noted = fit.step(step, *_drawn(fit, step, seed))
                bar.update(step + 1)
                for query, trace in zip(seen, traces, strict=True):
                    _note(trace, fit, step, noted, query if traced else None)
            begun = fit.state() if early < fit.steps else None
            for place, (query, trace) in enumerate(zip(seen, traces, strict=True)):
                if begun is not None:
                    fit.restore(begun)
                for step in range(early, fit.steps):
                    noted = fit.step(step, *_drawn(fit, step, seed), query)
                    bar.update(early + place * (fit.steps - early) + step - early + 1)
                    _note(trace, fit, step, noted, query if traced else None)
                if begun is not None or place == 0:
                    fit.calibrate(np.random.default_rng([seed, 3]))
                network = Adapted(fit.network.backbone, copy.deepcopy(fit.network.head), fit.network.whole).eval()
                found.append(self._trained(network, organ, method, fit.prior, len(supports), trace))
        return found

    def _trained(
        self, network: Adapted, organ: str, method: Method, prior: Prior, shots: int, trace: Sequence[dict[str, float]]
    ) -> Known:
        from safetensors.torch import save

        if method == "ft":  # the whole backbone is another one: no small file says it
            return Known(network, organ, method, prior.ml, trace)
        facts = Stored(organ, method, network.head.kind, shots, prior.ml[1], prior.gamma, weights_key(self.backbone),
                       self.config.view)  # fmt: skip
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.head.state_dict().items()}
        return Known(network, organ, method, prior.ml, trace, save(tensors, {"fseft": json.dumps(asdict(facts))}))

    # ---- predict ---------------------------------------------------------------------------------------------------

    def _predict(
        self, images: Sequence[media.Image], *, organ: str | None, support: Any, method: Method | None,
        adapter: str | Path | None, recipe: str | None, gamma: float | None, lam: float | None, epochs: int | None,
        seed: int, prior_size_ml: float | None,
    ) -> list[OrganSegmentation]:  # fmt: skip
        """One organ in each volume; a support set is adapted to first."""
        how = self._how(recipe, gamma, lam, epochs)
        unused = [name for name, value in (("epochs", epochs), ("lam", lam)) if value is not None]
        # gradients are needed, and what is made in inference mode has none
        with torch.inference_mode(False), torch.no_grad():
            scans = [read_scan(image, self.config.view, plugin.name) for image in images]
            if support is not None and method != "generalization":
                if adapter is not None:
                    raise OptionError("support and adapter were given; a support trains an adapter, so leave one out")
                supports, name = self._supports(support, organ)
                with torch.enable_grad():
                    known = self.adapt(supports, scans, name, method or "adapter-ti", how, seed, prior_size_ml)
            else:
                known = [self._known(organ, method, adapter)] * len(images)
            return [
                self._organ(image, scan, one, how, prior_size_ml, gamma, unused)
                for image, scan, one in zip(images, scans, known, strict=True)
            ]

    def _how(self, recipe: str | None, gamma: float | None, lam: float | None, epochs: int | None) -> Adaptation:
        how = self.config.adaptation
        if recipe is not None:
            how = Adaptation(**RELEASED) if recipe == "released" else Adaptation()
            how = replace(how, epochs=self.config.adaptation.epochs, patches=self.config.adaptation.patches)
        given = {"gamma": gamma, "lam": lam, "epochs": epochs}
        return replace(how, **{name: value for name, value in given.items() if value is not None})

    def _known(self, organ: str | None, method: Method | None, adapter: str | Path | None) -> Known:
        if adapter is not None:
            known = self.read_adapter(adapter)
            if organ is not None and not same_name(organ, known.organ):
                raise OptionError(f"the adapter {adapter} is of {known.organ}, not of {organ}; leave organ out")
            return known
        if organ is None:
            if not self.organs:
                raise OptionError("these weights know no organ; add --with support=FOLDER to adapt them to one")
            organ = self.organs[0]
        if method == "generalization":
            return self.foundation(organ)
        stored = self.stored(organ, method)
        if stored is None and method is not None:
            raise OptionError(
                f"these weights have no {method} of {organ}, and it is learned from examples; add --with support=FOLDER"
            )
        return stored or self.foundation(organ)

    def _supports(self, given: Any, organ: str | None) -> tuple[list[Scan], str]:
        cases = read_support(given, plugin.name)
        if organ is None:
            found = structures(cases[0])
            alone = next(iter(found)) if len(found) == 1 else None
            named = next((name for name in self.organs if any(same_name(name, one) for one in found)), alone)
            if named is None:
                raise OptionError(
                    f"the support shows {listed(list(found), 'and')}; add --with organ=NAME for one of them"
                )
            organ = "organ" if named == "mask" else named
        scans = [read_case(case, self.config.view, {organ: organ_of(case, organ)}, plugin.name) for case in cases]
        if empty := [case.id for case, scan in zip(cases, scans, strict=True) if not scan.size(organ)]:
            raise OptionError(f"the mask of {empty[0]} in the support has no {organ} in it; leave the case out")
        return scans, organ

    def _organ(
        self, image: media.Image, scan: Scan, known: Known, how: Adaptation, prior_size_ml: float | None,
        gamma: float | None, unused: list[str],
    ) -> OrganSegmentation:  # fmt: skip
        found = probabilities(known.network, scan, self.config.patch, how.overlap, progress=True)
        probability = resample(found.float().numpy().T, scan.grid, scan.native)
        mask = largest_component(probability > how.threshold)
        volume = volumes_ml(mask, scan.native, {1: known.organ})[known.organ]
        band, mean = known.prior_ml, prior_size_ml or (known.prior_ml[1] if known.prior_ml else None)
        if mean is not None and (prior_size_ml is not None or gamma is not None):
            half = gamma if gamma is not None else how.gamma or LEAST_GAMMA
            band = (1 - half) * mean, mean, (1 + half) * mean
        whole = resample(mask, scan.native, scan.grid, mode="nearest")
        notes = notes_on(image, known.organ, known.method, known.trace, mask, cut_off(torch.from_numpy(whole.T.copy())))
        if unused and not known.trace:
            notes = (*notes, f"nothing was trained without a support, so {listed(unused, 'and')} had no effect")
        return OrganSegmentation(
            image=image, mask=mask.astype(np.uint8), labels=("background", known.organ), probability=probability,
            organ=known.organ, volume_ml=volume, prior_ml=band, trace=known.trace, adapter=known.file, notes=notes,
            options={"organ": known.organ, "method": known.method}, measurements={"volume_ml": round(volume, 4)},
        )  # fmt: skip


def _drawn(fit: Fit, step: int, seed: int) -> tuple[list[int], np.random.Generator]:
    """Which support volumes a step takes, in a fresh order each epoch, and its random numbers."""
    order = np.random.default_rng([seed, 1, step // fit.per_epoch]).permutation(len(fit.supports))
    first = step % fit.per_epoch * fit.batch
    return [int(i) for i in order[first : first + fit.batch]], np.random.default_rng([seed, 2, step])


def _note(trace: list[dict[str, float]], fit: Fit, step: int, noted: dict[str, float], query: Query | None) -> None:
    """An epoch's line of the trace, with the query's size where one is given."""
    if step % fit.per_epoch == fit.per_epoch - 1:
        size = {} if query is None else {"size_ml": query.size(fit.network) * fit.prior.voxel_ml}
        trace.append({**noted, **size, "constrained": float(fit.constrained(step) and fit.opened)})
