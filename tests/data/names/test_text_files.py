"""Text files in the encodings that people save them in."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path

import pytest

from cell2sen.data.names.text_files import (
    compression,
    open_unpacked,
    read_first_column,
    read_labels,
    read_lines,
    read_text,
)

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


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        ("T cell\nCD4-positive, alpha-beta T cell\nB cell", ".txt"),
        ('# my labels\n"T cell"\n"CD4-positive, alpha-beta T cell"\n"B cell"\n', ".csv"),
        ('cell_type\nT cell\n"CD4-positive, alpha-beta T cell"\nB cell\n', ".csv"),
        ('"Cell type"\r\n"T cell"\r\n"CD4-positive, alpha-beta T cell"\r\n"B cell"\r\n', ".csv"),
        ('\ufeffid,cell_type\n1,T cell\n2,"CD4-positive, alpha-beta T cell"\n3,B cell', ".csv"),
        ("sep=;\nlabel;n\nT cell;4\nCD4-positive, alpha-beta T cell;3\nB cell;1", ".csv"),
        ("n\tcell.type\n1\tT cell\n1\tCD4-positive, alpha-beta T cell\n1\tB cell", ".tsv"),
        ('["T cell", "CD4-positive, alpha-beta T cell", "B cell"]', ".json"),
        ("T cell,,\nCD4-positive, alpha-beta T cell,,\nB cell,,", ".csv"),
        ("T cell\t\nCD4-positive, alpha-beta T cell\t\n\nB cell\t", ".txt"),
        ("\u201cT cell\u201d\n\u201cCD4-positive, alpha-beta T cell\u201d\nB cell", ".txt"),
    ],
)
def test_labels_as_people_save_them(tmp_path: Path, content: str, suffix: str) -> None:
    (tmp_path / f"labels{suffix}").write_text(content, encoding="utf-8", newline="")
    assert read_labels(tmp_path / f"labels{suffix}") == ["T cell", "CD4-positive, alpha-beta T cell", "B cell"]


def test_columns_without_a_header_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("T cell\tCL:0000084\nB cell\tCL:0000236\n")
    with pytest.raises(ValueError, match=r"several columns, separated by tabs .*keep the names only"):
        read_labels(tmp_path / "labels.txt")
    (tmp_path / "labels.txt").write_text("")
    assert read_labels(tmp_path / "labels.txt") == []


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        ("AAAC-1\nTTTG-1", ".txt"),
        ('"AAAC-1"\n"TTTG-1"', ".txt"),
        ("AAAC-1,T cell\nTTTG-1,B cell", ".csv"),
        ("AAAC-1\tT cell\nTTTG-1\tB cell", ".tsv"),
        ("AAAC-1;T cell\nTTTG-1;B cell", ".csv"),
    ],
)
def test_first_column_of_names_of_cells(tmp_path: Path, content: str, suffix: str) -> None:
    (tmp_path / f"cells{suffix}").write_text(content)
    assert read_first_column(tmp_path / f"cells{suffix}") == ["AAAC-1", "TTTG-1"]


def test_row_numbers_of_r_are_no_names(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text('"","x"\n"1","AAAC-1"\n"2","TTTG-1"\n')
    assert read_first_column(tmp_path / "cells.csv") == ["x", "AAAC-1", "TTTG-1"]


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    file = tmp_path / "labels"
    for content, kind in (
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook"),
        (rb"{\rtf1\ansi T cell}", r"a text with formats \(RTF\)"),
        (b"%PDF-1.4", "a PDF"),
        (b"\x28\xb5\x2f\xfd\x00", "compressed by zstd"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"is {kind}.*, not a text file: save it as plain text"):
            read_text(file)
    for whole in (gzip.compress(TEXT.encode() * 99), bz2.compress(TEXT.encode()), lzma.compress(TEXT.encode())):
        file.write_bytes(whole[:-9])
        with pytest.raises(ValueError, match="cannot be unpacked, since it is incomplete or damaged"):
            read_text(file)
    with zipfile.ZipFile(file, "w") as packed:  # as macOS packs a file
        packed.writestr("labels.txt", TEXT)
        packed.writestr("__MACOSX/._labels.txt", "x")
    assert read_lines(file) == LINES


def test_packed_files_are_opened_unpacked(tmp_path: Path) -> None:
    for name, pack in (("gzip", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), (None, bytes)):
        (tmp_path / "x").write_bytes(pack(b"content"))
        assert compression(tmp_path / "x") == name
        with open_unpacked(tmp_path / "x") as stream:
            assert stream.read() == b"content"
