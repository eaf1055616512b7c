"""What a bottleneck is compared with: a linear probe on the image features, and one answer for everything."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from zoo.errors import MissingExtraError

STRENGTHS = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)  # C of the first round, as released
HALVINGS = 8
ITERATIONS = 1000


def linear_probe(
    x: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    validation: tuple[Float[np.ndarray, "v d"], Int[np.ndarray, " v"]],
    *,
    halvings: int = HALVINGS,
) -> Callable[[Float[np.ndarray, "m d"]], Int[np.ndarray, " m"]]:
    """Logistic regression on frozen features; C by accuracy on validation images, seven powers and then bisection.

    As CLIP's authors search it and LaBo's code does, but for the end: of all C tried the best is taken, there the left
    end of the last bracket. Returns the classes of other features. Raises ``MissingExtraError`` without scikit-learn.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise MissingExtraError("the linear probe", "scikit-learn", "train") from None
    tried: dict[float, tuple[float, LogisticRegression]] = {}

    def score(strength: float) -> float:
        if strength not in tried:
            model = LogisticRegression(C=strength, max_iter=ITERATIONS)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a thousand iterations are the recipe
                model.fit(x, y)
            tried[strength] = float((model.predict(validation[0]) == validation[1]).mean()), model
        return tried[strength][0]

    centre = max(STRENGTHS, key=score)
    left, right = centre / 100, centre * 100
    for _ in range(halvings):
        if score(left) < score(right):
            left = float(np.sqrt(left * right))
        else:
            right = float(np.sqrt(left * right))
    best = max(tried.values(), key=lambda pair: pair[0])[1]
    return lambda features: best.predict(features)


def both_accuracies(found: Int[np.ndarray, " n"], truth: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Accuracy and balanced accuracy, in [0, 1]; classes without an image don't count."""
    recalls = [float((found[truth == label] == label).mean()) for label in np.unique(truth)]
    return {"accuracy": float((found == truth).mean()), "balanced accuracy": float(np.mean(recalls))}
