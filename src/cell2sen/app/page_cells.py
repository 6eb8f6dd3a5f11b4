"""Cells of a page: maps, values to colour by, and the genes of sentences that differ from the rest of the file."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.expression import Expression
from cell2sen.sentences.ranking import Recipe
from cell2sen.sentences.sentences import Sentences
from cell2sen.sentences.writing import from_expression

if TYPE_CHECKING:
    from anndata import AnnData

#: Genes of a sentence that count for differences.
N_GENES = 100


class PageCells:
    """The cells of one object. Sentences and columns of genes are made once, when they are first needed.

    Parameters
    ----------
    adata
        Cells; not changed.
    **options
        Which values are read, as for :meth:`cell2sen.data.expression.Expression.open`.
    """

    def __init__(self, adata: AnnData, **options: Any) -> None:
        self.adata = adata
        self.expression = Expression.open(adata, **options)
        self._lock = threading.RLock()

    @property
    def sentences(self) -> Sentences:
        """The first :data:`N_GENES` genes of each cell."""
        return self._written[0]

    @property
    def _written(self) -> tuple[Sentences, NDArray[np.integer[Any]], NDArray[np.int64]]:
        with self._lock:
            return self._written_once

    @cached_property
    def _written_once(self) -> tuple[Sentences, NDArray[np.integer[Any]], NDArray[np.int64]]:
        """The sentences, the genes of all of them as numbers, and where each sentence begins."""
        sentences = from_expression(self.expression, Recipe(max_genes=N_GENES))
        return sentences, sentences.genes.flatten().to_numpy(), np.append(0, np.cumsum(sentences.n_genes))

    @property
    def columns(self) -> sp.csc_matrix:
        """Expression by gene, ln(1 + CP10k), float32 CSC (n, symbols)."""
        with self._lock:
            return self._columns_once

    @cached_property
    def _columns_once(self) -> sp.csc_matrix:
        return self.expression.ln_cp10k().tocsc()

    def maps(self) -> list[str]:
        """Keys of ``obsm`` that are maps, those for people (UMAP, t-SNE) first.

        Arrays with two or three dimensions, and principal components; embeddings with more are none. If there are no
        such, all arrays with two or more dimensions.
        """
        sizes = {
            key: value.shape[1]
            for key, value in self.adata.obsm.items()
            if isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] > 1
        }
        keys = [key for key, size in sizes.items() if size <= 3 or "pca" in key.lower()] or list(sizes)
        return sorted(keys, key=lambda key: not any(name in key.lower() for name in ("umap", "tsne", "spatial")))

    def points(self, key: str) -> NDArray[np.float32]:
        """Coordinates of a map, float32 (n, 2).

        Raises
        ------
        KeyError
            No such map; lists those there are.
        """
        if key not in self.maps():
            raise KeyError(f"there is no map {key!r} in obsm; available: {self.maps()}")
        return np.asarray(self.adata.obsm[key], dtype=np.float32)[:, :2]

    def column(self, name: str) -> tuple[NDArray[Any], list[str] | None]:
        """Column of obs: float32 values, or int32 codes (-1: missing) with the names of the codes.

        Raises
        ------
        KeyError
            No such column; lists those there are.
        """
        if name not in self.adata.obs:
            raise KeyError(f"there is no column {name!r} in obs; available: {list(self.adata.obs.columns)}")
        values = self.adata.obs[name]
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            return values.to_numpy(dtype=np.float32, na_value=np.nan), None
        codes, names = pd.factorize(
            values.astype(object).where(values.notna() & (values.astype(str) != "")), sort=False
        )
        order = np.argsort(np.asarray(names, dtype=str), kind="stable")
        place = np.append(np.argsort(order), -1)
        return place[codes].astype(np.int32), [str(names[code]) for code in order]

    def gene(self, symbol: str) -> NDArray[np.float32]:
        """Expression of a gene, ln(1 + CP10k), float32 (n,).

        Raises
        ------
        KeyError
            No such gene.
        """
        if symbol not in self._place_of:
            raise KeyError(f"there is no gene {symbol!r} in the file")
        return np.asarray(self.columns[:, [self._place_of[symbol]]].toarray()[:, 0], dtype=np.float32)

    @cached_property
    def _place_of(self) -> dict[str, int]:
        return {symbol: place for place, symbol in enumerate(self.expression.symbols)}

    def means(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Mean expression of some cells, ln(1 + CP10k), float64 (symbols,)."""
        weights = np.bincount(rows, minlength=len(self.expression)) / max(1, len(rows))
        return np.asarray(self.columns.T @ weights, dtype=np.float64)

    def genes_of(self, row: int) -> list[str]:
        """Genes of a cell's sentence."""
        sentences, genes, bounds = self._written
        symbols = sentences.symbols
        return [symbols[gene] for gene in genes[bounds[row] : bounds[row + 1]]]

    def shares(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Share of these cells that have each gene among their first :data:`N_GENES`, float64 (symbols,)."""
        return self.shares_and_places(rows)[0]

    def shares_and_places(self, rows: NDArray[np.integer[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The shares, and the mean place of each gene in the sentences of these cells, from 1; float64 (symbols,).

        A gene that is not among the first :data:`N_GENES` of a cell has the place behind the last.
        """
        counts, places = self._sums(rows)
        n = max(1, len(rows))
        return counts / n, (places + (len(rows) - counts) * (N_GENES + 1)) / n

    def _sums(self, rows: NDArray[np.integer[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of each gene, the number of these cells that have it, and the sum of its places in them."""
        sentences, genes, bounds = self._written
        lengths = np.diff(bounds)[rows]
        place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        found = genes[np.repeat(bounds[rows], lengths) + place]
        n_symbols = len(sentences.vocabulary)
        counts = np.bincount(found, minlength=n_symbols).astype(np.float64)
        return counts, np.bincount(found, weights=place + 1.0, minlength=n_symbols).astype(np.float64)

    def difference(
        self, rows: NDArray[np.integer[Any]], others: NDArray[np.integer[Any]] | None = None
    ) -> pd.DataFrame:
        """Genes by the share of these cells that have them, minus the share of others; ``None``: of all other cells.

        Returns
        -------
        ``share``, ``rest`` and ``difference`` by gene symbol, the largest difference first; ties in alphabetical order.

        Raises
        ------
        ValueError
            No cells.
        """
        rows = np.unique(rows)
        if not len(rows):
            raise ValueError("no cells are selected")
        others = np.setdiff1d(np.arange(len(self.sentences)), rows) if others is None else np.unique(others)
        table = pd.DataFrame({"share": self.shares(rows), "rest": self.shares(others)}, index=self.sentences.symbols)
        table["difference"] = table["share"] - table["rest"]
        return table.sort_index().sort_values("difference", ascending=False, kind="stable")
