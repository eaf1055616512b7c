"""Many predictions as one table: ``predictions.csv`` beside a batch's results, and ``to_frame``.

A row stands for an input: what made the prediction, what it says in numbers with their units in the column's name,
what to know about it, and the error where it failed. :class:`Table` is the file. Whoever runs a batch does

    table, done = results.begin(folder, settings, names, resume=resume)
    written = prediction.save(folder, ...)
    table.append(results.row(prediction, input=name, files=written, settings=settings))    # or results.failure(...)

A row is written after the files it names, so an input with a row needs no second run. Columns come with the rows that
need them; a row is one write, a new column one atomic rewrite, so that a killed batch leaves whole rows.
"""

from __future__ import annotations

import csv
import html
import io
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from zoo.errors import MissingExtraError, OptionError
from zoo.prediction import Prediction, Provenance
from zoo.storage import write_file

FILE = "predictions.csv"
SETTINGS = ("model", "version", "weights", "revision", "options")
FIRST = ("input", *SETTINGS, "label", "label_name")
LAST = ("unlike", "demonstration", "notes", "error", "files", "disclaimer")
SHOWN = 30  # rows in a notebook
P = TypeVar("P", bound=Prediction)
Row = dict[str, Any]


def settings_of(provenance: Provenance, options: Mapping[str, Any]) -> Row:
    """What all rows of a batch share. ``options``: as :func:`zoo.options.record` gives them."""
    return {
        "model": provenance.model,
        "version": f"{provenance.distribution} {provenance.version}".strip(),
        "weights": provenance.weights,
        "revision": provenance.revision,
        "options": json.dumps(dict(options), ensure_ascii=False),
        "disclaimer": provenance.disclaimer,
    }


def row(
    prediction: Prediction,
    *,
    input: str | None = None,
    files: Iterable[str | os.PathLike[str]] = (),
    settings: Row | None = None,
) -> Row:
    """The row of a prediction by column: numbers as numbers, what isn't there as None.

    An input that is unlike the training images has no label and no numbers. ``input``: as the user named it.
    ``settings``: of the batch, see :func:`settings_of`; else the prediction's own.
    """
    found = {} if prediction.unlike else prediction.quantities()
    return {
        "input": prediction.source if input is None else input,
        **(settings_of(prediction.provenance, prediction.options) if settings is None else settings),
        "label": None,
        "label_name": None,
        **found,
        "unlike": None if prediction.domain is None else prediction.unlike,
        "demonstration": prediction.demonstration,
        "notes": "; ".join(prediction.notes),
        "error": None,
        "files": "; ".join(Path(path).name for path in files),
    }


def failure(input: str, error: BaseException, settings: Row) -> Row:
    """The row of an input that gave an error."""
    return {"input": input, **settings, "error": " ".join(str(error).split())}


def begin(
    folder: str | os.PathLike[str], settings: Row, names: Collection[str], *, resume: bool
) -> tuple[Table, dict[str, Row]]:
    """The table of a folder, and the rows of those inputs that need no second run.

    With ``resume`` an input counts as done when its row has no error and its files are there; any other run makes all
    of its inputs anew. Rows of inputs that will be made leave the table; those of other inputs stay.

    Raises ``OptionError`` where a file of this name is no such table, and where rows were made with other settings.
    """
    table, done = Table(Path(folder) / FILE), dict[str, Row]()
    known = {cell(name): name for name in names}
    rows = table.rows()
    for one in rows if resume else ():
        name = known.get(one["input"])
        if name is None or one.get("error"):
            continue
        for what in SETTINGS:
            if one.get(what, "") != cell(settings[what]):
                raise OptionError(
                    f"{table.path} was made with {what} {one.get(what) or 'none'}, not {settings[what] or 'none'}; "
                    "leave out --resume, or choose another folder with --out"
                )
        if all(table.path.with_name(file).exists() for file in files_of(one)):
            done[name] = one
    if any(one["input"] in known and known[one["input"]] not in done for one in rows):
        table.keep(lambda one: one["input"] not in known or known[one["input"]] in done)
    return table, done


def files_of(row: Mapping[str, Any]) -> list[str]:
    """The names of the files that a row speaks of."""
    return [name for name in (row.get("files") or "").split("; ") if name]


