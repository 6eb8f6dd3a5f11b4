"""Metrics of numbers: cases by hand; the oracles are in test_metrics.py."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cell2sen.evaluation.metrics import numbers


def test_errors_and_coverage_by_hand() -> None:
    assert numbers.mean_absolute_error([1, 2, 10], [2, 2, 4]) == pytest.approx(7 / 3)
    assert numbers.median_absolute_error([1, 2, 10], [2, 2, 4]) == 1
    assert numbers.interval_coverage([1, 2, 10], [1, 3, 0], [1, 4, 20]) == 2 / 3
    np.testing.assert_array_equal(numbers.covered([1, 2], [1, 2.5], [2, 3]), [1, 0])


def test_correlations_of_equal_values_are_undefined() -> None:
    for correlation in (numbers.pearson_of_numbers, numbers.spearman_of_numbers):
        assert math.isnan(correlation([1, 1, 1], [1, 2, 3]))
        assert math.isnan(correlation([1, 2, 3], [2, 2, 2]))
        assert math.isnan(correlation([1], [2]))
        assert correlation([1, 2, 3], [6, 4, 2]) == pytest.approx(-1)
