"""Whether a plugin's folder reads as all others do: files by role, sizes, nothing of another plugin."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from zoo.conformance.rules import Failed, Skipped
from zoo.extras import DISTRIBUTION
from zoo.foreign import points
from zoo.plugin import ENTRY_POINT_GROUP

MAX_PLUGIN_LINES = 1500
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 80

ROLES = ("__init__", "model", "training", "claim", "result", "baselines", "data", "export")
MAX_OTHERS = 2
"""Files named after the maths, such as ``accounting.py`` or ``distance.py``."""

MISNAMED = {
    **dict.fromkeys(("pictures", "charts", "figures", "explanation", "gallery", "render", "plots", "views"), "result"),
    **dict.fromkeys(("utils", "util", "helpers", "helper", "common", "misc", "tools", "base", "lib"), ""),
    **dict.fromkeys(("train", "fit", "recipe"), "training"),
    **dict.fromkeys(("datasets", "dataset", "loaders"), "data"),
}
"""Names that other plugins give by role, or that say nothing."""


def examine(distribution: str, name: str) -> str:
    """What the folder of an installed plugin lacks: of ours a failure, of other people's advice."""
    found = _home(distribution, name)
    if found is None:
        raise Skipped("the plugin is one module, so it has no folder to look at")
    package, folder = found
    sentences = list(findings(folder, package=package, others=_strangers(package)))
    if sentences and distribution == DISTRIBUTION:
        raise Failed(". ".join(sentences))
    if sentences:
        return f"by the rules of our own plugins: {'. '.join(sentences)}"
    return f"{len(list(folder.rglob('*.py')))} files"


def findings(folder: Path, *, package: str, others: tuple[str, ...] = ()) -> Iterator[str]:
    """One sentence for each thing in a plugin's folder that is not where, or as large as, readers expect it.

    ``package`` is the dotted name of the folder, ``others`` are the modules that other plugins live in.
    """
    files = sorted(folder.rglob("*.py"))
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    yield from _names(folder, files)
    if (total := sum(lines.values())) > MAX_PLUGIN_LINES:
        yield (
            f"the plugin has {total:,} lines of Python, {MAX_PLUGIN_LINES:,} at most; "
            "move what is not the paper's to a shared room"
        )
    for path in files:
        name = path.relative_to(folder).as_posix()
        if lines[path] > MAX_FILE_LINES:
            yield f"{name} has {lines[path]} lines, {MAX_FILE_LINES} at most; look for the part that belongs elsewhere"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function, length in _functions(tree):
            if length > MAX_FUNCTION_LINES:
                yield f"{name}: {function} has {length} lines, {MAX_FUNCTION_LINES} at most; give its parts names"
        inside = [package, *path.relative_to(folder).with_suffix("").parts]
        for other in sorted(set(_imported(tree, inside, others))):
            yield f"{name} imports {other} of another plugin; what two papers share belongs in a shared room"
    if (folder / "claim.py").is_file() and not (folder / "claim.json").is_file():
        yield "claim.json is missing beside claim.py; zoo reproduce writes the record"


def _names(folder: Path, files: list[Path]) -> Iterator[str]:
    """What is wrong with how the files are called."""
    stems = [path.stem for path in files if path.parent == folder]
    for inner in sorted({path.relative_to(folder).parts[0] for path in files if path.parent != folder}):
        yield f"{inner}/ holds code; a plugin is one folder of files"
    for stem in stems:
        if right := MISNAMED.get(stem):
            yield f"{stem}.py is called {right}.py in every plugin; rename it, or put its content there"
        elif stem in MISNAMED:
            yield f"{stem}.py says nothing about what it holds; name it after that"
    extra = [stem for stem in stems if stem not in ROLES and stem not in MISNAMED]
    if len(extra) > MAX_OTHERS:
        yield (
            f"{len(extra)} files have names of their own, {', '.join(f'{stem}.py' for stem in extra)}; "
            f"{MAX_OTHERS} at most, named after the maths"
        )


def _functions(tree: ast.AST, owner: str = "") -> Iterator[tuple[str, int]]:
    """Every function with its length from ``def`` to its last line."""
    for node in ast.iter_child_nodes(tree):
        name = f"{owner}{node.name}" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else ""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield name, node.end_lineno - node.lineno + 1
        yield from _functions(node, f"{name}." if name else owner)


def _imported(tree: ast.AST, inside: list[str], others: tuple[str, ...]) -> Iterator[str]:
    """Modules of ``others`` that a module imports, wherever in it."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # one dot is the package of this module
                parents = ".".join(inside).split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            yield from (other for other in others if name == other or name.startswith(f"{other}."))


def _home(distribution: str, name: str) -> tuple[str, Path] | None:
    """The package and the folder of an installed plugin; ``None`` for one that is a single module."""
    for where, plugin, module in _entry_points():
        if (where, plugin) == (distribution, name):
            spec = find_spec(module)
            if spec is None or not spec.submodule_search_locations:
                return None
            return module, Path(next(iter(spec.submodule_search_locations)))
    return None


def _strangers(package: str) -> tuple[str, ...]:
    """The modules of all other installed plugins, but for one that a plugin lies inside of."""
    modules = {module for *_, module in _entry_points()}
    return tuple(sorted(module for module in modules if not f"{package}.".startswith(f"{module}.")))


def _entry_points() -> Iterator[tuple[str, str, str]]:
    """Distribution, plugin and module of each entry point."""
    for point in points(ENTRY_POINT_GROUP):
        yield point.distribution, point.name.replace("_", "-"), point.value.partition(":")[0]
