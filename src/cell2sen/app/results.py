"""Results of a page: columns of obs, maps, groups; written beside the cells, never into the given object or file."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.app.page_cells import PageCells
from cell2sen.data.files.formats import locate
from cell2sen.data.output import write_results
from cell2sen.tl.results import UNS

if TYPE_CHECKING:
    from anndata import AnnData

#: Column of obs with the groups that were kept.
GROUP = "cell2sen_group"


class Results:
    """The cells with what jobs found: annotations of `adata`, copied, and results beside them.

    Parameters
    ----------
    adata
        Cells; not changed.
    cells
        Gets an object without a matrix, whose obs and obsm have the results.
    source
        File that `adata` was read from.
    """

    def __init__(self, adata: AnnData, cells: PageCells, *, source: str | Path | None = None) -> None:
        from anndata import AnnData

        self.given, self.cells, self.source = adata, cells, source
        obsm = {key: value for key, value in adata.obsm.items() if getattr(value, "ndim", 0) == 2}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are not unique
            self.shown = AnnData(obs=adata.obs.copy(), obsm=obsm)
        cells.adata = self.shown
        self.columns: list[str] = []
        self.maps: list[str] = []
        self.lock = threading.RLock()
        self._stamp = self._stat()

    def write(self, rows: NDArray[np.int64], columns: Mapping[str, pd.Series[Any]]) -> None:
        """Write columns of some cells. Others keep what they have, or have missing values."""
        with self.lock:
            for name, values in columns.items():
                self.shown.obs[name] = self._merged(name, rows, values)
                self.columns = list(dict.fromkeys([*self.columns, name]))

    def _merged(self, name: str, rows: NDArray[np.int64], values: pd.Series[Any]) -> Any:
        before = self.shown.obs.get(name)
        n, is_number = self.shown.n_obs, pd.api.types.is_numeric_dtype(values)
        if before is not None and pd.api.types.is_numeric_dtype(before) != is_number:
            before = None
        if is_number:
            numbers = np.full(n, np.nan) if before is None else before.to_numpy(dtype=np.float64).copy()
            numbers[rows] = values.to_numpy(dtype=np.float64)
            return numbers
        texts = np.full(n, None, dtype=object) if before is None else before.astype(object).to_numpy().copy()
        texts[rows] = values.astype(object).where(values.notna(), None).to_numpy()
        return pd.Categorical(texts)

    def keep_only_same(self, key: str, labels: Sequence[str]) -> None:
        """Drop the columns of earlier results under `key` that chose among other labels: both cannot be mixed."""
        with self.lock:
            before = self.shown.obsm.get(f"{key}_probabilities")
            if before is not None and list(map(str, getattr(before, "columns", ()))) == list(labels):
                return
            old = [name for name in self.shown.obs if name == key or str(name).startswith(f"{key}_")]
            self.shown.obs.drop(columns=old, inplace=True)
            self.shown.obsm.pop(f"{key}_probabilities", None)

    def write_table(self, key: str, rows: NDArray[np.int64], table: pd.DataFrame) -> None:
        """Write a table of some cells to obsm; other cells keep their rows if the columns are the same."""
        with self.lock:
            before = self.shown.obsm.get(key)
            names = list(map(str, table.columns))
            if before is None or list(map(str, getattr(before, "columns", ()))) != names:
                before = pd.DataFrame(np.nan, index=self.shown.obs_names, columns=names)
            values = before.to_numpy(dtype=np.float64).copy()
            values[rows] = table.to_numpy(dtype=np.float64)
            self.shown.obsm[key] = pd.DataFrame(values, index=self.shown.obs_names, columns=names)
            self.maps = list(dict.fromkeys([*self.maps, key]))

    def write_map(self, key: str, points: NDArray[np.float32]) -> None:
        """Write coordinates or vectors of all cells to obsm."""
        with self.lock:
            self.shown.obsm[key] = points
            self.maps = list(dict.fromkeys([*self.maps, key]))

    def write_record(self, verb: str, record: Mapping[str, Any]) -> None:
        """Write the provenance of a verb."""
        with self.lock:
            self.shown.uns[UNS] = {**self.shown.uns.get(UNS, {}), verb: dict(record)}

    def write_groups(self, groups: Mapping[str, NDArray[Any]]) -> None:
        """Write named groups of cells; a cell of several is named after all."""
        names = np.full(self.shown.n_obs, "", dtype=object)
        for name, rows in groups.items():
            names[rows] = [f"{before} and {name}" if before else name for before in names[rows]]
        with self.lock:
            self.shown.obs[GROUP] = pd.Categorical([name or None for name in names])
            self.columns = list(dict.fromkeys([*self.columns, GROUP]))

    def anndata(self) -> AnnData:
        """The cells with all results, as an object that shares the matrices of the given one."""
        from anndata import AnnData

        given = self.given
        with self.lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are not unique, as the given object has them
            whole = AnnData(
                X=given.X,
                obs=self.shown.obs.copy(),
                var=given.var,
                uns={**given.uns, UNS: {**given.uns.get(UNS, {}), **self.shown.uns.get(UNS, {})}},
                obsm={**given.obsm, **{key: self.shown.obsm[key] for key in self.maps}},
                varm=dict(given.varm),
                layers=dict(given.layers),
                obsp=dict(given.obsp),
            )
            if given.raw is not None:  # raw is made of an object
                names = pd.DataFrame(index=given.obs_names)
                whole.raw = AnnData(X=given.raw.X, obs=names, var=given.raw.var, varm=dict(given.raw.varm))
        return whole

    def save(self, path: Path) -> None:
        """Write the cells with all results as .h5ad: a copy of the source file, or else the object.

        Raises
        ------
        ValueError
            The source file has changed.
        """
        with self.lock:
            if self.source is None:
                self.anndata().write_h5ad(path)
                return
            self.check_source()
            uns = [UNS] if UNS in self.shown.uns else []
            written = self.shown
            if uns:
                written = self.shown.copy()
                written.uns[UNS] = {**self.given.uns.get(UNS, {}), **self.shown.uns[UNS]}
            write_results(self.source, path, written, obs=self.columns, obsm=self.maps, uns=uns)

    def check_source(self) -> None:
        """Raise a ValueError if the source file has changed."""
        if self._stat() != self._stamp:
            raise ValueError(f"{self.source} has changed since it was opened: start the page again")

    def figure(self, kind: str, basis: str, source: Any, colour: str | None) -> bytes:
        """Picture of a map with its legend, drawn by :func:`cell2sen.pl.embedding`.

        Raises
        ------
        ImportError
            matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("pictures with a legend need matplotlib: pip install 'cell2sen[plot]'") from error
        from cell2sen.pl.embeddings import embedding

        with self.lock:
            points = self.cells.points(basis)
            obs = self.shown.obs[[colour]].copy() if source != "gene" and colour in self.shown.obs else None
        if source == "gene" and colour is not None:
            obs = pd.DataFrame({colour: self.cells.gene(colour)}, index=self.shown.obs_names)
        from anndata import AnnData

        drawn = AnnData(obs=obs if obs is not None else pd.DataFrame(index=self.shown.obs_names))
        drawn.obsm["X_map"] = points
        figure = Figure(figsize=(7, 5), layout="constrained")
        embedding(drawn, colour if obs is not None else None, basis="X_map", ax=figure.subplots(), show=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=200)
        return buffer.getvalue()

    def _stat(self) -> Sequence[int]:
        if self.source is None:
            return ()
        found = locate(self.source).file.stat()
        return found.st_size, found.st_mtime_ns
