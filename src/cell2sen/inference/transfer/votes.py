"""Votes of clusters: Leiden on embeddings, the label of most cells, and whether a cluster holds several types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.data.names.text import as_texts
from cell2sen.data.obs import obs_column
from cell2sen.inference.integration.fuzzy_graph import fuzzy_graph
from cell2sen.inference.integration.graph import MAX_EXACT, find_neighbours
from cell2sen.sentences.threads import kept_torch_threads

#: Neighbours of the graph that Leiden divides.
N_NEIGHBOURS = 15

#: A cluster has several types if another label has at least this share of its votes, and more of them than labels that
#: are mistaken for each other explain, at this level of significance.
MIN_SECOND_SHARE, LEVEL = 0.2, 0.01

#: Columns of a table of votes.
COLUMNS = ("n_cells", "label", "share", "second_label", "second_share", "p_value", "types")


@dataclass(frozen=True, kw_only=True, eq=False)
class Votes:
    """Votes of clusters."""

    clusters: NDArray[Any]
    """object (n,): cluster of each cell; ``None`` for cells in none."""

    labels: list[str]
    """Of each cell, the label of most cells of its cluster; its own in no cluster."""

    shares: NDArray[np.float64]
    """float64 (n,): share of the cluster's cells with that label; NaN for cells in no cluster."""

    table: pd.DataFrame
    """A row per cluster, its name as the index, with :data:`COLUMNS`. ``types`` is ``"one"`` or ``"several"``."""

    def obs(self, key: str) -> dict[str, Any]:
        """Columns of obs: cluster, majority label and its share."""
        return {
            f"{key}_cluster": pd.Categorical(self.clusters),
            f"{key}_majority_voting": pd.Categorical(self.labels),
            f"{key}_majority_share": self.shares,
        }


def vote(
    clusters: Sequence[Any],
    labels: Sequence[str],
    scores: NDArray[np.float64],
    confusion: pd.DataFrame,
    has_vote: NDArray[np.bool_] | None = None,
) -> Votes:
    """Label of most cells of each cluster.

    Of labels with equal numbers of cells, the one with the larger sum of probabilities wins, then the first in
    alphabetical order.

    Parameters
    ----------
    clusters
        Cluster of each cell; ``None`` for cells in none.
    labels, scores
        Label of each cell and its probability, float64 (n,).
    confusion
        Share of cells of each label (row) that get each label (column), see :func:`confusion_of`.
    has_vote
        Which cells count, bool (n,): not those without genes. Default: all.

    Notes
    -----
    A cluster has several types if a second label has at least 20 % of its votes and if the number of its votes is
    larger than mistakes explain: one-sided binomial test of the votes for the second label among those for the first
    two, with the rate at which cells of the first label are taken for the second, at the level of 0.01 divided by the
    number of clusters (Bonferroni). Without the test, types that are often mistaken for each other would look like a
    mixture in each cluster; without the share, one stray cell would make a mixture of a large one.
    """
    names = list(dict.fromkeys(name for name in clusters if name is not None))
    counted = np.ones(len(labels), dtype=bool) if has_vote is None else has_vote
    members: dict[Any, list[int]] = {name: [] for name in names}
    for row, name in enumerate(clusters):
        if name is not None:
            members[name].append(row)
    winners, shares = list(labels), np.full(len(labels), np.nan)
    rows = {}
    for name in sorted(names, key=_natural):
        cells = [row for row in members[name] if counted[row]]
        if not cells:
            continue
        rows[name] = _vote(cells, labels, scores, confusion, LEVEL / len(names))
        for row in members[name]:
            winners[row], shares[row] = rows[name]["label"], rows[name]["share"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))
    table.index = table.index.astype(str)
    return Votes(clusters=np.array(clusters, dtype=object), labels=winners, shares=shares, table=table)


def _vote(
    cells: Sequence[int], labels: Sequence[str], scores: NDArray[np.float64], confusion: pd.DataFrame, level: float
) -> dict[str, Any]:
    """Row of the table of one cluster."""
    from scipy.stats import binomtest

    counts: dict[str, list[float]] = {}
    for row in cells:
        count = counts.setdefault(labels[row], [0, 0.0])
        count[0], count[1] = count[0] + 1, count[1] + float(scores[row])
    first, *others = sorted(counts, key=lambda label: (-counts[label][0], -round(counts[label][1], 6), label))
    n_first = int(counts[first][0])
    result: dict[str, Any] = {"n_cells": len(cells), "label": first, "share": n_first / len(cells)}
    if not others:
        return result | {"second_label": "", "second_share": 0.0, "p_value": 1.0, "types": "one"}
    n_second = int(counts[others[0]][0])
    rate = _rate(confusion, first, others[0])
    p_value = float(binomtest(n_second, n_first + n_second, rate, alternative="greater").pvalue)
    several = n_second / len(cells) >= MIN_SECOND_SHARE and p_value < level
    return result | {
        "second_label": others[0],
        "second_share": n_second / len(cells),
        "p_value": p_value,
        "types": "several" if several else "one",
    }


