"""From a weights specification to a model: ``demo``, ``none``, a folder or file, ``hf://org/repo@revision``.

Every size and shape is checked against the configuration before memory is taken. Models are typed as plain modules:
what they are made of is known here, who they are is known above.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as registration

from zoo import config as configs
from zoo import domain, hub, registry
from zoo.data import seen
from zoo.errors import OptionError, WeightsError, ZooError
from zoo.plugin import CONTRACT_VERSION, WEIGHTS_CONTRACTS, Plugin
from zoo.prediction import Provenance
from zoo.storage import user_path
from zoo.text import normalised
from zoo.weights import (
    CONFIG,
    DOMAIN,
    SEEN,
    TENSORS,
    Located,
    Stored,
    first_line,
    only_safetensors,
    owner,
    printable,
    read_any_record,
    read_headers,
    read_tensors,
    release,
    shown,
)

MAX_MODULES = 50_000
_log = logging.getLogger(__name__)
M = TypeVar("M", bound=nn.Module)


def pick_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda[:n]`` to a device. Raises ``OptionError`` when it isn't there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise OptionError(f"there is no device {name!r}; choose auto, cpu or cuda[:n]") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise OptionError(f"device {name} is not available here; use --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device {name!r} is not supported; choose auto, cpu or cuda[:n]")
    return device


def load_into(model_class: type[M], spec: str, device: str | torch.device = "cpu") -> M:
    """Build a model from a weights specification, in eval mode.

    Raises ``WeightsError`` for weights that are missing, malformed, unsafe or made for another model.
    """
    kind: Any = model_class  # a plain module has neither plugin nor configuration
    plugin: Plugin = kind.plugin
    if spec == "none":
        return kind(kind.config_class()).to(device).eval()
    located = locate(spec, plugin)
    record, config, expected, stored = _checked(model_class, located)
    tensors = read_tensors(located, stored, expected)
    model = kind(config)
    model.load_state_dict(tensors)
    model.provenance = Provenance(
        model=plugin.name,
        distribution=printable(record.get("distribution", "")),
        version=printable(record.get("version", "")),
        weights=spec,
        revision=located.revision,
        trained_on=printable(record.get("trained_on", "unknown data")),
        disclaimer=printable(record.get("disclaimer", "for research; not for clinical use")),
    )
    model.seen = seen.read(located.folder / SEEN)
    model.domain = domain.read(located.folder / DOMAIN)
    model.temperature = _temperature(record.get("temperature"), spec)
    _log.info(
        "%s: weights %s%s on %s", plugin.name, spec, f" at {located.revision}" if located.revision else "", device
    )
    return model.to(device).eval()


def check(model_class: type[nn.Module], located: Located) -> dict[str, Any]:
    """The record of weights that would load: everything is checked but no tensor is read.

    Raises ``WeightsError`` as :func:`load_into` does.
    """
    return _checked(model_class, located)[0]


def _checked(
    model_class: type[nn.Module], located: Located
) -> tuple[dict[str, Any], Any, dict[str, torch.Tensor], dict[str, Stored]]:
    kind: Any = model_class
    plugin: Plugin = kind.plugin
    record = read_record(located, plugin)
    stored = read_headers(located)
    budget = sum(prod(tensor.shape) for tensor in stored.values())
    try:
        config: Any = configs.from_dict(kind.config_class, record["config"])
        with torch.device("meta"), _bounded(budget, len(stored)):
            expected = kind(config).state_dict()
    except OptionError as error:
        raise WeightsError(
            f"{CONFIG} of weights {located.spec} (made by {_origin(record)}) does not fit {plugin.name} of "
            f"{owner(plugin)} {release(owner(plugin))}: {error}"
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
            f"{CONFIG} of weights {located.spec} builds no {plugin.name}: {first_line(error)}; get the file again"
        ) from error
    _compare(located, plugin, stored, expected)
    return record, config, expected, stored


def _temperature(stated: Any, spec: str) -> float | None:
    if stated is None:
        return None
    if isinstance(stated, bool) or not isinstance(stated, (int, float)) or not 0.01 <= stated <= 100:
        raise WeightsError(
            f"{CONFIG} of weights {spec} states the temperature {shown(stated)}, which must lie between 0.01 and 100"
        )
    return float(stated)


class _TooLarge(Exception):
    pass


@contextmanager
def _bounded(values: int, tensors: int) -> Iterator[None]:
    """Stop building a network that is far larger than what the file holds.

    On the meta device parameters cost no memory but each module costs time, so a configuration in which every value is
    in range could still keep a machine busy for hours. The slack is for parameters that a constructor replaces.
    """
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
        fetched = hub.fetch(hub.address(spec))
        return Located(fetched.folder, spec, only_safetensors(fetched.folder, spec), fetched.revision)
    path = user_path(spec, WeightsError)
    if path.is_dir():
        return Located(path, spec, only_safetensors(path, spec))
    if path.suffix == ".safetensors" and path.is_file():
        return Located(path.parent, spec, path)
    if path.is_file():
        raise WeightsError(f"weights {spec} are not a .safetensors file; only safetensors are loaded, never pickle")
    if any(entry.name == spec for entry in registry.entries()):
        raise WeightsError(f"{spec} is a model, not weights; write zoo predict {spec} INPUT for it")
    raise WeightsError(f"there are no weights at {spec}; pass demo, a folder, a .safetensors file or hf://ORG/REPO")


def _demo_folder(plugin: Plugin) -> Path | None:
    package = plugin.model.partition(":")[0].rpartition(".")[0]
    # A plugin that is one module has no folder of its own.
    return Path(str(files(package) / "demo")) if package else None


def read_record(located: Located, plugin: Plugin) -> dict[str, Any]:
    """The checked content of ``config.json``. Raises ``WeightsError`` when it isn't this plugin's."""
    record = read_any_record(located)
    spec, made = located.spec, _origin(record)
    if record.get("model") != plugin.name:
        raise WeightsError(
            f"weights {spec} are for the model {shown(record.get('model'))}, not for {plugin.name}; "
            f"load them with that model or choose other weights"
        )
    maker = owner(plugin)
    distribution = record.get("distribution")
    if distribution and (not isinstance(distribution, str) or normalised(distribution) != normalised(maker)):
        raise WeightsError(
            f"weights {spec} were made by {plugin.name} of {made}, the installed {plugin.name} is of {maker}; "
            f"install {shown(distribution)} or choose other weights"
        )
    if record.get("contract") not in WEIGHTS_CONTRACTS:
        raise WeightsError(
            f"weights {spec} were made by {made} under version {shown(record.get('contract'))} of the contract, "
            f"this zoo has {CONTRACT_VERSION}; install that release or choose other weights"
        )
    there, here = _major(record.get("version")), _major(release(maker))
    if there is not None and here is not None and there != here:
        raise WeightsError(
            f"weights {spec} were made by {made}, which is incompatible with the installed {maker} {release(maker)}; "
            f"install that release or choose other weights"
        )
    return record


_FLOATS = {"F64", "F32", "F16", "BF16"}


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
    if expected.is_floating_point:
        return stored in _FLOATS
    names = {torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"}
    return stored == names.get(expected, "BOOL" if expected == torch.bool else stored)


def _major(version: Any) -> int | None:
    match = re.match(r"\d{1,9}", version) if isinstance(version, str) else None
    return int(match[0]) if match else None


def _origin(record: dict[str, Any]) -> str:
    distribution = record.get("distribution") or "an unknown distribution"
    return f"{printable(distribution)} {printable(record.get('version', ''))}".strip()
