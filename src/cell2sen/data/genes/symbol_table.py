"""Symbol table: approved and former symbols of human and mouse genes, and names of one gene in two vocabularies.

Human symbols and their former names are those of HGNC (CC0). Mouse symbols are those of GENCODE; their former names are
those of the human gene of the same symbol, and symbols and synonyms of NCBI Gene in 2016 (public domain). A name is
listed only for the one gene that it belongs to in all sources.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: The table of this package, written by ``recipes/gene_symbols.py``. Its first lines state sources, year and licences.
TABLE = Path(__file__).with_name("gene_symbols.txt.gz")

HUMAN, MOUSE = "Homo sapiens", "Mus musculus"

Known = Callable[[Sequence[str]], NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class SymbolTable:
    """Symbols of the genes of one organism."""

    others: Mapping[str, str]
    """Approved symbol → its former symbols and aliases, with spaces between them, also those that other genes have."""

    genes: Mapping[str, str | None]
    """Every name → the gene's approved symbol; ``None`` for names of several genes."""

    def all_names(self, name: str) -> tuple[str, ...]:
        """All names of the gene that `name` is a name of, the approved one first; empty if it is unknown or unclear."""
        gene = self.genes.get(name)
        if gene is None:
            return ()
        return (gene, *(other for other in dict.fromkeys(self.others[gene].split()) if self.genes[other] == gene))


def table_year() -> str:
    """Year of the packaged table."""
    return _content()[0]


@lru_cache(maxsize=4)
def symbol_table(organism: str, *, upper: bool = False) -> SymbolTable:
    """Table of an organism (human or mouse), with all names in upper case on request.

    A former name that another gene has today is a name of today's gene only.
    """
    text = _content()[1][organism]
    others: dict[str, str] = {}
    genes: dict[str, str | None] = {}
    for line in (text.upper() if upper else text).splitlines():
        gene, _, rest = line.partition(" ")
        others[gene] = f"{others[gene]} {rest}" if gene in others else rest
        for other in rest.split():
            if genes.setdefault(other, gene) != gene:
                genes[other] = None
    genes.update(zip(others, others, strict=True))
    return SymbolTable(others=others, genes=genes)


@lru_cache(maxsize=1)
def _content() -> tuple[str, dict[str, str]]:
    header, *parts = gzip.decompress(TABLE.read_bytes()).decode("utf-8").split("\n>")
    year = next(line.split()[-1] for line in header.splitlines() if line.startswith("# year"))
    return year, {name: lines.strip() for name, _, lines in (part.partition("\n") for part in parts)}


def tables_for(organisms: Iterable[str] = (), *, upper: bool = False) -> tuple[SymbolTable, ...]:
    """Tables in which genes of these organisms are looked up: their own, or human and mouse for other organisms."""
    chosen = [name for name in (HUMAN, MOUSE) if name in set(organisms)] or [HUMAN, MOUSE]
    return tuple(symbol_table(name, upper=upper) for name in chosen)


def share_known(names: Iterable[str], limit: int = 500) -> float:
    """Share of the names, or of `limit` of them evenly over the list, that are symbols of human or mouse, in any case.

    0 without names.
    """
    names = list(names)
    some = names[:: max(1, len(names) // limit)]
    tables = tables_for(upper=True)
    return sum(any(name.upper() in table.genes for table in tables) for name in some) / max(1, len(some))


def approved(symbols: Sequence[str], organisms: Iterable[str] = (), *, upper: bool = False) -> tuple[str, ...]:
    """Today's approved symbol of each gene; names that are unknown, unclear, or whose gene has another name here, stay.

    Parameters
    ----------
    symbols
        Different symbols of a file.
    organisms
        Organisms of the cells, see :func:`tables_for`.
    upper
        The symbols are in upper case, and so are the results.
    """
    tables = tables_for(organisms, upper=upper)
    genes = [next((table.genes[name] for table in tables if name in table.genes), None) or name for name in symbols]
    in_file = frozenset(symbols)
    counts: dict[str, int] = {}
    for gene in genes:
        counts[gene] = counts.get(gene, 0) + 1
    return tuple(
        gene if gene == name or (counts[gene] == 1 and gene not in in_file) else name
        for name, gene in zip(symbols, genes, strict=True)
    )


@dataclass(frozen=True, kw_only=True)
class Renaming:
    """Names of genes in a file → names of the same genes in a model's vocabulary."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Name in the file → name in the vocabulary."""

    ambiguous: tuple[str, ...] = ()
    """Names in the file that may be one of several genes or names of the vocabulary; not renamed."""


def renamed(symbols: Sequence[str], known: Known, organisms: Iterable[str] = (), *, upper: bool = False) -> Renaming:
    """Other names, in a vocabulary, of the genes that it does not have under the name in a file.

    A gene is renamed only if the table has exactly one gene of its name, the vocabulary one of the other names of
    that gene (or its approved one), and the file has no other column for it. Works in both directions of time.

    Parameters
    ----------
    symbols
        Symbols of the file.
    known
        Symbols → bool: is it in the vocabulary.
    organisms
        Organisms of the cells, see :func:`tables_for`.
    upper
        The symbols of file and vocabulary are in upper case.
    """
    in_file = frozenset(symbols)
    missing = [
        symbol for symbol, is_known in zip(symbols, np.asarray(known(symbols), dtype=bool), strict=True) if not is_known
    ]
    tables = tables_for(organisms, upper=upper) if missing else ()
    other_names: dict[str, tuple[str, ...]] = {}
    unclear: list[str] = []
    for symbol in missing:
        table = next((table for table in tables if symbol in table.genes), None)
        if table is not None:
            other_names[symbol] = tuple(name for name in table.all_names(symbol) if name != symbol)
            if table.genes[symbol] is None:
                unclear.append(symbol)
    candidates = list(dict.fromkeys(name for names in other_names.values() for name in names))
    if not candidates:
        return Renaming(ambiguous=tuple(unclear))
    writable = {
        name for name, is_known in zip(candidates, np.asarray(known(candidates), dtype=bool), strict=True) if is_known
    }
    approved = {symbol: table.genes.get(symbol) for table in reversed(tables) for symbol in other_names}
    chosen: dict[str, str] = {}
    for symbol, names in other_names.items():
        found = [name for name in names if name in writable]
        if not found or any(name in in_file for name in found):  # the file has another column for this gene
            continue
        if len(found) == 1 or found[0] == approved[symbol]:
            chosen[symbol] = found[0]
        else:
            unclear.append(symbol)
    return _one_each(chosen, unclear, approved)


def _one_each(chosen: dict[str, str], unclear: list[str], approved: Mapping[str, str | None]) -> Renaming:
    """Of several names in the file for one gene of the vocabulary only the approved one is renamed."""
    sources: dict[str, list[str]] = {}
    for symbol, name in chosen.items():
        sources.setdefault(name, []).append(symbol)
    for symbols in sources.values():
        keep = symbols if len(symbols) == 1 else [symbol for symbol in symbols if approved[symbol] == symbol]
        for symbol in set(symbols) - set(keep):
            del chosen[symbol]
            unclear.append(symbol)
    return Renaming(names=chosen, ambiguous=tuple(unclear))
