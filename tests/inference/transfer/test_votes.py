"""Votes of clusters, counted by hand; mixtures; clusters that do not depend on the order of cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from cell2sen.inference.transfer import votes
from cell2sen.inference.transfer.votes import confusion_of, expected_confusion, leiden_clusters, vote

EXACT = pd.DataFrame(np.eye(3) * 0.98 + 0.01, index=list("abc"), columns=list("abc"))


def test_label_of_most_cells() -> None:
    labels = ["a", "a", "b", "b", "b", "c"]
    result = vote(["0", "0", "0", "10", "9", None], labels, np.full(6, 0.9), EXACT)
    assert result.labels == ["a", "a", "a", "b", "b", "c"]
    np.testing.assert_allclose(result.shares, [2 / 3, 2 / 3, 2 / 3, 1, 1, np.nan])
    assert result.table.index.tolist() == ["0", "9", "10"]
    assert result.table.loc["0", ["n_cells", "label", "share", "second_label", "second_share"]].tolist() == [
        3, "a", 2 / 3, "b", 1 / 3,
    ]  # fmt: skip
    columns = result.obs("k")
    assert columns["k_cluster"].isna().tolist() == [False] * 5 + [True]
    assert columns["k_majority_voting"].tolist() == result.labels


def test_of_equal_counts_the_more_probable_label() -> None:
    scores = np.array([0.5, 0.6])
    assert vote(["0", "0"], ["a", "b"], scores, EXACT).labels == ["b", "b"]
    assert vote(["0", "0"], ["b", "a"], np.array([0.5, 0.5]), EXACT).labels == ["a", "a"]


def test_order_of_cells_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    clusters, labels = generator.integers(0, 9, 300).astype(str), generator.choice(list("abc"), 300)
    scores, order = generator.random(300), generator.permutation(300)
    first = vote(list(clusters), list(labels), scores, EXACT)
    second = vote(list(clusters[order]), list(labels[order]), scores[order], EXACT)
    assert second.labels == [first.labels[row] for row in order]
    pd.testing.assert_frame_equal(first.table, second.table)


def test_cells_without_a_vote() -> None:
    result = vote(["0", "0", "1"], ["a", "unknown", "unknown"], np.array([0.9, 0, 0]), EXACT, np.array([1, 0, 0]) == 1)
    assert result.labels == ["a", "a", "unknown"]
    assert result.table["n_cells"].tolist() == [1]


@pytest.mark.parametrize(("n_second", "types"), [(0, "one"), (3, "one"), (30, "several")])
def test_one_or_several_types(n_second: int, types: str) -> None:
    labels = ["a"] * (100 - n_second) + ["b"] * n_second
    row = vote(["0"] * 100, labels, np.full(100, 0.9), EXACT).table.loc["0"]
    assert row["types"] == types
    if n_second:
        rate = max(EXACT.loc["a", "b"] / (EXACT.loc["a", "a"] + EXACT.loc["a", "b"]), 0.01)
        assert row["p_value"] == pytest.approx(binom.sf(n_second - 1, 100, rate))


def test_types_that_are_mistaken_for_each_other_are_no_mixture() -> None:
    confusion = pd.DataFrame([[0.7, 0.3], [0.3, 0.7]], index=list("ab"), columns=list("ab"))
    labels = ["a"] * 70 + ["b"] * 30
    assert vote(["0"] * 100, labels, np.full(100, 0.9), confusion).table["types"].tolist() == ["one"]
    assert vote(["0"] * 100, labels, np.full(100, 0.9), EXACT).table["types"].tolist() == ["several"]


def test_confusion_of_held_out_cells() -> None:
    scores = np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]))
    table = confusion_of(["a", "b"], np.array([0, 0, 1]), scores)
    np.testing.assert_allclose(table.to_numpy(), [[0.5, 0.5], [0.25, 0.75]])


def test_confusion_that_probabilities_predict() -> None:
    probabilities = np.array([[0.9, 0.1, 0], [0.7, 0.3, 0], [0, 1, 0], [np.nan] * 3])
    np.testing.assert_allclose(
        expected_confusion(["a", "b", "c"], probabilities).to_numpy(), [[0.8, 0.2, 0], [0, 1, 0], [0, 0, 1]]
    )


def blobs() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 3, 150)
    return (generator.normal(size=(150, 5)) * 0.1 + 3 * np.eye(3, 5)[codes]).astype(np.float32), codes


@pytest.mark.filterwarnings("ignore")
def test_leiden_does_not_depend_on_the_order() -> None:
    pytest.importorskip("igraph")
    vectors, codes = blobs()
    names = [f"c{row:03}" for row in range(150)]
    clusters = leiden_clusters(vectors, names, resolution=0.5)
    assert len(pd.crosstab(np.array(clusters), codes)) == 3
    assert (pd.crosstab(np.array(clusters), codes) > 0).sum().sum() == 3
    order = np.random.default_rng(1).permutation(150)
    again = leiden_clusters(vectors[order], [names[row] for row in order], resolution=0.5)
    assert again == [clusters[row] for row in order]


@pytest.mark.filterwarnings("ignore")
def test_cells_without_genes_have_no_cluster() -> None:
    pytest.importorskip("igraph")
    vectors, _ = blobs()
    vectors[4] = np.nan
    clusters = leiden_clusters(vectors, [str(row) for row in range(150)])
    assert [row for row, name in enumerate(clusters) if name is None] == [4]
    assert leiden_clusters(vectors[:6], list("abcdef")) == ["0"] * 4 + [None, "0"]


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(ImportError, match=r"cell2sen\[scanpy\]"):
        leiden_clusters(blobs()[0], [str(row) for row in range(150)])


def test_resolution_rises_with_the_number_of_cells() -> None:
    values = [votes.default_resolution(n) for n in (100, 1500, 5000, 20_000, 10_000_000)]
    assert values == [1, 3, 5, 10, 30]


def test_leiden_of_more_cells_than_scanpy_computes_exactly() -> None:
    generator = np.random.default_rng(0)
    types = generator.integers(0, 2, 8300)
    vectors = (generator.normal(size=(8300, 2)) + 12 * np.eye(2)[types]).astype(np.float32)
    clusters = leiden_clusters(vectors, [f"c{row}" for row in range(8300)], resolution=0.001)
    table = pd.crosstab(np.array(clusters), types)
    assert ((table > 0).sum(axis=1) == 1).all()
