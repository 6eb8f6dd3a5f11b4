"""Mangled gene names: those that R (HLA.DRA, X7SK) and spreadsheets (1-Mar, 2021-09-02) changed, mapped back."""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cell2sen.data.genes.symbol_table import MOUSE, Known, SymbolTable, tables_for

#: Dots of a name beyond which not all combinations are tried.
_MAX_DOTS = 4

#: Names of months in files of English, German, French, Italian, Spanish and Dutch spreadsheets.
_MONTHS = {
    name: number
    for number, names in enumerate(
        ("jan january", "feb february", "mar march mrz mär märz mars mrt marzo", "apr april", "may", "jun june",
         "jul july", "aug august", "sep sept september set", "oct october okt", "nov november",
         "dec december dez déc dic"), 1
    )
    for name in names.split()
}  # fmt: skip
_R = "[Xx]?"  # R puts it in front of a digit
_DAY_MONTH = re.compile(rf"{_R}(?P<day>\d{{1,2}})[-./ ]+(?P<month>[^\W\d_]{{3,9}})\.?(?:[-./ ]+\d{{2,4}})?")
_MONTH_DAY = re.compile(r"(?P<month>[^\W\d_]{3,9})[-./ ]+(?P<day>\d{1,2})(?:[-./ ,]+\d{2,4})?")
_ISO = re.compile(rf"{_R}\d{{4}}[-./](?P<month>\d{{1,2}})[-./](?P<day>\d{{1,2}})(?:[T ]00:00:00\S*)?")
_DOTTED = re.compile(rf"{_R}(?P<day>\d{{1,2}})\.(?P<month>\d{{1,2}})\.(?:\d{{4}}|\d{{2}})?")
#: American, 9/7/2021, or British, 07/09/2021: which one shows in all dates of a file.
_SLASHED = re.compile(r"(?P<first>\d{1,2})/(?P<second>\d{1,2})/\d{2,4}")
#: What ``make.names`` leaves of a name, and clones with a version, which are symbols as they are.
_MADE_NAME, _ACCESSION = (
    re.compile(r"\w*\.[\w.]*|[Xx]\d\w*|[A-Za-z]\w*_\w+"),
    re.compile(r"[A-Z]{1,4}\d{5,8}\.\d{1,2}", re.IGNORECASE),
)

#: RIKEN names with an E, which are numbers to a spreadsheet (2310009E13Rik is safe, its clone 2310009E13 is not).
_EXPONENT = re.compile(r"\d(?:\.\d+)?E[+-]\d+", re.IGNORECASE)


_SIGNS = frozenset("-./ ")


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """Names that were mapped back, and those that look mangled but could not be."""

    names: dict[str, str] = field(default_factory=dict)
    unclear: tuple[str, ...] = ()


def spreadsheet_date(name: str, *, day_first: bool | None = False) -> tuple[int, int] | None:
    """Month and day of a name that a spreadsheet has read as a date; ``None`` for other names.

    Parameters
    ----------
    day_first
        Order of 9/7/2021; ``None``: unclear, which is no date of any gene: (0, 0).
    """
    if match := _SLASHED.fullmatch(name):
        if day_first is None:
            return 0, 0
        day, month = (int(match[part]) for part in (("first", "second") if day_first else ("second", "first")))
        return (month, day) if 1 <= month <= 12 and 1 <= day <= 31 else None
    for pattern in (_DAY_MONTH, _MONTH_DAY, _ISO, _DOTTED):
        if match := pattern.fullmatch(name):
            text = match["month"].lower()
            month, day = int(text) if text.isdigit() else _MONTHS.get(text, 0), int(match["day"])
            return (month, day) if 1 <= month <= 12 and 1 <= day <= 31 else None
    return None


def date_of_serial(number: str) -> str | None:
    """Date of a spreadsheet's day number (44446: 2021-09-07), if a gene's name is read as that day of the year."""
    if not re.fullmatch(r"[345]\d{4}", number):
        return None
    date = datetime.date(1899, 12, 30) + datetime.timedelta(days=int(number))
    return date.isoformat() if genes_of_date(date.month, date.day) else None


def without_spaces_in_dates(names: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Names in which dates are one word, as they must be to be mapped back, and day numbers are dates.

    Numbers stay where some of them are no date of a gene, since they are identifiers.
    """
    numbers = {name for name in names if name and name.isdigit()}
    dates = {number: date for number in numbers if (date := date_of_serial(number))}
    dates = dates if len(dates) == len(numbers) < 0.1 * len(names) else {}
    for name in names:
        if name and " " in name and spreadsheet_date(name):
            dates[name] = name.removesuffix(" 00:00:00").replace(". ", ".").replace(", ", "-").replace(" ", "-")
    return tuple(dates.get(name, name) if name else None for name in names) if dates else names


def _is_day_first(names: Iterable[str]) -> bool | None:
    """Order of dates such as 9/7/2021, by the months in which genes have names; ``None`` if both orders fit."""
    dates = [(int(match["first"]), int(match["second"])) for match in map(_SLASHED.fullmatch, names) if match]
    american = all(genes_of_date(first, second) for first, second in dates)
    british = all(genes_of_date(second, first) for first, second in dates)
    return None if american == british and dates else british and not american


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
    present = frozenset(names) - {name for name in suspects if spreadsheet_date(name)}  # HGNC lists 7-SEP as an alias
    day_first = _is_day_first(suspects)
    chosen: dict[str, str] = {}
    unclear: list[str] = []
    for name in dict.fromkeys(suspects):
        date = spreadsheet_date(name, day_first=day_first)
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
    if "." not in name:  # Seurat, and programs for which a dash is a minus
        starts = [start.replace("_", ".") for start in starts]
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
    known = [variant for variant in variants(name) if any(table.genes.get(variant) for table in tables)]
    approved = [variant for variant in known if any(table.genes.get(variant) == variant for table in tables)]
    if not genes:
        return approved or known
    return approved if None in genes else [variant for variant in approved if variant in genes]


def _dotted(name: str) -> bool:
    return (
        ("." in name or "_" in name or name[:1] in "xX")
        and bool(_MADE_NAME.fullmatch(name))
        and not _ACCESSION.fullmatch(name)
    )


def _may_be_date(name: str) -> bool:
    return name[:1].isdigit() or (name[-1:].isdigit() and not _SIGNS.isdisjoint(name)) or name[1:2].isdigit()


def _is_date_or_number(name: str) -> bool:
    return spreadsheet_date(name) is not None or bool(_EXPONENT.fullmatch(name) or _SLASHED.fullmatch(name))


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
