"""Hashes of cells: equal for equal expression in any order of genes, else different."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from cell2sen.training.corpus.distinct import cell_hashes, first_of_each

SYMBOLS = [f"G{number}" for number in range(300)]


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(0.3, (500, 300)).astype(np.float32)


def test_the_order_of_genes_and_zeros_do_not_matter(counts: np.ndarray) -> None:
    expected = cell_hashes(sp.csr_matrix(counts), SYMBOLS)
    order = np.random.default_rng(1).permutation(300)
    wider = np.hstack([counts[:, order], np.zeros((500, 3), dtype=np.float32)])
    names = [SYMBOLS[gene] for gene in order] + ["X", "Y", "Z"]
    np.testing.assert_array_equal(cell_hashes(sp.csr_matrix(wider), names), expected)
    stored = sp.csr_matrix(counts)
    stored.data[0] = 0  # a stored zero
    changed = counts.copy()
    changed[0, stored.indices[0]] = 0
    np.testing.assert_array_equal(cell_hashes(stored, SYMBOLS), cell_hashes(sp.csr_matrix(changed), SYMBOLS))


def test_other_cells_have_other_hashes(counts: np.ndarray) -> None:
    assert len(set(cell_hashes(sp.csr_matrix(counts), SYMBOLS).tolist())) == 500
    swapped = counts.copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    differ = counts[:, 0] != counts[:, 1]
    hashes = cell_hashes(sp.csr_matrix(counts), SYMBOLS), cell_hashes(sp.csr_matrix(swapped), SYMBOLS)
    np.testing.assert_array_equal(hashes[0] != hashes[1], differ)
    assert cell_hashes(sp.csr_matrix((1, 300), dtype=np.float32), SYMBOLS).tolist() == [0]


def test_first_of_each() -> None:
    hashes = [np.array([1, 2, 2, 0], dtype=np.uint64), np.array([2, 3], dtype=np.uint64)]
    assert [mask.tolist() for mask in first_of_each(hashes, [0, 1])] == [[True, True, False, False], [False, True]]
    assert [mask.tolist() for mask in first_of_each(hashes, [1, 0])] == [[True, False, False, False], [True, True]]
