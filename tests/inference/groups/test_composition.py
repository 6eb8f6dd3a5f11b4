"""Mixtures of cells, nearest shares, and deconvolution of mixtures that are known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from cell2sen.inference.groups.composition import (
    correlation,
    cosine,
    deconvolve,
    draw_mixtures,
    marker_genes,
    nearest_shares,
)

ROWS = [np.arange(0, 30), np.arange(30, 70), np.arange(70, 100)]


def test_mixtures_have_the_shares_that_they_name() -> None:
    mixtures = draw_mixtures(ROWS, 100, n=20, n_cells=50, seed=1)
    weights = mixtures.weights.toarray()
    assert weights.shape == (23, 100)
    assert np.array_equal(mixtures.shares[:3], np.eye(3))
    assert np.array_equal(weights[:3].sum(axis=1), [30, 40, 30])
    assert np.array_equal(weights[3:].sum(axis=1), np.full(20, 50))
    for row, share in zip(weights[3:], mixtures.shares[3:], strict=True):
        assert np.allclose([row[cells].sum() / 50 for cells in ROWS], share)
    assert (mixtures.shares[3:] == 0).any()
    assert np.array_equal(draw_mixtures(ROWS, 100, n=20, n_cells=50, seed=1).weights.toarray(), weights)


def test_nearest_shares_are_means_of_the_most_similar() -> None:
    shares = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    similarity = np.array([[0.9, 0.1, 0.8], [np.nan, np.nan, np.nan]])
    nearest = nearest_shares(similarity, shares, 2)
    assert nearest[0].tolist() == [0.75, 0.25]
    assert np.isnan(nearest[1]).all()
    assert nearest_shares(similarity[:1], shares, 9)[0].tolist() == [0.5, 0.5]


def test_cosine_and_correlation_are_those_of_numpy() -> None:
    x, y = np.random.default_rng(0).random((2, 3, 40))
    assert cosine(x, y)[1, 2] == pytest.approx(x[1] @ y[2] / np.linalg.norm(x[1]) / np.linalg.norm(y[2]))
    logs = [np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4) for values in (x, y)]
    assert correlation(x, y)[0, 1] == pytest.approx(np.corrcoef(logs[0][0], logs[1][1])[0, 1])


def test_exact_mixtures_are_found_whatever_the_size_of_cells() -> None:
    rng = np.random.default_rng(0)
    cells = rng.gamma(0.5, 1.0, size=(3, 400)) * np.array([[1.0], [5.0], [2.0]])  # counts of a cell of each population
    n_cells = np.array([10, 200, 50])
    true = np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.0, 0.1, 0.9]])
    samples = true @ cells
    samples = samples / samples.sum(axis=1, keepdims=True) * 1e4
    assert np.allclose(deconvolve(samples, cells * n_cells[:, None], n_cells), true, atol=1e-8)


def test_markers_lead_in_their_population() -> None:
    profiles = np.array([[9.0, 1, 1, 5, 5], [1.0, 9, 1, 5, 5], [1.0, 1, 9, 5, 5]])
    assert marker_genes(profiles, 1).tolist() == [0, 1, 2]
