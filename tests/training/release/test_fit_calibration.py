"""The temperature makes probabilities mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from cell2sen.training.release.fit_calibration import calibrates, expected_calibration_error, fit_temperature


def drawn(temperature: float, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and labels drawn from their softmax at `temperature`."""
    generator = np.random.default_rng(0)
    scores = generator.normal(scale=3.0, size=(n, 4))
    cumulative = softmax(scores / temperature, axis=1).cumsum(axis=1)
    return scores, (generator.random((n, 1)) > cumulative).sum(axis=1).clip(max=3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(temperature):
    scores, truth = drawn(temperature)
    assert fit_temperature(scores, truth) == pytest.approx(temperature, rel=0.05)


def test_calibration_error_falls_to_near_zero():
    scores, truth = drawn(3.0)
    right = scores.argmax(axis=1) == truth
    before = expected_calibration_error(softmax(scores, axis=1).max(axis=1), right)
    after = expected_calibration_error(softmax(scores / fit_temperature(scores, truth), axis=1).max(axis=1), right)
    assert before > 0.2
    assert after < 0.02


def test_calibration_error_equals_its_definition():
    probability = np.array([0.05, 0.95, 0.91, 0.99])
    right = np.array([False, True, False, True])
    expected = 0.25 * 0.05 + 0.75 * abs(0.95 - 2 / 3)
    assert expected_calibration_error(probability, right) == pytest.approx(expected)


def test_halves_go_by_barcode():
    assert calibrates("AAACATACAACCAC-1") == calibrates("AAACATACAACCAC-1_2")
    share = np.mean([calibrates(f"CELL{number}-1") for number in range(2000)])
    assert 0.45 < share < 0.55
