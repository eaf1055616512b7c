"""Writing results so that a reader never meets half of one: a temporary name, flushed to disk, then one rename."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zoo.errors import DataError, ZooError
from zoo.text import printable

_PARTIAL = ".partial-"
_OLD = ".old-"


def user_path(name: str | os.PathLike[str], refused: type[ZooError] = DataError) -> Path:
    """A path as a user wrote it, ``~`` for a home. It may lead nowhere.

    Raises ``refused`` for a home that isn't there, a name beyond the system's limit, and links that lead in a circle.
    """
    text, shown = os.fspath(name), printable(os.fspath(name), 80)
    try:
        path = Path(text).expanduser()
        os.stat(path)
    except RuntimeError:
        raise refused(f"can't read {shown}: there is no such home; write the whole path") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise refused(f"can't read {shown}: a name of {len(text):,} characters is too long; check it") from None
        if error.errno == errno.ELOOP:
            raise refused(f"can't read {shown}: it is a link that leads back to itself; mend the link") from None
    except ValueError:
        raise refused(f"can't read {shown}: there is a zero byte in its name; check it") from None
    return path


def write_file(path: str | Path, content: str | bytes) -> Path:
    """Write ``content`` to ``path``; whatever stood there stays until the new file is complete.

    Raises ``DataError`` when the disk is full or the folder can't be written.
    """
    path = Path(path)
    with _disk_errors(path), replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)
    return path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary name beside ``path`` to write to, and moves it to ``path`` when the block ends well.

    The folder is made when it is missing. When the block fails nothing is left behind, and a file that was at ``path``
    is untouched. The system's own errors come as they are.
    """
    path = Path(path)
    # The temporary name keeps the suffix, since writers choose the format (and compression) by it.
    temporary = path.with_name(f"{_PARTIAL}{uuid.uuid4().hex}-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def filling(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives an empty folder to write files to, which all move to ``folder`` when the block ends well.

    Files of ``folder`` by other names stay. When the block fails, ``folder`` is as it was. The system's own errors come
    as they are.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=folder) as draft:
        yield Path(draft)
        for path in sorted(Path(draft).iterdir(), key=lambda path: path.stat().st_mtime_ns):
            path.chmod(0o666 & ~_umask())  # some writers, such as safetensors, make theirs private
            os.replace(path, folder / path.name)


@contextmanager
def making(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty folder that becomes ``target`` when the block ends, and vanishes when the block fails.

    An existing ``target`` is replaced. The system's own errors come as they are.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{target.name}-", dir=target.parent))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        temporary.chmod(0o777 & ~_umask())  # mkdtemp's folders are private
        remove_folder(target)
        os.rename(temporary, target)
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """``making``, with a ``DataError`` when the disk is full or the folder can't be written."""
    with _disk_errors(Path(target)), making(target) as temporary:
        yield temporary


def remove_folder(path: Path) -> None:
    """Remove a folder so that no reader, and no kill half-way, ever leaves part of it under its own name."""
    if path.exists():
        doomed = path.with_name(f"{_OLD}{os.getpid()}-{path.name}")
        os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left in ``folder`` under temporary names."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith((_PARTIAL, _OLD)):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        text = str(error)
        # safetensors writes from Rust and reports the system's error only in words
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
            words in text for words in ("No space left", "File too large", "quota exceeded")
        ):
            raise DataError(f"no space left to write {target}; free some, or write elsewhere, and resume") from error
        if isinstance(error, OSError):
            raise DataError(f"can't write {target}: {error.strerror or error}") from error
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename itself durable, where the system lets a folder be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
