"""Where a run stands: the checkpoints of its stages, and the folder that is this run's and no other's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError, OptionError, WeightsError
from zoo.seeds import rng_state, set_rng_state
from zoo.storage import remove_folder, write_file
from zoo.training import checkpoint

if TYPE_CHECKING:
    from accelerate import Accelerator
else:
    Accelerator = Any  # of the extra `train`


class Positions:
    """The checkpoints of one run: the latest of a stage under way, and what a finished stage made."""

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.folder = folder
        self.accelerator = accelerator

    def save(self, stage: str, step: int, tracked: Mapping[str, Any]) -> None:
        """Everything from which ``stage`` goes on after ``step``; an earlier position of it goes."""
        from accelerate.utils import gather_object

        states = gather_object([{"rng": rng_state()}])
        if self.accelerator.is_main_process:
            target = self.folder / f"{stage}-{step:09d}"
            state: dict[str, Any] = {
                "step": step,
                "tracked": {name: self._state_of(item) for name, item in tracked.items()},
                "rng": [state["rng"] for state in states],
                "accumulated": self.accelerator.step,
            }
            if self.accelerator.scaler is not None:
                state["scaler"] = self.accelerator.scaler.state_dict()
            checkpoint.save(target, state)
            self._remove(stage, but=target)
        self.accelerator.wait_for_everyone()

    def finish(self, stage: str, step: int, tracked: Mapping[str, Any]) -> None:
        """Keep what the stage made. Optimisers, which may be twice the size of the network, have done their work."""
        import torch

        if self.accelerator.is_main_process:
            kept = {
                name: self._state_of(item)
                for name, item in tracked.items()
                if not isinstance(item, torch.optim.Optimizer)
            }
            checkpoint.save(self._done(stage), {"step": step, "tracked": kept})
            self._remove(stage)
        self.accelerator.wait_for_everyone()

    def finished(self, stage: str) -> bool:
        return self._done(stage).is_dir()

    def restore(self, stage: str, tracked: Mapping[str, Any]) -> int:
        """Bring ``tracked`` to where the last run left the stage; returns the steps that are done."""
        done = self._done(stage)
        if done.is_dir():
            state = checkpoint.load(done)
            self._load(tracked, state["tracked"], done)
            return state["step"]
        places = self._of(stage)
        if not places:
            return 0
        state = checkpoint.load(places[-1])
        missing = tracked.keys() ^ state["tracked"].keys()
        if missing:
            raise WeightsError(
                f"the checkpoint {places[-1]} and this training differ in {', '.join(sorted(missing))}; "
                "it was made by another version of the procedure, so start again in another folder"
            )
        self._load(tracked, state["tracked"], places[-1])
        self.accelerator.step = state["accumulated"]
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.accelerator.process_index < len(state["rng"]):
            set_rng_state(state["rng"][self.accelerator.process_index])
        return state["step"]

    def _load(self, tracked: Mapping[str, Any], states: Mapping[str, Any], source: Path) -> None:
        for name, state in states.items():
            try:
                self._unwrapped(tracked.get(name)).load_state_dict(state)
            except (RuntimeError, ValueError, KeyError, AttributeError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise WeightsError(f"{name} in the checkpoint {source} doesn't fit this training: {reason}") from error

    def _state_of(self, item: Any) -> Any:
        return self._unwrapped(item).state_dict()

    def _unwrapped(self, item: Any) -> Any:
        import torch

        if isinstance(item, torch.nn.Module):
            return self.accelerator.unwrap_model(item, keep_fp32_wrapper=False)
        return item

    def _done(self, stage: str) -> Path:
        return self.folder / f"{stage}-done"

    def _of(self, stage: str) -> list[Path]:
        """A stage's checkpoints, oldest first: more than one only if a kill came between a write and a removal."""
        name = re.compile(re.escape(stage) + r"-\d{9}")
        return sorted(path for path in self.folder.glob("*") if name.fullmatch(path.name))

    def _remove(self, stage: str, but: Path | None = None) -> None:
        for path in self._of(stage):
            if path != but:
                remove_folder(path)


def claim_folder(out: Path, identity: Mapping[str, Any], resume: bool) -> None:
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
