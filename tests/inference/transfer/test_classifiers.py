"""Neighbours, folds, temperature and held-out scores against brute force and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from cell2sen.inference.transfer.classifiers import (
    BLOCKS,
    N_FOLDS,
    N_NEIGHBOURS,
    Candidate,
    Method,
    choose,
    compare,
    fit_classifier,
    fit_temperature,
    folds_of,
    nearest,
)
from cell2sen.inference.transfer.features import FeatureName


def blobs(n: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 3, n)
    return generator.normal(size=(n, 4)) + 1.5 * np.eye(3, 4)[codes], codes


def test_nearest_is_brute_force() -> None:
    (reference, _), (cells, _) = blobs(), blobs(20, seed=1)
    rows, distances = nearest(reference, cells, 7)
    expected = np.argsort(cdist(cells, reference), axis=1, kind="stable")[:, :7]
    assert rows.tolist() == expected.tolist()
    np.testing.assert_allclose(distances, np.take_along_axis(cdist(cells, reference), expected, axis=1))


def test_neighbours_do_not_depend_on_other_cells() -> None:
    (reference, _), (cells, _) = blobs(), blobs(50, seed=1)
    rows, distances = nearest(reference, cells, 7)
    for cell in (0, 13, 49):
        alone = nearest(reference, cells[[cell]], 7)
        assert alone[0].tolist() == rows[[cell]].tolist()
        assert alone[1].tolist() == distances[[cell]].tolist()


def test_of_equal_distances_the_first() -> None:
    reference = np.zeros((6, 2))
    assert nearest(reference, np.ones((1, 2)), 3)[0].tolist() == [[0, 1, 2]]
    assert nearest(reference, np.ones((0, 2)), 3)[0].shape == (0, 3)
    assert nearest(reference[:2], np.ones((1, 2)), 3)[0].shape == (1, 2)


def test_votes_of_neighbours() -> None:
    (reference, codes), (cells, _) = blobs(), blobs(20, seed=1)
    scores = fit_classifier("neighbours", [reference], codes, 3).log_probabilities([cells])
    for cell in range(20):
        order = np.argsort(np.linalg.norm(reference - cells[cell], axis=1))[:N_NEIGHBOURS]
        votes = np.bincount(codes[order], minlength=3)
        np.testing.assert_allclose(np.exp(scores[cell]), (votes + 1 / 3) / (N_NEIGHBOURS + 1))
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1)


def test_logistic_regression_is_that_of_scikit_learn_with_room_for_absent_labels() -> None:
    (reference, codes), (cells, _) = blobs(), blobs(20, seed=1)
    codes = np.where(codes == 1, 3, codes)
    scores = fit_classifier("logistic", [reference], codes, 4).log_probabilities([cells])
    expected = LogisticRegression(C=0.1, max_iter=300).fit(reference, codes).predict_log_proba(cells)
    np.testing.assert_allclose(scores[:, [0, 2, 3]], expected)
    assert (scores[:, 1] < -30).all()


def test_folds_are_balanced_and_keep_copies_together() -> None:
    _, codes = blobs(100)
    keys = [f"k{row}" for row in range(100)]
    keys[40] = keys[3]
    folds = folds_of(keys, codes)
    assert folds[40] == folds[3]
    for code in range(3):
        counts = np.bincount(folds[codes == code], minlength=N_FOLDS)
        assert counts.max() - counts.min() <= 2
    order = np.random.default_rng(3).permutation(100)
    assert folds_of([keys[row] for row in order], codes[order]).tolist() == folds[order].tolist()


def test_labels_with_two_cells_are_in_different_folds() -> None:
    folds = folds_of(["a", "b", *"cdefgh"], np.array([0, 0, 1, 1, 1, 1, 1, 1]))
    assert folds[0] != folds[1]


def test_groups_are_held_out_whole() -> None:
    groups = [f"d{row % 7}" for row in range(50)]
    folds = folds_of([str(row) for row in range(50)], np.zeros(50, dtype=int), groups)
    assert all(len({fold for fold, group in zip(folds, groups, strict=True) if group == name}) == 1 for name in groups)
    assert len(set(folds.tolist())) == N_FOLDS
    with pytest.raises(ValueError, match="at least two"):
        folds_of(["a", "b"], np.array([0, 1]), ["d0", "d0"])


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_temperature_is_found(factor: float) -> None:
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(4000, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    codes = np.array([generator.choice(3, p=row) for row in probabilities])
    assert fit_temperature(logits * factor, codes) == pytest.approx(factor, rel=0.1)


def test_regression_on_both_is_the_mean_of_two() -> None:
    (reference, codes), (cells, _) = blobs(), blobs(20, seed=1)
    blocks, parts = [reference, sp.csr_matrix(reference[:, :2])], [cells, sp.csr_matrix(cells[:, :2])]
    scores = fit_classifier("logistic", blocks, codes, 3).log_probabilities(parts)
    each = [
        fit_classifier("logistic", [x], codes, 3).log_probabilities([y]) for x, y in zip(blocks, parts, strict=True)
    ]
    np.testing.assert_allclose(scores, np.mean(each, axis=0))


@pytest.mark.parametrize(
    ("method", "features"), [("logistic", "embedding"), ("logistic", "both"), ("neighbours", "both")]
)
def test_held_out_cells_are_predicted_without_their_fold(method: Method, features: FeatureName) -> None:
    cells, codes = blobs()
    blocks = {"embedding": cells, "genes": sp.csr_matrix(np.abs(cells)), "components": cells**2}
    folds = folds_of([str(row) for row in range(90)], codes)
    menu: list[tuple[Method, FeatureName]] = [(method, "embedding"), (method, features)]
    candidate = compare(blocks.__getitem__, codes, folds, 3, menu)[1]
    chosen = [blocks[name] for name in BLOCKS[method, features]]
    raw = np.zeros((90, 3))
    for fold in range(N_FOLDS):
        fitted = fit_classifier(method, [block[folds != fold] for block in chosen], codes[folds != fold], 3)
        raw[folds == fold] = fitted.log_probabilities([block[folds == fold] for block in chosen])
    scaled = np.exp(raw / candidate.temperature)
    expected = scaled / scaled.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(candidate.log_probabilities), expected)
    assert candidate.scores["log_loss"] == pytest.approx(log_loss(codes, expected))
    assert candidate.scores["accuracy"] == np.mean(expected.argmax(axis=1) == codes)
    assert candidate.name == f"{method} on {features}"


def test_choice() -> None:
    def candidate(method: Method, features: FeatureName, loss: float) -> Candidate:
        return Candidate(
            method=method, features=features, temperature=1, log_probabilities=np.zeros((1, 2)),
            scores={"log_loss": loss},
        )  # fmt: skip

    first, second, both = (
        candidate("logistic", "embedding", 0.30),
        candidate("neighbours", "both", 0.30),
        candidate("logistic", "both", 0.31),
    )
    assert choose([second, first]) is second
    assert choose([first, second, both]) is both
    assert choose([candidate("neighbours", "embedding", 0.28), both]).features == "embedding"
