"""Profiles: metrics of gene order, mean expression and change from control."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cell2sen.evaluation.metrics.metrics import metric


@metric(perfect=1.0, range=(0.0, 1.0), level="profile", name="gene_overlap_100")
def gene_overlap(truth: Any, answer: Any, k: int = 100, denominator: Literal["k", "union"] = "k") -> Any:
    """Genes that both have among their k highest, divided by k; k is 100 in tables and reports.

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


@metric(perfect=1.0, range=(0.0, 1.0), level="profile", name="gene_overlap_100_jaccard")
def _gene_jaccard(truth: Any, answer: Any) -> Any:
    """Genes that both have among their 100 highest, divided by those that at least one has there (Jaccard)."""
    return gene_overlap(truth, answer, denominator="union")


_CONSTANT = "truth or answer has the same value in all genes, so there is nothing to correlate"


def _some_pairs(truth: NDArray[Any], answer: NDArray[Any], pairs: int = 20_000) -> NDArray[np.float64]:
    """tau-b over a fixed random sample of gene pairs, for many rows at once; float64 (resamples,)."""
    n = truth.shape[-1]
    first, second = np.random.default_rng(0).integers(0, n, size=(2, pairs))
    x, y = np.sign(truth[..., first] - truth[..., second]), np.sign(answer[..., first] - answer[..., second])
    norm = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    value: NDArray[np.float64] = np.divide((x * y).sum(axis=-1), norm, out=np.full(norm.shape, np.nan), where=norm > 0)
    return value


def _some_ranks(truth: NDArray[Any], answer: NDArray[Any], genes: int = 1_000) -> Any:
    """Spearman's correlation over a fixed random sample of genes: ranks of all genes cost most of the time."""
    n = truth.shape[-1]
    chosen = np.random.default_rng(0).choice(n, size=min(n, genes), replace=False)
    return spearman(truth[..., chosen], answer[..., chosen])


@metric(perfect=1.0, range=(-1.0, 1.0), level="profile", undefined=_CONSTANT, resampled=_some_pairs)
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


@metric(perfect=1.0, range=(-1.0, 1.0), level="profile", undefined=_CONSTANT)
def pearson(truth: ArrayLike, answer: ArrayLike) -> Any:
    """Pearson's correlation of mean expression over genes.

    cov(x, y) / (σₓ σᵧ). High for any prediction that knows which genes are abundant: look at the change from control.

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
    return _scalar(np.clip(value, -1.0, 1.0))


@metric(perfect=1.0, range=(-1.0, 1.0), level="profile", undefined=_CONSTANT, resampled=_some_ranks)
def spearman(truth: ArrayLike, answer: ArrayLike) -> Any:
    """Spearman's rank correlation of mean expression over genes.

    Pearson's correlation of the ranks, ties at their mean rank (Spearman 1904). (…, genes), as :func:`pearson`.
    """
    from scipy.stats import rankdata

    return pearson(rankdata(np.asarray(truth, float), axis=-1), rankdata(np.asarray(answer, float), axis=-1))


@metric(perfect=1.0, range=(-1.0, 1.0), level="change", undefined=_CONSTANT)
def pearson_delta(truth: ArrayLike, answer: ArrayLike) -> Any:
    """Pearson's correlation of the change from control over all genes.

    pearson(μ_true − μ_control, μ_predicted − μ_control). As in scGen, GEARS and cell-eval.
    """
    return pearson(truth, answer)


@metric(perfect=1.0, range=(-1.0, 1.0), level="change", undefined=_CONSTANT)
def pearson_delta_disjoint(truth: ArrayLike, answer: ArrayLike) -> Any:
    """Pearson's correlation of the change from control, true and predicted change taken from different control cells.

    pearson(μ_true − μ_control A, μ_predicted − μ_control B), A and B random halves of the controls, and the other way
    round, averaged. Where both changes are taken from the same controls, their noise is in both and correlates; here
    it is not, so even a perfect prediction stays below 1: compare with the ceiling. A large gap to ``pearson_delta``
    is noise of few controls.
    """
    return pearson(truth, answer)


@metric(perfect=1.0, range=(-1.0, 1.0), level="change", undefined=_CONSTANT, resampled=_some_ranks)
def spearman_delta(truth: ArrayLike, answer: ArrayLike) -> Any:
    """Spearman's correlation of the change from control over all genes."""
    return spearman(truth, answer)


def top(values: NDArray[Any], k: int) -> NDArray[np.bool_]:
    """Mask of the k highest positive values of each row, bool (…, genes); ties in the order of genes."""
    values = np.asarray(values)
    k = min(k, values.shape[-1])
    least = np.partition(values, values.shape[-1] - k, axis=-1)[..., [-k]]
    above, tied = values > least, values == least
    room = k - above.sum(axis=-1, keepdims=True)
    mask: NDArray[np.bool_] = (above | (tied & (np.cumsum(tied, axis=-1) <= room))) & (values > 0)
    return mask


