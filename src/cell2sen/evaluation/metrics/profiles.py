"""Metrics of mean expression: overlap of top genes, order of genes, correlation."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cell2sen.evaluation.metrics import Faster, metric

#: Pairs of genes compared at a time.
_PAIRS = 64

#: Why a correlation is not defined.
CONSTANT = "truth or answer has the same value in all genes, so there is nothing to correlate"


@metric(level="profile", perfect=1.0, range=(0.0, 1.0), name="gene_overlap_100", shown="groups")
def gene_overlap(truth: Any, answer: Any, k: int = 100, denominator: Literal["k", "union"] = "k") -> Any:
    """Number of genes among the k highest of both, divided by k; k is 100 in tables and reports.

    |A ∩ B| / k, or |A ∩ B| / |A ∪ B| (Jaccard) with ``denominator="union"``; A and B are the first k genes. Published
    gene overlaps (Rizvi et al. 2025) do not name their denominator, so both are reported. Over k, a sentence shorter
    than k cannot reach 1.

    Parameters
    ----------
    truth, answer
        Two sentences (lists of symbols in descending expression), or two expression vectors (…, genes), whose k highest
        positive values count (ties in the order of genes).
    """
    if isinstance(truth, np.ndarray):
        a, b = top(truth, k), top(answer, k)
        common = (a & b).sum(axis=-1)
        whole: Any = k if denominator == "k" else np.maximum((a | b).sum(axis=-1), 1)
        return common / whole
    first, second = set(list(truth)[:k]), set(list(answer)[:k])
    return len(first & second) / (k if denominator == "k" else max(1, len(first | second)))


@metric(level="profile", perfect=1.0, range=(0.0, 1.0))
def gene_overlap_100_jaccard(truth: Any, answer: Any) -> Any:
    """Number of genes among the 100 highest of both, divided by the number among the 100 highest of either.

    |A ∩ B| / |A ∪ B| (Jaccard 1901); see :func:`gene_overlap`.
    """
    return gene_overlap(truth, answer, denominator="union")


def tau_of_some_pairs(truth: NDArray[Any], answer: NDArray[Any], pairs: int = 20_000) -> NDArray[np.float64]:
    """Kendall's tau-b over a fixed random sample of gene pairs, float64 (resamples,)."""
    n = truth.shape[-1]
    first, second = np.random.default_rng(0).integers(0, n, size=(2, pairs))
    columns = [np.ascontiguousarray(values.T) for values in (truth, answer)]  # a gene's values lie together
    agreement, n_truth, n_answer = np.zeros((3, len(truth)))
    for start in range(0, pairs, _PAIRS):  # sums of so few signs fit into 8 bits
        one, other = first[start : start + _PAIRS], second[start : start + _PAIRS]
        x, y = (_signs(values[one], values[other]) for values in columns)
        for total, signs in ((agreement, x * y), (n_truth, x * x), (n_answer, y * y)):
            total += signs.sum(axis=0, dtype=np.int8)
    norm = np.sqrt(n_truth * n_answer)
    value: NDArray[np.float64] = np.divide(agreement, norm, out=np.full(norm.shape, np.nan), where=norm > 0)
    return value


def _signs(values: NDArray[Any], others: NDArray[Any]) -> NDArray[np.int8]:
    """Sign of values − others."""
    return (values > others).view(np.int8) - (values < others).view(np.int8)


def spearman_of_some_genes(truth: NDArray[Any], answer: NDArray[Any], genes: int = 1_000) -> Any:
    """Spearman's correlation over a fixed random sample of genes, as ranking all genes would take most of the time."""
    n = truth.shape[-1]
    chosen = np.random.default_rng(0).choice(n, size=min(n, genes), replace=False)
    return spearman(truth[..., chosen], answer[..., chosen])


@metric(level="profile", perfect=1.0, range=(-1.0, 1.0), undefined=CONSTANT, resampling=Faster(tau_of_some_pairs))
def kendall_tau(truth: ArrayLike, answer: ArrayLike) -> float:
    """Kendall's tau-b between the orders of genes; genes that are not expressed share the last rank.

    (C − D) / √((P − T)(P − U)): concordant and discordant pairs of P = n(n−1)/2, corrected for ties T and U (Kendall,
    Biometrika 1945). Computed by SciPy. NaN where one side is constant.
    """
    from scipy.stats import kendalltau

    first, second = np.asarray(truth, float), np.asarray(answer, float)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(kendalltau(first, second, variant="b").statistic)


@metric(level="profile", perfect=1.0, range=(-1.0, 1.0), undefined=CONSTANT, shown="groups")
def pearson(truth: ArrayLike, answer: ArrayLike) -> Any:
    """Pearson's correlation of mean expression over genes.

    cov(x, y) / (σₓ σᵧ) (Pearson 1895). High for any prediction with the right abundant genes: see the change from
    control.

    Parameters
    ----------
    truth, answer
        (…, genes); one value per leading index. NaN where one side is constant.
    """
    x, y = np.asarray(truth, float), np.asarray(answer, float)
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    norm = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    flat = _flat(truth, x) | _flat(answer, y)
    value = np.where(flat, np.nan, (x * y).sum(axis=-1) / np.where(flat, 1.0, norm))
    return as_scalar(np.clip(value, -1.0, 1.0))


@metric(level="profile", perfect=1.0, range=(-1.0, 1.0), undefined=CONSTANT, resampling=Faster(spearman_of_some_genes))
def spearman(truth: ArrayLike, answer: ArrayLike) -> Any:
    """Spearman's rank correlation of mean expression over genes.

    Pearson's correlation of the ranks, ties at their mean rank (Spearman 1904). (…, genes), as :func:`pearson`.
    """
    from scipy.stats import rankdata

    return pearson(rankdata(np.asarray(truth, float), axis=-1), rankdata(np.asarray(answer, float), axis=-1))


def top(values: NDArray[Any], k: int) -> NDArray[np.bool_]:
    """Mask of the k highest positive values of each row, bool (…, genes); ties in the order of genes."""
    values = np.asarray(values)
    k = min(k, values.shape[-1])
    smallest = np.partition(values, values.shape[-1] - k, axis=-1)[..., [-k]]
    mask: NDArray[np.bool_] = (values >= smallest) & (values > 0)
    crowded = mask.sum(axis=-1) > k  # ties at the last place
    if crowded.any():
        some, last = values[crowded], smallest[crowded]
        above, tied = some > last, some == last
        mask[crowded] = above | (tied & (np.cumsum(tied, axis=-1) <= k - above.sum(axis=-1, keepdims=True)))
    return mask


def as_scalar(value: Any) -> Any:
    """A float for a single value, the array otherwise."""
    return value if np.ndim(value) else float(value)


def _flat(values: ArrayLike, centred: NDArray[np.float64]) -> Any:
    """Mask of constant rows: after centring only rounding error is left, whose correlation would be noise."""
    return np.abs(centred).max(axis=-1) <= 1e-12 * np.abs(np.asarray(values, float)).max(axis=-1)
