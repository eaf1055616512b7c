"""What all formats share: the form of a refusal, quiet libraries, and files that appear whole or not at all."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo import storage
from zoo.errors import MediaError
from zoo.text import printable

_CHATTY = ("pydicom", "nibabel", "tifffile", "PIL")


def refusal(source: str | os.PathLike[str], reason: str, remedy: str) -> MediaError:
    """The error "can't read SOURCE: REASON; REMEDY", on one line (to be raised by the caller)."""
    return MediaError(printable(f"can't read {os.fspath(source)}: {reason}; {remedy}"))


def brief(error: BaseException) -> str:
    """A library's own reason: its first line, cut to a readable length and without the closing full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0], 120).rstrip(".:;")


def user_path(name: str | os.PathLike[str]) -> Path:
    """``zoo.storage.user_path``, with a ``MediaError``."""
    return storage.user_path(name, MediaError)


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Keeps the warnings and log lines of libraries, by default those of the formats, off the user's terminal.

    What matters of them is raised as a ``MediaError`` or kept in ``Image.meta``.
    """
    named = libraries or _CHATTY
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith(named)]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Drops what C code prints to file descriptor 2, of the whole process; libtiff offers no other way."""
    try:
        kept = os.dup(2)
    except OSError:  # no stderr at all
        yield
        return
    sys.stderr.flush()
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    os.close(sink)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """``zoo.storage.replacing``, with a ``MediaError`` when the folder can't be written to."""
    try:
        with storage.replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise MediaError(f"can't write {path}: {error.strerror or brief(error)}; choose another folder") from error
