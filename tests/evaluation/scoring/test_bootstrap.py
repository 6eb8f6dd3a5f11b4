"""Samples, intervals and verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cell2sen.evaluation.scoring.bootstrap import Estimate, generator, interval, mean_of, over_units, verdict, weights


def estimate(value: float, spread: float, units: float | None = None) -> Estimate:
    steps = np.linspace(-1, 1, 101)
    return Estimate(
        value=value,
        by_cells=value + spread * steps,
        by_units=np.array([]) if units is None else value + units * steps,
    )


def test_weights_draw_as_many_cells_as_there_are() -> None:
    drawn = weights(generator(0, "cells"), 7, 30)
    assert drawn.shape == (7, 30)
    assert (drawn.sum(axis=1) == 30).all()
    np.testing.assert_array_equal(drawn, weights(generator(0, "cells"), 7, 30))
    assert weights(generator(0), 7, 0).shape == (7, 0)


def test_intervals_are_centred_on_the_value_and_stay_in_range() -> None:
    replicates = 5 + np.linspace(-1, 1, 201)  # biased upwards by 4.5
    low, high = interval(0.5, replicates, (-math.inf, math.inf))
    assert (low, high) == (pytest.approx(0.5 - 0.95), pytest.approx(0.5 + 0.95))
    assert interval(0.5, replicates, (0.0, 1.0)) == (0.0, 1.0)
    assert interval(-0.1, replicates, (0.0, 1.0))[0] == -0.1  # the value itself may be outside by chance
    assert all(map(math.isnan, interval(0.5, np.array([1.0]), (0.0, 1.0))))
    assert all(map(math.isnan, interval(math.nan, replicates, (0.0, 1.0))))


def test_groups_of_a_unit_are_drawn_together() -> None:
    values = np.array([0.0, 0.0, 1.0, 1.0, 0.5, math.nan])
    means = over_units(values, ["a", "a", "b", "b", "c", "d"], 0)
    assert means.shape == (2000,)
    # Samples of one unit three times have the mean of that unit.
    assert {0.0, 0.5, 1.0} <= set(np.round(means, 6))
    assert means.mean() == pytest.approx(0.5, abs=0.02)
    assert len(over_units(values, ["a", "a", "b", "b", "b", "c"], 0)) == 0


@pytest.mark.parametrize(
    ("prediction", "baseline", "higher", "expected"),
    [
        (estimate(0.9, 0.1), estimate(0.5, 0.1), True, "better"),
        (estimate(0.9, 0.1), estimate(0.5, 0.1), False, "worse"),
        (estimate(0.9, 0.1, 1.0), estimate(0.5, 0.1, 0.1), True, "no difference seen"),
        (estimate(0.5, 0.6), estimate(0.5, 0.1), True, "no difference seen"),
        (estimate(0.9, 0.1), Estimate(value=0.5), True, "unknown"),
        (estimate(0.9, 0.1), Estimate(), True, "unknown"),
        (Estimate(), estimate(0.5, 0.1), True, "missing"),
    ],
)
def test_verdicts_need_all_intervals(prediction: Estimate, baseline: Estimate, higher: bool, expected: str) -> None:
    assert verdict(prediction, baseline, higher) == expected


def test_means_of_replicates_need_all_groups() -> None:
    np.testing.assert_array_equal(mean_of({"a": np.array([1.0, 2]), "b": np.array([3.0, 4])}), [2, 3])
    assert len(mean_of({"a": np.array([1.0, 2]), "b": np.array([])})) == 0
    assert len(mean_of({})) == 0
