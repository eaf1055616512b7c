"""The command line: ``zoo``.

A command parses, calls the public API and prints. Everything a user can cause ends as one sentence on stderr and exit
code 2; ``zoo --debug`` shows the traceback.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from zoo._version import __version__
from zoo.cli import cards, doctor, hub, plugins, predict, research
from zoo.cli.output import refuse, state
from zoo.errors import ZooError

# Typer carries its own copy of click; the base of its usage errors is found through a public subclass.
_ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    name="zoo",
    help="Medical-imaging papers as plugins: predict, train, and re-test each paper's claim.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        print(f"zoo {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    state["debug"] = debug


for room in (cards, predict, doctor, research, hub, plugins):
    room.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    try:
        code = app(args=arguments, standalone_mode=False)
    except ZooError as error:
        code = 2
        refuse(error)
    except _ClickException as error:
        code = 2
        refuse(error, error.format_message())
    except (KeyboardInterrupt, typer.Abort) as stopped:
        print(f"zoo: {str(stopped) or 'interrupted'}", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our output has gone, as in `zoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code or 0)
