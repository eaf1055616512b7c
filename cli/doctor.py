"""``zoo doctor``: what is installed and what works here."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from zoo._version import __version__
from zoo.cli.output import print_json, print_table
from zoo.errors import OptionError


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="Compare kernels and references on every GPU.")] = False,
) -> None:
    """Report versions, device, compiled operators, extras, cache and Hub settings."""
    if gpu:
        compare(json)
        return
    report = collect()
    if json:
        print_json(report)
        return
    for section, facts in report.items():
        print_table([section, ""], [[name, str(value)] for name, value in facts.items()])
        print()


def compare(json: bool) -> None:
    """Every operator on every GPU by its kernel, a library's and its reference. Exits with 1 where they differ."""
    found = comparisons()
    if json:
        print_json(found)
    else:
        columns = ["device", "operator", "kernel", "difference", "ms"]
        print_table(columns, [[str(row[name]) for name in columns] for row in found])
    if any(row["kernel"] != "good" for row in found):
        raise typer.Exit(1)


def comparisons() -> list[dict[str, Any]]:
    """A row for each operator and GPU. Raises ``OptionError`` where there is nothing to compare."""
    import torch

    from zoo import ops

    if not torch.cuda.is_available():
        raise OptionError("there is no GPU here that torch can use, so no kernel was looked at; zoo doctor tells more")
    if reason := ops.status().why_not_compiled.get("cuda"):
        raise OptionError(f"there are no kernels for GPUs here: {reason}")
    found = []
    for index in range(torch.cuda.device_count()):
        for finding in ops.self_tests(torch.device("cuda", index)).values():
            found.append(
                {
                    "device": f"{index}: {torch.cuda.get_device_name(index)}",
                    "operator": finding.operator,
                    "kernel": "good" if finding.ok else finding.why,
                    "difference": f"{finding.difference:.1e}",
                    "ms": round(finding.milliseconds, 1),
                }
            )
    return found


def collect() -> dict[str, dict[str, Any]]:
    """The report as plain data. The Hub token is never part of it, only whether there is one."""
    import torch
    from huggingface_hub import constants, get_token

    from zoo import extras, ops, registry

    entries = registry.entries()
    broken = [entry.name for entry in entries if entry.plugin is None]
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    optional = {}
    for extra in extras.libraries():
        absent = extras.missing(extra)
        optional[extra] = "installed" if not absent else f"missing {', '.join(absent)}"
    return {
        "versions": {
            "zoo": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "numpy", "safetensors", "huggingface-hub", "typer")},
        },
        "device": {
            "cpu": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
            "cuda": ", ".join(gpus) or "none available",
            "cuda of torch": torch.version.cuda or "CPU build",
        },
        "operators": _operators(ops.status()),
        "library kernels": _ways(ops.ways()),
        "plugins": {"working": len(entries) - len(broken), "broken": ", ".join(broken) or "none"},
        "extras": optional,
        "hub": {
            "endpoint": constants.ENDPOINT,
            "cache": constants.HF_HUB_CACHE,
            "offline": constants.HF_HUB_OFFLINE,
            "token": "present" if get_token() else "absent",
        },
    }


def _operators(status: Any) -> dict[str, str]:
    by_device = {
        name: ", ".join(f"{how} on {d}" for d, how in devices.items()) for name, devices in status.operators.items()
    }
    return {
        **by_device,
        "ZOO_OPS": status.mode,
        "CPU SIMD level": status.simd or "-",
        "CUDA archs": ", ".join(status.cuda_archs) or "-",
        **{f"not compiled for {device}": reason for device, reason in status.why_not_compiled.items()},
        **{f"built with {what}": fact for what, fact in status.build.items()},
    }


def _ways(table: Any) -> dict[str, str]:
    """When one of PyTorch's own kernels is taken for an operator."""
    by = "{card}, {date}".format(**table.measured) if table.measured else "counts of operations and bytes, not measured"
    rows = {
        f"{row.operator} by {row.way}": f"{row.device}, {' and '.join(row.dtypes)}, {row.needs}, "
        + ", ".join(f"{name} from {least:g}" for name, least in row.at_least.items())
        for row in table.rows
    }
    return {**rows, "chosen from": by}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
