"""Looking at a whole data set before time is spent on it: ``zoo data check SPEC``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from zoo.data.case import Case
from zoo.data.sets import Dataset, load_dataset, read_mask
from zoo.data.splits import leaks
from zoo.errors import DataError, ZooError, noting
from zoo.plugin import Plugin

Level = Literal["ok", "warning", "error"]
RARE = 0.05  # a class with a smaller share of the cases is worth a warning
MASK_TASKS = ("segmentation",)
LABEL_TASKS = ("classification",)


@dataclass(frozen=True)
class Finding:
    """The result of one check, over all cases."""

    check: str
    level: Level
    detail: str


@dataclass(frozen=True)
class CheckReport:
    """What ``check`` found. ``ok`` is false when a training on the set could not be trusted."""

    spec: str
    cases: int
    findings: tuple[Finding, ...] = field(default=())

    @property
    def ok(self) -> bool:
        return all(finding.level != "error" for finding in self.findings)

    def rows(self) -> list[list[str]]:
        """The table a person reads: check, result, detail."""
        return [[finding.check, finding.level, finding.detail] for finding in self.findings]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def check(spec: str, *, plugin: Plugin | None = None, progress: bool = True) -> CheckReport:
    """Read every image and mask of a data set and report what is wrong with it.

    Unreadable files, masks that are missing, of another size than their image or with labels out of range, patients
    in several splits, the same image in several splits, class balance. ``plugin``: the model the set is meant for,
    which says whether masks or labels are needed and what their values may be.

    Raises ``DataError`` or ``OptionError`` when the specification itself leads to no cases.
    """
    dataset = load_dataset(spec, plugin=plugin)
    facts = _Facts(dataset, plugin)
    for place, case in _made(dataset, facts, progress):
        for one in case.images or (case,):
            facts.look(place, one if one is case else replace(one, id=f"{case.id}, {one.id}"))
    return CheckReport(spec, len(dataset), tuple(facts.findings()))


def require(dataset: Dataset, plugin: Plugin | None = None) -> None:
    """The part of ``check`` that needs no file read, before a training or evaluation.

    Raises ``DataError`` for an empty set, missing files, masks or labels that the plugin's task needs (of a plugin that
    trains on unlabelled cases too, where no case has a mask), one class only, or a patient in several splits.
    """
    if not len(dataset):
        raise DataError(f"{dataset.spec} is empty")
    for patient, parts in leaks(dataset).items():
        raise DataError(f"patient {patient} of {dataset.spec} is in {' and '.join(parts)}; a patient is in one split")
    stored = [entry.case for entry in dataset.entries if not callable(entry.case)]
    advice = f"zoo data check {dataset.spec} lists all"
    task = None if plugin is None else plugin.task
    for what, tasks, lost in (
        ("mask", MASK_TASKS, [case.id for case in stored if "mask" not in case.masks]),
        ("label", LABEL_TASKS, [case.id for case in stored if case.label is None]),
    ):
        some_will_do = what == "mask" and plugin is not None and plugin.unlabelled and len(lost) < len(stored)
        if task in tasks and lost and not some_will_do:
            some = f"{len(lost)} of {len(stored)} cases"
            raise DataError(f"{some} of {dataset.spec} have no {what}, such as {lost[0]}; {advice}")
    if task in LABEL_TASKS and stored and len({str(c.label) for c in stored}) == 1:
        raise DataError(f"all cases of {dataset.spec} have the label {stored[0].label!r}; at least two are needed")
    from pathlib import Path

    for case in stored:
        for path in (case.image, *case.masks.values()):
            if isinstance(path, str) and not Path(path).exists():
                raise DataError(f"case {case.id} of {dataset.spec} names {path}, which doesn't exist; {advice}")


def patient_doubt(dataset: Dataset) -> str:
    """What a set doesn't say of its patients, where it matters: cases of one may come into several parts. Else ""."""
    stored = [entry for entry in dataset.entries if not callable(entry.case) and not entry.case.images]
    unnamed = [entry for entry in stored if entry.patient is None]
    if not unnamed or all(entry.split for entry in dataset.entries):
        return ""
    which = "no case" if len(unnamed) == len(stored) else f"not every case ({len(unnamed)} of {len(stored)} don't)"
    alike = [name for name in dataset.columns if any(word in name.casefold() for word in _PEOPLE) and name != "patient"]
    hint = f"; if {alike[0]!r} does, call it patient" if alike else ""
    return f"{which} says which patient it is of, so each counts as a patient of its own{hint}"


