"""Features against scikit-learn and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA

from cell2sen.inference.transfer.features import BlockName, Space, variable_genes


def data(n: int = 40, d: int = 6, genes: int = 30) -> tuple[np.ndarray, sp.csr_matrix]:
    generator = np.random.default_rng(0)
    vectors = generator.normal(3, [1, 2, 3, 4, 5, 0], size=(n, d)).astype(np.float32)
    return vectors, sp.csr_matrix(generator.poisson(generator.gamma(1, 1, genes), (n, genes)).astype(np.float32))


def test_embedding_has_variance_one() -> None:
    vectors, _ = data()
    features = Space.of(vectors, None)("embedding", vectors, None)
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(features.std(axis=0), [1, 1, 1, 1, 1, 0], atol=1e-9)


def test_expression_is_a_scaled_pca_of_the_reference() -> None:
    vectors, expression = data()
    space = Space.of(vectors, expression)
    expected = PCA(30, svd_solver="full").fit(expression.toarray().astype(np.float64))
    components = expected.transform(expression.toarray().astype(np.float64))
    components /= np.sqrt(np.mean(expected.explained_variance_))
    mine = space("components", vectors, expression)
    np.testing.assert_allclose(np.abs(mine), np.abs(components), atol=1e-6)


def test_genes_of_all_cells_have_one_length() -> None:
    vectors, expression = data()
    dense = expression.toarray().astype(np.float64)
    dense[4] = 0
    expression = sp.csr_matrix(dense)
    lengths = np.linalg.norm(dense, axis=1)
    expected = dense / np.maximum(lengths, 1e-9)[:, None] * np.sqrt(np.mean(lengths**2))
    np.testing.assert_allclose(Space.of(vectors, expression)("genes", vectors, expression).toarray(), expected)
    chosen = Space.of(vectors, expression)("genes", vectors, sp.csr_matrix(3 * expression))
    np.testing.assert_allclose(chosen.toarray(), expected)


@pytest.mark.parametrize("name", ["embedding", "genes", "components"])
def test_a_cell_has_its_features_alone(name: BlockName) -> None:
    vectors, expression = data()
    space = Space.of(vectors, expression)
    whole = sp.csr_matrix(space(name, vectors, expression)).toarray()
    part = sp.csr_matrix(space(name, vectors[[7, 3]], sp.csr_matrix(expression[[7, 3]]))).toarray()
    np.testing.assert_allclose(part, whole[[7, 3]], atol=1e-12)
    assert space(name, vectors[:0], sp.csr_matrix(expression[:0])).shape == (0, whole.shape[1])


def test_variable_genes() -> None:
    matrix = np.array([[0, 5, 1, 2], [0, 0, 1, 4], [0, 1, 1, 3]], dtype=np.float32)
    assert variable_genes(sp.csr_matrix(matrix), 2).tolist() == [1, 3]
    assert variable_genes(sp.csr_matrix(matrix), 9).tolist() == [0, 1, 2, 3]
