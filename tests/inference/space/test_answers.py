"""Questions and neighbours in space: prompts, probabilities and their baselines by their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from cells import fake
from sections import section

from cell2sen.backend import Sampling
from cell2sen.data.space.reading import read_space
from cell2sen.data.space.samples import SpaceSample
from cell2sen.inference.session import start
from cell2sen.inference.space.answers import (
    expression_distances,
    generate_neighbours,
    pool_over_neighbours,
    samples_in_space,
    yes_probabilities,
)


def test_probability_of_yes_is_that_of_two_answers() -> None:
    adata = section()
    session = start(adata, "same_neighbourhood", {"model": fake(), "progress": False})
    samples = samples_in_space(session, read_space(adata, k=4), n_cells=3, seed=1)
    yes = yes_probabilities(session, samples)
    sample = samples[10]
    [prompt] = session.task.prompts(session.sentences, [sample.cells], length=session.length)
    assert prompt.text.endswith("Are these cells of one neighbourhood, yes or no:")
    assert len(prompt.lists) == len(sample.cells)
    [scores] = session.backend.score([prompt], [" yes.", " no."])
    np.testing.assert_allclose(yes[10], 1 / (1 + np.exp(scores[1] - scores[0])))


def test_tasks_without_samples_are_refused() -> None:
    adata = section()
    session = start(adata, "annotate", {"model": fake(), "progress": False})
    with pytest.raises(ValueError, match="no samples of cells in space"):
        samples_in_space(session, read_space(adata, k=4), n_cells=3)


def test_a_guided_neighbour_has_genes_of_the_data() -> None:
    adata = section()
    session = start(adata, "neighbour", {"model": fake(), "progress": False})
    samples = samples_in_space(session, read_space(adata, k=4), n_cells=3)[:5]
    answers = generate_neighbours(session, samples, Sampling(max_new_tokens=100), n_genes=7)
    for answer in answers:
        assert len(answer.genes) == answer.n_words == 7
        assert set(answer.genes) <= set(session.sentences.symbols)


def test_distance_is_the_mean_over_pairs() -> None:
    values = np.random.default_rng(0).poisson(1.0, (6, 40)).astype(float)
    values[5] = 0  # correlates with no cell
    samples = [SpaceSample(cells=np.array([0, 2, 4])), SpaceSample(cells=np.array([1, 5]))]
    correlations = np.corrcoef(values[[0, 2, 4]])[np.triu_indices(3, 1)]
    np.testing.assert_allclose(
        expression_distances(sp.csr_matrix(values), samples), [np.mean(1 - correlations), 1.0], rtol=1e-9
    )


def test_pooling_leaves_out_cells_without_probabilities() -> None:
    adata = section()
    graph = read_space(adata, k=4).neighbourhoods
    values = np.random.default_rng(0).dirichlet([1, 1, 1], 81)
    values[graph.of(0)[0]] = np.nan
    pooled = pool_over_neighbours(values, graph)
    rows = [0, *graph.of(0)[1:]]
    mean = np.exp(np.log(values[rows]).mean(axis=0))
    np.testing.assert_allclose(pooled[0], mean / mean.sum())
    np.testing.assert_allclose(pooled.sum(axis=1), 1)
    assert np.isnan(pool_over_neighbours(np.full((81, 3), np.nan), graph)).all()
