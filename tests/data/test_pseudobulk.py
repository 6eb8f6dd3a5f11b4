"""Pseudobulk: sums beside those of pandas and of scanpy; scales; groups."""

from __future__ import annotations

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from cells import cells

from cell2sen.data.expression import Expression
from cell2sen.data.pseudobulk import check_summable, sum_groups, unit_of_sums, weighted_sums
from cell2sen.data.scale.units import COUNTS, LN_CP10K, Scale


def many() -> anndata.AnnData:
    adata = cells(40)
    adata.obs["type"] = [("B", "T", "NK")[row % 3] for row in range(40)]
    return adata


def test_sums_are_those_of_pandas() -> None:
    adata = many()
    with Expression.open(adata) as expression:
        bulk = sum_groups(expression, ["donor", "type"])
    table = pd.DataFrame(adata.X.toarray(), columns=adata.var_names).groupby(
        [adata.obs["donor"].to_numpy(), adata.obs["type"].to_numpy()]
    )
    assert bulk.names == [" | ".join(key) for key in bulk.keys]
    assert len(bulk.keys) == 6
    for key, values, n in zip(bulk.keys, bulk.values.toarray(), bulk.n_cells, strict=True):
        assert np.array_equal(values, table.sum().loc[key].to_numpy())
        assert n == table.size().loc[key]


def test_sums_are_those_of_scanpy() -> None:
    scanpy = pytest.importorskip("scanpy")
    adata = many()
    expected = scanpy.get.aggregate(adata, "type", "sum")
    with Expression.open(adata) as expression:
        bulk = sum_groups(expression, ["type"])
    order = [list(expected.obs_names).index(name) for name in bulk.names]
    assert np.array_equal(bulk.values.toarray(), np.asarray(expected.layers["sum"])[order])


@pytest.mark.parametrize(
    ("scale", "back"),
    [
        ("counts", lambda counts, cp10k: counts),
        ("log1p", lambda counts, cp10k: cp10k),
        ("log2", lambda counts, cp10k: cp10k),
        ("cp10k", lambda counts, cp10k: cp10k),
    ],
)
def test_logarithms_are_undone(scale: str, back) -> None:
    adata = many()
    counts = adata.X.toarray().astype(np.float64)
    cp10k = counts / counts.sum(axis=1, keepdims=True) * 1e4
    values = {"counts": counts, "log1p": np.log1p(cp10k), "log2": np.log2(1 + cp10k), "cp10k": cp10k}[scale]
    adata.X = sp.csr_matrix(values)
    with Expression.open(adata, scale=scale) as expression:
        bulk = sum_groups(expression, ["donor"])
    expected = np.array([back(counts, cp10k)[adata.obs["donor"] == donor].sum(axis=0) for (donor,) in bulk.keys])
    np.testing.assert_allclose(bulk.values.toarray(), expected, rtol=1e-6)


def test_weights_are_times() -> None:
    adata = many()
    weights = np.random.default_rng(0).integers(0, 3, size=(4, 40))
    with Expression.open(adata) as expression:
        sums = weighted_sums(expression, sp.csr_matrix(weights))
    assert np.array_equal(sums.toarray(), weights @ adata.X.toarray())


def test_missing_values_and_small_groups(caplog: pytest.LogCaptureFixture) -> None:
    adata = many()
    adata.obs["type"] = ["B", None, *["T"] * 38]
    with caplog.at_level(logging.WARNING), Expression.open(adata) as expression:
        assert sum_groups(expression, ["type"]).names == ["B", "T"]
        assert "1 of 40 cells have no value in 'type': they are in no pseudobulk sample" in " ".join(
            caplog.text.split()
        )
        assert sum_groups(expression, ["type"], min_cells=2).names == ["T"]
        with pytest.raises(ValueError, match="none of the 2 groups of type has 39 cells; the largest has 38"):
            sum_groups(expression, ["type"], min_cells=39)
        with pytest.raises(ValueError, match="at least one obs column"):
            sum_groups(expression, [])
        with pytest.raises(KeyError, match="no column 'kind'"):
            sum_groups(expression, ["kind"])


def test_scales_that_cannot_be_added() -> None:
    with pytest.raises(ValueError, match=r"arcsinh\(x / c\) with an unknown c"):
        check_summable(Scale(kind="arcsinh"), "X")
    assert unit_of_sums(COUNTS) == unit_of_sums(Scale(kind="log", base="e", of_counts=True)) == "counts"
    assert unit_of_sums(LN_CP10K) == "normalised values, total 1e+04 per cell"
