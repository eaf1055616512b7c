"""Nothing of a request outlives its server, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zoo.serve.temporary import PREFIX, Temporary, remove_abandoned

HOLDER = """
import sys, time
from zoo.serve.temporary import Temporary
one = Temporary(sys.argv[1])
(one.new() / "patient.dcm").write_bytes(b"x")
print(one.folder, flush=True)
time.sleep(60)
"""


def test_it_is_private_and_goes_when_it_is_closed(tmp_path: Path) -> None:
    one = Temporary(tmp_path)
    assert one.folder.parent == tmp_path
    assert one.folder.stat().st_mode & 0o077 == 0
    (one.new() / "patient.dcm").write_bytes(b"x")
    one.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_goes_with_a_process_that_is_killed(tmp_path: Path, ending: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert list(folder.rglob("patient.dcm"))
    process.send_signal(ending)
    process.wait()
    for _ in range(200):
        if not folder.exists():
            break
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


def test_what_a_lost_machine_left_goes_at_the_next_start(tmp_path: Path) -> None:
    left, other = tmp_path / f"{PREFIX}left", tmp_path / "somebody-elses"
    for folder in (left, other):
        folder.mkdir()
        (folder / ".lock").touch()
        (folder / "patient.dcm").write_bytes(b"x")
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(target)
    living = Temporary(tmp_path)
    try:
        remove_abandoned(tmp_path)
        assert living.folder.exists()
        assert not left.exists()
        assert other.exists()
        assert target.exists()
    finally:
        living.close()
    assert os.path.lexists(tmp_path / f"{PREFIX}link")
