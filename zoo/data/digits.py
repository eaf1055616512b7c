"""Handwritten digits, the real images that come with scikit-learn, on which a claim trains its arms in seconds."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from zoo.errors import MissingExtraError


def digits(needed_by: str) -> tuple[Float[np.ndarray, "n 8 8"], Int[np.ndarray, " n"]]:
    """All 1,797 images, their grey levels 0 to 16, and which digit each shows. Raises ``MissingExtraError``."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError(needed_by, "scikit-learn", "tabular") from None
    pixels, y = load_digits(return_X_y=True)
    return pixels.reshape(-1, 8, 8), y
