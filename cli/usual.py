"""What commands take where a user says nothing: from the configuration file."""

from __future__ import annotations

import typer

from zoo import defaults


def usual_weights(context: typer.Context, given: str | None) -> str | None:
    """The weights that were named, or those that the file states for the model. Of ``--weights``, as its callback."""
    model = context.params.get("model")
    return given or (defaults.read().weights_of(model) if isinstance(model, str) else None)
