"""Distance to a reference and unseen scores."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from cell2sen.inference.transfer.novelty import K, Novelty, distance


def test_distance_is_that_of_the_tenth_neighbour() -> None:
    generator = np.random.default_rng(0)
    reference, cells = generator.normal(size=(50, 3)), generator.normal(size=(8, 3))
    np.testing.assert_allclose(distance(reference, cells), np.sort(cdist(cells, reference), axis=1)[:, K - 1])
    np.testing.assert_allclose(distance(reference[:4], cells), cdist(cells, reference[:4]).max(axis=1))


def test_scores_of_new_cells_of_the_same_types_are_uniform() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 2, 1500)
    cells = generator.normal(size=(1500, 4)) * np.array([1, 4])[codes, None] + 30 * codes[:, None]
    folds = np.arange(1500) % 5
    reference = np.arange(1500) < 1000
    novelty = Novelty.of(cells[reference], codes[reference], folds[reference])
    scores = novelty.score(distance(cells[reference], cells[~reference]), codes[~reference])
    for code in (0, 1):  # also of each type, although one is wider
        of_type = scores[codes[~reference] == code]
        assert abs(np.mean(of_type) - 0.5) < 0.08
        assert np.mean(of_type > 0.95) < 0.12


def test_another_type_stands_out() -> None:
    generator = np.random.default_rng(1)
    reference, codes = generator.normal(size=(400, 4)), np.zeros(400, dtype=int)
    novelty = Novelty.of(reference, codes, np.arange(400) % 5)
    cells = np.concatenate([generator.normal(size=(50, 4)), generator.normal(size=(50, 4)) + 4])
    scores = novelty.score(distance(reference, cells), np.zeros(100, dtype=int))
    assert roc_auc_score(np.arange(100) >= 50, scores) > 0.98
    assert ((scores >= 0) & (scores <= 1)).all()
