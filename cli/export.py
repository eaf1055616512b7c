"""``zoo export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.output import print_json
from zoo.cli.usual import usual_weights


def register(app: typer.Typer) -> None:
    app.command()(export)


def export(
    model: Annotated[str, typer.Argument(help="A model, as zoo list shows it.")],
    form: Annotated[str, typer.Option("--format", help="onnx or torch-export.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="The file; default MODEL.onnx or MODEL.pt2.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="demo, a folder, a .safetensors file, or hf://ORG/REPO@REVISION.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the file's metadata as JSON.")] = False,
) -> None:
    """Write a model's network to a file that runs without the zoo, with its preprocessing in the metadata."""
    from zoo.export import export as write

    written = write(model, out, format=form, weights=usual_weights(model, weights))
    if json:
        print_json({"file": str(written.path), "difference": written.difference, **written.metadata})
        return
    print(f"wrote {written.path}; its outputs differ from the network's by {written.difference:.1g} at most")
    print(f"weights: {written.metadata['weights']} ({written.metadata['disclaimer']})")
    print("\nbefore the network")
    for step in written.metadata["preprocessing"]:
        print(f"  {step}")
