"""Cells of an Excel workbook, as texts: an ``.xlsx`` is a ZIP archive of XML.

Nothing in it is believed: archives and parts are bounded, and XML with a document type, by which entities grow without
end, is refused. Numbers, dates and formulas are of no interest here, and left out.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from zlib import error as ZlibError

from zoo.errors import DataError

LARGEST = 32 << 20  # bytes of a part once it's unpacked
_BEFORE = b"\xef\xbb\xbf \r\n\t"  # the mark of UTF-8, and spaces
_SHEET, _STRINGS = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"


def texts_of(workbook: Path) -> list[list[str]]:
    """The texts of every row of the first sheet, from the left; rows without any are left out.

    Raises ``DataError`` for a file that is no workbook, is larger than it may be, or isn't plain.
    """
    try:
        with zipfile.ZipFile(workbook) as archive:
            shared = [_text(one) for one in _part(archive, _STRINGS, workbook, "si")]
            rows = [
                [text for cell in row if _name(cell) == "c" and (text := _cell(cell, shared))]
                for row in _part(archive, _SHEET, workbook, "row")
            ]
    except (OSError, zipfile.BadZipFile, ZlibError, ElementTree.ParseError, NotImplementedError, RuntimeError,
            ValueError, IndexError) as error:  # fmt: skip
        raise DataError(f"{workbook} can't be read as an Excel workbook (.xlsx): {error}") from error
    return [row for row in rows if row]


def _part(archive: zipfile.ZipFile, name: str, workbook: Path, tag: str) -> Iterator[ElementTree.Element]:
    """The elements of one name in a part of the archive; none where a workbook does without shared texts."""
    if name not in archive.namelist():
        if name == _STRINGS:
            return
        raise DataError(f"{workbook} has no first sheet; save it as an Excel workbook (.xlsx)")
    with archive.open(name) as file:
        stored = file.read(LARGEST + 1)  # whatever the archive says of its size
    if len(stored) > LARGEST:
        raise DataError(f"{workbook} unpacks to more than {LARGEST >> 20} MiB; save only the table")
    strange = any(mark in stored for mark in (b"<!DOCTYPE", b"<!ENTITY", b"\0"))
    if strange or not stored.lstrip(_BEFORE).startswith(b"<"):
        raise DataError(f"{workbook} is not as spreadsheets write it; save it again as .xlsx")
    yield from (one for one in ElementTree.fromstring(stored).iter() if _name(one) == tag)


def _cell(cell: ElementTree.Element, shared: list[str]) -> str:
    if cell.get("t") == "inlineStr":
        return _text(cell)
    value = next((one.text or "" for one in cell if _name(one) == "v"), "")
    if cell.get("t") == "s":
        place = int(value)
        if place < 0:
            raise ValueError(f"text {place}")
        return shared[place].strip()
    return value.strip() if cell.get("t") == "str" else ""


def _text(element: ElementTree.Element) -> str:
    return "".join(one.text or "" for one in element.iter() if _name(one) == "t").strip()


def _name(element: ElementTree.Element) -> str:
    """Without its namespace."""
    return element.tag.rpartition("}")[2]
