"""Training state on disk as safetensors and JSON: exact to the bit, and nothing in it that can execute code.

A checkpoint is a folder with ``tensors.safetensors`` (every tensor and array, by its path in the state) and
``state.json`` (everything else: structure, numbers, text). It appears by one rename, so it's whole or absent.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from zoo.errors import DataError
from zoo.storage import new_folder

FORMAT = 1


def save(folder: str | Path, state: Mapping[str, Any]) -> None:
    """Write ``state``, a nest of dicts, lists, tuples, tensors, arrays, numbers and text, to ``folder``.

    Raises ``DataError`` when the disk is full, ``TypeError`` for an object that can't be stored without pickle.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = _pack(dict(state), tensors, "")
    with new_folder(folder) as temporary:
        save_file(tensors, temporary / "tensors.safetensors")
        text = json.dumps({"format": FORMAT, "state": structure})
        (temporary / "state.json").write_text(text, encoding="utf-8")


def load(folder: str | Path) -> dict[str, Any]:
    """The state that ``save`` wrote, tensors on the CPU. Raises ``DataError`` if the folder is damaged."""
    folder = Path(folder)
    try:
        document = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']} is not {FORMAT}")
        tensors = load_file(folder / "tensors.safetensors")
        return _unpack(document["state"], tensors)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"the checkpoint {folder} is damaged ({error}); delete it to go on without it") from error


def _pack(value: Any, tensors: dict[str, torch.Tensor], path: str) -> Any:
    """``value`` as JSON, its tensors moved to ``tensors``. Containers other than lists are tagged by their kind."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor):
        # A copy: two entries may share memory, which safetensors refuses, and a view would drag its base along.
        name = _unused(path, tensors)
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        name = _unused(path, tensors)
        tensors[name] = torch.from_numpy(np.ascontiguousarray(value)).reshape(value.shape)
        return {"array": name}
    if isinstance(value, list):
        return [_pack(item, tensors, f"{path}/{i}") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors, f"{path}/{i}") for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        tag = "counter" if isinstance(value, Counter) else "dict"  # MultiStepLR keeps its milestones in a Counter
        return {tag: [[_pack(k, tensors, path), _pack(v, tensors, f"{path}/{k}")] for k, v in value.items()]}
    raise TypeError(f"a checkpoint can't hold {path.lstrip('/')}, a {type(value).__name__}, without pickle")


def _unused(path: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """``path``, or a variant of it: the keys 1 and "1" of one dict spell the same path."""
    while path in tensors:
        path += "'"
    return path


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "tensor":
        return tensors[content]
    if tag == "array":
        return tensors[content].numpy()
    if tag == "tuple":
        return tuple(_unpack(item, tensors) for item in content)
    pairs = {_unpack(k, tensors): _unpack(v, tensors) for k, v in content}
    return Counter(pairs) if tag == "counter" else pairs
