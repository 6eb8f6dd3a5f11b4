"""Baselines of space: mean of the neighbours against a regression by hand, thresholds of distances."""

from __future__ import annotations

import numpy as np
import pytest
from sections import section
from sklearn.linear_model import LogisticRegression

import cell2sen as c2s
from cell2sen.evaluation.inputs import read
from cell2sen.evaluation.tasks.space import best_threshold, neighbour_means


def split(side: int = 12):
    """Training cells and held-out cells of a section, each with its graph."""
    adata = section(side)
    c2s.tl.neighbourhoods(adata, radius=1.6)
    c2s.tl.held_out_regions(adata, share=0.25)
    return (adata[adata.obs["region"] == name].copy() for name in ("training", "held out"))


def test_means_of_neighbours() -> None:
    _, held_out = split()
    cells = read(held_out, "real")
    counts = held_out.X.toarray()
    values = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    distances = np.linalg.norm(held_out.obsm["spatial"][:, None] - held_out.obsm["spatial"][None], axis=2)
    expected = np.array([values[row <= 1.6].mean(axis=0) for row in distances])
    np.testing.assert_allclose(neighbour_means(cells, np.arange(len(cells))), expected, rtol=1e-5)


def test_niches_are_scored_beside_the_mean_of_the_neighbours() -> None:
    train, held_out = split()
    held_out.obs["answer"] = held_out.obs["layer"].to_numpy()[::-1]
    scores = c2s.evaluate(
        held_out, held_out, task="annotate", label="layer", predicted_label="answer", train=train, resamples=20,
        metrics=["accuracy"],
    ).scores  # fmt: skip
    accuracy = scores[scores["group"] == "all"].set_index("method")["value"]
    graph = [neighbour_means(read(side, "real"), np.arange(side.n_obs)) for side in (train, held_out)]
    model = LogisticRegression(max_iter=5000).fit(graph[0], train.obs["layer"].astype(str))
    by_hand = np.mean(model.predict(graph[1]) == held_out.obs["layer"].astype(str))
    assert by_hand > 0.8
    np.testing.assert_allclose(accuracy["mean_of_neighbours"], by_hand, atol=0.06)
    assert accuracy["ceiling"] > 0.8


def test_without_a_graph_there_is_no_such_baseline() -> None:
    train, held_out = split()
    del train.obsp["spatial_connectivities"]
    held_out.obs["answer"] = held_out.obs["layer"].to_numpy()[::-1]
    scores = c2s.evaluate(
        held_out, held_out, task="annotate", label="layer", predicted_label="answer", train=train, resamples=0
    ).scores
    assert "mean_of_neighbours" not in set(scores["method"])


@pytest.mark.parametrize("seed", range(20))
def test_the_best_threshold_is_the_best_of_all(seed: int) -> None:
    generator = np.random.default_rng(seed)
    distances = generator.integers(0, 8, 30) / 8
    labels = np.where(generator.random(30) < 0.5, "yes", "no").astype(object)

    def accuracy(threshold: float) -> float:
        return float(np.mean(np.where(distances < threshold, "yes", "no") == labels))

    best = max(accuracy(threshold) for threshold in [*np.unique(distances), np.inf])
    assert accuracy(best_threshold(distances, labels)) == best
