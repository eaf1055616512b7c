"""``zoo convert``: weights that a paper's authors released, by their own names, as a folder that this zoo loads."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo import registry, weights
from zoo.errors import OptionError, WeightsError
from zoo.storage import user_path


def convert(
    name: str, file: str | os.PathLike[str], out: str | os.PathLike[str], *, accept_licence: bool = False
) -> Path:
    """Write the weights in ``file``, safetensors with the authors' names, to the folder ``out`` for the model ``name``.

    ``accept_licence``: that the licence of the weights, as the card states it, was read and is kept.

    Raises ``OptionError`` for a model without a converter and a licence that isn't accepted, ``WeightsError`` for a
    file that is no safetensors, has other tensors or other shapes; nothing is written then.
    """
    entry = registry.find(name)
    plugin = entry.plugin
    assert plugin is not None
    if plugin.converter is None:
        raise OptionError(f"{plugin.name} knows no released weights; train some with zoo train {plugin.name}")
    if plugin.licence_notes and not accept_licence:
        raise OptionError(f"{plugin.licence_notes.rstrip('.')}; if you keep to that, add --accept-licence")
    path = user_path(file, WeightsError)
    tensors = _tensors(path)
    make: Callable[[Mapping[str, Any]], Any] = registry.resolve(entry, "converter")
    model = make(tensors)
    return weights.save(
        model, out, trained_on=f"what the paper's authors state; from {path.name}",
        disclaimer="released by the paper's authors under their own licence; not for clinical use",
    )  # fmt: skip


def _tensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsError(f"there is no file {path}; give the authors' weights as a .safetensors file")
    with open(path, "rb") as stream:
        first = stream.read(2)
    if first in (b"PK", b"\x80\x02") or path.suffix != ".safetensors":
        raise WeightsError(
            f"{path} is no .safetensors file, and pickle, which can run code, isn't loaded here; if you trust it, run: "
            f"{unpickle(path)}"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} can't be read: {weights.first_line(error)}; get the file again") from error


def unpickle(path: Path) -> str:
    """The command with which a user who trusts a pickled file makes safetensors of it, by torch's restricted reader."""
    target = path.with_suffix(".safetensors")
    code = (
        "import torch, safetensors.torch as s; "
        f"t = torch.load({str(path)!r}, weights_only=True, map_location='cpu'); "
        f"s.save_file({{k: v.contiguous() for k, v in t.items()}}, {str(target)!r})"
    )
    return f"python -c {shlex.quote(code)}"
