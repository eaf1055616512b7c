"""A batch of predictions on a Ray cluster: ``zoo predict --engine ray``. Needs the extra ``cluster``.

The batch is a data set of Ray Data. Every worker, an actor with a GPU or a group of cores, loads the model once;
results come back as files and rows, and the process that started the batch writes each of them once, under names that
are settled before. A worker that dies is started again and asked again, so nothing is lost; what kills its worker time
after time fails alone.

Inputs are paths that every machine sees, ``sample:`` and ``phantom:`` names, or what fsspec reads, such as
``s3://bucket/scans/*.dcm``.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import extras
from zoo.errors import MediaError, MissingExtraError, OptionError, ZooError
from zoo.media.files import silent_stderr
from zoo.plugin import Form
from zoo.results import Row, Table
from zoo.storage import write_file
from zoo.text import printable, strict_json

ENGINES = ("local", "ray")
CORES = 4
"""Of a worker without a GPU."""
RETRIES = 3
"""How often a batch of inputs is given to another worker after the one that had it died."""

_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+)://.+", re.IGNORECASE)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Told:
    """What came of an input: its row, its record, and the files that were written."""

    row: Row
    record: Mapping[str, Any]
    summary: str
    notes: tuple[str, ...]
    written: tuple[Path, ...]


@dataclass(frozen=True)
class Job:
    """What all workers are told."""

    model: str
    weights: str | None
    device: str
    options: Mapping[str, Any]
    settings: Row
    figure: bool
    form: Form
    taken: frozenset[str]
    batch_size: int
    cores: int


# ---- inputs ---------------------------------------------------------------------------------------------------------


def is_url(name: str) -> bool:
    """Whether fsspec is asked for it: a name with ``://`` that isn't the zoo's own."""
    return bool(_URL.fullmatch(name)) and not name.startswith("hf://")


def expand(url: str) -> list[str]:
    """The files that an address stands for: itself, those that a pattern matches, or those of a folder.

    Raises ``MediaError`` for one that holds nothing, ``MissingExtraError`` for a file system that needs a library.
    """
    from zoo.media.inputs import natural_key

    system, path = _opened(url)
    try:
        if any(c in path for c in "*?["):
            found = [one for one in system.glob(path) if _is_image(one)]
        elif system.isdir(path):
            found = [one for one in system.ls(path, detail=False) if _is_image(one)]
        elif system.exists(path):
            return [url]
        else:
            raise MediaError(f"can't read {url}: it doesn't exist; check the address")
    except MediaError:
        raise
    except Exception as error:  # every file system has its own
        raise MediaError(f"can't read {url}: {printable(error, 200) or type(error).__name__}") from error
    names = [system.unstrip_protocol(one) for one in sorted(found, key=natural_key)]
    if not names:
        raise MediaError(f"can't read {url}: it holds no images; check the address")
    return names


def _is_image(path: str) -> bool:
    """By its name: nothing is fetched for it."""
    from zoo.media.sniff import SUFFIXES, is_litter, suffix

    return suffix(path) in SUFFIXES and not is_litter(os.path.basename(path))


def _opened(url: str) -> tuple[Any, str]:
    extras.require(("cluster",), "an input with ://")
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        library = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(url.partition(":")[0].lower(), "")
        raise MissingExtraError(url, library or printable(error, 80), "cluster") from None
    except ValueError as error:
        raise MediaError(f"can't read {url}: {printable(error, 200)}") from error


@contextmanager
def _fetched(name: str) -> Iterator[str]:
    """A path to read; what lies elsewhere is copied into a folder of its own for as long as it takes."""
    if not is_url(name):
        yield name
        return
    system, path = _opened(name)
    with tempfile.TemporaryDirectory(prefix="zoo-input-") as folder:
        local = os.path.join(folder, os.path.basename(path.rstrip("/")))
        try:
            system.get_file(path, local)
        except Exception as error:
            raise MediaError(f"can't read {name}: {printable(error, 200) or type(error).__name__}") from error
        yield local


# ---- the batch ------------------------------------------------------------------------------------------------------


