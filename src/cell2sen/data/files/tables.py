"""Tables of text with a row per cell or per gene: CSV, TSV and the like, also compressed."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2sen.data.files.formats import decoded, delimiter, head_of
from cell2sen.data.files.sides import genes_are_rows
from cell2sen.data.names.text_files import compression, encoding_of, open_unpacked

if TYPE_CHECKING:
    from anndata import AnnData

#: Values of a table in memory at a time.
_VALUES = 2**23

#: Columns of numbers that describe a gene, as featureCounts writes them.
_OF_GENES = {
    "length", "start", "end", "chr", "strand", "chromosome", "entrezid", "entrez_id", "gene_length", "version", "width",
    "gene_version", "level", "score", "n_transcripts", "transcript_count", "exon_count", "ncbi_gene_id",
}  # fmt: skip

#: Columns of numbers that describe a cell, as Seurat, scanpy and the programs of spatial data write them.
_OF_CELLS = {
    "fov", "cell", "cell_id", "cellid", "cell_index", "barcode", "n_genes", "n_counts", "total_counts", "n_umi", "numi",
    "n_genes_by_counts", "pct_counts_mt", "ncount_rna", "nfeature_rna", "percent.mt", "percent_mt", "leiden", "louvain",
    "cluster", "clusters", "seurat_clusters", "batch", "doublet_score", "size_factor", "sizefactor", "x", "y", "umap_1",
    "umap_2", "x_centroid", "y_centroid", "area", "volume",
}  # fmt: skip


def open_table(path: Path) -> AnnData:
    """AnnData of a table, with a sparse matrix in memory. Columns of text annotate its rows.

    Raises
    ------
    ValueError
        No numbers, or names of neither genes nor cells.
    """
    from anndata import AnnData

    options, header = _layout(path)
    width = len(header)
    numbers = _columns_of_numbers(path, options, header)
    if not numbers.any():
        raise ValueError(f"{path} is a table without a column of numbers; its header is {header[:6]}")
    first = 0 if not numbers[0] or _is_index(path, options, header) else None
    names: list[str] = []
    blocks: list[sp.csr_matrix] = []
    annotations: list[pd.DataFrame] = []
    values = np.flatnonzero(numbers & (np.arange(width) != (-1 if first is None else first)))
    texts = np.flatnonzero(~numbers & (np.arange(width) != (-1 if first is None else first)))
    types: dict[int, Any] = {int(place): np.float64 for place in values}
    types |= {place: str for place in range(width) if place not in types}
    rows = max(1, _VALUES // width)
    reader = pd.read_csv(path, **options, dtype=types, chunksize=rows, na_values=[""], keep_default_na=True)
    for chunk in reader:
        names += [str(name) for name in (chunk.index if first is None else chunk[first].fillna(""))]
        blocks.append(sp.csr_matrix(chunk[values].to_numpy(dtype=np.float64)))
        annotations.append(chunk[texts])
    matrix = sp.csr_matrix(sp.vstack(blocks))
    rest = pd.concat(annotations)
    rest.columns = pd.Index([header[place] for place in texts], dtype=object)
    columns = [header[place] for place in values]
    rows_are_genes = genes_are_rows(names, columns, header[0] if first == 0 else "")
    if rows_are_genes is None:
        raise ValueError(
            f"{path} is a table whose genes are not told from its cells (rows are {names[:3]}, columns {columns[:3]}): "
            "write 'gene' or 'cell' as the name of its first column"
        )
    rest.index = pd.Index(names, dtype=object)
    describing = np.array([name.lower() in (_OF_GENES if rows_are_genes else _OF_CELLS) for name in columns])
    if describing.all():
        what = "genes" if rows_are_genes else "cells"
        raise ValueError(f"{path} is a table that describes {what} ({', '.join(columns[:3])}) and has no expression")
    for place in np.flatnonzero(describing):
        rest[columns[place]] = matrix.getcol(int(place)).toarray().ravel()
    others = pd.DataFrame(index=pd.Index([columns[place] for place in np.flatnonzero(~describing)], dtype=object))
    matrix = sp.csr_matrix(matrix[:, ~describing]) if describing.any() else matrix
    if rows_are_genes:
        return AnnData(X=sp.csr_matrix(matrix.T), obs=others, var=rest)
    return AnnData(X=matrix, obs=rest, var=others)


def _layout(path: Path) -> tuple[dict[str, Any], list[str]]:
    """How pandas reads the table, with numbers for the names of its columns; and the names."""
    with open_unpacked(path) as stream:
        head = head_of(stream)
    text = decoded(head) or ""
    lines = text.splitlines()
    skipped = next(place for place, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    sign = delimiter(text) or ","
    header, first = (next(csv.reader(io.StringIO(line), delimiter=sign)) for line in lines[skipped : skipped + 2])
    if len(header) == len(first) - 1 and first[-1]:  # R leaves out the name of the column of row names
        header = ["", *header]
    options: dict[str, Any] = {
        "sep": sign,
        "header": None,
        "names": list(range(len(header))),
        "skiprows": skipped + 1,
        "compression": compression(path),
        "encoding": _encoding(head),
        "index_col": False,
    }
    if sign == ";" and re.search(r";-?\d+,\d", lines[skipped + 1]):
        options["decimal"] = ","
    return options, [name.strip() for name in header]


def _encoding(head: bytes) -> str:
    """Encoding of a table; Latin-1 is read, too, since a table names its cells only, not their types."""
    encoding = encoding_of(head)
    if not encoding.startswith("utf-8"):
        return encoding
    try:
        head[: head.rfind(b"\n") + 1].decode("utf-8-sig")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"


def _columns_of_numbers(path: Path, options: dict[str, Any], header: list[str]) -> Any:
    """Which columns of the first rows are numbers, bool (columns,)."""
    width = len(header)
    sample = pd.read_csv(path, **options, nrows=max(2, min(100, _VALUES // width)))
    numbers = np.array([pd.api.types.is_numeric_dtype(sample[place]) for place in range(width)], dtype=bool)
    for place in np.flatnonzero(~numbers):
        texts = sample[place].dropna().astype(str)
        without_signs = pd.to_numeric(texts.str.replace(",", "").str.strip(), errors="coerce")
        wrong = texts[pd.to_numeric(texts, errors="coerce").isna()]
        if place and header[place].lower() not in _OF_GENES and without_signs.notna().mean() >= 0.5 and len(wrong):
            raise ValueError(
                f"the column {header[place]!r} of {path} has numbers, and values that are none, such as "
                f"{wrong.iloc[0]!r}: write plain numbers, without signs for thousands"
            )
    return numbers


def _is_index(path: Path, options: dict[str, Any], header: list[str]) -> bool:
    """Whether a first column of numbers holds the names of the rows: without a name of its own, or counting on."""
    if header[0].lower() in ("", "index", "unnamed: 0") or genes_are_rows([], [], header[0]) is not None:
        return True
    start = pd.read_csv(path, **options, usecols=[0], nrows=100)[0].to_numpy()
    return len(start) > 2 and bool(np.all(np.diff(start) == 1))
