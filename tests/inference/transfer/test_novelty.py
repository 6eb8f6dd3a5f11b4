"""Distance to a reference and unseen scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist, mahalanobis
from scipy.special import ndtr
from scipy.stats import zscore
from sklearn.metrics import roc_auc_score

from cell2sen.inference.transfer.novelty import Gaussians, K, Novelty, distance


def test_distance_is_that_of_the_tenth_neighbour() -> None:
    generator = np.random.default_rng(0)
    reference, cells = generator.normal(size=(50, 3)), generator.normal(size=(8, 3))
    np.testing.assert_allclose(distance(reference, cells), np.sort(cdist(cells, reference), axis=1)[:, K - 1])
    np.testing.assert_allclose(distance(reference[:4], cells), cdist(cells, reference[:4]).max(axis=1))


def test_relative_distance_is_that_of_two_mahalanobis_distances() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 3, 4000)
    cells = generator.normal(size=(4000, 3)) @ np.diag([1, 2, 3]) + 5 * np.eye(3)[codes]
    fitted = Gaussians.of(cells, codes)
    centres = np.stack([cells[codes == code].mean(axis=0) for code in range(3)])
    within, total = np.cov((cells - centres[codes]).T, bias=True), np.cov(cells.T, bias=True)
    for matrix in (within, total):
        matrix += 0.03 * np.trace(matrix) / 3 * np.eye(3)
    for cell, found in zip(cells[:5], fitted.relative_distance(cells[:5]), strict=True):
        to_labels = [mahalanobis(cell, centre, np.linalg.inv(within)) ** 2 for centre in centres]
        expected = min(to_labels) - mahalanobis(cell, cells.mean(axis=0), np.linalg.inv(total)) ** 2
        assert found == pytest.approx(expected, rel=1e-6)


def test_scores_of_new_cells_of_the_same_types_are_about_uniform() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 2, 3000)
    cells = generator.normal(size=(3000, 30)) + 6 * codes[:, None] * np.eye(30)[0]
    reference = np.arange(3000) < 2000
    novelty = Novelty.of([cells[reference]], codes[reference], np.arange(2000) % 5)
    scores = novelty.score([cells[~reference]], np.full(1000, -1))
    assert abs(np.mean(scores) - 0.5) < 0.08
    assert np.mean(scores > 0.95) < 0.12


def test_another_type_stands_out() -> None:
    generator = np.random.default_rng(1)
    codes = generator.integers(0, 2, 400)
    reference = generator.normal(size=(400, 6)) + 6 * np.eye(6)[codes]
    novelty = Novelty.of([reference], codes, np.arange(400) % 5)
    cells = np.concatenate([generator.normal(size=(50, 6)) + 6 * np.eye(6)[0], generator.normal(size=(50, 6))])
    cells[50:, 4] += 6
    scores = novelty.score([cells], np.full(100, -1))
    assert roc_auc_score(np.arange(100) >= 50, scores) > 0.98
    assert ((scores >= 0) & (scores <= 1)).all()


def test_the_fold_of_a_cell_is_left_out() -> None:
    generator = np.random.default_rng(2)
    codes, folds = generator.integers(0, 2, 60), np.arange(60) % 5
    reference = generator.normal(size=(60, 4))
    novelty = Novelty.of([reference], codes, folds)
    others = Gaussians.of(reference[folds != 3], codes[folds != 3])
    found = novelty.score([reference[[3, 8]]], np.array([3, 3]))
    evidence = (others.relative_distance(reference[[3, 8]]) - novelty.centres[0]) / novelty.widths[0]
    expected = ndtr((np.clip(evidence, -8, 8) - novelty.sum_mean) / novelty.sum_deviation)
    np.testing.assert_allclose(found, expected)


def test_distances_and_uncertainty_are_added() -> None:
    generator = np.random.default_rng(3)
    codes, folds = generator.integers(0, 2, 80), np.arange(80) % 4
    first, second = generator.normal(size=(80, 3)), generator.normal(size=(80, 5))
    certainty, sample = generator.uniform(0.5, 1, 40), np.arange(0, 80, 2)
    novelty = Novelty.of([first, second], codes, folds, certainty, sample)
    held_out = np.zeros((80, 2))
    for fold in range(4):
        for column, space in enumerate((first, second)):
            fitted = Gaussians.of(space[folds != fold], codes[folds != fold])
            held_out[folds == fold, column] = fitted.relative_distance(space[folds == fold])
    table = np.column_stack([held_out[sample], np.log(1 - certainty)])
    total = np.clip(zscore(table), -8, 8).sum(axis=1)
    found = novelty.score([first[sample], second[sample]], folds[sample], certainty)
    np.testing.assert_allclose(found, ndtr(zscore(total)), atol=1e-9)
