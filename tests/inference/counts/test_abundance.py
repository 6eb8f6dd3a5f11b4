"""Wanted counts: folds of the measured counts, and rises of genes without counts."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from cell2sen.inference.counts.abundance import AbundanceChange, target_counts
from cell2sen.inference.counts.thinning import predicted_counts

GENES = [f"G{number:02d}" for number in range(40)]


def change(rows: list[int], folds: np.ndarray, mean: np.ndarray) -> AbundanceChange:
    return AbundanceChange(
        rows=np.array(rows), weights=np.ones((len(rows), 1)), abundances=mean[None], log_folds=np.log(folds)[None],
        places=np.arange(len(folds)),
    )  # fmt: skip


def test_target_counts_equal_their_definition() -> None:
    counts = np.array([4, 0, 6, 90])
    own = change([3], np.array([0.5, 3.0, 2.0]), np.array([10.0, 200.0, 100.0]))
    np.testing.assert_allclose(own.target(0, counts), [2.0, 2 * 1 * 2 / 3, 6 + 7 * 1 / 2, 90.0])
    assert target_counts([own], 2, counts) is None
    np.testing.assert_allclose(target_counts([own], 3, counts), own.target(0, counts))


def test_mean_abundance_of_many_cells_changes_by_the_folds() -> None:
    rng = np.random.default_rng(0)
    rate = rng.gamma(0.5, 4, 40)
    counts = rng.poisson(rate, (3000, 40))
    folds = np.ones(40)
    folds[:4], folds[4:8] = 0.4, 2.5
    own = change(list(range(3000)), folds, rate / rate.sum() * 1e4)
    measured = sp.csr_matrix(counts.astype(np.float32))
    found = predicted_counts(
        measured, measured, [f"c{n}" for n in range(3000)], GENES,
        targets=lambda row, have: target_counts([own], row, have),
    ).toarray()  # fmt: skip
    np.testing.assert_array_equal(found.sum(1), counts.sum(1))
    expected = folds * rate / (folds * rate).sum()
    share = found.sum(0) / found.sum()
    common = rate > 0.5
    np.testing.assert_allclose(share[common], expected[common], rtol=0.12)
