"""The compiled counting sort equals NumPy's sort, which is used where numba is missing or slower."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.sparse as sp
from ranks import words

from cell2sen.sentences import counting_sort
from cell2sen.sentences.ranking import Ranker, Recipe


def test_equals_the_sort_of_numpy():
    pytest.importorskip("numba")
    random = np.random.default_rng(0)
    values = sp.random(300, 20_001, 0.05, format="csr", rng=random)
    values.data = np.ceil(random.pareto(0.7, values.nnz)).astype(np.float32)
    values.data[:3] = 255, 256, 2**17 - 1
    ranker = Ranker([f"G{gene}" for gene in range(20_001)], Recipe())
    indptr, counts = values.indptr.astype(np.int64), np.minimum(values.data, 2**17 - 1).astype(np.int32)
    by_numpy = ranker._sort_counts(indptr, values.indices, counts.copy())
    indices = values.indices.astype(np.int64)
    for read_only in (indptr, indices, counts):
        read_only.flags.writeable = False
    kernel = counting_sort.compiled()
    genes = np.empty(len(counts), dtype=np.int32)
    others = counting_sort.rank_counts(kernel, indptr, indices, counts, ranker._place_of, ranker._gene_at, out=genes)
    for array, expected in zip((genes, *others), by_numpy, strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("different", [0, 40, 1000, 1001])
@pytest.mark.parametrize("max_genes", [None, 30])
def test_values_of_which_a_cell_has_few_are_ranked_as_by_numpy(monkeypatch, different, max_genes):
    """Logarithms of normalised counts; and a last cell with so many different values."""
    pytest.importorskip("numba")
    random = np.random.default_rng(1)
    values = sp.random(300, 5000, 0.2, format="csr", rng=random)
    values.data = np.ceil(random.pareto(0.7, values.nnz))
    values = values.multiply(1e4 / values.sum(axis=1)).log1p().tocsr().astype(np.float32)
    if different:
        last = slice(values.indptr[-2], values.indptr[-1])
        n = last.stop - last.start
        few = np.linspace(1, 2, different, dtype=np.float32)
        values = sp.csr_matrix(
            (np.append(values.data[: last.start], few[np.arange(max(n, different)) % different]),
             np.append(values.indices[: last.start], np.arange(max(n, different))),
             np.append(values.indptr[:-1], last.start + max(n, different))), values.shape,
        )  # fmt: skip
    taken: list[bool] = []
    numbered = counting_sort.numbered

    def spy(*arguments):
        found = numbered(*arguments)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(counting_sort, "numbered", spy)
    ranker = Ranker([f"G{gene}" for gene in range(5000)], Recipe())
    ranked = ranker.ranked(values, max_genes=max_genes)
    assert taken == [different <= counting_sort.MOST_VALUES]
    monkeypatch.setattr(counting_sort, "kernel", lambda *_: None)
    for array, expected in zip(ranked, ranker.ranked(values, max_genes=max_genes), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_counts_are_ranked_without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(counting_sort, "MIN_COUNTS", 0)
    counting_sort.compiled.cache_clear()
    try:
        assert counting_sort.kernel(10, 1, 10) is None
        assert words([[0, 3, 1, 0, 0, 9, 0, 0, 0, 0]]) == [["MT-CO1", "Actb", "ACTB"]]
    finally:
        counting_sort.compiled.cache_clear()


def test_few_counts_and_sparse_cells_are_sorted_by_numpy(monkeypatch):
    monkeypatch.setattr(counting_sort, "compiled", lambda *_: "compiled")
    assert counting_sort.kernel(2**17, 100, 20_000) == "compiled"
    assert counting_sort.kernel(2**17 - 1, 100, 20_000) is None
    assert counting_sort.kernel(2**17, 500, 20_000) is None


@pytest.mark.slow
def test_a_full_disk_does_not_stop_the_ranking(monkeypatch):
    numba = pytest.importorskip("numba")
    njit = numba.njit

    def without_cache(*arguments, **options):
        if options.get("cache"):
            raise OSError("no space left on device")
        return njit(*arguments, **options)

    monkeypatch.setattr(numba, "njit", without_cache)
    counting_sort.compiled.cache_clear()
    try:
        monkeypatch.setattr(counting_sort, "MIN_COUNTS", 0)
        assert words([[0, 3, 1, 0, 0, 9, 0, 0, 0, 0]]) == [["MT-CO1", "Actb", "ACTB"]]
        assert counting_sort.compiled() is not None
    finally:
        counting_sort.compiled.cache_clear()
