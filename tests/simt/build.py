"""Compiles the operators' CUDA sources for the CPU, as ``torch.ops.zoo_simt.*``.

The kernels are taken as they are. A copy of ``csrc`` is rewritten by text: launches, shared memory, and the few calls
that need a device. ``python tests/simt/build.py FOLDER`` builds there and prints the library's path.
"""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
TORCH_TARGET_VERSION = "0x020a000000000000"

WORDS = (
    ("torch::stable::accelerator::DeviceGuard", "::simt::DeviceGuard"),
    ("aoti_torch_get_current_cuda_stream", "::simt::current_stream"),
    ("torch::stable::new_empty(", "::simt::guarded("),
    ("STABLE_TORCH_LIBRARY_IMPL(zoo, CUDA, m)", "STABLE_TORCH_LIBRARY_IMPL(zoo_simt, CPU, m)"),
    ("STABLE_TORCH_LIBRARY(zoo, m)", "STABLE_TORCH_LIBRARY_FRAGMENT(zoo_simt, m)"),
)


def rewrite(text: str) -> str:
    """CUDA C++ as C++: ``kernel<<<...>>>(...)`` becomes a call, ``__shared__`` a static array that is claimed."""
    for old, new in WORDS:
        text = text.replace(old, new)
    text = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", r"\1* \2 = static_cast<\1*>(::simt::dynamic_shared());", text)
    text = re.sub(
        r"__shared__ ([^;]*?)(\w+)((?:\[[^;]*\])?);", r"static \1\2\3; ::simt::claim_shared(&\2, sizeof(\2));", text
    )
    while (at := text.find("<<<")) >= 0:
        text = _launch(text, at)
    return text


def _launch(text: str, at: int) -> str:
    kernel_end = len(text[:at].rstrip())
    start = kernel_end
    if text[start - 1] == ">":  # template arguments
        depth = 0
        while True:
            start -= 1
            depth += {">": 1, "<": -1}.get(text[start], 0)
            if depth == 0:
                break
    start = re.search(r"[\w:]+$", text[:start]).start()  # type: ignore[union-attr]
    kernel = text[start:kernel_end]
    settings_end = text.index(">>>", at)
    settings = _split(text[at + 3 : settings_end])
    opening = text.index("(", settings_end)
    closing = _closing(text, opening)
    arguments = text[opening + 1 : closing].strip()
    grid, block, shared = (*settings, "0")[:3]
    name = re.match(r"\w+", kernel)[0]  # type: ignore[index]
    call = (
        f'::simt::launch("{name}", {grid}, {block}, static_cast<size_t>({shared}), '
        f"[&](auto&... simt_arguments) {{ {kernel}(simt_arguments...); }}, {arguments})"
    )
    return text[:start] + call + text[closing + 1 :]


def _closing(text: str, opening: int) -> int:
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError("a parenthesis is never closed")


def _split(text: str) -> list[str]:
    """At the commas outside of parentheses."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def sources(folder: Path, csrc: Path = CSRC) -> list[Path]:
    """The rewritten tree under ``folder``; returns the files to compile."""
    found = []
    for path in [*sorted(csrc.rglob("*")), HERE / "faults.cu"]:
        if path.suffix not in (".cu", ".cuh", ".h") and path.name != "schemas.cpp":
            continue
        to = folder / (path.relative_to(csrc) if path.is_relative_to(csrc) else path.name)
        to = to.with_suffix(".cpp") if path.suffix == ".cu" else to
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(rewrite(path.read_text(encoding="utf-8")), encoding="utf-8")
        if to.suffix == ".cpp":
            found.append(to)
    return [HERE / "emulator.cpp", *found]


def build(folder: Path, csrc: Path = CSRC, jobs: int = 2) -> Path:
    """Compile; returns the library. Raises ``RuntimeError`` with the compiler's words."""
    from torch.utils import cpp_extension

    files = sources(folder / "src", csrc)
    include = [HERE / "include", folder / "src", *cpp_extension.include_paths()]
    flags = [
        "-std=c++20", "-O1", "-g0", "-fPIC", "-fvisibility=hidden", "-w", "-ffp-contract=off",
        f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}", *(f"-I{path}" for path in include),
    ]  # fmt: skip
    names = [f"{file.parent.name}_{file.stem}" for file in files]
    objects = [folder / f"{name}.o" for name in names]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(_run, [["g++", *flags, "-c", str(a), "-o", str(b)] for a, b in zip(files, objects, strict=True)]))
    library = folder / "zoo_simt.so"
    linked = [f"-L{path}" for path in cpp_extension.library_paths()]
    _run(["g++", "-shared", *map(str, objects), *linked, "-ltorch_cpu", "-o", str(library)])
    return library


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[-3:])} fails:\n{done.stderr[-4000:]}")


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
