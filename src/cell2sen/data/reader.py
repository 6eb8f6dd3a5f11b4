"""Reader: blocks of rows of an AnnData object or file, in bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.files.frames import with_names
from cell2sen.data.files.opening import cannot_be_read, open_anndata
from cell2sen.data.obs import cell_names

if TYPE_CHECKING:
    from anndata import AnnData

#: Maximum rows, and about the maximum values, of a block: 2**22 float32 with their column numbers are 34 MB.
BLOCK_ROWS = 2048
BLOCK_VALUES = 2**22

#: Values in memory at a time of a file that is stored by columns (CSC), which is scanned once for each such part.
#: Peak memory with 30 million values: 0.7 GB with 2**24, 1.0 GB with 2**25.
CSC_VALUES = 2**24


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """Matrix of an AnnData object or file, read by rows, with its annotations. Close it, or use ``with``."""

    matrix: Any
    """In memory: CSR, CSC or array. On disk: a sparse or dense dataset that can be sliced by rows."""

    obs: pd.DataFrame
    var: pd.DataFrame
    uns: Mapping[str, Any]
    where: str
    """Name of the matrix: ``"X"``, ``"layers['counts']"``, ``"raw.X"``."""

    hint: str
    """Text for error messages: how to pass the other matrices of the object."""

    rows: NDArray[np.int64] | None = None
    """int64 (cells,): rows of `matrix` that belong to `obs`; ``None``: all."""

    file: str = ""
    """Path of the file; empty for objects in memory."""

    opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Open file of the matrix; empty for matrices in memory."""

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. The annotations stay available."""
        self.opened.close()

    def __getitem__(self, rows: slice | Sequence[int] | NDArray[Any]) -> Reader:
        """Some of the cells (a slice, a mask or different row numbers), from the same open file.

        Raises
        ------
        ValueError
            No cell, or a cell twice.
        """
        index = np.arange(self.n_obs)[rows]
        if not len(index) or len(np.unique(index)) < len(index):
            raise ValueError(f"pass at least one row and none twice, found {len(index)} rows: {index[:5].tolist()} …")
        return replace(self, obs=self.obs.iloc[index], rows=index if self.rows is None else self.rows[index])

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.obs)

    @property
    def names(self) -> NDArray[Any]:
        """Cell names, object (n,)."""
        return cell_names(self.obs)

    def blocks(self, rows: int | None = None, *, shared: bool = False) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Blocks of rows, in order: ``(first row, canonical CSR copy)``. The caller may change the copy.

        Parameters
        ----------
        rows
            Rows of a block; ``None``: chosen by size.
        shared
            Share the memory of the matrix where possible. Such blocks must not be changed, and may not be canonical
            (:func:`canonical`).
        """
        if rows is None:
            rows = max(1, min(BLOCK_ROWS, int(BLOCK_VALUES / max(1.0, self._values_per_row))))
            if chunks := getattr(self.matrix, "chunks", None):  # dense, on disk: whole chunks are read
                rows = max(rows // chunks[0], 1) * chunks[0]
        if not self._is_csc_on_disk:
            shared = shared and self._can_be_shared(self._by_rows)
            for start in range(0, self.n_obs, rows):
                stop = min(start + rows, self.n_obs)
                yield start, rows_of(self._by_rows, start, stop) if shared else self._slice(start, stop)
            return
        at_once = max(rows, int(CSC_VALUES / max(1.0, self._values_per_row)) // rows * rows)
        for first in range(0, self.n_obs, at_once):
            part = self.read(np.arange(first, min(first + at_once, self.n_obs)))
            for start in range(0, part.shape[0], rows):
                yield first + start, _to_csr(part[start : start + rows])

    def read(self, rows: NDArray[np.integer[Any]]) -> sp.csr_matrix:
        """CSR copy of the cells with these numbers, in any order; repeated numbers only for a matrix in memory."""
        rows = rows if self.rows is None else self.rows[rows]
        if sp.issparse(self.matrix) or isinstance(self.matrix, np.ndarray):
            return _to_csr(self._by_rows[rows], copy=False)
        with self._reading():
            if self._is_csc_on_disk:
                return self._rows_of_columns(rows)
            runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
            return sp.csr_matrix(sp.vstack([_to_csr(self.matrix[run[0] : run[-1] + 1]) for run in runs]))

    def sample(self, rows: int = 256) -> sp.csr_matrix:
        """The first, middle and last cells, each at most `rows` of them (fewer if cells have many genes)."""
        return sp.csr_matrix(sp.vstack([canonical(run) for run in self.samples(rows)]))

    def samples(self, rows: int = 256) -> list[sp.csr_matrix]:
        """The runs of cells of :meth:`sample`, shared as by :meth:`blocks` and not always canonical."""
        sampled = self.sampled_rows(rows)
        if self._is_csc_on_disk:
            return [_to_csr(self.read(sampled))]
        runs = np.split(sampled, np.flatnonzero(np.diff(sampled) > 1) + 1)
        if self._can_be_shared(self.matrix):
            return [rows_of(self.matrix, run[0], run[-1] + 1) for run in runs]
        return [self._slice(run[0], run[-1] + 1) for run in runs]

    def sampled_rows(self, rows: int = 256) -> NDArray[np.int64]:
        """Numbers of the cells of :meth:`sample`, ascending, int64."""
        rows = max(1, min(rows, int(BLOCK_VALUES / max(1.0, 3 * self._values_per_row))))
        firsts = (0, max(0, self.n_obs // 2 - rows // 2), max(0, self.n_obs - rows))
        return np.unique(np.concatenate([np.arange(first, min(first + rows, self.n_obs)) for first in firsts]))

    def _slice(self, start: int, stop: int) -> sp.csr_matrix:
        if self.rows is not None:
            return self.read(np.arange(start, stop))
        with self._reading():
            return _to_csr(self._by_rows[start:stop])

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Name the file in errors of the libraries that read it."""
        try:
            yield
        except (MemoryError, TypeError):
            raise
        except Exception as error:
            if not self.file or type(error) is ValueError:
                raise
            raise cannot_be_read(error, f"{self.where} of {self.file}") from error

    @cached_property
    def _by_rows(self) -> Any:
        """The matrix, converted to CSR if it is CSC in memory: one linear conversion is faster than slicing columns."""
        is_csc = sp.issparse(self.matrix) and getattr(self.matrix, "format", "") == "csc"
        return self.matrix.tocsr() if is_csc else self.matrix

    def _can_be_shared(self, matrix: Any) -> bool:
        """Whether slices need neither a copy nor another dtype."""
        in_memory = sp.issparse(matrix) and getattr(matrix, "format", "") == "csr"
        native = in_memory and matrix.dtype.kind in "iuf" and _native_dtype(matrix.dtype) == matrix.dtype
        return bool(native and self.rows is None)

    @property
    def _is_csc_on_disk(self) -> bool:
        return not sp.issparse(self.matrix) and getattr(self.matrix, "format", "") == "csc"

    @property
    def _values_per_row(self) -> float:
        n_rows = self.matrix.shape[0]
        if hasattr(self.matrix, "nnz"):
            return float(self.matrix.nnz / n_rows)
        if hasattr(self.matrix, "group"):  # sparse, on disk
            return float(self.matrix.group["indices"].shape[0] / n_rows)
        return float(self.matrix.shape[1])

    def _rows_of_columns(self, selected: NDArray[np.integer[Any]]) -> sp.csr_matrix:
        """Rows of a file stored by columns, from one scan, some columns at a time."""
        group = self.matrix.group
        indptr = np.asarray(group["indptr"][:], dtype=np.int64)
        position_of = np.full(self.matrix.shape[0], -1, dtype=np.int64)
        position_of[selected] = np.arange(len(selected))
        parts = []
        first = 0
        while first < len(indptr) - 1:
            last = max(first + 1, int(np.searchsorted(indptr, indptr[first] + BLOCK_VALUES, side="right")) - 1)
            entries = slice(int(indptr[first]), int(indptr[last]))
            rows = position_of[np.asarray(group["indices"][entries])]
            keep = rows >= 0
            columns = np.repeat(np.arange(first, last, dtype=np.int32), np.diff(indptr[first : last + 1]))[keep]
            parts.append((np.asarray(group["data"][entries])[keep], rows[keep].astype(np.int32), columns))
            first = last
        data, rows, columns = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return sp.coo_matrix((_native(data), (rows, columns)), shape=(len(selected), self.matrix.shape[1])).tocsr()


class _ViewOfFile:
    """Matrix of a view of a backed AnnData, read by slices of rows; the view's ``X`` would read all rows at once."""

    def __init__(self, view: AnnData, use_raw: bool) -> None:
        self._parent = view._adata_ref
        self._rows = np.arange(self._parent.n_obs)[view._oidx]
        self._columns = slice(None) if use_raw else view._vidx
        self._use_raw = use_raw
        self.shape = (view.n_obs, view.raw.n_vars if use_raw else view.n_vars)

    def __getitem__(self, rows: slice) -> Any:
        # Slices of the parent, since anndata has no views of views of a backed object.
        part = self._parent[self._rows[rows], self._columns]
        return part.raw.X if self._use_raw else part.X


def open_reader(data: AnnData | str | Path, *, layer: str | None = None, use_raw: bool = False) -> Reader:
    """Open the matrix named by `layer` and `use_raw` of an AnnData object or of a file.

    Files of all formats of :func:`cell2sen.data.files.opening.open_anndata` are opened, for reading only; the reader
    closes them.

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        No such file; no such layer or raw, with the available ones; an empty matrix; both `layer` and `use_raw`.
    TypeError
        `data` is neither AnnData nor a path.
    """
    if layer is not None and use_raw:
        raise ValueError("pass either layer= or use_raw=True, not both")
    if isinstance(data, str | Path):
        with contextlib.ExitStack() as opened:
            adata = opened.enter_context(open_anndata(data))
            reader = _checked(_reader_of_object(adata, layer, use_raw), str(data))
            return replace(reader, file=str(data), opened=opened.pop_all())
    _refuse_several(data)
    if hasattr(data, "obs") and hasattr(data, "var"):
        return _checked(_reader_of_object(data, layer, use_raw), "the AnnData object")
    raise TypeError(f"expected AnnData or the path of a file, found {type(data).__name__}")


def _reader_of_object(adata: AnnData, layer: str | None, use_raw: bool) -> Reader:
    layers = list(adata.layers.keys())
    has_raw = adata.raw is not None
    where = _where(layer, use_raw, layers, has_raw)
    if adata.isbacked and adata.is_view and layer is None:
        matrix, var = _ViewOfFile(adata, use_raw), adata.raw.var if use_raw else adata.var
    elif use_raw:
        matrix, var = adata.raw.X, adata.raw.var
    elif layer is not None:
        matrix, var = adata.layers[layer], adata.var
    else:
        matrix, var = adata.X, adata.var
    if matrix is None:
        raise ValueError(f"adata.X is empty; pass another matrix: {_hint(layers, has_raw, where)}")
    hint = _hint(layers, has_raw, where)
    return Reader(matrix=matrix, obs=with_names(adata.obs), var=with_names(var), uns=adata.uns, where=where, hint=hint)


def _refuse_several(data: Any) -> None:
    """Raise a TypeError for objects that hold several AnnData."""
    for parts in ("mod", "tables"):  # of MuData, of SpatialData
        if isinstance(names := getattr(data, parts, None), Mapping):
            choices = ", ".join(f"{parts}[{name!r}]" for name in names)
            raise TypeError(
                f"expected AnnData, found {type(data).__name__}, which holds several: pass one of {choices}"
            )


def _checked(reader: Reader, name: str) -> Reader:
    if len(reader.matrix.shape) != 2:
        raise ValueError(f"{reader.where} of {name} must have two dimensions, found shape {reader.matrix.shape}")
    n_obs, n_vars = reader.matrix.shape
    if n_obs == 0 or n_vars == 0:
        raise ValueError(f"{name} is empty: {n_obs} cells and {n_vars} genes in {reader.where}")
    if hasattr(reader.matrix, "group"):
        _refuse_damaged(reader.matrix.group, f"{reader.where} of {name}")
    return reader


def _refuse_damaged(group: Any, name: str) -> None:
    """Raise a ValueError for a sparse matrix on disk whose pointers would give cells the values of others."""
    pointers = np.asarray(group["indptr"][:])
    n_values, n_indices = int(group["data"].shape[0]), int(group["indices"].shape[0])
    if pointers[0] != 0 or pointers[-1] != n_values or n_values != n_indices or np.any(pointers[1:] < pointers[:-1]):
        raise ValueError(
            f"{name} is damaged: its pointers go from {pointers[0]} to {pointers[-1]}, for {n_values} values and "
            f"{n_indices} indices; copy or write the file anew"
        )


def _where(layer: str | None, use_raw: bool, layers: list[str], has_raw: bool) -> str:
    if use_raw:
        if not has_raw:
            raise KeyError(f"use_raw=True, but there is no adata.raw; available: X, layers {layers}")
        return "raw.X"
    if layer is not None:
        if layer not in layers:
            raw = ", or use_raw=True" if has_raw else ""
            raise KeyError(f"adata.layers has no {layer!r}; available: {layers}{raw}")
        return f"layers[{layer!r}]"
    return "X"


def _hint(layers: list[str], has_raw: bool, where: str) -> str:
    others = [f"layer={name!r}" for name in layers if where != f"layers[{name!r}]"]
    others += ["use_raw=True"] if has_raw and where != "raw.X" else []
    return "there is " + " or ".join(others) if others else "this object has no other matrix, so go back to the counts"


def rows_of(matrix: Any, start: int, stop: int) -> sp.csr_matrix:
    """Rows of a CSR matrix, sharing its memory."""
    indptr = matrix.indptr[start : stop + 1]
    entries = slice(indptr[0], indptr[-1])
    rows = sp.csr_matrix((stop - start, matrix.shape[1]), dtype=matrix.dtype)
    # The constructor would copy small parts of an array.
    rows.data, rows.indices, rows.indptr = matrix.data[entries], matrix.indices[entries], indptr - indptr[0]
    return rows


def canonical(block: sp.csr_matrix) -> sp.csr_matrix:
    """The block with ascending, unique columns in each row: itself (marked as canonical) if it has them, else a copy.

    Raises
    ------
    ValueError
        Column numbers outside of the matrix.
    """
    ascending = np.empty(block.nnz, dtype=bool)
    np.greater(block.indices[1:], block.indices[:-1], out=ascending[1:])
    ascending[block.indptr[:-1][block.indptr[:-1] < block.nnz]] = True  # the first of each row
    if not ascending.all():
        return _to_csr(block)
    block.has_canonical_format = True
    return _with_columns_of_its_own(block)


def _with_columns_of_its_own(csr: sp.csr_matrix) -> sp.csr_matrix:
    """The canonical matrix, after a check of its column numbers: later code relies on them."""
    rows = np.flatnonzero(np.diff(csr.indptr))
    lowest = csr.indices[csr.indptr[rows]].min(initial=0)
    highest = csr.indices[csr.indptr[rows + 1] - 1].max(initial=0)
    for column in (lowest, highest):
        if not 0 <= column < max(csr.shape[1], 1):
            raise ValueError(
                f"the matrix is damaged: an entry has the gene number {column}, and there are {csr.shape[1]} genes "
                "(counted from 0); write the file anew"
            )
    return csr


def _to_csr(block: Any, *, copy: bool = True) -> sp.csr_matrix:
    """Canonical CSR in a dtype that scipy computes with; `copy=False` if `block` is a copy already."""
    for load in ("to_memory", "compute"):  # anndata's arrays on disk, dask arrays
        if hasattr(block, load):
            block = getattr(block, load)()
    if not sp.issparse(block):
        block = np.asarray(block)
    if block.dtype.kind not in "biuf":
        raise TypeError(f"expression must be whole or real numbers, found dtype {block.dtype}")
    csr = sp.csr_matrix(block.astype(_native_dtype(block.dtype), copy=copy))
    if not csr.has_canonical_format:
        if csr.dtype.kind in "iu":  # sums of small integers would wrap around
            csr = csr.astype(np.int64)
        csr.sum_duplicates()
    return _with_columns_of_its_own(csr)


def _native(data: NDArray[Any]) -> NDArray[Any]:
    return data.astype(_native_dtype(data.dtype), copy=False)


def _native_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The nearest dtype that scipy computes with: native byte order, no bool, float16 or long double."""
    if dtype.kind == "b" or (dtype.kind == "f" and dtype.itemsize < 4):
        return np.dtype(np.float32)
    return np.dtype(np.float64) if dtype.itemsize > 8 else dtype.newbyteorder("=")
