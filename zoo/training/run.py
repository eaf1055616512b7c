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

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import torch

from zoo.errors import DataError, OptionError
from zoo.progress import Bar
from zoo.seeds import derive_seed, seed_everything
from zoo.storage import remove_leftovers
from zoo.training.device import accelerator
from zoo.training.interrupt import Interrupt
from zoo.training.loader import Items, Order
from zoo.training.log import MetricLog, number
from zoo.training.positions import Positions, claim_folder

if TYPE_CHECKING:
    from accelerate import Accelerator
else:
    Accelerator = Any  # of the extra `train`


class Run:
    """One training run, on one process or many (``accelerate launch``).

    ``out``: folder for ``run.json``, ``metrics/*.csv`` and ``checkpoints/``; ``None`` keeps nothing on disk.
    ``identity``: plain facts (model, recipe, data, ...) that a resumed run must share with the one it continues.
    ``device``: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. ``mixed_precision`` (``no|fp16|bf16``) and
    ``gradient_accumulation`` are Accelerate's; ``None`` leaves them to ``accelerate launch``.
    A checkpoint is written every ``checkpoint_every`` steps if given, else every ``checkpoint_seconds``.
    ``seed``: None is 0, and leaves a training that needs secret numbers free to draw its own; see ``seed_given``.
    ``engine`` says where a federated training runs its clients, and ``source`` holds the plain facts from which another
    process comes to the same recipe and data. ``history``, a ``zoo.federated.HistoryPolicy``, is what the server of a
    federated training keeps of its rounds, and ``forget``, a ``zoo.federated.retraining.Request``, whom it leaves out.

    Raises ``OptionError`` when ``out`` holds another run, or one to resume that isn't this one.
    """

    def __init__(
        self,
        out: str | Path | None = None,
        *,
        seed: int | None = None,
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
        history: Any = None,
        forget: Any = None,
    ) -> None:
        self.seed = int(seed or 0)
        self.seed_given = seed is not None
        self.engine = engine
        self.source = source
        self.history = history
        self.forget = forget
        self.out = None if out is None else Path(out)
        self.checkpoint_every = checkpoint_every
        self.checkpoint_seconds = checkpoint_seconds
        self.accelerator: Accelerator = accelerator(device, mixed_precision, gradient_accumulation)
        self.progress = progress and self.accelerator.is_main_process
        self.step = 0  # steps completed in the current stage
        self._stage = ""
        self._stages: list[str] = []
        self._tracked: dict[str, Any] = {}
        self._log: MetricLog | None = None
        self._stop = False
        self._active: Iterator[int] | None = None
        self._order: tuple[Any, np.ndarray] | None = None
        self._positions = None if self.out is None else Positions(self.checkpoints, self.accelerator)
        self._seed_globally("start")  # for a procedure that builds its network before it names a stage
        if self.out is not None:
            if self.accelerator.is_main_process:
                claim_folder(self.out, {**(identity or {}), "seed": self.seed}, resume)
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

    def generator(self, *key: SupportsIndex | str) -> np.random.Generator:
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
        return self._positions is not None and self._positions.finished(stage)

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
        # Several processes would hear of a signal at different steps and wait for each other for ever.
        interrupt = Interrupt(listen=self.out is not None and self.accelerator.num_processes == 1)
        with interrupt, bar, self._log:
            self._bar = bar
            while self.step < total and not self._stop:
                yield self.step
                self.step += 1
                bar.update(self.step)
                if interrupt.asked:
                    self._save_position()
                    where = f"; resume it from {self.out}" if self.out else ""
                    raise KeyboardInterrupt(f"stopped after step {self.step} of {total} ({self._stage}){where}")
                if self.step < total and not self._stop and self._due(last_saved):
                    self._save_position()
                    last_saved = time.monotonic()
        if self._positions is not None:
            self._positions.finish(self._stage, self.step, self._tracked)
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

        def pick(step: int) -> list[tuple[int, int, int]]:
            picked = self._global_indices(n, batch_size, step, "order")
            return self._share([(step, place, int(index)) for place, index in enumerate(picked)])

        loader: Iterator[Any] | None = None
        for step in self.steps(steps, description=description):
            if loader is None:  # only now is the position known
                loader = iter(
                    DataLoader(
                        Items(load, self.seed),  # type: ignore[arg-type]
                        batch_sampler=Order(pick, step, steps),  # type: ignore[arg-type]
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

    def average(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """After ``backward``: the mean over the processes of gradients whose loss passed by what ``track`` returned.

        A loss of that module's own output needs it not, and one process has nothing to average.
        """
        if self.accelerator.num_processes == 1:
            return
        for parameter in parameters:
            if parameter.requires_grad:
                grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.accelerator.reduce(grad, "mean")

    def accumulate(self, *modules: torch.nn.Module) -> AbstractContextManager[Any]:
        """Within it, tracked optimisers step only every ``gradient_accumulation`` times."""
        return self.accelerator.accumulate(*modules)

    def log(self, **scalars: Any) -> None:
        """Note numbers at the current step: in ``metrics/<stage>.csv``, beside the progress bar, and in TensorBoard."""
        if not self.is_main or self._log is None:
            return
        values = {name: number(value) for name, value in scalars.items()}
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
        if self._positions is not None:
            if self._log is not None:
                self._log.flush()
            self._positions.save(self._stage, self.step, self._tracked)

    def _restore(self) -> bool:
        """Bring the tracked objects to where the last run left this stage; whether it had finished it."""
        self.step = 0
        if self.accelerator.process_index:  # processes draw different noise; generators shared by all are run.generator
            self._seed_globally(self._stage, self.accelerator.process_index)
        if self._positions is None:
            return False
        self.step = self._positions.restore(self._stage, self._tracked)
        return self._positions.finished(self._stage)

    def _seed_globally(self, *key: int | str) -> None:
        seed_everything(derive_seed(self.seed, *key))
