"""Metrics of mean expression, against SciPy and counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from cell2sen.evaluation.metrics import changes, get, profiles


@pytest.fixture
def vectors() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.gamma(0.3, 1.0, 400) * (rng.random(400) < 0.5)
    return truth, np.maximum(truth + rng.normal(0, 0.4, 400), 0)


def test_correlations_equal_scipy(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = vectors
    assert profiles.pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-12)
    assert profiles.spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    assert profiles.kendall_tau(x, y) == pytest.approx(tau_b(x, y), abs=1e-12)


def tau_b(x: np.ndarray, y: np.ndarray) -> float:
    """Every pair of genes by itself."""
    concordant = discordant = only_x = only_y = 0
    for i in range(len(x)):
        for j in range(i):
            a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
            concordant += a * b > 0
            discordant += a * b < 0
            only_x += a == 0 and b != 0
            only_y += a != 0 and b == 0
    both = concordant + discordant
    return (concordant - discordant) / math.sqrt((both + only_x) * (both + only_y))


def test_constant_vectors_have_no_correlation(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    x, _ = vectors
    for function in (profiles.pearson, profiles.spearman, profiles.kendall_tau):
        assert math.isnan(function(x, np.full_like(x, 0.1)))
    # 0.1 summed up is not 0.1 × n: what is left of it after centring is no signal.
    assert math.isnan(profiles.pearson(np.full(1000, 0.1) + 1e-17, np.arange(1000.0)))
    assert profiles.pearson(1e-9 * x, x) == pytest.approx(1)


def test_rows_are_computed_one_by_one(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    rng = np.random.default_rng(2)
    truth = np.stack([rng.permutation(vectors[0]) for _ in range(5)])
    answer = np.stack([rng.permutation(vectors[1]) for _ in range(5)])
    answer[3] = 1.0
    order = rng.permutation(400)
    others = rng.normal(size=(3, 400))
    calls = {
        profiles.pearson: {}, profiles.spearman: {}, changes.pearson_delta: {}, changes.spearman_delta: {},
        changes.pearson_delta_disjoint: {}, changes.changed_overlap_50: {}, changes.rmse_delta: {},
        profiles.gene_overlap: {},
        changes.pearson_delta_top20: {"genes": order}, changes.pearson_delta_top50: {"genes": order},
        changes.direction_top50: {"genes": order}, changes.discrimination: {"others": others},
    }  # fmt: skip
    for function, extra in calls.items():
        one_by_one = [function(x, y, **extra) for x, y in zip(truth, answer, strict=True)]
        np.testing.assert_allclose(function(truth, answer, **extra), one_by_one, err_msg=function.__name__)


def test_fast_replicates_agree_with_the_metric_on_average() -> None:
    rng = np.random.default_rng(3)
    truth = np.tile(rng.gamma(0.3, 1.0, 3000) * (rng.random(3000) < 0.5), (4, 1))
    answer = truth + rng.gamma(0.3, 0.3, truth.shape)
    for name in ("kendall_tau", "spearman"):
        metric = get(name)
        exact = [metric.function(x, y) for x, y in zip(truth, answer, strict=True)]
        np.testing.assert_allclose(metric.resampling.score(truth, answer), exact, atol=0.05)


def test_gene_overlap_names_its_denominator() -> None:
    truth, answer = ["A", "B", "C", "D"], ["B", "A", "X"]
    assert profiles.gene_overlap(truth, answer, k=4) == 2 / 4
    assert profiles.gene_overlap(truth, answer, k=4, denominator="union") == 2 / 5
    assert profiles.gene_overlap(truth, answer, k=1) == 0
    genes = np.array(["A", "B", "C", "D", "X"])
    first = np.array([4.0, 3, 2, 1, 0])
    second = np.array([2.0, 3, 0, 0, 1])
    for denominator in ("k", "union"):
        as_sentences = [[*genes[np.argsort(-v, kind="stable")][: int((v > 0).sum())]] for v in (first, second)]
        expected = profiles.gene_overlap(*as_sentences, k=4, denominator=denominator)
        assert profiles.gene_overlap(first, second, k=4, denominator=denominator) == expected


def test_top_takes_ties_in_the_order_of_genes_and_never_zeros() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        values = rng.integers(0, 4, 30).astype(float)
        for k in (1, 7, 30, 40):
            expected = np.zeros(30, bool)
            expected[[at for at in np.argsort(-values, kind="stable")[:k] if values[at] > 0]] = True
            assert (profiles.top(values, k) == expected).all()
