"""The command line: ``zoo``.

A command parses, calls the public API and prints. Everything a user can cause ends as one sentence on stderr and exit
code 2; ``zoo --debug`` shows the traceback.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from contextlib import suppress
from typing import Annotated, Any

import typer
import typer.core

from zoo import defaults, foreign, progress
from zoo._version import __version__
from zoo.cli import cards, doctor, export, federated, hub, mcp, plugins, predict, research, serve
from zoo.cli.mistakes import explained
from zoo.cli.output import listen, note_warnings, ready_streams, refuse, state
from zoo.errors import OptionError, ZooError
from zoo.text import printable

# Typer carries its own copy of click; the base of its usage errors is found through a public subclass.
_ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

PREDICTS = ("predict", "mcp")
"""Commands whose folder of results the configuration file may name."""


class _Left(BaseException):
    """That a command was left, by its cause: of that typer would keep an exit code alone, and not its words."""


class _Commands(typer.core.TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, BrokenPipeError) as cause:
            raise _Left from cause


app = typer.Typer(
    name="zoo",
    cls=_Commands,
    help="Medical-imaging papers as plugins: predict, train, and re-test each paper's claim.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"zoo {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Say what is being done; -vv says more.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors: no notes, no bars.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    state["debug"] = debug
    if verbose and quiet:
        raise OptionError("--verbose and --quiet exclude each other; pass one of them")
    listen(logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
    progress.silence(quiet)
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):  # read by huggingface_hub when it is imported
        value = os.environ.get(name, "")
        if value and not (value.isdecimal() and 0 < int(value) < 10**6):
            raise OptionError(f"{name} is {value[:40]!r}, which is no number of seconds; set it to 10, or unset it")
    context.default_map = _stated(context)


def _stated(context: typer.Context) -> dict[str, dict[str, str]]:
    """What the user's configuration file says, by command and option."""
    stated = defaults.read()
    commands = getattr(context.command, "commands", {})
    found: dict[str, dict[str, str]] = {}
    for name, command in commands.items():
        options = {parameter.name for parameter in command.params}
        if stated.device and "device" in options:
            found.setdefault(name, {})["device"] = stated.device
        if stated.out and name in PREDICTS:
            found.setdefault(name, {})["out"] = os.path.expanduser(stated.out)
    return found


for room in (cards, predict, doctor, research, federated, export, hub, plugins, mcp, serve):
    room.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    ready_streams()
    listen(logging.WARNING)
    try:
        with warnings.catch_warnings():
            note_warnings()
            code = app(args=arguments, standalone_mode=False)
            sys.stdout.flush()  # a full disk is told of here, not behind our back
    except ZooError as error:
        code = 2
        refuse(error)
    except _ClickException as error:
        code = 2
        refuse(error, explained(error, arguments))
    except (_Left, KeyboardInterrupt, BrokenPipeError, typer.Abort) as left:
        code = _code_of(left.__cause__ if isinstance(left, _Left) else left)
    except OSError as error:  # a name beyond the limit, a full disk, a link in a circle, a folder that is closed
        code = 2
        if error.filename is None:
            _drop_output()
        what = f"can't use {printable(error.filename, 120)}" if error.filename else "can't write the output"
        refuse(error, f"{what}: {error.strerror or error}")
    if foreign.strays():
        # Threads that a plugin left behind would keep the process; everything of ours is written.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code or 0))
    if arguments is None:
        gc.freeze()  # Python would look through everything once more before it leaves
    sys.exit(code or 0)


def _code_of(cause: BaseException | None) -> int:
    if isinstance(cause, BrokenPipeError):  # the reader of our output has gone, as in `zoo list | head`
        _drop_output()
        return 141
    with suppress(OSError):  # the terminal is closed
        print(f"zoo: {str(cause) or 'interrupted'}", file=sys.stderr, flush=True)
    return 130


def _drop_output() -> None:
    """What is still to be written to standard output goes nowhere, so that leaving doesn't try it again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
