"""Source: contiguous blocks of rows of an AnnData object or file, in bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

if TYPE_CHECKING:
    from anndata import AnnData

#: Values of a block at most; 2**24 float64 with their column numbers are about 200 MB.
BLOCK_VALUES = 2**24
BLOCK_ROWS = 2048


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """One matrix of an AnnData object, read by rows, with the annotations that belong to it."""

    matrix: Any
    """In memory: CSR, CSC or array. On disk: a backed sparse or dense dataset that can be sliced by rows."""

    obs: pd.DataFrame
    var: pd.DataFrame
    uns: Mapping[str, Any]
    where: str
    """How the user names the matrix: ``"X"``, ``"layers['counts']"``, ``"raw.X"``."""

    hint: str
    """Which other matrices there are, for error messages."""

    @property
    def n_obs(self) -> int:
        """Cells."""
        return len(self.obs)

    @property
    def names(self) -> NDArray[Any]:
        """Cell names, object (n,)."""
        return np.asarray(self.obs.index.astype(str), dtype=object)

    def blocks(self, rows: int | None = None) -> Iterator[tuple[int, sp.csr_matrix]]:
        """``(first row, CSR copy of the rows)`` in order. The copy may be changed by the caller."""
        if _format(self.matrix) == "csc":
            yield from self._blocks_of_columns(rows)
            return
        if rows is None:
            dense_rows = max(1, BLOCK_VALUES // max(1, self.matrix.shape[1]))
            rows = BLOCK_ROWS if _format(self.matrix) == "csr" else min(BLOCK_ROWS, dense_rows)
        for start in range(0, self.n_obs, rows):
            yield start, _to_csr(self.matrix[start : start + rows])

    def _blocks_of_columns(self, rows: int | None) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Rows of a matrix stored by columns.

        In memory one linear conversion is cheapest. A file is scanned once per block, its columns in turn, so blocks are
        made as large as memory allows.
        """
        if sp.issparse(self.matrix):
            converted = self.matrix.tocsr()
            yield from ((start, _to_csr(converted[start : start + (rows or BLOCK_ROWS)]))
                        for start in range(0, self.n_obs, rows or BLOCK_ROWS))  # fmt: skip
            return
        indptr = np.asarray(self.matrix.group["indptr"][:])
        if rows is None:
            rows = max(BLOCK_ROWS, int(BLOCK_VALUES * self.n_obs / max(1, indptr[-1])))
        per_column = max(1, int(indptr[-1]) // max(1, len(indptr) - 1))
        step = max(1, BLOCK_VALUES // per_column)
        for start in range(0, self.n_obs, rows):
            parts = [
                sp.csc_matrix(self.matrix[:, column : column + step]).tocsr()[start : start + rows]
                for column in range(0, self.matrix.shape[1], step)
            ]
            yield start, _to_csr(sp.hstack(parts, format="csr"))

    def sample(self, rows: int = 256) -> sp.csr_matrix:
        """Up to three runs of `rows` cells, from the beginning, the middle and the end."""
        if _format(self.matrix) == "csc":
            return next(self._blocks_of_columns(None))[1][: 3 * rows]
        starts = sorted({0, max(0, self.n_obs // 2 - rows // 2), max(0, self.n_obs - rows)})
        return sp.vstack([_to_csr(self.matrix[start : start + rows]) for start in starts], format="csr")


@contextlib.contextmanager
def open_source(data: AnnData | str | Path, *, layer: str | None = None, use_raw: bool = False) -> Iterator[Source]:
    """The matrix named by `layer` and `use_raw` of an AnnData object, an ``.h5ad`` file or a ``.zarr`` store.

    Files are opened for reading only and closed at the end.

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        No such file, no such layer or raw (with those there are), nothing in it.
    """
    if layer is not None and use_raw:
        raise ValueError("pass either layer= or use_raw=True, not both")
    if isinstance(data, str | Path):
        with _open_file(Path(data)) as group:
            yield _checked(_source_of_file(group, layer, use_raw), str(data))
    elif hasattr(data, "obs") and hasattr(data, "var"):
        yield _checked(_source_of_object(data, layer, use_raw), "the AnnData object")
    else:
        raise TypeError(f"expected AnnData or the path of an .h5ad or .zarr file, found {type(data).__name__}")


def _source_of_object(adata: AnnData, layer: str | None, use_raw: bool) -> Source:
    layers = list(adata.layers.keys())
    has_raw = adata.raw is not None
    where = _where(layer, use_raw, layers, has_raw)
    if use_raw:
        matrix, var = adata.raw.X, adata.raw.var
    elif layer is not None:
        matrix, var = adata.layers[layer], adata.var
    else:
        matrix, var = adata.X, adata.var
    if matrix is None:
        raise ValueError(f"adata.X is empty; pass another matrix: {_hint(layers, has_raw, where)}")
    return Source(matrix=matrix, obs=adata.obs, var=var, uns=adata.uns, where=where, hint=_hint(layers, has_raw, where))


def _source_of_file(group: Any, layer: str | None, use_raw: bool) -> Source:
    from anndata.io import read_elem, sparse_dataset

    layers = list(group["layers"].keys()) if "layers" in group else []
    has_raw = "raw" in group
    where = _where(layer, use_raw, layers, has_raw)
    stored = group["raw/X"] if use_raw else group[f"layers/{layer}"] if layer is not None else group.get("X")
    hint = _hint(layers, has_raw, where)
    if stored is None:
        raise ValueError(f"the file has no X; pass another matrix: {hint}")
    sparse = "csr" in str(stored.attrs.get("encoding-type", "")) or "csc" in str(stored.attrs.get("encoding-type", ""))
    # uns may hold much; only the organism is wanted, which is text.
    uns = {}
    for key in ("organism", "species", "organism_ontology_term_id"):
        if "uns" in group and key in group["uns"]:
            uns[key] = read_elem(group["uns"][key])
    return Source(
        matrix=sparse_dataset(stored) if sparse else stored, obs=read_elem(group["obs"]),
        var=read_elem(group["raw/var"] if use_raw else group["var"]), uns=uns, where=where, hint=hint,
    )  # fmt: skip


@contextlib.contextmanager
def _open_file(path: Path) -> Iterator[Any]:
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".zarr":
        import zarr

        yield zarr.open_group(str(path), mode="r")
        return
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not a readable .h5ad (HDF5) file: {error}") from error
    with file:
        if "obs" not in file or "var" not in file:
            raise ValueError(f"{path} is an HDF5 file, but no AnnData: it has no obs and var, only {list(file.keys())}")
        yield file


def _checked(source: Source, name: str) -> Source:
    if len(source.matrix.shape) != 2:
        raise ValueError(f"{source.where} of {name} must have two dimensions, found shape {source.matrix.shape}")
    n_obs, n_vars = source.matrix.shape
    if n_obs == 0 or n_vars == 0:
        raise ValueError(f"{name} is empty: {n_obs} cells and {n_vars} genes in {source.where}")
    return source


def _where(layer: str | None, use_raw: bool, layers: list[str], has_raw: bool) -> str:
    if use_raw:
        if not has_raw:
            raise KeyError(f"use_raw=True, but there is no adata.raw; available: X, layers {layers}")
        return "raw.X"
    if layer is not None:
        if layer not in layers:
            raise KeyError(f"adata.layers has no {layer!r}; available: {layers}" + (", or use_raw=True" if has_raw else ""))
        return f"layers[{layer!r}]"
    return "X"


def _hint(layers: list[str], has_raw: bool, where: str) -> str:
    others = [f"layer={name!r}" for name in layers if where != f"layers[{name!r}]"]
    others += ["use_raw=True"] if has_raw and where != "raw.X" else []
    return "there is " + " or ".join(others) if others else "this object has no other matrix, so go back to the counts"


def _format(matrix: Any) -> str:
    return str(getattr(matrix, "format", "dense"))


def _to_csr(block: Any) -> sp.csr_matrix:
    """A canonical CSR copy with native numbers, without touching the input."""
    if hasattr(block, "to_memory"):
        block = block.to_memory()
    if not sp.issparse(block):
        block = np.asarray(block)
    csr = sp.csr_matrix(block, copy=True)
    if csr.dtype == bool or csr.dtype == np.float16:
        csr = csr.astype(np.float32)
    csr.sum_duplicates()
    return csr
