"""Mangled gene names: those that R (HLA.DRA, X7SK) and spreadsheets (1-Mar, 2021-09-02) changed, mapped back."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cell2sen.data.genes.symbol_table import MOUSE, Known, SymbolTable, tables_for

#: Dots of a name beyond which not all combinations are tried.
_MAX_DOTS = 4

_MONTHS = {
    name: number
    for number, names in enumerate(
        ("jan january", "feb february", "mar march", "apr april", "may", "jun june", "jul july", "aug august",
         "sep sept september", "oct october", "nov november", "dec december"), 1
    )
    for name in names.split()
}  # fmt: skip
_DAY_MONTH = re.compile(r"(?P<day>\d{1,2})[-./ ](?P<month>[a-z]{3,9})\.?(?:[-./ ]\d{2,4})?", re.IGNORECASE)
_MONTH_DAY = re.compile(r"(?P<month>[a-z]{3})[-./ ](?P<day>\d{1,2})(?:[-./ ]\d{2,4})?", re.IGNORECASE)
_ISO = re.compile(r"\d{4}[-./](?P<month>\d{1,2})[-./](?P<day>\d{1,2})(?:[T ]00:00:00\S*)?")
_AMERICAN = re.compile(r"(?P<month>\d{1,2})/(?P<day>\d{1,2})/\d{2,4}")
#: What ``make.names`` leaves of a name, and clones with a version, which are symbols as they are.
_MADE_NAME, _ACCESSION = re.compile(r"\w*\.[\w.]*|[Xx]\d\w*"), re.compile(r"[A-Z]{1,4}\d{5,8}\.\d{1,2}", re.IGNORECASE)

#: RIKEN names with an E, which are numbers to a spreadsheet (2310009E13Rik is safe, its clone 2310009E13 is not).
_EXPONENT = re.compile(r"\d(?:\.\d+)?E[+-]\d+", re.IGNORECASE)


_SIGNS = frozenset("-./ ")


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """Names that were mapped back, and those that look mangled but could not be."""

    names: dict[str, str] = field(default_factory=dict)
    unclear: tuple[str, ...] = ()


def spreadsheet_date(name: str) -> tuple[int, int] | None:
    """Month and day of a name that a spreadsheet has read as a date; ``None`` for other names."""
    for pattern in (_DAY_MONTH, _MONTH_DAY, _ISO, _AMERICAN):
        if match := pattern.fullmatch(name):
            month = _MONTHS.get(match["month"].lower(), 0) if match["month"].isalpha() else int(match["month"])
            day = int(match["day"])
            return (month, day) if 1 <= month <= 12 and 1 <= day <= 31 else None
    return None


def genes_of_date(month: int, day: int) -> tuple[str, ...]:
    """Approved human symbols of the genes whose former symbols a spreadsheet reads as this date."""
    if month == 3 and day <= 11:
        return (f"MARCHF{day}", f"MTARC{day}")[: 2 if day <= 2 else 1]
    if month == 9 and day <= 14 and day != 13:
        return (f"SEPTIN{day}",)
    return {(9, 15): ("SELENOF",), (12, 1): ("DELEC1",)}.get((month, day), ())


def repaired(names: Sequence[str], organism_of: Callable[[Sequence[str]], str | None]) -> Repairs:
    """Names of the packaged table for mangled ones, where exactly one gene fits that is not otherwise in `names`.

    Parameters
    ----------
    names
        All names of the file.
    organism_of
        Names → their organism, if it is clear: for mouse, dates become symbols of mouse genes.
    """
    suspects = [name for name in names if _dotted(name) or (_may_be_date(name) and _is_date_or_number(name))]
    if not suspects:
        return Repairs()
    organism = organism_of(names)
    tables = tables_for()
    present = frozenset(names)
    chosen: dict[str, str] = {}
    unclear: list[str] = []
    for name in dict.fromkeys(suspects):
        date = spreadsheet_date(name)
        if date:
            candidates = [
                symbol.capitalize() if organism == MOUSE else symbol
                for symbol in genes_of_date(*date)
                if not _is_present(symbol, present, tables)
            ]
        else:
            candidates = [variant for variant in _known_variants(name, tables) if variant not in present]
        if len(candidates) == 1:
            chosen[name] = candidates[0]
        elif date or _EXPONENT.fullmatch(name):
            unclear.append(name)
    return _without_collisions(chosen, unclear)


def repaired_for(names: Sequence[str], known: Known, present: frozenset[str]) -> dict[str, str]:
    """Names of a vocabulary for names that R has mangled, where exactly one fits that is not in `present`."""
    options = {name: variants(name) for name in names if _dotted(name)}
    flat = list(dict.fromkeys(variant for found in options.values() for variant in found))
    if not flat:
        return {}
    writable = {
        variant for variant, is_known in zip(flat, np.asarray(known(flat), dtype=bool), strict=True) if is_known
    }
    fitting = {name: [variant for variant in found if variant in writable] for name, found in options.items()}
    chosen = {name: found[0] for name, found in fitting.items() if len(found) == 1 and found[0] not in present}
    return _without_collisions(chosen, []).names


def variants(name: str) -> list[str]:
    """Names that R's ``make.names`` turns into `name`: other signs for its dots, without an X before a digit."""
    starts = [name]
    if re.match(r"[Xx][\d._-]", name):
        starts.append(name[1:])
    found: dict[str, None] = {}
    for start in starts:
        parts = start.split(".")
        n_dots = len(parts) - 1
        signs = itertools.product(".-", repeat=n_dots) if n_dots <= _MAX_DOTS else [("-",) * n_dots]
        for chosen in [*signs, ("_",) * n_dots, ("/",) * n_dots, ("@",) * n_dots]:
            text = parts[0] + "".join(sign + part for sign, part in zip(chosen, parts[1:], strict=True))
            found[text] = None
    return [text for text in found if text and text != name]


def _known_variants(name: str, tables: Sequence[SymbolTable]) -> list[str]:
    """Names of genes among the variants of `name`; approved ones, of its gene, if it is an alias itself (NKX2.5)."""
    genes = {table.genes[name] for table in tables if name in table.genes}
    if name in genes:
        return []
    if not genes:
        return [variant for variant in variants(name) if any(table.genes.get(variant) for table in tables)]
    approved = [variant for variant in variants(name) if any(table.genes.get(variant) == variant for table in tables)]
    return approved if None in genes else [variant for variant in approved if variant in genes]


def _dotted(name: str) -> bool:
    return ("." in name or name[:1] in "xX") and bool(_MADE_NAME.fullmatch(name)) and not _ACCESSION.fullmatch(name)


def _may_be_date(name: str) -> bool:
    return name[:1].isdigit() or name[3:4] in _SIGNS


def _is_date_or_number(name: str) -> bool:
    return spreadsheet_date(name) is not None or bool(_EXPONENT.fullmatch(name))


def _is_present(symbol: str, present: frozenset[str], tables: Sequence[SymbolTable]) -> bool:
    """Whether the file has the gene under any of its names."""
    names = {name for table in tables for name in table.all_names(symbol)} | {symbol, symbol.capitalize()}
    return bool(names & present)


def _without_collisions(chosen: dict[str, str], unclear: list[str]) -> Repairs:
    targets = list(chosen.values())
    twice = {target for target in targets if targets.count(target) > 1} if len(set(targets)) < len(targets) else set()
    return Repairs(
        names={name: target for name, target in chosen.items() if target not in twice},
        unclear=(*unclear, *(name for name, target in chosen.items() if target in twice)),
    )