def predict_each(
    job: Job, inputs: Mapping[int, Any], names: Mapping[int, str], stems: Mapping[int, str], out: Path, *,
    address: str | None = None, workers: int | None = None,
) -> Iterator[tuple[int, Told | ZooError]]:  # fmt: skip
    """What comes of each input, by its place, in no order; the files are in ``out`` by then.

    ``inputs``: what a model takes, ``names``: as they are told of. ``address``: of a running cluster, ``auto`` for the
    one that this machine belongs to, None for one of this machine alone. ``workers``: by default one for each GPU, or
    for every ``CORES`` cores. Raises ``OptionError`` for a cluster that can't be reached, ``MissingExtraError``.
    """
    extras.require(("cluster",), "--engine ray")
    if not inputs:
        return
    with connected(address) as resources:
        left = dict(inputs)
        for item in _stream(job, inputs, stems, resources, workers):
            place = item["place"]
            if place not in left:  # told before by a worker that died afterwards
                continue
            del left[place]
            told = strict_json(item["told"])
            if "error" in told:
                yield place, ZooError(told["error"])
                continue
            written = []
            for name, content in zip(item["names"], item["contents"], strict=True):
                write_file(out / name, content)
                written.append(out / name)
            row = {**told["row"], "input": names[place]}
            yield place, Told(row, told["record"], told["summary"], tuple(told["notes"]), tuple(written))
        for place in left:
            yield place, ZooError(f"{names[place]}: its worker died {RETRIES + 1} times; look at the memory it takes")


@contextmanager
def connected(address: str | None) -> Iterator[dict[str, float]]:
    """The resources of a cluster that is connected to; one of this machine ends with the batch."""
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    import ray

    own = not ray.is_initialized()
    if own:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it would tell of its inner life on stderr
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without a GPU sees those there are
        try:
            more: dict[str, Any] = {} if address else {"include_dashboard": False}
            with silent_stderr():
                ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **more)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = printable(str(error).strip().partition("\n")[0], 160)
            raise OptionError(f"can't reach a Ray cluster at {address}: {reason}; leave out --address") from error
    try:
        yield ray.cluster_resources()
    finally:
        if own:
            ray.shutdown()


