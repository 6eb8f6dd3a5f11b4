"""Loom files: genes × cells in HDF5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2sen.data.files.frames import text_of

if TYPE_CHECKING:
    from anndata import AnnData

#: Usual names of the attributes with the names of genes and of cells, in order of preference.
_GENES = (
    "Gene", "gene", "var_names", "gene_names", "gene_name", "GeneName", "Symbol", "gene_symbols", "gene_symbol",
    "feature_name", "Accession", "ensembl_ids", "gene_ids",
)  # fmt: skip
_CELLS = ("CellID", "obs_names", "barcode", "Barcode", "barcodes", "cell_id", "cell_names", "Cell", "cells")

#: Values of the matrix in memory at a time.
_VALUES = 2**24


def is_loom(root: Any) -> bool:
    """Whether an open HDF5 file is a loom file."""
    return "matrix" in root and "row_attrs" in root and "col_attrs" in root and not hasattr(root["matrix"], "keys")


def open_loom(root: Any) -> AnnData:
    """AnnData of an open loom file, with sparse matrices in memory."""
    from anndata import AnnData

    n_genes, n_cells = root["matrix"].shape
    layers = root.get("layers", {})
    return AnnData(
        X=_cells_by_genes(root["matrix"]),
        obs=_annotations(root["col_attrs"], n_cells, _CELLS),
        var=_annotations(root["row_attrs"], n_genes, _GENES),
        layers={str(name): _cells_by_genes(layers[name]) for name in layers if str(name)},
    )


def _cells_by_genes(stored: Any) -> sp.csr_matrix:
    n_genes, n_cells = stored.shape
    step = max(1, _VALUES // max(n_genes, 1))
    parts = [sp.csr_matrix(stored[:, first : first + step].T) for first in range(0, n_cells, step)]
    return sp.csr_matrix(sp.vstack(parts)) if parts else sp.csr_matrix(np.zeros((0, n_genes)))


def _annotations(group: Any, n: int, names: Sequence[str]) -> pd.DataFrame:
    columns = {}
    for key in group:
        values = group[key]
        if not hasattr(values, "keys") and values.shape == (n,) and values.dtype.names is None:
            columns[str(key)] = values[:] if values.dtype.kind in "biuf" else [text_of(value) for value in values[:]]
    given = next((name for name in names if name in columns), None)
    index = [str(value) for value in (range(n) if given is None else columns.pop(given))]
    return pd.DataFrame(columns, index=pd.Index(index, dtype=object))
