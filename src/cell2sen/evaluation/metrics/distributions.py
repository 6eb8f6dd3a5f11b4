"""Metrics between sets of cells: energy distance, MMD, Wasserstein, scFID, k-NN, FOSCTTM."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cell2sen.evaluation.metrics import MeanOver, Missing, OfSamples, Sample, metric

Weights = tuple[NDArray[np.float64], NDArray[np.float64]]
"""How often each cell of truth (resamples, n) and answer (resamples, m) is drawn in each bootstrap sample."""

#: Weight of the mean variance in the covariances of :func:`scfid`.
SHRINKAGE = 0.1
#: Directions of :func:`wasserstein`.
PROJECTIONS = 50
#: Numbers of neighbours of the k-NN accuracies.
NEIGHBOURS = (3, 5, 10, 25)
#: Cells, and distances, in memory at once.
_CHUNK, _MAX_DISTANCES = 2048, 2**23
#: Elements of the covariances of all bootstrap samples in memory at once.
_MAX_ELEMENTS = 2**24
FEW_CELLS, FEW_NEIGHBOURS = "fewer than two cells", "fewer reference cells than k"


def _energy(truth: Sample, answer: Sample) -> NDArray[np.float64]:
    cross, within_truth, within_answer = _mean_pairs(truth, answer, "euclidean", _euclidean)
    return 2.0 * cross - within_truth - within_answer


@metric(
    level="cells",
    perfect=0.0,
    range=(0.0, math.inf),
    undefined=FEW_CELLS,
    shown="groups",
    resampling=OfSamples(_energy),
)
def e_distance(truth: ArrayLike, answer: ArrayLike, weights: Weights | None = None) -> Any:
    """Energy distance between two sets of cells.

    2·E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖ with Euclidean distances; the means over pairs x ≠ x' (U-statistics), so that the
    expected value of two samples of one distribution is 0 at any number of cells (Székely & Rizzo 2013; E-distance of
    Peidli et al., Nature Methods 2024, whose code squares the distances). Small negative values occur by chance.

    Parameters
    ----------
    truth, answer
        (n, dimensions) and (m, dimensions).
    weights
        Bootstrap samples to compute it for. Pairs of two copies of one cell are left out.

    Returns
    -------
    float, or float64 (resamples,) with `weights`.
    """
    return _scalar_or_samples(_energy(*_samples(truth, answer, weights)), weights)


def _mmd(truth: Sample, answer: Sample, bandwidth: float | None = None) -> NDArray[np.float64]:
    sigma = bandwidth or truth.once("median distance", lambda: median_distance(truth.cells))

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        values = _euclidean(a, b, "sqeuclidean")
        values *= -1 / (2 * sigma**2)
        return np.exp(values, out=values)

    cross, within_truth, within_answer = _mean_pairs(truth, answer, f"gaussian {sigma}", kernel)
    return within_truth + within_answer - 2.0 * cross


@metric(level="cells", perfect=0.0, range=(0.0, 2.0), undefined=FEW_CELLS, resampling=OfSamples(_mmd))
def mmd(truth: ArrayLike, answer: ArrayLike, weights: Weights | None = None, bandwidth: float | None = None) -> Any:
    """Squared maximum mean discrepancy with a Gaussian kernel.

    E k(x, x') + E k(y, y') − 2·E k(x, y), unbiased (Gretton et al., JMLR 2012, eq. 3); k(a, b) = exp(−‖a − b‖² /
    (2σ²)), σ the median distance between cells of the truth, or `bandwidth`. Small negative values occur by chance.
    """
    return _scalar_or_samples(_mmd(*_samples(truth, answer, weights), bandwidth), weights)


def median_distance(cells: ArrayLike, max_cells: int = 1000) -> float:
    """Median Euclidean distance between the first `max_cells` cells; 1 if it is 0."""
    x = np.asarray(cells, float)[:max_cells]
    return float(np.median(_euclidean(x, x)[np.triu_indices(len(x), 1)])) or 1.0


def _wasserstein(truth: Sample, answer: Sample, seed: int = 0) -> NDArray[np.float64]:
    x, y, w, v = truth.cells, answer.cells, truth.counts, answer.counts
    directions = np.random.default_rng(seed).normal(size=(x.shape[1], PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    first, second = x @ directions, y @ directions
    w, v = w / w.sum(axis=1, keepdims=True), v / v.sum(axis=1, keepdims=True)
    shares = np.ascontiguousarray(np.concatenate([w, -v], axis=1).T)  # a cell's weights lie together
    total = np.zeros(len(w))
    for projected_x, projected_y in zip(first.T, second.T, strict=True):
        both = np.concatenate([projected_x, projected_y])
        order = np.argsort(both, kind="stable")
        steps = shares[order]
        np.abs(np.cumsum(steps, axis=0, out=steps), out=steps)
        total += np.diff(both[order]) @ steps[:-1]
    return total / PROJECTIONS


@metric(level="cells", perfect=0.0, range=(0.0, math.inf), undefined=FEW_CELLS, resampling=OfSamples(_wasserstein))
def wasserstein(truth: ArrayLike, answer: ArrayLike, weights: Weights | None = None, seed: int = 0) -> Any:
    """Sliced Wasserstein-1 distance: that of the cells projected on random directions, averaged over directions.

    mean_θ ∫ |F_θ(z) − G_θ(z)| dz over 50 directions, uniform on the sphere, fixed by `seed` (Rabin et al. 2011;
    Bonneel et al. 2015). Each direction equals ``scipy.stats.wasserstein_distance``.
    """
    return _scalar_or_samples(_wasserstein(*_samples(truth, answer, weights), seed), weights)


def _scfid(truth: Sample, answer: Sample, shrinkage: float = SHRINKAGE) -> NDArray[np.float64]:
    step = max(1, _MAX_ELEMENTS // truth.cells.shape[1] ** 2)
    if len(truth.counts) > step:
        spans = [slice(start, start + step) for start in range(0, len(truth.counts), step)]
        return np.concatenate([_scfid(truth.part(span), answer.part(span), shrinkage) for span in spans])
    of_truth = truth.once(f"normal distributions {shrinkage}", lambda: _Normal.of(truth, shrinkage))
    of_answer = _Normal.of(answer, shrinkage)
    inner = of_truth.root @ of_answer.covariance @ of_truth.root
    mixed = np.sqrt(np.maximum(np.linalg.eigvalsh((inner + inner.transpose(0, 2, 1)) / 2), 0)).sum(axis=1)
    traces = np.trace(of_truth.covariance + of_answer.covariance, axis1=1, axis2=2)
    values: NDArray[np.float64] = ((of_truth.mean - of_answer.mean) ** 2).sum(axis=1) + traces - 2 * mixed
    return np.maximum(values, 0.0)


@metric(
    level="cells",
    perfect=0.0,
    range=(0.0, math.inf),
    undefined=FEW_CELLS,
    shown="groups",
    resampling=OfSamples(_scfid),
)
def scfid(truth: ArrayLike, answer: ArrayLike, weights: Weights | None = None, shrinkage: float = SHRINKAGE) -> Any:
    """Fréchet distance between the normal distributions fitted to two sets of cells (single-cell FID).

    |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) (Heusel et al., NeurIPS 2017; for cells Rizvi et al. 2025), in any embedding.
    Covariances of few cells are rank-deficient: Σ ← (1 − s)·Σ + s·tr(Σ)/d·I with ``shrinkage`` s = 0.1. The value
    falls with the number of cells: compare only at equal numbers, as `evaluate` does. Compute it for each combination
    of labels, and average.
    """
    return _scalar_or_samples(_scfid(*_samples(truth, answer, weights), shrinkage), weights)


def knn_accuracy(
    cells: ArrayLike, labels: Sequence[Any], queries: ArrayLike, expected: Sequence[Any], k: int = 5
) -> float:
    """Share of predicted cells that a k-nearest-neighbour classifier of real cells assigns to their own group.

    mean(vote of the k nearest real cells = expectedᵢ), Euclidean (Rizvi et al. 2025; k = 3, 5, 10, 25). Controls are
    among the real cells, under labels of their own, so a copied control is wrong. NaN with fewer than k real cells.

    Parameters
    ----------
    cells, labels
        Real cells (n, dimensions) and the group of each.
    queries, expected
        Predicted cells (m, dimensions) and the group of each.
    """
    try:
        return float(np.mean(Neighbours(cells, labels, queries, k).votes(k) == np.asarray(expected, dtype=object)))
    except Missing:
        return math.nan


class Neighbours:
    """The nearest real cells of each predicted cell, searched once for all k up to `max_k`; exact, Euclidean."""

    def __init__(
        self, cells: ArrayLike, labels: Sequence[Any] | pd.Categorical, queries: ArrayLike, max_k: int = max(NEIGHBOURS)
    ) -> None:
        # Sorting many texts takes as long as finding the cells: the caller may have done it.
        known = labels if isinstance(labels, pd.Categorical) else pd.Categorical(list(map(str, labels)))
        self._names, self._codes = np.asarray(known.categories, dtype=object), known.codes
        self._nearest = neighbours(cells, queries, min(max_k, len(self._codes)))

    def votes(self, k: int) -> NDArray[Any]:
        """Label with most votes of each query's `k` nearest cells, object (queries,); of tied labels the nearest one.

        Raises
        ------
        Missing
            Fewer than k real cells.
        """
        if k > self._nearest.shape[1]:
            raise Missing(FEW_NEIGHBOURS)
        voted = self._codes[self._nearest[:, :k]]
        counts = np.stack([(voted == code).sum(axis=1) for code in range(len(self._names))], axis=1)
        best = counts.max(axis=1, keepdims=True)
        leading = np.take_along_axis(counts == best, voted, axis=1)
        chosen: NDArray[Any] = self._names[voted[np.arange(len(voted)), leading.argmax(axis=1)]]
        return chosen


def _register_knn_accuracy(k: int) -> None:
    def accuracy(cells: ArrayLike, labels: Sequence[Any], queries: ArrayLike, expected: Sequence[Any]) -> float:
        return knn_accuracy(cells, labels, queries, expected, k)

    def hits(nearest: Neighbours, expected: str) -> NDArray[np.float64]:
        return np.asarray(nearest.votes(k) == expected, dtype=np.float64)

    accuracy.__doc__ = f"""Share of predicted cells that the {k} nearest real and control cells vote into their group.

    See :func:`knn_accuracy` (Rizvi et al. 2025).
    """
    metric(
        level="neighbours",
        perfect=1.0,
        range=(0.0, 1.0),
        undefined=FEW_NEIGHBOURS,
        name=f"knn_accuracy_{k}",
        resampling=MeanOver(hits),
        shown="groups" if k == 5 else "table",
    )(accuracy)


for _k in NEIGHBOURS:
    _register_knn_accuracy(_k)


def neighbours(cells: ArrayLike, queries: ArrayLike, k: int) -> NDArray[np.int64]:
    """Rows of the `k` nearest cells of each query, nearest first, int64 (queries, k); ties in the order of rows.

    Exact: candidates are chosen by products, with a margin for their rounding, and ordered by differences.
    """
    x, z = np.asarray(cells, float), np.asarray(queries, float)
    k = min(k, len(x))
    nearest = np.empty((len(z), k), dtype=np.int64)
    squares = np.square(x).sum(axis=1)
    step = max(1, _MAX_DISTANCES // max(1, len(x)))
    for start in range(0, len(z), step):
        block = z[start : start + step]
        near = (-2.0 * block) @ x.T
        near += squares
        margin = 8 * x.shape[1] * np.finfo(float).eps * (squares.max(initial=0.0) + np.square(block).sum(axis=1))
        chosen = near <= np.partition(near, k - 1, axis=1)[:, [k - 1]] + margin[:, None]
        rows, columns = np.nonzero(chosen)
        parts = range(0, len(rows), _CHUNK * 64)
        spans = [(rows[at : at + _CHUNK * 64], columns[at : at + _CHUNK * 64]) for at in parts]
        distance = np.concatenate([np.square(block[query] - x[cell]).sum(axis=1) for query, cell in spans])
        order = np.lexsort((columns, distance, rows))
        first = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))[:-1]])
        nearest[start : start + step] = columns[order][first[:, None] + np.arange(k)]
    return nearest


@metric(level="cells", perfect=0.0, range=(0.0, 1.0), undefined=FEW_CELLS, shown="never")
def foscttm(first: ArrayLike, second: ArrayLike) -> float:
    """Fraction of samples closer than the true match, of two embeddings of the same cells; 0.5 by chance.

    For each cell of one embedding, the share of the other cells of the second that are nearer to it than its own match,
    averaged over cells and over both directions (Liu et al., WABI 2019); Euclidean, a tie counts half.

    Parameters
    ----------
    first, second
        (cells, dimensions); row i of both is the same cell (or a bulk sample and its own pseudobulk).
    """
    x, y = np.asarray(first, float), np.asarray(second, float)
    if x.shape != y.shape:
        raise ValueError(f"FOSCTTM needs the same cells in the same dimensions twice, found {x.shape} and {y.shape}")
    if len(x) < 2:
        return math.nan
    total = 0.0
    for a, b in ((x, y), (y, x)):
        for start in range(0, len(a), _CHUNK):
            distance = _euclidean(a[start : start + _CHUNK], b)
            own = distance[np.arange(len(distance)), np.arange(start, start + len(distance))][:, None]
            total += ((distance < own).sum() + 0.5 * ((distance == own).sum() - len(distance))) / (len(x) - 1)
    return float(total / (2 * len(x)))


def _cells(truth: ArrayLike, answer: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(truth, dtype=np.float64), np.asarray(answer, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"two sets of cells in the same dimensions are needed, found shapes {x.shape} and {y.shape}")
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"at least two cells on each side are needed, found {len(x)} and {len(y)}")
    return x, y


def _euclidean(
    x: NDArray[np.float64], y: NDArray[np.float64], kind: Literal["euclidean", "sqeuclidean"] = "euclidean"
) -> NDArray[np.float64]:
    from scipy.spatial.distance import cdist

    return cdist(x, y, kind)


def _samples(truth: ArrayLike, answer: ArrayLike, weights: Weights | None) -> tuple[Sample, Sample]:
    """Both sides with their bootstrap samples, or each cell once."""
    x, y = _cells(truth, answer)
    w, v = (np.ones((1, len(x))), np.ones((1, len(y)))) if weights is None else weights
    return Sample(x, w), Sample(y, v)


def _scalar_or_samples(values: NDArray[np.float64], weights: Weights | None) -> Any:
    return float(values[0]) if weights is None else values


def _mean_pairs(truth: Sample, answer: Sample, name: str, kernel: Any) -> Iterator[NDArray[np.float64]]:
    """Means of a kernel over pairs (truth, answer), (truth, truth') and (answer, answer'), each (resamples,)."""
    w, v = truth.counts, answer.counts
    yield ((w @ kernel(truth.cells, answer.cells)) * v).sum(axis=1) / (w.sum(axis=1) * v.sum(axis=1))

    def within(side: Sample) -> NDArray[np.float64]:
        values, counts = kernel(side.cells, side.cells), side.counts
        np.fill_diagonal(values, 0.0)
        pairs = counts.sum(axis=1) ** 2 - (counts**2).sum(axis=1)
        mean: NDArray[np.float64] = ((counts @ values) * counts).sum(axis=1) / np.where(pairs > 0, pairs, np.nan)
        return mean

    for side in (truth, answer):
        yield side.once(f"pairs {name}", partial(within, side))


@dataclass(frozen=True, eq=False)
class _Normal:
    """Normal distributions fitted to bootstrap samples of cells."""

    mean: NDArray[np.float64]
    """(resamples, d)."""
    covariance: NDArray[np.float64]
    """Unbiased, shrunken, (resamples, d, d)."""

    @classmethod
    def of(cls, sample: Sample, shrinkage: float) -> _Normal:
        share = sample.counts / sample.counts.sum(axis=1, keepdims=True)
        mean = share @ sample.cells
        n, d = sample.counts.sum(axis=1), sample.cells.shape[1]
        second = np.stack([(sample.cells * weight[:, None]).T @ sample.cells for weight in share])
        covariance = (second - mean[:, :, None] * mean[:, None, :]) * (n / np.maximum(n - 1, 1))[:, None, None]
        scale = np.trace(covariance, axis1=1, axis2=2) / d
        return cls(mean, (1 - shrinkage) * covariance + shrinkage * scale[:, None, None] * np.eye(d))

    @cached_property
    def root(self) -> NDArray[np.float64]:
        """Symmetric square roots of the covariances, (resamples, d, d)."""
        level, axes = np.linalg.eigh(self.covariance)
        root: NDArray[np.float64] = (axes * np.sqrt(np.maximum(level, 0))[:, None, :]) @ axes.transpose(0, 2, 1)
        return root
