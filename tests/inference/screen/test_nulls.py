from __future__ import annotations

import numpy as np
import pytest

from cell2sen.inference.screen.nulls import (
    against_edits,
    against_permutations,
    expression_bins,
    false_discovery_rates,
    matched_genes,
    permuted_weights,
)


def test_bins_do_not_depend_on_the_order_of_columns() -> None:
    generator = np.random.default_rng(0)
    expression, names = generator.integers(0, 9, 80) / 4, [f"G{number}" for number in range(80)]
    order = generator.permutation(80)
    bins = expression_bins(expression, names)
    assert [[names[gene] for gene in part] for part in bins] == [
        [[names[i] for i in order][gene] for gene in part]
        for part in expression_bins(expression[order], [names[i] for i in order])
    ]
    assert sorted(np.concatenate(bins)) == np.flatnonzero(expression).tolist()
    assert max(expression[bins[0]]) <= min(expression[bins[-1]])


def test_weights_stay_in_their_bin() -> None:
    weights, bins = np.arange(10.0), [np.arange(5), np.arange(5, 9)]
    permuted = permuted_weights(weights, bins, 50, seed=3)
    assert permuted.shape == (50, 10)
    for row in permuted:
        assert sorted(row[:5]) == [0, 1, 2, 3, 4]
        assert sorted(row[5:9]) == [5, 6, 7, 8]
        assert row[9] == 9
    assert len({tuple(row) for row in permuted}) > 40
    assert np.array_equal(permuted, permuted_weights(weights, bins, 50, seed=3))


def test_permutation_p_values_are_uniform_without_an_effect_and_small_with_one() -> None:
    generator = np.random.default_rng(1)
    null = generator.normal(2, 3, size=(400, 199))
    effects = generator.normal(2, 3, size=400)
    effects[0] = 40
    centre, spread, p = against_permutations(effects, null)
    assert p[0] == 1 / 200
    assert np.mean(p[1:] < 0.1) == pytest.approx(0.1, abs=0.05)
    assert centre.mean() == pytest.approx(2, abs=0.1)
    assert spread.mean() == pytest.approx(3, abs=0.1)


def test_edits_are_compared_with_those_of_similar_expression() -> None:
    """Edits of common genes shift cells more: the null must not take that for an effect."""
    generator = np.random.default_rng(2)
    null_at, at = generator.uniform(0, 4, 300), np.array([0.2, 3.8, 0.2, np.nan])[:3]
    null = generator.normal(size=300) * (0.05 + null_at)
    p = against_edits(np.array([2.0, 2.0, 0.05]), at, null, null_at)[2]
    assert p[0] < 0.02 < 0.2 < p[1]
    assert p[2] > 0.2
    assert np.isnan(against_edits(np.array([1.0]), np.array([1.0]), null[:2], null_at[:2])[2]).all()


def test_matched_genes_follow_the_candidates() -> None:
    expression = np.linspace(0, 1, 200)
    names = [f"G{number}" for number in range(200)]
    candidates = list(range(150, 190))
    pool = [gene for gene in range(200) if gene not in candidates]
    drawn = matched_genes(candidates, pool, expression, names, 20, seed=0)
    assert len(set(drawn)) == 20
    assert not set(drawn) & set(candidates)
    assert expression[drawn].mean() > 0.7
    assert matched_genes(candidates, pool[:5], expression, names, 20, seed=0) == pool[:5]


def test_rates_by_hand() -> None:
    p = np.array([0.01, 0.02, np.nan, 0.9])
    assert false_discovery_rates(p) == pytest.approx([0.03, 0.03, np.nan, 0.9], nan_ok=True)
