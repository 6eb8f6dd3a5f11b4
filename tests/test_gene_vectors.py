"""What gene tokens start from, against NumPy's decomposition and counts by hand."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from cell2sen.gene_vectors import gene_vectors, log_frequency


def matrices() -> list[tuple[sp.csr_matrix, list[str]]]:
    generator = np.random.default_rng(0)
    one = generator.poisson(1.0, (30, 4)).astype(np.float32)
    other = generator.poisson(2.0, (20, 3)).astype(np.float32)
    return [(sp.csr_matrix(one), ["A", "B", "C", "D"]), (sp.csr_matrix(other), ["C", "X", "A"])]


def test_vectors_are_those_of_the_scaled_matrix() -> None:
    genes = ["A", "B", "C", "D", "E"]
    dense = np.zeros((50, 5))
    dense[:30, :4] = matrices()[0][0].toarray()
    dense[30:, [2, 0]] = matrices()[1][0].toarray()[:, [0, 2]]
    _, _, right = np.linalg.svd(dense / (dense.std(axis=0) + 0.1))
    found = gene_vectors(matrices(), genes, 3, seed=0)
    wanted = right[:3].T * np.sqrt(5)
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), atol=1e-4)
    assert (found[4] == 0).all()


def test_log_frequency_counts_cells() -> None:
    found, spread = log_frequency(matrices(), ["A", "B", "E"])
    shares = [{g: float((m.toarray()[:, names.index(g)] > 0).mean()) for g in names} for m, names in matrices()]
    a, b = (max(share.get(g, 0.0) for share in shares) for g in "AB")
    logs = np.log(np.array([a, b, 0.0]) + 1e-3)
    np.testing.assert_allclose(found * spread + logs.mean(), logs, rtol=1e-5)
    assert abs(found.mean()) < 1e-6
