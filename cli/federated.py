"""``zoo distill``: what a client of a federation makes and sends by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.research import Data, Device, assignments


def register(app: typer.Typer) -> None:
    app.command()(distill)


def distill(
    model: Annotated[str, typer.Argument(help="A model that distils data sets, such as gdd-fl.")],
    data: Data,
    images_per_class: Annotated[
        int | None, typer.Option(min=1, help="Synthetic images of each class; default as the recipe says.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Iterations; default as the recipe says.")] = None,
    preset: Annotated[str, typer.Option(help="A preset of the model's recipe.")] = "paper",
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the recipe.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to send.")] = Path("client.safetensors"),
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same file.")] = 0,
    device: Device = "auto",
) -> None:
    """Condense your own images to a few synthetic ones, in one file for the server of a federation."""
    from zoo.training.distil import distil

    overrides = assignments(given or [])
    for name, value in (("images_per_class", images_per_class), ("iterations", steps)):
        if value is not None:
            overrides[name] = str(value)
    made = distil(model, data, out=out, preset=preset, overrides=overrides, seed=seed, device=device)
    held = [int((made.content.y == k).sum()) for k in range(len(made.content.labels))]
    counted = ", ".join(f"{n} {name}" for name, n in zip(made.content.labels, held, strict=True))
    print(f"{made.path}: {made.bytes:,} bytes ({made.content.payload:,} of images and labels); {counted}")
    print("the server puts the clients' files into one folder and trains on them alone:")
    print(f"  zoo train {model} --data synthetic:FOLDER --out runs/{model}")
    if not all(held):
        print("note: nothing is sent for a class of fewer than two images")
    print("note: that such images reveal no patient is argued in the paper, not proven; look at them before you send")
