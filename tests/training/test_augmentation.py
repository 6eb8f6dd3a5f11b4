"""Augmentation of counts beside expectations over many cells, and its independence of neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from cell2sen.training.augmentation import augmented
from cell2sen.training.config.data import Augmentation

#: One cell's counts; many copies under other names are independent draws of what it becomes.
CELL = np.array([0, 1, 2, 5, 40, 200, 0, 12])
N_CELLS = 4000
NAMES = [f"cell-{number}" for number in range(N_CELLS)]


def copies(**settings: Any) -> np.ndarray:
    counts = sp.csr_matrix(np.tile(CELL, (N_CELLS, 1)).astype(np.float32))
    profile = np.array([6.0, 0, 0, 0, 0, 0, 2, 0])
    result = augmented(counts, NAMES, Augmentation(**settings), profile=profile)
    assert result.has_sorted_indices
    assert result.data.all()
    assert (counts.toarray() == CELL).all(), "the data were changed"
    return result.toarray()


ALL = {"thin": (0.3, 0.9), "panel": 0.5, "ambient": 0.3, "gene_factors": 0.5, "dropout": 0.3}


def test_depends_on_the_cell_alone() -> None:
    counts = sp.random(40, 60, density=0.4, format="csr", random_state=0)
    counts.data = np.ceil(20 * counts.data)
    options: Any = {"augmentation": Augmentation(**ALL), "profile": np.arange(60.0), "seed": 3}
    whole = augmented(counts, NAMES[:40], draw=2, **options).toarray()
    order = np.random.default_rng(0).permutation(40)[:15]
    part = augmented(counts[order], [NAMES[row] for row in order], draw=2, **options).toarray()
    assert (part == whole[order]).all()
    assert (augmented(counts, NAMES[:40], draw=3, **options).toarray() != whole).any()
    assert (augmented(counts, NAMES[:40], draw=2, **{**options, "seed": 4}).toarray() != whole).any()


def test_nothing_changes_without_settings() -> None:
    assert (copies() == CELL).all()
    assert not Augmentation(context_dropout=0.5).changes_counts


def test_thinning_is_binomial() -> None:
    found = copies(thin=(0.4, 0.4))
    np.testing.assert_allclose(found.mean(axis=0), 0.4 * CELL, rtol=0.06)
    np.testing.assert_allclose(found.var(axis=0), 0.24 * CELL, rtol=0.12)


def test_ambient_counts_come_from_the_profile_and_the_depth_stays() -> None:
    found = copies(ambient=0.4)  # a share of 0.2 on average
    total = CELL.sum()
    assert found.sum(axis=1).mean() == pytest.approx(total, rel=0.01)
    expected = 0.8 * CELL + 0.2 * total * np.array([0.75, 0, 0, 0, 0, 0, 0.25, 0])
    np.testing.assert_allclose(found.mean(axis=0), expected, rtol=0.05)


def test_gene_factors_are_log_normal_around_one() -> None:
    logs = np.log(copies(gene_factors=0.6)[:, [4, 5]] / CELL[[4, 5]])
    assert np.abs(logs.mean(axis=0)).max() < 0.03
    assert logs[:, 1].var() == pytest.approx(0.6**2 / 3, rel=0.1)  # deviations are uniform from 0 to 0.6
    assert np.corrcoef(logs.T)[0, 1] == pytest.approx(0, abs=0.06)
    expected = CELL * np.exp(np.linspace(0, 0.6, 1001) ** 2 / 2).mean()
    np.testing.assert_allclose(copies(gene_factors=0.6).mean(axis=0), expected, rtol=0.06)  # no bias of rounding


def test_dropout_and_panels_leave_genes_out_and_others_as_they_are() -> None:
    for settings in ({"dropout": 0.6}, {"panel": 1.0}):
        found = copies(**settings)
        assert ((found == CELL) | (found == 0)).all()
    left = copies(dropout=0.6)[:, CELL > 0] > 0
    np.testing.assert_allclose(left.mean(axis=0), 0.7, atol=0.03)
    on_panel = copies(panel=0.25)[:, CELL > 0].sum(axis=1) == CELL.sum()
    assert on_panel.mean() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ambient": 1.5}, "ambient is a share from 0 to 1, found 1.5"),
        ({"gene_factors": -1}, "gene_factors must be 0 or more, found -1"),
        ({"thin": (0.9, 0.2)}, r"thin must be two shares, .*, found \[0.9, 0.2\]"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**settings)


def test_ambient_needs_a_profile() -> None:
    cell, settings = sp.csr_matrix(np.ones((1, 3))), Augmentation(ambient=0.1)
    with pytest.raises(ValueError, match=r"augmentation\.ambient needs a profile"):
        augmented(cell, ["a"], settings)
    assert (augmented(cell, ["a"], settings, profile=np.zeros(3)).toarray() == 1).all()
