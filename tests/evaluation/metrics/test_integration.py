"""FOSCTTM of profiles and their cells beside the plain one, and beside a count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from cell2sen.evaluation.metrics.distributions import foscttm
from cell2sen.evaluation.metrics.integration import closer_than_own, foscttm_of_profiles


def by_hand(similarity: np.ndarray, own: np.ndarray) -> float:
    """Mean over profiles of both directions, pair by pair."""
    values = []
    for profile in range(len(similarity)):
        cells = [cell for cell in range(len(own)) if own[cell] == profile]
        others = [cell for cell in range(len(own)) if own[cell] != profile]

        def share(them: list[float], mine: float) -> float:
            return float(np.mean([1.0 if value > mine else 0.5 if value == mine else 0.0 for value in them]))

        first = [
            share([similarity[p, cell] for p in range(len(similarity)) if p != profile], similarity[profile, cell])
            for cell in cells
        ]
        second = [share([similarity[profile, other] for other in others], similarity[profile, cell]) for cell in cells]
        values.append((np.mean(first) + np.mean(second)) / 2)
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(5))
def test_as_counted_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    own = np.repeat([0, 1, 2, 3], [3, 1, 5, 2])
    similarity = rng.integers(0, 5, size=(4, 11)).astype(float)  # with ties
    assert foscttm_of_profiles(similarity, own) == pytest.approx(by_hand(similarity, own))
    order = rng.permutation(11)
    assert closer_than_own(similarity[:, order], own[order]) == pytest.approx(closer_than_own(similarity, own))


def test_with_one_cell_for_each_profile_it_is_the_plain_one() -> None:
    x, y = np.random.default_rng(0).random((2, 20, 3))
    assert foscttm_of_profiles(-cdist(x, y), np.arange(20)) == pytest.approx(foscttm(x, y))


def test_limits() -> None:
    own = np.repeat(np.arange(4), 3)
    perfect = np.where(np.arange(4)[:, None] == own, 1.0, 0.0)
    assert foscttm_of_profiles(perfect, own) == 0
    assert foscttm_of_profiles(1 - perfect, own) == 1
    assert foscttm_of_profiles(np.zeros((4, 12)), own) == 0.5
    assert math.isnan(foscttm_of_profiles(np.ones((1, 3)), np.zeros(3, dtype=int)))
