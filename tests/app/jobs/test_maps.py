from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.sparse as sp

from cell2sen.app.jobs.maps import components, expression_map, map_of


def nothing(step: str, done: float, total: int) -> None:
    pass


@pytest.mark.parametrize("shape", [(40, 12), (3, 12), (40, 3)])
def test_components_are_those_of_a_dense_decomposition(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).gamma(0.5, size=shape)
    left, size, right = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    expected = left[:, :2] * size[:2]
    expected *= np.sign(right[[0, 1], np.abs(right[:2]).argmax(axis=1)])
    np.testing.assert_allclose(components(sp.csr_matrix(values)), expected, atol=1e-4)


def test_map_without_umap_and_cells_without_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    vectors[3] = np.nan
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    key, points = map_of(vectors, nothing)
    assert key == "X_pca_cell2sen"
    assert np.isnan(points[3]).all()
    assert np.isfinite(np.delete(points, 3, axis=0)).all()
    with pytest.raises(ValueError, match="at least 3 cells"):
        map_of(vectors[2:4], nothing)
    with pytest.raises(ValueError, match="at least 3 cells"):
        expression_map(sp.csc_matrix((2, 5)), nothing)


def test_expression_map_separates_groups() -> None:
    values = np.random.default_rng(0).random((30, 20))
    values[:15, :5] += 4
    points = expression_map(sp.csc_matrix(values), nothing)
    assert (points[:15, 0].min() > points[15:, 0].max()) or (points[:15, 0].max() < points[15:, 0].min())
