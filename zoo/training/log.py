"""The numbers of a run, as CSV and for TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoo.storage import write_file


class MetricLog:
    """Rows of numbers per step in ``<folder>/<stage>.csv``; columns may join later. Without a folder, nothing."""

    def __init__(self, folder: Path | None, stage: str, *, tensorboard: bool = True) -> None:
        self.folder = folder
        self.stage = stage
        self._with_tensorboard = tensorboard
        self._columns = ["step"]
        self._file: io.TextIOBase | None = None
        self._tensorboard: Any = None

    @property
    def path(self) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.stage}.csv"

    def truncate(self, step: int) -> None:
        """Forget the rows from ``step`` on, which a resumed run writes again."""
        if self.folder is None:
            return
        rows = []
        if self.path.is_file():
            with open(self.path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or ["step"])
                # a kill may have cut the last row short; it lies beyond the checkpoint
                rows = [row for row in reader if (row["step"] or "").isdigit() and int(row["step"]) < step]
        self._rewrite(rows)
        if self._with_tensorboard:
            self._start_tensorboard(step)

    def read(self) -> list[dict[str, str]]:
        """The rows as text; columns that a row lacks are empty."""
        if self.folder is None or not self.path.is_file():
            return []
        self.flush()
        with open(self.path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        if self.folder is None:
            return
        if new := [name for name in values if name not in self._columns]:
            self.flush()
            with open(self.path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self._columns += new
            self._rewrite(rows)
        self._writer().writerow({"step": step, **values})
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(f"{self.stage}/{name}", value, step)

    def _writer(self) -> csv.DictWriter:
        if self._file is None:
            self._file = open(self.path, "a", newline="", encoding="utf-8")  # noqa: SIM115
        return csv.DictWriter(self._file, self._columns, restval="", lineterminator="\n")

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        self._close_file()
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_file(self.path, text.getvalue())

    def _start_tensorboard(self, step: int) -> None:
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            assert self.folder is not None
            self._tensorboard = SummaryWriter(
                str(self.folder / "tensorboard" / self.stage), purge_step=step, max_queue=10_000
            )

    def __enter__(self) -> MetricLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._close_file()
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def number(value: Any) -> float:
    """A number, or a tensor of one element, which may still be part of a graph."""
    return float(value.detach() if hasattr(value, "detach") else value)
