"""Mean profiles of groups, and cells drawn in the embedding."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from experiment import DRUGS, REAL, TWIN, TYPES, N, groups_of, log_cp10k, perturbed, run

from cell2sen.evaluation.metrics import Missing
from cell2sen.evaluation.scoring.pca import Embedding
from cell2sen.evaluation.scoring.resampling import Group, Profile, at_most

KEY = ("alpha", "B")


def test_shared_controls_inflate_the_score_of_an_answer_without_signal() -> None:
    """Noise of few controls is in both changes and correlates; from disjoint halves it does not."""
    few = REAL[(REAL.obs["drug"] == "control").to_numpy().nonzero()[0][::9]].copy()
    real = ad.concat([few, perturbed(REAL)])
    # Control cells under the names of drugs: they differ from the controls by chance alone.
    unmoved = perturbed(TWIN)
    unmoved.X = sp.vstack(
        [TWIN.X[(TWIN.obs["cell_type"] == kind).to_numpy()][:N] for kind in TYPES for _ in DRUGS], format="csr"
    )
    evaluation = run(unmoved, real, metrics=["pearson_delta", "pearson_delta_disjoint"]).table["prediction"]
    assert evaluation["pearson_delta"] > evaluation["pearson_delta_disjoint"] + 0.05


def test_split_controls_share_no_cell() -> None:
    groups = groups_of(perturbed(TWIN), resamples=4)
    values, cells = log_cp10k(REAL), groups.real.cells
    halves = groups.control_halves[("B",)]
    assert len(halves[0]) == len(halves[1]) == N // 2
    assert not set(halves[0]) & set(halves[1])
    assert set(halves[0]) | set(halves[1]) == set(groups.real.controls[("B",)])
    group = Group(groups, KEY, None)
    # The compared genes are in alphabetical order.
    means = [values[half].mean(axis=0)[np.argsort(REAL.var_names)] for half in halves]
    for fold in (0, 1):
        source, reference = group.controls(fold)
        np.testing.assert_allclose(source.point, means[fold], atol=1e-6)
        np.testing.assert_allclose(reference.point, means[1 - fold], atol=1e-6)
    assert group.controls(None)[0] is group.controls(None)[1]
    assert len(cells) == REAL.n_obs


def test_profiles_equal_means_of_resampled_cells() -> None:
    groups = groups_of(perturbed(TWIN), resamples=300)
    group = Group(groups, KEY, None)
    truth = group.truth()
    values = groups.real.cells.rows(group.real_rows).toarray()
    np.testing.assert_allclose(truth.point, values.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(truth.samples.mean(axis=0), truth.point, atol=0.2)
    np.testing.assert_allclose(truth.samples.std(axis=0), values.std(axis=0) / np.sqrt(N), rtol=0.25, atol=0.01)
    assert group.truth() is truth
    other = group.profile(groups.real.cells, group.real_rows[::-1].copy(), ("truth", KEY))
    assert other is not truth


def test_differences_without_the_rounding_of_float32() -> None:
    difference = Profile.constant(np.array([1.0, 2.0])) - Profile.constant(np.array([1.0 + 1e-8, 1.0]))
    np.testing.assert_array_equal(difference.point, [0.0, 1.0])


def test_equal_numbers_of_cells_are_compared() -> None:
    few = REAL[np.setdiff1d(np.arange(REAL.n_obs), np.flatnonzero((REAL.obs["drug"] == "control").to_numpy())[:20])]
    assert Group(groups_of(perturbed(TWIN)), KEY, None).n_compared() == N // 2
    assert Group(groups_of(perturbed(TWIN), few.copy()), KEY, None).n_compared() == N - 20
    assert Group(groups_of(perturbed(TWIN), max_cells=12), KEY, None).n_compared() == 12
    with pytest.raises(Missing, match=r"36 predicted and 18 \+ 18 real cells: at least 20 of each are needed"):
        Group(groups_of(perturbed(TWIN), min_cells=20), KEY, None).n_compared()


def test_cells_are_drawn_by_the_seed() -> None:
    groups = groups_of(perturbed(TWIN))
    with pytest.raises(Missing, match="no metric of sets of cells was chosen"):
        Group(groups, KEY, None).draw(groups.real.cells, np.arange(9), 5, "truth")
    embedding = Embedding.fit("pca", groups.real.cells, np.arange(80), 4)
    group = Group(groups, KEY, embedding)
    drawn = group.draw(groups.real.cells, np.arange(9), 5, "truth")
    np.testing.assert_array_equal(drawn, group.draw(groups.real.cells, np.arange(9), 5, "truth"))
    assert drawn.shape == (5, 4)
    with pytest.raises(Missing, match="4 cells, 5 are compared"):
        group.draw(groups.real.cells, np.arange(4), 5, "truth")
    np.testing.assert_array_equal(at_most(np.arange(4), 9, np.random.default_rng(0)), np.arange(4))
