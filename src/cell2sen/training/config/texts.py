"""Texts of a training file: given, or in text files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cell2sen.data.names.text import as_text
from cell2sen.data.names.text_files import read_text

#: Ending of the names of text files, each of which is one text.
TEXT_FILE = ".txt"


def text_files(texts: Mapping[str, Sequence[str]], base: Path) -> Iterator[Path]:
    """Text files that the texts of a training file name, patterns (``abstracts/*.txt``) filled in, in order.

    Raises
    ------
    FileNotFoundError
        There is no such file, or no file has a name of this pattern.
    """
    for text in (text for several in texts.values() for text in several if text.endswith(TEXT_FILE)):
        found = sorted(base.glob(text)) if "*" in text else [base / text]
        if not found or not found[0].is_file():
            raise FileNotFoundError(f"there is no text file {base / text}; each file holds one text")
        yield from found


def texts_of(texts: Mapping[str, Sequence[str]], slot: str, base: Path) -> tuple[str, ...]:
    """Texts of a slot, each in one line.

    Raises
    ------
    FileNotFoundError
        As for :func:`text_files`.
    ValueError
        A text is empty.
    """
    found: list[str] = []
    for text in texts[slot]:
        if text.endswith(TEXT_FILE):
            found += map(read_text, text_files({slot: [text]}, base))
        else:
            found.append(text)
    lines = [as_text(text) for text in found]
    if not lines or None in lines:
        raise ValueError(f"texts: {slot!r} must have a text, or text files that are not empty, found {texts[slot]}")
    return tuple(line for line in lines if line is not None)
