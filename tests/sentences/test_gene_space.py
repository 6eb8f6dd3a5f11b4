"""Gene space: weights of ranks by their formula, features beside an eigendecomposition."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from letters import GENES, sentences_of

from cell2sen.sentences.gene_space import DEVIATION_OFFSET, GeneSpace, rank_weights


def test_weights_fall_with_the_logarithm_of_the_rank() -> None:
    found = rank_weights(sentences_of("CAB", "", "EA"), ["C", "B", "A", "Z"], n_genes=4)
    third, second = 1 - np.log(3) / np.log(5), 1 - np.log(2) / np.log(5)
    expected = np.array([[1, third, second, 0], [0, 0, 0, 0], [0, 0, second, 0]])
    norms = np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(found.toarray(), expected / norms, atol=1e-12)


def test_genes_beyond_the_length_do_not_count() -> None:
    found = rank_weights(sentences_of("ABCDE"), GENES, n_genes=2).toarray()
    assert (found[0, 2:] == 0).all()
    assert found[0, 0] > found[0, 1] > 0


def test_a_cell_does_not_depend_on_others() -> None:
    cells = ("CAB", "EDCBA", "AD")
    whole = rank_weights(sentences_of(*cells), GENES).toarray()
    for row, cell in enumerate(cells):
        assert (rank_weights(sentences_of(cell), GENES).toarray() == whole[[row]]).all()


def test_vectors_are_eigenvectors_of_scaled_weights() -> None:
    weights = sp.random(40, 6, density=0.7, random_state=0, format="csr")
    space = GeneSpace.of(weights, (*GENES, "F"), 3)
    dense = weights.toarray()
    scaled = dense / (dense.std(axis=0) + DEVIATION_OFFSET)
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    expected = np.abs(scaled @ vectors[:, ::-1][:, :3])
    np.testing.assert_allclose(np.abs(space.features(weights)), expected, rtol=1e-4, atol=1e-4)
    assert np.linalg.norm(space.features(weights), axis=0) == pytest.approx(np.sqrt(values[::-1][:3]), rel=1e-4)


def test_residual_is_the_norm_of_what_a_projection_leaves() -> None:
    weights = sp.vstack([sp.random(40, 6, density=0.7, random_state=0), sp.csr_matrix((1, 6))], format="csr")
    space = GeneSpace.of(weights, (*GENES, "F"), 3)
    dense = weights.toarray()
    scaled = dense / (dense.std(axis=0) + DEVIATION_OFFSET)
    vectors = np.linalg.eigh(scaled.T @ scaled)[1][:, ::-1][:, :3]
    rest = np.linalg.norm(scaled - scaled @ vectors @ vectors.T, axis=1)
    expected = rest[:-1] / np.linalg.norm(scaled[:-1], axis=1)
    np.testing.assert_allclose(space.residual(weights)[:-1], expected, atol=1e-4)
    assert space.residual(weights)[-1] == 1.0
