"""Maps of all cells for files without one: UMAP of embeddings, principal components of expression."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, svds

from cell2sen.data.progress import Report

#: Genes of principal components: those that vary most for their mean.
N_GENES = 2000

#: Cells with a vector that UMAP needs; of fewer the principal components are shown.
MIN_CELLS = 20


def map_of(vectors: NDArray[np.float32], report: Report) -> tuple[str, NDArray[np.float32]]:
    """Key in obsm and coordinates, float32 (n, 2), of embeddings; NaN for cells without a vector.

    UMAP (seed 0) where umap-learn is installed, else two principal components.
    """
    rows = np.flatnonzero(~np.isnan(vectors).any(axis=1))
    points = np.full((len(vectors), 2), np.nan, dtype=np.float32)
    if len(rows) >= MIN_CELLS and importlib.util.find_spec("umap") is not None:
        report("UMAP", 0, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of umap: one thread because of the seed
            from umap import UMAP

            points[rows] = UMAP(random_state=0, n_jobs=1).fit_transform(vectors[rows])
        return "X_umap_cell2sen", points
    if len(rows) < 3:
        raise ValueError(f"a map needs at least 3 cells with genes, found {len(rows)}")
    report("principal components", 0, 1)
    points[rows] = components(sp.csr_matrix(vectors[rows]))
    return "X_pca_cell2sen", points


def expression_map(columns: sp.csc_matrix, report: Report) -> NDArray[np.float32]:
    """Two principal components of the expression of the most variable genes, float32 (n, 2).

    Parameters
    ----------
    columns
        ln(1 + CP10k), CSC (n, genes).
    """
    if columns.shape[0] < 3:
        raise ValueError(f"a map needs at least 3 cells, found {columns.shape[0]}")
    report("principal components", 0, 2)
    means = np.asarray(columns.mean(axis=0), dtype=np.float64).ravel()
    squares = np.asarray(columns.multiply(columns).mean(axis=0), dtype=np.float64).ravel()
    dispersion = (squares - means**2) / np.maximum(means, 1e-3)
    chosen = np.sort(np.argsort(-dispersion, kind="stable")[:N_GENES])
    report("principal components", 1, 2)
    return components(sp.csr_matrix(columns[:, chosen]))


def components(matrix: sp.csr_matrix) -> NDArray[np.float32]:
    """The first two principal components, float32 (n, 2); the gene with the largest weight counts as positive."""
    mean = np.asarray(matrix.mean(axis=0), dtype=np.float64).ravel()
    ones = np.ones(matrix.shape[0])
    centred = LinearOperator(
        matrix.shape,
        matvec=lambda x: matrix @ x.ravel() - ones * (mean @ x.ravel()),
        rmatvec=lambda y: matrix.T @ y.ravel() - mean * y.sum(),
        dtype=np.float64,
    )
    left: NDArray[Any]
    values: NDArray[Any]
    right: NDArray[Any]
    if min(matrix.shape) < 4:
        left, values, right = np.linalg.svd(matrix.toarray() - mean, full_matrices=False)
        left, values, right = left[:, :2], values[:2], right[:2]
    else:
        left, values, right = svds(centred, k=2, random_state=0)
        left, values, right = left[:, ::-1], values[::-1], right[::-1]
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    points = np.zeros((matrix.shape[0], 2), dtype=np.float32)
    points[:, : len(values)] = left * values * np.where(signs == 0, 1, signs)
    return points
