"""From a weights specification to a model, and back to a folder.

``demo`` (in the wheel), a folder or ``.safetensors`` file, ``hf://org/repo@revision``, or ``none`` (random). A folder
holds ``config.json`` and ``model.safetensors`` (or its shards and their index); nothing else is ever deserialised, and
every size and shape is checked against the configuration before memory is taken.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import config as configs
from zoo.errors import OptionError, WeightsError, ZooError
from zoo.plugin import CONTRACT_VERSION, WEIGHTS_CONTRACTS, Plugin
from zoo.storage import filling

if TYPE_CHECKING:
    import torch

    from zoo.model import Model

CONFIG, TENSORS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.joblib")
MAX_CONFIG_BYTES, MAX_INDEX_BYTES = 4 << 20, 64 << 20
MAX_SHARD_SIZE = "5GB"
MAX_MODULES = 50_000


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


def locate(spec: str, plugin: Plugin) -> Located:
    """Find the folder a specification names, downloading from the Hub where it says so.

    Raises ``WeightsError`` naming what is missing or unsafe.
    """
    if spec == "demo":
        folder = _demo_folder(plugin)
        if folder is None or not (folder / TENSORS).is_file():
            raise WeightsError(f"{plugin.name} comes without demo weights; pass --weights PATH or hf://ORG/REPO")
        return Located(folder, spec, folder / TENSORS)
    if spec.startswith("hf://"):
        from zoo import hub

        fetched = hub.fetch(hub.address(spec))
        return Located(fetched.folder, spec, only_safetensors(fetched.folder, spec), fetched.revision)
    path = Path(spec).expanduser()
    if path.is_dir():
        return Located(path, spec, only_safetensors(path, spec))
    if path.suffix == ".safetensors" and path.is_file():
        return Located(path.parent, spec, path)
    if path.is_file():
        raise WeightsError(f"weights {spec} are not a .safetensors file; only safetensors are loaded, never pickle")
    raise WeightsError(f"there are no weights at {spec}; pass demo, a folder, a .safetensors file or hf://ORG/REPO")


def _demo_folder(plugin: Plugin) -> Path | None:
    package = plugin.model.partition(":")[0].rpartition(".")[0]
    # A plugin that is one module has no folder of its own.
    return Path(str(files(package) / "demo")) if package else None


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


def read_record(located: Located, plugin: Plugin) -> dict[str, Any]:
    """The checked content of ``config.json``. Raises ``WeightsError`` when it isn't this plugin's."""
    record = read_any_record(located)
    spec, made = located.spec, _origin(record)
    if record.get("model") != plugin.name:
        raise WeightsError(
            f"weights {spec} are for the model {shown(record.get('model'))}, not for {plugin.name}; "
            f"load them with that model or choose other weights"
        )
    owner = record_owner(plugin)
    distribution = record.get("distribution")
    if distribution and (not isinstance(distribution, str) or _kebab(distribution) != _kebab(owner)):
        raise WeightsError(
            f"weights {spec} were made by {plugin.name} of {made}, the installed {plugin.name} is of {owner}; "
            f"install {shown(distribution)} or choose other weights"
        )
    if record.get("contract") not in WEIGHTS_CONTRACTS:
        raise WeightsError(
            f"weights {spec} were made by {made} under version {shown(record.get('contract'))} of the contract, "
            f"this zoo has {CONTRACT_VERSION}; install that release or choose other weights"
        )
    there, here = _major(record.get("version")), _major(_release(owner))
    if there is not None and here is not None and there != here:
        raise WeightsError(
            f"weights {spec} were made by {made}, which is incompatible with the installed {owner} {_release(owner)}; "
            f"install that release or choose other weights"
        )
    return record


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
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path.name} of weights {located.spec} can't be read: {_first_line(error)}; get the file again"
        ) from error


def load_into(model_class: type[Model], spec: str, device: str | torch.device = "cpu") -> Model:
    """Build a model from a weights specification, in eval mode.

    Raises ``WeightsError`` for weights that are missing, malformed, unsafe or made for another model.
    """
    from zoo.prediction import Provenance

    plugin = model_class.plugin
    if spec == "none":
        return model_class(model_class.config_class()).to(device).eval()
    located = locate(spec, plugin)
    record, config, expected, stored = _checked(model_class, located)
    tensors = _read_tensors(located, stored, expected)
    model = model_class(config)
    model.load_state_dict(tensors)
    model.provenance = Provenance(
        model=plugin.name,
        distribution=_text(record.get("distribution", "")),
        version=_text(record.get("version", "")),
        weights=spec,
        revision=located.revision,
        trained_on=_text(record.get("trained_on", "unknown data")),
        disclaimer=_text(record.get("disclaimer", "for research; not for clinical use")),
    )
    return model.to(device).eval()


def check(model_class: type[Model], located: Located) -> dict[str, Any]:
    """The record of weights that would load: everything is checked but no tensor is read.

    Raises ``WeightsError`` as :func:`load_into` does.
    """
    return _checked(model_class, located)[0]


def _checked(
    model_class: type[Model], located: Located
) -> tuple[dict[str, Any], Any, dict[str, torch.Tensor], dict[str, Stored]]:
    import torch

    plugin = model_class.plugin
    record = read_record(located, plugin)
    stored = read_headers(located)
    budget = sum(prod(tensor.shape) for tensor in stored.values())
    try:
        config: Any = configs.from_dict(model_class.config_class, record["config"])
        with torch.device("meta"), _bounded(budget, len(stored)):
            expected = model_class(config).state_dict()
    except OptionError as error:
        raise WeightsError(
            f"{CONFIG} of weights {located.spec} (made by {_origin(record)}) does not fit {plugin.name} of "
            f"{record_owner(plugin)} {_release(record_owner(plugin))}: {error}"
        ) from error
    except _TooLarge as error:
        raise WeightsError(
            f"{CONFIG} of weights {located.spec} describes a network of more than {error.args[0]:,} {error.args[1]}, "
            f"but its {len(stored):,} tensors hold {budget:,} values; the files don't belong together, get them again"
        ) from error
    except ZooError:
        raise
    except Exception as error:  # a stranger's values may fail anywhere in a constructor
        raise WeightsError(
            f"{CONFIG} of weights {located.spec} builds no {plugin.name}: {_first_line(error)}; get the file again"
        ) from error
    _compare(located, plugin, stored, expected)
    return record, config, expected, stored


class _TooLarge(Exception):
    pass


@contextmanager
def _bounded(values: int, tensors: int) -> Iterator[None]:
    """Stop building a network that is far larger than what the file holds.

    On the meta device parameters cost no memory but each module costs time, so a configuration in which every value is
    in range could still keep a machine busy for hours. The slack is for parameters that a constructor replaces.
    """
    from torch.nn.modules import module as registration

    me = threading.get_ident()  # the hooks see every thread's networks
    limits = {"values": 4 * values + 1_000_000, "tensors": 4 * tensors + 10_000, "modules": MAX_MODULES}
    counts = dict.fromkeys(limits, 0)

    def count(what: str, number: int) -> None:
        counts[what] += number
        if counts[what] > limits[what]:
            raise _TooLarge(limits[what], what)

    def parameter(_: Any, __: str, value: Any) -> None:
        if value is not None and threading.get_ident() == me:
            count("values", value.numel())
            count("tensors", 1)

    def module(_: Any, __: str, ___: Any) -> None:
        if threading.get_ident() == me:
            count("modules", 1)

    hooks = [
        registration.register_module_parameter_registration_hook(parameter),
        registration.register_module_buffer_registration_hook(parameter),
        registration.register_module_module_registration_hook(module),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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
                f"weights {located.spec} can't be read: {_first_line(error)} in {shard}; get the file again"
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


def _read_tensors(
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
        raise WeightsError(f"weights {located.spec} can't be read: {_first_line(error)}; get the file again") from error
    return tensors


def _compare(located: Located, plugin: Plugin, found: dict[str, Stored], expected: dict[str, torch.Tensor]) -> None:
    problems = [
        f"{name} has shape {list(found[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tuple(tensor.shape)
    ]
    problems += [
        f"{name} has type {found[name].dtype}, expected {tensor.dtype}"
        for name, tensor in expected.items()
        if name in found and not _same_kind(found[name].dtype, tensor.dtype)
    ]
    problems += [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{shown(name)} is unknown" for name in found if name not in expected]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        there = sum(prod(tensor.shape) for tensor in found.values())
        here = sum(tensor.numel() for tensor in expected.values())
        totals = f" (the file holds {there:,} values, the configuration describes {here:,})" if there != here else ""
        raise WeightsError(f"weights {located.spec} do not fit {plugin.name}: {'; '.join(problems[:3])}{more}{totals}")


def _same_kind(stored: str, expected: torch.dtype) -> bool:
    """Floats may be stored in another precision; everything else must be what the network has."""
    import torch

    if expected.is_floating_point:
        return stored in _FLOATS
    names = {torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"}
    return stored == names.get(expected, "BOOL" if expected == torch.bool else stored)


def save(
    model: Model,
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

    out, plugin = Path(folder), model.plugin
    distribution = record_owner(plugin)
    record = {
        "model": plugin.name,
        "distribution": distribution,
        "version": _release(distribution),
        "contract": CONTRACT_VERSION,
        "library_name": "medimg-zoo",
        "task": plugin.task,
        "labels": list(plugin.labels),
        "preprocessing": getattr(model, "preprocessing", None) or _preprocessing(plugin),
        "trained_on": trained_on or model.provenance.trained_on,
        "disclaimer": disclaimer or "for research; not for clinical use",
        "config": configs.to_dict(model.config),
    }
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
            written = {path.name for path in draft.iterdir()}
        for path in out.iterdir():  # what an earlier save left in the other layout
            if path.name not in written and (path.name in (TENSORS, INDEX) or SHARD.fullmatch(path.name)):
                path.unlink()
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise WeightsError(f"can't write weights to {out}: {reason}; choose another folder") from error
    return out


def _storable(model: Model, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
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


def record_owner(plugin: Plugin) -> str:
    """The distribution a plugin came from."""
    from zoo.extras import DISTRIBUTION
    from zoo.registry import entries

    owners = [entry.distribution for entry in entries() if entry.plugin is plugin]
    return owners[0] if owners else DISTRIBUTION


def _release(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _major(version: Any) -> int | None:
    match = re.match(r"\d{1,9}", version) if isinstance(version, str) else None
    return int(match[0]) if match else None


def _origin(record: dict[str, Any]) -> str:
    distribution = record.get("distribution") or "an unknown distribution"
    return f"{_text(distribution)} {_text(record.get('version', ''))}".strip()


def _kebab(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def shown(value: Any) -> str:
    """A stranger's value for a message: escaped, so that it can't write to a terminal, and short."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _text(value: Any) -> str:
    """A stranger's text as one printable line."""
    text = "".join(character if character.isprintable() else " " for character in str(value)[:500])
    return " ".join(text.split())


def _first_line(error: BaseException) -> str:
    line = _text((str(error).strip().splitlines() or [""])[0]).rstrip(".")
    return line or type(error).__name__
