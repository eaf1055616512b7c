"""The one way to Flower: its absence is one sentence, and it neither reports home nor floods the terminal."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from zoo.errors import MissingExtraError

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # Flower reads it once, when it's first imported
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    from flwr.supercore import telemetry
except ImportError as error:
    raise MissingExtraError("federated training", "flwr", "federated") from error

if os.environ["FLWR_TELEMETRY_ENABLED"] == "0":
    telemetry.FLWR_TELEMETRY_ENABLED = "0"  # somebody may have imported Flower before
    telemetry.state["source"] = telemetry.state["source"] or "disabled"  # else it's made and kept in ~/.flwr


@contextmanager
def quiet() -> Iterator[None]:
    """Only Flower's errors are printed within it; ``run.log`` and the metrics' files tell the rest."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
