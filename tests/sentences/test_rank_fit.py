"""RankFit: the line equals NumPy's polynomial fit; sums by run equal sums by entry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import SYMBOLS, any_values

from cell2sen.sentences.rank_fit import RankFit, RankFitter, inverse_transform, rank_sums, run_sums
from cell2sen.sentences.ranking import Ranker, Recipe


def slow_fit(cells):
    """NumPy's polynomial fit on the pooled entries with log10(1 + rank) < 3, R² on all."""
    x = np.concatenate([np.log10(1 + np.arange(len(cell))) for cell in cells])
    y = np.concatenate(cells)
    slope, intercept = np.polyfit(x[x < 3], y[x < 3], 1)
    return slope, intercept, 1 - np.sum((y - intercept - slope * x) ** 2) / np.sum((y - y.mean()) ** 2)


@pytest.mark.parametrize("block", [1, 4, 30])
def test_fit_equals_polyfit(block):
    generator = np.random.default_rng(0)
    cells = [-np.sort(-generator.gamma(1.0, size=n)) for n in generator.integers(0, 3000, size=30)]
    fitter = RankFitter()
    for start in range(0, 30, block):
        part = cells[start : start + block]
        fitter.add(np.cumsum([0, *map(len, part)]), np.concatenate(part))
    fit = fitter.fit()
    np.testing.assert_allclose([fit.slope, fit.intercept, fit.r_squared], slow_fit(cells), rtol=1e-9)


def test_one_rank_gives_no_fit():
    fitter = RankFitter()
    assert fitter.fit() is None
    fitter.add(np.array([0, 1, 2]), np.array([2.0, 1.0]))
    assert fitter.fit() is None


@given(values=any_values, ties=st.sampled_from(["hash", "random"]), max_genes=st.integers(1, len(SYMBOLS)) | st.none())
@settings(max_examples=100, deadline=None)
def test_sums_by_run_equal_sums_by_entry(values, ties, max_genes):
    ranker, names = Ranker(SYMBOLS, Recipe(ties=ties)), [f"c{row}" for row in range(len(values))]
    ranked = ranker.ranked(values, names, max_genes)
    by_run = run_sums(ranked, np.log1p(ranked.values))
    by_entry = rank_sums(ranked.indptr, np.log1p(ranked.of_entries()))
    for sums, expected in zip(by_run, by_entry, strict=True):
        np.testing.assert_allclose(sums, expected, rtol=1e-12, atol=1e-12)


def test_ranks_from_999_on_are_not_fitted():
    values = np.random.default_rng(0).integers(0, 4, (5, 3000)) * (
        np.arange(3000) < [[3000], [0], [1300], [10], [3000]]
    )
    ranked = Ranker([f"G{gene}" for gene in range(3000)], Recipe()).ranked(values)
    by_entry = rank_sums(ranked.indptr, ranked.of_entries())
    assert by_entry[0][0] < by_entry[1][0]
    for sums, expected in zip(run_sums(ranked, ranked.values), by_entry, strict=True):
        np.testing.assert_allclose(sums, expected, rtol=1e-12)


def test_inverse_is_clipped_and_inverts():
    fit = RankFit(slope=-0.6757, intercept=2.2379, r_squared=0.795)  # of the tutorial of Cell2Sentence
    ranks = np.arange(2050)
    np.testing.assert_allclose(fit.position(fit.expression(ranks)), ranks, atol=1e-6)
    assert fit.expression(0) == 2.2379
    assert fit.expression(2050) > 0
    assert fit.expression(2051) == 0
    assert fit.position(99.0) == 0
    with pytest.raises(ValueError, match="falling line"):
        RankFit(slope=0.0, intercept=1.0, r_squared=0.0).position(1.0)


def test_inverse_transform():
    fit = RankFit(slope=-0.9, intercept=1.0, r_squared=1.0)  # 0 from rank 12 on
    symbols = [f"GENE{gene}" for gene in range(30)]
    lists = [["GENE4", "GENE2"], [], symbols[:20]]
    matrix = inverse_transform(lists, symbols, fit)
    assert (matrix.shape, matrix.dtype, matrix.format) == ((3, 30), np.float32, "csr")
    expected = np.zeros((3, 30))
    for row, genes in enumerate(lists):
        for rank, gene in enumerate(genes):
            expected[row, symbols.index(gene)] = max(0, 1 - 0.9 * np.log10(1 + rank))
    np.testing.assert_allclose(matrix.toarray(), expected, rtol=1e-6)
    assert matrix.toarray().min() == 0
    with pytest.raises(KeyError, match="'GENE99' is none of the 30 genes of this dataset"):
        inverse_transform([["GENE99"]], symbols, fit)
    with pytest.raises(ValueError, match="twice"):
        inverse_transform([["GENE1", "GENE1"]], symbols, fit)