def _stream(
    job: Job, inputs: Mapping[int, Any], stems: Mapping[int, str], resources: Mapping[str, float], workers: int | None
) -> Iterator[dict[str, Any]]:
    import ray
    from ray import cloudpickle

    gpus = int(resources.get("GPU", 0)) if job.device != "cpu" else 0
    cpus = max(1, int(resources.get("CPU", 1)))
    count = workers or gpus or max(1, cpus // CORES)
    count = min(count, len(inputs), gpus or cpus)
    cores = max(1, min(CORES, cpus // count))
    need: dict[str, Any] = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_gpus": 0, "num_cpus": min(cores, cpus)}
    _log.info("%d workers, each with %s", count, "a GPU" if gpus else f"{cores} cores")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # a batch that kills its workers doesn't end the others
    context.log_internal_stack_trace_to_stdout = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = [{"place": place, "input": cloudpickle.dumps(one), "stem": stems[place]} for place, one in inputs.items()]
    # a worker that dies loses what it had in hand: few inputs, but not so few that their number is the work
    rows = max(job.batch_size, min(64, -(-len(items) // (4 * count))))
    data = ray.data.from_items(items, override_num_blocks=-(-len(items) // rows))
    told = data.map_batches(
        Worker, batch_size=None, batch_format="pyarrow", concurrency=count,
        fn_constructor_args=[Job(**{**vars(job), "cores": cores})], max_restarts=-1, max_task_retries=RETRIES, **need,
    )  # fmt: skip
    yield from told.iter_rows()


class Worker:
    """Holds the model and predicts on some inputs at a time; files come back as bytes, for nobody shares a disk."""

    def __init__(self, job: Job) -> None:
        import torch

        from zoo import inference, progress

        progress.silence()
        torch.set_num_threads(job.cores)
        self.job = job
        self.model = inference.load(job.model, weights=job.weights, device=job.device)
        self.folder = Path(tempfile.mkdtemp(prefix="zoo-worker-"))

    def __call__(self, batch: Any) -> Any:
        import json

        import pyarrow

        found = []
        rows = batch.to_pylist()
        for start in range(0, len(rows), self.job.batch_size):
            found += self._some(rows[start : start + self.job.batch_size])
        return pyarrow.table(
            {
                "place": pyarrow.array([place for place, _, _ in found], pyarrow.int64()),
                "told": pyarrow.array([json.dumps(told) for _, told, _ in found], pyarrow.large_string()),
                "names": pyarrow.array([list(files) for _, _, files in found], pyarrow.list_(pyarrow.string())),
                "contents": pyarrow.array(
                    [list(files.values()) for _, _, files in found], pyarrow.large_list(pyarrow.large_binary())
                ),
            }
        )

    def _some(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, dict[str, Any], dict[str, bytes]]]:
        from contextlib import ExitStack

        from ray import cloudpickle

        from zoo import inference

        found: list[tuple[int, dict[str, Any], dict[str, bytes]]] = []
        with ExitStack() as stack:
            local: list[Any] = []
            good: list[tuple[Mapping[str, Any], Any]] = []
            for row in rows:
                try:
                    given = cloudpickle.loads(row["input"])  # our own, as all that Ray sends
                    local.append(stack.enter_context(_fetched(given)) if isinstance(given, str) else given)
                    good.append((row, given))
                except ZooError as error:
                    found.append((row["place"], {"error": str(error)}, {}))
            outcomes = inference.predict_each(self.model, local, batch_size=len(local) or 1, **self.job.options)
            for (row, given), (one, outcome) in zip(good, outcomes, strict=True):
                found.append((row["place"], *self._told(given, one, row["stem"], outcome)))
        return found

    def _told(self, given: Any, read: Any, stem: str, outcome: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
        from zoo import inference, results
        from zoo.text import finite

        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            if isinstance(outcome, ZooError):
                raise outcome
            if isinstance(given, str) and given != read:  # it was fetched
                outcome.source = given
                for made in outcome.inputs.values():
                    made["source"] = made["source"].replace(str(read), given)
            written = outcome.save(folder, stem, figure=self.job.figure, taken=self.job.taken, format=self.job.form)
            row = results.row(outcome, input="", files=written, settings=self.job.settings)
            told = {"row": row, "record": finite(outcome.to_dict()), "summary": outcome.summary(),
                    "notes": list(outcome.notes)}  # fmt: skip
            return {**told, "row": finite(row)}, {path.name: path.read_bytes() for path in written}
        except ZooError as error:
            return {"error": str(error).replace(str(read), str(given))}, {}
        except Exception as error:
            return {"error": str(inference.unexpected(given, error))}, {}
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def distinct_files(stems: Sequence[str]) -> list[str]:
    """Stems whose files can't meet: ``eye_mask`` beside ``eye`` gets another, for ``eye`` may have a mask.

    One process sees this when it writes; workers that don't know of each other need names that are settled before.
    """
    known = {stem.casefold() for stem in stems}
    found = []
    for stem in stems:
        parts = stem.casefold().split("_")
        meets = any("_".join(parts[:i]) in known and all(re.fullmatch(r"[a-z]+", p) for p in parts[i:])
                    for i in range(1, len(parts)))  # fmt: skip
        found.append(f"{stem}-2" if meets and f"{stem}-2".casefold() not in known else stem)
    return found


def write_parquet(folder: Path, table: Table) -> Path:
    """``predictions.parquet``: the rows of the table beside it, numbers as numbers. Raises ``DataError``."""
    import pyarrow
    from pyarrow import parquet

    from zoo import results

    rows = table.rows()
    texts = {*results.FIRST, *results.LAST} - {"unlike", "demonstration"}
    columns = {
        name: _column([row.get(name) or None for row in rows], text=name in texts) for name in results.ordered((), rows)
    }
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns), sink)
    return write_file(folder / "predictions.parquet", sink.getvalue().to_pybytes())


def _column(values: Sequence[str | None], *, text: bool) -> Any:
    """Numbers, or yes and no, where all are that; else text."""
    import pyarrow

    there = {value for value in values if value is not None}
    if there and not text:
        if there <= {"True", "False"}:
            return pyarrow.array([None if value is None else value == "True" for value in values], pyarrow.bool_())
        with suppress(ValueError):
            return pyarrow.array([None if value is None else float(value) for value in values], pyarrow.float64())
    return pyarrow.array(list(values), pyarrow.string())
