"""Metrics of the change from control, and the order of differentially expressed genes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from cell2sen.evaluation.metrics import changes


def test_de_genes_equal_scanpy() -> None:
    sc = pytest.importorskip("scanpy")
    import anndata

    rng = np.random.default_rng(5)
    x = rng.gamma(1.0, 1.0, (60, 40)).astype(np.float32)
    x[:25, :6] += np.arange(6, 0, -1)
    adata = anndata.AnnData(x)
    adata.obs["group"] = ["a"] * 25 + ["b"] * 35
    adata.obs["group"] = adata.obs["group"].astype("category")
    sc.tl.rank_genes_groups(adata, "group", groups=["a"], reference="b", method="t-test", rankby_abs=True)
    expected = [int(name) for name in adata.uns["rank_genes_groups"]["names"]["a"]]
    a, b = x[:25].astype(float), x[25:].astype(float)
    order = changes.de_genes(a.mean(0), a.var(0, ddof=1), 25, (b.mean(0), b.var(0, ddof=1), 35))
    assert list(order) == expected
    t = np.abs(scipy.stats.ttest_ind(a, b, equal_var=False).statistic)
    assert (np.diff(t[order]) <= 1e-12).all()


def test_genes_without_any_variance_come_last() -> None:
    mean = np.array([1.0, 0.0, 2.0])
    order = changes.de_genes(mean, np.array([0.0, 0.0, 1.0]), 5, (np.zeros(3), np.zeros(3), 5))
    assert list(order) == [2, 0, 1]


def test_metrics_of_change_on_small_examples() -> None:
    truth = np.zeros(60)
    truth[:10] = np.arange(10, 0, -1)
    order = np.argsort(-np.abs(truth), kind="stable")
    assert changes.pearson_delta_top20(truth, 0.3 * truth, order) == pytest.approx(1)
    assert changes.pearson_delta_top20(truth, -truth, order) == pytest.approx(-1)
    assert changes.rmse_delta(truth, 0 * truth) == pytest.approx(math.sqrt(385 / 60))
    half = np.where(np.arange(60) % 2, truth, -truth)
    assert changes.direction_top50(truth[:10], half[:10], np.arange(10)) == 0.5
    assert math.isnan(changes.direction_top50(truth, 0 * truth, order))
    assert math.isnan(changes.changed_overlap_50(truth, 0 * truth))
    only = np.zeros(60)
    only[:5] = 1
    only[10:15] = 9
    assert changes.changed_overlap_50(truth, only) == 5 / 50


def test_discrimination_falls_for_exchanged_changes() -> None:
    effects = np.eye(4)
    for own in range(4):
        others = np.delete(effects, own, axis=0)
        assert changes.discrimination(effects[own], effects[own], others) == 1
        assert changes.discrimination(effects[own], effects[(own + 1) % 4], others) < 0.7
        assert changes.discrimination(effects[own], np.zeros(4), others) == 0.5
    assert math.isnan(changes.discrimination(effects[0], effects[0], np.zeros((0, 4))))
