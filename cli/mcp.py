"""``zoo mcp``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo import defaults


def register(app: typer.Typer) -> None:
    app.command()(mcp)


def mcp(
    out: Annotated[Path, typer.Option(help="Folder for the results; made if missing.")] = Path("predictions"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:n].")] = "auto",
) -> None:
    """Serve list, info, samples and predict to agents by the Model Context Protocol, on standard input and output."""
    from zoo.mcp import server

    server(out, device=device, weights_of=defaults.read().weights_of).run()
