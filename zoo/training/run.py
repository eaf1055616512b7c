"""What a training procedure needs around its update rule: devices, progress, metrics, checkpoints, exact resume.

The procedure stays in the plugin and reads top to bottom::

    def train(recipe: Recipe, data: TrainData, run: Run) -> Model:
        run.stage("network")                               # seeds the global generators
        model = MyModel(recipe.config)
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
        net, optimizer = run.track(model=model, optimizer=optimizer)
        for step in run.steps(recipe.steps):               # goes on where a killed run stopped
            index = run.indices(len(data.train), recipe.batch_size, step)
            rng = run.generator("crop", step)              # the same numbers in every run of this seed
            loss = criterion(net(images[index]), masks[index])
            optimizer.zero_grad()
            run.backward(loss)
            optimizer.step()
            run.log(loss=loss)
        return model

A resumed run equals one that was never interrupted, bit for bit on the CPU, if everything that changes from step to
step is tracked (or kept) and every random draw comes from the global generators of torch, NumPy and Python or from
``run.generator``.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import DataError, MissingExtraError, OptionError, WeightsError
from zoo.progress import Bar
from zoo.seeds import derive_seed, rng_state, seed_everything, set_rng_state
from zoo.storage import remove_folder, remove_leftovers, write_file

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator


class Run:
    """One training run, on one process or many (``accelerate launch``).

    ``out``: folder for ``run.json``, ``metrics/*.csv`` and ``checkpoints/``; ``None`` keeps nothing on disk.
    ``identity``: plain facts (model, recipe, data, ...) that a resumed run must share with the one it continues.
    ``device``: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. ``mixed_precision`` (``no|fp16|bf16``) and
    ``gradient_accumulation`` are Accelerate's; ``None`` leaves them to ``accelerate launch``.
    A checkpoint is written every ``checkpoint_every`` steps if given, else every ``checkpoint_seconds``.
    ``engine`` says where a federated training runs its clients, and ``source`` holds the plain facts from which another
    process comes to the same recipe and data.

    Raises ``OptionError`` when ``out`` holds another run, or one to resume that isn't this one.
    """

    def __init__(
        self,
        out: str | Path | None = None,
        *,
        seed: int = 0,
        device: str = "auto",
        resume: bool = False,
        identity: Mapping[str, Any] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_seconds: float = 300.0,
        mixed_precision: str | None = None,
        gradient_accumulation: int | None = None,
        progress: bool = True,
        engine: str = "local",
        source: Mapping[str, Any] | None = None,
    ) -> None:
        self.seed = int(seed)
        self.engine = engine
        self.source = source
        self.out = None if out is None else Path(out)
        self.checkpoint_every = checkpoint_every
        self.checkpoint_seconds = checkpoint_seconds
        self.accelerator: Accelerator = _accelerator(device, mixed_precision, gradient_accumulation)
        self.progress = progress and self.accelerator.is_main_process
        self.step = 0  # steps completed in the current stage
        self._stage = ""
        self._stages: list[str] = []
        self._tracked: dict[str, Any] = {}
        self._log: MetricLog | None = None
        self._stop = False
        self._interrupted = False
        self._active: Iterator[int] | None = None
        self._order: tuple[Any, np.ndarray] | None = None
        self._seed_globally("start")  # for a procedure that builds its network before it names a stage
        if self.out is not None:
            if self.accelerator.is_main_process:
                _claim_folder(self.out, {**(identity or {}), "seed": self.seed}, resume)
                for folder in (self.out, self.out / "metrics", self.checkpoints):
                    remove_leftovers(folder)
            self.accelerator.wait_for_everyone()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End an unfinished loop: its progress bar, signal handlers and log files."""
        if self._active is not None:
            self._active.close()  # type: ignore[attr-defined]

    # ---- where ------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.accelerator.is_main_process

    @property
    def checkpoints(self) -> Path:
        assert self.out is not None
        return self.out / "checkpoints"

    # ---- chance -----------------------------------------------------------------------------------------------

    def generator(self, *key: int | str) -> np.random.Generator:
        """Random numbers that depend on the run's seed and ``key`` alone, not on what was drawn before."""
        return np.random.default_rng(derive_seed(self.seed, *key))

    def indices(self, n: int, batch_size: int, step: int, *, key: str = "order") -> np.ndarray:
        """Which of ``n`` items this process takes at ``step``, as ``[b]`` integers.

        The items come in a fresh random order each epoch and batches run on across its end, so ``n`` need not be a
        multiple of ``batch_size``. With several processes ``batch_size`` is that of all together.
        """
        return self._share(self._global_indices(n, batch_size, step, key))

    def _global_indices(self, n: int, batch_size: int, step: int, key: str) -> np.ndarray:
        if n < 1:
            raise DataError("the training set is empty")
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        picked = np.empty(batch_size, dtype=np.int64)
        for epoch in np.unique(positions // n):
            here = positions // n == epoch
            picked[here] = self._permutation(n, key, int(epoch))[positions[here] % n]
        return picked

    def _permutation(self, n: int, key: str, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != (n, key, epoch):
            self._order = ((n, key, epoch), self.generator(key, epoch).permutation(n))
        return self._order[1]

    def _share(self, batch: Any) -> Any:
        world = self.accelerator.num_processes
        if len(batch) % world:
            raise OptionError(f"a batch of {len(batch)} can't be shared equally by {world} processes")
        return batch[self.accelerator.process_index :: world]

    # ---- what ---------------------------------------------------------------------------------------------------

    def stage(self, name: str) -> None:
        """Begin a part of the training with its own loop. Its random numbers depend on the seed and ``name`` alone.

        On resume, the loop of a finished stage makes no step, and what it tracked comes back as it ended, except
        optimisers.
        """
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise ValueError(f"stage name {name!r} must be letters, digits, '.', '-' or '_'")
        if name in self._stages:
            raise ValueError(f"this run already had a stage {name!r}")
        self._stages.append(name)
        self._stage = name
        self._tracked = {}
        self.step = 0
        self._seed_globally(name)

    def finished(self, stage: str) -> bool:
        """Whether this run, or the one it resumes, has a stage behind it."""
        return self.out is not None and (self.checkpoints / f"{stage}-done").is_dir()

    def track(self, **objects: Any) -> Any:
        """Give modules and optimisers to Accelerate, and everything given to the checkpoints; returns them in order.

        Modules move to the run's device. Schedulers (built on the optimiser before it's tracked) and anything else
        with ``state_dict`` and ``load_state_dict`` are only stored.
        """
        import torch

        ready = tuple(
            self.accelerator.prepare(item) if isinstance(item, (torch.nn.Module, torch.optim.Optimizer)) else item
            for item in objects.values()
        )
        self.keep(**dict(zip(objects, ready, strict=True)))
        return ready[0] if len(ready) == 1 else ready

    def keep(self, **objects: Any) -> None:
        """Store objects with ``state_dict`` and ``load_state_dict`` in the checkpoints, otherwise left alone."""
        if not self._stage:
            self.stage("training")
        for name, item in objects.items():
            if not (hasattr(item, "state_dict") and hasattr(item, "load_state_dict")):
                raise TypeError(f"{name} has no state_dict and load_state_dict, so it can't be tracked")
            if name in self._tracked:
                raise ValueError(f"the stage {self._stage!r} already tracks a {name!r}")
            self._tracked[name] = item

    def unwrap(self, module: torch.nn.Module) -> Any:
        """The module that was given to ``track``, without Accelerate's wrapping."""
        return self.accelerator.unwrap_model(module, keep_fp32_wrapper=False)

    # ---- the loop -----------------------------------------------------------------------------------------------

    def steps(self, total: int, *, description: str | None = None) -> Iterator[int]:
        """Yields ``0 .. total - 1``, from where a resumed run stopped, with progress and checkpoints in between.

        Track everything before. Ctrl-C ends the loop after the current step, with a checkpoint; a second one at once.
        """
        if not self._stage:
            self.stage("training")
        loop = self._steps(int(total), description or self._stage)
        self._active = loop
        return loop

    def _steps(self, total: int, description: str) -> Iterator[int]:
        self._stop = False
        finished = self._restore()
        if finished:
            self._seed_globally(self._stage, "done")
            return
        self._log = MetricLog(None if self.out is None or not self.is_main else self.out / "metrics", self._stage)
        self._log.truncate(self.step)
        bar = Bar(description, total, self.step, enabled=self.progress)
        last_saved = time.monotonic()
        with _Signals(self), bar, self._log:
            self._bar = bar
            while self.step < total and not self._stop:
                yield self.step
                self.step += 1
                bar.update(self.step)
                if self._interrupted:
                    self._save_position()
                    where = f"; resume it from {self.out}" if self.out else ""
                    raise KeyboardInterrupt(f"stopped after step {self.step} of {total} ({self._stage}){where}")
                if self.step < total and not self._stop and self._due(last_saved):
                    self._save_position()
                    last_saved = time.monotonic()
        self._finish_stage()
        self._seed_globally(self._stage, "done")

    def batches(
        self,
        load: Callable[[int, np.random.Generator], Any],
        n: int,
        batch_size: int,
        steps: int,
        *,
        workers: int = 0,
        description: str | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """``steps`` together with batches of ``load(index, rng)``, collated and on the device, as ``(step, batch)``.

        ``load`` returns tensors, arrays, numbers, or tuples and dicts of them; all it draws must come from ``rng``,
        which depends on seed, step and place in the batch alone. ``workers`` processes load ahead.
        """
        from accelerate.utils import send_to_device
        from torch import Generator
        from torch.utils.data import DataLoader

        loader: Iterator[Any] | None = None
        for step in self.steps(steps, description=description):
            if loader is None:  # only now is the position known
                loader = iter(
                    DataLoader(
                        _Items(load, self.seed),  # type: ignore[arg-type]
                        batch_sampler=_Order(self, n, batch_size, step, steps),  # type: ignore[arg-type]
                        num_workers=workers,
                        generator=Generator(),  # its own: the loader must not draw from the global one
                    )
                )
            yield step, send_to_device(next(loader), self.device)

    def stop(self) -> None:
        """End the loop after the current step, as if it were the last: for early stopping."""
        self._stop = True

    def backward(self, loss: torch.Tensor) -> None:
        """``loss.backward()``, scaled and synchronised as mixed precision and several processes need it."""
        self.accelerator.backward(loss)

    def accumulate(self, *modules: torch.nn.Module) -> AbstractContextManager[Any]:
        """Within it, tracked optimisers step only every ``gradient_accumulation`` times."""
        return self.accelerator.accumulate(*modules)

    def log(self, **scalars: Any) -> None:
        """Note numbers at the current step: in ``metrics/<stage>.csv``, beside the progress bar, and in TensorBoard."""
        if not self.is_main or self._log is None:
            return
        values = {name: _number(value) for name, value in scalars.items()}
        self._log.write(self.step, values)
        self._bar.show(values)

    def show(self, renderable: Any) -> None:
        """Put something of rich's, such as a table, above the progress bar in place of what was there."""
        if self.is_main and self._log is not None:
            self._bar.above(renderable)

    # ---- checkpoints --------------------------------------------------------------------------------------------

    def _due(self, last_saved: float) -> bool:
        if self.out is None or not self.accelerator.sync_gradients:  # not between accumulated gradients
            return False
        if self.checkpoint_every is not None:
            return self.step % self.checkpoint_every == 0
        late = time.monotonic() - last_saved >= self.checkpoint_seconds
        if self.accelerator.num_processes == 1:
            return late
        if self.step % 20:  # asking the main process' clock costs a message
            return False
        from accelerate.utils import broadcast_object_list

        return bool(broadcast_object_list([late])[0])

    def _save_position(self) -> None:
        if self.out is None:
            return
        from accelerate.utils import gather_object

        from zoo.training import checkpoint

        states = gather_object([{"rng": rng_state()}])
        if self.is_main:
            if self._log is not None:
                self._log.flush()
            target = self.checkpoints / f"{self._stage}-{self.step:09d}"
            state: dict[str, Any] = {
                "step": self.step,
                "tracked": {name: self._state_of(item) for name, item in self._tracked.items()},
                "rng": [state["rng"] for state in states],
                "accumulated": self.accelerator.step,
            }
            if self.accelerator.scaler is not None:
                state["scaler"] = self.accelerator.scaler.state_dict()
            checkpoint.save(target, state)
            self._remove_positions(but=target)
        self.accelerator.wait_for_everyone()

    def _finish_stage(self) -> None:
        """Keep what the stage made. Optimisers, which may be twice the size of the network, have done their work."""
        if self.out is None:
            return
        import torch

        from zoo.training import checkpoint

        if self.is_main:
            kept = {
                name: self._state_of(item)
                for name, item in self._tracked.items()
                if not isinstance(item, torch.optim.Optimizer)
            }
            checkpoint.save(self.checkpoints / f"{self._stage}-done", {"step": self.step, "tracked": kept})
            self._remove_positions()
        self.accelerator.wait_for_everyone()

    def _restore(self) -> bool:
        """Bring the tracked objects to where the last run left this stage; whether it had finished it."""
        self.step = 0
        if self.accelerator.process_index:  # processes draw different noise; generators shared by all are run.generator
            self._seed_globally(self._stage, self.accelerator.process_index)
        if self.out is None:
            return False
        from zoo.training import checkpoint

        done = self.checkpoints / f"{self._stage}-done"
        if done.is_dir():
            state = checkpoint.load(done)
            self._load_tracked(state["tracked"], done)
            self.step = state["step"]
            return True
        positions = self._positions()
        if not positions:
            return False
        state = checkpoint.load(positions[-1])
        missing = self._tracked.keys() ^ state["tracked"].keys()
        if missing:
            raise WeightsError(
                f"the checkpoint {positions[-1]} and this training differ in {', '.join(sorted(missing))}; "
                "it was made by another version of the procedure, so start again in another folder"
            )
        self._load_tracked(state["tracked"], positions[-1])
        self.step = state["step"]
        self.accelerator.step = state["accumulated"]
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.accelerator.process_index < len(state["rng"]):
            set_rng_state(state["rng"][self.accelerator.process_index])
        return False

    def _load_tracked(self, states: Mapping[str, Any], source: Path) -> None:
        import torch

        for name, state in states.items():
            item = self._tracked.get(name)
            try:
                if isinstance(item, torch.nn.Module):
                    item = self.unwrap(item)
                item.load_state_dict(state)  # type: ignore[union-attr]
            except (RuntimeError, ValueError, KeyError, AttributeError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise WeightsError(f"{name} in the checkpoint {source} doesn't fit this training: {reason}") from error

    def _state_of(self, item: Any) -> Any:
        import torch

        return (self.unwrap(item) if isinstance(item, torch.nn.Module) else item).state_dict()

    def _positions(self) -> list[Path]:
        """This stage's checkpoints, oldest first: more than one only if a kill came between a write and a removal."""
        name = re.compile(re.escape(self._stage) + r"-\d{9}")
        return sorted(path for path in self.checkpoints.glob("*") if name.fullmatch(path.name))

    def _remove_positions(self, but: Path | None = None) -> None:
        for path in self._positions():
            if path != but:
                remove_folder(path)

    def _seed_globally(self, *key: int | str) -> None:
        seed_everything(derive_seed(self.seed, *key))


class EarlyStopping:
    """Watches one number, remembers when it was best and, if given, the module's weights at that moment.

    stopping = EarlyStopping(patience=5, module=net)    # net before or after it's tracked
    run.keep(stopping=stopping)                        # its memory survives a resume
    ...
    if stopping.update(dice):                          # True: not improved for `patience` updates
        run.stop()
    ...
    stopping.restore()                                 # the module as it was at its best
    """

    def __init__(
        self, patience: int, *, maximise: bool = True, min_delta: float = 0.0, module: torch.nn.Module | None = None
    ) -> None:
        self.patience = patience
        self.maximise = maximise
        self.min_delta = min_delta
        self.module = module
        self.best: float | None = None
        self.since_best = 0
        self._weights: dict[str, Any] | None = None

    def update(self, value: float) -> bool:
        """Note ``value``; whether it's time to stop. A NaN never counts as better."""
        value = _number(value)
        gain = value - self.best if self.best is not None else np.inf
        if not self.maximise and self.best is not None:
            gain = -gain
        if gain > self.min_delta and not np.isnan(value):
            self.best, self.since_best = value, 0
            if self.module is not None:
                self._weights = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def restore(self) -> None:
        """Put the best weights back into the module, if any were remembered."""
        if self.module is not None and self._weights is not None:
            self.module.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "since_best": self.since_best, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.since_best, self._weights = state["best"], state["since_best"], state["weights"]


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

    def _writer(self) -> csv.DictWriter[str]:
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


class _Signals:
    """Turns the first SIGINT or SIGTERM into a wish that the loop fulfils between two steps."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        # Several processes would hear of it at different steps and wait for each other for ever.
        single = self.run.accelerator.num_processes == 1
        if single and self.run.out is not None and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        if self.run._interrupted:
            raise KeyboardInterrupt
        self.run._interrupted = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


class _Items:
    """What a loader worker needs: the user's function and the seed, not the whole run."""

    def __init__(self, load: Callable[[int, np.random.Generator], Any], seed: int) -> None:
        self.load = load
        self.seed = seed

    def __getitem__(self, key: tuple[int, int, int]) -> Any:
        step, place, index = key
        return self.load(index, np.random.default_rng(derive_seed(self.seed, "item", step, place)))


class _Order:
    """The batches from step ``start`` on, as ``(step, place, index)`` triples."""

    def __init__(self, run: Run, n: int, batch_size: int, start: int, end: int) -> None:
        self.arguments = (run, n, batch_size, start, end)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        run, n, batch_size, start, end = self.arguments
        for step in range(start, end):
            picked = run._global_indices(n, batch_size, step, "order")
            yield run._share([(step, place, int(index)) for place, index in enumerate(picked)])


def _number(value: Any) -> float:
    """A number, or a tensor of one element, which may still be part of a graph."""
    return float(value.detach() if hasattr(value, "detach") else value)


def _accelerator(device: str, mixed_precision: str | None, gradient_accumulation: int | None) -> Accelerator:
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, GradientState
    except ImportError as error:
        raise MissingExtraError("training", "accelerate", "train") from error
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise OptionError(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise OptionError(f"device {device} isn't there: torch sees {torch.cuda.device_count()} CUDA devices")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        # Accelerate keeps the first run's device and precision for the whole process; each run here has its own.
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    variable = "ACCELERATE_TORCH_DEVICE"
    before = os.environ.get(variable)
    if ":" in device:
        os.environ[variable] = device
    try:
        accumulation = {} if gradient_accumulation is None else {"gradient_accumulation_steps": gradient_accumulation}
        return Accelerator(cpu=device == "cpu", mixed_precision=mixed_precision, **accumulation)
    except (ValueError, ImportError) as error:
        raise OptionError(f"Accelerate refuses these settings: {error}") from error
    finally:
        if ":" in device:
            os.environ.pop(variable)
            if before is not None:
                os.environ[variable] = before


def _claim_folder(out: Path, identity: Mapping[str, Any], resume: bool) -> None:
    """Make ``out`` this run's folder, or make sure that it is."""
    identity = json.loads(json.dumps(identity))
    path = out / "run.json"
    if path.is_file():
        if not resume:
            raise OptionError(f"{out} already holds a training run; resume it, or choose another folder")
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged, so the run can't be resumed; choose another folder") from error
        if differences := _differences(stored, identity):
            shown = "; ".join(f"{name} was {a!r}, now {b!r}" for name, a, b in differences[:3])
            raise OptionError(f"{out} can't be resumed, it holds another run: {shown}")
        return
    write_file(path, json.dumps({"identity": identity}, indent=2) + "\n")


def _differences(a: Any, b: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Where two nests of plain data differ, in order, by dotted name."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(key for key in b if key not in a)]
        return [
            found for key in keys for found in _differences(a.get(key), b.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if a == b else [(name, a, b)]
