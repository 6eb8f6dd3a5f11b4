"""Neighbours, UMAP and Leiden of embeddings by scanpy, whose results do not depend on the order of the cells."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.sentences.threads import kept_torch_threads

if TYPE_CHECKING:
    from anndata import AnnData

#: Cells with genes that a graph needs.
MIN_CELLS = 3

#: Most cells whose neighbours are computed from all distances: 30,000 vectors of 128 take 6 s on two cores, and time
#: grows with the square. scanpy approximates from 8,192 cells on, with results that depend on the order of the cells.
MAX_EXACT = 100_000


@dataclass(frozen=True, kw_only=True)
class GraphSettings:
    """Settings of the graph, the map and the clusters."""

    n_neighbors: int = 15
    resolution: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise a ValueError for settings without a meaning."""
        if self.n_neighbors < 2:
            raise ValueError(f"n_neighbors must be at least 2, found {self.n_neighbors}")
        if not self.resolution > 0:
            raise ValueError(f"resolution must be above 0, found {self.resolution}")


@dataclass(frozen=True, kw_only=True, eq=False)
class CellGraph:
    """Neighbours, map and clusters of cells, under scanpy's keys."""

    obsp: dict[str, sp.csr_matrix]
    """``distances`` and ``connectivities``, float32 (n, n); rows without entries for cells without a vector."""

    umap: NDArray[np.float32]
    """float32 (n, 2); NaN for cells without a vector."""

    leiden: pd.Categorical
    """Clusters, named ``"0"``, ``"1"``, … from the largest on; missing for cells without a vector."""

    uns: dict[str, dict[str, Any]]
    """Settings of scanpy: ``neighbors``, ``umap``, ``leiden``."""


def order_of_cells(vectors: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.int64]:
    """Rows of the cells that have a vector, by their names, then by their vectors, int64 (m,).

    Random numbers are drawn in this order, so that results do not depend on that of the file.
    """
    rows = np.flatnonzero(~np.isnan(vectors).any(axis=1))
    chosen = np.array([names[row] for row in rows.tolist()], dtype=str)
    return np.asarray(rows[np.lexsort((vectors[rows, -1], vectors[rows, 0], chosen))], dtype=np.int64)


def graph_of(vectors: NDArray[np.float32], names: Sequence[str], use_rep: str, settings: GraphSettings) -> CellGraph:
    """Neighbours, UMAP and Leiden of embeddings.

    Parameters
    ----------
    vectors
        float32 (n, hidden), NaN for cells without genes.
    names
        Names of the cells.
    use_rep
        Key of the vectors in obsm, for scanpy's record of the settings.

    Raises
    ------
    ValueError
        Fewer than three cells with a vector.
    ImportError
        scanpy or igraph is not installed.
    """
    require_scanpy()
    import scanpy
    from anndata import AnnData

    order = order_of_cells(vectors, names)
    if len(order) < MIN_CELLS:
        raise ValueError(f"a graph of neighbours needs at least {MIN_CELLS} cells with genes, found {len(order)}")
    cells = AnnData(obs=pd.DataFrame(index=[str(number) for number in range(len(order))]))
    cells.obsm[use_rep] = vectors[order]
    n_neighbors = min(settings.n_neighbors, len(order) - 1)
    with kept_torch_threads(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of umap on the number of threads, of small graphs
        find_neighbours(cells, use_rep, n_neighbors, settings.seed)
        scanpy.tl.umap(cells, random_state=settings.seed, init_pos="spectral" if len(order) > 50 else "random")
        scanpy.tl.leiden(
            cells,
            resolution=settings.resolution,
            flavor="igraph",
            n_iterations=2,
            directed=False,
            random_state=settings.seed,
        )
    n = len(vectors)
    umap = np.full((n, 2), np.nan, dtype=np.float32)
    umap[order] = cells.obsm["X_umap"]
    clusters = np.full(n, None, dtype=object)
    clusters[order] = cells.obs["leiden"].astype(str).to_numpy()
    found = list(cells.obs["leiden"].cat.categories.astype(str))
    return CellGraph(
        obsp={key: _spread(cells.obsp[key], order, n) for key in ("distances", "connectivities")},
        umap=umap,
        leiden=pd.Categorical(clusters, categories=found),
        uns={key: dict(cells.uns[key]) for key in ("neighbors", "umap", "leiden")},
    )


def find_neighbours(cells: AnnData, use_rep: str, n_neighbors: int, seed: int) -> None:
    """Neighbours by scanpy, under its default keys: exact up to ``MAX_EXACT`` cells, approximate beyond.

    Parameters
    ----------
    cells
        Cells with vectors in ``obsm[use_rep]``, without missing values.
    n_neighbors
        Neighbours of a cell, itself included.
    """
    import scanpy

    exact = cells.n_obs <= MAX_EXACT
    scanpy.pp.neighbors(
        cells,
        n_neighbors=n_neighbors,
        use_rep=use_rep,
        random_state=seed,
        transformer="sklearn" if exact else "pynndescent",
    )


def _spread(matrix: sp.csr_matrix, order: NDArray[np.int64], n: int) -> sp.csr_matrix:
    """Matrix of all `n` cells from that of the cells in `order`."""
    entries = sp.coo_matrix(matrix)
    whole = sp.csr_matrix((entries.data, (order[entries.row], order[entries.col])), shape=(n, n))
    whole.sort_indices()
    return whole


def require_scanpy() -> None:
    """Raise an ImportError with a hint unless scanpy, umap and igraph are installed."""
    try:
        import igraph  # noqa: F401
        import scanpy  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "neighbours, UMAP and clusters need scanpy and igraph: pip install 'cell2sen[integrate]'"
        ) from error
