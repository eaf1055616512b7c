"""Real images that ship inside installed libraries: ``sample:retina`` and friends.

Listing them imports none of the libraries, and nothing is ever downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from zoo.errors import MediaError, MissingExtraError
from zoo.text import close_to


@dataclass(frozen=True)
class Sample:
    """One real image: ``name`` is what follows ``sample:``."""

    name: str
    title: str
    modality: str
    library: str  # as pip knows it
    package: str  # as import knows it
    file: str  # inside the package
    licence: str
    extra: str = "imaging"

    @property
    def spec(self) -> str:
        """What to pass to ``read`` or ``zoo predict``."""
        return f"sample:{self.name}"


_SKIMAGE_CC0 = "CC0 1.0"
_PYDICOM = "pydicom test file; its authors know of no restriction"

SAMPLES: dict[str, Sample] = {
    sample.name: sample
    for sample in (
        Sample(
            "retina", "Normal left eye", "colour fundus photograph", "scikit-image", "skimage", "data/retina.jpg",
            _SKIMAGE_CC0,
        ),
        Sample(
            "microaneurysms", "Detail of a retina with microaneurysms", "fundus photograph, green channel",
            "scikit-image", "skimage", "data/microaneurysms.png", _SKIMAGE_CC0,
        ),
        Sample(
            "ihc", "Colonic glands, FHL2 by DAB with haematoxylin", "immunohistochemistry",
            "scikit-image", "skimage", "data/ihc.png", "no known copyright restriction",
        ),
        Sample(
            "cell", "Cell floating in saline", "quantitative phase microscopy", "scikit-image", "skimage",
            "data/cell.png", _SKIMAGE_CC0,
        ),
        Sample(
            "ct", "Body CT, one slice of 128 x 128", "CT", "pydicom", "pydicom", "data/test_files/CT_small.dcm",
            _PYDICOM,
        ),
        Sample(
            "mr", "MR, one slice of 64 x 64", "MR", "pydicom", "pydicom", "data/test_files/MR_small.dcm", _PYDICOM,
        ),
        Sample(
            "head-ct", "Skull base, one slice of 512 x 512", "CT", "pydicom", "pydicom",
            "data/test_files/J2K_pixelrep_mismatch.dcm", _PYDICOM,
        ),
        Sample(
            "abdomen-mr", "Upper abdomen, one slice of 300 x 484", "MR", "pydicom", "pydicom",
            "data/test_files/examples_overlay.dcm", _PYDICOM,
        ),
        Sample(
            "ultrasound", "Lymph node with power Doppler", "ultrasound", "pydicom", "pydicom",
            "data/test_files/examples_rgb_color.dcm", _PYDICOM,
        ),
        Sample(
            "anatomical", "Head, volume of 25 x 41 x 33 voxels of 2 mm", "T1-weighted MR", "nibabel", "nibabel",
            "tests/data/anatomical.nii", "nibabel test file, under nibabel's MIT licence",
        ),
    )
}  # fmt: skip
"""All samples by name."""


def find(name: str) -> Sample:
    """The sample called ``retina`` or ``sample:retina``.

    Raises ``MediaError`` for an unknown name, with the nearest ones.
    """
    short = name.removeprefix("sample:")
    if short in SAMPLES:
        return SAMPLES[short]
    near = [f"sample:{match}" for match in close_to(short.lower(), SAMPLES, count=3)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(SAMPLES)}"
    raise MediaError(f"there is no sample {short!r}; {hint}")


def path(name: str) -> Path:
    """Where a sample's file lies in the installed library.

    Raises ``MediaError`` for an unknown name or when the library came without the file, ``MissingExtraError`` when the
    library is not installed.
    """
    sample = find(name)
    # find_spec of a top-level name locates the package without importing it.
    package = find_spec(sample.package)
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError(sample.spec, sample.library, sample.extra)
    for folder in package.submodule_search_locations:
        file = Path(folder, sample.file)
        if file.is_file():
            return file
    raise MediaError(
        f"{sample.spec} is not in the installed {sample.library} ({sample.file} is missing); "
        f"reinstall it with: pip install --force-reinstall {sample.library}"
    )


def is_available(name: str) -> bool:
    """Whether the sample's file is there to be read."""
    try:
        return path(name).is_file()
    except (MediaError, MissingExtraError):
        return False
