"""The base class of all networks in the zoo."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import TypeVar

from zoo import domain, inputs, loading, media, weights
from zoo.data import patients
from zoo.data.seen import Seen
from zoo.errors import PluginError
from zoo.media.appearance import bands, colours, fine_bands, statistics, textures
from zoo.media.doubts import require_content
from zoo.media.reading import listening
from zoo.plugin import Plugin
from zoo.prediction import Prediction, Provenance

P = TypeVar("P", bound=Prediction, default=Prediction)
_PROMPTS = ("box", "point", "click")
MEASURED = 16  # images whose features are made at a time


class Model(nn.Module, Generic[P]):
    """A network with a typed configuration that predicts on what a user has.

    A subclass sets ``plugin`` and ``config_class`` (a frozen dataclass), builds its layers in ``__init__``, and
    implements ``_predict``. ``Model[Segmentation]`` says what it gives.
    """

    plugin: ClassVar[Plugin]
    config_class: ClassVar[type]

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config = self.config_class() if config is None else config
        self.provenance = Provenance(model=self.plugin.name)
        # What its weights state beside themselves: the cases they saw, the kind of images that these are, and by what
        # logits are divided.
        self.seen: Seen | None = None
        self.domain: domain.Domain | None = None
        self.temperature: float | None = None
        self.verdict: domain.Verdict | None = None  # of the case predicted last

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        for name in ("predict", "predict_batch"):
            if name in vars(cls):
                raise PluginError(f"{cls.__name__} has a {name} of its own; write _predict, which {name} calls")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def __repr__(self) -> str:
        """One line; the layers are what ``named_children`` gives."""
        count = sum(parameter.numel() for parameter in self.parameters())
        where = next((str(parameter.device) for parameter in self.parameters()), "no device")
        facts = f"weights {self.provenance.weights}, {count:,} parameters, {where}"
        return f"{type(self).__name__}({self.plugin.name}, {facts})"

    # ---- what a user calls --------------------------------------------------------------------------------------

    @final
    def predict(self, input: Any, /, **given: Any) -> P:
        """Predict on one input: a path, ``sample:NAME``, ``phantom:NAME``, array, tensor, PIL or ``zoo.media.Image``.

        ``given``: the options that the plugin's card declares, as ``zoo info`` lists them; one that is left out or
        ``None`` has the card's default. Of a model with several named inputs all may come as one mapping,
        ``{"image": ..., "prior": ...}``, or as a ``Case`` that has them. Raises ``MediaError`` for an image, named or
        not, that can't be used, which an empty or saturated one can't either, and ``OptionError`` for an option that
        is wrong or missing.

        An input that is unlike the training images is marked so, and gets no diagnosis: see ``Prediction.unlike``.
        """
        return self.predict_batch([input], **given)[0]

    @final
    def predict_batch(self, cases: Sequence[Any], /, **given: Any) -> list[P]:
        """Predict on several inputs with the same options; the same results as one by one.

        Inputs with named ones of their own are each predicted on with theirs.
        """
        dealt = inputs.deal(self.plugin, cases, given)
        return [one for run in inputs.alike(dealt) for one in self._together(run)]

    def _together(self, dealt: Sequence[inputs.Dealt]) -> list[P]:
        """Predictions on cases that have the same options."""
        chosen, stated = dealt[0].chosen, dealt[0].stated
        cases = [self._read(one.first) for one in dealt]
        for case in cases:
            if isinstance(case, media.Image):
                require_content(case)
        with torch.inference_mode(), _evaluating(self), listening() as heard:
            made = list(self._predict(cases, **chosen))
            verdicts = [self._kind_of(case, chosen) for case in cases]
        if len(made) != len(cases) or not all(isinstance(one, Prediction) for one in made):
            kinds = ", ".join(type(one).__name__ for one in made[:3]) or "nothing"
            raise PluginError(
                f"{self.plugin.name} must give a zoo.Prediction for each of {len(cases)} inputs, not {kinds}"
            )
        for case, prediction, verdict in zip(cases, made, verdicts, strict=True):
            if self.temperature is not None:
                prediction.temper(self.temperature)
            self.verdict = prediction.domain = verdict
            prediction.label_names = prediction.label_names or self.plugin.label_names
            prediction.label_codes = prediction.label_codes or self.plugin.label_codes
            prediction.prompted = any(chosen.get(item.name) for item in self.plugin.options if item.kind in _PROMPTS)
            prediction.source = prediction.source or str(getattr(case, "source", getattr(case, "id", "input")))
            prediction.provenance = self.provenance
            # what reading had to assume, what the plugin says, and what makes it doubtful
            prediction.notes = (*_notes_of(case, heard), *prediction.notes, *prediction.cautions())
            prediction.options = {**stated, **prediction.options}
            first = {self.plugin.primary_input.name: inputs.trace(case)} if isinstance(case, media.Image) else {}
            prediction.inputs = {**first, **dealt[0].traces}
        return made

    # ---- what a plugin writes -----------------------------------------------------------------------------------

    def _predict(self, cases: Any, /, *args: Any, **chosen: Any) -> Sequence[P]:
        """One prediction for each of ``cases``, which are what ``_read`` gives.

        A plugin writes ``_predict(self, images: Sequence[media.Image], *, threshold: float) -> list[Segmentation]``,
        with a keyword for every option of its card: it arrives checked, as the card's default, or as ``None`` where
        the card has no default. It runs in eval mode and without gradients. Source, options and provenance are filled
        in afterwards; options that the plugin sets in a prediction stay as it set them.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement _predict")

    def _read(self, given: Any) -> Any:
        """What ``_predict`` gets for one input of a user: a 2-D ``image``, a ``volume``, or a case with its ``images``.

        A plugin whose input is none of these overrides it.
        """
        kind = self.plugin.primary_input.kind
        if kind == "image":
            return media.read(given).require_2d(self.plugin.name)
        if kind == "volume":
            return media.read(given).require_3d(self.plugin.name)
        if kind == "images":
            return patients.case_of(given)
        return given

    def _pictures(self, case: Any, **chosen: Any) -> Iterable[media.Image]:
        """The 2-D images of a case by which it's told whether it is of the training's kind; none: that isn't told.

        Of a volume some slices, of a case its images. ``chosen``: the options, where the case is to be predicted.
        """
        return domain.pictures(case)

    def _network_features(self, images: Sequence[media.Image]) -> Float[Tensor, "n f"] | None:
        """What the network makes of 2-D images, one vector each; by default nothing, and only the images are looked at.

        A plugin that gives it has unlike images told by its features too. They are compared in eval mode.
        """
        return None

    # ---- the kind of images that the weights know ---------------------------------------------------------------

    @torch.inference_mode()
    def measured(self, pictures: Iterable[media.Image]) -> domain.Measured:
        """What tells the kind of 2-D images: a row of statistics, of textures, of colours, of bands, of their shorter
        side in px and, where the plugin gives them, of features for each."""
        rows: dict[str, list[np.ndarray]] = {
            "statistics": [],
            "textures": [],
            "colours": [],
            "bands": [],
            "fine": [],
            "side": [],
        }
        stream = iter(pictures)
        with _evaluating(self):
            while batch := list(islice(stream, MEASURED)):
                rows["statistics"] += [statistics(one) for one in batch]
                rows["textures"] += [textures(one) for one in batch]
                rows["colours"] += [colours(one) for one in batch]
                rows["bands"] += [bands(one) for one in batch]
                rows["fine"] += [fine_bands(one) for one in batch]
                rows["side"] += [np.array([min(one.size)], float) for one in batch]
                found = self._network_features(batch)
                if found is not None:
                    rows.setdefault("features", []).extend(found.double().cpu().numpy())
        return {name: np.array(found) if found else np.zeros((0, 0)) for name, found in rows.items()}

    def _kind_of(self, case: Any, chosen: dict[str, Any]) -> domain.Verdict | None:
        if self.domain is None:
            return None
        measured = self.measured(self._pictures(case, **chosen))
        return self.domain.judge(measured) if len(measured["statistics"]) else None

    # ---- the three names by which users of the Hub know these ---------------------------------------------------

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write weights and configuration to a folder, as :func:`zoo.save` does."""
        weights.save(self, Path(save_directory))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish this model with its card; ``options`` as for :func:`zoo.push`. Returns the address of the commit."""
        # By name: publishing stands above the models that it publishes, and a user finds it here all the same.
        return import_module("zoo.publish").push(self, repo_id, **options).url or ""

    @classmethod
    def from_pretrained(cls, model_id: str | os.PathLike[str], *, revision: str | None = None) -> Any:
        """A model of this class from a folder, or from ``ORG/REPO`` on the Hub; the cache and the token are
        ``huggingface_hub``'s. Raises ``WeightsError``."""
        found = Path(model_id).exists()
        spec = str(model_id) if found else f"hf://{model_id}" + (f"@{revision}" if revision else "")
        return loading.load_into(cls, spec)


def _notes_of(case: Any, heard: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What reading a case had to assume, or reading its images, which are named."""
    named: dict[str, list[str]] = {}
    for one in getattr(case, "images", ()):
        for note in heard.get(str(one.image), ()) if isinstance(one.image, (str, os.PathLike)) else ():
            named.setdefault(note, []).append(str(one.id))
    more = {note: f" and {len(names) - 1} more" if len(names) > 1 else "" for note, names in named.items()}
    return (*getattr(case, "notes", ()), *(f"{names[0]}{more[note]}: {note}" for note, names in named.items()))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for as long as it lasts; afterwards every module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    if not any(modes.values()):
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()
        for module, mode in modes.items():
            module.training = mode
