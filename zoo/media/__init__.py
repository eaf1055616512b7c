"""Reading what users have: PNG, JPEG, TIFF, BMP, DICOM files and series, NIfTI, NRRD, arrays, samples and phantoms.

One :func:`read` for all of them gives an :class:`Image`; every refusal is a :class:`~zoo.errors.MediaError` of one
sentence. The format libraries (pydicom, nibabel, tifffile) are imported only when a file needs them.
"""

from __future__ import annotations

from zoo.errors import MediaError
from zoo.media.files import replacing
from zoo.media.image import Image, per_image, stem_of
from zoo.media.inputs import expand, group, members
from zoo.media.masks import is_picture, read_labels, write_image, write_mask
from zoo.media.objects import (
    Algorithm,
    Finding,
    Measured,
    UnreferableError,
    own,
    unreferable,
    write_report,
    write_segmentation,
)
from zoo.media.reading import read

__all__ = [
    "Algorithm",
    "Finding",
    "Image",
    "Measured",
    "MediaError",
    "UnreferableError",
    "expand",
    "group",
    "is_picture",
    "members",
    "own",
    "per_image",
    "read",
    "read_labels",
    "replacing",
    "stem_of",
    "unreferable",
    "write_image",
    "write_mask",
    "write_report",
    "write_segmentation",
]
