"""Where a library's kernel is taken instead of ours: one table, ``ways.json``, and the decision made from it.

A row names an operator, a way of PyTorch's that gives the same answer, and when it is taken: on which type of device,
for which dtypes, with which ability of the device, and from which sizes on. Its numbers come from counts of operations
and bytes until ``benchmarks/gpu.py`` has measured them on a GPU and written the table anew. A way is taken only for
calls that ask for no gradient, outside of graphs, and once it answered on this device as the reference does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.ops import _library
from zoo.text import printable

PATH = Path(__file__).with_name("ways.json")
TENSOR_CORES, TILES = "tensor cores", "bfloat16 tiles"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    operator: str
    way: str
    device: str  # cuda or cpu
    dtypes: tuple[str, ...]  # such as float16
    needs: str  # an ability of the device, see abilities()
    at_least: Mapping[str, float] = field(default_factory=dict)  # sizes of a call; all must be reached
    why: str = ""


@dataclass(frozen=True)
class Table:
    """All rows, and the card that measured them; none where they come from counts."""

    rows: tuple[Row, ...] = ()
    measured: Mapping[str, str] | None = None

    def choose(
        self, operator: str, device: str, dtype: torch.dtype, able: Iterable[str], sizes: Mapping[str, float]
    ) -> list[str]:
        """The ways that a call is to be tried by, in the table's order."""
        narrow, able = str(dtype).removeprefix("torch."), frozenset(able)
        return [
            row.way
            for row in self.rows
            if (row.operator, row.device) == (operator, device)
            and narrow in row.dtypes
            and row.needs in able
            and all(sizes.get(name, 0) >= least for name, least in row.at_least.items())
        ]


def read(text: str) -> Table:
    """A table from its JSON. Raises ``ValueError``, ``KeyError`` or ``TypeError`` where it is none."""
    told = json.loads(text)
    rows = tuple(Row(**{**row, "dtypes": tuple(row["dtypes"])}) for row in told["rows"])
    return Table(rows, told["measured"])


def written(table: Table) -> str:
    """The JSON of a table."""
    rows = [{name: getattr(row, name) for name in Row.__dataclass_fields__} for row in table.rows]
    return json.dumps({"measured": table.measured, "rows": rows}, indent=1) + "\n"


@cache
def table() -> Table:
    """The one in use."""
    return read(PATH.read_text(encoding="utf-8"))


@cache
def abilities(device: torch.device) -> frozenset[str]:
    """What rows may ask of a device: tensor cores for both half precisions (compute capability 8.0 on), or a CPU's
    tiles of bfloat16 numbers (AMX)."""
    if device.type == "cuda":
        capable = torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
        return frozenset({TENSOR_CORES} if capable else ())
    if device.type == "cpu":
        return frozenset({TILES} if getattr(torch.cpu, "_is_amx_tile_supported", bool)() else ())
    return frozenset()


def declare(operator: str, way: str, check: Callable[[torch.device], tuple[Tensor, ...]]) -> None:
    """Enter a library's way of an operator, with calls of the operator for its comparison with the reference."""

    def here(device: torch.device) -> bool:
        rows = [row for row in table().rows if (row.operator, row.way, row.device) == (operator, way, device.type)]
        return any(row.needs in abilities(device) for row in rows)

    _library.declare_way(f"{operator} by {way}", check, here)


def take(
    operator: str,
    inputs: tuple[Any, ...],
    sizes: Callable[[], dict[str, float]],
    ways: Mapping[str, Callable[..., Any]],
    covers: Callable[[str], bool],
) -> Any:
    """The operator's answer by a library's way, or None: then our kernel's, or the reference's, is to be asked for.

    A way that fails is told of and taken no more; a lack of memory is the caller's.

    Args:
        operator: of ``zoo.ops``.
        inputs: the arguments of the reference, a tensor first. A gradient asked for by any of them rules ways out.
        sizes: of the call, as rows name them.
        ways: the functions, by name.
        covers: whether a way gives the operator's answer for this call.
    """
    if torch.compiler.is_compiling():
        return None
    device, dtype = inputs[0].device, inputs[0].dtype
    asked = _library.way_asked_for(operator)
    if asked == "" or not (asked or any((row.operator, row.device) == (operator, device.type) for row in table().rows)):
        return None
    if torch.is_grad_enabled() and any(isinstance(one, Tensor) and one.requires_grad for one in inputs):
        return None
    if asked:
        return ways[asked](*inputs) if covers(asked) else None
    for way in table().choose(operator, device.type, dtype, abilities(device), sizes()):
        name = f"{operator} by {way}"
        if covers(way) and _library.trusts_way(name, device):
            try:
                return ways[way](*inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a compiler or a launch may end in
                _library.distrust(name, device, printable(error, 160) or type(error).__name__)
    return None
