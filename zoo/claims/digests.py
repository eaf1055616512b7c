"""Which code made a record: a digest of every module of the zoo that the run imported, and the commit.

Digests are of syntax trees without comments, docstrings, the words of errors, and what cards and claims say: other
code, other numbers. That of the compiled operators is of their C++, and compiled into them. A record whose digests
don't match is stale; ``zoo reproduce MODEL --confirm`` runs one seed again, and renews them if its numbers stay.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHANGED = "changed while the claim ran"
STARTED = time.time()

OPERATORS = "zoo._C"

# What can't move a number of a claim: words, pictures, cards' fields, the command line, servers, fetching, the house
# above the models, which none of them imports, and what judges the numbers afterwards, which is done anew whenever a
# record is read.
WORDS = (
    "zoo.answers", "zoo.cards", "zoo.claims", "zoo.cli", "zoo.client", "zoo.cluster", "zoo.conformance", "zoo.convert",
    "zoo.defaults", "zoo.errors", "zoo.export", "zoo.extras", "zoo.figure", "zoo.foreign", "zoo.hub", "zoo.mcp",
    "zoo.plugin", "zoo.progress", "zoo.publish", "zoo.registry", "zoo.results", "zoo.samples", "zoo.scaffold",
    "zoo.serve", "zoo.text", "zoo._version", "zoo.__main__",
)  # fmt: skip

# What a card and a claim say; of their fields only these can matter to a run.
SAID = {"Plugin": ("labels", "inputs", "task"), "Claim": ()}


def imported(run: str, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Digests of the modules in memory that a claim's numbers may rest on, and of weights that lie beside them.

    Modules of ``known`` keep the digest that they had when they were seen first, for that code is in memory. The
    modules of other papers don't count: no paper imports another.
    """
    home = run.partition(":")[0].rpartition(".")[0] or run.partition(":")[0]  # the package of the claim
    names = [name for name in list(sys.modules) if name.split(".")[0] in ("zoo", home.split(".")[0])]
    kept = [name for name in sorted(names) if not _within(name, WORDS) and
            (not name.startswith("zoo.models.") or _within(name, (home,)))]  # fmt: skip
    known = known or {}
    return {name: digest for name in kept if (digest := known.get(name) or digest_of(name, CHANGED))}


def stale(modules: Mapping[str, str]) -> list[str]:
    """The modules whose code is not what the digests say; all code counts as another's where there are none."""
    if not modules:
        return ["the record names no code"]
    return [name for name, digest in modules.items() if digest_of(name) != digest]


def digest_of(name: str, changed: str = "") -> str:
    """The digest of a module, with weights that lie beside it; ``changed`` for one that was written since the start.

    Empty for what has no source, and for what isn't there any more.
    """
    if name == OPERATORS:
        return operators()[1]
    path = _path(name)
    if path is None or path.suffix != ".py" or not path.is_file():
        return ""
    files = [path, *sorted((path.parent / "demo").glob("*.safetensors"))] if path.stem == "__init__" else [path]
    if name.startswith("zoo.models."):
        files = [path]  # a claim trains its own weights
    if changed and any(file.stat().st_mtime > STARTED for file in files):
        return changed
    return _digest(tuple((file, file.stat().st_mtime_ns) for file in files))


def operators() -> tuple[str, str]:
    """What the operators run by on this machine, in words, and the digest of the C++ that they were built from.

    By reference, whose code is Python, there is no digest. Instruction sets differ in the last bits of a sum.
    """
    from zoo import ops  # with torch, which a record's words don't need

    status = ops.status()
    if status.simd is None or status.mode == "reference":
        return "reference", ""
    return f"compiled {status.simd}", status.build["sources"]


def commit(run: str) -> str:
    """The commit of the checkout that the claim lies in; empty where it's no checkout."""
    return _git(run, "rev-parse", "--short=12", "HEAD")


def uncommitted(run: str) -> list[str]:
    """Files of code and weights in the checkout that differ from the commit."""
    lines = _git(run, "status", "--porcelain", "--", ":/zoo" if run.startswith("zoo.") else ".").splitlines()
    return [line[3:] for line in lines if line.endswith((".py", ".safetensors"))]


def _within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _path(name: str) -> Path | None:
    try:
        module = sys.modules.get(name)
        spec = getattr(module, "__spec__", None) or find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _git(run: str, *command: str) -> str:
    path = _path(run.partition(":")[0])
    if path is None:
        return ""
    try:
        done = subprocess.run(["git", *command], cwd=path.parent, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip("\n") if done.returncode == 0 else ""


@lru_cache(1024)
def _digest(files: tuple[tuple[Path, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _ in files:
        data = path.read_bytes()
        digest.update("\n".join(_code(ast.parse(data))).encode() if path.suffix == ".py" else data)
    return digest.hexdigest()[:16]


def _code(node: Any) -> list[str]:
    """A syntax tree as lines, the same for every version of Python: what is empty isn't mentioned."""
    if isinstance(node, list):
        return [line for part in node for line in _code(part)]
    if not isinstance(node, ast.AST):
        return [repr(node)]
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return ["Raise", *_code(node.exc.func)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SAID:
        return ["Call", node.func.id, *_code([one for one in node.keywords if one.arg in SAID[node.func.id]])]
    lines = [f"({type(node).__name__}"]
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list):  # a lone string says something to readers only
            value = [one for one in value if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
        if value not in (None, []) and name not in ("type_comment", "kind", "ctx"):
            lines += [name, *_code(value)]
    return [*lines, ")"]
