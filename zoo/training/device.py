"""The device and precision of a run, from Accelerate."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from zoo.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    from accelerate import Accelerator
else:
    Accelerator = Any  # of the extra `train`


def accelerator(device: str, mixed_precision: str | None, gradient_accumulation: int | None) -> Accelerator:
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
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
        # heads that a loss doesn't use, such as SAM's expected quality, get no gradient on any process
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        return Accelerator(
            cpu=device == "cpu", mixed_precision=mixed_precision, kwargs_handlers=[unused], **accumulation
        )
    except (ValueError, ImportError) as error:
        raise OptionError(f"Accelerate refuses these settings: {error}") from error
    finally:
        if ":" in device:
            os.environ.pop(variable)
            if before is not None:
                os.environ[variable] = before
