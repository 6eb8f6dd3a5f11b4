"""What gene tokens start from, against NumPy's decomposition and counts by hand."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from cell2sen.training.gene_vectors import change_vectors, gene_vectors, log_frequency


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


def groups() -> list[tuple[np.ndarray, int, np.ndarray, int, list[str]]]:
    """Two contexts in which A rises and B falls, in the second C rises, too; D is noise."""
    return [
        (np.array([90.0, 10, 50, 3]), 100, np.array([10.0, 90, 50, 1]), 100, ["A", "B", "C", "D"]),
        (np.array([90.0, 10, 80, 0]), 100, np.array([10.0, 90, 5, 2]), 100, ["A", "B", "C", "D"]),
    ]


def test_change_vectors_are_those_of_the_shrunken_log_frequencies() -> None:
    genes = ["E", "D", "C", "B", "A"]
    rows = []
    for treated, n, control, m, symbols in groups():
        row = np.zeros(5)
        for k, j, symbol in zip(treated, control, symbols, strict=True):
            change, error = np.log((k + 1) / (n + 2)) - np.log((j + 1) / (m + 2)), 1 / (k + 1) + 1 / (j + 1)
            row[genes.index(symbol)] = change * max(0.0, 1 - 3 * error / change**2) if change else 0.0
        rows.append(row)
    found = change_vectors(groups(), genes, 4)
    assert np.abs(found[:2]).max() < 1e-6  # no such gene; noise
    assert (found[:, 2:] == 0).all()  # two groups have two directions
    assert abs(np.mean(found[:, 0] ** 2) - 1) < 1e-5
    # Both rows are sums of the two columns.
    fitted, *_ = np.linalg.lstsq(found[:, :2].astype(float), np.array(rows).T, rcond=None)
    np.testing.assert_allclose(found[:, :2] @ fitted, np.array(rows).T, atol=1e-5)
    assert found[4, 0] > 1 > -1 > found[3, 0]  # A up, B down
    assert np.abs(found[2, 1]) > np.abs(found[2, 0]) / 4  # what tells the contexts apart


def test_nothing_changes() -> None:
    same = (np.array([5.0, 5]), 10, np.array([5.0, 5]), 10, ["A", "B"])
    assert (change_vectors([same], ["A", "B"], 2) == 0).all()
    assert (change_vectors([], ["A", "B"], 2) == 0).all()
