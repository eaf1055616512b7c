"""The plugin contract: what a paper says about itself before any of its code is loaded.

A plugin is one :class:`Plugin` object found through the entry-point group ``zoo.models``. It imports no torch: its
model, training and claim are import strings (``"package.module:Name"``) that are resolved on use.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from zoo.diagnoses import Code

CONTRACT_VERSION = 2
"""Version of this contract. A plugin states the one it was written for in ``Plugin.contract``."""

WEIGHTS_CONTRACTS = (1, 2)
"""Weights that were saved under these versions load: a folder of weights has held the same since the first."""

ENTRY_POINT_GROUP = "zoo.models"

Task = Literal[
    "classification", "segmentation", "multi-task", "report", "reconstruction", "registration", "detection",
    "measurement", "embedding",
]  # fmt: skip
InputKind = Literal[
    "image", "images", "volume", "mask", "table", "text", "number", "integer", "choice", "flag", "box", "point",
    "click", "file", "folder",
]  # fmt: skip
Form = Literal["auto", "dicom", "dicom-seg", "dicom-sr", "nifti", "png", "nrrd", "metaimage"]
"""How a mask or a report is written. ``auto``: as its input is, for DICOM files as an object that refers to them."""

Operator = Literal[
    "cosine_filter", "cosine_topk", "icp", "masked_attention", "nearest_neighbors", "prototype_similarity"
]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    authors: tuple[str, ...]
    workshop: str
    year: int = 2023
    doi: str | None = None
    code: str | None = None  # the authors' own repository, where they name one

    def bibtex(self) -> str:
        """The citation as a BibTeX entry."""
        first_author = re.sub(r"[^a-z]", "", self.authors[0].split()[-1].lower())
        first_word = re.sub(r"[^a-z0-9]", "", self.title.split()[0].lower())
        lines = [
            f"@inproceedings{{{first_author}{self.year}{first_word},",
            f"  title     = {{{{{self.title}}}}},",
            f"  author    = {{{' and '.join(self.authors)}}},",
            f"  booktitle = {{{self.workshop}}},",
            f"  year      = {{{self.year}}},",
        ]
        if self.doi:
            lines.append(f"  doi       = {{{self.doi}}},")
        return "\n".join([*lines, "}"])


@dataclass(frozen=True)
class Input:
    """One thing a user hands to ``predict``. The first input of a plugin is the positional one.

    ``image`` and ``volume``: every file given is one prediction. ``images``: several images are one prediction, such as
    the images of a patient or an ordered stack; every folder given is one, and so are all files given singly.
    Everything after the first is passed by name (``--with name=value``) and checked against this declaration. A named
    ``image`` or ``volume`` is read and refused as the first one is, and arrives as ``zoo.media.Image``; a ``table``
    arrives as a tuple of rows by column. In a batch each case may have its own, by a table whose columns are the names.
    """

    name: str
    kind: InputKind
    help: str
    required: bool = False
    default: Any = None
    # of a ``choice``, all; of a ``text``, those of the demo weights, others may differ; of ``images``, examples
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    many: bool = False  # may be given several times; the model receives a tuple, in the order given
    unless: str = ""  # a required input may be left out where the one of this name is given


@dataclass(frozen=True)
class Output:
    """One thing a prediction contains."""

    name: str
    help: str


@dataclass(frozen=True)
class WeightsInfo:
    """Weights that come with the plugin (``demo/`` beside its ``__init__``)."""

    trained_on: str
    disclaimer: str = "trained on phantoms; not for clinical use"
    command: str = ""  # the exact command that makes them
    seconds: float | None = None  # measured wall time of that command on two CPU cores
    metrics: dict[str, float] = field(default_factory=dict)  # measured, by name
    licence: str = "Apache-2.0"


@dataclass(frozen=True)
class Departure:
    """Where the defaults do otherwise than the paper says, or settle what it leaves open."""

    what: str
    why: str
    effect: str = ""  # on the results, where it was measured


@dataclass(frozen=True)
class Plugin:
    """One paper's card. Raises ``ValueError`` when a field is malformed."""

    name: str
    title: str
    summary: str
    paper: Paper
    task: Task
    modality: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    model: str  # "package.module:ModelClass"
    labels: tuple[str, ...] = ()
    label_names: dict[str, str] = field(default_factory=dict)  # what short labels stand for, such as MEL: melanoma
    label_codes: dict[str, Code] = field(default_factory=dict)  # where zoo.diagnoses has none for the label or its name
    training: str | None = None  # "package.module:recipe"
    unlabelled: bool = False  # of a segmentation: trainings use cases without a mask too
    claim: str | None = None  # "package.module:claim"
    converter: str | None = None  # "package.module:function", from the tensors that the authors released to a Model
    operators: tuple[Operator, ...] = ()  # functions of zoo.ops that the code calls
    extras: tuple[str, ...] = ()
    weights: WeightsInfo | None = None
    readings: dict[str, str] = field(default_factory=dict)  # of the training, where paper and released code differ
    sample: str | None = None  # e.g. "sample:retina": a real image to try
    phantom: str | None = None  # e.g. "phantom:fundus": a procedural one with ground truth
    example: tuple[str, ...] = ()  # options that go with the sample, else the phantom, as for --with: "box=8,9,60,70"
    licence_notes: str = ""
    departures: tuple[Departure, ...] = ()  # from the paper
    contract: int = CONTRACT_VERSION

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"plugin name {self.name!r} is not kebab-case (letters, digits, single hyphens)")
        if not self.inputs:
            raise ValueError(f"plugin {self.name!r} declares no input")
        seen: set[str] = set()
        for item in self.inputs:
            if item.name in seen:
                raise ValueError(f"plugin {self.name!r} declares the input {item.name!r} twice")
            if item.kind == "choice" and not item.choices:
                raise ValueError(f"input {item.name!r} of plugin {self.name!r} is a choice without choices")
            seen.add(item.name)
        for what in ("model", "training", "claim", "converter"):
            target = getattr(self, what)
            if target is not None and not re.fullmatch(r"[\w.]+:\w+", target):
                raise ValueError(f"{what} of plugin {self.name!r} must read 'package.module:name', not {target!r}")

    @property
    def spelled_labels(self) -> list[str]:
        """The labels for people: ``MEL (melanoma)`` where they stand for something."""
        return [f"{one} ({self.label_names[one]})" if one in self.label_names else one for one in self.labels]

    @property
    def primary_input(self) -> Input:
        """The positional input of ``predict``."""
        return self.inputs[0]

    @property
    def options(self) -> tuple[Input, ...]:
        """The inputs that are passed by name."""
        return self.inputs[1:]

    def to_dict(self) -> dict[str, Any]:
        """The card as plain data (JSON-serialisable)."""
        return asdict(self)
