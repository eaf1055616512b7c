"""What all formats share: the form of a refusal, quiet libraries, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo import storage
from zoo.errors import MediaError

_CHATTY = ("pydicom", "nibabel", "tifffile", "PIL")


def refusal(source: str | os.PathLike[str], reason: str, remedy: str) -> MediaError:
    """The error "can't read SOURCE: REASON; REMEDY", on one line (to be raised by the caller)."""
    return MediaError(one_line(f"can't read {os.fspath(source)}: {reason}; {remedy}"))


def brief(error: BaseException) -> str:
    """A library's own reason: its first line, cut to a readable length and without the closing full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return one_line(lines[0], 120).rstrip(".:;")


def one_line(text: str, width: int | None = None) -> str:
    """Text from a file or a library as printable characters on one line."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return text if width is None or len(text) <= width else text[: width - 3] + "..."


def user_path(name: str) -> Path:
    """A path as a user wrote it. Raises ``MediaError`` for a home that isn't there and for a name beyond the limit."""
    try:
        path = Path(name).expanduser()
        os.stat(path)
    except RuntimeError as error:
        raise refusal(name, brief(error), "write the whole path") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise refusal(name[:80] + "...", f"a name of {len(name):,} characters is too long", "check it") from None
    except ValueError:  # a zero byte: there is no such file, as whoever reads it will say
        pass
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the warnings and log lines of the format libraries off the user's terminal.

    What matters of them is raised as a ``MediaError`` or kept in ``Image.meta``.
    """
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith(_CHATTY)]
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
