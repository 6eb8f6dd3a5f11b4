"""Fold changes of mean abundance in the contexts of a perturbation, without what is noise."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Steps of the fit of :func:`shrunken`; it is stable after about 20.
_STEPS = 60

#: Smallest variance of real log fold changes, so that the fit cannot collapse.
_MIN_VARIANCE = 1e-3


def abundance(cp10k: sp.csr_matrix, depth: float) -> tuple[Array, Array]:
    """Mean abundance of each gene and the variance of this mean, float64 (genes,) both.

    Parameters
    ----------
    cp10k
        Counts per 10,000, (cells, genes), at least two cells.
    depth
        Mean counts of a cell. Half a count in all cells together is added to the mean, so that no gene has an abundance
        of 0; the variance of a cell is at least that of counting.
    """
    n = cp10k.shape[0]
    half = 0.5e4 / (n * depth)
    mean = np.asarray(cp10k.mean(axis=0), dtype=np.float64).ravel()
    square = np.asarray(cp10k.multiply(cp10k).mean(axis=0), dtype=np.float64).ravel()
    variance = np.maximum((square - mean**2) * n / (n - 1), (mean + half) * 1e4 / depth)
    return mean + half, variance / n


def log_folds(treated: tuple[Array, Array], control: tuple[Array, Array]) -> tuple[Array, Array]:
    """ln(treated / control) of two results of :func:`abundance`, and its variance (delta method)."""
    return np.log(treated[0] / control[0]), treated[1] / treated[0] ** 2 + control[1] / control[0] ** 2


def shrunken(folds: Array, variances: Array) -> Array:
    """Expected log fold changes given noisy ones, float64 (contexts, genes).

    First the mean over contexts, weighted by 1 / variance, is shrunken: most genes do not change, the others have
    normal log fold changes; share and variance of these are fitted by EM (spike and slab; compare ash, Stephens 2017).
    Then each context departs from that mean by a normal deviation, whose variance over genes is fitted by moments: 0
    where contexts differ by no more than their noise, such as replicates.

    Parameters
    ----------
    folds, variances
        float64 (contexts, genes).
    """
    weights = 1 / variances
    weights /= weights.sum(axis=0)
    pooled = (weights * folds).sum(axis=0)
    common = _spike_and_slab(pooled, (weights**2 * variances).sum(axis=0))
    if len(folds) == 1:
        return common[None]
    deviation = folds - pooled
    noise = variances - (weights**2 * variances).sum(axis=0)  # of a value minus the weighted mean that it is part of
    spread = np.maximum((deviation**2 - noise).mean(axis=1, keepdims=True), 0.0)
    keep = spread / (spread + np.maximum(noise, 1e-12))
    return np.asarray(common + keep * deviation)


def _spike_and_slab(values: Array, variances: Array) -> Array:
    share, spread = 0.3, 0.1
    chance = np.zeros_like(values)
    for _ in range(_STEPS):
        log_odds = (
            np.log(share / (1 - share))
            - 0.5 * np.log1p(spread / variances)
            + 0.5 * values**2 * (1 / variances - 1 / (variances + spread))
        )
        chance = 1 / (1 + np.exp(-np.clip(log_odds, -500, 500)))
        share = float(np.clip(chance.mean(), 1e-3, 1 - 1e-3))
        spread = max(float((chance * np.maximum(values**2 - variances, 0)).sum() / chance.sum()), _MIN_VARIANCE)
    return np.asarray(chance * values * spread / (spread + variances))
