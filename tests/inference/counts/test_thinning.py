"""Counts of predicted cells: exact sums, expectation, thinning, and no dependence on order or company."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from cell2sen.inference.counts.thinning import predicted_counts

GENES = [f"G{number:02d}" for number in range(30)]


def cells(n: int, seed: int = 0) -> sp.csr_matrix:
    return sp.csr_matrix(np.random.default_rng(seed).poisson(4, (n, 30)).astype(np.float32))


def ln(counts: sp.csr_matrix) -> sp.csr_matrix:
    values = counts.toarray()
    return sp.csr_matrix(np.log1p(1e4 * values / values.sum(1, keepdims=True)).astype(np.float32))


def moved(counts: sp.csr_matrix) -> sp.csr_matrix:
    values = ln(counts).toarray()
    values[:, :5] *= 0.8
    values[:, 25:] += 1
    return sp.csr_matrix(values)


def test_whole_numbers_with_the_measured_sum() -> None:
    measured = cells(20)
    found = predicted_counts(measured, moved(measured), [f"c{n}" for n in range(20)], GENES).toarray()
    assert (found == np.rint(found)).all()
    assert (found >= 0).all()
    np.testing.assert_array_equal(found.sum(1), measured.toarray().sum(1))


def test_no_change_keeps_every_count() -> None:
    measured = cells(20)
    found = predicted_counts(measured, ln(measured), [f"c{n}" for n in range(20)], GENES)
    np.testing.assert_array_equal(found.toarray(), measured.toarray())


def test_falling_genes_never_rise_and_means_are_those_wanted() -> None:
    measured = cells(1)
    many = sp.csr_matrix(np.repeat(measured.toarray(), 4000, axis=0))
    want = np.expm1(moved(measured).toarray()[0].astype(float))
    want *= measured.toarray().sum() / want.sum()
    found = predicted_counts(many, moved(many), [f"c{n}" for n in range(4000)], GENES).toarray()
    falls = want <= measured.toarray()[0]
    assert (found[:, falls] <= measured.toarray()[0, falls]).all()
    np.testing.assert_allclose(found.mean(0), want, atol=0.12)


def test_order_of_cells_and_genes_and_company_change_nothing() -> None:
    measured, names = cells(12), [f"c{n}" for n in range(12)]
    wanted = moved(measured)
    whole = predicted_counts(measured, wanted, names, GENES).toarray()
    one = predicted_counts(measured[3], wanted[3], names[3:4], GENES).toarray()
    np.testing.assert_array_equal(one[0], whole[3])
    backwards = predicted_counts(measured[:, ::-1], wanted[:, ::-1], names, GENES[::-1]).toarray()[:, ::-1]
    np.testing.assert_array_equal(backwards, whole)
    assert (predicted_counts(measured, wanted, names, GENES, seed=1).toarray() != whole).any()


def test_an_empty_cell_stays_empty() -> None:
    empty = sp.csr_matrix((1, 30), dtype=np.float32)
    assert predicted_counts(empty, moved(cells(1)), ["c"], GENES).nnz == 0


@pytest.mark.parametrize("value", [-1.0, 0.5])
def test_values_that_are_no_counts_are_refused(value: float) -> None:
    wrong = sp.csr_matrix(np.full((1, 30), value, dtype=np.float32))
    with pytest.raises(ValueError, match="whole and not negative"):
        predicted_counts(wrong, moved(cells(1)), ["c"], GENES)