def _rate(confusion: pd.DataFrame, first: str, second: str) -> float:
    """Share of the cells of `first` and of `second` among them that get `second`; at least 1 %."""
    if first not in confusion.index or second not in confusion.columns:
        return 0.01
    row = confusion.loc[first].to_dict()
    pair = float(row[first]), float(row[second])
    return float(min(max(pair[1] / max(sum(pair), 1e-9), 0.01), 0.99))


def confusion_of(labels: Sequence[str], truth: NDArray[np.int64], log_probabilities: NDArray[np.float64]) -> Any:
    """Share of held-out cells of each label (row) that get each label (column), with half a cell for each, DataFrame.

    Parameters
    ----------
    truth
        Number of the label of each cell.
    log_probabilities
        float64 (n, labels).
    """
    counts = np.full((len(labels), len(labels)), 0.5)
    np.add.at(counts, (truth, log_probabilities.argmax(axis=1)), 1.0)
    return pd.DataFrame(counts / counts.sum(axis=1, keepdims=True), index=list(labels), columns=list(labels))


def expected_confusion(labels: Sequence[str], probabilities: NDArray[np.float64]) -> Any:
    """Confusion that a model's own probabilities predict: mean probability of each label (column) per label (row).

    For models without held-out cells at hand. Cells with NaN do not count.
    """
    given = probabilities[~np.isnan(probabilities).any(axis=1)]
    best = given.argmax(axis=1) if len(given) else np.zeros(0, dtype=int)
    rows = [
        given[best == number].mean(axis=0) if (best == number).any() else np.eye(len(labels))[number]
        for number in range(len(labels))
    ]
    return pd.DataFrame(np.array(rows), index=list(labels), columns=list(labels))


def given_clusters(obs: pd.DataFrame, column: str) -> list[str | None]:
    """Cluster of each cell from a column of obs; ``None`` where missing.

    Raises
    ------
    KeyError
        No such column; lists the available ones.
    """
    return as_texts(obs_column(obs, column))


def leiden_clusters(
    vectors: NDArray[np.float32], names: Sequence[str], *, resolution: float | None = None, seed: int = 0
) -> list[str | None]:
    """Leiden clusters of embeddings, named ``"0"``, ``"1"``, … from the largest on; ``None`` for rows with NaN.

    The cells are sorted by their names, then by their vectors, so that the clusters do not depend on their order. They
    depend on which cells are there.

    Parameters
    ----------
    vectors
        float32 (n, hidden).
    resolution
        Of Leiden (Traag et al. 2019). ``None``: many small clusters, as votes need them, see
        :func:`default_resolution`.

    Raises
    ------
    ImportError
        scanpy or igraph is not installed.
    """
    rows = np.flatnonzero(~np.isnan(vectors).any(axis=1))
    clusters: list[str | None] = [None] * len(names)
    if len(rows) <= N_NEIGHBOURS:
        for row in rows:
            clusters[row] = "0"
        return clusters
    try:
        import igraph  # noqa: F401
        import scanpy
    except ImportError as error:
        raise ImportError(
            "clusters by Leiden need scanpy and igraph: pip install 'cell2sen[scanpy]', or pass cluster=, a column of "
            "obs with clusters"
        ) from error
    from anndata import AnnData

    order = rows[np.lexsort((vectors[rows, 0], np.array([names[row] for row in rows.tolist()])))]
    cells = AnnData(obs=pd.DataFrame(index=[str(number) for number in range(len(order))]))
    resolution = default_resolution(len(order)) if resolution is None else resolution
    with kept_torch_threads():
        if len(order) <= MAX_EXACT:
            graph = fuzzy_graph(vectors[order], N_NEIGHBOURS)
        else:
            cells.obsm["X"] = vectors[order]
            find_neighbours(cells, "X", N_NEIGHBOURS, seed)
            graph = cells.obsp["connectivities"]
    scanpy.tl.leiden(
        cells,
        resolution=resolution,
        adjacency=graph,
        flavor="igraph",
        n_iterations=2,
        directed=False,
        random_state=seed,
        key_added="c",
    )
    for row, name in zip(order, cells.obs["c"].astype(str), strict=True):
        clusters[row] = name
    return clusters


def default_resolution(n_cells: int) -> float:
    """Resolution of Leiden for votes: 1 up to 500 cells, 5 from 2,500 cells on, more from 5,000 on, at most 30.

    Majority votes need clusters that are smaller than types ("over-clustering", Domínguez Conde et al. 2022), and large
    enough for a majority.
    """
    return float(np.clip(n_cells / 500, 1, 5) * np.clip((n_cells / 5000) ** 0.5, 1, 6))


def _natural(name: Any) -> tuple[int, float, str]:
    """Order of clusters: numbers by their value, then other names."""
    text = str(name)
    return (0, float(text), "") if text.isdecimal() else (1, 0.0, text)
