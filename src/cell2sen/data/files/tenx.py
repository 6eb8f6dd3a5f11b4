"""10x Genomics HDF5 files: CellRanger 2 with a group for each genome, 3 and later with features; CellBender."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from cell2sen.data.files.formats import Location
from cell2sen.data.files.frames import text_of
from cell2sen.data.files.groups import StoredCSR

if TYPE_CHECKING:
    from anndata import AnnData

_ARRAYS = {"barcodes", "data", "indices", "indptr"}

#: Columns of var by their names in the files.
_COLUMNS = {
    "id": "gene_ids",
    "genes": "gene_ids",
    "name": "gene_symbols",
    "gene_names": "gene_symbols",
    "feature_type": "feature_types",
}


def groups(root: Any) -> list[str]:
    """Names of the groups that hold a matrix of 10x: ``matrix``, or the genomes of CellRanger 2."""
    return [str(name) for name in root if hasattr(root[name], "keys") and set(root[name].keys()) >= _ARRAYS]


def open_tenx(root: Any, place: Location) -> AnnData:
    """AnnData of an open 10x file, with the matrix on disk.

    Raises
    ------
    ValueError
        Several genomes and none named, or arrays that do not fit.
    """
    from anndata import AnnData
    from anndata.io import sparse_dataset

    available = groups(root)
    name = place.inside.strip("/")
    if name and name not in available:
        raise ValueError(f"{place.file} (10x) has no matrix {name!r}; available: {available}")
    if not name and len(available) > 1:
        paths = ", ".join(str(place.file / genome) for genome in available)
        raise ValueError(f"{place.file} (10x) has a matrix for each genome: pass one of {paths}")
    group = root[name or available[0]]
    var = _features(group)
    barcodes = pd.Index(_texts(group["barcodes"]), dtype=object)
    shape = (len(barcodes), len(var))
    if int(group["indptr"].shape[0]) - 1 != shape[0]:
        raise ValueError(
            f"{place} (10x) is damaged: {int(group['indptr'].shape[0]) - 1} cells in the matrix, {shape[0]} barcodes"
        )
    # Stored as genes × barcodes by columns, which is barcodes × genes by rows.
    return AnnData(X=sparse_dataset(StoredCSR(group, shape)), obs=pd.DataFrame(index=barcodes), var=var)


def _features(group: Any) -> pd.DataFrame:
    """Table of the genes, with their symbols as the index where there are any."""
    stored = group.get("features", group)
    columns: dict[str, list[str]] = {}
    n = int(group["shape"][0]) if "shape" in group else None
    for key in stored:
        array = stored[key]
        if hasattr(array, "keys") or key in _ARRAYS or array.dtype.kind not in "SO" or len(array.shape) != 1:
            continue
        texts = _texts(array)
        if n is None or len(texts) == n:
            columns[_COLUMNS.get(str(key), str(key))] = texts
    if n is None:
        n = max(map(len, columns.values()), default=0)
    ids, symbols = columns.get("gene_ids"), columns.pop("gene_symbols", None)
    names = symbols or ids
    if names is None:
        raise ValueError(f"the 10x file has no names of genes; its features have only {sorted(map(str, stored))}")
    if ids is not None:
        names = [symbol or gene for symbol, gene in zip(names, ids, strict=True)]
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def _texts(array: Any) -> list[str]:
    return [str(text_of(value)) for value in array[:]]
