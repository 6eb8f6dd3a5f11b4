"""Fold changes without noise: what does not change becomes 0, what changes stays."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from cell2sen.training.release.fold_changes import abundance, log_folds, shrunken


def test_abundance_is_the_mean_and_its_variance_is_that_of_repeated_samples() -> None:
    rng = np.random.default_rng(0)
    rate = np.array([0.5, 3.0, 40.0])
    means, variances = [], []
    for _ in range(400):
        counts = rng.poisson(rate, (50, 3)) * 10.0  # 1,000 counts a cell
        mean, variance = abundance(sp.csr_matrix(counts), 1000.0)
        means.append(mean), variances.append(variance)
    np.testing.assert_allclose(np.mean(means, axis=0), 10 * rate + 0.1, rtol=0.05)
    np.testing.assert_allclose(np.mean(variances, axis=0), np.var(means, axis=0), rtol=0.2)


def test_log_folds_equal_their_definition() -> None:
    fold, variance = log_folds((np.array([4.0]), np.array([0.4])), (np.array([2.0]), np.array([0.2])))
    assert fold[0] == np.log(2)
    assert variance[0] == 0.4 / 16 + 0.2 / 4


def test_noise_is_taken_out_and_changes_stay() -> None:
    rng = np.random.default_rng(1)
    truth = np.where(np.arange(500) < 50, rng.normal(0, 1, 500), 0.0)
    variances = np.full((2, 500), 0.02)
    noisy = truth + rng.normal(0, np.sqrt(variances))
    found = shrunken(noisy, variances)
    assert np.abs(found[:, 50:]).mean() < 0.1 * np.abs(noisy[:, 50:]).mean()
    large = np.abs(truth) > 0.8
    np.testing.assert_allclose(found[:, large].mean(0), truth[large], atol=0.3)
    assert ((found - truth) ** 2).mean() < 0.4 * ((noisy - truth) ** 2).mean()


def test_contexts_differ_where_they_differ_by_more_than_noise() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(0, 1, (2, 300))
    found = shrunken(truth + rng.normal(0, 0.1, (2, 300)), np.full((2, 300), 0.01))
    assert np.corrcoef(found[0] - found[1], truth[0] - truth[1])[0, 1] > 0.95
    assert shrunken(truth[:1], np.full((1, 300), 0.01)).shape == (1, 300)
