"""How large an image may say it is, checked on the header before any pixel is decoded.

Assign to these to read larger files, for example ``zoo.media.limits.MAX_PIXELS = 2**30``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from zoo.media.files import refusal

MAX_PIXELS = 2**28
"""Most pixels of one 2-D image (16,384 x 16,384)."""

MAX_VOXELS = 2**29
"""Most voxels of one volume, a series or a multi-page file (512 x 512 x 2,048)."""

MAX_NIFTI_OFFSET = 2**24
"""Most bytes between the start of a NIfTI file and its voxels (header extensions)."""

MAX_INFLATED_BYTES = 2**30
"""Most bytes that a deflated DICOM file could unpack to."""


def check_size(source: str, shape: Sequence[int]) -> None:
    """Refuses absurd dimensions: ``shape`` is [h w] or [z h w] as the header declares it.

    Raises ``MediaError`` when an axis is not positive or the product passes the limit of its kind.
    """
    size = " x ".join(f"{n:,}" for n in shape)
    if min(shape, default=0) < 1:
        raise refusal(source, f"its header declares a size of {size}", "export the image again")
    limit, name = (MAX_PIXELS, "MAX_PIXELS") if len(shape) == 2 else (MAX_VOXELS, "MAX_VOXELS")
    if math.prod(shape) > limit:
        unit = "pixels" if len(shape) == 2 else "voxels"
        raise refusal(
            source,
            f"its header declares {size} {unit}, more than the limit of {limit:,}",
            f"downsample or crop it, or raise zoo.media.limits.{name} if you trust the file",
        )
