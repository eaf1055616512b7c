"""The folder of a server's uploads and results: private, and gone with the process, however that ends.

A second, small process waits for the end of this one and removes the folder then, after a ``kill -9`` too. What a
machine that lost its power leaves is removed by the next start: a folder whose owner lives is locked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

PREFIX = "zoo-serve-"
LOCK = ".lock"

# It reads until the pipe closes, which the system sees to when the server ends.
_WATCH = """
import os, shutil, signal, sys
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
sys.stdin.buffer.read()
for _ in range(20):
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if not os.path.exists(sys.argv[1]):
        break
"""


class Temporary:
    """A folder that nobody else can read, until it's closed or the process ends."""

    def __init__(self, parent: str | os.PathLike[str] | None = None) -> None:
        where = Path(parent or tempfile.gettempdir())
        remove_abandoned(where)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
        self._lock = open(self.folder / LOCK, "wb")  # noqa: SIM115
        _locked(self._lock)
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCH, str(self.folder)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._watcher.wait(10)

    def new(self) -> Path:
        """An empty folder in it."""
        return Path(tempfile.mkdtemp(dir=self.folder))


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of servers of this user that live no more."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or (hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid()):
                continue
            with open(folder / LOCK, "rb") as lock:
                abandoned = _locked(lock)
        except FileNotFoundError:
            continue  # one that is about to be made, or to go
        except OSError:
            continue
        if abandoned:
            shutil.rmtree(folder, ignore_errors=True)


def _locked(file: IO[Any]) -> bool:
    """Lock a file for this process, if no other has it; whether it could be had."""
    try:
        import fcntl
    except ImportError:  # Windows: there an open file can't be removed anyway
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
