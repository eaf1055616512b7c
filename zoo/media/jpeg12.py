"""12-bit JPEG in DICOM, a decoder for pydicom by GDCM: pydicom leaves this one to a library under the GPL."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

DECODER_DEPENDENCIES = {"1.2.840.10008.1.2.4.51": ("python-gdcm>=3.0.24",)}
END = b"\xff\xd9"


def register() -> None:
    """Let pydicom's decoder of JPEG Extended know of this one."""
    from pydicom.pixels.decoders import JPEGExtended12BitDecoder

    known = JPEGExtended12BitDecoder
    if "zoo" not in (*known.available_plugins, *known.missing_dependencies):
        known.add_plugin("zoo", (__name__, "decode_frame"))


def is_available(uid: str) -> bool:
    try:
        import gdcm  # noqa: F401
    except ImportError:
        return False
    return uid in DECODER_DEPENDENCIES


def decode_frame(src: bytes, runner: Any) -> bytes:
    """The samples of one frame, as pydicom's ``DecodeRunner`` wants them; ``ValueError`` for a damaged one."""
    import gdcm

    if END not in src[-4:]:
        raise ValueError("the JPEG breaks off")
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(src)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(runner.photometric_interpretation)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    syntax = gdcm.TransferSyntax.GetTSType(str(runner.transfer_syntax))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    bits = runner.bits_stored
    image.SetPixelFormat(
        gdcm.PixelFormat(runner.samples_per_pixel, runner.bits_allocated, bits, bits - 1, runner.pixel_representation)
    )
    text, said = _heard(image.GetBuffer)
    samples = (text or "").encode("utf-8", "surrogateescape")  # GDCM gives bytes as text
    if b"Corrupt" in said or len(samples) != runner.frame_length():
        raise ValueError("the JPEG is damaged")
    return samples


def _heard(call: Callable[[], Any]) -> tuple[Any, bytes]:
    """What ``call`` gives, and what C code wrote to the error stream meanwhile: GDCM tells of damage there alone."""
    with tempfile.TemporaryFile() as told:
        try:
            kept = os.dup(2)
        except OSError:  # there is no error stream
            return call(), b""
        os.dup2(told.fileno(), 2)
        try:
            found = call()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        told.seek(0)
        return found, told.read()
