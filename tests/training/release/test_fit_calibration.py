"""Calibration: recovered temperatures, calibration errors, halves by barcode."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from cell2sen.evaluation.metrics.labels import calibration_error
from cell2sen.training.release.fit_calibration import _fitted, calibrates, fit_temperature, log_only_answers


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
    before = calibration_error(right, softmax(scores, axis=1).max(axis=1))
    after = calibration_error(right, softmax(scores / fit_temperature(scores, truth), axis=1).max(axis=1))
    assert before > 0.2
    assert after < 0.02


def test_halves_go_by_barcode():
    assert calibrates("AAACATACAACCAC-1") == calibrates("AAACATACAACCAC-1_2")
    share = np.mean([calibrates(f"CELL{number}-1") for number in range(2000)])
    assert 0.45 < share < 0.55


def test_certainty_of_held_out_cells_is_stored():
    scores, truth = drawn(3.0, 2000)
    certainty = _fitted(scores, truth, "abcd")["certainty"]
    highest = softmax(scores / fit_temperature(scores, truth), axis=1).max(axis=1)
    np.testing.assert_allclose(certainty[::5], np.quantile(highest, [0, 0.25, 0.5, 0.75, 1]), atol=1e-6)
    assert certainty == sorted(certainty)


def test_one_answer_for_all_cells_is_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    scores = np.tile([0.0, 3.0, 1.0], (12, 1))
    truth = np.array([0, 1, 2] * 4)
    fitted = _fitted(scores, truth, ["B cell", "T cell", "NK cell"])
    assert fitted["only_answer"] == "T cell"
    log_only_answers({"annotate": fitted, "label:tissue": _fitted(scores, np.ones(12, int), "abc")})
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert "annotate: the model answers 'T cell' for all 12 held-out cells, whose labels differ" in record.getMessage()
    scores[0, 0] = 9
    assert "only_answer" not in _fitted(scores, truth, "abc"), "two answers"
    assert "only_answer" not in _fitted(scores[1:5], truth[1:5], "abc"), "too few cells"
