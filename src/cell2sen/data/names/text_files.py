"""Text files as people save them: UTF-8 with or without a byte order mark, UTF-16, compressed, any line ends."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

#: Byte order marks and their encodings; the longer ones first.
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"), (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
)  # fmt: skip


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
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
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


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        return gzip.decompress(content)
    if content.startswith(b"BZh"):
        return bz2.decompress(content)
    if content.startswith(b"\xfd7zXZ\x00"):
        return lzma.decompress(content)
    if content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            names = packed.namelist()
            if len(names) == 1:
                return packed.read(names[0])
        kind = "an Excel workbook" if "[Content_Types].xml" in names else f"a zip file of {len(names)} files"
        raise ValueError(f"{path} is {kind}, not a text file: save it as text (in Excel: CSV UTF-8)")
    if content.startswith(b"\x89HDF"):
        raise ValueError(f"{path} is an HDF5 file, not a text file")
    return content


def _around(content: bytes, place: int) -> str:
    """The word around a byte, read as Latin-1."""
    start = max(content.rfind(b"\n", 0, place) + 1, place - 20)
    return content[start : place + 20].decode("latin-1").splitlines()[0]
