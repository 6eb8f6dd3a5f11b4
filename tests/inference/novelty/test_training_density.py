"""Density of training cells: distances by their formula, calibration on held-out cells, file, cells of other types."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from letters import sentences_of
from sklearn.metrics import roc_auc_score

from cell2sen.inference.novelty.training_density import (
    StandardScore,
    TrainingDensity,
    load_density,
    share_unlike,
    unlike_training,
)
from cell2sen.model import Model
from cell2sen.sentences.gene_space import GeneSpace

GENES = [f"G{number}" for number in range(30)]


def cells(n: int, kinds: tuple[int, ...], seed: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """Weights of cells of several kinds, each with ten genes of its own."""
    generator = np.random.default_rng(seed)
    codes = generator.choice(kinds, n)
    values = generator.random((n, 30)) * 0.3
    for kind in kinds:
        values[np.ix_(codes == kind, range(10 * kind, 10 * kind + 10))] += 1
    return sp.csr_matrix(values / np.linalg.norm(values, axis=1, keepdims=True)), codes


@pytest.fixture(scope="module")
def density() -> TrainingDensity:
    weights, codes = cells(300, (0, 1), 0)
    return TrainingDensity.of(GeneSpace.of(weights, GENES, 6), weights, codes, cells(200, (0, 1), 1)[0])


def test_scores_of_known_cells_are_uniform_and_of_a_new_type_high(density: TrainingDensity) -> None:
    known, new = (density.evidence(cells(400, kinds, 2)[0]) for kinds in ((0, 1), (2,)))
    scores = np.searchsorted(np.sort(known), density.quantiles) / len(known)
    assert np.abs(scores - np.linspace(0, 1, len(scores))).max() < 0.12
    assert roc_auc_score(np.repeat([0, 1], 400), np.concatenate([known, new])) > 0.99


def test_distance_is_mahalanobis_to_the_nearest_centre(density: TrainingDensity) -> None:
    weights, codes = cells(300, (0, 1), 0)
    features = density.space.features(weights)
    centres = np.stack([features[codes == kind].mean(axis=0) for kind in (0, 1)])
    covariance = np.cov((features - centres[codes]).T, bias=True)
    covariance += 0.03 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    inverse = np.linalg.inv(covariance)
    differences = features[:, None] - centres
    expected = np.sqrt(np.einsum("nkd,de,nke->nk", differences, inverse, differences))
    group, distance = density.nearest(weights)
    np.testing.assert_array_equal(group, expected.argmin(axis=1))
    np.testing.assert_allclose(distance, expected.min(axis=1), rtol=1e-4)


def test_standard_scores_take_out_the_number_of_genes_and_the_group() -> None:
    generator = np.random.default_rng(0)
    n_genes, group = generator.integers(20, 400, 4000), generator.integers(0, 2, 4000)
    noise = generator.standard_normal(4000)
    values = 9 - np.log(n_genes) + 2 * group + np.where(group == 1, 3.0, 0.5) * noise
    score = StandardScore.of(values, group, n_genes, 3)
    found = score(values, group, n_genes)
    for kind in (0, 1):
        assert found[group == kind].mean() == pytest.approx(0, abs=0.02)
        assert found[group == kind].std() == pytest.approx(1, abs=0.06)  # not 1: some cells of all groups count
    values = 9 - np.log(n_genes) + noise
    assert np.corrcoef(values, np.log(n_genes))[0, 1] < -0.4
    assert np.corrcoef(StandardScore.of(values, group, n_genes, 2)(values, group, n_genes), noise)[0, 1] > 0.99
    few = StandardScore.of(values[:5], group[:5], n_genes[:5], 3)
    assert few.offsets[2] == 0  # a group without held-out cells: mean and deviation of all
    rest = values[:5] - few.curve @ np.vander(np.log(n_genes[:5]), 3, increasing=True).T
    assert few.deviations[2] == pytest.approx(rest.std())


def test_only_counted_cells_make_quantiles() -> None:
    weights, codes = cells(300, (0, 1), 0)
    others, kinds = cells(200, (0, 1, 2), 1)
    space = GeneSpace.of(weights, GENES, 6)
    found = TrainingDensity.of(space, weights, codes, others, kinds < 2)
    np.testing.assert_allclose(found.quantiles[-1], found.evidence(others[kinds < 2]).max())
    assert found.quantiles[-1] < TrainingDensity.of(space, weights, codes, others).quantiles[-1]


def test_file(density: TrainingDensity, tmp_path: Path) -> None:
    model = Model(name="own", path=str(tmp_path))
    assert load_density(model) is None
    density.write(tmp_path)
    read = load_density(model)
    assert read is not None
    assert read.space.genes == density.space.genes
    weights = cells(50, (0, 1, 2), 3)[0]
    np.testing.assert_allclose(read.evidence(weights), density.evidence(weights), rtol=0.02, atol=0.05)
    np.savez(tmp_path / "training_density.npz", vectors=np.zeros(3))  # as earlier versions
    with pytest.raises(ValueError, match="of own was written by another version"):
        load_density(model)


def test_cells_without_genes_have_no_score(density: TrainingDensity) -> None:
    found = density.unseen(replace(sentences_of("AB", ""), vocabulary=pa.array(["A", "B", *GENES])))
    assert found[0] == 1.0  # no gene of the space
    assert np.isnan(found[1])
    assert share_unlike(found) == 1.0
    assert share_unlike(np.array([np.nan])) == 0.0


def test_cells_with_a_selection_of_genes_have_no_score(density: TrainingDensity) -> None:
    assert density.share_of_genes(["X", *GENES]) == pytest.approx(1)
    of_one_type = density.share_of_genes(GENES[:10])
    assert 0.8 < of_one_type < 1, "the panel of one training file is enough"
    few = density.share_of_genes(GENES[:5] + GENES[10:15])
    assert few < 0.6
    cell = sentences_of("ABC")
    assert np.isfinite(density.unseen(replace(cell, vocabulary=pa.array(GENES)))).all()
    selected = density.unseen(replace(cell, vocabulary=pa.array(GENES[:5])))
    assert np.isnan(selected).all()
    assert unlike_training(selected, "own").startswith("the file has a selection of genes that no training file of own")


def test_a_warning_is_given_if_most_cells_are_unlike() -> None:
    assert unlike_training(np.array([0.2, 0.3, 0.99]), "own") == ""
    assert unlike_training(np.array([0.97, 0.3, 0.99]), "own").startswith("67% of the cells are unlike those that own")
