"""The format of weights: a folder with ``config.json`` and ``model.safetensors`` (or its shards and their index).

Nothing else is ever deserialised. ``zoo.loading`` makes a model of such a folder.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import config as configs
from zoo import registry
from zoo.errors import WeightsError
from zoo.extras import DISTRIBUTION
from zoo.plugin import CONTRACT_VERSION, Plugin
from zoo.storage import filling
from zoo.text import strict_json

if TYPE_CHECKING:
    import torch
    from torch import nn

CONFIG, TENSORS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SEEN = "seen.json"  # the cases of the training, see zoo.data.seen
DOMAIN = "domain.json"  # what its images were like, see zoo.domain
ANSWER = "answer.json"  # what it said of one input, see zoo.answers
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.joblib")
MAX_CONFIG_BYTES, MAX_INDEX_BYTES = 4 << 20, 64 << 20
MAX_SHARD_SIZE = "5GB"


@dataclass(frozen=True)
class Located:
    """A folder of weights on this machine; ``revision`` is the commit hash for weights from the Hub.

    ``tensors`` is the safetensors file, or the index of its shards.
    """

    folder: Path
    spec: str
    tensors: Path
    revision: str | None = None


@dataclass(frozen=True)
class Stored:
    """One tensor as a safetensors header describes it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str  # as safetensors writes it: F16, BF16, I64, ...


def only_safetensors(folder: Path, spec: str) -> Path:
    """The tensors of a folder. Raises ``WeightsError`` when it has none, saying why pickled ones don't count."""
    for name in (TENSORS, INDEX):
        if (folder / name).is_file():
            return folder / name
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise WeightsError(only_pickle(spec, pickles[0]))
    raise WeightsError(f"{spec} holds no {TENSORS}; train one with zoo train, or pass another folder")


def only_pickle(spec: str, name: str) -> str:
    """The refusal of weights that exist as pickle only."""
    return (
        f"{spec} holds only pickled weights ({shown(name)}), which can run code when loaded; "
        f"ask its author for {TENSORS}"
    )


def read_any_record(located: Located) -> dict[str, Any]:
    """The content of ``config.json``, of whichever model. Raises ``WeightsError`` when it can't be read."""
    path = located.folder / CONFIG
    if not path.is_file():
        raise WeightsError(f"weights {located.spec} come without {CONFIG}; keep it beside {located.tensors.name}")
    record = _read_json(path, located, MAX_CONFIG_BYTES)
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise WeightsError(f"{CONFIG} of weights {located.spec} holds no object 'config'; save them with this zoo")
    return record


def _read_json(path: Path, located: Located, limit: int) -> Any:
    try:
        if path.stat().st_size > limit:
            raise ValueError(f"it is larger than {limit >> 20} MiB")
        return strict_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path.name} of weights {located.spec} can't be read: {first_line(error)}; get the file again"
        ) from error


def read_headers(located: Located) -> dict[str, Stored]:
    """Name, shape and type of every tensor, from the headers alone. Raises ``WeightsError`` for malformed files."""
    from safetensors import SafetensorError, safe_open

    mapping = _read_index(located) if located.tensors.name == INDEX else None
    shards = sorted(set(mapping.values())) if mapping is not None else [located.tensors.name]
    stored: dict[str, Stored] = {}
    for shard in shards:
        path = located.folder / shard
        if not path.is_file():
            raise WeightsError(f"weights {located.spec} lack {shard}, which {INDEX} names; get the file again")
        try:
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118
                    if mapping is not None and mapping.get(name) != shard:
                        raise ValueError(f"{INDEX} and {shard} disagree about the tensor {shown(name)}")
                    part = file.get_slice(name)
                    stored[name] = Stored(path, tuple(part.get_shape()), str(part.get_dtype()))
        except (SafetensorError, OSError, ValueError, OverflowError) as error:
            raise WeightsError(
                f"weights {located.spec} can't be read: {first_line(error)} in {shard}; get the file again"
            ) from error
    absent = [name for name in mapping or {} if name not in stored]
    if absent:
        raise WeightsError(
            f"weights {located.spec} lack the tensor {shown(absent[0])}, which {INDEX} names; get the files again"
        )
    return stored


