"""Texts of an Excel workbook, and what is refused."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from zoo.data import sheets
from zoo.data.sheets import texts_of
from zoo.errors import DataError

SPACE = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def workbook(path: Path, rows: Sequence[Sequence[str]], before: str = "") -> None:
    """As spreadsheets write one, with shared texts."""
    texts = list(dict.fromkeys(text for row in rows for text in row))
    cells = "".join(
        "<row>" + "".join(f'<c t="s"><v>{texts.index(text)}</v></c>' for text in row) + "<c><v>41.5</v></c></row>"
        for row in rows
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        shared = "".join(f"<si><t>{escape(text)}</t></si>" for text in texts)
        archive.writestr("xl/sharedStrings.xml", f"{before}<sst {SPACE}>{shared}</sst>")
        archive.writestr("xl/worksheets/sheet1.xml", f"<worksheet {SPACE}><sheetData>{cells}</sheetData></worksheet>")


def test_texts_come_in_the_order_of_rows_and_cells(tmp_path: Path) -> None:
    workbook(tmp_path / "a.xlsx", [["b", "a & b"], [], ["b"]])
    assert texts_of(tmp_path / "a.xlsx") == [["b", "a & b"], ["b"]]
    cells = '<c t="inlineStr"><is><r><t>in</t></r><r><t>line</t></r></is></c><c t="str"><v>formula</v></c>'
    with zipfile.ZipFile(tmp_path / "b.xlsx", "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", f"<worksheet><row>{cells}</row></worksheet>")
    assert texts_of(tmp_path / "b.xlsx") == [["inline", "formula"]]


def test_what_is_no_plain_workbook_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.xlsx"
    path.write_text("a,b")
    with pytest.raises(DataError, match="can't be read as an Excel workbook"):
        texts_of(path)
    workbook(path, [["a"]], before='<!DOCTYPE s [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>')
    with pytest.raises(DataError, match="not as spreadsheets write it"):
        texts_of(path)
    workbook(path, [["a"]], before="<broken")
    with pytest.raises(DataError, match="can't be read as an Excel workbook"):
        texts_of(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", '<worksheet><row><c t="s"><v>-1</v></c></row></worksheet>')
    with pytest.raises(DataError, match="text -1"):
        texts_of(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", "")
    with pytest.raises(DataError, match="has no first sheet"):
        texts_of(path)
    monkeypatch.setattr(sheets, "LARGEST", 100)
    workbook(path, [["a" * 200]])
    with pytest.raises(DataError, match="unpacks to more than"):
        texts_of(path)
