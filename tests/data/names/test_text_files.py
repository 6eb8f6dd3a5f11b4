"""Text files in the encodings that people save them in."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path

import pytest

from cell2sen.data.names.text_files import read_lines, read_text

LINES = ["T cell", "γδ T cell", "CD14+ monocyte"]
TEXT = "\n".join(LINES)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_ends_of_lines(tmp_path: Path, encoding: str, end: str) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes((end.join(LINES) + end).encode(encoding))
    assert read_lines(file) == LINES
    assert read_text(file) == TEXT + "\n"


def test_blank_lines_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n T cell \n\n\t\nB cell", encoding="utf-8")
    assert read_lines(tmp_path / "a.txt") == ["T cell", "B cell"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files(tmp_path: Path, pack: object) -> None:
    (tmp_path / "a.txt.gz").write_bytes(pack(TEXT.encode("utf-8-sig")))  # type: ignore[operator]
    assert read_lines(tmp_path / "a.txt.gz") == LINES


def test_zip_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as packed:
        packed.writestr("labels.txt", TEXT)
    assert read_lines(tmp_path / "one.zip") == LINES
    with zipfile.ZipFile(tmp_path / "book.xlsx", "w") as packed:
        packed.writestr("[Content_Types].xml", "")
        packed.writestr("xl/workbook.xml", "")
    with pytest.raises(ValueError, match=r"book\.xlsx is an Excel workbook, not a text file: save it as text"):
        read_text(tmp_path / "book.xlsx")


def test_other_encodings_are_refused_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("T cell\ncellule b\u00e9ta\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"no text in UTF-8: byte 0xe9 in line 2 \('cellule béta' .* Save it as UTF-8"):
        read_text(tmp_path / "latin.txt")
    (tmp_path / "utf16.txt").write_bytes("T cell".encode("utf-16-le"))
    with pytest.raises(ValueError, match="zero bytes, so it is no text in UTF-8"):
        read_text(tmp_path / "utf16.txt")
    (tmp_path / "cells.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match="is an HDF5 file"):
        read_text(tmp_path / "cells.h5ad")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_text(tmp_path / "nothing.txt")