_PEOPLE = ("patient", "subject", "person", "lesion", "study")


class _Facts:
    """Gathers what is wrong, case by case."""

    def __init__(self, dataset: Dataset, plugin: Plugin | None) -> None:
        self.dataset = dataset
        self.needs_mask = plugin is not None and plugin.task in MASK_TASKS
        self.some_will_do = plugin is not None and plugin.unlabelled
        self.needs_label = plugin is not None and plugin.task in LABEL_TASKS
        names = plugin.labels if plugin is not None and plugin.labels else dataset.labels
        self.labels = tuple(names)
        self.unreadable: list[str] = []
        self.no_mask: list[str] = []
        self.sizes: list[str] = []
        self.out_of_range: list[str] = []
        self.no_label: list[str] = []
        self.classes: Counter[str] = Counter()
        self.pixels: Counter[int] = Counter()
        self.flat: list[str] = []
        self.notes: list[str] = []
        self.soft: list[str] = []
        self.shapes: Counter[tuple[int, ...]] = Counter()
        self.digests: dict[bytes, list[int]] = {}

    def look(self, place: int, case: Case) -> None:
        import hashlib

        import numpy as np

        from zoo import media

        image = None
        try:
            image = media.read(case.image)
            self.notes += [f"{case.id}: {note}" for note in image.notes[:1]]
            shape = _grid(image)
            self.shapes[shape] += 1
            digest = hashlib.sha256(np.ascontiguousarray(image.array).tobytes() + str(shape).encode()).digest()
            self.digests.setdefault(digest, []).append(place)
            if image.array.size and image.array.min() == image.array.max():
                self.flat.append(case.id)
        except ZooError as error:
            self.unreadable.append(f"{case.id}: {error}")
        if case.label is None:
            self.no_label.append(case.id)
        else:
            self.classes[str(case.label)] += 1
        if "mask" not in case.masks:
            self.no_mask.append(case.id)
        for name in case.masks:
            try:
                found: list[str] = []
                with noting(found):
                    mask = read_mask(case, name)
                self.soft += [f"{case.id}, {name}"] if found else []
            except ZooError as error:
                self.unreadable.append(f"{case.id}, {name}: {error}")
                continue
            if image is not None and mask.shape != _grid(image):
                self.sizes.append(f"{case.id}: {name} is {_by(mask.shape)}, the image {_by(_grid(image))}")
            if name == "mask":
                values, counts = np.unique(mask, return_counts=True)
                self.pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
                if wrong := [v for v in values.tolist() if v < 0 or (self.labels and v >= len(self.labels))]:
                    self.out_of_range.append(f"{case.id}: {wrong[0]}")

    def findings(self) -> Iterator[Finding]:
        n = len(self.dataset)
        yield _finding("files", self.unreadable, "all can be read", "{count} can't be read: {first}")
        if self.flat:
            yield _finding("content", self.flat, "", "{count} images are of one value throughout: {first}", "warning")
        if self.notes:
            yield _finding("reading", self.notes, "", "{count} images are read with a note: {first}", "warning")
        shapes = ", ".join(f"{_by(shape)} ({count})" for shape, count in self.shapes.most_common(3))
        more = f" and {len(self.shapes) - 3} more" if len(self.shapes) > 3 else ""
        yield Finding("image sizes", "ok", shapes + more or "none")
        if self.some_will_do and 0 < len(self.no_mask) < n:
            yield Finding("masks", "ok", f"{n - len(self.no_mask)} of {n} cases have one; the others are unlabelled")
        elif self.needs_mask or len(self.no_mask) < n:
            yield _finding("masks", self.no_mask, f"all {n} cases have one", f"{{count}} of {n} have none: {{first}}")
        if len(self.no_mask) < n:
            yield _finding("mask sizes", self.sizes, "equal to their images'", "{count} differ from the image: {first}")
            if self.soft:
                text = "{count} have grey edges and are cut at half: {first}"
                yield _finding("mask edges", self.soft, "", text, "warning")
            allowed = f"0 to {len(self.labels) - 1}" if self.labels else "0 or more"
            yield _finding("mask labels", self.out_of_range, allowed, f"{{count}} masks leave {allowed}: {{first}}")
            yield self._pixel_balance()
        if self.needs_label or self.classes:
            yield _finding("labels", self.no_label, f"all {n} cases have one", f"{{count}} of {n} have none: {{first}}")
            yield self._class_balance()
        yield from self._leakage()

    def _pixel_balance(self) -> Finding:
        total = sum(self.pixels.values())
        shares = {v: c / total for v, c in sorted(self.pixels.items())}
        text = ", ".join(f"{self._name(v)} {share:.1%}" for v, share in list(shares.items())[:8])
        if len(shares) < 2:
            return Finding("pixels by label", "error", f"{text}: one label only")
        absent = [name for v, name in enumerate(self.labels) if v not in shares]
        if absent:
            return Finding("pixels by label", "warning", f"{text}; none of {', '.join(absent)}")
        return Finding("pixels by label", "ok", text)

    def _class_balance(self) -> Finding:
        total = sum(self.classes.values())
        text = ", ".join(f"{name} {count}" for name, count in self.classes.most_common(8))
        if len(self.classes) < 2:
            return Finding("cases by label", "error" if self.needs_label else "warning", f"{text}: one class only")
        rare = [name for name, count in self.classes.items() if count < RARE * total]
        if rare:
            return Finding("cases by label", "warning", f"{text}; {', '.join(rare)} below {RARE:.0%}")
        return Finding("cases by label", "ok", text)

    def _leakage(self) -> Iterator[Finding]:
        entries = self.dataset.entries
        stated = [entry.split for entry in entries]
        if any(stated):
            parts = Counter(part or "none" for part in stated)
            text = ", ".join(f"{part} {count}" for part, count in parts.items())
            yield Finding("splits", "ok" if all(stated) else "error", text)
            found = [f"{patient} in {' and '.join(parts)}" for patient, parts in leaks(self.dataset).items()]
            if any(entry.patient is not None for entry in entries):
                yield _finding("patients", found, "each in one split", "{count} in several splits: {first}")
        elif doubt := patient_doubt(self.dataset):
            yield Finding("patients", "warning", doubt)
        elif any(entry.patient is not None for entry in entries):
            count = len({entry.patient for entry in entries})
            yield Finding("patients", "ok", f"{count}; splits will keep them apart")
        twins = [places for places in self.digests.values() if len(places) > 1]
        across = [p for p in twins if len({stated[i] for i in p}) > 1]
        named = ["=".join(entries[i].id for i in places[:3]) for places in across or twins]
        level: Level = "error" if across else "warning"
        where = "in several splits" if across else "twice in the set"
        yield _finding("duplicates", named, "no image twice", f"{{count}} images are {where}: {{first}}", level)

    def _name(self, value: int) -> str:
        return self.labels[value] if 0 <= value < len(self.labels) else str(value)


def _made(dataset: Dataset, facts: _Facts, progress: bool) -> Iterator[tuple[int, Case]]:
    from zoo.progress import track

    for place in track(range(len(dataset)), "checking", enabled=progress):
        try:
            yield place, dataset[place]
        except ZooError as error:
            facts.unreadable.append(f"{dataset.ids[place]}: {error}")


def _grid(image: Any) -> tuple[int, ...]:
    if image.ndim_spatial == 3 and 1 in image.size:
        image = image.require_2d()
    return tuple(image.array.shape[: image.ndim_spatial])


def _finding(check: str, wrong: list[str], good: str, bad: str, level: Level = "error") -> Finding:
    if not wrong:
        return Finding(check, "ok", good)
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return Finding(check, level, bad.format(count=len(wrong), first=wrong[0] + more))


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
