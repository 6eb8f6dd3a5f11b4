"""Folders of Matrix Market files: CellRanger, STARsolo, kallisto, alevin-fry, Parse and others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2sen.data.files.formats import delimiter, mtx_files
from cell2sen.data.files.sides import genes_are_rows
from cell2sen.data.names.text_files import read_text

if TYPE_CHECKING:
    from anndata import AnnData

_TABLE = re.compile(r"\.(tsv|csv|txt|mtx_rows|mtx_cols)(\.gz)?$", re.IGNORECASE)
_GENES = re.compile(r"gene|feature", re.IGNORECASE)
_CELLS = re.compile(r"barcode|cell", re.IGNORECASE)

#: Kinds of features in the third column of features.tsv, which have no other use as names.
_TYPES = {"Gene Expression", "Antibody Capture", "CRISPR Guide Capture", "Peaks", "Multiplexing Capture", "Custom"}

#: Columns of a table of genes without a header, and names of the symbols with one.
_COLUMNS = ("gene_ids", "gene_symbols", "feature_types", "chromosome", "start", "end")
_SYMBOLS = ("gene_symbols", "gene_name", "gene_names", "symbol", "gene_symbol", "gene_short_name", "name", "gene")


def open_mtx(path: Path) -> AnnData:
    """AnnData of a Matrix Market file and the tables beside it, or of a folder with one such file.

    Raises
    ------
    ValueError
        Several matrices and none named, or no tables of genes and cells that fit.
    """
    from anndata import AnnData
    from scipy.io import mmread

    file = _only_matrix(path) if path.is_dir() else path
    matrix = mmread(file)
    tables = _tables(file, matrix.shape)
    if tables is None:
        beside = sorted(other.name for other in file.parent.iterdir() if _TABLE.search(other.name))
        raise ValueError(
            f"{file} has {matrix.shape[0]} rows and {matrix.shape[1]} columns, and no two tables beside it have the "
            f"names of as many genes and cells, as features.tsv and barcodes.tsv do; there are {beside[:6] or 'none'}"
        )
    genes, cells, transposed = tables
    csr = sp.csr_matrix(matrix.T if transposed else matrix)
    return AnnData(X=csr, obs=_cells_of(cells), var=_genes_of(genes))


def _only_matrix(folder: Path) -> Path:
    files = mtx_files(folder)
    if len(files) > 1:
        raise ValueError(f"{folder} has {len(files)} matrices; pass one of {', '.join(map(str, files[:6]))}")
    return files[0]


def _tables(file: Path, shape: tuple[int, int]) -> tuple[pd.DataFrame, pd.DataFrame, bool] | None:
    """Tables of genes and of cells beside a matrix, and whether its rows are genes."""
    stem = re.sub(r"\.mtx(\.gz)?$", "", file.name, flags=re.IGNORECASE)
    prefix = re.sub(r"(count_?)?matrix$", "", stem, flags=re.IGNORECASE)
    others = [other for other in sorted(file.parent.iterdir()) if _TABLE.search(other.name)]
    own = [other for other in others if other.name.startswith(prefix)] if prefix else others
    found: list[tuple[int, pd.DataFrame, str]] = []
    for other in own or others:
        table = _read_table(other, shape)
        if table is not None:
            found += [(axis, table, other.name.removeprefix(stem)) for axis in (0, 1) if len(table) == shape[axis]]
    for genes_axis in (1, 0) if re.match(r"cells_x_", stem) else (0, 1):
        genes = [entry for entry in found if entry[0] == genes_axis and _GENES.search(entry[2])]
        cells = [entry for entry in found if entry[0] != genes_axis and _CELLS.search(entry[2])]
        cells = [entry for entry in cells if not _GENES.search(entry[2])]
        if genes and cells:  # the table with the most columns has the symbols
            return max(genes, key=lambda entry: entry[1].shape[1])[1], cells[0][1], genes_axis == 0
    # Tables that are called after rows and columns.
    sides = [[entry[1] for entry in found if entry[0] == axis and _of_axis(entry[2], axis)] for axis in (0, 1)]
    if not all(sides):
        return None
    rows, columns = sides[0][0], sides[1][0]
    transposed = genes_are_rows(_names(rows), _names(columns)) is not False
    return (rows, columns, True) if transposed else (columns, rows, False)


def _of_axis(name: str, axis: int) -> bool:
    return bool(re.search(("row", "col")[axis], name, re.IGNORECASE))


def _names(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.iloc[:, 0]]


def _read_table(file: Path, shape: Sequence[int]) -> pd.DataFrame | None:
    """A table of names, with a header if it has a row more than the matrix; ``None`` if it fits to no side."""
    try:
        lines = read_text(file).split("\n")
    except (ValueError, OSError, EOFError):  # another file beside the matrix
        return None
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) not in shape and len(lines) - 1 not in shape:
        return None
    sign = delimiter("\n".join(lines[:2])) or "\t"
    if sign == " ":  # a name of several words
        sign = "\t"
    rows = [[text.strip().strip('"') for text in line.split(sign)] for line in lines]
    header = rows.pop(0) if len(lines) not in shape else None
    width = max(map(len, rows), default=1)
    rows = [row + [""] * (width - len(row)) for row in rows]
    table = pd.DataFrame(rows, dtype=object)
    if header is not None and len(header) == width:
        table.columns = pd.Index(header, dtype=object)
    return table


def _genes_of(table: pd.DataFrame) -> pd.DataFrame:
    """Table of the genes, with their symbols as the index where there are any."""
    if _is_without_header(table):
        names = list(_COLUMNS[: table.shape[1]])
        if table.shape[1] == 2 and set(table[1]) <= _TYPES:
            names[1] = "feature_types"
        names += [f"column_{place}" for place in range(len(names), table.shape[1])]
        table.columns = pd.Index(names, dtype=object)
    symbols = next((name for name in table.columns if str(name).lower() in _SYMBOLS), table.columns[0])
    first = table.iloc[:, 0]
    index = np.where(table[symbols].isin(["", "NA", "nan"]), first, table[symbols])
    table.index = pd.Index(index, dtype=object)
    return table.drop(columns=symbols)


def _is_without_header(table: pd.DataFrame) -> bool:
    return bool(pd.api.types.is_integer_dtype(table.columns))


def _cells_of(table: pd.DataFrame) -> pd.DataFrame:
    """Table of the cells; further columns are kept where a header names them."""
    obs = table.iloc[:, :0] if _is_without_header(table) else table.iloc[:, 1:]
    return obs.set_index(pd.Index(_names(table), dtype=object))
