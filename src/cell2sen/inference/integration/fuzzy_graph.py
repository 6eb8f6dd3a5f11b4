"""Fuzzy graph of nearest neighbours, as UMAP weights it, without the compilation of UMAP's own (numba)."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

#: Steps of the search for a cell's width, difference of a sum of weights from its target that ends it, and the
#: smallest width in mean distances to neighbours: values of umap-learn.
N_STEPS, TOLERANCE, MIN_WIDTH = 64, 1e-5, 1e-3


def fuzzy_graph(vectors: NDArray[np.float32], n_neighbors: int) -> sp.csr_matrix:
    """Weights between neighbours, float32 (n, n), symmetric: ``connectivities`` of ``scanpy.pp.neighbors``.

    A cell's neighbours weigh exp(−(distance − distance to the nearest) / width), with the width at which the weights
    add up to log2(`n_neighbors`); two cells weigh a + b − a·b together (McInnes et al. 2018). Neighbours are exact:
    time grows with the square of the cells.

    Parameters
    ----------
    vectors
        float32 (n, hidden), without missing values.
    n_neighbors
        Neighbours of a cell, itself included; at most n.
    """
    from sklearn.neighbors import NearestNeighbors

    n = len(vectors)
    search = NearestNeighbors(n_neighbors=n_neighbors - 1, algorithm="brute").fit(vectors)
    distances, neighbours = search.kneighbors()  # of each cell without itself
    weights = membership(distances.astype(np.float32), n_neighbors)
    shape, rows = (n, n), np.repeat(np.arange(n), n_neighbors - 1)
    one_way = sp.csr_matrix((weights.ravel(), (rows, neighbours.ravel())), shape=shape)
    one_way.eliminate_zeros()
    both_ways = one_way.multiply(one_way.T)
    graph = sp.csr_matrix(one_way + one_way.T - both_ways)
    graph.eliminate_zeros()
    graph.sort_indices()
    return graph


def membership(distances: NDArray[np.float32], n_neighbors: int) -> NDArray[np.float32]:
    """Weight of each neighbour of each cell, float32 (n, k), before the two directions are joined.

    Parameters
    ----------
    distances
        To the neighbours of each cell without itself, ascending, float32 (n, k).
    """
    target = np.log2(n_neighbors)
    positive = distances > 0
    first = positive.argmax(axis=1)
    nearest = np.where(positive.any(axis=1), distances[np.arange(len(distances)), first], 0).astype(np.float32)
    beyond = np.maximum(distances.astype(np.float64) - nearest[:, None], 0)
    low, high, width = np.zeros(len(distances)), np.full(len(distances), np.inf), np.ones(len(distances))
    going = np.arange(len(distances))
    for _ in range(N_STEPS):
        sums = np.exp(-beyond[going] / width[going, None]).sum(axis=1)
        unmet = np.abs(sums - target) >= TOLERANCE
        going, sums = going[unmet], sums[unmet]
        if not len(going):
            break
        too_wide = sums > target
        high[going[too_wide]] = width[going[too_wide]]
        low[going[~too_wide]] = width[going[~too_wide]]
        bounded = np.isfinite(high[going])
        width[going] = np.where(bounded, (low[going] + np.where(bounded, high[going], 0)) / 2, 2 * width[going])
    n_all = distances.shape[1] + 1  # the means count a cell's distance to itself
    own_mean = distances.sum(axis=1, dtype=np.float64) / n_all
    floor = MIN_WIDTH * np.where(nearest > 0, own_mean, own_mean.mean())
    width = np.maximum(width, floor)[:, None]
    scaled = np.divide(beyond, width, out=np.zeros_like(beyond), where=width > 0)
    return np.asarray(np.exp(-scaled), dtype=np.float32)
