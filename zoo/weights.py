"""From a weights specification to a model, and back to a folder.

``demo`` (in the wheel), a folder or ``.safetensors`` file, ``hf://org/repo@revision``, or ``none`` (random). A folder
holds ``config.json`` and ``model.safetensors``; nothing else is ever deserialised, and every size and shape is
checked against the configuration before memory is taken.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import config as configs
from zoo.errors import OptionError, WeightsError
from zoo.plugin import CONTRACT_VERSION, Plugin

if TYPE_CHECKING:
    import torch

    from zoo.model import Model

CONFIG, TENSORS = "config.json", "model.safetensors"
MAX_CONFIG_BYTES = 4 << 20
_HUB = re.compile(r"hf://(?P<repo>[\w.\-]+/[\w.\-]+)(?:@(?P<revision>[\w.\-/]+))?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")


@dataclass(frozen=True)
class Located:
    """A folder of weights on this machine; ``revision`` is the commit hash for weights from the Hub."""

    folder: Path
    spec: str
    tensors: Path
    revision: str | None = None


def locate(spec: str, plugin: Plugin) -> Located:
    """Find the folder a specification names, downloading from the Hub where it says so.

    Raises ``WeightsError`` naming what is missing or unsafe.
    """
    if spec == "demo":
        package = plugin.model.partition(":")[0].rpartition(".")[0]
        folder = Path(str(files(package) / "demo"))
        if not (folder / TENSORS).is_file():
            raise WeightsError(f"{plugin.name} comes without demo weights; pass --weights PATH or hf://ORG/REPO")
        return Located(folder, spec, folder / TENSORS)
    if spec.startswith("hf://"):
        return _from_hub(spec)
    path = Path(spec).expanduser()
    if path.is_dir():
        return Located(path, spec, _only_safetensors(path, spec))
    if path.suffix == ".safetensors" and path.is_file():
        return Located(path.parent, spec, path)
    if path.is_file():
        raise WeightsError(f"weights {spec} are not a .safetensors file; only safetensors are loaded, never pickle")
    raise WeightsError(f"there are no weights at {spec}; pass demo, a folder, a .safetensors file or hf://ORG/REPO")


def _only_safetensors(folder: Path, spec: str) -> Path:
    if (folder / TENSORS).is_file():
        return folder / TENSORS
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise WeightsError(
            f"{spec} holds only pickled weights ({pickles[0]}), which can run code when loaded; "
            f"ask its author for {TENSORS}"
        )
    raise WeightsError(f"{spec} holds no {TENSORS}; train one with zoo train, or pass another folder")


def _from_hub(spec: str) -> Located:
    match = _HUB.fullmatch(spec)
    if not match:
        raise WeightsError(f"{spec} is not a Hub address; write hf://ORG/REPO or hf://ORG/REPO@REVISION")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            match["repo"], revision=match["revision"], allow_patterns=[CONFIG, TENSORS, "README.md", "gallery/*"]
        )
    except LocalEntryNotFoundError as error:
        raise WeightsError(f"{spec} is not in the cache and the Hub can't be reached; go online and try again") from error
    except (HfHubHTTPError, OSError) as error:
        raise WeightsError(f"{spec} can't be fetched: {_first_line(error)}; check the name, revision and HF_TOKEN") from error
    path = Path(folder)
    revision = path.name if re.fullmatch(r"[0-9a-f]{40}", path.name) else None
    return Located(path, spec, _only_safetensors(path, spec), revision)


def read_record(located: Located, plugin: Plugin) -> dict[str, Any]:
    """The checked content of ``config.json``. Raises ``WeightsError`` when it isn't this plugin's."""
    path = located.folder / CONFIG
    if not path.is_file():
        raise WeightsError(f"weights {located.spec} come without {CONFIG}; keep it beside {located.tensors.name}")
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError("it is larger than 4 MiB")
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
            raise ValueError("it holds no object 'config'")
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{CONFIG} of weights {located.spec} can't be read: {_first_line(error)}") from error
    if record.get("model") != plugin.name:
        raise WeightsError(
            f"weights {located.spec} are for the model {record.get('model')!r}, not for {plugin.name}; "
            f"load them with that model or choose other weights"
        )
    if record.get("contract") != CONTRACT_VERSION:
        raise WeightsError(
            f"weights {located.spec} were saved under version {record.get('contract')!r} of the contract, this zoo "
            f"has {CONTRACT_VERSION}; install the medimg-zoo release they were made with ({record.get('version')})"
        )
    return record


def load_into(model_class: type[Model], spec: str, device: str | torch.device = "cpu") -> Model:
    """Build a model from a weights specification, in eval mode.

    Raises ``WeightsError`` for weights that are missing, malformed, unsafe or made for another model.
    """
    from dataclasses import replace

    import torch

    from zoo.prediction import Provenance

    plugin = model_class.plugin
    if spec == "none":
        return model_class(model_class.config_class()).to(device).eval()
    located = locate(spec, plugin)
    record = read_record(located, plugin)
    try:
        config = configs.from_dict(model_class.config_class, record["config"])
    except OptionError as error:
        raise WeightsError(f"{CONFIG} of weights {spec} does not fit {plugin.name}: {error}") from error
    with torch.device("meta"):
        expected = model_class(config).state_dict()
    tensors = _read_tensors(located, plugin, expected)
    model = model_class(config)
    model.load_state_dict(tensors)
    model.provenance = replace(
        Provenance(model=plugin.name),
        distribution=str(record.get("distribution", "")),
        version=str(record.get("version", "")),
        weights=spec,
        revision=located.revision,
        trained_on=str(record.get("trained_on", "unknown data")),
        disclaimer=str(record.get("disclaimer", "for research; not for clinical use")),
    )
    return model.to(device).eval()


def _read_tensors(located: Located, plugin: Plugin, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(located.tensors, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _compare(located, plugin, shapes, {name: tuple(tensor.shape) for name, tensor in expected.items()})
            return {name: file.get_tensor(name).to(expected[name].dtype) for name in expected}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"weights {located.spec} can't be read: {_first_line(error)}; get the file again") from error


def _compare(located: Located, plugin: Plugin, found: dict[str, Any], expected: dict[str, Any]) -> None:
    wrong = [f"{name} has shape {list(found[name])}, expected {list(shape)}" for name, shape in expected.items()
             if name in found and found[name] != shape]  # fmt: skip
    lacking = [f"{name} is missing" for name in expected if name not in found]
    extra = [f"{name} is unknown" for name in found if name not in expected]
    problems = wrong + lacking + extra
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(f"weights {located.spec} do not fit {plugin.name}: {'; '.join(problems[:3])}{more}")


def save(
    model: Model,
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    trained_on: str | None = None,
    disclaimer: str | None = None,
) -> Path:
    """Write ``config.json`` and ``model.safetensors``; both appear whole or not at all.

    ``dtype`` stores floating-point tensors in another precision, for example ``torch.float16``.
    Raises ``WeightsError`` when the folder can't be written to.
    """
    from importlib.metadata import PackageNotFoundError, version

    from safetensors.torch import save_file

    out, plugin = Path(folder), model.plugin
    distribution = record_owner(plugin)
    try:
        release = version(distribution)
    except PackageNotFoundError:
        release = ""
    record = {
        "model": plugin.name,
        "distribution": distribution,
        "version": release,
        "contract": CONTRACT_VERSION,
        "library_name": "medimg-zoo",
        "task": plugin.task,
        "labels": list(plugin.labels),
        "trained_on": trained_on or model.provenance.trained_on,
        "disclaimer": disclaimer or "for research; not for clinical use",
        "config": configs.to_dict(model.config),
    }
    tensors = {
        name: (tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".zoo-", dir=out) as scratch:
            draft = Path(scratch)
            save_file(tensors, draft / TENSORS, metadata={"format": "pt"})
            (draft / CONFIG).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            for name in (TENSORS, CONFIG):
                os.replace(draft / name, out / name)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WeightsError(f"can't write weights to {out}: {reason}; choose another folder") from error
    return out


def record_owner(plugin: Plugin) -> str:
    """The distribution a plugin came from."""
    from zoo.extras import DISTRIBUTION
    from zoo.registry import entries

    owners = [entry.distribution for entry in entries() if entry.plugin is plugin]
    return owners[0] if owners else DISTRIBUTION


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
