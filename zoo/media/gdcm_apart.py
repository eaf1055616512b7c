"""Run by ``zoo.media.codecs`` as a program: JPEG frames come in, their samples go out, and GDCM can end nobody else.

A request is a line of JSON and the bytes of a frame; so is an answer, whose ``damage`` says in words what GDCM's JPEG
library told the error stream. It imports nothing of the zoo.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from typing import Any

DAMAGE = re.compile(rb"Corrupt JPEG data: ([^\n]+)|(Premature end of JPEG[^\n]*)|(Inconsistent progression[^\n]*)")
PADDING = re.compile(rb"(\d+) extraneous bytes before marker 0xd9")
MOST_PADDING = 16  # bytes behind a sound image that some writers leave there


def decoded(gdcm: Any, asked: dict[str, Any], frame: bytes) -> bytes:
    """The samples as GDCM gives them; nothing where it gives none."""
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(frame)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((asked["columns"], asked["rows"], 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(asked["photometric"])
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    if asked["samples"] > 1:
        image.SetPlanarConfiguration(asked["planar"])
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(asked["syntax"])))
    image.SetPixelFormat(gdcm.PixelFormat(*asked["format"]))
    return (image.GetBuffer() or "").encode("utf-8", "surrogateescape")  # GDCM gives bytes as text


def damage(said: bytes) -> str:
    """What of the messages of the JPEG library means that the samples are wrong."""
    for found in DAMAGE.finditer(said):
        padding = PADDING.search(found[0])
        if padding is None or int(padding[1]) > MOST_PADDING:
            return next(part for part in found.groups() if part).decode("ascii", "replace")
    return ""


def main() -> None:
    sys.path.append(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever libraries print is no answer
    told = tempfile.TemporaryFile()  # noqa: SIM115
    os.dup2(told.fileno(), 2)
    import gdcm

    requests = sys.stdin.buffer
    while line := requests.readline():
        asked = json.loads(line)
        frame = requests.read(asked["bytes"])
        told.seek(0)
        told.truncate()
        try:
            samples, wrong = decoded(gdcm, asked, frame), ""
        except Exception as error:
            samples, wrong = b"", f"{type(error).__name__}"
        told.seek(0)
        wrong = wrong or damage(told.read())
        answers.write(json.dumps({"bytes": len(samples), "damage": wrong}).encode() + b"\n" + samples)
        answers.flush()


if __name__ == "__main__":
    main()