class Table:
    """A CSV file of rows, in UTF-8, a line each. Several processes may append to it where the system has file locks."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def rows(self) -> list[Row]:
        """The whole rows by column, as text; none where there is no file.

        Raises ``OptionError`` for a file that isn't such a table.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OptionError(f"can't read {self.path}: {error.strerror}; choose another folder with --out") from error
        whole = content[: content.rfind(b"\n") + 1]  # a line that was cut off in writing is none
        try:
            found = list(csv.DictReader(io.StringIO(whole.decode("utf-8-sig"), newline=""), restval=""))
        except (csv.Error, UnicodeDecodeError):
            found = [{}]
        if any(not {"input", "model", "error"} <= one.keys() or None in one for one in found):
            raise OptionError(f"{self.path} is no table of predictions; rename it or choose another folder with --out")
        return found

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; a column that the file hasn't yet is added to all. Raises ``OptionError`` on a full disk."""
        with self._locked():
            columns = self._columns()
            if columns is None or any(name not in columns for name in row):
                self._write([*self.rows(), row], columns or ())
                return
            line = _line(row.get(name) for name in columns)
            try:
                with open(self.path, "r+b", buffering=0) as file:
                    end = _end_of_rows(file)
                    file.truncate(end)
                    file.seek(end)
                    if file.write(line) != len(line):  # a disk that fills up takes a part
                        file.truncate(end)
                        raise OSError(28, "No space left on device")
            except OSError as error:
                raise OptionError(
                    f"can't write to {self.path}: {error.strerror}; free some space and go on with --resume"
                ) from error

    def keep(self, wanted: Callable[[Row], bool]) -> None:
        """Remove all rows but the wanted ones."""
        with self._locked():
            self._write([one for one in self.rows() if wanted(one)], self._columns() or ())

    def _columns(self) -> list[str] | None:
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as file:
                return next(csv.reader(file), None)
        except (FileNotFoundError, csv.Error, UnicodeDecodeError):
            return None  # rows() says what is wrong

    def _write(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        columns = ordered(columns, rows)
        lines = [_line(columns), *(_line(one.get(name) for name in columns) for one in rows)]
        write_file(self.path, b"".join(lines))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, by a lock on the folder that leaves no file behind."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            import fcntl
        except ImportError:  # Windows: one process writes
            yield
            return
        handle = os.open(self.path.parent, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class Results(list[P]):
    """The predictions of ``zoo.predict``, one for each input."""

    def to_frame(self) -> Any:
        """A ``pandas.DataFrame`` with the columns of ``predictions.csv`` but ``error`` and ``files``.

        Raises ``MissingExtraError`` without pandas.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtraError("to_frame", "pandas", "tabular") from None
        columns, rows = self._table()
        return pandas.DataFrame([[one.get(name) for name in columns] for one in rows], columns=list(columns))

    def _table(self) -> tuple[list[str], list[Row]]:
        rows = [row(one) for one in self]
        return [name for name in ordered((), rows) if name not in ("error", "files")], rows

    def __repr__(self) -> str:
        models = sorted({one.provenance.model for one in self})
        return f"<{len(self)} predictions{' by ' if models else ''}{', '.join(models)}>"

    def _repr_html_(self) -> str:
        columns, rows = self._table()
        shared = {"model", "version", "weights", "revision", "options", "unlike", "demonstration", "disclaimer"}
        columns = [name for name in columns if name not in shared and any(_shown(one.get(name)) for one in rows)]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_shown(one.get(name)))}</td>" for name in columns) + "</tr>"
            for one in rows[:SHOWN]
        )
        more = f"<p>and {len(rows) - SHOWN} more</p>" if len(rows) > SHOWN else ""
        said = "; ".join(sorted({one.footer for one in self}))
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"{table}{more}<p><em>{html.escape(said)}</em></p>"


def ordered(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """All columns of rows: what is known of every input first and last, and between them the numbers as they came."""
    found = dict.fromkeys([*columns, *(name for one in rows for name in one)])
    return [*FIRST, *(name for name in found if name not in FIRST and name not in LAST), *LAST]


def cell(value: Any) -> str:
    """A value as the table holds it: one line, and nothing that a spreadsheet would run as a formula."""
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(round(value, 6))
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "-", "@") else text


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else cell(value)


def _line(values: Iterable[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([cell(value) for value in values])
    return text.getvalue().encode()


def _end_of_rows(file: io.FileIO) -> int:
    """Where the last whole line ends."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        block = file.read(end - start)
        if (place := block.rfind(b"\n")) >= 0:
            return start + place + 1
        end = start
    return 0