def de_genes(
    mean: NDArray[Any], variance: NDArray[Any], n: int, others: tuple[NDArray[Any], NDArray[Any], int]
) -> NDArray[np.int64]:
    """Genes from the most to the least differentially expressed between two groups of cells, int64 (genes,).

    By |t|, t = (μ₁ − μ₂) / √(s₁²/n₁ + s₂²/n₂) (Welch, Biometrika 1947), as in scanpy's
    ``rank_genes_groups(method="t-test")``. A gene that is constant in both groups comes last.
    """
    error = np.sqrt(variance / n + others[1] / others[2])
    t = np.divide(mean - others[0], error, out=np.zeros_like(error), where=error > 0)
    return np.argsort(-np.abs(t), kind="stable")


@metric(perfect=1.0, range=(-1.0, 1.0), level="change", undefined=_CONSTANT)
def pearson_delta_top20(truth: ArrayLike, answer: ArrayLike, genes: Sequence[int] | NDArray[Any]) -> Any:
    """Pearson's correlation of the change from control over the 20 most differentially expressed genes of the truth.

    `genes`: all genes in the order of :func:`de_genes`.
    """
    chosen = np.asarray(genes)[:20]
    return pearson(np.asarray(truth)[..., chosen], np.asarray(answer)[..., chosen])


@metric(perfect=1.0, range=(-1.0, 1.0), level="change", undefined=_CONSTANT)
def pearson_delta_top50(truth: ArrayLike, answer: ArrayLike, genes: Sequence[int] | NDArray[Any]) -> Any:
    """Pearson's correlation of the change from control over the 50 most differentially expressed genes of the truth."""
    chosen = np.asarray(genes)[:50]
    return pearson(np.asarray(truth)[..., chosen], np.asarray(answer)[..., chosen])


_UNMOVED = "the answer changes no gene"


@metric(perfect=1.0, range=(0.0, 1.0), level="change", undefined=_UNMOVED)
def direction_top50(truth: ArrayLike, answer: ArrayLike, genes: Sequence[int] | NDArray[Any]) -> Any:
    """Share of the 50 most differentially expressed genes of the truth that are moved in the right direction.

    mean(sign Δ_predicted = sign Δ_true); 0.5 by chance. A gene that is not moved is not right. NaN where no gene moves
    at all.
    """
    chosen = np.asarray(genes)[:50]
    x, y = np.asarray(truth)[..., chosen], np.asarray(answer, float)[..., chosen]
    value = (np.sign(x) == np.sign(y)).mean(axis=-1)
    return _scalar(np.where(np.abs(np.asarray(answer)).max(axis=-1) > 0, value, np.nan))


@metric(perfect=1.0, range=(0.0, 1.0), level="change", undefined=_UNMOVED)
def changed_overlap_50(truth: ArrayLike, answer: ArrayLike) -> Any:
    """Share of the 50 genes with the largest true change that are among the 50 with the largest predicted change.

    |A ∩ B| / 50, sizes by |Δ|. NaN where the answer changes no gene.
    """
    x, y = np.abs(np.asarray(truth)), np.abs(np.asarray(answer))
    k = min(50, x.shape[-1])
    value = (top(x, k) & top(y, k)).sum(axis=-1) / k
    return _scalar(np.where(y.max(axis=-1) > 0, value, np.nan))


@metric(perfect=0.0, range=(0.0, math.inf), level="change")
def rmse_delta(truth: ArrayLike, answer: ArrayLike) -> Any:
    """Root mean square error of the change from control, in ln(1 + CP10k).

    √mean((Δ_predicted − Δ_true)²). Sees what correlations do not: the size of the change.
    """
    return _scalar(np.sqrt(((np.asarray(answer, float) - np.asarray(truth, float)) ** 2).mean(axis=-1)))


@metric(perfect=1.0, range=(0.0, 1.0), level="change", undefined="the context has only one predicted perturbation")
def discrimination(truth: ArrayLike, answer: ArrayLike, others: ArrayLike) -> Any:
    """How near a predicted change is to its own truth, among all true changes of the context; 0.5 by chance.

    1 − r / H: r of the H other true changes are nearer (L1) than the own one, ties half. Sees swapped perturbations.
    The discrimination score of cell-eval (Arc Virtual Cell Challenge 2025) divides by H + 1 and breaks ties by order.

    Parameters
    ----------
    truth, answer
        (…, genes).
    others
        (H, genes): true changes of the other groups.
    """
    x, y, z = np.asarray(truth, float), np.asarray(answer, float), np.asarray(others, float)
    if not len(z):
        return math.nan
    own = np.abs(y - x).sum(axis=-1)
    rest = np.stack([np.abs(y - other).sum(axis=-1) for other in z], axis=-1)
    nearer = (rest < own[..., None]).sum(axis=-1) + 0.5 * (rest == own[..., None]).sum(axis=-1)
    return _scalar(1.0 - nearer / len(z))


def _flat(values: ArrayLike, centred: NDArray[np.float64]) -> Any:
    """Whether rows are constant: what is left after centring is rounding error, whose correlation would be noise."""
    return np.abs(centred).max(axis=-1) <= 1e-12 * np.abs(np.asarray(values, float)).max(axis=-1)


def _scalar(value: Any) -> Any:
    return value if np.ndim(value) else float(value)
