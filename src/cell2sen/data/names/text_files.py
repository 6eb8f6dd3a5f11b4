"""Text files as people save them: UTF-8 with or without a byte order mark, UTF-16, compressed, any line ends."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import logging
import lzma
import re
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, Literal, cast

logger = logging.getLogger(__name__)

#: Byte order marks and their encodings; the longer ones first.
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"), (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
)  # fmt: skip


#: First bytes of files that are no text → what they are.
_NO_TEXT = {
    b"\x89HDF": "an HDF5 file",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (.xls) or another file of Microsoft Office",
    b"{\\rtf": "a text with formats (RTF)",
    b"%PDF": "a PDF",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
}

#: Names of columns of labels, in lower case with spaces; a first line with one of them is a header.
_HEADERS = frozenset(
    {"cell type", "celltype", "cell types", "celltypes", "label", "labels", "cell label", "cell labels", "annotation"}
)


def compression(file: Path) -> Literal["gzip", "bz2", "xz"] | None:
    """Compression of a file, by its first bytes, under its name in pandas."""
    with file.open("rb") as stream:
        head = stream.read(6)
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    return "bz2" if head.startswith(b"BZh") else "xz" if head.startswith(b"\xfd7zXZ") else None


def open_unpacked(file: Path) -> BinaryIO:
    """A file opened for reading, unpacked if it is compressed."""
    kind = compression(file)
    if kind == "gzip":
        return cast(BinaryIO, gzip.open(file, "rb"))
    return cast(BinaryIO, bz2.open(file, "rb") if kind == "bz2" else lzma.open(file, "rb") if kind else file.open("rb"))


def encoding_of(head: bytes) -> str:
    """Encoding of a text by the byte order mark at its beginning; UTF-8 without one."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")


def read_text(path: str | Path) -> str:
    """Text of a file; all ends of lines are newlines.

    UTF-8, with or without a byte order mark; UTF-16 and UTF-32 with one. Files of gzip, bzip2, xz and zip (of one file)
    are unpacked.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        No text in these encodings; names the first byte that is wrong, and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    content = _unpacked(path)
    encoding = encoding_of(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} is no text in {encoding.removesuffix('-sig').upper()}: byte 0x{content[error.start]:02x} in line "
            f"{line} ({_around(content, error.start)!r} if it is Latin-1). Save it as UTF-8 (in Excel: CSV UTF-8; on a "
            f"command line: iconv -f LATIN1 -t UTF-8)"
        ) from error
    if "\x00" in text:
        raise ValueError(
            f"{path} has zero bytes, so it is no text in UTF-8: save it as UTF-8, or as UTF-16 with a byte order mark"
        )
    return io.StringIO(text, newline=None).read()


def read_lines(path: str | Path) -> list[str]:
    """Lines of a text file without surrounding white space; blank lines are left out. See :func:`read_text`."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def read_labels(path: str | Path) -> list[str]:
    """Names in a text file, one in a line, or in the column ``cell_type`` (``label``, …) of a table; or a JSON list.

    Quotes around a name and empty columns after it, as spreadsheets write them, are taken off; lines that begin with
    ``#`` and a header are left out. See :func:`read_text`.

    Raises
    ------
    ValueError
        Several columns separated by tabs without such a header.
    """
    path = Path(path)
    lines = [line for line in read_text(path).split("\n") if line.strip() and not line.startswith(("#", "sep="))]
    if not lines:
        return []
    if path.suffix == ".json":
        names = json.loads(read_text(path))
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path} must hold a list of names, found {str(names)[:60]}")
        return names
    for delimiter in ("\t", ";", ","):
        header = [_header(field) for field in next(csv.reader(lines[:1], delimiter=delimiter))]
        if place := [number for number, field in enumerate(header) if field in _HEADERS]:
            logger.info("%s: the first line, %r, is read as a header", path, lines[0].strip())
            rows = csv.reader(lines[1:], delimiter=delimiter)
            return [row[place[0]].strip() for row in rows if len(row) > place[0] and row[place[0]].strip()]
    names = [_without_quotes(re.sub(r"[,;\s]+$", "", line).strip()) for line in lines]
    if several := [name for name in names if "\t" in name]:
        raise ValueError(
            f"{path} has several columns, separated by tabs ({several[0]!r}): keep the names only, one in a line, or "
            "name their column cell_type in the first line"
        )
    return [name for name in names if name]


def read_first_column(path: str | Path) -> list[str]:
    """First column of a table of text (.csv, .tsv), or the lines of another text file; without quotes around them.

    Row numbers, which R writes in front, are no column.
    """
    path = Path(path)
    suffix = next((suffix for suffix in reversed(path.suffixes) if suffix in (".csv", ".tsv")), None)
    if suffix is None:
        return [_without_quotes(line) for line in read_lines(path)]
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    delimiters = "\t" if suffix == ".tsv" else ",;\t"
    delimiter = max(delimiters, key=lambda sign: lines[0].count(sign)) if lines else ","
    rows = [[field.strip() for field in row] for row in csv.reader(lines, delimiter=delimiter)]
    numbered = len(rows) > 1 and all(len(row) > 1 and row[0] == str(at) for at, row in enumerate(rows[1:], start=1))
    return [row[1 if numbered else 0] for row in rows]


def _header(field: str) -> str:
    return re.sub(r"[\W_]+", " ", field).strip().lower()


def _without_quotes(name: str) -> str:
    """Name without quotes around it: those of tables, with doubled ones inside, and of word processors."""
    if len(name) > 1 and name[0] + name[-1] in ('""', "\u201c\u201d", "\u201e\u201c"):
        return name[1:-1].replace('""', '"').strip()
    return name


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    try:
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        elif content.startswith(b"BZh"):
            content = bz2.decompress(content)
        elif content.startswith(b"\xfd7zXZ\x00"):
            content = lzma.decompress(content)
        elif content.startswith(b"PK\x03\x04"):
            packed = zipfile.ZipFile(io.BytesIO(content))
            content = packed.read(_only_text(path, packed.namelist()))
    except _NoText:
        raise
    except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError) as error:
        raise ValueError(f"{path} cannot be unpacked, since it is incomplete or damaged: {error}") from error
    if kind := next((kind for start, kind in _NO_TEXT.items() if content.startswith(start)), None):
        raise ValueError(f"{path} is {kind}, not a text file: save it as plain text (in Excel: CSV UTF-8)")
    return content


class _NoText(ValueError):
    """A file of several parts."""


def _only_text(path: Path, every: list[str]) -> str:
    """Name of the one text file in a zip file; those that macOS adds do not count."""
    names = [name for name in every if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if len(names) == 1:
        return names[0]
    kind = f"a zip file of {len(names)} files"
    if "[Content_Types].xml" in every:
        kind = "an Excel workbook" if any(name.startswith("xl/") for name in every) else "a file of Microsoft Office"
    raise _NoText(f"{path} is {kind}, not a text file: save it as text (in Excel: CSV UTF-8)")


def _around(content: bytes, place: int) -> str:
    """The word around a byte, read as Latin-1."""
    start = max(content.rfind(b"\n", 0, place) + 1, place - 20)
    return content[start : place + 20].decode("latin-1").splitlines()[0]
