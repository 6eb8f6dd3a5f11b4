"""Change of a context from those of similar contexts."""

from __future__ import annotations

import numpy as np
import pytest

from cell2sen.data.similar_contexts import TEMPERATURES, KnownChanges, Transfer, fit_transfer


def known(seed: int = 0, n: int = 5, genes: int = 80) -> KnownChanges:
    """Contexts of two kinds, which differ in their controls and in how they respond; falls are shares."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(n) % 2
    base = rng.exponential(1.0, (2, genes))
    controls = base[kinds] * rng.uniform(0.8, 1.2, (n, genes))
    controls[:, 0] = 0  # never expressed
    effects = np.where(rng.random((2, genes)) < 0.5, rng.uniform(0, 2, (2, genes)), 0)
    shares = np.where(effects == 0, -rng.uniform(0, 0.9, (2, genes)), 0)
    changes = effects[kinds] + shares[kinds] * controls
    return KnownChanges(controls=controls, changes=changes, n_cells=[10 * (k + 1) for k in range(n)])


def by_hand(rule: Transfer, control, levels, others: KnownChanges):
    """The same, gene by gene."""
    rho = [float(np.corrcoef(control, other)[0, 1]) for other in others.controls]
    raw = [n**0.5 * np.exp((r - max(rho)) / rule.temperature) for n, r in zip(others.n_cells, rho, strict=True)]
    predicted = np.zeros_like(levels)
    for gene in range(len(levels)):
        for weight, before, change in zip(raw, others.controls[:, gene], others.changes[:, gene], strict=True):
            falls = rule.shares and change < 0
            step = change / before * levels[gene] if falls else change
            predicted[gene] += weight / sum(raw) * step
    return predicted


@pytest.mark.parametrize("rule", [Transfer(), Transfer(temperature=0.02, shares=False), Transfer(temperature=np.inf)])
def test_change_is_that_of_the_definition(rule: Transfer) -> None:
    contexts = known()
    control, others = contexts.controls[0], contexts.without(0)
    np.testing.assert_allclose(rule.change(control, others), by_hand(rule, control, control, others))
    levels = np.stack([control * 0.5, control * 0])
    expected = [by_hand(rule, control, level, others) for level in levels]
    np.testing.assert_allclose(rule.change(control, others, levels), expected)
    if rule.shares:
        assert (control + rule.change(control, others) >= 0).all()
        assert (rule.change(control, others, levels)[1] >= 0).all()  # what is not expressed cannot fall


def test_like_contexts_and_shares_are_found_to_be_better() -> None:
    contexts = known(n=7)
    rule = fit_transfer([contexts.without(6)])
    assert rule.shares
    assert rule.temperature < np.inf
    truth = contexts.changes[6]

    def error(other: Transfer) -> float:
        return float(np.abs(other.change(contexts.controls[6], contexts.without(6)) - truth).mean())

    assert error(rule) < 0.5 * error(Transfer(temperature=np.inf, shares=False))


def test_the_rule_depends_on_the_given_contexts_alone_and_not_on_their_order() -> None:
    contexts = known(n=6)
    mixed = np.array([3, 1, 5, 0, 4, 2])
    same = KnownChanges(
        controls=contexts.controls[mixed], changes=contexts.changes[mixed], n_cells=[contexts.n_cells[k] for k in mixed]
    )
    assert fit_transfer([contexts]) == fit_transfer([same])
    control = known(1).controls[0]
    np.testing.assert_allclose(Transfer().change(control, contexts), Transfer().change(control, same))


def test_two_contexts_leave_nothing_to_weight() -> None:
    assert fit_transfer([known(n=2)]) == Transfer()
    assert fit_transfer([], Transfer(temperature=TEMPERATURES[0])) == Transfer(temperature=TEMPERATURES[0])


def test_a_context_without_variance_is_as_unlike_as_can_be_without_an_opposite() -> None:
    contexts = known(n=3)
    flat = KnownChanges(
        controls=np.vstack([contexts.controls[:1], np.ones((1, 80))]),
        changes=contexts.changes[:2],
        n_cells=[1, 1],
    )
    weights = Transfer().weights(contexts.controls[2], flat)
    assert weights[0] > 0.99
    np.testing.assert_allclose(weights.sum(), 1)
