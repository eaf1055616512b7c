"""What a model gives back: plain data that a person can look at and a program can read.

Every prediction knows where it came from (:class:`Provenance`), turns into JSON (``to_dict``), into a picture
(``figure``), and into files (``save``).
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image as PILImage

from zoo import figure as fig
from zoo import media
from zoo.diagnoses import Code, code_of
from zoo.domain import SHARE, Verdict
from zoo.errors import OptionError
from zoo.plugin import Form
from zoo.spec import is_kind
from zoo.storage import filling


@dataclass(frozen=True)
class Provenance:
    """Which model and weights made a prediction."""

    model: str
    distribution: str = ""
    version: str = ""
    weights: str = "none"  # as the user named them: demo, a path, hf://...
    revision: str | None = None  # commit hash, for weights from the Hub
    trained_on: str = "nothing: random initialisation"
    disclaimer: str = "untrained weights; the output means nothing"


UNKNOWN = "the weights don't state what their training images were like, so unlike ones can't be told"


class _TakenError(Exception):
    """A file of this name belongs to another prediction."""


def _guarded(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """A ``summary`` or ``figure`` that says first what an unlike input deserves, whoever wrote it."""

    @wraps(method)
    def guarded(self: Prediction, *args: Any, **options: Any) -> Any:
        if "_inside" in vars(self):  # called by another one
            return method(self, *args, **options)
        vars(self)["_inside"] = True
        try:
            if self.unlike and self.withholds:
                made: Any = self._withheld_figure() if name == "figure" else ""
            else:
                made = method(self, *args, **options)
        finally:
            del vars(self)["_inside"]
        return self._marked_figure(made) if name == "figure" else self._marked_summary(made)

    return guarded


@dataclass(kw_only=True)
class Prediction:
    """Base of all predictions. Subclasses add their data and override ``summary``, ``panels`` and ``to_dict``.

    An input that is unlike the images that the weights were trained on gets no answer: ``summary`` and ``figure`` then
    say only that, unless a subclass sets ``withholds`` to False, which has both say it beside the answer.
    """

    kind: ClassVar[str] = "prediction"
    withholds: ClassVar[bool] = True

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        for name in ("summary", "figure"):
            if name in vars(cls):
                setattr(cls, name, _guarded(name, vars(cls)[name]))

    # these three are filled in by Model.predict; options that the plugin states stay as it states them
    source: str = ""
    provenance: Provenance = Provenance("")
    options: dict[str, Any] = field(default_factory=dict)  # the optional inputs as used
    inputs: dict[str, dict[str, str]] = field(default_factory=dict, compare=False)  # what was read, with its digest
    notes: tuple[str, ...] = ()  # what a person should know, such as "modality guessed: fundus"
    measurements: dict[str, float] = field(default_factory=dict)
    label_names: Mapping[str, str] = field(default_factory=dict)  # of the card; filled in too
    label_codes: Mapping[str, Code] = field(default_factory=dict)  # likewise
    domain: Verdict | None = None  # whether the input is of the training's kind; filled in too, None: not known
    prompted: bool = False  # whether a person showed where to look; filled in too
    form: Form = "auto"  # how it is written; ``save`` sets it
    _refused: ClassVar[str] = ""  # why no DICOM object could be made, once that was tried

    @property
    def unlike(self) -> bool:
        """Whether the input is unlike the images that the weights were trained on, as far as the weights state it."""
        return self.domain is not None and self.domain.unlike

    @property
    def demonstration(self) -> bool:
        """Whether weights that were trained on phantoms were shown something else."""
        return is_kind(self.provenance.trained_on, "phantom") and not is_kind(self.source, "phantom")

    def spelled(self, label: str) -> str:
        """A label for people: ``melanoma (MEL)`` where the card says what it stands for."""
        name = self.label_names.get(label)
        return label if name is None else f"{name} ({label})"

    def cautions(self) -> list[str]:
        """Notes on what may be believed of it."""
        notes = []
        if self.domain is None and self.provenance.weights != "none":
            notes.append(UNKNOWN)
        if self.domain is not None and self.unlike:
            consequence = "no result is shown" if self.withholds else "don't rely on the result"
            notes.append(f"{self.domain.sentence()}; {consequence}")
        if self.demonstration:
            notes.append("demonstration: the weights were trained on phantoms, and this is none")
        return notes

    def temper(self, temperature: float) -> None:
        """Divide the logits by ``temperature``; for predictions that have probabilities of classes."""

    def summary(self) -> str:
        """One line for a table."""
        raise NotImplementedError

    def panels(self) -> list[fig.Panel]:
        """The pictures of the figure, left to right."""
        raise NotImplementedError

    def legend(self) -> list[fig.LegendEntry]:
        """Names and colours of what the panels show."""
        return []

    @property
    def written_as(self) -> Form:
        """The form that :attr:`form` comes to: ``auto`` where the input's own is no DICOM object."""
        image = getattr(self, "image", None)
        if self.form not in ("auto", "dicom"):
            return self.form
        of_dicom = isinstance(image, media.Image) and image.format == "dicom"
        return self.object_form if self.form == "dicom" or (of_dicom and not self._unreferable()) else "auto"

    def _unreferable(self) -> str:
        """Why a result on DICOM files is written as if they were pictures."""
        image = getattr(self, "image", None)
        if self.form != "auto" or not isinstance(image, media.Image) or image.format != "dicom":
            return ""
        return self._refused or media.unreferable(image, self.object_form)

    @property
    def object_form(self) -> Form:
        """The DICOM object that holds this kind of prediction."""
        return "dicom-sr"

    def findings(self) -> list[media.Finding]:
        """What a structured report says of it; by default its numbers. Nothing of an input that is unlike."""
        numbers = {name: value for name, value in self.quantities().items() if isinstance(value, (int, float))}
        return [] if self.unlike else [media.Finding(self.kind, None, _measured(numbers))]

    def _object_files(self) -> dict[str, Callable[[Path], Path]]:
        """The files of :meth:`files`, with what ``written_as`` puts in their place."""
        files, form = dict(self.files()), self.written_as
        if form == "auto":
            return files
        if form == "dicom-sr":
            image = self._referable(form)
            files.pop("mask", None)
            found = self.findings() or [media.Finding("no result is stated", None)]
            said = [*self.notes, *([] if self.findings() else ["no result is stated"])]
            files["report"] = lambda path: media.write_report(path, image, found, said, self._algorithm())
            return files
        raise OptionError(f"a {self.kind} has no mask to write as {form}; choose --format auto or dicom-sr")

    def _referable(self, form: Form) -> media.Image:
        image = getattr(self, "image", None)
        if not isinstance(image, media.Image):
            raise OptionError(f"a {self.kind} is of several images, which {form} can't hold; choose --format auto")
        if why := media.unreferable(image, form):
            raise OptionError(f"{self.source} can't be referred to as {form}: {why}; choose --format auto")
        return image

    def _algorithm(self) -> media.Algorithm:
        made = self.provenance
        version = f"{made.distribution} {made.version}".strip()
        revision, trained = made.revision, made.trained_on
        return media.Algorithm(made.model, version, made.weights, revision, trained, made.disclaimer, self.prompted)

    def _code(self, label: str) -> Code:
        return code_of(label, self.label_names.get(label), self.label_codes)

    def files(self) -> dict[str, Callable[[Path], Path]]:
        """Further files of :meth:`save`: key in the JSON, and a writer that takes a path without suffix."""
        return {}

    def quantities(self) -> dict[str, Any]:
        """What it says in single values, by name with its unit: the columns of a table (``zoo.results``)."""
        return dict(self.measurements)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-serialisable (no arrays)."""
        return {
            "source": self.source,
            "kind": self.kind,
            **asdict(self.provenance),
            "options": self.options,
            "inputs": self.inputs,
            "demonstration": self.demonstration,
            "domain": None if self.domain is None else self.domain.to_dict(),
            "notes": list(self.notes),
            "measurements": self.measurements,
        }

    def figure(self) -> PILImage.Image:
        """Input left, result right, legend and the disclaimer below."""
        return fig.compose(self.panels(), legend=self.legend(), title=self.title, footer=self.footer)

    def known_panels(self) -> list[fig.Panel]:
        """The panels that stay where the answer is withheld: the input, without a word about it."""
        return []

    def _withheld_figure(self) -> PILImage.Image:
        assert self.domain is not None
        facts = {
            "farther out than": f"{1 - SHARE:.1%} of them",
            "differs most in": self.domain.reason,
            "known by": f"{self.domain.images} images",
        }
        said = fig.statement("no result", "unlike the training images", facts, fill=fig.colour(6), ink=(255, 255, 255))
        panels = [*self.known_panels(), fig.Panel("result withheld", said)]
        return fig.compose(panels, title=self.title, footer=self.footer)

    def _marked_figure(self, picture: PILImage.Image) -> PILImage.Image:
        if self.demonstration:
            picture = fig.across(picture, "DEMONSTRATION")
        if self.domain is not None and self.unlike:
            picture = fig.banner(picture, self.domain.sentence())
        return picture

    def _marked_summary(self, text: str) -> str:
        marks = [self.domain.sentence()] if self.domain is not None and self.unlike else []
        marks += ["demonstration"] if self.demonstration else []
        return ": ".join(part for part in (", ".join(marks), text) if part)

    @property
    def title(self) -> str:
        """What stands above the figure: the model and the input's name."""
        return f"{self.provenance.model}: {Path(self.source).name or self.source}"

    @property
    def footer(self) -> str:
        """What stands below the figure: the weights and what may be believed of them."""
        return f"weights: {self.provenance.weights} ({self.provenance.disclaimer})"

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.figure().save(stream, "PNG")
        return stream.getvalue()

    def _repr_html_(self) -> str:
        """The figure in a notebook, with the notes below it and the summary for who can't see it."""
        said = html.escape(self.summary(), quote=True)
        notes = "".join(f"<br>note: {html.escape(note)}" for note in self.notes)
        picture = base64.b64encode(self._repr_png_()).decode()
        return (
            f'<figure><img alt="{said}" src="data:image/png;base64,{picture}">'
            f"<figcaption>{said}{notes}</figcaption></figure>"
        )

    def save(
        self,
        folder: str | os.PathLike[str],
        stem: str | None = None,
        figure: bool = True,
        taken: Container[str] = (),
        format: Form | None = None,
    ) -> list[Path]:
        """Write ``<stem>.json``, ``<stem>.png`` (the figure) and the files of this kind of prediction.

        All files are written to a temporary folder first and then renamed, so that none is ever half-written. Where
        one of them would have a name that is ``taken`` (in small letters), all get another stem. ``format``: of mask
        or report, one of ``zoo.plugin.Form``: ``auto`` is the input's own, ``dicom`` the object of this kind
        (``dicom-seg`` for masks, else ``dicom-sr``).

        Raises ``OptionError`` when the folder can't be written to, or for a format that can't hold this result;
        ``MissingExtraError`` without the library that writes it.
        """
        self.form = format or self.form
        if (why := self._unreferable()) and (note := f"not written as a DICOM object: {why}") not in self.notes:
            self.notes = (*self.notes, note)
        out, stem = Path(folder), stem or media.stem_of(self.source)
        try:
            with filling(out) as draft:
                record, written = self.to_dict(), []
                if figure:
                    path = draft / f"{stem}.png"
                    self.figure().save(path, compress_level=1)  # a third of the time, an eighth more bytes
                    written.append(path)
                    record["figure"] = path.name
                for key, write in self._object_files().items():
                    path = write(draft / f"{stem}_{key}")
                    written.append(path)
                    record[key] = path.name
                path = draft / f"{stem}.json"
                if any(one.name.casefold() in taken for one in (path, *written)):
                    raise _TakenError
                path.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
                written.append(path)
        except media.UnreferableError as error:
            if self.form != "auto":
                raise
            vars(self)["_refused"] = str(error)
            return self.save(folder, stem, figure, taken, format)
        except _TakenError:
            return self.save(folder, f"{stem}_result", figure, taken, format)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OptionError(f"can't write to {out}: {reason}; choose another folder with --out") from error
        return [out / path.name for path in written]


