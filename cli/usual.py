"""What commands take where a user says nothing: from the configuration file."""

from __future__ import annotations

from zoo import defaults


def usual_weights(model: str, given: str | None) -> str | None:
    """The weights that were named, or those that the file states for the model."""
    return given or defaults.read().weights_of(model)
