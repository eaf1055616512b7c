"""What pyproject.toml can't say: where the packages lie, and how the compiled operators are built.

``ZOO_CUDA=auto|0|1`` switches the CUDA kernels: ``auto`` (the default) builds them for the GPUs that torch sees here,
or for those that ``TORCH_CUDA_ARCH_LIST`` names, and goes on without them where there is neither or no usable toolkit;
``1`` builds them in any case (for sm_80, sm_90 and PTX if nothing says otherwise) and fails instead; ``0`` leaves them
out. Without a working C++ compiler the package installs as pure Python and the operators run by their PyTorch
references.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

try:
    import torch
    from torch.utils import cpp_extension

    MISSING = None
except ImportError as error:
    MISSING = error

TORCH_TARGET_VERSION = "0x020a000000000000"  # LibTorch stable ABI of 2.10: one binary for every later torch
OLDEST_PYTHON = "cp310"  # limited API of 3.10, see csrc/common/module.h: one binary for every later Python
CUDA_ARCHS = "8.0;9.0+PTX"  # of ZOO_CUDA=1 where no GPU and no TORCH_CUDA_ARCH_LIST says otherwise
MEMORY_PER_JOB = 4 << 30  # bytes that one compiler of CUDA kernels may need

# registry/ and cli/ lie beside zoo/ but are imported as zoo.registry and zoo.cli.
FOLDERS = {"zoo": "zoo", "zoo.registry": "registry", "zoo.cli": "cli"}


def packages() -> list[str]:
    found = []
    for name, folder in FOLDERS.items():
        found += [name, *(f"{name}.{package}" for package in find_packages(folder))]
    return found


def say(message: str) -> None:
    print(f"\nmedimg-zoo: {message}\n", file=sys.stderr, flush=True)


def cuda_archs() -> str | None:
    """The GPU generations to compile for: those asked for, else those of the GPUs that torch sees; None without any."""
    if asked := os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip():
        return asked
    if torch.version.cuda is None or not torch.cuda.is_available():
        return None
    found = {torch.cuda.get_device_capability(device) for device in range(torch.cuda.device_count())}
    return ";".join(f"{major}.{minor}" for major, minor in sorted(found))


def limit_jobs() -> None:
    """As many compilers at a time as there is memory for, unless ``MAX_JOBS`` is set."""
    if "MAX_JOBS" in os.environ or not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    os.environ["MAX_JOBS"] = str(max(1, min(os.cpu_count() or 1, memory // MEMORY_PER_JOB)))


def cuda_home() -> str:
    """The folder of a CUDA toolkit that torch can use. Raises ``RuntimeError`` that says why there is none."""
    if torch.version.cuda is None:
        raise RuntimeError(f"torch {torch.__version__} is a build without CUDA")
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    if nvcc := shutil.which("nvcc"):
        candidates.append(str(Path(nvcc).resolve().parent.parent))
    candidates.append("/usr/local/cuda")
    # The pip packages cuda-toolkit[nvcc,crt,nvvm,cccl] put a toolkit into site-packages/nvidia/cu13.
    spec = find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        candidates += sorted(glob(f"{root}/cu[0-9]*"), reverse=True)
    rejected = []
    for home in filter(None, candidates):
        nvcc = Path(home, "bin", "nvcc")
        if not nvcc.is_file() or not Path(home, "include", "cuda_runtime.h").is_file():
            continue
        if cuda_version(home).split(".")[0] == torch.version.cuda.split(".")[0]:
            return home
        rejected.append(f"{home} is CUDA {cuda_version(home)}")
    reason = f" ({'; '.join(rejected)})" if rejected else ""
    major = torch.version.cuda.split(".")[0]
    raise RuntimeError(f"no CUDA {major} toolkit was found for torch {torch.__version__}{reason}")


def cuda_version(home: str) -> str:
    text = subprocess.run([f"{home}/bin/nvcc", "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"release (\d+\.\d+)", text)
    return match.group(1) if match else "unknown"


def cuda_runtime(home: str) -> str:
    """The file of the static CUDA runtime: the module then needs no libcudart of whatever version torch brings."""
    for pattern in ("lib64/libcudart_static.a", "lib/libcudart_static.a", "targets/*/lib/libcudart_static.a"):
        if files := sorted(glob(f"{home}/{pattern}")):
            return files[0]
    raise RuntimeError(f"the CUDA toolkit in {home} has no libcudart_static.a")


def extension(name: str, sources: list[str], **options: list) -> Extension:
    # No libtorch_python, no c10: the stable ABI is libtorch's C interface. No libpython's version either.
    return Extension(
        name,
        sources=sorted(sources),
        depends=sorted([*glob("csrc/**/*.h", recursive=True), *glob("csrc/**/*.inl", recursive=True)]),
        include_dirs=[os.path.abspath("csrc"), *cpp_extension.include_paths()],
        library_dirs=cpp_extension.library_paths(),
        libraries=["torch_cpu", *options.pop("libraries", [])],
        define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION), *options.pop("define_macros", [])],
        extra_compile_args={
            "cxx": ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wno-psabi"],
            "nvcc": ["-O3", "-Xcompiler", "-fvisibility=hidden"],
        },
        language="c++",
        py_limited_api=True,
        **options,
    )


def sources_digest() -> str:
    """Of the C++ of ``zoo._C``, compiled into it: records of claims name it, for other code may give other numbers."""
    found = (path for path in Path("csrc").rglob("*") if path.suffix in (".cpp", ".h", ".inl"))
    texts = {path.as_posix(): path.read_bytes().replace(b"\r\n", b"\n") for path in found if "cuda" not in path.name}
    digest = hashlib.sha256()
    for name in sorted(texts):
        digest.update(f"{name} {len(texts[name])}\n".encode() + texts[name])
    return digest.hexdigest()[:16]


def cpu_extension() -> Extension:
    return extension(
        "zoo._C",
        ["csrc/schemas.cpp", "csrc/module.cpp", *glob("csrc/*/*.cpp")],
        define_macros=[("ZOO_SOURCES", f'"{sources_digest()}"')],
    )


def cuda_extension(home: str, runtime: str) -> Extension:
    """A second shared object, because it needs libtorch_cuda: zoo._C loads under a CPU build of torch too."""
    return extension(
        "zoo._C_cuda",
        ["csrc/module_cuda.cpp", *glob("csrc/*/*.cu")],
        libraries=["torch_cuda"],
        define_macros=[
            ("USE_CUDA", None),
            ("ZOO_CUDA_VERSION", f'"{cuda_version(home)}"'),
            ("ZOO_CUDA_ARCHS", f'"{os.environ["TORCH_CUDA_ARCH_LIST"]}"'),
        ],
        # Hidden, or the loader would bind our calls to torch's runtime where that was loaded for all to see.
        extra_link_args=[runtime, "-lrt", "-ldl", "-lpthread", "-Wl,--exclude-libs,ALL"],
    )


def extensions() -> list[Extension]:
    if MISSING:
        say(f"building without the compiled operators: {MISSING}")
        return []
    cpu = cpu_extension()
    wanted = os.environ.get("ZOO_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise ValueError(f"ZOO_CUDA must be auto, 0 or 1, not {wanted!r}")
    archs = cuda_archs() or (CUDA_ARCHS if wanted == "1" else None)
    if wanted == "0" or archs is None:
        return [cpu]
    try:
        home = cuda_home()
        runtime = cuda_runtime(home)
    except RuntimeError:
        if wanted == "1":
            raise
        return [cpu]
    os.environ["TORCH_CUDA_ARCH_LIST"] = archs
    limit_jobs()
    say(
        f"compiling the CUDA kernels for {archs} with {os.environ.get('MAX_JOBS', 'several')} jobs, some minutes each "
        "file; ZOO_CUDA=0 leaves them out, and they can be built later"
    )
    cpp_extension.CUDA_HOME = home
    cuda = cuda_extension(home, runtime)
    cuda.optional = wanted == "auto"
    return [cpu, cuda]


class BuildOperators(build_ext if MISSING else cpp_extension.BuildExtension):
    """torch's build through ninja, with two fallbacks: no compiler, and a CUDA toolkit that turns out unusable."""

    def build_extensions(self) -> None:
        self.clear(self.build_lib)
        if reason := self.compiler_fails():
            say(
                f"no working C++ compiler ({reason}): installing without the compiled operators; "
                "the PyTorch references run instead"
            )
            self.extensions = []
            return
        built = []
        for ext in self.extensions:
            self.extensions = [ext]
            try:
                super().build_extensions()
                built.append(ext)
            except Exception as error:
                if not ext.optional:
                    raise
                say(f"building without {ext.name}: {error}")
        self.extensions = built

    def copy_extensions_to_source(self) -> None:
        self.clear(".")
        super().copy_extensions_to_source()

    @staticmethod
    def clear(folder: str) -> None:
        """What an earlier build left must not travel in this one, nor, with a longer name, be found before it."""
        for stale in Path(folder, "zoo").glob("_C*.so"):
            stale.unlink()

    def compiler_fails(self) -> str | None:
        """Why a small program that needs Python's headers can't be compiled; None when it can."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.cpp")
            source.write_text("#include <Python.h>\n#include <vector>\nint main() { return 0; }\n")
            try:
                self.compiler.compile([str(source)], output_dir=folder, extra_postargs=["-std=c++17"])
            except Exception as error:
                return str(error)
        return None


setup(
    packages=packages(),
    package_dir=FOLDERS,
    package_data={
        "": ["py.typed", "demo/*", "templates/**/*", "*.json", "notes.md", "*.safetensors", "*.css", "*.html", "*.js"]
    },
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildOperators},
    options={"bdist_wheel": {"py_limited_api": OLDEST_PYTHON}},
)