Prediction.figure = _guarded("figure", Prediction.figure)  # type: ignore[method-assign]


def _measured(numbers: Mapping[str, Any]) -> tuple[media.Measured, ...]:
    return tuple(media.Measured(media.own(name), float(value)) for name, value in numbers.items())


def tempered(probabilities: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Probabilities in [0, 1] that add up to 1, as if their logits had been divided by ``temperature``."""
    names = list(probabilities)
    logits = np.log(np.maximum([probabilities[name] for name in names], 1e-38)) / temperature
    values = np.exp(logits - logits.max())
    return dict(zip(names, (values / values.sum()).tolist(), strict=True))


@dataclass(kw_only=True)
class Classification(Prediction):
    """Class probabilities for one image."""

    kind: ClassVar[str] = "classification"

    image: media.Image
    probabilities: dict[str, float]
    extra_panels: Sequence[fig.Panel] = ()
    temperature: float | None = None  # that the logits were divided by; filled in

    @property
    def most_probable(self) -> str:
        """The most probable class, whatever the image is."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])

    @property
    def label(self) -> str | None:
        """The diagnosis: the most probable class, or ``None`` for an image that is unlike the training images."""
        return None if self.unlike else self.most_probable

    def temper(self, temperature: float) -> None:
        self.probabilities, self.temperature = tempered(self.probabilities, temperature), temperature

    def summary(self) -> str:
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])[:3]
        return ", ".join(f"{self.spelled(name)} {probability:.1%}" for name, probability in ranked)

    def to_dict(self) -> dict[str, Any]:
        rounded = {name: round(float(p), 6) for name, p in self.probabilities.items()}
        name = None if self.label is None else self.label_names.get(self.label, self.label)
        found = {"label": self.label, "label_name": name, "temperature": self.temperature, "probabilities": rounded}
        return {**super().to_dict(), **found}

    def quantities(self) -> dict[str, Any]:
        found = self.to_dict()
        probabilities = {f"probability_{name}": p for name, p in found["probabilities"].items()}
        return {"label": found["label"], "label_name": found["label_name"], **probabilities, **super().quantities()}

    def findings(self) -> list[media.Finding]:
        label = self.label
        if label is None:
            return []
        names = {one: self.label_names.get(one, one) for one in self.probabilities}
        coded = {one: media.own(f"P {one}", f"Probability of {name}") for one, name in names.items()}
        numbers = tuple(media.Measured(coded[one], p) for one, p in self.probabilities.items())
        return [media.Finding(names[label], self._code(label), numbers)]

    def known_panels(self) -> list[fig.Panel]:
        return [fig.Panel("input", self.image.thumbnail(fig.PANEL_SIDE))]

    def panels(self) -> list[fig.Panel]:
        picture = fig.Panel("input", self.image.thumbnail(fig.PANEL_SIDE))
        return [picture, fig.Panel("probabilities", self.bars()), *self.extra_panels]

    def bars(self, colours: Mapping[str, tuple[int, int, int]] | None = None) -> PILImage.Image:
        """A bar for each class, under its name; ``colours`` by label."""
        named = {self.spelled(label): p for label, p in self.probabilities.items()}
        return fig.bars(named, colours={self.spelled(label): ink for label, ink in (colours or {}).items()})


