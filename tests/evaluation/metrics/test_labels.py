"""Metrics of labels and of their probabilities, against scikit-learn, torchmetrics and counting."""

from __future__ import annotations

import numpy as np
import pytest

from cell2sen.evaluation.metrics import labels

TRUTH = ["B cell", "B cell", "T cell", "NK cell", "T cell", "NK cell"]
ANSWER = ["B cell", "T cell", "T cell", "NK cell", "T cell.", "platelet"]


def test_accuracy_is_exact_up_to_the_final_full_stop() -> None:
    assert labels.accuracy(TRUTH, ANSWER) == pytest.approx(4 / 6)
    assert labels.accuracy(["B cell"], ["b cell"]) == 0
    assert labels.accuracy(["B cell", "T cell"], [" B cell. ", "T cell, human"]) == 1
    with pytest.raises(ValueError, match="same length and not empty, found 0 and 1"):
        labels.accuracy([], ["B cell"])


def test_normalisation_keeps_apart_what_is_different() -> None:
    assert labels.normalised_accuracy(["CD14+ Mono", "CD25+ T"], ["CD14 Mono", "CD25- T"]) == 0
    assert labels.normalised_accuracy(["Monocytes"], ["CD14+ Mono"], {"CD14+ mono": "monocyte"}) == 1


def test_macro_f1_equals_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for n_labels in (2, 5):
        truth = rng.integers(0, n_labels, 200).astype(str)
        answer = np.where(rng.random(200) < 0.6, truth, rng.integers(0, n_labels + 1, 200).astype(str))
        expected = sklearn.f1_score(truth, answer, average="macro", zero_division=0)
        assert labels.macro_f1(list(truth), list(answer)) == pytest.approx(expected, abs=1e-12)
        assert labels.accuracy(list(truth), list(answer)) == pytest.approx(sklearn.accuracy_score(truth, answer))


def test_macro_f1_counts_rare_labels_as_much_as_frequent_ones() -> None:
    truth = ["T"] * 99 + ["DC"]
    assert labels.macro_f1(truth, ["T"] * 100) == pytest.approx((2 * 99 / (2 * 99 + 1) + 0) / 2)


def test_f1_of_stacked_confusion_matrices() -> None:
    counts = np.stack([labels.confusion(TRUTH, TRUTH)[0], np.zeros((3, 3), int)])
    counts[1, 0, 0], counts[1, 0, 1] = 1, 1  # the third label occurs nowhere and does not count
    assert labels.f1_of_confusion(counts) == pytest.approx([1.0, (2 / 3 + 0) / 2])


def ece_one_by_one(right: np.ndarray, stated: np.ndarray, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        inside = [i for i, p in enumerate(stated) if b / bins < p <= (b + 1) / bins or (b == 0 and p == 0)]
        if inside:
            total += len(inside) / len(stated) * abs(np.mean(right[inside]) - np.mean(stated[inside]))
    return total


def test_calibration_equals_twin_and_torchmetrics() -> None:
    rng = np.random.default_rng(1)
    stated = rng.random(400)
    right = rng.random(400) < stated**2
    answer = np.where(right, "a", "b")
    truth = ["a"] * 400
    error = labels.expected_calibration_error(truth, list(answer), stated)
    assert error == pytest.approx(ece_one_by_one(right.astype(float), stated, 15))
    assert labels.brier(truth, list(answer), stated) == pytest.approx(np.mean((stated - right) ** 2))
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    expected = torchmetrics.binary_calibration_error(torch.tensor(stated), torch.tensor(right).int(), n_bins=15)
    # Bins of torchmetrics are closed on the left; no value is on an edge here.
    assert error == pytest.approx(float(expected), abs=1e-6)


def test_calibration_of_a_perfect_and_an_overconfident_model() -> None:
    assert labels.expected_calibration_error(["a", "a"], ["a", "a"], [1.0, 1.0]) == 0
    assert labels.expected_calibration_error(["a", "a"], ["b", "b"], [1.0, 1.0]) == 1
    with pytest.raises(ValueError, match="2 probabilities between 0 and 1"):
        labels.expected_calibration_error(["a", "a"], ["a", "a"], [0.5, 1.5])


def test_one_calibration_error_for_labels_and_for_hits() -> None:
    right, stated = np.array([False, True, False, True]), np.array([0.05, 0.95, 0.94, 0.99])
    # Bins of width 1/15: the three high probabilities share one.
    expected = 0.25 * 0.05 + 0.75 * abs(0.96 - 2 / 3)
    assert labels.calibration_error(right, stated) == pytest.approx(expected)
    answer = ["a" if hit else "b" for hit in right]
    assert labels.expected_calibration_error(["a"] * 4, answer, stated) == labels.calibration_error(right, stated)
    # An edge belongs to the bin below it.
    n, _, _ = labels.calibration_curve([True, True, True], [0.0, 0.2, 1.0], bins=5)
    assert list(n) == [2, 0, 0, 0, 1]
