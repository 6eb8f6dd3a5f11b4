from __future__ import annotations

import numpy as np
import pytest

from cell2sen.inference.answers.numbers import Bins


def test_few_values_stand_for_themselves() -> None:
    bins = Bins.fit([10, 0.5, 10, np.nan, 1000])
    assert bins.edges is None
    assert bins.answers == ("0.5", "10", "1000")
    assert bins.write([0.5, 4.0, 900.0, np.nan, 5000]).tolist() == ["0.5", "0.5", "1000", None, "1000"]


def test_many_values_are_divided_at_quantiles() -> None:
    values = np.random.default_rng(0).normal(50, 15, 4000)
    bins = Bins.fit(values, max_bins=8)
    np.testing.assert_allclose(bins.edges, np.quantile(values, np.linspace(0, 1, 9)))
    assert np.bincount(bins.place(values)).tolist() == [500] * 8
    for number in range(8):
        median = np.median(values[bins.place(values) == number])
        assert abs(bins.values[number] - median) < 0.5, "rounded to the fewest digits that keep bins apart"
    assert len({len(answer) for answer in bins.answers}) == 1
    again = Bins.from_record(bins.record())
    np.testing.assert_array_equal(again.place(values), bins.place(values))


def test_expected_value_and_interval_of_numbers() -> None:
    bins = Bins.of(["0", 10, "1000"])
    probabilities = np.array([[0.5, 0.5, 0.0], [0.04, 0.9, 0.06], [np.nan] * 3])
    np.testing.assert_allclose(bins.expected(probabilities), [5, 69, np.nan])
    np.testing.assert_array_equal(bins.interval(probabilities), [[0, 10], [10, 1000], [np.nan] * 2])
    np.testing.assert_array_equal(bins.interval(probabilities[1:2], level=0.8), [[10, 10]])


def test_interval_of_bins_has_the_quantiles_of_a_piecewise_uniform_distribution() -> None:
    bins = Bins(values=np.array([1.0, 6.0, 30.0]), edges=np.array([0.0, 2.0, 10.0, 50.0]))
    probabilities = np.array([[0.2, 0.5, 0.3]])
    drawn = np.random.default_rng(0)
    place = drawn.choice(3, size=200_000, p=probabilities[0])
    assert bins.edges is not None
    values = drawn.uniform(bins.edges[place], bins.edges[place + 1])
    np.testing.assert_allclose(bins.interval(probabilities)[0], np.quantile(values, [0.05, 0.95]), rtol=0.02)


@pytest.mark.parametrize("numbers", [[1], [1, 1.0], ["a", 2], [1, np.nan], [1, None]])
def test_numbers_that_are_no_menu(numbers: list[object]) -> None:
    with pytest.raises(ValueError, match="numbers to choose from must be"):
        Bins.of(numbers)
    with pytest.raises(ValueError, match="at least two different values"):
        Bins.fit([3.0, np.nan, 3.0])
