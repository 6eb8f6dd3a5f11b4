"""Metrics of numbers and their intervals: errors, correlation, coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cell2sen.evaluation.metrics import MeanOver, metric


def absolute_errors(truth: ArrayLike, answer: ArrayLike) -> NDArray[np.float64]:
    """Distance of each answer from the truth, float64 (cells,)."""
    return np.abs(np.asarray(truth, dtype=np.float64) - np.asarray(answer, dtype=np.float64))


def covered(truth: ArrayLike, low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    """1 for each true value within its interval, ends included, else 0, float64 (cells,)."""
    values, lower, upper = (np.asarray(array, dtype=np.float64) for array in (truth, low, high))
    return ((lower <= values) & (values <= upper)).astype(np.float64)


@metric(level="numbers", perfect=0.0, range=(0.0, np.inf), resampling=MeanOver(absolute_errors))
def mean_absolute_error(truth: ArrayLike, answer: ArrayLike) -> float:
    """Mean distance of the answer from the truth, in the unit of the column.

    mean(|answerᵢ - truthᵢ|) (Willmott and Matsuura, Climate Research 2005), as in scikit-learn.
    """
    return float(np.mean(absolute_errors(truth, answer)))


@metric(level="numbers", perfect=0.0, range=(0.0, np.inf))
def median_absolute_error(truth: ArrayLike, answer: ArrayLike) -> float:
    """Median distance of the answer from the truth, in the unit of the column.

    median(|answerᵢ - truthᵢ|) (Hyndman and Koehler, International Journal of Forecasting 2006), as in scikit-learn.
    """
    return float(np.median(absolute_errors(truth, answer)))


@metric(level="numbers", perfect=1.0, range=(-1.0, 1.0), undefined="all values are equal")
def pearson_of_numbers(truth: ArrayLike, answer: ArrayLike) -> float:
    """Pearson's correlation of true and predicted numbers (Pearson 1895; SciPy)."""
    return _correlation(stats.pearsonr, truth, answer)


@metric(level="numbers", perfect=1.0, range=(-1.0, 1.0), undefined="all values are equal")
def spearman_of_numbers(truth: ArrayLike, answer: ArrayLike) -> float:
    """Spearman's correlation of true and predicted numbers: whether their order is right (Spearman 1904; SciPy)."""
    return _correlation(stats.spearmanr, truth, answer)


@metric(level="intervals", perfect=1.0, range=(0.0, 1.0), resampling=MeanOver(covered))
def interval_coverage(truth: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """Share of true values within the predicted interval.

    It should be the level of the interval, 0.9 for those of this package: more means that intervals are too wide
    (Gneiting and Raftery, Journal of the American Statistical Association 2007).
    """
    return float(np.mean(covered(truth, low, high)))


def _correlation(function: Any, truth: ArrayLike, answer: ArrayLike) -> float:
    x, y = np.asarray(truth, dtype=np.float64), np.asarray(answer, dtype=np.float64)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(function(x, y).statistic)
