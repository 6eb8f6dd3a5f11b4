"""Metrics of profiles and their cells: how often another sample is closer than the own one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cell2sen.evaluation.metrics import metric


def closer_than_own(similarity: NDArray[np.float64], own: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of samples that are more similar than the true match, for each profile, float64 (profiles,).

    The mean of two shares: of the other profiles, for the cells of the profile (averaged over these cells); and of the
    cells of other profiles, for the profile (averaged over its own cells). Ties count half. NaN for a single profile.

    Parameters
    ----------
    similarity
        float64 (profiles, cells), higher is closer.
    own
        Profile of each cell, int64 (cells,); each has at least one.
    """
    n_profiles, n_cells = similarity.shape
    if n_profiles < 2:
        return np.full(n_profiles, np.nan)
    columns = np.arange(n_cells)
    match = similarity[own, columns]
    higher = (similarity > match).sum(axis=0) + 0.5 * ((similarity == match).sum(axis=0) - 1)
    sizes = np.bincount(own, minlength=n_profiles)
    among_profiles = np.bincount(own, higher, n_profiles) / sizes / (n_profiles - 1)
    among_cells = np.empty(n_profiles)
    for profile in range(n_profiles):
        mine = own == profile
        others = np.sort(similarity[profile, ~mine])
        left = np.searchsorted(others, similarity[profile, mine], side="left")
        right = np.searchsorted(others, similarity[profile, mine], side="right")
        among_cells[profile] = np.mean(1 - (left + right) / (2 * len(others)))
    return np.asarray((among_profiles + among_cells) / 2, dtype=np.float64)


@metric(level="pairs", perfect=0.0, range=(0.0, 1.0), undefined="there is only one profile")
def foscttm_of_profiles(similarity: NDArray[np.float64], own: NDArray[np.int64]) -> float:
    """Fraction of samples closer than the true match, of profiles and their cells; 0 is perfect, 0.5 chance.

    With several cells for each profile (ten in Rizvi et al. 2025), cells of the same profile are no mistakes; with one,
    this is :func:`cell2sen.evaluation.metrics.distributions.foscttm` (Liu et al., WABI 2019) of the same similarities.
    Averaged over profiles.

    Parameters
    ----------
    similarity
        (profiles, cells), higher is closer.
    own
        Profile of each cell, (cells,).
    """
    return float(np.mean(closer_than_own(np.asarray(similarity, dtype=np.float64), np.asarray(own))))
