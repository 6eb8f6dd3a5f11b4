"""Metrics of the change from control: correlation, direction, size, discrimination."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cell2sen.evaluation.metrics import Faster, metric
from cell2sen.evaluation.metrics.profiles import (
    CONSTANT,
    as_scalar,
    pearson,
    spearman,
    spearman_of_some_genes,
    top,
)

_UNMOVED = "the answer changes no gene"


@metric(level="change", perfect=1.0, range=(-1.0, 1.0), undefined=CONSTANT, shown="groups")
def pearson_delta(truth: ArrayLike, answer: ArrayLike) -> Any:
    """Pearson's correlation of the change from control over all genes.

    pearson(μ_true − μ_control, μ_predicted − μ_control). As in scGen (Lotfollahi et al. 2019), GEARS (Roohani et al.
    2023) and cell-eval.
    """
    return pearson(truth, answer)


@metric(level="disjoint_change", perfect=1.0, range=(-1.0, 1.0), undefined=CONSTANT)
def pearson_delta_disjoint(truth: ArrayLike, answer: ArrayLike) -> Any:
    """Pearson's correlation of the change from control, true and predicted change taken from different control cells.

    pearson(μ_true − μ_A, μ_predicted − μ_B), A and B random halves of the controls, averaged with A and B exchanged;
    else as in scGen (Lotfollahi et al. 2019). Shared controls put the same noise into both changes, which inflates the
    correlation. Without it even a perfect prediction stays below 1: compare with the ceiling. A value far below
    ``pearson_delta`` shows the noise of few controls.
    """
    return pearson(truth, answer)


@metric(level="change", perfect=1.0, range=(-1.0, 1.0), undefined=CONSTANT, resampling=Faster(spearman_of_some_genes))
def spearman_delta(truth: ArrayLike, answer: ArrayLike) -> Any:
    """Spearman's rank correlation of the change from control over all genes (Spearman 1904)."""
    return spearman(truth, answer)


@metric(level="change", perfect=1.0, range=(-1.0, 1.0), undefined=CONSTANT)
def pearson_delta_top20(truth: ArrayLike, answer: ArrayLike, genes: Sequence[int] | NDArray[Any]) -> Any:
    """Pearson's correlation of the change from control over the 20 most differentially expressed genes of the truth.

    As in GEARS (Roohani et al. 2023). `genes`: all genes in the order of :func:`de_genes`.
    """
    chosen = np.asarray(genes)[:20]
    return pearson(np.asarray(truth)[..., chosen], np.asarray(answer)[..., chosen])


@metric(level="change", perfect=1.0, range=(-1.0, 1.0), undefined=CONSTANT, shown="groups")
def pearson_delta_top50(truth: ArrayLike, answer: ArrayLike, genes: Sequence[int] | NDArray[Any]) -> Any:
    """Pearson's correlation of the change from control over the 50 most differentially expressed genes of the truth.

    As :func:`pearson_delta_top20` (Roohani et al. 2023).
    """
    chosen = np.asarray(genes)[:50]
    return pearson(np.asarray(truth)[..., chosen], np.asarray(answer)[..., chosen])


@metric(level="change", perfect=1.0, range=(0.0, 1.0), undefined=_UNMOVED, shown="groups")
def direction_top50(truth: ArrayLike, answer: ArrayLike, genes: Sequence[int] | NDArray[Any]) -> Any:
    """Share of the 50 most differentially expressed genes of the truth that change in the right direction.

    mean(sign Δ_predicted = sign Δ_true); 0.5 by chance (compare the direction match of cell-eval, 2025). A predicted
    change of 0 is right only if the true one is 0. NaN if the answer changes no gene.
    """
    chosen = np.asarray(genes)[:50]
    x, y = np.asarray(truth)[..., chosen], np.asarray(answer, float)[..., chosen]
    value = (np.sign(x) == np.sign(y)).mean(axis=-1)
    return as_scalar(np.where(np.abs(np.asarray(answer)).max(axis=-1) > 0, value, np.nan))


@metric(level="change", perfect=1.0, range=(0.0, 1.0), undefined=_UNMOVED)
def changed_overlap_50(truth: ArrayLike, answer: ArrayLike) -> Any:
    """Share of the 50 genes with the largest true change that are among the 50 with the largest predicted change.

    |A ∩ B| / 50, sizes by |Δ| (compare the overlap at N of cell-eval, 2025). NaN if the answer changes no gene.
    """
    x, y = np.abs(np.asarray(truth)), np.abs(np.asarray(answer))
    k = min(50, x.shape[-1])
    value = (top(x, k) & top(y, k)).sum(axis=-1) / k
    return as_scalar(np.where(y.max(axis=-1) > 0, value, np.nan))


@metric(level="change", perfect=0.0, range=(0.0, math.inf))
def rmse_delta(truth: ArrayLike, answer: ArrayLike) -> Any:
    """Root mean square error of the change from control, in ln(1 + CP10k).

    √mean((Δ_predicted − Δ_true)²), the root of mse_delta of cell-eval (2025). Unlike correlations, it depends on the
    size of the change.
    """
    return as_scalar(np.sqrt(((np.asarray(answer, float) - np.asarray(truth, float)) ** 2).mean(axis=-1)))


@metric(
    level="change",
    perfect=1.0,
    range=(0.0, 1.0),
    undefined="the context has only one predicted perturbation",
    shown="groups",
)
def discrimination(truth: ArrayLike, answer: ArrayLike, others: ArrayLike) -> Any:
    """Share of the context's other true changes that are farther from the predicted one than its own; 0.5 by chance.

    1 − r / H: r of the H other true changes are nearer (L1) than the own one, a tie counts half. Low for swapped
    perturbations.
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
    return as_scalar(1.0 - nearer / len(z))


@metric(
    level="change",
    perfect=1.0,
    range=(-1.0, 1.0),
    undefined="the context has only one predicted perturbation, or a change is constant",
    shown="groups",
)
def pearson_delta_specific(truth: ArrayLike, answer: ArrayLike, others: ArrayLike) -> Any:
    """Pearson's correlation of what is specific to a perturbation: the change less the shift that the others share.

    pearson(Δ_true − S, Δ_predicted − S), S the mean true change of the other perturbations of the context. A prediction
    of the shared shift alone has a high ``pearson_delta`` and nothing here. The reference of perturbed cells instead of
    controls is that of Systema (Viñas Torné et al. 2025).

    Parameters
    ----------
    truth, answer
        (…, genes).
    others
        (H, genes): true changes of the other groups.
    """
    z = np.asarray(others, float)
    if not len(z):
        return math.nan
    shared = z.mean(axis=0)
    return pearson(np.asarray(truth, float) - shared, np.asarray(answer, float) - shared)


def de_genes(
    mean: NDArray[Any], variance: NDArray[Any], n: int, others: tuple[NDArray[Any], NDArray[Any], int]
) -> NDArray[np.int64]:
    """Genes from the most to the least differentially expressed between two groups of cells, int64 (genes,).

    By |t|, t = (μ₁ − μ₂) / √(s₁²/n₁ + s₂²/n₂) (Welch, Biometrika 1947), as in scanpy's
    ``rank_genes_groups(method="t-test")``. Genes that are constant in both groups are last.

    Parameters
    ----------
    mean, variance, n
        Mean (genes,), unbiased variance (genes,) and number of cells of the first group.
    others
        The same of the second group.
    """
    error = np.sqrt(variance / n + others[1] / others[2])
    t = np.divide(mean - others[0], error, out=np.zeros_like(error), where=error > 0)
    return np.argsort(-np.abs(t), kind="stable")