@dataclass(kw_only=True)
class Segmentation(Prediction):
    """A label map for one image or volume. ``inside``: the field of view, of which the shares are counted.

    ``mask``: integer ``[h w]`` or ``[z h w]``, 0 is ``labels[0]`` (background); ``probability``: of the foreground in
    [0, 1], same shape, or ``[c ...]`` for several classes.
    """

    kind: ClassVar[str] = "segmentation"
    withholds: ClassVar[bool] = False  # a wrong mask shows itself

    image: media.Image
    mask: UInt8[np.ndarray, "*grid"]
    labels: tuple[str, ...]
    probability: Float[np.ndarray, "*classes_and_grid"] | None = None
    extra_panels: Sequence[fig.Panel] = ()
    inside: Bool[np.ndarray, "*grid"] | None = None

    def areas(self) -> dict[str, float]:
        """Share of the image (of the volume, of the field of view) that each foreground label covers, in [0, 1]."""
        values = self.mask.ravel() if self.inside is None else self.mask[self.inside]
        counts = np.bincount(values, minlength=len(self.labels))
        return {name: float(counts[i] / max(values.size, 1)) for i, name in enumerate(self.labels) if i > 0}

    def sizes(self) -> dict[str, float]:
        """What each foreground label covers: mm² of an image, ml of a volume; nothing where the spacing is unknown."""
        voxel = self._voxel()
        if voxel is None:
            return {}
        counts = np.bincount(self.mask.ravel(), minlength=len(self.labels))
        return {name: float(counts[i] * voxel) for i, name in enumerate(self.labels) if i > 0}

    @property
    def size_unit(self) -> str:
        """Of :meth:`sizes`, as names of columns have it: ``area_mm2`` or ``volume_ml``."""
        return "area_mm2" if self.mask.ndim == 2 else "volume_ml"

    def _voxel(self) -> float | None:
        """What one pixel covers, mm², or one voxel, ml."""
        spacing = self.image.spacing
        if spacing is None or len(spacing) != self.mask.ndim:
            return None
        if self.mask.ndim == 2 or self.image.affine is None:
            return float(np.prod(spacing)) / (1 if self.mask.ndim == 2 else 1000)
        return abs(float(np.linalg.det(self.image.affine[:3, :3]))) / 1000  # slices of a tilted gantry are sheared

    @property
    def whole(self) -> str:
        """What the shares are of."""
        return "the image" if self.inside is None else "the field of view"

    def summary(self) -> str:
        if self.unlike:
            return "mask written, its shares are not stated"
        return ", ".join(f"{name} {share:.1%} of {self.whole}" for name, share in self.areas().items())

    def to_dict(self) -> dict[str, Any]:
        # what stands for each label in the file of the mask; see zoo.media.write_mask
        picture = media.is_picture(self.image, None if self.written_as == "auto" else self.written_as)
        value = 255 if picture and self.mask.max(initial=0) <= 1 else 1
        sizes = self.sizes()
        return {
            **super().to_dict(),
            "labels": list(self.labels),
            "shape": list(self.mask.shape),
            "mask_values": {name: value * i for i, name in enumerate(self.labels) if value == 1 or i < 2},
            "area_fraction_of": self.whole,
            "area_fraction": {name: round(share, 6) for name, share in self.areas().items()},
            "spacing_mm": list(self.image.spacing) if self.image.spacing else None,
            **({self.size_unit: {name: round(size, 4) for name, size in sizes.items()}} if sizes else {}),
        }

    def quantities(self) -> dict[str, Any]:
        share = "area_fraction" if self.mask.ndim == 2 else "volume_fraction"
        found: dict[str, Any] = {f"{share}_{name}": round(value, 6) for name, value in self.areas().items()}
        found |= {f"{self.size_unit}_{name}": round(size, 4) for name, size in self.sizes().items()}
        return {**found, **super().quantities()}

    def legend(self) -> list[fig.LegendEntry]:
        return [
            fig.LegendEntry(name if self.unlike else f"{name} ({share:.1%} of {self.whole})", fig.colour(i))
            for i, (name, share) in enumerate(self.areas().items(), start=1)
        ]

    def panels(self) -> list[fig.Panel]:
        if self.mask.ndim == 3:
            volume, mask = self.image.axial(self.image.unit()), self.image.axial(self.mask)
            z = int(np.argmax((mask > 0).sum(axis=(1, 2))))  # the slice that shows most
            spacings, mask, where = self.image.axial_spacing(), mask[z], f" (slice {z})"
            height, width = (n * s for n, s in zip(mask.shape, spacings or (1, 1), strict=True))
            picture = fig.to_picture(volume[z], aspect=width / height)
        else:
            mask, spacings, where = self.mask, self.image.spacing, ""
            picture = self.image.thumbnail(fig.PANEL_SIDE)
        spacing = spacings[-1] if spacings else None
        return [
            fig.Panel(f"input{where}", picture, spacing=spacing, pixels=mask.shape[1]),
            fig.Panel("prediction", fig.overlay(picture, mask)),
            *self.extra_panels,
        ]

    @property
    def object_form(self) -> Form:
        return "dicom-seg"

    def findings(self) -> list[media.Finding]:
        if self.unlike:
            return []
        sizes, unit = self.sizes(), ("mm2" if self.mask.ndim == 2 else "ml")
        name = Code("42798000", "Area") if self.mask.ndim == 2 else Code("118565006", "Volume")
        found = []
        for label, share in self.areas().items():
            numbers = [media.Measured(media.own("share", f"Share of {self.whole}"), share)]
            numbers += [media.Measured(name, sizes[label], unit)] if sizes else []
            found.append(media.Finding(self.label_names.get(label, label), self._code(label), tuple(numbers)))
        return found

    def files(self) -> dict[str, Callable[[Path], Path]]:
        return {"mask": lambda path: media.write_mask(path, self.mask, like=self.image)}

    def _object_files(self) -> dict[str, Callable[[Path], Path]]:
        form = self.written_as
        if form in ("auto", "dicom-sr"):
            return super()._object_files()
        files = dict(self.files())
        if form == "dicom-seg":
            image = self._referable(form)
            named = [(self.label_names.get(label, label), self._code(label)) for label in self.labels[1:]]
            files["mask"] = lambda path: media.write_segmentation(path, self.mask, image, named, self._algorithm())
        else:
            files["mask"] = lambda path: media.write_mask(path, self.mask, self.image, form)
        return files
