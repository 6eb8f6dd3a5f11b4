"""Density of training cells: distances by their formula, calibration on held-out cells, file, cells of other types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from letters import sentences_of
from sklearn.metrics import roc_auc_score

from cell2sen.inference.novelty.gene_space import GeneSpace
from cell2sen.inference.novelty.training_density import (
    TrainingDensity,
    load_density,
    share_unlike,
    unlike_training,
)
from cell2sen.model import Model

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
    known, new = (density.distance(cells(400, kinds, 2)[0]) for kinds in ((0, 1), (2,)))
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
    expected = np.sqrt(np.einsum("nkd,de,nke->nk", differences, inverse, differences)).min(axis=1)
    np.testing.assert_allclose(density.distance(weights), expected, rtol=1e-4)


def test_file(density: TrainingDensity, tmp_path: Path) -> None:
    model = Model(name="own", path=str(tmp_path))
    assert load_density(model) is None
    density.write(tmp_path)
    read = load_density(model)
    assert read is not None
    assert read.space.genes == density.space.genes
    weights = cells(50, (0, 1, 2), 3)[0]
    np.testing.assert_allclose(read.distance(weights), density.distance(weights), rtol=0.02)


def test_cells_without_genes_have_no_score(density: TrainingDensity) -> None:
    found = density.unseen(sentences_of("AB", ""))
    assert found[0] == 1.0  # no gene of the space
    assert np.isnan(found[1])
    assert share_unlike(found) == 1.0
    assert share_unlike(np.array([np.nan])) == 0.0


def test_a_warning_is_given_if_most_cells_are_unlike() -> None:
    assert unlike_training(np.array([0.2, 0.3, 0.99]), "own") == ""
    assert unlike_training(np.array([0.97, 0.3, 0.99]), "own").startswith("67% of the cells are unlike those that own")
