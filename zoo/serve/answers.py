"""What the thread of the desk does: predictions into records and files. Torch is imported with this."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from zoo import inference, media
from zoo.errors import MediaError, OptionError, ZooError
from zoo.model import Model
from zoo.plugin import Form
from zoo.prediction import Prediction
from zoo.serve.desk import CancelledError, Ticket
from zoo.serve.desk import TimeoutError as TimedOutError
from zoo.serve.pool import Pool
from zoo.serve.uploads import Asked, clean, scrubbed
from zoo.text import Distinct, finite


@dataclass
class Answer:
    """What came of a request, in plain data; the files lie in its folder under the names that stand in ``files``."""

    model: str
    results: list[dict[str, Any]] = field(default_factory=list)  # a record, or source and error
    files: list[dict[str, str]] = field(default_factory=list)  # of each result: what it is -> its name
    errors: list[ZooError] = field(default_factory=list)
    folder: Path = Path()
    taken: set[str] = field(default_factory=set)  # names of its files, in lower case

    @property
    def failed(self) -> int:
        return len(self.errors)

    def body(self) -> dict[str, Any]:
        return {"model": self.model, "results": self.results, "failed": self.failed}


def predict(pool: Pool, asked: Asked, ticket: Ticket[Any]) -> Answer:
    """Predict on all that is asked for. Raises the error of an input that comes alone; of several, each tells its own.

    Sources are called what their sender called them.
    """
    try:
        model = pool.get(asked.model)
        found = expanded(model, asked.inputs, asked.chosen)
        answer = Answer(model.plugin.name, folder=asked.folder / "results")
        stems = distinct(found)
        ticket.advance(0, len(found))
        for place, (one, outcome) in enumerate(inference.predict_each(model, found, **asked.chosen)):
            if isinstance(outcome, CancelledError | TimedOutError):
                raise outcome
            ticket.part = 1.0
            _take(answer, asked, one, stems[place], outcome)
            ticket.advance(place + 1, len(found))
        pool.used(model)
    except ZooError as error:
        raise _told(error, asked.folder) from error
    if len(answer.results) == 1 and answer.errors:
        raise answer.errors[0]
    return answer


def expanded(model: Model, inputs: list[str], chosen: Mapping[str, Any] | None = None) -> list[Any]:
    """The predictions that the inputs stand for, as on the command line. Raises ``MediaError``."""
    return inference.expand(model.plugin, inputs, chosen)


def _take(answer: Answer, asked: Asked, one: Any, stem: str, outcome: Prediction | ZooError) -> None:
    source = one[0] if isinstance(one, list) else one
    written: dict[str, str] = {}
    if not isinstance(outcome, ZooError):
        try:
            written = files_of(outcome, answer, stem, asked)
            record = {**outcome.to_dict(), "summary": outcome.summary()}
        except ZooError as error:
            outcome = error
        except Exception as error:  # a picture or a record that can't be made spares the others too
            outcome = inference.unexpected(source, error)
    if isinstance(outcome, ZooError):
        told = _told(outcome, asked.folder)
        answer.errors.append(told)
        record = {"source": getattr(source, "id", source), "error": str(told)}
    answer.results.append(finite(scrubbed(record, asked.folder)))
    answer.files.append(written)


def files_of(prediction: Prediction, answer: Answer, stem: str, asked: Asked) -> dict[str, str]:
    """Write what is asked for; what each file is -> its name."""
    if not asked.formats:
        return {}
    prediction.source, kept = scrubbed(prediction.source, asked.folder), prediction.source
    prediction.options = scrubbed(prediction.options, asked.folder)
    prediction.inputs = scrubbed(prediction.inputs, asked.folder)
    prediction.notes = tuple(scrubbed(prediction.notes, asked.folder))
    try:
        written = prediction.save(answer.folder, stem, figure=asked.figure, taken=answer.taken, format=asked.form)
    finally:
        prediction.source = kept
    answer.taken.update(path.name.casefold() for path in written)
    named: dict[str, str] = {}
    stem = written[-1].stem
    for path in written:
        if path.name == f"{stem}.json":
            named["json"] = path.name
        elif path.name == f"{stem}.png":
            named["figure"] = path.name
        else:
            named[path.name.removeprefix(f"{stem}_").partition(".")[0]] = path.name
    return named


def distinct(found: list[Any]) -> list[str]:
    """A stem for the files of each input, none twice."""
    names, stems = Distinct(), []
    for one in found:
        name = one[0] if isinstance(one, list) else one
        name = name.image if isinstance(getattr(name, "image", None), str) else name
        base = clean(media.stem_of(name) if isinstance(name, str) else str(getattr(name, "id", "input")))
        stems.append(names.take(base))
    return stems


def packed(answer: Answer) -> Path:
    """A zip of all files of an answer, in its folder's parent."""
    path = Path(tempfile.mkdtemp(dir=answer.folder.parent)) / f"{answer.model}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in (name for one in answer.files for name in one.values()):
            archive.write(answer.folder / name, name)
    return path


def file_of(answer: Answer, kind: str) -> Path:
    """The one file of a kind, or of a form of masks and reports. Raises ``OptionError`` when there isn't one."""
    if kind in get_args(Form):
        kind = "report" if any("report" in one for one in answer.files) else "mask"
    names = [one[kind] for one in answer.files if kind in one]
    if len(names) == 1 and len(answer.files) == 1:
        return answer.folder / names[0]
    if not names:
        known = sorted({key for one in answer.files for key in one})
        raise OptionError(f"{answer.model} gives no {kind}; choose one of {', '.join([*known, 'zip'])}")
    raise OptionError(f"there are {len(answer.files)} results, each with files of its own; ask for format=zip")


def _told(error: ZooError, folder: Path) -> ZooError:
    """The same with files called what their sender called them; its kind and its cause stay."""
    text = scrubbed(str(error), folder)
    if text == str(error):
        return error
    told = MediaError(text) if isinstance(error, MediaError) else error
    told.args = (text, *error.args[1:])
    if told is not error:
        told.__class__ = type(error)
        told.__cause__ = error.__cause__
    return told
