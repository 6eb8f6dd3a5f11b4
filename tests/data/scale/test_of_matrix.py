"""Scale of an open matrix: given scales, matrices of 0 and 1, totals from obs."""

from __future__ import annotations

import logging

import anndata
import numpy as np
import pytest

from cell2sen.data.expression import Expression
from cell2sen.data.scale.units import COUNTS, LN_CP10K, Scale

N, GENES = 50, 60


def with_values(values: np.ndarray) -> anndata.AnnData:
    adata = anndata.AnnData(values)
    adata.var_names = [f"GENE{number}" for number in range(values.shape[1])]
    return adata


def test_a_given_scale(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="cell2sen")
    counts = np.random.default_rng(0).poisson(2.0, size=(N, GENES)).astype(np.float64)
    expected = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    adata = with_values(np.log2(1 + counts / counts.sum(axis=1, keepdims=True) * 777))
    np.testing.assert_allclose(Expression.open(adata, scale="log2").ln_cp10k().toarray(), expected, rtol=1e-5)
    assert not caplog.records
    assert Expression.open(adata, scale="auto").scale == Expression.open(adata).scale
    given = Expression.open(adata, scale="log1p")
    assert given.scale == LN_CP10K
    assert "scale='log1p' was given, but the values of X look like log base 2 of 1 + x, total 777" in caplog.text
    with pytest.raises(ValueError, match=r"scale must be one of auto, counts, .*; found 'cp1k'"):
        Expression.open(adata, scale="cp1k")
    adata.X = counts * 100
    with pytest.raises(ValueError, match="counts would be impossible"):
        Expression.open(adata, scale="ln")
    adata.X = counts - 1
    with pytest.raises(ValueError, match="must not be negative"):
        Expression.open(adata, scale="counts")


def test_zeros_and_ones_are_refused_unless_they_are_given_as_counts(caplog: pytest.LogCaptureFixture) -> None:
    ones = (np.random.default_rng(0).random((20, 60)) < 0.4).astype(np.float32)
    adata = with_values(ones)
    with pytest.raises(ValueError, match=r"all expressed genes of a cell have the same value \(1\).*scale='counts'"):
        Expression.open(adata)
    assert Expression.open(adata, scale="counts").scale == COUNTS
    assert "scale='counts' was given, but the values of X are doubtful: all expressed genes of a cell" in caplog.text


def test_counts_that_obs_records_tell_the_total() -> None:
    counts = np.random.default_rng(0).poisson(2.0, size=(N, 60)).astype(np.float64)
    whole = with_values(np.log1p(counts / counts.sum(axis=1, keepdims=True) * 2e3))
    part = whole[:, :30].copy()
    assert not Expression.open(part).scale.certain
    part.obs["total_counts"] = counts.sum(axis=1)
    assert Expression.open(part).scale == Scale(kind="log", base="e", total=2e3)
    part.obs["total_counts"] = np.random.default_rng(0).permutation(counts.sum(axis=1))
    assert not Expression.open(part).scale.certain
