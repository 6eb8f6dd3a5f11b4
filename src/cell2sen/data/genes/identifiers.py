"""Gene identifiers: symbols, Ensembl and Entrez, recognised by form."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

from cell2sen.data.names.text import MISSING, decoded, tidy

Kind = Literal["symbols", "ensembl", "entrez", "mixed"]
Fault = Literal["missing", "ids", "numbers", "whitespace"]

# Eleven digits distinguish an identifier from a symbol (ENSA, ENSAP1). Pseudo-autosomal copies on Y end in _PAR_Y or,
# before GENCODE 25, have R in place of the first digit.
_ID = r"(ENS[A-Z]*?)(\d{11}|R\d{10})(?:\.\d+)?(?:_PAR_Y)?"
_ENSEMBL = re.compile(_ID, re.IGNORECASE)
#: A symbol beside an identifier (CD3D_ENSG…, ENSG…|CD3D, "CD3D (ENSG…)"), beside an Entrez number (CD3D|915) and in
#: front of a chromosome (Cd3d__chr9).
_BESIDE = r"(?:[_|:;,.\s-]+|\s*[(\[])"
_SYMBOL_ID = re.compile(rf"(?P<symbol>\S+?){_BESIDE}{_ID}[)\]]?", re.IGNORECASE)
_ID_SYMBOL = re.compile(rf"{_ID}{_BESIDE}(?P<symbol>[^\s|)\]]+)[)\]]?(?:\|.*)?", re.IGNORECASE)
_SYMBOL_NUMBER = re.compile(r"(?P<symbol>[^\s|]+)\|\d+")
_SYMBOL_CHROMOSOME = re.compile(r"(?P<symbol>\S+?)__?chr(?:\d{1,2}|X|Y|M|MT|Un)(?:_\S+)?", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_QUOTED = re.compile(r"b?(?P<quote>['\"])(?P<text>.*)(?P=quote)")

#: Minimum share of names of one kind for a list of this kind; below it, the list is "mixed".
MIN_SHARE_OF_KIND = 0.9


def texts(values: Iterable[Any]) -> tuple[str | None, ...]:
    """Stripped text of each value; ``None`` for missing values, also where they were written as text."""
    values = tuple(values.tolist() if hasattr(values, "tolist") else values)  # much faster than iterating pandas
    return _stripped(values if set(map(type, values)) <= {str} else tuple(map(_text, values)))


@lru_cache(maxsize=8)  # the genes are the same in all calls for a dataset
def _stripped(values: tuple[str, ...]) -> tuple[str | None, ...]:
    return tuple(None if (stripped := _bare(value)) in MISSING else stripped for value in values)


def _bare(value: str) -> str:
    """Text without white space and quotation marks around it, also without those of Python's bytes (b'CD3D')."""
    text = value.strip() if value.isascii() else tidy(value)
    quoted = _QUOTED.fullmatch(text) if text[-1:] in ("'", '"') else None
    return quoted["text"].strip() if quoted else text


def _text(value: Any) -> str:
    import pandas as pd

    value = decoded(value)
    return value if isinstance(value, str) else "" if pd.isna(value) else str(value)


class TextSearch:
    """Rows of many names that have some text, found in all names at once, 20 times as fast as name by name.

    Parameters
    ----------
    names
        Names; ``None`` has no text.
    """

    def __init__(self, names: Iterable[str | None]) -> None:
        words = [(name or "").lower() for name in names]
        self._everything = "\n".join(words)
        self._ends = list(itertools.accumulate(len(word) + 1 for word in words))

    def rows_with(self, parts: Iterable[str]) -> list[int]:
        """Rows that have at least one of the parts (in lower case), ascending."""
        rows = set()
        for part in parts:
            place = self._everything.find(part)
            while place >= 0:
                row = bisect.bisect_right(self._ends, place)
                rows.add(row)
                place = self._everything.find(part, self._ends[row])
        return sorted(rows)


def fault(text: str | None) -> Fault | None:
    """Reason why `text` cannot be a word of a cell sentence; ``None`` if it can."""
    return "missing" if text is None else _classify(text)[0]


def symbol_in(text: str) -> str | None:
    """Symbol in `text`: all of it or the part beside an identifier (``TBCE_ENSG00000284770``); ``None`` without one."""
    return _classify(text)[1]


@lru_cache(maxsize=2**16)  # genes of one or two species: the same in every dataset
def _classify(text: str) -> tuple[Fault | None, str | None]:
    if _ENSEMBL.fullmatch(text):
        return "ids", None
    if _NUMBER.fullmatch(text):
        return "numbers", None
    match = _beside(text)
    if match:
        symbol = match["symbol"]
        unusable = symbol == "?" or _ENSEMBL.fullmatch(symbol) or _NUMBER.fullmatch(symbol)
        return ("ids", None) if unusable else (None, symbol)
    return ("whitespace", None) if len(text.split()) > 1 else (None, text)


def _beside(text: str) -> re.Match[str] | None:
    """Match of a name with more than a symbol."""
    if "ENS" in (upper := text.upper()) and (match := _SYMBOL_ID.fullmatch(text) or _ID_SYMBOL.fullmatch(text)):
        return match
    if "|" in text and (match := _SYMBOL_NUMBER.fullmatch(text)):
        return match
    return _SYMBOL_CHROMOSOME.fullmatch(text) if "_CHR" in upper else None


def ensembl_prefix(text: str) -> str | None:
    """Species prefix of an Ensembl identifier in upper case, such as ``"ENSMUSG"``."""
    match = _ENSEMBL.fullmatch(text)
    return match[1].upper() if match else None


def bare_identifier(text: str) -> str:
    """Key of an identifier in tables: Ensembl in upper case without version, Entrez without ``.0``, others as is."""
    if match := _ENSEMBL.fullmatch(text):
        return match[1].upper() + match[2].upper().replace("R", "0")
    return text.removesuffix(".0") if _NUMBER.fullmatch(text) else text


def looks_like(names: Iterable[Any]) -> Kind:
    """Kind of gene names: at least 90 % symbols, Ensembl identifiers or numbers (Entrez), else ``"mixed"``.

    Every name that is no identifier and no number counts as a symbol. Missing names are ignored.

    Raises
    ------
    ValueError
        No names that are not missing.
    """
    faults = [fault(text) for text in texts(names) if text is not None]
    if not faults:
        raise ValueError("no gene names: the list is empty or has missing values only")
    min_names, n_ids, n_numbers = MIN_SHARE_OF_KIND * len(faults), faults.count("ids"), faults.count("numbers")
    if max(n_ids, n_numbers) >= min_names:
        return "ensembl" if n_ids >= min_names else "entrez"
    return "symbols" if len(faults) - n_ids - n_numbers >= min_names else "mixed"
