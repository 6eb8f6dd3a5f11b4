"""Composition of bulk samples: nearest mixtures of cells in the embedding, and non-negative least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.expression import Expression

#: Genes of each population that the deconvolution uses.
MARKERS = 50

#: Concentration of the Dirichlet distribution of mixtures with few main populations.
SPARSE = 0.3

#: Added to CP10k before ratios of populations are taken.
OFFSET = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixtures:
    """Which cells are in each simulated mixture of populations."""

    weights: sp.csr_matrix
    """Number of times that each cell is in each mixture, CSR (mixtures, cells)."""

    shares: NDArray[np.float64]
    """Share of each population among the cells of a mixture, float64 (mixtures, populations)."""


def draw_mixtures(
    rows: Sequence[NDArray[np.int64]], n_cells_in_data: int, *, n: int, n_cells: int = 300, seed: int = 0
) -> Mixtures:
    """Pure samples of each population, and `n` random mixtures of cells.

    Half of the mixtures have shares from a flat Dirichlet distribution over all populations, the others from one of
    concentration 0.3 over some of them, so that most have one or two main populations.

    Parameters
    ----------
    rows
        Cells of each population.
    n_cells_in_data
        Number of all cells.
    n_cells
        Cells of a mixture, drawn with replacement within a population.
    """
    generator = np.random.default_rng(seed)
    n_populations = len(rows)
    mixtures, cells, times = [], [], []
    shares = [np.eye(n_populations)[population] for population in range(n_populations)]
    for population, members in enumerate(rows):
        mixtures.append(np.full(len(members), population))
        cells.append(members)
        times.append(np.ones(len(members)))
    for number in range(n):
        sparse = number % 2 == 1
        size = int(generator.integers(2, n_populations + 1)) if sparse else n_populations
        present = generator.choice(n_populations, size=size, replace=False)
        drawn = generator.multinomial(n_cells, generator.dirichlet(np.full(size, SPARSE if sparse else 1.0)))
        share = np.zeros(n_populations)
        share[present] = drawn / n_cells
        shares.append(share)
        for population, count in zip(present, drawn, strict=True):
            chosen, repeats = np.unique(generator.choice(rows[population], size=count), return_counts=True)
            mixtures.append(np.full(len(chosen), n_populations + number))
            cells.append(chosen)
            times.append(repeats.astype(np.float64))
    weights = sp.csr_matrix(
        (np.concatenate(times), (np.concatenate(mixtures), np.concatenate(cells))),
        shape=(n_populations + n, n_cells_in_data),
    )
    return Mixtures(weights=weights, shares=np.array(shares))


def cosine(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Cosine similarity of all rows of two arrays, float64 (first, second); NaN for rows with NaN."""
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(float).tiny)
    y = y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), np.finfo(float).tiny)
    return np.asarray(x @ y.T)


def nearest_shares(similarity: NDArray[np.float64], shares: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Mean shares of the `k` most similar mixtures of each sample, float64 (samples, populations).

    Parameters
    ----------
    similarity
        (samples, mixtures).
    shares
        (mixtures, populations).
    """
    k = min(k, similarity.shape[1])
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    mean = shares[order].mean(axis=1)
    mean[np.isnan(similarity).any(axis=1)] = np.nan
    return np.asarray(mean)


def common_profiles(
    samples: Expression, sums: sp.csr_matrix, cells: Expression
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Linear expression of samples (CP10k), and summed profiles of populations, over their common genes.

    Parameters
    ----------
    sums
        Sums of populations over all columns of `cells`, (populations, columns).

    Returns
    -------
    float64 (samples, genes) and float64 (populations, genes), the genes in the order of their names.

    Raises
    ------
    ValueError
        No common gene.
    """
    place = {symbol: number for number, symbol in enumerate(samples.symbols)}
    common = sorted(symbol for symbol in cells.symbols if symbol in place)
    if not common:
        raise ValueError(
            f"samples and cells have no gene in common (such as {samples.symbols[:3]} and {cells.symbols[:3]})"
        )
    of_cells = {symbol: number for number, symbol in enumerate(cells.symbols)}
    linear = np.expm1(samples.ln_cp10k()[:, [place[symbol] for symbol in common]].toarray().astype(np.float64))
    profiles = cells.over_symbols(sums)[:, [of_cells[symbol] for symbol in common]].toarray()
    return linear, np.asarray(profiles, dtype=np.float64)


def correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's correlation of ln(1 + CP10k) over genes between all rows, float64 (first, second).

    Parameters
    ----------
    first, second
        Linear expression on any scale, (n, genes).
    """
    logs = [np.log1p(_cp10k(values)) for values in (first, second)]
    x, y = (values - values.mean(axis=1, keepdims=True) for values in logs)
    return cosine(x, y)


def deconvolve(
    samples: NDArray[np.float64], profiles: NDArray[np.float64], n_cells: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Share of each population in each sample by non-negative least squares, float64 (samples, populations).

    min ‖S f − x‖², f ≥ 0, over marker genes, each divided by its mean over the populations, then f / Σ f (Lawson and
    Hanson 1974, by SciPy). S has the mean counts of a cell of each population, so that shares are of cells. Markers are
    the genes with the largest ratio of a population's CP10k to the next highest population's, 50 for each.

    Parameters
    ----------
    samples
        Linear expression, (samples, genes).
    profiles
        Summed counts of the cells of each population, (populations, genes).
    n_cells
        Cells of each population.
    """
    from scipy.optimize import nnls

    markers = marker_genes(profiles)
    signature = (profiles / np.asarray(n_cells, dtype=np.float64)[:, None])[:, markers]
    weight = 1 / np.maximum(signature.mean(axis=0), np.finfo(float).tiny)
    shares = []
    for sample in samples[:, markers]:
        scale = signature.sum() / max(sample.sum() * len(signature), np.finfo(float).tiny)
        solution, _ = nnls((signature * weight).T, sample * scale * weight)
        shares.append(solution / solution.sum() if solution.sum() else np.full(len(signature), np.nan))
    return np.array(shares)


def marker_genes(profiles: NDArray[np.float64], n: int = MARKERS) -> NDArray[np.int64]:
    """Genes with the largest ratio of a population to the next highest one, `n` for each, int64 (markers,), sorted."""
    logs = np.log(_cp10k(profiles) + OFFSET)
    if len(logs) == 1:
        return np.arange(logs.shape[1])
    ordered = np.sort(logs, axis=0)
    highest, lead = logs.argmax(axis=0), ordered[-1] - ordered[-2]
    chosen = []
    for population in range(len(logs)):
        genes = np.flatnonzero((highest == population) & (lead > 0))
        chosen.append(genes[np.argsort(-lead[genes], kind="stable")[:n]])
    return np.sort(np.concatenate(chosen))


def _cp10k(values: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = values.sum(axis=1, keepdims=True)
    return np.asarray(values * (1e4 / np.where(sums > 0, sums, 1.0)))
