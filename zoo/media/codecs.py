"""Which library decodes the pixels of a DICOM file, and GDCM in a process of its own.

GDCM ends the process that it runs in on some damaged JPEGs, tells of other damage on the error stream alone, and is all
there is for JPEG Lossless and 12-bit JPEG but a library under the GPL. So ``zoo.media.gdcm_apart`` runs it elsewhere,
and pydicom, which would run it here, isn't left the choice.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

JPEG = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70))
OTHERS = {
    **{f"1.2.840.10008.1.2.4.{n}": ("pyjpegls",) for n in (80, 81)},  # JPEG-LS
    **{f"1.2.840.10008.1.2.4.{n}": ("pylibjpeg", "pillow") for n in (90, 91)},  # JPEG 2000
}
DECODER_DEPENDENCIES = dict.fromkeys(JPEG, ("python-gdcm>=3.0.24",))  # as pydicom asks of a decoder
SECONDS = 60.0  # that one frame may take
_PLUGIN = "zoo"


def plugin_for(syntax: str) -> str:
    """The plugin of pydicom that decodes a transfer syntax; empty where pydicom may choose."""
    from pydicom.pixels import get_decoder

    if syntax not in DECODER_DEPENDENCIES and syntax not in OTHERS:
        return ""
    decoder = get_decoder(syntax)
    if syntax in DECODER_DEPENDENCIES and _PLUGIN not in (*decoder.available_plugins, *decoder.missing_dependencies):
        decoder.add_plugin(_PLUGIN, (__name__, "decode_frame"))
    wanted = OTHERS.get(syntax, (_PLUGIN, "pillow"))
    return next((name for name in wanted if name in decoder.available_plugins), wanted[0])


def is_available(uid: str) -> bool:
    return find_spec("gdcm") is not None and uid in DECODER_DEPENDENCIES


def decode_frame(src: bytes, runner: Any) -> bytes:
    """The samples of one frame, as pydicom's ``DecodeRunner`` wants them; ``ValueError`` for a damaged one."""
    if b"\xff\xd9" not in src.rstrip(b"\0")[-3:]:
        raise ValueError("the JPEG breaks off")
    asked = {
        "columns": runner.columns,
        "rows": runner.rows,
        "samples": runner.samples_per_pixel,
        "planar": runner.planar_configuration if runner.samples_per_pixel > 1 else 0,
        "photometric": str(runner.photometric_interpretation),
        "syntax": str.__str__(runner.transfer_syntax),
        "format": (
            runner.samples_per_pixel, runner.bits_allocated, runner.bits_stored, runner.bits_stored - 1,
            runner.pixel_representation,
        ),
    }  # fmt: skip
    samples, damage = _Apart.one().decoded(asked, src)
    if damage or len(samples) != runner.frame_length():
        raise ValueError(f"the JPEG is damaged ({damage or 'it holds too little'})")
    return samples


class _Apart:
    """The process that GDCM runs in: started when it's needed first, and again after it has ended."""

    _kept: _Apart | None = None
    _lock = threading.RLock()

    def __init__(self) -> None:
        found = find_spec("gdcm")
        assert found is not None, "is_available() says so"
        assert found.origin is not None, "it is a module in a file"
        script, folder = Path(__file__).with_name("gdcm_apart.py"), str(Path(found.origin).parent)
        self.process = subprocess.Popen(
            [sys.executable, "-I", str(script), folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    @classmethod
    def one(cls) -> _Apart:
        with cls._lock:
            if cls._kept is None or cls._kept.process.poll() is not None:
                cls._kept = cls()
            return cls._kept

    @classmethod
    def forget(cls) -> None:
        """In a process that was forked: what was started belongs to the other one."""
        cls._kept, cls._lock = None, threading.RLock()

    @classmethod
    def end(cls) -> None:
        with cls._lock:
            if cls._kept is not None:
                cls._kept.stop()
                cls._kept = None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                pipe and pipe.close()

    def decoded(self, asked: dict[str, Any], frame: bytes) -> tuple[bytes, str]:
        """The samples, and what is wrong with them in words."""
        asked_for = json.dumps({**asked, "bytes": len(frame)}).encode() + b"\n"
        with self._lock:
            into, out = self.process.stdin, self.process.stdout
            assert into is not None, "it is a pipe"
            assert out is not None, "it is a pipe"
            clock = threading.Timer(SECONDS, self.process.kill)
            clock.start()
            try:
                into.write(asked_for + frame)
                into.flush()
                told = json.loads(out.readline() or "{}")
                samples = out.read(told.get("bytes", 0))
            except (OSError, ValueError):
                told = {}
            finally:
                clock.cancel()
            if not told:
                self.end() if self._kept is self else self.stop()
                return b"", "the decoder fell over it"
            return samples, str(told["damage"])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Apart.forget)
atexit.register(_Apart.end)
