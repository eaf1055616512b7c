"""What a frozen network made of an image, kept in memory and, if wanted, on disk, by content and weights."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from zoo.storage import write_file

MEMORY = 256 * 2**20


class FeatureCache:
    """Tensors by key: the latest in memory, up to ``memory`` bytes; all of them in ``folder``, if one is given.

    A key says what the tensor was made of and by what: ``content_key(pixels, weights_key(network), ...)``. On disk they
    are safetensors in half precision when ``half`` is set, one file each, written whole or not at all. A file that is
    damaged counts as absent.
    """

    def __init__(self, folder: str | Path | None = None, *, memory: int = MEMORY, half: bool = False) -> None:
        self.folder = None if folder is None else Path(folder)
        self.memory = memory
        self.half = half
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0

    def get(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of ``key``, made by ``make`` if it isn't kept."""
        value = self._known(key)
        return self._new(key, make()) if value is None else value

    def get_all(
        self, keys: Sequence[str], make: Callable[[list[int]], Shaped[Tensor, "m ..."]], batch_size: int | None = None
    ) -> Shaped[Tensor, "n ..."]:
        """The tensors of ``keys``, stacked. ``make``: those at the given places, at most ``batch_size`` at a time.

        A key that occurs several times is made once. Raises ``ValueError`` without keys, for nothing tells the shape.
        """
        if not keys:
            raise ValueError("no keys: there is nothing to stack")
        first: dict[str, int] = {}
        for place, key in enumerate(keys):
            first.setdefault(key, place)
        found = {key: value for key in first if (value := self._known(key)) is not None}
        missing = [(key, place) for key, place in first.items() if key not in found]
        size = batch_size or max(1, len(missing))
        for start in range(0, len(missing), size):
            part = missing[start : start + size]
            rows = make([place for _, place in part])
            found |= {key: self._new(key, row) for (key, _), row in zip(part, rows, strict=True)}
        return torch.stack([found[key] for key in keys])

    def clear(self) -> None:
        """Forget what is in memory."""
        self._kept.clear()
        self._bytes = 0

    def _known(self, key: str) -> Tensor | None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        value = self._read(key)
        if value is not None:
            self._keep(key, value)
        return value

    def _new(self, key: str, value: Tensor) -> Tensor:
        value = value.detach()
        self._write(key, value)
        if self.half:
            value = value.half().to(value.dtype)  # the same numbers, whether made now or read later
        self._keep(key, value)
        return value

    def _keep(self, key: str, value: Tensor) -> None:
        size = value.numel() * value.element_size()
        if size > self.memory:
            return
        self._kept[key] = value
        self._bytes += size
        while self._bytes > self.memory:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.numel() * oldest.element_size()

    def _read(self, key: str) -> Tensor | None:
        if self.folder is None or not (path := self.folder / f"{key}.safetensors").is_file():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                stored = file.get_tensor("embedding").float()
                order = json.loads((file.metadata() or {}).get("order", "null")) or list(range(stored.ndim))
            return stored.permute([order.index(axis) for axis in range(stored.ndim)])
        except (SafetensorError, ValueError, OSError):
            return None

    def _write(self, key: str, value: Tensor) -> None:
        if self.folder is None:
            return
        from safetensors.torch import save

        stored = value.cpu().half() if self.half else value.cpu()
        # axes as they lie in memory: what is read later must not differ in that either, or sums run in another order
        strides = stored.stride()
        order = sorted(range(stored.ndim), key=lambda axis: -strides[axis])
        packed = {"embedding": stored.permute(order).contiguous()}
        write_file(self.folder / f"{key}.safetensors", save(packed, {"order": json.dumps(order)}))


def content_key(pixels: np.ndarray | Tensor, *of: str) -> str:
    """A name for an image's content under everything named in ``of`` (weights, input size, ...)."""
    array = pixels.detach().cpu().numpy() if isinstance(pixels, torch.Tensor) else np.asarray(pixels)
    found = hashlib.sha256("\n".join([*of, str(array.dtype), str(array.shape)]).encode())
    found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:32]


def weights_key(module: nn.Module) -> str:
    """A short name for a module's weights and buffers, the same on every machine."""
    found = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:24]