def _read_index(located: Located) -> dict[str, str]:
    index = _read_json(located.tensors, located, MAX_INDEX_BYTES)
    mapping = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(mapping, dict) or not mapping:
        raise WeightsError(f"{INDEX} of weights {located.spec} holds no object 'weight_map'; get the file again")
    for shard in mapping.values():
        # Nothing but the plain name of a shard: a path could lead out of the folder.
        if not isinstance(shard, str) or not SHARD.fullmatch(shard):
            raise WeightsError(
                f"{INDEX} of weights {located.spec} names the file {shown(shard)}, which is no shard of {TENSORS}; "
                f"don't use these weights"
            )
    return mapping


_FLOATS = {"F64", "F32", "F16", "BF16"}


def read_tensors(
    located: Located, stored: dict[str, Stored], expected: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, torch.Tensor] = {}
    try:
        for path in sorted({tensor.file for tensor in stored.values()}):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    tensors[name] = file.get_tensor(name).to(expected[name].dtype)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"weights {located.spec} can't be read: {first_line(error)}; get the file again") from error
    return tensors


def save(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    trained_on: str | None = None,
    disclaimer: str | None = None,
    max_shard_size: str | int = MAX_SHARD_SIZE,
) -> Path:
    """Write ``config.json`` and ``model.safetensors``; both appear whole or not at all.

    ``dtype`` stores floating-point tensors in another precision, for example ``torch.float16``. Above
    ``max_shard_size`` the tensors are split into several files with an index. Raises ``WeightsError`` when the folder
    can't be written to.
    """
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    facts: Any = model  # its plugin, config and provenance, which a plain module has not
    out, plugin = Path(folder), facts.plugin
    distribution = owner(plugin)
    record = {
        "model": plugin.name,
        "distribution": distribution,
        "version": release(distribution),
        "contract": CONTRACT_VERSION,
        "library_name": "medimg-zoo",
        "task": plugin.task,
        "labels": list(getattr(facts.config, "labels", plugin.labels)),  # its own, where it was trained on others
        "preprocessing": getattr(model, "preprocessing", None) or _preprocessing(plugin),
        "trained_on": trained_on or facts.provenance.trained_on,
        "disclaimer": disclaimer or "for research; not for clinical use",
        "config": configs.to_dict(facts.config),
    }
    if getattr(model, "temperature", None) is not None:
        record["temperature"] = round(facts.temperature, 4)
    tensors = _storable(model, dtype)
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
    try:
        with filling(out) as draft:
            for name, members in split.filename_to_tensors.items():
                save_file({member: tensors[member] for member in members}, draft / name, metadata={"format": "pt"})
            if split.is_sharded:
                index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
                (draft / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
            (draft / CONFIG).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            if getattr(model, "seen", None) is not None:
                (draft / SEEN).write_text(facts.seen.to_json(), encoding="utf-8")
            if getattr(model, "domain", None) is not None:
                (draft / DOMAIN).write_text(facts.domain.to_json(), encoding="utf-8")
            written = {path.name for path in draft.iterdir()}
        for path in out.iterdir():  # what an earlier save left in the other layout
            stale = path.name in (TENSORS, INDEX, SEEN, DOMAIN, ANSWER) or SHARD.fullmatch(path.name)
            if path.name not in written and stale:
                path.unlink()
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise WeightsError(f"can't write weights to {out}: {reason}; choose another folder") from error
    return out


def _storable(model: nn.Module, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        # safetensors refuses shared memory: tied weights and views are stored once per name
        if storage.data_ptr() in seen or storage.nbytes() != tensor.numel() * tensor.element_size():
            tensor = tensor.clone()
        seen.add(storage.data_ptr())
        tensors[name] = tensor
    return tensors


def _preprocessing(plugin: Plugin) -> dict[str, str]:
    given = plugin.primary_input
    return {"input": given.kind, "expects": given.help}


def owner(plugin: Plugin) -> str:
    """The distribution a plugin came from."""
    owners = [entry.distribution for entry in registry.entries() if entry.plugin is plugin]
    return owners[0] if owners else DISTRIBUTION


def release(distribution: str) -> str:
    """The installed version of a distribution; nothing where it isn't installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def shown(value: Any) -> str:
    """A stranger's value for a message: escaped, so that it can't write to a terminal, and short."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def printable(value: Any) -> str:
    """A stranger's text as one printable line."""
    text = "".join(character if character.isprintable() else " " for character in str(value)[:500])
    return " ".join(text.split())


def first_line(error: BaseException) -> str:
    line = printable((str(error).strip().splitlines() or [""])[0]).rstrip(".")
    return line or type(error).__name__
