"""Cells of a page: maps, values to colour by, and the genes of sentences that differ from the rest of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.data.expression import Expression
from cell2sen.sentences.ranking import Recipe
from cell2sen.sentences.writing import from_expression

if TYPE_CHECKING:
    from anndata import AnnData

#: Genes of a sentence that count for differences.
N_GENES = 100


class PageCells:
    """The cells of one object, each sentence written once.

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
        self.sentences = from_expression(self.expression, Recipe(max_genes=N_GENES))
        self._genes = self.sentences.genes.flatten().to_numpy()
        self._bounds = np.append(0, np.cumsum(self.sentences.n_genes))

    def maps(self) -> list[str]:
        """Keys of ``obsm`` with two or more dimensions, maps for people (UMAP, t-SNE) first."""
        keys = [key for key, value in self.adata.obsm.items() if getattr(value, "ndim", 0) == 2 and value.shape[1] > 1]
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
        if symbol not in self.expression.symbols:
            raise KeyError(f"there is no gene {symbol!r} in the file")
        return np.asarray(self.expression.limited_to([symbol]).ln_cp10k().toarray()[:, 0], dtype=np.float32)

    def shares(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Share of these cells that have each gene among their first :data:`N_GENES`, float64 (symbols,)."""
        genes = [self._genes[self._bounds[row] : self._bounds[row + 1]] for row in rows]
        counts = np.bincount(np.concatenate(genes), minlength=len(self.sentences.vocabulary)) if genes else 0
        return np.asarray(counts / max(1, len(rows)), dtype=np.float64)

    def difference(self, rows: NDArray[np.integer[Any]]) -> pd.DataFrame:
        """Genes by the share of these cells that have them, minus the share of all other cells.

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
        rest = np.setdiff1d(np.arange(len(self.sentences)), rows)
        table = pd.DataFrame({"share": self.shares(rows), "rest": self.shares(rest)}, index=self.sentences.symbols)
        table["difference"] = table["share"] - table["rest"]
        return table.sort_index().sort_values("difference", ascending=False, kind="stable")
