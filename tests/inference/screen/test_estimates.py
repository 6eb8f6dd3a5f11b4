from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from cell2sen.inference.screen.estimates import contrast, difference, mean_shift, weights_of_cells


def test_mean_is_that_of_the_t_test() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 30)
    found, judge = mean_shift(values), scipy.stats.ttest_1samp(values, 0)
    assert found.p() == pytest.approx(judge.pvalue)
    assert found.interval() == pytest.approx(judge.confidence_interval(0.95))


def test_difference_is_that_of_welch() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.normal(1, 1, 20), generator.normal(0, 3, 45)
    found, judge = difference(a, b), scipy.stats.ttest_ind(a, b, equal_var=False)
    assert found.p() == pytest.approx(judge.pvalue)
    assert found.interval() == pytest.approx(judge.confidence_interval(0.95))
    two = contrast(mean_shift(a), mean_shift(b))
    assert two.interval() == pytest.approx(judge.confidence_interval(0.95))


def test_donors_count_the_same() -> None:
    values, donors = np.array([1.0, 1.0, 1.0, 3.0, 5.0]), ["a", "a", "a", "b", "c"]
    found = mean_shift(values, donors)
    assert found.effect == pytest.approx(3)
    assert found.donors == {"a": 1, "b": 3, "c": 5}
    assert found.interval() == pytest.approx(scipy.stats.ttest_1samp([1, 3, 5], 0).confidence_interval(0.95))
    assert weights_of_cells(5, donors) @ values == pytest.approx(3)
    paired = difference(values, np.array([1.0, 2.0, 9.0]), donors, ["a", "b", "d"])
    assert paired.donors == {"a": 0, "b": 1}
    assert paired.effect == 0.5
    both = contrast(found, mean_shift(values - 1, donors))
    assert both.effect == pytest.approx(1)
    assert both.error == pytest.approx(0)


def test_one_cell_has_no_interval() -> None:
    assert np.isnan(mean_shift(np.array([1.0])).interval()).all()
