"""Rows of a stored file: some cells and columns of obs, read without the rest of obs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cell2sen.data.files import groups
from cell2sen.data.files.formats import locate, recognise
from cell2sen.data.files.frames import NAMES_COLUMN, text_of, with_names, with_text
from cell2sen.data.files.opening import cannot_be_read, is_modern, open_anndata, open_root

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredRows:
    """One matrix of a stored file, with its genes; cells are read where they are needed. Close it, or use ``with``."""

    file: str
    matrix: Any
    """(cells, genes) on disk, or in memory for formats that are read whole."""

    var: pd.DataFrame
    uns: dict[str, Any]
    names: tuple[str, ...]
    """Columns of obs."""

    n_obs: int
    obs: Any
    """Group of obs in the file, or the whole table."""

    opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> StoredRows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.opened.close()

    def table(self, columns: Sequence[str] = (), start: int = 0, stop: int | None = None) -> pd.DataFrame:
        """Names and some columns of obs of the cells from `start` to `stop`.

        Raises
        ------
        KeyError
            An unknown column; lists the available ones.
        """
        for name in columns:
            if name not in self.names:
                raise KeyError(f"obs of {self.file} has no column {name!r}; available: {list(self.names)}")
        rows = slice(start, self.n_obs if stop is None else stop)
        if isinstance(self.obs, pd.DataFrame):
            return self.obs.iloc[rows][list(dict.fromkeys(columns))]
        key = groups.names_key(self.obs)
        assert key is not None
        index = pd.Index([str(text_of(name)) for name in np.asarray(_part(self.obs[key], rows))], dtype=object)
        values = {name: _part(self.obs[name], rows) for name in dict.fromkeys(columns)}
        return with_text(pd.DataFrame(values, index=index))

    @property
    def texts(self) -> list[str]:
        """Columns of obs that may hold text: all but numbers. No values are read."""
        if isinstance(self.obs, pd.DataFrame):
            return [name for name in self.names if not pd.api.types.is_numeric_dtype(self.obs[name].dtype)]
        return [name for name in self.names if not _are_numbers(self.obs[name])]

    def read(self, start: int, stop: int, columns: Sequence[str] = ()) -> AnnData:
        """Cells `start` to `stop` in memory, with `columns` of obs."""
        from anndata import AnnData

        block = self.matrix[start:stop]
        for load in ("to_memory", "compute"):
            if hasattr(block, load):
                block = getattr(block, load)()
        return AnnData(X=block, obs=self.table(columns, start, stop), var=self.var.copy(), uns=dict(self.uns))


@contextlib.contextmanager
def open_rows(path: str | Path, *, layer: str | None = None, use_raw: bool = False) -> Iterator[StoredRows]:
    """Open a file whose cells are read in parts.

    Of ``.h5ad`` and ``.zarr`` only what is asked for is read; other formats have their obs in memory.

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        No such file or matrix, or a damaged file, as of :func:`cell2sen.data.files.opening.open_anndata`.
    """
    place = locate(path)
    with contextlib.ExitStack() as opened:
        root = group = None
        try:
            if recognise(place.file) in ("hdf5", "zarr", "zipped zarr"):
                root = opened.enter_context(open_root(place))
                group = groups.find(root, place) if is_modern(root, place) else None
        except (FileNotFoundError, PermissionError, MemoryError):
            raise
        except Exception as error:
            raise error if type(error) is ValueError else cannot_be_read(error, str(place)) from error
        obs = None if root is None or group is None else group["obs"]
        names = () if obs is None or groups.names_key(obs) is None else groups.column_names(obs)
        if group is not None and group is root and obs is not None and names and NAMES_COLUMN not in names:
            n_obs = groups.n_rows(obs)
            matrix, var = groups.matrix_of(group, place.file, n_obs, layer=layer, use_raw=use_raw)
            yield StoredRows(
                file=str(path), matrix=matrix, var=var, uns=groups.uns_of(group), names=names, n_obs=n_obs, obs=obs
            )
            return
        adata = opened.enter_context(open_anndata(path))
        yield _of_object(adata, str(path), layer, use_raw)


def _of_object(adata: AnnData, file: str, layer: str | None, use_raw: bool) -> StoredRows:
    if use_raw and adata.raw is None:
        raise KeyError(f"use_raw=True, but {file} has no raw; available: X, layers {list(adata.layers)}")
    if layer is not None and layer not in adata.layers:
        raise KeyError(f"{file} has no layer {layer!r}; available: {list(adata.layers)}")
    matrix = adata.raw.X if use_raw else adata.layers[layer] if layer is not None else adata.X
    obs = with_names(adata.obs)
    return StoredRows(
        file=file,
        matrix=matrix,
        var=with_names(adata.raw.var if use_raw else adata.var),
        uns=dict(adata.uns),
        names=tuple(map(str, obs.columns)),
        n_obs=len(obs),
        obs=obs,
    )


def _are_numbers(stored: Any) -> bool:
    """Whether a stored column has numbers, or true and false."""
    if not hasattr(stored, "keys"):
        return np.dtype(stored.dtype).kind in "biufc" and "categories" not in stored.attrs
    return str(text_of(stored.attrs.get("encoding-type", ""))) in ("nullable-integer", "nullable-boolean")


def _part(stored: Any, rows: slice) -> Any:
    """Rows of one stored column: text, numbers, categories, and values that may be missing."""
    from anndata.io import read_elem

    kind = str(text_of(stored.attrs.get("encoding-type", "")))
    if not hasattr(stored, "keys"):
        if "categories" in stored.attrs:  # as anndata 0.7 wrote categories: in another group
            return read_elem(stored)[rows]
        values = stored.asstr() if hasattr(stored, "asstr") and kind == "string-array" else stored
        return np.asarray(values[rows])
    if kind == "categorical":
        categories = pd.Index(read_elem(stored["categories"]))
        codes = np.asarray(stored["codes"][rows])
        return pd.Categorical.from_codes(codes, categories=categories, ordered=bool(stored.attrs.get("ordered", False)))
    if kind == "nullable-string-array" and {"values", "mask"} <= set(stored):
        text = np.asarray(_part(stored["values"], rows), dtype=object)
        text[np.asarray(stored["mask"][rows], dtype=bool)] = None
        return text
    if kind in ("nullable-integer", "nullable-boolean") and {"values", "mask"} <= set(stored):
        values, mask = np.asarray(stored["values"][rows]), np.asarray(stored["mask"][rows], dtype=bool)
        if kind == "nullable-boolean":
            return pd.arrays.BooleanArray(values.astype(bool), mask)
        return pd.arrays.IntegerArray(values, mask)
    return read_elem(stored)[rows]
