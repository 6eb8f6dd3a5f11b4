from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cell2sen import bertscore, distances, metrics, profiles
from cell2sen.metrics import METRICS

TRUTH = ["B cell", "B cell", "T cell", "NK cell", "T cell", "NK cell"]
ANSWER = ["B cell", "T cell", "T cell", "NK cell", "T cell.", "platelet"]


def test_every_metric_says_what_it_is() -> None:
    assert {one.level for one in METRICS.values()} == {
        "labels", "confidence", "text", "profile", "change", "cells", "sentences",
    }  # fmt: skip
    for one in METRICS.values():
        assert one.range[0] < one.range[1]
        assert one.perfect in one.range
        assert one.summary.endswith("."), one.name
        assert one.undefined
    assert METRICS["accuracy"].higher_is_better
    assert not METRICS["scfid"].higher_is_better
    assert {module.__name__ for module in (bertscore, distances, profiles)}


def test_a_metric_of_the_users_own() -> None:
    try:

        @metrics.metric(perfect=0.0, range=(0.0, math.inf), level="change")
        def largest_error(truth: np.ndarray, answer: np.ndarray) -> float:
            """The largest error of all genes."""
            return float(np.abs(truth - answer).max())

        assert metrics.get("largest_error").function is largest_error
    finally:
        METRICS.pop("largest_error", None)
    with pytest.raises(ValueError, match="must be one end of the range"):
        metrics.metric(perfect=0.5, range=(0.0, 1.0), level="cells")
    with pytest.raises(KeyError, match=r"no metric 'tau'; available: \['accuracy'"):
        metrics.get("tau")


def test_accuracy_is_exact_up_to_the_final_full_stop() -> None:
    assert metrics.accuracy(TRUTH, ANSWER) == pytest.approx(4 / 6)
    assert metrics.accuracy(["B cell"], ["b cell"]) == 0
    assert metrics.accuracy(["B cell", "T cell"], [" B cell. ", "T cell, human"]) == 1
    with pytest.raises(ValueError, match="same length and not empty, found 0 and 1"):
        metrics.accuracy([], ["B cell"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CD14+ Monocytes.", "cd14+ monocyte"),
        ("CD4 T cells", "cd4 t cell"),
        ("CD4 T-cell", "cd4 t cell"),
        ("activated_stellate", "activated stellate"),
        ("CD4+/CD25-", "cd4+/cd25-"),
        ("mast", "mast"),
        ("DCs", "dcs"),  # too short to tell a plural from a name
        ("Cell class", "cell class"),
    ],
)
def test_normalised_labels(text: str, expected: str) -> None:
    assert metrics.normalise_label(text) == expected


def test_normalisation_keeps_apart_what_is_different() -> None:
    assert metrics.normalised_accuracy(["CD14+ Mono", "CD25+ T"], ["CD14 Mono", "CD25- T"]) == 0
    assert metrics.normalised_accuracy(["Monocytes"], ["CD14+ Mono"], {"CD14+ mono": "monocyte"}) == 1


def test_macro_f1_equals_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for n_labels in (2, 5):
        truth = rng.integers(0, n_labels, 200).astype(str)
        answer = np.where(rng.random(200) < 0.6, truth, rng.integers(0, n_labels + 1, 200).astype(str))
        expected = sklearn.f1_score(truth, answer, average="macro", zero_division=0)
        assert metrics.macro_f1(list(truth), list(answer)) == pytest.approx(expected, abs=1e-12)
        assert metrics.accuracy(list(truth), list(answer)) == pytest.approx(sklearn.accuracy_score(truth, answer))


def test_macro_f1_counts_rare_labels_as_much_as_frequent_ones() -> None:
    truth = ["T"] * 99 + ["DC"]
    assert metrics.macro_f1(truth, ["T"] * 100) == pytest.approx((2 * 99 / (2 * 99 + 1) + 0) / 2)


def test_f1_of_stacked_confusion_matrices() -> None:
    counts = np.stack([metrics.confusion(TRUTH, TRUTH)[0], np.zeros((3, 3), int)])
    counts[1, 0, 0], counts[1, 0, 1] = 1, 1  # the third label occurs nowhere and does not count
    assert metrics.f1_of_confusion(counts) == pytest.approx([1.0, (2 / 3 + 0) / 2])


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
    found = metrics.expected_calibration_error(truth, list(answer), stated)
    assert found == pytest.approx(ece_one_by_one(right.astype(float), stated, 15))
    assert metrics.brier(truth, list(answer), stated) == pytest.approx(np.mean((stated - right) ** 2))
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    expected = torchmetrics.binary_calibration_error(torch.tensor(stated), torch.tensor(right).int(), n_bins=15)
    # Torchmetrics closes bins on the left; no value lies on an edge here.
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_calibration_of_a_perfect_and_a_boasting_model() -> None:
    assert metrics.expected_calibration_error(["a", "a"], ["a", "a"], [1.0, 1.0]) == 0
    assert metrics.expected_calibration_error(["a", "a"], ["b", "b"], [1.0, 1.0]) == 1
    with pytest.raises(ValueError, match="2 probabilities between 0 and 1"):
        metrics.expected_calibration_error(["a", "a"], ["a", "a"], [0.5, 1.5])


def test_validity_and_uniqueness() -> None:
    known = {"CD3D", "LYZ", "NKG7"}
    sentence = "CD3D LYZ CD3D FOO NKG7 CD3D."
    assert metrics.validity(sentence, known) == pytest.approx(5 / 6)
    assert metrics.uniqueness(sentence, known) == pytest.approx(3 / 5)
    assert math.isnan(metrics.validity("", known))
    assert math.isnan(metrics.uniqueness("FOO BAR", known))


@given(st.lists(st.sampled_from(["A", "B", "C", "x"]), min_size=1, max_size=30))
def test_validity_equals_counting(words: list[str]) -> None:
    known = {"A", "B", "C"}
    valid = [word for word in words if word != "x"]
    assert metrics.validity(words, known) == pytest.approx(len(valid) / len(words))
    if valid:
        assert metrics.uniqueness(words, known) == pytest.approx(len(set(valid)) / len(valid))
